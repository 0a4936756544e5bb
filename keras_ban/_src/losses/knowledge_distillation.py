"""Hinton's distillation."""

import keras
from keras import ops

from keras_ban._src import checks
from keras_ban._src.losses.base import SoftTargetLoss, finite_logits, kl_divergence


@keras.saving.register_keras_serializable(package="keras_ban")
class KnowledgeDistillation(SoftTargetLoss):
    """Match the teacher's softened distribution (Hinton et al., 2015; BAN eq. 3, at `temperature=1`).

    Per example, over the last axis of size `classes`:
    `T**2 * sum(p * (log p - log q))`, `p = softmax(teacher / T)`, `q = softmax(student / T)`.
    Its gradient with respect to the student's logits is `T * (q - p)`; the factor `T**2` keeps the gradient's size
    independent of `T`. Computed in float32 at least, whatever the dtype policy.

    Three kinds of model:

    - One class out of many, the model ends in `Dense(classes)`: the defaults.
    - The same, but the model ends in a softmax: `from_logits=False`. The logarithm of the probabilities takes the
      place of the logits, since `softmax(log(p) / T) = softmax(logits / T)`.
    - Binary (`Dense(1)`) or multi-label, each output its own yes or no: `activation="sigmoid"`, with
      `from_logits=False` where the model itself ends in a sigmoid. The divergence is that of each output's Bernoulli
      distribution, averaged over the outputs as `keras.losses.BinaryCrossentropy` averages.

    With `standardize=True` (Sun et al., 2024) every example's logits `z` are first replaced by their z-scores over the
    classes, `(z - mean(z)) / std(z)`, teacher and student each by their own: the student need not match the size of the
    teacher's logits, only how they lie to each other. It wants three classes or more (two z-scores are always 1 and
    -1); a logit of -inf, or a probability of 0, would outweigh all others.

    Example:

    >>> loss = keras_ban.losses.KnowledgeDistillation(temperature=2.0)
    >>> round(float(loss([[2.0, 0.0]], [[0.0, 0.0]])), 4)
    0.4438

    Args:
        temperature: `T > 0`, dimensionless; or a callable of the training step, see `Distiller`. `1.0` is what BAN
            used.
        from_logits: whether outputs are logits; else probabilities, which count as at least 1e-30 each.
        activation: `"softmax"` or `"sigmoid"`: what turns (or has turned) the outputs into probabilities.
        standardize: whether logits are standardised before they are divided by `T`; for `"softmax"`. `std` divides by
            the number of classes.
        reduction: as in `keras.losses.Loss`.
        name: as in `keras.losses.Loss`.

    Call args:
        y_true: soft targets, `(batch, ..., classes)`, or a dict with `"soft_targets"`.
        y_pred: the student's outputs, same shape.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not a positive, finite number, an argument is not one of the values above,
            `standardize` comes with `"sigmoid"`, or the soft targets' shape is not the outputs'.
    """

    def __init__(
        self,
        temperature=1.0,
        from_logits=True,
        activation="softmax",
        standardize=False,
        reduction="sum_over_batch_size",
        name="knowledge_distillation",
    ):
        super().__init__(temperature, from_logits, activation, reduction, name)
        standardize = checks.check_flag("standardize", standardize)
        if standardize and activation == "sigmoid":
            raise ValueError("`standardize` is for `activation='softmax'`: each sigmoid output is a class of its own.")
        self._standardize = standardize

    @property
    def standardize(self):
        return self._standardize

    def compare(self, y_true, soft_targets, y_pred, temperature):
        teacher, student = self.logits(soft_targets, temperature), self.logits(y_pred, temperature)
        if self.standardize:
            teacher, student = (z_scores(finite_logits(x)) / temperature for x in (teacher, student))
        divergence = temperature**2 * kl_divergence(teacher, student)
        return divergence if self.activation == "softmax" else ops.mean(divergence, axis=-1)

    def get_config(self):
        return {**super().get_config(), "activation": self.activation, "standardize": self.standardize}


def z_scores(values):
    """`values` over the last axis with mean 0 and standard deviation 1; 0 where they are all equal."""
    centred = values - ops.mean(values, axis=-1, keepdims=True)
    return centred * ops.rsqrt(ops.maximum(ops.mean(ops.square(centred), axis=-1, keepdims=True), 1e-14))
