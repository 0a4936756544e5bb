"""Schedules: numbers, or callables from the training step, or from the fraction of a training, to a number."""

from typing import Any, Self

import keras
from keras import ops

from keras_ban._src import checks, hints


@keras.saving.register_keras_serializable(package="keras_ban")
class OverTraining:
    """A schedule over a training: a function of the fraction of its steps that are done.

    `Distiller.fit` knows the number of steps, from `epochs` and the number of batches. So a schedule need not be given
    it. `keras_ban.OverTraining(lambda done: done)` as `label_weight` goes from the teacher alone to the labels alone,
    as in BAM (Clark et al., 2019). In a `BornAgainSequence` it starts again for each student.

    Step `i` of `n` has the fraction `i / n`: 0 at the first step, and `(n - 1) / n` at the last. `n` is the product of
    `epochs` and the steps of an epoch, which is the number of batches or `steps_per_epoch`. Each `fit` starts at
    `initial_epoch / epochs`: at 0, or where a training resumes. Epochs that a callback leaves out, as `EarlyStopping`
    does, do not change `n`.

    A `.keras` file and a run directory hold the function if it is registered with
    `keras.saving.register_keras_serializable`, or is a `keras.optimizers.schedules.LearningRateSchedule`.

    Example:

    ```python
    schedule = keras_ban.OverTraining(lambda done: 0.1 + 0.8 * done)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, label_weight=schedule)
    ```

    Args:
        function: `function(fraction)` returns a number. `fraction` is a float32 scalar tensor in `[0, 1]`. The function
            is part of a compiled step, so use `keras.ops`.

    Raises:
        TypeError: `function` is not callable.
    """

    def __init__(self, function: hints.Schedule) -> None:
        if not callable(function):
            raise TypeError(f"`function` must be a callable `function(fraction)`, received: {function!r}.")
        self._function = function

    @property
    def function(self) -> hints.Schedule:
        return self._function

    def __call__(self, fraction: hints.Tensor) -> Any:
        return self.function(fraction)

    def __repr__(self) -> str:
        return f"OverTraining({self.function!r})"

    def get_config(self) -> hints.Config:
        return {"function": keras.saving.serialize_keras_object(self.function)}

    @classmethod
    def from_config(cls, config: hints.Config) -> Self:
        return cls(from_config("function", config["function"]))


def is_schedule(value):
    """Whether a value is a schedule of a class. A function may be something else, for instance of the generation."""
    return isinstance(value, (keras.optimizers.schedules.LearningRateSchedule, OverTraining))


def from_config(name, config, custom_objects=None):
    """Create a number or a schedule, or a list of them, from its configuration, as a file holds it.

    Schedules are called as soon as there are. So a function must be one that the user registered, or that is in
    `custom_objects`. Any other function of Keras might be named by the file, too: it is refused with a `ValueError`.
    """
    if isinstance(config, list):
        return [from_config(name, each, custom_objects) for each in config]
    function = config.get("config") if isinstance(config, dict) and config.get("class_name") == "function" else None
    if function is None:
        value = keras.saving.deserialize_keras_object(config, custom_objects)
        if not callable(value) or is_schedule(value) or not type(value).__module__.startswith("keras."):
            return value
        function = type(value).__name__
    elif keras.saving.get_registered_object(function, custom_objects) is not None:
        return keras.saving.deserialize_keras_object(config, custom_objects)
    raise ValueError(
        f"The file names {function!r} as a schedule (`{name}`), which is no function that you have registered. Use "
        "`keras.saving.register_keras_serializable` for your own, or pass it as one of `custom_objects`. Functions of "
        "Keras, and its objects other than `LearningRateSchedule`s, are not called."
    )


def depends_on(schedule):
    """Return the name of what a schedule is a function of, as in `value_at`."""
    return "fraction" if isinstance(schedule, OverTraining) else "step"


def check_schedule(name, check, value):
    """Return `check(value)` for a number. Return a callable unchanged, if its first value passes the check.

    Of a schedule over the training, the values in the middle and at the end are checked, too.
    """
    if not callable(value):
        return check(value)
    kind = depends_on(value)
    places, dtype = ((0.0, 0.5, 1.0), "float32") if kind == "fraction" else ((0,), "int32")
    for place in places:
        try:
            number = ops.convert_to_tensor(value(ops.convert_to_tensor(place, dtype=dtype)), dtype="float32")
            number = ops.convert_to_numpy(number).item()
        except Exception as error:
            if checks.is_raised_by_user(error):
                raise
            argument = "a training step" if kind == "step" else "a fraction of the training"
            raise ValueError(
                f"`{name}` must be a number, or a callable that returns a number for {argument}, received: {value!r}. "
                f"For {kind} {place} it fails: {error!r}."
            ) from error
        check(number)
    return value


def value_at(value, moment, dtype="float32"):
    """Return a number unchanged. For a callable, return its value as a tensor `()`.

    `moment` is a dict with `"step"`, an int32 tensor `()`, and `"fraction"`, a float32 tensor `()`.
    """
    return ops.cast(value(moment[depends_on(value)]), dtype) if callable(value) else value
