"""Checks of labels, weights and soft targets in memory."""

import keras
import numpy as np

from keras_ban._src.data.leaves import as_array, leaves_of


def check_labels(labels, loss, model, name="y"):
    """Raise `ValueError` where labels in memory cannot be meant for the loss and the model's outputs."""
    outputs = getattr(model, "outputs", None)
    if keras.tree.is_nested(labels):
        return  # One output each: Keras pairs labels, losses and outputs, and says what does not match.
    if not _is_sparse_crossentropy(loss):
        return
    shape = tuple(outputs[0].shape) if outputs and len(outputs) == 1 else None
    array = labels
    dtype = getattr(array, "dtype", None)
    if not isinstance(array, np.ndarray) or dtype.kind not in "biu":
        hint = "They look one-hot: use `CategoricalCrossentropy`, or `np.argmax(y, -1)`. " if _one_hot(array) else ""
        raise ValueError(
            f"A sparse categorical crossentropy wants labels as whole numbers, received `{name}` of dtype {dtype} and "
            f"shape {getattr(labels, 'shape', None)}. {hint}Whole numbers held as floats are cast with "
            "`y.astype('int32')`."
        )
    if shape is None or array.size == 0:
        return
    classes, ignored = _class_count(shape, array.shape), getattr(loss, "ignore_class", None)
    if classes is None:
        return
    wrong = (array < 0) | (array >= classes)
    if ignored is not None:
        wrong &= array != ignored
    if wrong.any():
        example = array[wrong].ravel()[0]
        raise ValueError(
            f"The model's outputs have {classes} classes, so labels must lie in [0, {classes - 1}], but `{name}` holds "
            f"{int(wrong.sum())} others, {example} for instance (labels range from {array.min()} to {array.max()})."
        )


def _class_count(shape, labels_shape):
    """The size of the axis of the outputs that whole-number labels lack: the last, or that of channels that come first.

    Args:
        shape: of the outputs, `(None, ...)`.
        labels_shape: `(n, ...)`, or `(n, ..., 1)`.
    """

    def fits(axis):
        known = zip(shape[1:axis] + shape[axis + 1 :], labels_shape[1:], strict=False)
        return all(None in pair or pair[0] == pair[1] for pair in known)

    return next((shape[axis] for axis in range(len(shape) - 1, 0, -1) if fits(axis)), shape[-1])


def _is_sparse_crossentropy(loss):
    if isinstance(loss, keras.losses.SparseCategoricalCrossentropy):
        return True
    return loss in (
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.losses.sparse_categorical_crossentropy,
    )


def _one_hot(array):
    is_table = isinstance(array, np.ndarray) and array.dtype.kind in "biuf" and array.ndim > 1 and array.shape[-1] > 1
    return is_table and bool((array.sum(-1) == 1).all())


def check_label_values(name, labels, loss):
    """Raise `ValueError` if labels in memory hold NaN or inf, and the loss is Keras's own."""
    if all(_is_of_keras(each) for each in leaves_of(loss)):
        for leaf in leaves_of(labels):
            check_finite(name, leaf)


def check_finite(name, leaf, masked=False):
    """Raise `ValueError` if an array in memory holds NaN or inf; with `masked`, -inf is allowed."""
    # Data on disk are not read for this.
    if isinstance(leaf, np.memmap) or leaf.dtype.kind != "f":
        return
    leaf = as_array(leaf)
    wrong = np.isnan(leaf) | np.isposinf(leaf) if masked else ~np.isfinite(leaf)
    if wrong.any():
        first = tuple(int(place) for place in np.argwhere(wrong)[0])
        raise ValueError(
            f"`{name}` holds NaN or inf in {int(wrong.sum())} places, the first at index {first}: training on it ends "
            "in NaN."
        )


def check_numbers(name, leaf):
    """Raise `ValueError` if an array holds something else than numbers."""
    if leaf.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers, received an array of dtype {leaf.dtype}.")


def _is_of_keras(loss):
    """Whether a loss is one of Keras's own, by name, as an object or as a function."""
    name = getattr(loss, "__name__", type(loss).__name__)
    return isinstance(loss, str) or getattr(keras.losses, name, None) in (loss, type(loss))
