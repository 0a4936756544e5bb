"""Feature matching: a student's hidden layers learn from its teacher's."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import keras
from keras import ops

from keras_ban._src import checks, hints
from keras_ban._src.data.leaves import leaves_of
from keras_ban._src.losses.base import check_positive, in_rank, same_shape
from keras_ban._src.losses.precision import precision


@keras.saving.register_keras_serializable(package="keras_ban")
class FeatureMatching:
    """Pairs of student and teacher layers whose outputs should match (FitNets, Romero et al., 2015).

    The feature loss is the sum of `loss(teacher_features, student_features)` over the pairs of layers, each reduced as
    in Keras. A `Distiller` adds `weight * feature loss` to its loss. With `"mse"`, a pair costs the mean squared
    difference over examples, positions and width (the paper's eq. 3 has half the sum of squares).

    All axes of the features must be equal, except the last, the width. If the widths differ, a linear projection
    `features @ kernel` without bias is applied to the student's features (for images, a 1x1 convolution; the paper's
    regressor). It is trained and saved with the Distiller, and is not part of the student.

    Outputs and features come from the same forward pass: of the student in training mode, of the teacher in inference
    mode and without gradients. They are compared in the dtype of the loss, float32 by default. Sample weights also
    weight the features of an example (with several outputs, by the mean of their weights). Padding does not count, if
    Keras knows the mask of the features.

    Example:

    ```python
    matching = keras_ban.FeatureMatching({"student_hidden": "teacher_hidden"}, weight=0.1)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, feature_matching=matching)
    ```

    Args:
        layers: a dict from names of student layers to names of teacher layers, or a list of names that both have. The
            name of a layer inside another model is its path: `"backbone/block_3"` is the layer `block_3` of the model
            `backbone`. All models on the path are functional or Sequential ones, and called once.
        loss: a Keras loss: its name, a `keras.losses.Loss`, or a function `(teacher, student)` that returns one value
            for each position. With sample weights, the `call` of a `Loss` must also return one for each position.
        weight: the weight of the feature loss, a positive number.

    Raises:
        TypeError: `layers` are not names, or the loss is not a loss.
        ValueError: `layers` are empty, `weight` is not positive and finite, or the loss does not reduce.
    """

    def __init__(
        self,
        layers: hints.LayerNames,
        loss: str | keras.losses.Loss | Callable[[Any, Any], Any] = "mse",
        weight: float = 1.0,
    ) -> None:
        self._layers = _check_layers(layers)
        self._loss = loss
        self._compared_by = _as_loss(loss)
        self._weight = check_positive("weight", weight)

    @property
    def layers(self) -> dict[str, str]:
        """A dict from names of student layers to names of teacher layers."""
        return dict(self._layers)

    # Settings are read-only, because a compiled training step would ignore a new value.
    @property
    def loss(self) -> str | keras.losses.Loss | Callable[[Any, Any], Any]:
        return self._loss

    @property
    def weight(self) -> float:
        return self._weight

    def make_projections(
        self, student_features: Sequence[hints.Tensor], teacher_features: Sequence[hints.Tensor]
    ) -> dict[str, keras.layers.Layer]:
        """Create a projection for each pair of layers whose widths differ.

        Args:
            student_features, teacher_features: symbolic tensors, one for each pair of layers.

        Returns:
            A dict of built layers by student layer name.
        """
        projections = {}
        names = self._layers.items()
        for (name, teacher_name), student, teacher in zip(names, student_features, teacher_features, strict=True):
            shape, wanted = tuple(student.shape), tuple(teacher.shape)
            if not same_shape(shape[1:-1], wanted[1:-1]) or not shape[1:] or None in (shape[-1], wanted[-1]):
                raise ValueError(
                    f"The student's layer {name!r} gives features of shape {shape}, the teacher's layer "
                    f"{teacher_name!r} of shape {wanted}: they may differ only in the last axis, whose size must be "
                    "known. Choose layers with the same positions, or pool one of the two."
                )
            if shape[-1] != wanted[-1]:
                projections[name] = keras.layers.Dense(
                    wanted[-1], use_bias=False, dtype=precision(), name=f"{name}_projection".replace("/", "_")
                )
                projections[name].build(shape)
        return projections

    def compare(
        self,
        teacher_features: Sequence[hints.Tensor],
        student_features: Sequence[hints.Tensor],
        sample_weight: Any = None,
    ) -> hints.Tensor:
        """Compute the feature loss, the sum over the pairs of layers.

        Args:
            teacher_features, student_features: tensors `(batch, ..., width)`. Those of the student are projected.
            sample_weight: weights of examples, `(batch,)` or `(batch, 1)`, or of positions; a nest of them, one for
                each output of the student, which are averaged; or `None`.
        """
        total = 0.0
        for teacher, student in zip(teacher_features, student_features, strict=True):
            if not same_shape(teacher.shape, student.shape):
                raise ValueError(
                    f"The teacher's features have shape {tuple(teacher.shape)}, the student's {tuple(student.shape)}: "
                    "they must be equal."
                )
            total += self._compared_by(teacher, student, _weights_of_positions(sample_weight, student))
        return total

    # Keras copies a loss by its configuration, which a loss of a function has not.
    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.layers, self.loss, self.weight)

    def get_config(self) -> hints.Config:
        loss = keras.saving.serialize_keras_object(self.loss)
        return {"layers": self.layers, "loss": loss, "weight": self.weight}

    @classmethod
    def from_config(cls, config: hints.Config) -> Self:
        return cls(**{**config, "loss": keras.saving.deserialize_keras_object(config["loss"])})


def _weights_of_positions(sample_weight, features):
    """Return weights of positions, `(batch, ...)` without the width. Keras would align them with the wrong axes."""
    weights = [ops.cast(each, precision()) for each in leaves_of(sample_weight)]
    if not weights:
        return None
    positions = len(features.shape) - 1
    weights = [in_rank(each, positions) for each in weights]
    if any(len(each.shape) > positions for each in weights):
        raise ValueError(
            f"Sample weights of shape {[tuple(each.shape) for each in weights]} do not fit features of shape "
            f"{tuple(features.shape)}: pass one weight for each example, or one for each position."
        )
    # A copy, because Keras on torch multiplies weights by a mask in place, which fails for a broadcast tensor.
    return ops.copy(ops.broadcast_to(sum(weights) / len(weights), ops.shape(features)[:-1]))


class _FunctionLoss(keras.losses.Loss):
    """A function of `(y_true, y_pred)` as a Keras loss, which is reduced, and scaled by the number of replicas."""

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
            raise ValueError(f"`loss` must reduce to one number, received reduction={found.reduction!r}: {found!r}.")
        return found
    if not callable(found) or isinstance(found, type):
        raise TypeError(f"`loss` must be a loss's name, a `keras.losses.Loss` or a function, received: {loss!r}.")
    return _FunctionLoss(found)


def _check_layers(layers):
    """Return names of layers as a dict from student to teacher, or raise an error."""
    names = checks.layer_names(layers)
    if names is None:
        raise TypeError(
            "`layers` must be a dict from names of student layers to names of teacher layers, or a list of names that "
            f"both have, received: {layers!r}."
        )
    if not names:
        raise ValueError("`layers` names none: without feature matching leave `feature_matching` out.")
    return names
