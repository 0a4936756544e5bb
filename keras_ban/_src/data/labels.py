"""Checks of labels, weights and soft targets in memory."""

import keras
import numpy as np

from keras_ban._src.data import leaves
from keras_ban._src.data.leaves import as_array, leaves_of


def check_labels(labels, loss, model, name):
    """Raise `ValueError` if labels in memory, or of a first batch, fit neither the loss nor the model's outputs."""
    # For nested labels, Keras pairs labels, losses and outputs, and raises errors itself.
    if labels is None or keras.tree.is_nested(labels):
        return
    outputs = getattr(model, "outputs", None) or []
    shape = tuple(outputs[0].shape) if len(outputs) == 1 else None
    if is_sparse_crossentropy(loss):
        _check_classes(labels, shape, getattr(loss, "ignore_class", None), name)
    elif is_of_keras(loss) and advice_for_texts(labels):
        raise ValueError(f"`{name}` must hold numbers, received texts. {advice_for_texts(labels)}")
    elif _is_loss(loss, keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy):
        _check_probabilities(labels, shape, name)
    elif loss in ("bce", "BCE") or _is_loss(loss, keras.losses.BinaryCrossentropy, keras.losses.binary_crossentropy):
        _check_two_classes(labels, name)


def _check_two_classes(labels, name):
    """Raise `ValueError` if labels are whole numbers other than 0 and 1. Fractions may be meant, as in autoencoders."""
    wrong = (labels < 0) | (labels > 1) if _are_whole(labels) else np.array(False)
    if wrong.any():
        raise ValueError(
            f"A binary crossentropy wants labels in [0, 1], but `{name}` holds {wrong.sum()} others, "
            f"{labels[wrong].flat[0]} for instance. Number two classes 0 and 1: `names, y = np.unique(y, "
            "return_inverse=True)`. For more, use `SparseCategoricalCrossentropy` and an output for each class. Give "
            "padding the label 0 and the `sample_weight` 0."
        )


def _check_classes(labels, shape, ignored, name):
    """Raise `ValueError` unless labels number the classes of outputs of a shape. `None`: the outputs are not known."""
    if not _are_whole(labels) or _has_axis_of_classes(labels, shape):
        advice = advice_for_texts(labels)
        if is_one_hot(labels):
            advice = "They look one-hot: use `CategoricalCrossentropy`, or `np.argmax(y, -1)`."
        form = f"dtype {getattr(labels, 'dtype', None)} and shape {tuple(getattr(labels, 'shape', ()))}"
        wanted = "A sparse categorical crossentropy wants labels as whole numbers"
        raise ValueError(f"{wanted}, received `{name}` of {form}. {advice}".strip())
    classes = None if shape is None or labels.size == 0 else _class_count(shape, labels.shape)
    if classes is None:
        return
    wrong = (labels < 0) | (labels >= classes)
    if ignored is not None:
        wrong &= labels != ignored
    if wrong.any():
        raise ValueError(
            f"The model's outputs have {classes} classes, so labels must lie in [0, {classes - 1}], but `{name}` holds "
            f"{wrong.sum()} others, {labels[wrong].ravel()[0]} for instance."
        )


def _check_probabilities(labels, shape, name):
    """Raise `ValueError` if labels number the classes, where one-hot labels are wanted."""
    received = tuple(np.shape(labels))
    if shape is None or None in shape[-1:] or shape[-1] < 2 or received[-1:] == shape[-1:]:
        return
    if len(received) == len(shape) - 1 or received[-1:] == (1,):
        raise ValueError(
            f"A categorical crossentropy wants labels with a number for each of the {shape[-1]} classes, received "
            f"`{name}` of shape {received}. If they number the classes, use `SparseCategoricalCrossentropy`, or "
            f"`keras.utils.to_categorical(y, {shape[-1]})`."
        )


def _are_whole(labels):
    """Whether labels are whole numbers, as floats too."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "biuf":
        return False
    return labels.dtype.kind != "f" or bool((labels == np.floor(labels)).all())


def _has_axis_of_classes(labels, shape):
    """Whether labels are one-hot, or have as many axes as outputs of a shape. `None`: the outputs are not known."""
    if labels.ndim < 2 or labels.shape[-1] == 1:
        return False
    return is_one_hot(labels) and labels.dtype.kind == "f" if shape is None else labels.ndim == len(shape)


def advice_for_texts(labels):
    """What to do about labels that are texts, as text. Empty for others."""
    if not hasattr(labels, "dtype") or not leaves.is_texts(labels):
        return ""
    first = str(as_array(labels).flat[0])
    if first.strip("+-").replace(".", "", 1).isdigit():
        return f"Convert them: `y.astype({'float32' if '.' in first else 'int32'!r})`."
    return "Number the classes: `names, y = np.unique(y, return_inverse=True)`."


def _class_count(shape, labels_shape):
    """The size of the axis of the outputs that whole-number labels lack: the last axis, or that of leading channels.

    `shape` is that of the outputs, `(None, ...)`. `labels_shape` is `(n, ...)` or `(n, ..., 1)`.
    """

    def fits(axis):
        known = zip(shape[1:axis] + shape[axis + 1 :], labels_shape[1:], strict=False)
        return all(None in pair or pair[0] == pair[1] for pair in known)

    return next((shape[axis] for axis in range(len(shape) - 1, 0, -1) if fits(axis)), shape[-1])


def is_sparse_crossentropy(loss):
    """Whether a label loss takes classes as whole numbers: a name, an object, a class or a function."""
    return _is_loss(loss, keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy)


def _is_loss(loss, of_keras, function):
    return isinstance(loss, of_keras) or loss in (of_keras, of_keras.__name__, function, function.__name__)


def is_one_hot(array):
    """Whether an array could be one-hot labels."""
    is_table = isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.ndim > 1 and array.shape[-1] > 1
    return is_table and bool((array.sum(-1) == 1).all())


def check_label_values(name, labels, loss):
    """Raise `ValueError` if labels in memory hold NaN or inf, and the loss is from Keras."""
    if all(is_of_keras(each) for each in leaves_of(loss)):
        for leaf in leaves_of(labels):
            check_finite(name, leaf)


def check_finite(name, leaf, masked=False):
    """Raise `ValueError` if an array in memory holds NaN or inf. With `masked`, -inf is allowed."""
    if isinstance(leaf, np.memmap) or leaf.dtype.kind != "f":
        return
    leaf = as_array(leaf)
    wrong = np.isnan(leaf) | np.isposinf(leaf) if masked else ~np.isfinite(leaf)
    if wrong.any():
        first = tuple(int(place) for place in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{name}` holds NaN or inf in {wrong.sum()} places, the first at index {first}. The loss would be NaN."
        )


def check_numbers(name, leaf):
    """Raise `ValueError` if an array does not hold numbers."""
    if leaf.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers, received an array of dtype {leaf.dtype}.")


def is_of_keras(loss):
    """Whether a loss is from Keras: a name, an object, a class or a function."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return isinstance(loss, str) or getattr(keras.losses, name, None) in (loss, type(loss))
