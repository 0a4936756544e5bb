"""Hinton's distillation."""

from typing import Any

import keras
from keras import ops

from keras_ban._src import checks, hints
from keras_ban._src.losses.base import SoftTargetLoss, finite_logits, kl_divergence


@keras.saving.register_keras_serializable(package="keras_ban")
class KnowledgeDistillation(SoftTargetLoss):
    """Match the teacher's softened distribution (Hinton et al., 2015; BAN eq. 3, with `temperature=1`).

    Per example, over the last axis of size `classes`:
    `T**2 * sum(p * (log p - log q))`, `p = softmax(teacher / T)`, `q = softmax(student / T)`.
    The gradient with respect to the student's logits is `T * (q - p)`. The factor `T**2` keeps the size of the gradient
    independent of `T`. Computed in float32 or float64, with any dtype policy.

    - Several classes: use the defaults. If a model ends in a softmax, the logarithm of its probabilities replaces the
      logits, because `softmax(log(p) / T) = softmax(logits / T)`.
    - Binary (`Dense(1)`) or multi-label, each output an independent yes or no: use `activation="sigmoid"`. The
      divergence is that of each output's Bernoulli distribution, averaged over the outputs as in
      `keras.losses.BinaryCrossentropy`.

    With `standardize=True` (Sun et al., 2024), each example's logits `z` are replaced by their z-scores over the
    classes, `(z - mean(z)) / std(z)`, for teacher and student. So the student matches the relations between the
    teacher's logits, not their size. Needs three classes or more (two z-scores are always 1 and -1). A logit of -inf,
    or a probability of 0, would outweigh all others.

    Example:

    >>> loss = keras_ban.losses.KnowledgeDistillation(temperature=2.0)
    >>> round(float(loss([[2.0, 0.0]], [[0.0, 0.0]])), 4)
    0.4438

    Args:
        temperature: `T > 0`, dimensionless; or a schedule, see `Distiller`. BAN uses 1.0.
        from_logits: whether outputs are logits. Otherwise probabilities, each counted as at least 1e-30. `"auto"`: a
            `Distiller` reads it from the label loss and the last layers of student and teacher, which may differ.
            Without a Distiller, outputs count as logits.
        activation: `"softmax"` or `"sigmoid"`, the function from logits to probabilities.
        standardize: whether to standardize logits before dividing by `T`. For `"softmax"` only. `std` divides by the
            number of classes.
        reduction, name: as in `keras.losses.Loss`.

    Call args:
        y_true: soft targets, `(batch, ..., classes)`, or a dict with `"soft_targets"`.
        y_pred: the student's outputs, same shape.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not positive and finite, an argument is not one of the values above, `standardize`
            is used with `"sigmoid"`, or soft targets and outputs differ in shape.
    """

    labels_as = None
    settings = ("temperature", "from_logits", "activation", "standardize")

    def __init__(
        self,
        temperature: hints.Scheduled = 1.0,
        from_logits: hints.FromLogits = "auto",
        activation: hints.Activation = "softmax",
        standardize: bool = False,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "knowledge_distillation",
    ) -> None:
        super().__init__(temperature, from_logits, activation, reduction, name)
        self.standardize: bool = checks.check_flag("standardize", standardize)
        if self.standardize and activation == "sigmoid":
            raise ValueError("`standardize` is for `activation='softmax'`: each sigmoid output is a class of its own.")

    def compare(self, y_true: dict[str, Any], y_pred: hints.Tensor, temperature: Any) -> hints.Tensor:
        teacher, student = (self.logits(x, temperature) for x in (y_true["soft_targets"], y_pred))
        if self.standardize:
            teacher, student = (z_scores(finite_logits(x)) / temperature for x in (teacher, student))
        divergence = temperature**2 * kl_divergence(teacher, student)
        return divergence if self.activation == "softmax" else ops.mean(divergence, axis=-1)


def z_scores(values):
    """Scale `values` over the last axis to mean 0 and standard deviation 1. Equal values become 0."""
    centred = values - ops.mean(values, axis=-1, keepdims=True)
    return centred * ops.rsqrt(ops.maximum(ops.mean(ops.square(centred), axis=-1, keepdims=True), 1e-14))
