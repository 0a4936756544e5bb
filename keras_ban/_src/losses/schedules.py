"""Schedules: numbers, or callables from the training step to a number."""

from keras import ops


def check_schedule(name, check, value):
    """Return `check(value)` for a number. Return a callable unchanged, if its value at step 0 passes the check."""
    if not callable(value):
        return check(value)
    try:
        first = ops.convert_to_tensor(value(ops.convert_to_tensor(0, dtype="int32")), dtype="float32")
        first = ops.convert_to_numpy(first).item()
    except Exception as error:
        raise ValueError(
            f"`{name}` must be a number, or a callable that returns a number for a training step, received: {value!r}. "
            f"For step 0 it fails: {error!r}."
        ) from error
    check(first)
    return value


def value_at(value, step, dtype="float32"):
    """Return a number unchanged. For a callable, return its value as a tensor `()`."""
    return ops.cast(value(step), dtype) if callable(value) else value
