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
        Logits, `(..., classes)`, or `(..., classes, 2)` for `"sigmoid"`.
    """
    if from_logits:
        return outputs if activation == "softmax" else ops.stack([outputs, ops.zeros_like(outputs)], axis=-1)
    if activation == "sigmoid":
        outputs = ops.stack([outputs, 1.0 - outputs], axis=-1)
    return ops.log(ops.maximum(outputs, ops.cast(_SMALLEST_PROBABILITY, outputs.dtype)))


def kl_divergence(teacher, student):
    """Divergence of `softmax(student)` from `softmax(teacher)` over the last axis, to the last bits of the dtype.

    The textbook sum of `p * (log p - log q)` loses its digits where the two are close, because its terms are large,
    of either sign, and cancel. Here `q - p`, which sums to 0, is added to each term, and with
    `y = (log p - log q) / 2`, whose `tanh(y)` is `(p - q) / (p + q)`, a term becomes
    `(p + q) * (y * tanh(y) + (y - tanh(y)))`: one part of second order in `y`, which is never negative, and one of
    third order. `y - tanh(y)` near 0 comes from a polynomial. Where the two are equal, value and gradient are exactly
    0.

    The gradient with respect to the student's logits is given in closed form, `q - p = -(p + q) * tanh(y)`: it costs
    less than differentiating the steps above would. The teacher's is taken as 0.

    Args:
        teacher: logits, `(..., classes)`; those below -1e30 count as -1e30.
        student: logits, same shape.

    Returns:
        Non-negative tensor `(...)`.
    """
    teacher = ops.stop_gradient(_finite_logits(teacher))

    @ops.custom_gradient
    def divergence(student):
        student = _finite_logits(student)
        teacher_max = ops.max(teacher, axis=-1, keepdims=True)
        student_max = ops.max(student, axis=-1, keepdims=True)
        p, q = ops.exp(teacher - teacher_max), ops.exp(student - student_max)
        teacher_sum = ops.sum(p, axis=-1, keepdims=True)
        student_sum = ops.sum(q, axis=-1, keepdims=True)
        q = q / student_sum
        both = p / teacher_sum + q
        # The differences of the large numbers come first: they are exact where the two are close.
        y = 0.5 * ((teacher - student) - ((teacher_max - student_max) + ops.log(teacher_sum / student_sum)))
        tanh, square = ops.tanh(y), y * y
        third_order = ops.where(square < 0.25**2, y * square * _horner(square, _Y_MINUS_TANH), y - tanh)
        value = ops.sum(both * (y * tanh + third_order), axis=-1)
        difference = both * tanh

        def gradient(*args, upstream=None):
            upstream = args[0] if upstream is None else upstream
            # All `y` share the rounding of the sums. It drops out where the differences are made to add up to 0.
            return ops.expand_dims(upstream, -1) * (q * ops.sum(difference, axis=-1, keepdims=True) - difference)

        return value, gradient

    return divergence(student)


# Of `(y - tanh(y)) / y**3` in `y**2`, for |y| <= 0.25: the polynomial whose largest error, 1.6e-7, is the least. The
# Taylor series would take one term more.
_Y_MINUS_TANH = (0.3333331726457523, -0.13328699018679058, 0.05197494309654339)


def _horner(x, coefficients):
    """`c[0] + c[1] * x + c[2] * x**2 + ...`"""
    total = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = coefficient + x * total
    return total


def _finite_logits(logits):
    return ops.maximum(logits, ops.cast(_SMALLEST_LOGIT, logits.dtype))


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
        teacher = as_logits(soft_targets, self.from_logits, self.activation)
        student = as_logits(y_pred, self.from_logits, self.activation)
        if self.temperature != 1:
            teacher, student = teacher / self.temperature, student / self.temperature
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
