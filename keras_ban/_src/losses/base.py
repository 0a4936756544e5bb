"""What the distillation losses share: how outputs become logits, the divergence, and the checks."""

import math
import numbers

import keras
from keras import ops

from keras_ban._src import backend, checks
from keras_ban._src.losses.masks import mask_of
from keras_ban._src.losses.precision import precision
from keras_ban._src.losses.schedules import check_schedule, serialize, value_at

# Probabilities below this count as this: log(1e-30) = -69, far under anything that a float32 softmax is trusted to
# tell apart, while 1 / 1e-30, which appears in the gradient, leaves room for factors of up to 1e8 before it overflows.
_SMALLEST_PROBABILITY = 1e-30
# Stands in for a logit of -inf (a class that was masked out): -inf - -inf would be NaN.
SMALLEST_LOGIT = -1e30

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
    """Divergence of `softmax(student)` from `softmax(teacher)` over the last axis, to the last bits of float32.

    The textbook sum of `p * (log p - log q)` loses its digits where the two are close, because its terms are large,
    of either sign, and cancel. Here `q - p`, which sums to 0, is added to each term, and with
    `y = (log p - log q) / 2`, whose `tanh(y)` is `(p - q) / (p + q)`, a term becomes
    `(p + q) * (y * tanh(y) + (y - tanh(y)))`: one part of second order in `y`, which is never negative, and one of
    third order. `y - tanh(y)` near 0 comes from a polynomial (in float64, where it is not better than 2e-9 of the
    whole, too). Where the two are equal, value and gradient are exactly 0.

    The gradient with respect to the student's logits is given in closed form, `q - p = -(p + q) * tanh(y)`: it costs
    less than differentiating the steps above would. The teacher's is taken as 0.

    Args:
        teacher: logits, `(..., classes)`; those below -1e30 count as -1e30.
        student: logits, same shape.

    Returns:
        Non-negative tensor `(...)`.
    """
    # The teacher is an argument and no constant from outside, which JAX could not trace in a function of its own.
    return _divergence(ops.stop_gradient(teacher), student)


@ops.custom_gradient
def _divergence(teacher, student):
    y, tanh, both, q = _compare(teacher, student)
    square = y * y
    near = y * tanh + y * square * _horner(square, _Y_MINUS_TANH)
    # Written so that a class of probability 0 on one side leaves the other's probability, and not 0.
    far = y * (1.0 + tanh) - tanh
    value = ops.sum(both * ops.where(square < 0.25**2, near, far), axis=-1)
    difference = both * tanh

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        slope, step = q, difference
        if backend.differentiates_gradients():
            _, again, total, slope = _compare(*args)
            step = total * again
        # All `y` share the rounding of the sums. It drops out where the differences are made to add up to 0.
        step = slope * ops.sum(step, axis=-1, keepdims=True) - step
        return ops.zeros_like(teacher), ops.expand_dims(upstream, -1) * step

    return value, gradient


def _compare(teacher, student):
    """`(y, tanh(y), p + q, q)` of `kl_divergence`."""
    teacher, student = finite_logits(teacher), finite_logits(student)
    teacher_max = ops.max(teacher, axis=-1, keepdims=True)
    student_max = ops.max(student, axis=-1, keepdims=True)
    p, q = ops.exp(teacher - teacher_max), ops.exp(student - student_max)
    teacher_sum, student_sum = ops.sum(p, axis=-1, keepdims=True), ops.sum(q, axis=-1, keepdims=True)
    q = q / student_sum
    # The differences of the large numbers come first: they are exact where the two are close.
    y = 0.5 * ((teacher - student) - ((teacher_max - student_max) + ops.log(teacher_sum / student_sum)))
    return y, ops.tanh(y), p / teacher_sum + q, q


# Of `(y - tanh(y)) / y**3` in `y**2`, for |y| <= 0.25: the polynomial whose largest error, 1.6e-7, is the least. The
# Taylor series would take one term more.
_Y_MINUS_TANH = (0.3333331726457523, -0.13328699018679058, 0.05197494309654339)


def _horner(x, coefficients):
    """`c[0] + c[1] * x + c[2] * x**2 + ...`"""
    total = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = coefficient + x * total
    return total


def finite_logits(logits):
    """Logits of which none is -inf."""
    return ops.maximum(logits, ops.cast(SMALLEST_LOGIT, logits.dtype))


class SoftTargetLoss(keras.losses.Loss):
    """What is the same in every loss of this package: its precision, and what it is given.

    A subclass implements `compare(y_true, soft_targets, y_pred, temperature)`. `y_true` is a dict of what came:
    `"soft_targets"`; `"labels"`, if there are any; `"mask"`, if Keras gave the outputs one: 1 for what counts, 0 for
    padding; and `"step"`, which a Distiller adds where the temperature changes over the run.
    """

    def __init__(self, temperature, from_logits, activation, reduction, name):
        checks.check_text("name", name)
        checks.check_text("reduction", reduction)
        super().__init__(name=name, reduction=reduction, dtype=precision())
        self._temperature = check_schedule("temperature", check_temperature, temperature)
        self._from_logits = checks.check_flag("from_logits", from_logits)
        self._activation = check_activation(activation)

    # Settings are read-only: a compiled training step would go on with the old value, without a word.
    @property
    def temperature(self):
        return self._temperature

    @property
    def from_logits(self):
        return self._from_logits

    @property
    def activation(self):
        return self._activation

    def __call__(self, y_true, y_pred, sample_weight=None):
        y_true = y_true if isinstance(y_true, dict) else {"soft_targets": y_true}
        # Keras leaves padding out when it reduces, after `call`: too late for a loss that normalises over the batch.
        mask = mask_of(y_pred)
        y_true = {name: value for name, value in {**y_true, "mask": mask}.items() if value is not None}
        y_true = {name: ops.convert_to_tensor(value, self.dtype) for name, value in y_true.items()}
        if "soft_targets" not in y_true:
            raise ValueError(
                f"`y_true` must be the soft targets, or a dict with 'soft_targets', received a dict of {list(y_true)}."
            )
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true, y_pred):
        y_pred = ops.convert_to_tensor(y_pred)
        check_comparable(self, y_true["soft_targets"], y_pred)
        if callable(self.temperature) and "step" not in y_true:
            raise ValueError(
                f"The temperature of `{type(self).__name__}` changes with the training step, which a `Distiller` tells "
                "it. Elsewhere call the loss with `y_true={'soft_targets': ..., 'step': ...}`."
            )
        step = ops.cast(ops.round(y_true["step"]), "int32") if "step" in y_true else None
        temperature = value_at(self.temperature, step, self.dtype)
        return self.compare(y_true, y_true["soft_targets"], y_pred, temperature)

    def logits(self, outputs, temperature):
        """Logits of a softmax over the last axis, divided by the temperature."""
        logits = as_logits(outputs, self.from_logits, self.activation)
        return logits / temperature if callable(self.temperature) or temperature != 1 else logits

    def get_config(self):
        return {**super().get_config(), "temperature": serialize(self.temperature), "from_logits": self.from_logits}

    @classmethod
    def from_config(cls, config):
        if "temperature" in config:
            config = {**config, "temperature": keras.saving.deserialize_keras_object(config["temperature"])}
        return cls(**config)


def class_probabilities(loss, y_true, outputs, ignore_class=None):
    """Labels, whole numbers or one-hot, as a distribution over the classes.

    Args:
        loss: the loss that wants them.
        y_true: its dict, whose labels are `(batch, ...)`, `(batch, ..., 1)` or `(batch, ..., classes)`.
        outputs: the student's outputs, `(batch, ..., classes)`.
        ignore_class: a label, a whole number, that stands for none.

    Returns:
        `(probabilities, counted)`: `(batch, ..., classes)`, and `(batch, ...)`: 0 where the label is `ignore_class`.

    Raises:
        ValueError: there are no labels, or they do not fit the outputs.
    """
    if "labels" not in y_true:
        raise ValueError(
            f"`{type(loss).__name__}` needs labels, and there are none: pass `y` to `fit` (with `label_weight=0` too), "
            "or call the loss with `y_true={'labels': ..., 'soft_targets': ...}`."
        )
    labels, shape = y_true["labels"], tuple(outputs.shape)
    if same_shape(labels.shape, shape):
        return labels, ops.ones_like(labels[..., 0])
    if same_shape(labels.shape, (*shape[:-1], 1)):
        labels = ops.squeeze(labels, axis=-1)
    if not same_shape(labels.shape, shape[:-1]):
        raise ValueError(
            f"The labels have shape {tuple(y_true['labels'].shape)}, the student's outputs {shape}: labels must be "
            f"whole numbers of shape {shape[:-1]} or {(*shape[:-1], 1)}, or one-hot of shape {shape}."
        )
    # Keras has cast all of `y_true` to float32, in which whole numbers below 2**24 are exact.
    labels = ops.cast(ops.round(labels), "int32")
    counted = ops.ones_like(labels)
    if ignore_class is not None:
        counted = ops.cast(labels != ignore_class, "int32")
        labels = labels * counted
    return ops.one_hot(labels, shape[-1], dtype=outputs.dtype), ops.cast(counted, outputs.dtype)


def counted_examples(y_true, like):
    """1 for every example (or token) that counts, 0 for padding, in the shape and dtype of `like`."""
    if "mask" not in y_true:
        return ops.ones_like(like)
    mask = ops.cast(y_true["mask"], like.dtype)
    while len(mask.shape) < len(like.shape):
        mask = ops.expand_dims(mask, -1)
    return ops.broadcast_to(mask, ops.shape(like))


def is_finite_number(value):
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False  # 10**400 is a number that no float holds.


def check_temperature(temperature):
    """Return `temperature` as a float, or raise `ValueError`."""
    if not is_finite_number(temperature) or temperature <= 0:
        raise ValueError(
            f"`temperature` must be a positive, finite number, received: {temperature!r}. 1.0 is what Born-Again "
            "Networks used; 2 to 4 are common elsewhere."
        )
    return float(temperature)


def check_weight(name, weight):
    """Return `weight` as a float, or raise `ValueError`."""
    if not is_finite_number(weight) or weight < 0:
        raise ValueError(f"`{name}` must be a finite number of at least 0, received: {weight!r}.")
    return float(weight)


def check_activation(activation):
    """Return `activation`, or raise `ValueError`."""
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be one of {ACTIVATIONS}, received: {activation!r}. 'softmax' is for one class out of "
            "many, 'sigmoid' for outputs that are each a yes or a no."
        )
    return activation


def check_comparable(loss, soft_targets, outputs):
    """Raise `ValueError` where a loss cannot compare soft targets with outputs, going by their shapes."""
    wanted, came = tuple(outputs.shape), tuple(soft_targets.shape)
    if not same_shape(wanted, came):
        raise ValueError(
            f"The soft targets have shape {came}, the student's outputs {wanted}: the two must be equal. Teacher and "
            "student must give the same outputs (the same classes) for the same examples."
        )
    if getattr(loss, "activation", None) == "softmax" and wanted[-1] == 1:
        raise ValueError(
            f"The models' outputs, of shape {wanted}, have one class: a softmax over it is always 1 and teaches "
            "nothing. A binary model is distilled with `activation='sigmoid'`."
        )


def same_shape(one, other):
    """Whether two shapes are equal as far as they are known."""
    return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))
