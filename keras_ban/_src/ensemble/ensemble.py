"""Average several models into one `keras.Model`."""

import os
from collections.abc import Sequence
from typing import Any, Literal, Self

import keras
import numpy as np

from keras_ban._src import backend, checks, hints
from keras_ban._src.backend.fixed import FixedAttributes, fixed
from keras_ban._src.data import fit_arguments
from keras_ban._src.data.any_data import AnyData
from keras_ban._src.data.kinds import as_data, as_validation_data
from keras_ban._src.data.model_inputs import declared_specs, inputs_for, task_within
from keras_ban._src.data.preprocessing import batch_in_steps, data_in_steps, validation_in_steps
from keras_ban._src.ensemble.averaging import Averaging
from keras_ban._src.ensemble.calibration import fit_temperature, temperature_of_teacher
from keras_ban._src.ensemble.held_out import HeldOut
from keras_ban._src.ensemble.member_copies import separated
from keras_ban._src.ensemble.member_outputs import members_give
from keras_ban._src.ensemble.member_shapes import check_same_inputs, check_same_outputs
from keras_ban._src.ensemble.member_weights import fit_weights, loss_of
from keras_ban._src.ensemble.training_data import TrainingData
from keras_ban._src.files import model_file, new_optimizer
from keras_ban._src.losses.base import check_temperature, is_finite_number

AVERAGES = ("probabilities", "logits", "outputs")


@keras.saving.register_keras_serializable(package="keras_ban")
class EnsembleModel(FixedAttributes, AnyData, keras.Model):
    """The (weighted) average of models with the same inputs and outputs (BAN eq. 4: BANE).

    It returns outputs like those of its members. So it can be compiled, evaluated, saved and exported like any of them,
    be a member of another ensemble, and be a teacher:

    - `average="probabilities"`: of logits `log(sum(w * softmax(member)))`, which are logits again; of probabilities
      `sum(w * member)`.
    - `average="logits"`: of logits `sum(w * member)`; of probabilities `softmax(sum(w * log(member)))`.
    - `average="outputs"`: `sum(w * member)`.

    A `temperature` `T` divides the averaged logits: they become `logits / T`, and probabilities `softmax(log(p) / T)`
    (Guo et al., 2017). `calibrate` finds it, `fit_weights` finds the weights, both on data that trained no member; see
    `docs/ensembles.md`. `average="outputs"` is for all kinds of outputs, for instance of regression, and has no
    temperature. Averages are computed in float32 or higher precision. Members are not copied: if a member is trained,
    the ensemble changes. Masks of outputs are kept.

    Example:

    ```python
    ensemble = keras_ban.EnsembleModel([first, second, third])
    ensemble.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    ensemble.evaluate(x_test, y_test)
    ensemble.save("ensemble.keras")
    ```

    Args:
        members: 1 to N `keras.Model`s with the same inputs and outputs of equal shapes (tensors, lists or dicts).
        weights: a non-negative number for each member, not all 0. They are divided by their sum. `None`: equal weights.
            A member of weight 0 is not run.
        average: `"probabilities"`, `"logits"` or `"outputs"`, see above.
        from_logits: whether members give logits. Otherwise they give probabilities. `"auto"`: read from the last layer
            of each member, else from the loss with which it is compiled, else logits.
        activation: `"softmax"` over the last axis, or `"sigmoid"` for binary and multi-label models. `"auto"`: read
            like `from_logits`, else a softmax. Ignored with `average="outputs"`.
        name: as in `keras.Model`.
        temperature: a positive number. 1 leaves the average as it is.

    Call args:
        inputs: the inputs of the members.
        training: as in `keras.Model`, passed on to the members.

    Raises:
        TypeError: if a member is not a `keras.Model`.
        ValueError: if there are no members, a member occurs twice, shapes of inputs or outputs differ, or another
            argument is wrong; or if with `"auto"` members differ in what they give, or are of a regression (use
            `average="outputs"`).

    Warns:
        UserWarning: if the last layer of a member contradicts `from_logits` and `activation`, or if with `"auto"`
            nothing tells whether members give logits.

    Attributes:
        members: the models, in a list that cannot be changed or replaced. Nor can `average` and those below.
        from_logits, activation: what members give, never `"auto"`.
    """

    FIXED = ("members", "average", "from_logits", "activation")

    @checks.names_the_right_call
    def __init__(
        self,
        members: Sequence[keras.Model],
        weights: Sequence[float] | np.ndarray | None = None,
        average: hints.Average = "probabilities",
        from_logits: hints.FromLogits = "auto",
        activation: hints.Activation | Literal["auto"] = "auto",
        name: str | None = None,
        temperature: float = 1.0,
    ) -> None:
        members = _check_members(members)
        shares = _check_weights(weights, len(members))
        if not isinstance(average, str) or average not in AVERAGES:
            raise ValueError(f"`average` must be one of {AVERAGES}, received: {average!r}.")
        temperature = _check_temperature(temperature, average)
        from_logits, activation = members_give(members, average, from_logits, activation)
        # Each member casts its inputs by its own dtype policy. That of the ensemble is for `compile`.
        super().__init__(name=name, dtype=backend.dtype_policy_of(members), autocast=False)
        self.members = members  # Keras makes a list of its own class, through which it tracks the models.
        self.__dict__["members"] = fixed(self.members)
        self.average = average
        self.from_logits = from_logits
        self.activation = activation
        # The `TrainingData` of the members, if a sequence trained them.
        self.trained_on = None
        self._averaging = Averaging(shares, temperature, average, from_logits, activation)
        self.built = all(member.built for member in members)
        self._is_complete = True

    def call(self, inputs: hints.Data, training: bool | None = None) -> Any:
        which = self._averaging.members_that_run
        # The others run once, to be built.
        running = [member for i, member in enumerate(self.members) if i in which or not member.built]
        made = {id(member): member(inputs_for(member, inputs), training=training) for member in running}
        outputs = [made[id(self.members[i])] for i in which]
        check_same_outputs([keras.tree.map_structure(lambda x: tuple(x.shape), output) for output in outputs])
        return keras.tree.map_structure(lambda *tensors: self._averaging(list(tensors)), *outputs)

    @property
    def output_names(self) -> list[str]:
        """The names by which Keras pairs outputs with losses and metrics. Only functional members have them."""
        return self.members[0].output_names

    # Read-only, both: a new value must reach the variables that compiled steps read.
    @property
    def member_weights(self) -> list[float]:
        """The weight of each member. They sum to 1."""
        return list(self._averaging.shares)

    @property
    def temperature(self) -> float:
        """The temperature by which averaged logits are divided."""
        return self._averaging.temperature

    @hints.passes_on_to(keras.Model.fit)
    def fit(self, x: hints.Data = None, y: hints.Data = None, *args: Any, **kwargs: Any) -> keras.callbacks.History:
        """As `keras.Model.fit`: trains the members together, on the loss of their average."""
        if task_within(self) is None:
            with backend.keeping_values(self):
                return super().fit(x, y, *args, **kwargs)
        arguments = fit_arguments.bound(self, (x, y, *args), kwargs)
        data, options = fit_arguments.split_off(*fit_arguments.read(arguments, (self,)))
        data, options = data.weighted(options)
        data = data_in_steps(self, data, in_order=False, again=True, steps=options.get("steps_per_epoch"))
        options["validation_data"] = validation_in_steps(options, self)
        with backend.keeping_values(self):
            return super().fit(**fit_arguments.for_keras(data, options))

    @hints.passes_on_to(keras.Model.train_on_batch)
    def train_on_batch(
        self, x: hints.Data, y: hints.Data = None, sample_weight: hints.Data = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `keras.Model.train_on_batch`."""
        return super().train_on_batch(*batch_in_steps(self, (x, y, sample_weight)), *args, **kwargs)

    def calibrate(
        self, x: hints.Data, y: hints.Data = None, sample_weight: hints.Data = None, batch_size: int | None = None
    ) -> float:
        """Find the temperature with the smallest negative log-likelihood on held-out data, and set it.

        The likelihood has one minimum (Guo et al., 2017, section 4.2), so the result depends on the data alone. Classes
        keep their order, so accuracy does not change. Compiled steps of all models that hold the ensemble use the new
        temperature at once. An ensemble of one member is calibrated like any other.

        Args:
            x: inputs that trained no member, for instance those of validation: data of any kind, see `docs/data.md`.
            y: labels, for arrays. With a softmax: class indices, or probabilities of the classes such as one-hot
                labels. With a sigmoid: numbers in [0, 1], one for each output. All leading axes of the outputs count.
            sample_weight: as in `keras.Model.evaluate`, non-negative. Give padding the weight 0. What the Keras mask of
                the outputs leaves out, and the `ignore_class` of a compiled loss, have weight 0.
            batch_size: as in `keras.Model.predict`.

        Returns:
            The temperature, between 0.001 and 1000.

        Raises:
            TypeError: `x` is not data.
            ValueError: labels are missing or do not fit the outputs, an output is NaN, `average="outputs"`, or there
                are several outputs; or a sequence made the ensemble and trained it with these examples.

        Warns:
            UserWarning: each label is the most probable class, or the outputs are no better than chance, so that there
                is no best temperature. The bound of the temperatures is set.
        """
        self._check_has_temperature("calibrate")
        data = as_data(x, y, sample_weight, batch_size=batch_size, models=(self,))
        held_out = HeldOut(self, data, trained_on=[self.trained_on])
        self._averaging.set(self.member_weights, fit_temperature(self, held_out))
        return self.temperature

    def soften(
        self,
        x: hints.Data,
        y: hints.Data = None,
        sample_weight: hints.Data = None,
        batch_size: int | None = None,
        *,
        validation_data: hints.Data = None,
        folds: hints.Data = None,
    ) -> float:
        """Make a teacher as unsure of its training examples as of others: find that temperature, and set it.

        A trained model is nearly certain of its training examples, so as a teacher it repeats their labels. `soften`
        finds the temperature at which the mean negative log-likelihood of the training examples is that of examples
        that trained no member, once the latter are calibrated. Use the ensemble as the teacher of a `Distiller` at
        temperature 1, and call `calibrate` before it predicts. See `docs/few_examples.md`.

        The other examples are `validation_data`; or the training examples themselves, if each member was trained
        without one fold of them (cross-fitting: Dao et al., 2021). Pass one of the two.

        Args:
            x, y, sample_weight: the training examples, as in `calibrate`.
            batch_size: as in `keras.Model.predict`.
            validation_data: `(x_val, y_val)`, `(x_val, y_val, sample_weight)` or a dataset, which trained no member:
                arrays are compared with `x`.
            folds: whole numbers `(n,)`: example `i` did not train the member at place `folds[i]`. `x` must be arrays.

        Returns:
            The temperature, between 1 and 1000. At 1 the training examples are no more certain than others.

        Raises:
            TypeError, ValueError: as in `calibrate`; or not one of `validation_data` and `folds` is given; or `folds`
                do not fit the members and the examples.

        Warns:
            UserWarning: as in `calibrate`.
        """
        self._check_has_temperature("soften")
        if (validation_data is None) == (folds is None):
            raise ValueError(
                "`soften` compares training examples with others: pass either `validation_data`, or `folds`, the place "
                f"of a member for each example. Received {'none' if folds is None else 'both'}."
            )
        data = as_data(x, y, sample_weight, batch_size=batch_size, models=(self,))
        held_out = None
        if validation_data is not None:
            others = as_validation_data(validation_data, batch_size, models=(self,))
            held_out = HeldOut(self, others, trained_on=[self.trained_on, TrainingData.of(data)])
        seen = HeldOut(self, data, all_members=folds is not None, folds=folds)
        self._averaging.set(self.member_weights, temperature_of_teacher(self, seen, held_out))
        return self.temperature

    def _check_has_temperature(self, method):
        if self.average == "outputs":
            raise ValueError(
                f"`{method}` divides logits by a temperature, but `average='outputs'` does not tell what the outputs "
                "are. Make the ensemble of classifiers with `average='probabilities'`."
            )

    def fit_weights(
        self,
        x: hints.Data,
        y: hints.Data = None,
        max_members: int | None = None,
        sample_weight: hints.Data = None,
        batch_size: int | None = None,
    ) -> list[float]:
        """Find the weights of the members with the smallest loss on held-out data, and set them.

        The loss is the one of `compile`; without `compile`, it is the negative log-likelihood. The weights are convex:
        none is negative, and they sum to 1. For the negative log-likelihood and other smooth, convex losses of the
        outputs, no convex weights are better; for losses with kinks, such as the mean absolute error, they are nearly
        the best. The result depends on the data alone. A temperature belongs to the weights with which it was found, so
        it is set to 1: call `calibrate` after `fit_weights`.

        Members of weight 0 are not run any more; a later call may give them weight again. Compiled steps of ensembles
        and Distillers that hold this ensemble use the new weights at once. So do those of other models, unless a member
        counts now that had weight 0 when the step was compiled. Their outputs are NaN until `compile` is called again.

        Args:
            x: inputs that trained no member: data of any kind, see `docs/data.md`.
            y: labels, for arrays. For the negative log-likelihood, as in `calibrate`; else as the loss takes them.
            max_members: the largest number of members with a weight above 0. Greedy forward selection with replacement
                (Caruana et al., 2004) chooses them, unless the best weights of all members need no more. With 1, it is
                the best single member. `None`: all.
            sample_weight: as in `keras.Model.evaluate`, non-negative.
            batch_size: as in `keras.Model.predict`.

        Returns:
            `member_weights`, a list of floats.

        Raises:
            TypeError: `x` is not data.
            ValueError: there is no loss and `average="outputs"`, `max_members` is not a number from 1 to the number of
                members, labels are missing or do not fit, an output is NaN, or there are several outputs; or a sequence
                made the ensemble and trained it with these examples.
        """
        loss_of(self)
        if max_members is not None:
            checks.check_count("max_members", max_members, below=len(self.members) + 1)
        data = as_data(x, y, sample_weight, batch_size=batch_size, models=(self,))
        held_out = HeldOut(self, data, all_members=True, trained_on=[self.trained_on])
        self._averaging.set(fit_weights(self, held_out, max_members), 1.0)
        return self.member_weights

    def export(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.export`. Inputs are those of the members. `keras_ban.export` also checks what it writes."""
        filepath = checks.check_path("filepath", filepath)
        arguments = fit_arguments.bound(self, (filepath, *args), kwargs, "export")
        specs = declared_specs(self)
        if arguments.get("input_signature") is None and specs is not None:
            # Keras knows the inputs of a subclassed model from its first call alone, and forgets those of a built one.
            arguments["input_signature"] = [specs]
        return super().export(**arguments)

    def save(self, filepath: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`. A layer of several members is stored for each of them."""
        super(EnsembleModel, separated(self)).save(filepath, *args, **kwargs)

    def models_within(self) -> Sequence[keras.Model]:
        return self.members

    def get_config(self) -> hints.Config:
        return {
            "name": self.name,
            "members": [model_file.serialized(member) for member in self.members],
            "weights": self.member_weights,
            "average": self.average,
            "from_logits": self.from_logits,
            "activation": self.activation,
            "temperature": self.temperature,
        }

    @classmethod
    def from_config(cls, config: hints.Config, custom_objects: dict[str, Any] | None = None) -> Self:
        members = [new_optimizer.from_config(each, custom_objects) for each in config["members"]]
        return cls(**{**config, "members": members})

    def compile_from_config(self, config: hints.Config) -> None:
        """As `keras.Model.compile_from_config`. Variables of the optimizer are made when they are needed."""
        new_optimizer.compile_from_config(self, config)


def average_of(models, meaning, weights=None, average=None):
    """Return the `EnsembleModel` of models whose outputs have one `Meaning`, or `None` if it is not known.

    It averages probabilities if the `Meaning` of the outputs is known, and classes are on the last axis.
    """
    if meaning is None or meaning.axis not in (None, -1):
        return EnsembleModel(list(models), weights, average or "outputs")
    return EnsembleModel(list(models), weights, average or "probabilities", meaning.from_logits, meaning.activation)


def _check_members(members):
    if not isinstance(members, Sequence) or isinstance(members, str):
        raise TypeError(f"`members` must be a list of `keras.Model`s, received: {members!r}.")
    if not members:
        raise ValueError("`members` must hold at least one `keras.Model`, received an empty list.")
    for i, member in enumerate(members):
        if not isinstance(member, keras.Model):
            raise TypeError(f"Each of `members` must be a `keras.Model`, received at index {i}: {member!r}.")
    if len({id(member) for member in members}) < len(members):
        raise ValueError("`members` holds the same model twice. To let a model count more, use `weights`.")
    check_same_inputs(members)
    known = [member for member in members if getattr(member, "outputs", None)]
    # The batch size does not count: a model that was built by a batch has the size of that batch.
    check_same_outputs([[(None, *output.shape[1:]) for output in member.outputs] for member in known])
    return list(members)


def _check_weights(weights, count):
    if weights is None:
        return [1.0 / count] * count
    is_list = isinstance(weights, (list, tuple)) or (isinstance(weights, np.ndarray) and weights.ndim == 1)
    if not is_list or len(weights) != count:
        raise ValueError(f"`weights` must hold one number for each of the {count} members, received: {weights}.")
    weights = list(weights)
    if not all(is_finite_number(w) for w in weights) or min(weights) < 0 or sum(weights) == 0:
        rules = "finite, non-negative and not all 0 (they are divided by their sum)"
        raise ValueError(f"`weights` must be {rules}, received: {weights}.")
    # First by the largest, because the sum of large numbers may overflow.
    shares = [float(w) / float(max(weights)) for w in weights]
    return [share / sum(shares) for share in shares]


def _check_temperature(temperature, average):
    temperature = check_temperature(temperature)
    if average == "outputs" and temperature != 1:
        raise ValueError(
            f"`temperature={temperature!r}` divides logits, but `average='outputs'` takes outputs of any kind. Use "
            "`average='probabilities'` for classifiers."
        )
    return temperature
