"""Checks of the data that `fit` is given: of their form, and of labels and weights, which are small.

Inputs are never read for it: they may be large, and lie on disk. What is not a number in them shows in the loss.
"""

import inspect
import math
import numbers

import keras
import numpy as np

from keras_ban._src import checks

# A weight's loss, summed over a batch, is a number in float32 still.
_LARGEST = 1e30


def check_data(name, data):
    """Raise where `data` are neither arrays with one row for each example, nor a dataset."""
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    if leaves and all(hasattr(leaf, "shape") for leaf in leaves):
        return _check_arrays(name, leaves)
    is_plain = isinstance(data, (list, tuple, dict, set, str, bytes)) or np.isscalar(data)
    if is_plain or not (isinstance(data, keras.utils.PyDataset) or hasattr(data, "__iter__")):
        raise TypeError(
            f"`{name}` must be arrays, or a dataset: a `keras.utils.PyDataset`, a `tf.data.Dataset` or a torch "
            f"`DataLoader`. Received: {_short(data)} (of type {type(data).__name__}). Lists of numbers are made arrays "
            f"by `np.asarray({name})`."
        )


def check_fit_arguments(x, y, arguments):
    """Raise where the arguments of a `fit` cannot be meant for each other; `arguments` are the others, by name."""
    check_data("x", x)
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
    sample_weight, class_weight = arguments.get("sample_weight"), arguments.get("class_weight")
    if class_weight is not None:
        _check_class_weight(class_weight)
    if not checks.is_dataset(x):
        _check_parts({"x": x, "y": y, "sample_weight": sample_weight})
    callbacks = arguments.get("callbacks")
    for callback in [] if callbacks is None else keras.tree.flatten(callbacks):
        if not isinstance(callback, keras.callbacks.Callback):
            raise TypeError(f"Each of `callbacks` must be a `keras.callbacks.Callback`, received: {callback!r}.")
    validation_data = arguments.get("validation_data")
    if isinstance(validation_data, (list, tuple)):
        if not 1 <= len(validation_data) <= 3 or validation_data[0] is None:
            raise ValueError(
                "`validation_data` must be `(x_val, y_val)`, `(x_val, y_val, sample_weight)` or a dataset, received "
                f"{len(validation_data)} parts: {_short(validation_data)}."
            )
        names = [f"validation_data[{place}]" for place in range(len(validation_data))]
        check_data(names[0], validation_data[0])
        if not checks.is_dataset(validation_data[0]):
            _check_parts(dict(zip(names, validation_data, strict=True)))
    elif validation_data is not None:
        check_data("validation_data", validation_data)
        if not checks.is_dataset(validation_data):
            raise ValueError(
                "`validation_data` must be `(x_val, y_val)`, `(x_val, y_val, sample_weight)` or a dataset, received: "
                f"{_short(validation_data)}."
            )


def check_label_values(name, labels, loss):
    """Raise where labels in memory hold NaN or inf, which no loss of Keras itself can be meant to see."""
    if all(_is_of_keras(each) for each in keras.tree.flatten(loss) if each is not None):
        for leaf in keras.tree.flatten(labels):
            _check_finite(name, leaf)


def check_soft_target_values(soft_targets):
    """Raise where soft targets in memory, dense ones, hold NaN or inf; -inf is a class that the teacher masked out."""
    for leaf in keras.tree.flatten(soft_targets):
        _check_numbers("y['soft_targets']", leaf)
        _check_finite("y['soft_targets']", leaf, masked=True)


def arguments_of_fit(model, x, y, args, kwargs):
    """The arguments of `keras.Model.fit` beside `x` and `y`, by name."""
    arguments = inspect.signature(keras.Model.fit).bind(model, x, y, *args, **kwargs).arguments
    return {name: value for name, value in arguments.items() if name not in ("self", "x", "y")}


def _check_arrays(name, leaves):
    for leaf in leaves:
        if isinstance(leaf, keras.KerasTensor):
            raise TypeError(f"`{name}` must hold values, received a symbol: {leaf!r}.")
        if len(leaf.shape) == 0:
            raise ValueError(f"`{name}` must hold a row for each example, received a single value: {leaf!r}.")
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biufcSU" and not _holds_texts(leaf):
            raise ValueError(
                f"`{name}` is of dtype {leaf.dtype}: neither numbers nor texts. An array of objects comes of rows of "
                f"unequal length, or of `None` among them; numbers are made of it by `{name}.astype('float32')`."
            )
    sizes = sorted({int(leaf.shape[0]) for leaf in leaves})
    if len(sizes) > 1:
        raise ValueError(f"The arrays of `{name}` hold different numbers of examples: {sizes}.")
    if sizes == [0]:
        raise ValueError(f"`{name}` holds no examples.")


def _check_parts(parts):
    """Raise unless inputs, labels and weights are arrays for the same examples; those that are `None` are left out."""
    sizes = {}
    for name, part in parts.items():
        leaves = [leaf for leaf in keras.tree.flatten(part) if leaf is not None]
        if not leaves:
            continue
        if not all(hasattr(leaf, "shape") for leaf in leaves):
            raise TypeError(
                f"`{name}` must be arrays, as the inputs are, received: {_short(part)} (of type "
                f"{type(part).__name__}). A list of numbers is made an array by `np.asarray({name})`."
            )
        _check_arrays(name, leaves)
        sizes[name] = int(leaves[0].shape[0])
        if name.endswith(("weight", "[2]")):
            for leaf in leaves:
                _check_numbers(name, leaf)
                _check_finite(name, leaf)
                _check_weight_sizes(name, leaf)
    if len(set(sizes.values())) > 1:
        holds = ", ".join(f"`{name}` {size}" for name, size in sizes.items())
        raise ValueError(f"All parts of the data must be of the same examples, but of these {holds} came.")


def _check_class_weight(class_weight):
    is_dict = isinstance(class_weight, dict) and all(
        isinstance(each, numbers.Real) and math.isfinite(each) and each == int(each) for each in class_weight
    )
    if not is_dict or not all(isinstance(w, numbers.Real) and abs(w) <= _LARGEST for w in class_weight.values()):
        raise ValueError(
            f"`class_weight` must be a dict from classes, whole numbers, to finite numbers, of {_LARGEST:g} at most, "
            f"received: {_short(class_weight)}."
        )


def _check_numbers(name, leaf):
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers, received an array of dtype {leaf.dtype}.")


def _check_finite(name, leaf, masked=False):
    # What lies on disk is not read for it.
    if not hasattr(leaf, "shape") or isinstance(leaf, np.memmap):
        return
    leaf = checks.as_array(leaf)
    if leaf.dtype.kind != "f":
        return
    wrong = np.isnan(leaf) | np.isposinf(leaf) if masked else ~np.isfinite(leaf)
    if wrong.any():
        first = tuple(int(place) for place in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{name}` holds NaN or inf in {int(wrong.sum())} places, the first at index {first}: training on it ends "
            "in NaN."
        )


def _check_weight_sizes(name, leaf):
    if isinstance(leaf, np.memmap):
        return
    leaf = checks.as_array(leaf)
    if leaf.size and np.abs(leaf).max() > _LARGEST:
        raise ValueError(
            f"`{name}` must hold weights of {_LARGEST:g} at most, received one of {np.abs(leaf).max():g}: a loss "
            "weighted by it would be infinite. Divide all of them by the largest."
        )


def _is_of_keras(loss):
    """Whether a loss is one of Keras's own, by name, as an object or as a function."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return isinstance(loss, str) or getattr(keras.losses, name, None) in (loss, type(loss))


def _holds_texts(array):
    return array.dtype.kind == "O" and array.size > 0 and all(isinstance(each, (str, bytes)) for each in array.flat)


def _short(value):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
