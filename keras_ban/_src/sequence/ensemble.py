"""Average several models into one `keras.Model`."""

import math
import warnings

import keras
import numpy as np
from keras import ops

from keras_ban._src import checks
from keras_ban._src.data.any_data import AnyData
from keras_ban._src.data.batch import inputs_for
from keras_ban._src.losses.base import as_logits, check_activation, is_finite_number
from keras_ban._src.losses.meaning import of_model
from keras_ban._src.losses.precision import precision

AVERAGES = ("probabilities", "logits", "outputs")


@keras.saving.register_keras_serializable(package="keras_ban")
class EnsembleModel(AnyData, keras.Model):
    """The (weighted) average of models with the same inputs and outputs (BAN eq. 4: BANE).

    It returns outputs like those of its members. So it can be compiled, evaluated, saved and exported like any of them,
    be a member of another ensemble, and be a teacher:

    | `average` | members give logits (`from_logits=True`) | members give probabilities (`from_logits=False`) |
    | --- | --- | --- |
    | `"probabilities"` | `log(sum(w * softmax(member)))`, which are logits again | `sum(w * member)` |
    | `"logits"` | `sum(w * member)` | `softmax(sum(w * log(member)))` |
    | `"outputs"` | `sum(w * member)` | `sum(w * member)` |

    `average="outputs"` is for all kinds of outputs, for instance of regression. Averages are computed in float32 or
    higher precision. Members are not copied: if a member is trained, the ensemble changes. Masks of outputs are kept.

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
        average: `"probabilities"`, `"logits"` or `"outputs"`, see the table.
        from_logits: whether members give logits. Otherwise they give probabilities.
        activation: `"softmax"` over the last axis, or `"sigmoid"` for binary and multi-label models. Ignored with
            `average="outputs"`.
        name: as in `keras.Model`.

    Call args:
        inputs: the inputs of the members.
        training: as in `keras.Model`, passed on to the members.

    Raises:
        TypeError: if a member is not a `keras.Model`.
        ValueError: if there are no members, a member occurs twice, output shapes differ, or another argument is wrong.

    Warns:
        UserWarning: if the last layer of a member contradicts `from_logits` and `activation`.
    """

    def __init__(
        self, members, weights=None, average="probabilities", from_logits=True, activation="softmax", name=None
    ):
        members = _check_members(members)
        member_weights = _check_weights(weights, len(members))
        if not isinstance(average, str) or average not in AVERAGES:
            raise ValueError(f"`average` must be one of {AVERAGES}, received: {average!r}.")
        check_activation(activation)
        from_logits = checks.check_flag("from_logits", from_logits)
        _warn_of_other_outputs(members, average, from_logits, activation)
        # Each member casts its inputs by its own dtype policy.
        super().__init__(name=name, autocast=False)
        self.members = members
        self.member_weights = member_weights
        self.average = average
        self.from_logits = from_logits
        self.activation = activation
        self._averaging = _Averaging(member_weights, average, from_logits, activation)
        self.built = all(member.built for member in members)

    def call(self, inputs, training=None):
        outputs = [member(inputs_for(member, inputs), training=training) for member in self.members]
        _check_same_outputs([keras.tree.map_structure(lambda x: tuple(x.shape), output) for output in outputs])
        return keras.tree.map_structure(lambda *tensors: self._averaging(list(tensors)), *outputs)

    def models_within(self):
        return self.members

    def get_config(self):
        return {
            "name": self.name,
            "members": [keras.saving.serialize_keras_object(member) for member in self.members],
            "weights": self.member_weights,
            "average": self.average,
            "from_logits": self.from_logits,
            "activation": self.activation,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        members = [keras.saving.deserialize_keras_object(each, custom_objects) for each in config["members"]]
        return cls(**{**config, "members": members})


class _Averaging(keras.layers.Layer):
    """The weighted average of tensors of equal shapes. A layer, so that Keras casts them and passes on their mask."""

    def __init__(self, member_weights, average, from_logits, activation):
        super().__init__(name="average", dtype=precision())
        self.supports_masking = True
        self.built = True
        # A member of weight 0 is left out, because 0 * NaN would be NaN.
        self._member_weights = tuple(weight for weight in member_weights if weight > 0)
        self._indices = tuple(i for i, weight in enumerate(member_weights) if weight > 0)
        self._average = average
        self._from_logits = from_logits
        self._activation = activation

    def call(self, outputs):
        outputs = [outputs[i] for i in self._indices]
        if self._average == "probabilities" and self._from_logits:
            return self._average_of_probabilities(outputs)
        if self._average == "logits" and not self._from_logits:
            mean = ops.softmax(self._weighted_sum([as_logits(output, False, self._activation) for output in outputs]))
            return mean if self._activation == "softmax" else mean[..., 0]
        return self._weighted_sum(outputs)

    def compute_mask(self, inputs, previous_mask):
        return next((mask for mask in keras.tree.flatten(previous_mask) if mask is not None), None)

    def _weighted_sum(self, tensors):
        return sum(weight * tensor for weight, tensor in zip(self._member_weights, tensors, strict=True))

    def _average_of_probabilities(self, logits):
        if self._activation == "softmax":
            return self._log_mean_exp([ops.log_softmax(x) for x in logits])
        yes = self._log_mean_exp([ops.log_sigmoid(x) for x in logits])
        no = self._log_mean_exp([ops.log_sigmoid(-x) for x in logits])
        return yes - no

    def _log_mean_exp(self, logarithms):
        weighted = [x + math.log(w) for w, x in zip(self._member_weights, logarithms, strict=True)]
        return ops.logsumexp(ops.stack(weighted), axis=0)


def _check_members(members):
    if isinstance(members, keras.Model) or not isinstance(members, (list, tuple)):
        raise TypeError(f"`members` must be a list of `keras.Model`s, received: {members!r}.")
    if not members:
        raise ValueError("`members` must hold at least one `keras.Model`, received an empty list.")
    for i, member in enumerate(members):
        if not isinstance(member, keras.Model):
            raise TypeError(f"Each of `members` must be a `keras.Model`, received at index {i}: {member!r}.")
    if len({id(member) for member in members}) < len(members):
        raise ValueError("`members` holds the same model twice. To let a model count more, use `weights`.")
    known = [member for member in members if getattr(member, "outputs", None)]
    _check_same_outputs([[tuple(output.shape) for output in member.outputs] for member in known])
    return list(members)


def _warn_of_other_outputs(members, average, from_logits, activation):
    """Warn if a member's last layer contradicts the arguments. No error, so that saved ensembles can be loaded."""
    if (average, from_logits) not in (("probabilities", True), ("logits", False)):
        return  # A weighted sum of any outputs.
    for layer in keras.tree.flatten([of_model(member) for member in members]):
        given = layer.meaning
        of_other_kind = (activation, given.activation) == ("softmax", "sigmoid")
        if given.from_logits is False and (from_logits or of_other_kind):
            warnings.warn(
                f"The ensemble takes {'logits' if from_logits else 'probabilities'} of a {activation}, but the last "
                f"layer of a member, {layer.name!r}, gives probabilities of a {given.activation}. Pass "
                f"`from_logits=False, activation={given.activation!r}`.",
                stacklevel=3,
            )
            return


def _check_same_outputs(shapes):
    for other in shapes[1:]:
        if not _could_be_equal(shapes[0], other):
            found = f"one gives {shapes[0]} and another {other}"
            raise ValueError(f"Members of an ensemble must give outputs of equal shapes, but {found}.")


def _could_be_equal(shapes, others):
    """Whether nested shapes are equal, except for unknown sizes (`None`)."""
    try:
        keras.tree.assert_same_structure(shapes, others)
    except (ValueError, TypeError):
        return False
    pairs = zip(keras.tree.flatten(shapes), keras.tree.flatten(others), strict=True)
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


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
