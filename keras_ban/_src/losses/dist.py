"""Distillation of relations, by correlation."""

import keras
from keras import ops

from keras_ban._src.losses.base import SoftTargetLoss, check_weight, counted_examples

# What varies by less than this (the length of the centred vector) counts as constant.
_SMALLEST_LENGTH = 1e-8


@keras.saving.register_keras_serializable(package="keras_ban")
class DIST(SoftTargetLoss):
    """Match how the teacher's probabilities are correlated, not the probabilities themselves (Huang et al., 2022).

    With `p = softmax(teacher / T)` and `q = softmax(student / T)`, and `r` Pearson's correlation:

    - inter-class: `1 - r` between `p` and `q` of one example, over the classes;
    - intra-class: `1 - r` between what `p` and `q` give one class, over the examples of the batch, averaged over the
      classes.

    An example's value is `T**2 * (inter_class_weight * inter + intra_class_weight * intra)`; the second term is the
    same for all examples of a batch. A student that is less sure than its teacher, but in the same order, loses little:
    it is meant for teachers far stronger than their students. The weights are beta and gamma in the paper, which trains
    on the labels with weight 1 besides.

    - It wants three classes or more: of two numbers each, `r` is 1 or -1, and teaches nothing.
    - Of sequences `(batch, time, classes)` every token is an example; masked ones are left out of both terms.
    - Sample weights scale the examples' values, and leave the correlation over the batch as it is.
    - Under `tf.distribute`, and torch's `DistributedDataParallel`, each replica correlates over its own part of the
      batch, as the authors' code does; under `keras.distribution` over all of it.

    Args:
        inter_class_weight: at least 0.
        intra_class_weight: at least 0.
        temperature: `T > 0`, dimensionless; or a callable of the training step, see `Distiller`.
        from_logits: whether outputs are logits; else probabilities, which count as at least 1e-30 each.
        reduction: as in `keras.losses.Loss`.
        name: as in `keras.losses.Loss`.

    Call args:
        y_true: soft targets, `(batch, ..., classes)`, or a dict with `"soft_targets"`.
        y_pred: the student's outputs, same shape.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not a positive, finite number, a weight is negative or not finite, or the soft
            targets' shape is not the outputs'.
    """

    def __init__(
        self,
        inter_class_weight=1.0,
        intra_class_weight=1.0,
        temperature=1.0,
        from_logits=True,
        reduction="sum_over_batch_size",
        name="dist",
    ):
        super().__init__(temperature, from_logits, "softmax", reduction, name)
        self._inter_class_weight = check_weight("inter_class_weight", inter_class_weight)
        self._intra_class_weight = check_weight("intra_class_weight", intra_class_weight)

    @property
    def inter_class_weight(self):
        return self._inter_class_weight

    @property
    def intra_class_weight(self):
        return self._intra_class_weight

    def compare(self, y_true, soft_targets, y_pred, temperature):
        teacher = ops.softmax(self.logits(ops.stop_gradient(soft_targets), temperature), axis=-1)
        student = ops.softmax(self.logits(y_pred, temperature), axis=-1)
        inter = decorrelation(teacher, student, ops.ones_like(student), axis=-1)
        rows = (-1, student.shape[-1])
        counted = ops.reshape(counted_examples(y_true, inter), (-1, 1))
        intra = ops.mean(decorrelation(ops.reshape(teacher, rows), ops.reshape(student, rows), counted, axis=0))
        return temperature**2 * (self.inter_class_weight * inter + self.intra_class_weight * intra)

    def get_config(self):
        config = {"inter_class_weight": self.inter_class_weight, "intra_class_weight": self.intra_class_weight}
        return {**super().get_config(), **config}


def decorrelation(teacher, student, counted, axis):
    """1 minus Pearson's correlation along an axis, over what is counted.

    Computed as half the squared distance between the two, centred and scaled to length 1: so it is never negative, and
    exactly 0 where the two are equal, constants included.

    Args:
        teacher, student: tensors of one shape.
        counted: 1 for what counts, else 0; broadcast against both.
    """
    difference = _of_length_one(teacher, counted, axis) - _of_length_one(student, counted, axis)
    return 0.5 * ops.sum(ops.square(difference), axis=axis)


def _of_length_one(values, counted, axis):
    count = ops.maximum(ops.sum(counted, axis=axis, keepdims=True), 1.0)
    centred = counted * (values - ops.sum(counted * values, axis=axis, keepdims=True) / count)
    squared = ops.sum(ops.square(centred), axis=axis, keepdims=True)
    return centred * ops.rsqrt(ops.maximum(squared, _SMALLEST_LENGTH**2))
