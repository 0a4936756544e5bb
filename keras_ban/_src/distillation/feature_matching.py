"""Feature matching: a student's hidden layers learn from its teacher's."""

import keras
from keras import ops

from keras_ban._src import checks
from keras_ban._src.losses.base import is_finite_number, same_shape
from keras_ban._src.losses.precision import precision


@keras.saving.register_keras_serializable(package="keras_ban")
class FeatureMatching:
    """Which layers of a student are to give what which layers of its teacher give (FitNets, Romero et al., 2015).

    The feature loss is the sum over the pairs of layers of `loss(teacher's features, student's features)`, reduced as
    Keras reduces a loss; a `Distiller` adds it, times `weight`, to the loss that it trains. With `"mse"` a pair costs
    the mean squared difference over examples, positions and width (the paper's eq. 3 has half the sum of squares).

    Features are compared at the same positions: all axes must be equal, but for the last, the width. Where the widths
    differ, the student's features pass a linear projection first, `features @ kernel` without bias (for images: a 1x1
    convolution; the paper's regressor), which the Distiller holds, trains and saves, and which is no part of the
    student.

    Outputs and features come from one and the same forward pass, of the student in training mode, of the teacher in
    inference mode and without gradients. They are compared in the loss's precision, float32 unless it says otherwise.
    Sample weights weigh the features of an example too (of several outputs, their mean), and padding counts nothing
    where Keras knows the features' mask.

    Example:

    ```python
    matching = keras_ban.FeatureMatching({"student_hidden": "teacher_hidden"}, weight=0.1)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, feature_matching=matching)
    ```

    Args:
        layers: a dict from names of the student's layers to names of the teacher's; or a list of names that both have.
        loss: a loss of Keras: its name, a `keras.losses.Loss`, or a function `(teacher, student)` that gives one value
            for each position. With sample weights, a `Loss` too must give one for each.
        weight: of the feature loss, a positive number.

    Raises:
        TypeError: `layers` are no names, or the loss is none.
        ValueError: `layers` are empty, `weight` is not positive and finite, or the loss does not reduce.
    """

    def __init__(self, layers, loss="mse", weight=1.0):
        self._layers = _check_layers(layers)
        self._loss = loss
        self._compared_by = _as_loss(loss)
        self._weight = _check_weight(weight)

    # Read-only: a compiled step would go on with the old value, without a word.
    @property
    def layers(self):
        """A dict from names of the student's layers to names of the teacher's."""
        return dict(self._layers)

    @property
    def loss(self):
        return self._loss

    @property
    def weight(self):
        return self._weight

    def make_projections(self, student_features, teacher_features):
        """What bridges the widths, where they differ.

        Args:
            student_features, teacher_features: symbolic tensors, a pair of layers at a time.

        Returns:
            A dict of built layers by the name of the student's layer.

        Raises:
            ValueError: the shapes differ in more than the width, or a width is not known.
        """
        projections = {}
        for (ours, theirs), student, teacher in zip(
            self._layers.items(), student_features, teacher_features, strict=True
        ):
            came, wanted = tuple(student.shape), tuple(teacher.shape)
            if not same_shape(came[1:-1], wanted[1:-1]) or not came[1:] or None in (came[-1], wanted[-1]):
                raise ValueError(
                    f"The student's layer {ours!r} gives features of shape {came}, the teacher's layer {theirs!r} of "
                    f"shape {wanted}: they may differ in the last axis alone, whose size must be known. Choose layers "
                    "that see the same positions, or pool one of the two."
                )
            if came[-1] != wanted[-1]:
                name = f"{ours}_projection"
                projections[ours] = keras.layers.Dense(wanted[-1], use_bias=False, dtype=precision(), name=name)
                projections[ours].build(came)
        return projections

    def compare(self, teacher_features, student_features, sample_weight=None):
        """The feature loss, a number; tensors as above, those of the student projected."""
        return feature_loss(self._compared_by, teacher_features, student_features, sample_weight)

    def get_config(self):
        return {
            "layers": self.layers,
            "loss": keras.saving.serialize_keras_object(self.loss),
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def feature_loss(loss, teacher_features, student_features, sample_weight=None):
    """The sum over pairs of features of their loss.

    Args:
        loss: a `keras.losses.Loss` that gives one value for each position.
        teacher_features: tensors `(batch, ..., width)`, a list.
        student_features: tensors of the same shapes, a list.
        sample_weight: of each example `(batch,)` or `(batch, 1)`, or of each position; or a nest of those, one for each
            of the student's outputs, of which the mean counts; or `None`.

    Returns:
        A tensor `()`.
    """
    total = 0.0
    for teacher, student in zip(teacher_features, student_features, strict=True):
        if not same_shape(teacher.shape, student.shape):
            raise ValueError(
                f"The teacher's features have shape {tuple(teacher.shape)}, the student's {tuple(student.shape)}: the "
                "two must see the same positions."
            )
        total += loss(teacher, student, _weights_of_positions(sample_weight, student))
    return total


def _weights_of_positions(sample_weight, features):
    """Weights of each position, `(batch, ...)`, without the width; Keras would line up the wrong axes."""
    weights = [ops.cast(each, precision()) for each in keras.tree.flatten(sample_weight) if each is not None]
    if not weights:
        return None
    positions = len(features.shape) - 1
    weights = [ops.squeeze(each, -1) if len(each.shape) == 2 and each.shape[-1] == 1 else each for each in weights]
    if any(len(each.shape) > positions for each in weights):
        raise ValueError(
            f"Sample weights of shape {[tuple(each.shape) for each in weights]} do not fit features of shape "
            f"{tuple(features.shape)}: pass one weight for each example, or one for each position of the features."
        )
    weights = [ops.reshape(each, (*ops.shape(each), *[1] * (positions - len(each.shape)))) for each in weights]
    # A copy, because torch multiplies them by a mask in place, which it does not do to a broadcast.
    return ops.copy(ops.broadcast_to(sum(weights) / len(weights), ops.shape(features)[:-1]))


class _FunctionLoss(keras.losses.Loss):
    """A function of `(y_true, y_pred)`, reduced and scaled over replicas as Keras does a loss."""

    def __init__(self, function):
        super().__init__(name="feature_loss", dtype=precision())
        self._function = function

    def call(self, y_true, y_pred):
        return self._function(y_true, y_pred)


def _as_loss(loss):
    try:
        found = keras.losses.get(loss)
    except ValueError as error:
        raise ValueError(f"`loss` must be a loss of Keras, received: {loss!r}. {error}") from None
    if isinstance(found, keras.losses.Loss):
        if found.reduction in (None, "none"):
            raise ValueError(
                f"`loss` must reduce to one number, received: {found!r} with reduction={found.reduction!r}."
            )
        return found
    if not callable(found) or isinstance(found, type):
        raise TypeError(f"`loss` must be a loss's name, a `keras.losses.Loss` or a function, received: {loss!r}.")
    return _FunctionLoss(found)


def _check_layers(layers):
    """Names as a dict from the student's to the teacher's, or an error."""
    names = checks.layer_names(layers)
    if names is None:
        raise TypeError(
            "`layers` must be a dict from names of the student's layers to names of the teacher's, or a list of names "
            f"that both have, received: {layers!r}."
        )
    if not names:
        raise ValueError("`layers` names none: without feature matching leave `feature_matching` out.")
    return names


def _check_weight(weight):
    if not is_finite_number(weight) or weight <= 0:
        raise ValueError(
            f"`weight` must be a positive, finite number, received: {weight!r}. Without feature matching leave "
            "`feature_matching` out."
        )
    return float(weight)
