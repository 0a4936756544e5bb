"""The learning rate of a model that is trained longer than its schedule was made for."""

import warnings

import keras

from keras_ban._src.sequence.recipes import Recipe

# Keras's schedules with an end, and those without one. (`CosineDecayRestarts` begins again and again.)
_WITH_END = ("CosineDecay", "PiecewiseConstantDecay", "PolynomialDecay")
_WITHOUT_END = ("CosineDecayRestarts", "ExponentialDecay", "InverseTimeDecay")


def stretched(compile_arguments, ratio):
    """Return `CompileArguments` whose optimizer's schedules end after `ratio` times as many steps, if they end.

    Raises:
        ValueError: the warm-up of a schedule leaves no step.
    """
    recipe = Recipe(compile_arguments.make()["optimizer"])
    for schedule in _schedules(recipe.config):
        if schedule["class_name"] in _WITH_END:
            _stretch(schedule["config"], ratio)
    return compile_arguments.with_optimizer(recipe.make())


def check(compile_arguments, epochs, first):
    """Raise `ValueError` if a schedule cannot have the lengths of generations.

    `epochs` is a list with those of each generation from `first`.
    """
    for generation, each in enumerate(epochs, start=first):
        try:
            stretched(compile_arguments, each / epochs[0])
        except ValueError as error:
            raise ValueError(f"Generation {generation}: {error}") from None


def ends(compile_arguments):
    """Whether a schedule of the optimizer is one of Keras that ends."""
    return any(schedule["class_name"] in _WITH_END for schedule in _schedules_of(compile_arguments))


def warn_of_others(problem, compile_arguments, callbacks):
    """Warn of schedules that may end, but cannot be stretched. `callbacks` are as in `BornAgainSequence.fit`."""
    names = [schedule["class_name"] for schedule in _schedules_of(compile_arguments)]
    others = [f"the schedule {name}" for name in names if name not in _WITH_END + _WITHOUT_END]
    given = callbacks if isinstance(callbacks, (list, tuple)) else [callbacks]
    if any(isinstance(callback, keras.callbacks.LearningRateScheduler) for callback in given):
        others.append("a `LearningRateScheduler`")
    if others:
        warnings.warn(
            f"{problem}: {' and '.join(others)} may end with a generation, and then a longer training ends at the last "
            "rate. Pass a schedule of Keras to the optimizer: `CosineDecay`, `PolynomialDecay` and "
            "`PiecewiseConstantDecay` are stretched to its length.",
            stacklevel=4,
        )


def _schedules_of(compile_arguments):
    return _schedules(Recipe(compile_arguments.make()["optimizer"]).config)


def _schedules(config):
    """Yield the serialized schedules in an optimizer's configuration, also those of optimizers in it."""
    if isinstance(config, (list, tuple)):
        for each in config:
            yield from _schedules(each)
    elif isinstance(config, dict):
        rate = config.get("learning_rate")
        if isinstance(rate, dict) and "class_name" in rate:
            yield rate
        elif callable(rate):
            yield {"class_name": getattr(rate, "__name__", type(rate).__name__)}
        for name, each in config.items():
            if name != "learning_rate":
                yield from _schedules(each)


def _stretch(config, ratio):
    if "boundaries" in config:
        config["boundaries"] = [round(ratio * step) for step in config["boundaries"]]
        return
    if config.get("cycle"):
        return  # It begins again and again.
    # A warm-up keeps its length.
    warmup = config.get("warmup_steps") or 0 if config.get("warmup_target") is not None else 0
    steps = round(ratio * (config["decay_steps"] + warmup))
    if warmup and steps <= warmup:
        raise ValueError(
            f"The warm-up of the learning rate has {warmup} steps, but the schedule, as long as this generation, has "
            f"{steps}. Give the generation more `epochs`, or the schedule a shorter warm-up."
        )
    config["decay_steps"] = max(steps - warmup, 1)
