"""The base class of the distillation losses, the divergence, and checks of arguments."""

import math
import numbers
from typing import Any, Self

import keras
import numpy as np
from keras import ops

from keras_ban._src import backend, checks, hints
from keras_ban._src.losses.masks import mask_of
from keras_ban._src.losses.precision import precision
from keras_ban._src.losses.schedules import check_schedule, depends_on, from_config, value_at

# The lower bound of probabilities. log(1e-30) = -69 is below anything that a softmax in float32 can resolve. The
# gradient contains 1 / 1e-30, which overflows only if it is multiplied by more than 1e8.
_SMALLEST_PROBABILITY = 1e-30
# Replaces a logit of -inf (a masked class), because -inf - -inf is NaN.
SMALLEST_LOGIT = -1e30

ACTIVATIONS = ("softmax", "sigmoid")
#: Read it from the label loss and from the last layers of the models.
AUTO = "auto"


def as_logits(outputs, from_logits=True, activation="softmax"):
    """Convert a model's outputs `(..., classes)` to logits of a softmax over the last axis.

    The logarithm of probabilities is used as logits. With `activation="sigmoid"`, each output becomes a distribution
    over yes and no, so the result is `(..., classes, 2)`.
    """
    if from_logits:
        return outputs if activation == "softmax" else ops.stack([outputs, ops.zeros_like(outputs)], axis=-1)
    if activation == "sigmoid":
        outputs = ops.stack([outputs, 1.0 - outputs], axis=-1)
    return ops.log(ops.maximum(outputs, ops.cast(_SMALLEST_PROBABILITY, outputs.dtype)))


def kl_divergence(teacher, student):
    """Compute `KL(softmax(teacher) || softmax(student))` over the last axis, accurate to the last bits of float32.

    The textbook sum of `p * (log p - log q)` loses precision if `p` and `q` are close: its terms are large, have both
    signs, and cancel. Here `q - p`, which sums to 0, is added to each term. With `y = (log p - log q) / 2` and
    `tanh(y) = (p - q) / (p + q)`, a term becomes `(p + q) * (y * tanh(y) + (y - tanh(y)))`. Its first part is of second
    order in `y` and never negative, its second part is of third order. Near 0, a polynomial computes `y - tanh(y)`. In
    float64 its error is 2e-9 of the whole. If `p` and `q` are equal, value and gradient are exactly 0.

    The gradient with respect to the student's logits has the closed form `q - p = -(p + q) * tanh(y)`, which costs
    less than differentiating the steps above. The gradient with respect to the teacher's logits is 0.

    Args:
        teacher: logits, `(..., classes)`. Logits below -1e30 count as -1e30.
        student: logits, same shape.

    Returns:
        Non-negative tensor `(...)`.
    """
    # The teacher is an argument: JAX cannot trace a function that uses a tensor from outside.
    return _divergence(ops.stop_gradient(teacher), student)


@ops.custom_gradient
def _divergence(teacher, student):
    y, tanh, both, q = _compare(teacher, student)
    square = y * y
    constant, linear, quadratic = _Y_MINUS_TANH
    near = y * tanh + y * square * (constant + square * (linear + square * quadratic))
    # In this form, a class with probability 0 on one side contributes the other side's probability.
    far = y * (1.0 + tanh) - tanh
    value = ops.sum(both * ops.where(square < 0.25**2, near, far), axis=-1)
    difference = both * tanh

    def gradient(*args, upstream=None):
        upstream = args[0] if upstream is None else upstream
        slope, step = q, difference
        if backend.differentiates_gradients():
            _, again, total, slope = _compare(*args)
            step = total * again
        # All `y` have the same rounding error, from the sums. It cancels if the differences add up to 0.
        step = slope * ops.sum(step, axis=-1, keepdims=True) - step
        return ops.zeros_like(teacher), ops.expand_dims(upstream, -1) * step

    return value, gradient


def _compare(teacher, student):
    """Return `(y, tanh(y), p + q, q)` as in `kl_divergence`."""
    teacher, student = finite_logits(teacher), finite_logits(student)
    teacher_max = ops.max(teacher, axis=-1, keepdims=True)
    student_max = ops.max(student, axis=-1, keepdims=True)
    p, q = ops.exp(teacher - teacher_max), ops.exp(student - student_max)
    teacher_sum, student_sum = ops.sum(p, axis=-1, keepdims=True), ops.sum(q, axis=-1, keepdims=True)
    q = q / student_sum
    # Subtract the large numbers first: their differences are exact if teacher and student are close.
    y = 0.5 * ((teacher - student) - ((teacher_max - student_max) + ops.log(teacher_sum / student_sum)))
    return y, ops.tanh(y), p / teacher_sum + q, q


# The polynomial in `y**2` that is closest to `(y - tanh(y)) / y**3` for |y| <= 0.25: its maximum error is 1.6e-7. The
# Taylor series would need one more term.
_Y_MINUS_TANH = (0.3333331726457523, -0.13328699018679058, 0.05197494309654339)


def finite_logits(logits):
    """Replace logits of -inf by -1e30."""
    return ops.maximum(logits, ops.cast(SMALLEST_LOGIT, logits.dtype))


class SoftTargetLoss(keras.losses.Loss):
    """Base class of the distillation losses.

    A subclass implements `compare(y_true, y_pred, temperature)`. `y_true` is a dict with
    `"soft_targets"`, and optionally `"labels"`, `"mask"` (the Keras mask of the outputs: 1 for values that count, 0 for
    padding), `"step"` and `"fraction"` (a Distiller adds them if the temperature is a schedule). Each class says in
    `labels_as` what labels are to it: a `"distribution"` over the classes, the one true `"class"`, or nothing, `None`;
    and in `settings` the arguments that its configuration holds, besides those of `keras.losses.Loss`.
    """

    settings: tuple[str, ...] = ("temperature", "from_logits")

    def __init__(
        self,
        temperature: hints.Scheduled,
        from_logits: hints.FromLogits,
        activation: hints.Activation,
        reduction: str | None,
        name: str | None,
    ) -> None:
        checks.check_text("name", name)
        checks.check_text("reduction", reduction)
        super().__init__(name=name, reduction=reduction, dtype=precision())
        self.temperature: hints.Scheduled = check_schedule("temperature", check_temperature, temperature)
        self.from_logits: hints.FromLogits = check_from_logits(from_logits)
        # Whether `from_logits` is "auto", or was until it was resolved.
        self.reads_models = self.from_logits == AUTO
        self.activation: hints.Activation = check_activation(activation)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in (*self.settings, "temperature", "activation", "reads_models") and name in vars(self):
            raise AttributeError(
                f"`{name}` cannot be replaced in `{type(self).__name__}`: a compiled training step would go on with "
                "the old value. Create a new loss."
            )
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)
        return f"<{type(self).__name__} {settings}>"

    def __call__(self, y_true: Any, y_pred: hints.Tensor, sample_weight: Any = None) -> hints.Tensor:
        y_true = y_true if isinstance(y_true, dict) else {"soft_targets": y_true}
        # Keras applies the mask after `call`, which is too late for a loss that normalizes over the batch.
        y_true = {**y_true, "mask": mask_of(y_pred)}
        y_true = {name: ops.convert_to_tensor(each, self.dtype) for name, each in y_true.items() if each is not None}
        if "soft_targets" not in y_true:
            raise ValueError(
                f"`y_true` must be the soft targets, or a dict with 'soft_targets', received a dict of {list(y_true)}."
            )
        return super().__call__(y_true, y_pred, sample_weight)

    def call(self, y_true: Any, y_pred: hints.Tensor) -> hints.Tensor:
        y_pred = ops.convert_to_tensor(y_pred)
        check_comparable(self, y_true["soft_targets"], y_pred)
        needed = depends_on(self.temperature)
        if callable(self.temperature) and needed not in y_true:
            of_what = "step" if needed == "step" else "progress"
            raise ValueError(
                f"The temperature of `{type(self).__name__}` changes with the training {of_what}, which a `Distiller` "
                f"tells it. Without one, call the loss with `y_true={{'soft_targets': ..., '{needed}': ...}}`."
            )
        moment = {"fraction": ops.cast(y_true["fraction"], "float32")} if "fraction" in y_true else {}
        if "step" in y_true:
            moment["step"] = ops.cast(ops.round(y_true["step"]), "int32")
        temperature = value_at(self.temperature, moment, self.dtype)
        return self.compare(y_true, y_pred, temperature)

    def resolved(self, from_logits: hints.FromLogits) -> Self:
        """Return a copy with `from_logits` in place of "auto". It draws from the same random generator, if any."""
        resolved = object.__new__(type(self))  # `copy.copy` of a loss of Keras makes it anew, with another generator.
        resolved.__dict__.update(self.__dict__, from_logits=from_logits)
        return resolved

    def logits(self, outputs: hints.Tensor, temperature: Any) -> hints.Tensor:
        """Convert outputs to logits of a softmax over the last axis, divided by the temperature."""
        logits = as_logits(outputs, self.from_logits is not False, self.activation)
        return logits / temperature if callable(self.temperature) or temperature != 1 else logits

    def get_config(self) -> hints.Config:
        settings = {name: keras.saving.serialize_keras_object(getattr(self, name)) for name in self.settings}
        return {**super().get_config(), **settings}

    @classmethod
    def from_config(cls, config: hints.Config) -> Self:
        if "temperature" in config:
            config = {**config, "temperature": from_config("temperature", config["temperature"])}
        return cls(**config)


def class_probabilities(loss, y_true, outputs, ignore_class=None):
    """Convert labels to distributions over the classes.

    Args:
        loss: the loss, for error messages.
        y_true: a dict with `"labels"`: whole numbers `(batch, ...)` or `(batch, ..., 1)`, or distributions
            `(batch, ..., classes)`.
        outputs: the student's outputs, `(batch, ..., classes)`.
        ignore_class: the whole number that marks an example without a label.

    Returns:
        `(probabilities, counted)`: `(batch, ..., classes)`, and `(batch, ...)` with 0 if the label is `ignore_class`.
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
    # Keras has cast the labels to float32, which holds whole numbers below 2**24 exactly.
    labels = ops.cast(ops.round(labels), "int32")
    counted = ops.ones_like(labels)
    if ignore_class is not None:
        counted = ops.cast(labels != ignore_class, "int32")
        labels = labels * counted
    return ops.one_hot(labels, shape[-1], dtype=outputs.dtype), ops.cast(counted, outputs.dtype)


def counted_examples(y_true, like):
    """Return 1 for each example (or token) that counts, 0 for padding, in the shape and dtype of `like`."""
    if "mask" not in y_true:
        return ops.ones_like(like)
    return ops.broadcast_to(in_rank(ops.cast(y_true["mask"], like.dtype), len(like.shape)), ops.shape(like))


def in_rank(values, rank):
    """Return values in a rank. Axes of size 1 at their end are added or removed."""
    while len(values.shape) > rank and values.shape[-1] == 1:
        values = ops.squeeze(values, axis=-1)
    while len(values.shape) < rank:
        values = ops.expand_dims(values, -1)
    return values


def in_shape_of(weights, other):
    """Return a copy of weights in the shape of another tensor. Keras on torch multiplies weights by a mask in place."""
    return in_rank(weights, len(other.shape)) * ops.ones_like(other, dtype=weights.dtype)


def is_finite_number(value):
    """Return whether `value` is a finite real number that fits into a float, and not a bool."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False  # For instance 10**400.


def check_positive(name, value):
    """Return `value` as a float, or raise `ValueError`."""
    if not is_finite_number(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive, finite number, received: {value!r}.")
    return float(value)


def check_temperature(temperature):
    """Return `temperature` as a float, or raise `ValueError`."""
    return check_positive("temperature", temperature)


def check_weight(name, weight):
    """Return `weight` as a float, or raise `ValueError`."""
    if not is_finite_number(weight) or weight < 0:
        raise ValueError(f"`{name}` must be a finite number of at least 0, received: {weight!r}.")
    return float(weight)


def check_from_logits(from_logits):
    """Return `"auto"` or a bool, or raise `ValueError`."""
    if isinstance(from_logits, str) and from_logits == AUTO:
        return AUTO
    if not isinstance(from_logits, (bool, np.bool_)):
        raise ValueError(f"`from_logits` must be True, False or 'auto', received: {from_logits!r}.")
    return bool(from_logits)


def check_activation(activation):
    """Return `activation`, or raise `ValueError`."""
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(
            f"`activation` must be one of {ACTIVATIONS}, received: {activation!r}. Use 'softmax' for one class of "
            "several, 'sigmoid' for independent yes-or-no outputs."
        )
    return activation


def check_comparable(loss, soft_targets, outputs, is_regression=False):
    """Raise `ValueError` if the shapes of soft targets and outputs differ, or do not suit the loss.

    `is_regression` is whether the label loss is that of a regression.
    """
    wanted, came = tuple(outputs.shape), tuple(soft_targets.shape)
    if not same_shape(wanted, came):
        raise ValueError(
            f"The soft targets have shape {came}, the student's outputs {wanted}: the two must be equal. Use a teacher "
            "and a student with the same classes, and the same examples."
        )
    if getattr(loss, "activation", None) == "softmax" and wanted[-1] == 1:
        kind, instead = "binary model", "`keras_ban.losses.KnowledgeDistillation(activation='sigmoid')`"
        if is_regression:
            kind, instead = "regression", "`keras.losses.MeanSquaredError()`"
        raise ValueError(
            f"The models' outputs, of shape {wanted}, have one class, whose softmax is always 1. For a {kind} use "
            f"{instead} as `distillation_loss`."
        )


def same_shape(one, other):
    """Return whether two shapes are equal. An axis of unknown size equals any."""
    return len(one) == len(other) and all(None in pair or pair[0] == pair[1] for pair in zip(one, other, strict=True))
