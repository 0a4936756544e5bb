"""What a model outputs, without running it."""

import keras

from keras_ban._src import backend


def output_spec(model, x):
    """A model's outputs for arrays `x`, as symbols; it does not run.

    Keras's layers expect symbols here: `Flatten` asks for an attribute that tensors have not.
    """
    return model.compute_output_spec(keras.tree.map_structure(symbol, x))


def symbol(leaf):
    """An array as a symbol of its shape and dtype."""
    tensor = backend.as_tensor(leaf)
    return None if leaf is None else keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))
