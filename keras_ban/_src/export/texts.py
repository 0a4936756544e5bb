"""Texts as inputs of an exported model."""

import keras
import numpy as np

from keras_ban._src import backend

STRING = "string"


def is_text(spec):
    return spec.dtype == STRING


def as_texts(array):
    """Return texts as an array of Python's `str`, which NumPy can store. Return other arrays unchanged."""
    if array.dtype.kind not in "OST":
        return array
    texts = [each.decode("utf-8") if isinstance(each, bytes) else each for each in array.ravel().tolist()]
    if not all(isinstance(each, str) for each in texts):
        return array
    return np.array(texts, dtype=str).reshape(array.shape)


def dtype_of(array):
    """Return the name of a dtype as Keras writes it."""
    return STRING if array.dtype.kind == "U" else array.dtype.name


def words_of(model):
    """Return the words that the model's layers know, and one that they do not."""
    layers = [layer for layer in backend.flat_layers(model) if hasattr(layer, "get_vocabulary")]
    words = {word for layer in layers for word in layer.get_vocabulary() if isinstance(word, str)}
    return [*sorted(words), "?"]


def check_texts(specs, format, preprocessing):
    """Return the specs. Raise `ValueError` if inputs are texts that the format or the backend cannot read."""
    names = [spec.name for spec in keras.tree.flatten(specs) if is_text(spec)]
    if names and format != "tf_saved_model":
        raise ValueError(
            f"The inputs {names} are texts, which {format} cannot look up in a vocabulary. Export with "
            "`format='tf_saved_model'`, or export the model that takes the numbers that the vocabulary gives."
        )
    if names and not preprocessing and not backend.WRITES_SAVED_MODELS:
        raise ValueError(
            f"The inputs {names} are texts, and this backend of Keras cannot call a model on texts. Export under "
            "TensorFlow (KERAS_BACKEND=tensorflow), or export the model that takes numbers, with the layer that makes "
            "them of texts as `preprocessing` and some texts as `examples`."
        )
    return specs
