"""Distillation of relations, by correlation."""

from typing import Any

import keras
from keras import ops

from keras_ban._src import hints
from keras_ban._src.losses.base import SoftTargetLoss, check_weight, counted_examples

# Vectors whose length is below this after centering count as constant.
_SMALLEST_LENGTH = 1e-8


@keras.saving.register_keras_serializable(package="keras_ban")
class DIST(SoftTargetLoss):
    """Match correlations with the teacher's probabilities, not the probabilities themselves (Huang et al., 2022).

    With `p = softmax(teacher / T)`, `q = softmax(student / T)` and Pearson's correlation `r`:

    - inter-class: `1 - r` between `p` and `q` of one example, over the classes.
    - intra-class: `1 - r` between `p` and `q` of one class, over the examples of the batch, averaged over the classes.

    An example's value is `T**2 * (inter_class_weight * inter + intra_class_weight * intra)`. The second term is the
    same for all examples of a batch. A student that is less confident than its teacher, but ranks classes alike, has a
    small loss. The loss is meant for teachers much stronger than their students. The paper calls the weights beta and
    gamma. It also trains on the labels, with weight 1.

    - Needs three classes or more: between two pairs of numbers, `r` is always 1 or -1.
    - In sequences `(batch, time, classes)`, each token is an example. Masked tokens are left out of both terms.
    - Sample weights scale the examples' values. They do not change the correlation over the batch.
    - With `tf.distribute` and torch's `DistributedDataParallel`, each replica correlates over its own part of the
      batch, as the authors' code does. With `keras.distribution`, the whole batch counts.

    Args:
        inter_class_weight, intra_class_weight: weights of the two terms, at least 0.
        temperature: `T > 0`, dimensionless; or a schedule, see `Distiller`.
        from_logits: whether outputs are logits. Otherwise probabilities, each counted as at least 1e-30. `"auto"`: a
            `Distiller` reads it from the label loss and the last layers of student and teacher, which may differ.
            Without a Distiller, outputs count as logits.
        reduction, name: as in `keras.losses.Loss`.

    Call args:
        y_true: soft targets, `(batch, ..., classes)`, or a dict with `"soft_targets"`.
        y_pred: the student's outputs, same shape.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not positive and finite, a weight is negative or not finite, or soft targets and
            outputs differ in shape.
    """

    labels_as = None
    settings = ("temperature", "from_logits", "inter_class_weight", "intra_class_weight")

    def __init__(
        self,
        inter_class_weight: float = 1.0,
        intra_class_weight: float = 1.0,
        temperature: hints.Scheduled = 1.0,
        from_logits: hints.FromLogits = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "dist",
    ) -> None:
        super().__init__(temperature, from_logits, "softmax", reduction, name)
        self.inter_class_weight: float = check_weight("inter_class_weight", inter_class_weight)
        self.intra_class_weight: float = check_weight("intra_class_weight", intra_class_weight)

    def compare(self, y_true: dict[str, Any], y_pred: hints.Tensor, temperature: Any) -> hints.Tensor:
        teacher = ops.softmax(self.logits(ops.stop_gradient(y_true["soft_targets"]), temperature), axis=-1)
        student = ops.softmax(self.logits(y_pred, temperature), axis=-1)
        inter = decorrelation(teacher, student, ops.ones_like(student), axis=-1)
        rows = (-1, student.shape[-1])
        counted = ops.reshape(counted_examples(y_true, inter), (-1, 1))
        intra = ops.mean(decorrelation(ops.reshape(teacher, rows), ops.reshape(student, rows), counted, axis=0))
        return temperature**2 * (self.inter_class_weight * inter + self.intra_class_weight * intra)


def decorrelation(teacher, student, counted, axis):
    """Compute 1 minus Pearson's correlation along an axis.

    This is half the squared distance between the two vectors, centered and scaled to length 1. So it is never negative,
    and exactly 0 if they are equal, even if they are constant.

    Args:
        teacher, student: tensors of the same shape.
        counted: 1 for values that count, else 0. Broadcast against both.
        axis: the axis.
    """
    difference = _of_length_one(teacher, counted, axis) - _of_length_one(student, counted, axis)
    return 0.5 * ops.sum(ops.square(difference), axis=axis)


def _of_length_one(values, counted, axis):
    count = ops.maximum(ops.sum(counted, axis=axis, keepdims=True), 1.0)
    centred = counted * (values - ops.sum(counted * values, axis=axis, keepdims=True) / count)
    squared = ops.sum(ops.square(centred), axis=axis, keepdims=True)
    return centred * ops.rsqrt(ops.maximum(squared, _SMALLEST_LENGTH**2))
