"""The arguments of `keras.Model.fit`, checked before training.

Inputs are not searched for NaN, because they may be large or on disk. NaN in them shows in the loss.
"""

import contextlib
import inspect
import math
import numbers

import keras

from keras_ban._src import checks
from keras_ban._src.backend import process_group
from keras_ban._src.data.arrays import LARGEST_WEIGHT, short
from keras_ban._src.data.kinds import as_data, as_validation_data
from keras_ban._src.data.labels import check_finite, check_numbers
from keras_ban._src.data.leaves import leaves_of
from keras_ban._src.data.reading import watched


def bound(model, args, kwargs, method="fit"):
    """Return the arguments of a method of `keras.Model`, by name."""
    of_keras = getattr(keras.Model, method)
    if method == "fit":
        checks.check_keywords(method, kwargs, of_keras, type(model).fit)
    arguments = inspect.signature(of_keras).bind(model, *args, **kwargs).arguments
    names = {name: value for name, value in arguments.items() if name not in ("self", "kwargs")}
    return {**names, **arguments.get("kwargs", {})}


def read(arguments, models=()):
    """Return `(data, options)`: the training data, and the other arguments of `fit`, from its arguments by name.

    `options["validation_data"]` is the result of `as_validation_data`. For `models`, see `as_data`.

    Raises:
        TypeError, ValueError: an argument is not what `fit` takes, or arguments contradict each other.
    """
    _check_values(arguments)
    options = {name: value for name, value in arguments.items() if name not in ("x", "y", "sample_weight")}
    given = {name: options.pop(name, None) for name in ("batch_size", "shuffle")}
    x, y, sample_weight = (arguments.get(name) for name in ("x", "y", "sample_weight"))
    data = as_data(x, y, sample_weight, **given, models=models)
    batch_size = options.get("validation_batch_size") or given["batch_size"]
    options["validation_data"] = as_validation_data(options.get("validation_data"), batch_size, models)
    for each, steps in ((data, "steps_per_epoch"), (options["validation_data"], "validation_steps")):
        if each is not None:
            check_has_end(each, arguments, steps)
            _check_read_once(arguments, each, steps)
    return data, options


def check_has_end(data, arguments, steps):
    """Raise `ValueError` if data have no end, and the argument named `steps` does not say how many batches to read."""
    if data.number_of_batches() == math.inf and arguments.get(steps) is None:
        raise ValueError(
            f"`{data.name}` has no end, so that Keras would read it forever. Do not repeat it, or pass `{steps}`."
        )


def split_off(data, options):
    """Return `(data, options)` with the validation data of `validation_split` split off."""
    options = dict(options)
    split = options.pop("validation_split", 0.0)
    if split and options["validation_data"] is None:
        data, options["validation_data"] = data.split(split)
    return data, options


@contextlib.contextmanager
def given_to_keras(data, options):
    """Return a context for Keras's `fit`. It yields `(data, arguments)`: all arguments as Keras takes them.

    Processes that read the data are watched. Each worker has its part of the data, if the engine leaves that to them:
    Keras under JAX takes what each process's data yield as that process's part of a batch. Arrays, and datasets that
    yield whole batches, would be trained on as often as there are processes, in batches as many times as large. So each
    worker gets its own rows of every batch, and all batches together are those that one process alone would see.

    Raises:
        ValueError: the workers' random numbers differ.
        TypeError: a kind of data cannot be divided.
    """
    parts = [data, options["validation_data"]]
    if process_group.divides_data():
        process_group.check_alike()
        if process_group.parts()[0] > 1:
            parts = [None if each is None else each.part_of_worker() for each in parts]
    shuffle = data.shuffle is None or bool(data.shuffle)
    with watched(*parts, shuffle=shuffle, steps=options.get("steps_per_epoch")) as (data, validation_data):
        yield data, for_keras(data, {**options, "validation_data": validation_data})


def for_keras(data, options):
    """Return all arguments of `fit`, as Keras takes them."""
    validation_data, callbacks = options.get("validation_data"), data.callbacks()
    if callbacks:
        options = with_callbacks(callbacks, options)
    if validation_data is not None:
        options = {**options, "validation_data": validation_data.for_validation()}
        if validation_data.batch_size is not None:
            options["validation_batch_size"] = validation_data.batch_size
    if data.shuffle is not None:
        options = {**options, "shuffle": data.shuffle}
    return {**options, **data.for_keras()}


def with_callbacks(more, options):
    """Return the arguments of `fit` with more callbacks, at the front if `callbacks` is a list."""
    callbacks = options.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        for callback in more:
            callbacks.append(callback)
        return options
    return {**options, "callbacks": [*more, *([] if callbacks is None else keras.tree.flatten(callbacks))]}


def check_soft_target_values(soft_targets):
    """Raise `ValueError` if soft targets in `y` hold NaN or inf. -inf is allowed, for classes that are masked out."""
    for leaf in leaves_of(soft_targets):
        check_numbers("y['soft_targets']", leaf)
        check_finite("y['soft_targets']", leaf, masked=True)


def _check_values(arguments):
    for name in ("batch_size", "validation_batch_size", "steps_per_epoch", "validation_steps"):
        if arguments.get(name) is not None:
            checks.check_count(name, arguments[name], below=2**31)
    checks.check_count("epochs", arguments.get("epochs", 1))
    first = arguments.get("initial_epoch", 0)
    if not isinstance(first, numbers.Integral):
        raise ValueError(f"`initial_epoch` must be a whole number, received: {first!r}.")
    split = arguments.get("validation_split", 0.0)
    if not isinstance(split, numbers.Real) or not 0 <= split < 1:
        raise ValueError(f"`validation_split` must lie between 0 and 1, received: {split!r}.")
    if arguments.get("class_weight") is not None:
        _check_class_weight(arguments["class_weight"])
    callbacks = arguments.get("callbacks")
    for callback in [] if callbacks is None else keras.tree.flatten(callbacks):
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(f"Each of `callbacks` must be a `keras.callbacks.Callback`, received: {callback!r}.")


def _check_read_once(arguments, data, steps):
    epochs = arguments.get("epochs", 1) - arguments.get("initial_epoch", 0)
    if data.read_once and epochs > 1 and arguments.get(steps) is None:
        raise ValueError(
            f"`{data.name}` is a generator or an iterator, which is used up after one of {epochs} epochs. Pass arrays, "
            f"a dataset, `epochs=1`, or `{steps}` and a generator that lasts for all epochs."
        )


def _check_class_weight(class_weight):
    is_dict = isinstance(class_weight, dict) and all(
        isinstance(each, numbers.Real) and math.isfinite(each) and each == int(each) for each in class_weight
    )
    if not is_dict or not all(isinstance(w, numbers.Real) and abs(w) <= LARGEST_WEIGHT for w in class_weight.values()):
        raise ValueError(
            f"`class_weight` must be a dict from whole numbers to finite numbers of {LARGEST_WEIGHT:g} at most, "
            f"received: {short(class_weight)}. Make one of an array with a weight for each class, such as that of "
            "scikit-learn's `compute_class_weight`: `dict(enumerate(weights))`."
        )
