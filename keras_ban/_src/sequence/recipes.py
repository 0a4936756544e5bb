"""What each generation gets anew: optimizers, metrics, callbacks."""

import copy
import inspect
import json
import warnings

import keras

from keras_ban._src import checks


class Recipe:
    """How to make an object anew from the configuration it had when the recipe was written."""

    def __init__(self, original):
        self._class = type(original)
        self._config = original.get_config()
        lost = _lost_arguments(self._class, self._config)
        if lost:
            raise ValueError(f"it does not hold the constructor's arguments {lost}, which would become their defaults")

    def make(self):
        return self._class.from_config(copy.deepcopy(self._config))


def _lost_arguments(cls, config):
    """The constructor's arguments that a configuration does not hold, of custom classes with Keras's `from_config`."""
    plain = (keras.optimizers.Optimizer.from_config.__func__, keras.metrics.Metric.from_config.__func__)
    if cls.__module__.split(".")[0] == "keras" or cls.from_config.__func__ not in plain:
        return []
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(cls).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.name not in config]


def as_recipe(name, value):
    """A `Recipe` for optimizers and metrics; what holds no state (names, functions) as it is."""
    if not isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        return value
    try:
        recipe = Recipe(value)
        recipe.make()
    except Exception as error:
        raise ValueError(
            f"`{name}`: {value!r} cannot be made anew for each generation from its `get_config()`: {error}. Complete "
            "its `get_config`, and register custom classes in it with `keras.saving.register_keras_serializable`."
        ) from error
    return recipe


class CompileArguments:
    """Arguments of `keras.Model.compile`, which are made anew for each model, and can be written down."""

    def __init__(self, optimizer, metrics, weighted_metrics, **others):
        self._arguments = {
            "optimizer": as_recipe("optimizer", keras.optimizers.get(optimizer)),
            "metrics": keras.tree.map_structure(lambda metric: as_recipe("metrics", metric), metrics),
            "weighted_metrics": keras.tree.map_structure(lambda m: as_recipe("weighted_metrics", m), weighted_metrics),
            **others,
        }

    @property
    def loss(self):
        return self._arguments["loss"]

    def make(self):
        """Arguments for one model."""
        return keras.tree.map_structure(
            lambda value: value.make() if isinstance(value, Recipe) else value, self._arguments
        )

    def compile(self, model):
        """Compile a trained model: what was done with the optimizer is done, who trains on begins afresh."""
        model.compile(**self.make())
        # It is built, because Keras builds the optimizer of a model that it loads, and warns where the file lacks it.
        model.optimizer.build(model.trainable_variables)

    def to_config(self):
        """As plain data, by name; of what Keras cannot write down without running code later, only the type."""
        return {name: as_config(value) for name, value in self.make().items()}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """The reverse of `to_config`.

        Raises:
            ValueError: something could not be written down, or its class or function is not known; it is named.
        """
        lost = [f"`{name}` ({value[_UNWRITTEN]})" for name, value in config.items() if _is_unwritten(value)]
        if lost:
            raise ValueError(f"{', '.join(lost)} could not be written down")
        return cls(**{name: from_config(name, value, custom_objects) for name, value in config.items()})


_UNWRITTEN = "cannot be written down"


def as_config(value):
    """As plain data; of what Keras cannot write down without running code later, only the type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras warns of lambdas, which it would write down as code.
            return json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
    except Exception:
        kinds = [getattr(leaf, "__qualname__", type(leaf).__qualname__) for leaf in keras.tree.flatten(value)]
        return {_UNWRITTEN: ", ".join(kinds)}


def from_config(name, value, custom_objects=None):
    """The reverse of `as_config`.

    Raises:
        ValueError: it could not be written down, or its class or function is not known; `name` and it are named.
    """
    if _is_unwritten(value):
        raise ValueError(f"`{name}` ({value[_UNWRITTEN]}) could not be written down")
    try:
        return keras.saving.deserialize_keras_object(value, custom_objects)
    except Exception as error:
        raise ValueError(f"`{name}` is not known to Keras: {error}") from error


def _is_unwritten(value):
    return isinstance(value, dict) and _UNWRITTEN in value


# What these do in an epoch depends on nothing that they did in those before: with them too a generation can go on after
# any epoch. (Their subclasses may count.)
_STATELESS_CALLBACKS = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.TerminateOnNaN,
)


def counts_nothing(callback):
    """Whether it is one of these, or says of itself that it is like them."""
    return type(callback) in _STATELESS_CALLBACKS or getattr(callback, "stateless", False) is True


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Keras's `TerminateOnNaN` looks at each batch, which waits for the device; once an epoch is enough here."""

    def on_epoch_end(self, epoch, logs=None):
        if not checks.is_finite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


def callback_maker(callbacks):
    """A function from the generation to a list of fresh callbacks."""
    if callbacks is None:
        return lambda generation: []
    if isinstance(callbacks, keras.callbacks.Callback) and not isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks = [callbacks]
    if isinstance(callbacks, (list, tuple)):
        for callback in callbacks:
            _copy_callback(callback)  # What cannot be copied is told now.
        return lambda generation: [_copy_callback(callback) for callback in callbacks]
    if callable(callbacks):
        return lambda generation: _as_list(callbacks(generation))
    raise TypeError(
        "`callbacks` must be a list of `keras.callbacks.Callback`, or a callable `callbacks(generation)` that returns "
        f"one, received: {callbacks!r}."
    )


def _as_list(callbacks):
    """What a user's `callbacks(generation)` returned."""
    if isinstance(callbacks, (list, tuple)):
        return list(callbacks)
    return [] if callbacks is None else [callbacks]


def _copy_callback(callback):
    if not isinstance(callback, keras.callbacks.Callback):
        raise TypeError(f"Each of `callbacks` must be a `keras.callbacks.Callback`, received: {callback!r}.")
    try:
        # A model that the callback was used with before is not copied along.
        model = getattr(callback, "_model", None)
        return copy.deepcopy(callback, {id(model): None} if model is not None else None)
    except Exception as error:
        raise TypeError(
            f"The callback {callback!r} cannot be copied for each generation: {error}. Pass `callbacks` as a callable, "
            "`callbacks(generation)`, that returns a list of new callbacks."
        ) from error
