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
    """The (weighted) average of models that answer the same question (BAN eq. 4: BANE).

    It returns what its members return, so that it can be compiled, evaluated, saved and exported like any of them, be
    a member of another ensemble, and teach:

    | `average` | members give logits (`from_logits=True`) | members give probabilities (`from_logits=False`) |
    | --- | --- | --- |
    | `"probabilities"` | `log(sum(w * softmax(member)))`, which are logits again | `sum(w * member)` |
    | `"logits"` | `sum(w * member)` | `softmax(sum(w * log(member)))` |
    | `"outputs"` | `sum(w * member)` | `sum(w * member)` |

    `average="outputs"` averages anything (regression). Averages are taken in float32 at least. The members are held,
    not copied: what trains a member changes the ensemble. A mask that a member's outputs carry is kept.

    Example:

    ```python
    ensemble = keras_ban.EnsembleModel([first, second, third])
    ensemble.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    ensemble.evaluate(x_test, y_test)
    ensemble.save("ensemble.keras")
    ```

    Args:
        members: 1 to N `keras.Model`s, which take the same inputs and give outputs of equal shapes (tensors, lists or
            dicts of tensors).
        weights: a non-negative number for each member, not all 0; they are divided by their sum. `None`: all equal.
        average: `"probabilities"`, `"logits"` or `"outputs"`; see the table.
        from_logits: whether members give logits; else probabilities.
        activation: `"softmax"` over the last axis, or `"sigmoid"` where each output is a yes or a no (binary and
            multi-label models). Plays no part for `average="outputs"`.
        name: as in `keras.Model`.

    Call args:
        inputs: what the members take.
        training: as in `keras.Model`; passed on to the members.

    Raises:
        TypeError: a member is not a `keras.Model`.
        ValueError: no members, one of them twice, members with other output shapes, weights that are not as above,
            an unknown `average` or `activation`.

    Warns:
        UserWarning: the last layer of a member gives other outputs than `from_logits` and `activation` say.
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
        # Each member casts its inputs as its own dtype policy says.
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
        members = [
            keras.saving.deserialize_keras_object(member, custom_objects=custom_objects) for member in config["members"]
        ]
        return cls(**{**config, "members": members})


class _Averaging(keras.layers.Layer):
    """The weighted average of tensors of equal shapes; a layer, so that Keras casts them and hands on their mask."""

    def __init__(self, member_weights, average, from_logits, activation):
        super().__init__(name="average", dtype=precision())
        self.supports_masking = True
        self.built = True
        # A member of weight 0 is left out: 0 * NaN would be NaN.
        self._member_weights = tuple(weight for weight in member_weights if weight > 0)
        self._counting = tuple(i for i, weight in enumerate(member_weights) if weight > 0)
        self._average = average
        self._from_logits = from_logits
        self._activation = activation

    def call(self, outputs):
        outputs = [outputs[i] for i in self._counting]
        if self._average == "probabilities" and self._from_logits:
            return self._average_of_probabilities(outputs)
        if self._average == "logits" and not self._from_logits:
            mean = self._weighted_sum([as_logits(output, False, self._activation) for output in outputs])
            return ops.softmax(mean) if self._activation == "softmax" else ops.softmax(mean)[..., 0]
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
    """Warn, and do not raise: ensembles that are on disk must be readable."""
    if (average, from_logits) not in (("probabilities", True), ("logits", False)):
        return  # A weighted sum, whatever the members give.
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
            raise ValueError(
                f"Members of an ensemble must give outputs of equal shapes, but one gives {shapes[0]} and another "
                f"{other}. Leave one of them out, or give them the same outputs."
            )


def _could_be_equal(shapes, others):
    """Whether nested shapes are equal where both are known; `None` stands for a size that is not."""
    sizes, other_sizes = keras.tree.flatten(shapes), keras.tree.flatten(others)
    try:
        keras.tree.assert_same_structure(shapes, others)
    except (ValueError, TypeError):
        return False
    return all(None in pair or pair[0] == pair[1] for pair in zip(sizes, other_sizes, strict=True))


def _check_weights(weights, count):
    if weights is None:
        return [1.0 / count] * count
    is_list = isinstance(weights, (list, tuple)) or (isinstance(weights, np.ndarray) and weights.ndim == 1)
    if not is_list or len(weights) != count:
        raise ValueError(f"`weights` must hold one number for each of the {count} members, received: {weights}.")
    weights = list(weights)
    numeric = all(is_finite_number(w) for w in weights)
    if not numeric or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(
            "`weights` must be finite, non-negative and not all 0 (they are divided by their sum), received: "
            f"{weights}."
        )
    # By the largest first: the sum of large numbers may be more than a float holds.
    shares = [float(w) / float(max(weights)) for w in weights]
    return [share / sum(shares) for share in shares]
