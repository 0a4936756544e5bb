"""New optimizers, metrics and callbacks for each generation."""

import copy
import functools
import inspect
import json
import warnings

import keras

from keras_ban._src import checks
from keras_ban._src.files import new_optimizer
from keras_ban._src.losses import schedules
from keras_ban._src.sequence import callback_paths


class Recipe:
    """Creates new objects from the `config` that an object had when the recipe was created."""

    def __init__(self, original):
        self._class = type(original)
        self.config = new_optimizer.configuration_of(original)
        plain = (keras.optimizers.Optimizer.from_config.__func__, keras.metrics.Metric.from_config.__func__)
        is_custom = self._class.__module__.split(".")[0] != "keras" and self._class.from_config.__func__ in plain
        lost = lost_arguments(self._class, self.config) if is_custom else []
        if lost:
            raise ValueError(f"it does not hold the constructor's arguments {lost}, which would become their defaults")
        self._without_decay = new_optimizer.without_decay(original)

    def make(self):
        made = self._class.from_config(copy.deepcopy(self.config))
        return new_optimizer.leave_without_decay(made, self._without_decay)


def lost_arguments(cls, known):
    """Return the constructor arguments of a class that are not in `known`."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    _, *parameters = inspect.signature(cls.__init__).parameters.values()
    return [p.name for p in parameters if p.kind in kinds and p.name not in known]


def as_recipe(name, value):
    """Return a `Recipe` for an optimizer or a metric. Return a value without state (a name, a function) unchanged."""
    if isinstance(value, type) and issubclass(value, keras.metrics.Metric):
        value = value()  # Once, because Keras numbers the names of metrics: `auc`, `auc_1`, ...
    if not isinstance(value, (keras.optimizers.Optimizer, keras.metrics.Metric)):
        return value
    new_optimizer.check_without_decay(value)
    try:
        recipe = Recipe(value)
        recipe.make()
    except Exception as error:
        raise ValueError(
            f"`{name}`: {value!r} cannot be made anew for each generation from its `get_config()`: {error}. Complete "
            "its `get_config`, and register its custom classes with Keras."
        ) from error
    return recipe


class CompileArguments:
    """Arguments of `keras.Model.compile` that can be created anew for each model, and serialized."""

    def __init__(self, optimizer, metrics, weighted_metrics, **others):
        if optimizer is None:
            raise ValueError("`compile` needs an `optimizer`, received None. Pass a name such as 'adam', or an object.")
        checks.check_loss_names(others.get("loss"))
        self._arguments = {
            "optimizer": as_recipe("optimizer", keras.optimizers.get(optimizer)),
            "metrics": keras.tree.map_structure(lambda metric: as_recipe("metrics", metric), metrics),
            "weighted_metrics": keras.tree.map_structure(lambda m: as_recipe("weighted_metrics", m), weighted_metrics),
            **others,
        }

    @property
    def loss(self):
        return self._arguments["loss"]

    @property
    def measures_labels(self):
        return bool(self._arguments["metrics"]) or bool(self._arguments["weighted_metrics"])

    @property
    def measures_more_than_accuracy(self):
        metrics = keras.tree.flatten([self._arguments["metrics"], self._arguments["weighted_metrics"]])
        return any(metric not in (None, "accuracy", "acc") for metric in metrics)

    def make(self):
        return keras.tree.map_structure(lambda v: v.make() if isinstance(v, Recipe) else v, self._arguments)

    def with_optimizer(self, optimizer):
        """Return the same arguments with another optimizer."""
        return CompileArguments(**{**self.make(), "optimizer": optimizer})

    def compile(self, model):
        """Compile a trained model with a new optimizer, which has no variables for the weights yet."""
        model.compile(**self.make())
        new_optimizer.leave_unbuilt(model)

    def to_config(self):
        """Return the arguments as plain data, by name. See `as_config`."""
        made = self.make()
        config = {name: as_config(value) for name, value in made.items()}
        names = new_optimizer.without_decay(made["optimizer"])
        return config | ({_WITHOUT_DECAY: names} if any(names) else {})

    @classmethod
    def from_config(cls, config, custom_objects=None):
        """Create the arguments from the result of `to_config`. Raise `ValueError` as `from_config`."""
        lost = [f"`{name}` ({value[_UNWRITTEN]})" for name, value in config.items() if _is_unwritten(value)]
        if lost:
            raise ValueError(f"{', '.join(lost)} could not be written down")
        names = config.get(_WITHOUT_DECAY, [])
        config = {name: value for name, value in config.items() if name != _WITHOUT_DECAY}
        arguments = {name: from_config(name, value, custom_objects) for name, value in config.items()}
        new_optimizer.leave_without_decay(arguments["optimizer"], names)
        return cls(**arguments)


_UNWRITTEN = "cannot be written down"
_WITHOUT_DECAY = "excluded_from_weight_decay"


def as_config(value):
    """Return a value as plain data. If Keras cannot serialize it without code, return only its type."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # Keras warns of lambdas, which it serializes as code.
            return json.loads(json.dumps(keras.saving.serialize_keras_object(value)))
    except Exception:
        kinds = [getattr(leaf, "__qualname__", type(leaf).__qualname__) for leaf in keras.tree.flatten(value)]
        return {_UNWRITTEN: ", ".join(kinds)}


def from_config(name, value, custom_objects=None):
    """Create a value from the result of `as_config`.

    Raise `ValueError` if it could not be written down, or its class or function is not known to Keras.
    """
    if _is_unwritten(value):
        raise ValueError(f"`{name}` ({value[_UNWRITTEN]}) could not be written down")
    try:
        if name == "label_weight":
            return schedules.from_config(name, value, custom_objects)
        return keras.saving.deserialize_keras_object(value, custom_objects)
    except Exception as error:
        raise ValueError(f"`{name}` is not known to Keras: {error}") from error


def _is_unwritten(value):
    return isinstance(value, dict) and _UNWRITTEN in value


class StopOnNonFiniteLoss(keras.callbacks.Callback):
    """Stops training after an epoch with a non-finite loss. `TerminateOnNaN` waits for the device at each batch."""

    def on_epoch_end(self, epoch, logs=None):
        if not checks.is_finite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


class AttachValues(keras.callbacks.Callback):
    """After each batch, attaches the values of the trained model to it. Within an epoch, JAX keeps them elsewhere."""

    def on_train_batch_end(self, batch, logs=None):
        _ = self.model  # Keras attaches them.


def keep_students(callbacks, model):
    """Return callbacks of which each `ModelCheckpoint` saves this model, the student, not the Distiller that trains it.

    Your own callbacks can save it, too, and Keras loads the file without a warning.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and model.built and not optimizer.built:
        new_optimizer.leave_unbuilt(model)
    checkpoints = [each for each in callbacks if isinstance(each, keras.callbacks.ModelCheckpoint)]
    for callback in checkpoints:
        callback.set_model = functools.partial(_set_student, callback, model)
    in_epoch = any(callback.save_freq != "epoch" for callback in checkpoints)
    return [AttachValues(), *callbacks] if in_epoch else callbacks


def _set_student(callback, student, model):
    del callback.set_model  # The same callback may be used again, to train another model.
    callback.set_model(student)


def callback_maker(callbacks, directory):
    """Return a function that creates a list of new callbacks for a generation, or for the `control` of this name.

    Callbacks of a list write to paths of their own (see `callback_paths`). A callable knows the generation, but cannot
    tell a control from generation 0. `directory` is that of the run, or `None`.
    """
    if callbacks is None or isinstance(callbacks, (list, tuple, keras.callbacks.Callback)):
        callbacks = _as_list(callbacks, directory)
        for callback in callbacks:
            _copy_callback(callback)  # Fails now, not when a generation starts.
        callback_paths.check_paths(callbacks)

        def copied(generation, control=None):
            return callback_paths.with_paths([_copy_callback(each) for each in callbacks], generation, control)

        return copied
    if callable(callbacks) and not isinstance(callbacks, type):

        def made(generation, control=None):
            new = _as_list(callbacks(generation), directory)
            return new if control is None else callback_paths.with_paths(new, generation, control)

        return made
    raise TypeError(
        "`callbacks` must be a list of `keras.callbacks.Callback`, or a callable `callbacks(generation)` that returns "
        f"one, received: {callbacks!r}."
    )


def _as_list(callbacks, directory):
    """Return callbacks as a list, those in a `CallbackList` included.

    Raise `TypeError` if one is no callback, and `ValueError` if one resumes a run, too.
    """
    flat = []
    for each in callbacks if isinstance(callbacks, (list, tuple)) else [] if callbacks is None else [callbacks]:
        flat += each.callbacks if isinstance(each, keras.callbacks.CallbackList) else [each]
    for each in flat:
        if not isinstance(each, keras.callbacks.Callback):
            raise TypeError(f"Each of `callbacks` must be a `keras.callbacks.Callback`, received: {each!r}.")
    if directory is not None and any(isinstance(each, keras.callbacks.BackupAndRestore) for each in flat):
        raise ValueError(
            "`directory` and the callback `BackupAndRestore` both continue an interrupted run, and may differ in its "
            "epochs. Leave the callback out: with a `directory`, an interrupted generation continues after its last "
            "finished epoch."
        )
    return flat


def _copy_callback(callback):
    try:
        # Do not copy a model that the callback was used with before.
        model = getattr(callback, "_model", None)
        return copy.deepcopy(callback, {id(model): None} if model is not None else None)
    except Exception as error:
        raise TypeError(
            f"The callback {callback!r} cannot be copied for each generation: {error}. Pass `callbacks` as a callable, "
            "`callbacks(generation)`, that returns new callbacks."
        ) from error
