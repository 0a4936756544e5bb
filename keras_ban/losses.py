"""Distillation losses, as `keras.losses.Loss`.

A distillation loss compares a student's outputs with what its teacher said of the same examples. Its `y_true` is
`{"labels": ..., "soft_targets": ...}`, or the soft targets alone where labels play no part, so that sample weights,
masks, reductions and serialization are those of Keras.
"""

import math
import numbers

import keras
from keras import ops

# Probabilities below this count as this: log(1e-30) = -69, far under anything that a float32 softmax is trusted to
# tell apart, while 1 / 1e-30, which appears in the gradient, leaves room for factors of up to 1e8 before it overflows.
_SMALLEST_PROBABILITY = 1e-30
# Stands in for a logit of -inf (a class that was masked out): -inf - -inf would be NaN.
_SMALLEST_LOGIT = -1e30

ACTIVATIONS = ("softmax", "sigmoid")


def as_logits(outputs, from_logits=True, activation="softmax"):
    """Turn a model's outputs into logits of a softmax over the last axis.

    Args:
        outputs: tensor `(..., classes)`.
        from_logits: whether `outputs` are logits; else probabilities, of which the logarithm is taken.
        activation: `"softmax"`, or `"sigmoid"`, for which every output becomes a distribution over its two outcomes,
            yes and no: the result has a new last axis of size 2.

    Returns:
        Finite logits, `(..., classes)`, or `(..., classes, 2)` for `"sigmoid"`.
    """
    if from_logits:
        logits = ops.maximum(outputs, ops.cast(_SMALLEST_LOGIT, outputs.dtype))
        return logits if activation == "softmax" else ops.stack([logits, ops.zeros_like(logits)], axis=-1)
    if activation == "sigmoid":
        outputs = ops.stack([outputs, 1.0 - outputs], axis=-1)
    return ops.log(ops.maximum(outputs, ops.cast(_SMALLEST_PROBABILITY, outputs.dtype)))


def kl_divergence(teacher, student):
    """Divergence of `softmax(student)` from `softmax(teacher)` over the last axis, to the last bits of the dtype.

    The textbook sum of `p * (log p - log q)` loses its digits where the two are close, because its terms are large,
    of either sign, and cancel. Here `q - p`, which sums to 0, is added to each term: with `d = log p - log q` a term is
    `p * (d + exp(-d) - 1)`, which is never negative, and of second order in `d`. Near `d = 0` it comes from its
    series; elsewhere `p * exp(-d)` is taken as `q`, which cannot overflow. At `d = 0` the value and the gradient are
    exactly 0.

    The gradient with respect to the student's logits is given in closed form, `q - p = p * (exp(-d) - 1)`: it costs
    less than differentiating the steps above would. The teacher's is taken as 0.

    Args:
        teacher: finite logits, `(..., classes)`.
        student: finite logits, same shape.

    Returns:
        Non-negative tensor `(...)`.
    """
    teacher = ops.stop_gradient(teacher)

    @ops.custom_gradient
    def divergence(student):
        # The largest logits are taken off first, and the differences of the large numbers before those of the small.
        teacher_max = ops.max(teacher, axis=-1, keepdims=True)
        student_max = ops.max(student, axis=-1, keepdims=True)
        teacher_log_sum = ops.log(ops.sum(ops.exp(teacher - teacher_max), axis=-1, keepdims=True))
        student_log_sum = ops.log(ops.sum(ops.exp(student - student_max), axis=-1, keepdims=True))
        p = ops.exp(teacher - teacher_max - teacher_log_sum)
        q = ops.exp(student - student_max - student_log_sum)
        d = ((teacher - student) - (teacher_max - student_max)) - (teacher_log_sum - student_log_sum)

        near = ops.abs(d) < 0.5
        e = ops.where(near, d, ops.zeros_like(d))
        # d + exp(-d) - 1 = d^2/2! - d^3/3! + ..., to d^8: what is left out is below 1e-8 of the whole at |d| = 0.5.
        series = e * e * _alternating_series(e, [1.0 / math.factorial(n) for n in range(2, 9)])
        value = ops.sum(ops.where(near, p * series, p * d + (q - p)), axis=-1)

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            difference = ops.where(near, p * ops.expm1(-e), q - p)
            # All `d` share the rounding of the two sums. It drops out where the differences are made to add up to 0.
            difference = difference - q * ops.sum(difference, axis=-1, keepdims=True)
            return ops.expand_dims(upstream, -1) * difference

        return value, gradient

    return divergence(student)


def _alternating_series(x, coefficients):
    """`c[0] - c[1] * x + c[2] * x**2 - ...` by Horner's rule."""
    total = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = coefficient - x * total
    return total


@keras.saving.register_keras_serializable(package="keras_ban")
class KnowledgeDistillation(keras.losses.Loss):
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

    Example:

    >>> loss = keras_ban.losses.KnowledgeDistillation(temperature=2.0)
    >>> round(float(loss([[2.0, 0.0]], [[0.0, 0.0]])), 4)
    0.4438

    Args:
        temperature: `T > 0`, dimensionless. `1.0` is what BAN used.
        from_logits: whether outputs are logits; else probabilities, which count as at least 1e-30 each.
        activation: `"softmax"` or `"sigmoid"`: what turns (or has turned) the outputs into probabilities.
        reduction: as in `keras.losses.Loss`.
        name: as in `keras.losses.Loss`.

    Call args:
        y_true: soft targets, `(batch, ..., classes)`, or a dict with `"soft_targets"`.
        y_pred: the student's outputs, same shape.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not a positive, finite number, an argument is not one of the values above, or the
            soft targets' shape is not the outputs'.
    """

    def __init__(
        self,
        temperature=1.0,
        from_logits=True,
        activation="softmax",
        reduction="sum_over_batch_size",
        name="knowledge_distillation",
    ):
        # Half precision would be lost on the logits before they reach `call`: 257 is no bfloat16.
        dtype = "float64" if keras.config.floatx() == "float64" else "float32"
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self._temperature = check_temperature(temperature)
        self._from_logits = bool(from_logits)
        self._activation = check_activation(activation)

    # Read-only: a compiled training step would go on with the old value, without a word.
    @property
    def temperature(self):
        return self._temperature

    @property
    def from_logits(self):
        return self._from_logits

    @property
    def activation(self):
        return self._activation

    def call(self, y_true, y_pred):
        soft_targets = ops.convert_to_tensor(y_true["soft_targets"] if isinstance(y_true, dict) else y_true)
        y_pred = ops.convert_to_tensor(y_pred)
        check_comparable(self, soft_targets, y_pred)
        teacher = as_logits(soft_targets, self.from_logits, self.activation) / self.temperature
        student = as_logits(y_pred, self.from_logits, self.activation) / self.temperature
        divergence = self.temperature**2 * kl_divergence(teacher, student)
        return divergence if self.activation == "softmax" else ops.mean(divergence, axis=-1)

    def get_config(self):
        config = {"temperature": self.temperature, "from_logits": self.from_logits, "activation": self.activation}
        return {**super().get_config(), **config}


def check_temperature(temperature):
    """Return `temperature` as a float, or raise `ValueError`."""
    is_number = isinstance(temperature, numbers.Real) and not isinstance(temperature, bool)
    if not is_number or not math.isfinite(temperature) or temperature <= 0:
        raise ValueError(
            f"`temperature` must be a positive, finite number, received: {temperature!r}. 1.0 is what Born-Again "
            "Networks used; 2 to 4 are common elsewhere."
        )
    return float(temperature)


def check_activation(activation):
    """Return `activation`, or raise `ValueError`."""
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be one of {ACTIVATIONS}, received: {activation!r}. 'softmax' is for one class out of "
            "many, 'sigmoid' for outputs that are each a yes or a no."
        )
    return activation


def check_comparable(loss, soft_targets, outputs):
    """Raise `ValueError` where a loss cannot compare soft targets with outputs, going by their shapes."""
    wanted, came = tuple(outputs.shape), tuple(soft_targets.shape)
    same = len(wanted) == len(came) and all(
        None in pair or pair[0] == pair[1] for pair in zip(wanted, came, strict=True)
    )
    if not same:
        raise ValueError(
            f"The soft targets have shape {came}, the student's outputs {wanted}: the two must be equal. Teacher and "
            "student must give the same outputs (the same classes) for the same examples."
        )
    if getattr(loss, "activation", None) == "softmax" and wanted[-1] == 1:
        raise ValueError(
            f"The models' outputs, of shape {wanted}, have one class: a softmax over it is always 1 and teaches "
            "nothing. A binary model is distilled with `activation='sigmoid'`."
        )
