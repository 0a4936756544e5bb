"""Augmentation that changes labels with the images, as MixUp and CutMix do."""

import keras
from keras import ops

from keras_ban._src import backend
from keras_ban._src.data.leaves import leaves_of, map_leaves

_CHAINS = (keras.Sequential, keras.layers.Pipeline)


def changes_labels(layer):
    """Whether a layer, of Keras or of a user, changes labels.

    Keras's image layers have a method `transform_labels`. One that leaves labels as they are returns the very object
    that it was given. One that changes them cannot do so with an object that is no tensor.
    """
    transform_labels = getattr(layer, "transform_labels", None)
    if transform_labels is None:
        return False
    labels, transformation = object(), object()
    try:
        return transform_labels(labels, transformation, training=True) is not labels
    except NotImplementedError:
        return False  # The layer is for images alone.
    except Exception:
        return True


def mixes(augmentation):
    """Whether an augmentation, or a layer in it, changes labels. `None` is no augmentation."""
    return augmentation is not None and any(changes_labels(layer) for layer in backend.flat_layers(augmentation))


def check_layers(augmentation):
    """Raise `ValueError` if labels cannot be changed as the images are."""
    for layer in _in_order(augmentation):
        if not changes_labels(layer):
            if mixes(layer):
                raise ValueError(
                    f"A layer within {layer!r} changes labels, which only its caller could pass to it. Use a list of "
                    "layers, a `keras.layers.Pipeline` or a `keras.Sequential`."
                )
            continue
        # All of Keras's image layers have this method from their base class, which has no public name.
        if type(layer).call is not keras.layers.MixUp.call:
            raise ValueError(
                f"{layer!r} changes labels, and has its own `call`. Labels follow the images by Keras's `call`: "
                "implement `get_random_transformation`, `transform_images` and `transform_labels`."
            )
        if layer.compute_dtype not in ("float32", "float64"):
            raise ValueError(
                f"{layer!r} would draw and mix in {layer.compute_dtype}, which rounds labels, and which Keras does not "
                f"support on each backend. Use `{type(layer).__name__}(..., dtype='float32')`: models cast their "
                "inputs themselves."
            )


def check_images(augmentation, x):
    """Raise `ValueError` if the first layer takes images, and `x` are none. It would take three axes for one image."""
    first = augmentation
    while type(first) in _CHAINS and first.layers:
        first = first.layers[0]
    if hasattr(first, "transform_images") and not keras.tree.is_nested(x) and len(x.shape) != 4:
        raise ValueError(
            f"{first!r} takes images of shape (batch, height, width, channels), received `x` of shape "
            f"{tuple(x.shape)}. Images without channels get an axis: `x[..., None]`."
        )


def check_batch(labels, sample_weight):
    """Raise `ValueError` if the examples of a batch cannot be mixed.

    Args:
        labels: the labels to mix, or `None`.
        sample_weight: or `None`.
    """
    if leaves_of(sample_weight):
        raise ValueError(
            "`sample_weight` and `class_weight` do not go with an `augmentation` that mixes examples: a mixed example "
            "is part of two, each with its own weight. Leave the weights out, for instance by drawing the examples as "
            "often as they count, or use layers that do not mix."
        )
    for leaf in leaves_of(labels):
        dtype = keras.backend.standardize_dtype(leaf.dtype)
        if not keras.backend.is_float_dtype(dtype) or len(leaf.shape) not in (1, 2):
            raise ValueError(
                "`augmentation` mixes labels, which must be floats of shape (batch, classes) or (batch,), received "
                f"{dtype} of shape {tuple(leaf.shape)}. For classes that are whole numbers, use one-hot labels, "
                "`keras.utils.to_categorical(y, classes)`, and `CategoricalCrossentropy`. For yes or no, use "
                "`y.astype('float32')`."
            )


def apply(augmentation, x, labels=None, training=True):
    """Return `(x, labels)` after an augmentation. Labels, nested tensors or `None`, change as the images do."""
    for layer in _in_order(augmentation):
        if changes_labels(layer):
            x, labels = _transform(layer, x, labels, training)
        else:
            x = layer(x, training=training)
    return x, labels


def _in_order(augmentation):
    """Return the layers of chains that change labels. Anything else is one layer."""
    if type(augmentation) in _CHAINS and mixes(augmentation):
        return [layer for each in augmentation.layers for layer in _in_order(each)]
    return [augmentation]


def _transform(layer, images, labels, training):
    # Not by `layer({"images": ..., "labels": ...})`, which takes labels of one output alone.
    if keras.tree.is_nested(images) or len(images.shape) != 4:
        shapes = keras.tree.map_structure(lambda leaf: tuple(leaf.shape), images)
        raise ValueError(
            f"{layer!r} mixes images: one array of shape (batch, height, width, channels), received {shapes}. Reshape "
            "it by layers before and after, or use a layer of your own."
        )
    if not training:
        return layer(images, training=False), labels
    images = ops.convert_to_tensor(images)
    data = {"images": images} if labels is None else {"images": images, "labels": labels}
    transformation = layer.get_random_transformation(data, training=True)

    def transform(leaf):
        # A copy, because a layer may work in place under torch.
        leaf = ops.copy(ops.cast(leaf, layer.compute_dtype))
        if len(leaf.shape) == 1:
            return layer.transform_labels(leaf[:, None], transformation, training=True)[:, 0]
        return layer.transform_labels(leaf, transformation, training=True)

    labels = map_leaves(transform, labels)
    return layer.transform_images(images, transformation, training=True), labels
