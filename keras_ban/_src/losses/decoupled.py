"""Distillation with separate weights for the true class and the other classes."""

from typing import Any

import keras
from keras import ops

from keras_ban._src import hints
from keras_ban._src.losses.base import (
    SMALLEST_LOGIT,
    SoftTargetLoss,
    check_weight,
    class_probabilities,
    finite_logits,
    kl_divergence,
)


@keras.saving.register_keras_serializable(package="keras_ban")
class DecoupledKnowledgeDistillation(SoftTargetLoss):
    """Distillation with separate weights for the true class and the other classes (DKD, Zhao et al., 2022).

    Per example with the label `y`, `p = softmax(teacher / T)` and `q = softmax(student / T)`:
    `T**2 * (target_weight * KL(b_p || b_q) + non_target_weight * KL(r_p || r_q))`. `b_p = (p_y, 1 - p_y)` is the
    teacher's confidence in the true class. `r_p`, its distribution over all other classes, is its dark knowledge. With
    weights 1 and `1 - p_y` this is `KnowledgeDistillation`, which hardly teaches dark knowledge if the teacher is
    confident. The paper calls the weights alpha and beta. It also trains on the labels, with weight 1, and increases
    this term over the first epochs.

    Example:

    >>> loss = keras_ban.losses.DecoupledKnowledgeDistillation(non_target_weight=2.0, temperature=1.0)
    >>> y_true = {"labels": [0], "soft_targets": [[3.0, 1.0, 0.0]]}
    >>> round(float(loss(y_true, [[3.0, 0.0, 1.0]])), 4)
    0.9242

    Args:
        target_weight: weight of the divergence between the true class and the rest, at least 0.
        non_target_weight: weight of the divergence among the other classes, at least 0.
        temperature: `T > 0`, dimensionless; or a schedule, see `Distiller`.
        from_logits: whether outputs are logits. Otherwise probabilities, each counted as at least 1e-30. `"auto"`: a
            `Distiller` reads it from the label loss and the last layers of student and teacher, which may differ.
            Without a Distiller, outputs count as logits.
        reduction, name: as in `keras.losses.Loss`.

    Call args:
        y_true: a dict with `"soft_targets"`, `(batch, ..., classes)`, and `"labels"`: whole numbers `(batch, ...)` or
            `(batch, ..., 1)`, or distributions `(batch, ..., classes)`, whose largest value marks the true class.
        y_pred: the student's outputs, `(batch, ..., classes)`.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not positive and finite, a weight is negative or not finite, there are no labels,
            or the shapes do not match.
    """

    labels_as = "class"
    settings = ("temperature", "from_logits", "target_weight", "non_target_weight")

    def __init__(
        self,
        target_weight: float = 1.0,
        non_target_weight: float = 8.0,
        temperature: hints.Scheduled = 4.0,
        from_logits: hints.FromLogits = "auto",
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "decoupled_knowledge_distillation",
    ) -> None:
        super().__init__(temperature, from_logits, "softmax", reduction, name)
        self.target_weight: float = check_weight("target_weight", target_weight)
        self.non_target_weight: float = check_weight("non_target_weight", non_target_weight)

    def compare(self, y_true: dict[str, Any], y_pred: hints.Tensor, temperature: Any) -> hints.Tensor:
        labels, _ = class_probabilities(self, y_true, y_pred)
        classes = ops.arange(y_pred.shape[-1], dtype="int32")
        is_target = classes == ops.expand_dims(ops.cast(ops.argmax(labels, axis=-1), "int32"), -1)
        teacher, student = (finite_logits(self.logits(x, temperature)) for x in (y_true["soft_targets"], y_pred))
        target = kl_divergence(target_against_rest(teacher, is_target), target_against_rest(student, is_target))
        non_target = kl_divergence(without_target(teacher, is_target), without_target(student, is_target))
        return temperature**2 * (self.target_weight * target + self.non_target_weight * non_target)


def target_against_rest(logits, is_target):
    """Return logits `(..., 2)` of the true class and of all other classes together."""
    target = ops.sum(ops.where(is_target, logits, ops.zeros_like(logits)), axis=-1)
    others = ops.logsumexp(without_target(logits, is_target), axis=-1)
    return ops.stack([target - others, ops.zeros_like(others)], axis=-1)


def without_target(logits, is_target):
    """Return logits `(..., classes)` in which the true class has probability 0."""
    return ops.where(is_target, ops.full_like(logits, SMALLEST_LOGIT), logits)
