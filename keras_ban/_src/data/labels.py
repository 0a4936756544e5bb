"""Checks of labels, weights and soft targets in memory."""

import keras
import numpy as np

from keras_ban._src.data import leaves
from keras_ban._src.data.leaves import as_array, leaves_of


def check_labels(labels, loss, model, name):
    """Raise `ValueError` if labels in memory fit neither the loss nor the model's outputs."""
    # For nested labels, Keras pairs labels, losses and outputs, and raises errors itself.
    if keras.tree.is_nested(labels) or not is_sparse_crossentropy(loss):
        return
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "biu":
        advice = "Cast whole numbers that are floats with `y.astype('int32')`."
        if is_one_hot(labels):
            advice = "They look one-hot: use `CategoricalCrossentropy`, or `np.argmax(y, -1)`."
        advice = advice_for_texts(labels) or advice
        form = f"dtype {getattr(labels, 'dtype', None)} and shape {getattr(labels, 'shape', None)}"
        raise ValueError(
            f"A sparse categorical crossentropy wants labels as whole numbers, received `{name}` of {form}. {advice}"
        )
    outputs = getattr(model, "outputs", None) or []
    if len(outputs) != 1 or labels.size == 0:
        return
    classes, ignored = _class_count(tuple(outputs[0].shape), labels.shape), getattr(loss, "ignore_class", None)
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


def check_first_labels(labels, loss, model, name):
    """Raise `ValueError` if the labels of a first batch cannot be right. Floats may be whole numbers."""
    is_whole = getattr(getattr(labels, "dtype", None), "kind", None) in tuple("biu")
    if is_whole or is_one_hot(labels) or advice_for_texts(labels):
        check_labels(labels, loss, model, name)


def advice_for_texts(labels):
    """What to do about labels that are names of classes, as text. Empty for others."""
    if not hasattr(labels, "dtype") or not leaves.is_texts(labels):
        return ""
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
    of_keras = keras.losses.SparseCategoricalCrossentropy
    known = (of_keras, of_keras.__name__, keras.losses.sparse_categorical_crossentropy)
    return isinstance(loss, of_keras) or loss in (*known, "sparse_categorical_crossentropy")


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
