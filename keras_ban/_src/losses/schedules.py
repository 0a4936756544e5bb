"""Numbers that may change over a run: each is a number, or a callable of the training step that gives one."""

import keras
from keras import ops


def check_schedule(name, check, value):
    """Return what `check` returns of a number; of a callable the callable itself, if its value at step 0 passes."""
    if not callable(value):
        return check(value)
    try:
        first = ops.convert_to_tensor(value(ops.convert_to_tensor(0, dtype="int32")), dtype="float32")
        first = ops.convert_to_numpy(first).item()
    except Exception as error:
        raise ValueError(
            f"`{name}` is callable, so that it must give a number for a training step, but for step 0 it gave none: "
            f"{error!r}. Received: {value!r}."
        ) from error
    check(first)
    return value


def value_at(value, step, dtype="float32"):
    """The number as it is; what a callable gives, as a tensor `()`."""
    return ops.cast(value(step), dtype) if callable(value) else value


def serialize(value):
    return keras.saving.serialize_keras_object(value) if callable(value) else value
