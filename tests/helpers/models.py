"""Small models and their losses, and what is in them."""

import keras
import numpy as np

from helpers.data import CLASSES


def classifier(dropout=0.0, batch_norm=False, units=16, activation=None, **dense):
    """A small functional-style Sequential: 8 numbers in, three classes out; logits unless told otherwise."""
    layers = [keras.Input((8,)), keras.layers.Dense(units, activation="relu", **dense)]
    if batch_norm:
        layers.append(keras.layers.BatchNormalization())
    if dropout:
        layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential([*layers, keras.layers.Dense(CLASSES, activation=activation)])


def constants(levels):
    """`build(generation)`: models whose only output is `levels[generation]`, whatever comes in."""

    def build(generation):
        bias = keras.initializers.Constant(levels[generation])
        dense = keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer=bias)
        return keras.Sequential([keras.Input((8,)), dense])

    return build


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def values(model):
    """Copies of all of a model's variables, as NumPy arrays."""
    return [keras.ops.convert_to_numpy(v.value).copy() for v in model.variables]


def assert_same(expected, actual):
    """Bit for bit."""
    assert len(expected) == len(actual)
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(e, a)


class Perceptron(keras.Model):
    """Subclassed, not registered, with a `get_config`."""

    def __init__(self, units, batch_norm=False, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.batch_norm = batch_norm
        self.hidden = keras.layers.Dense(units, activation="relu", name="hidden")
        self.normalization = keras.layers.BatchNormalization(name="normalization") if batch_norm else None
        self.top = keras.layers.Dense(2, name="top")

    def call(self, inputs, training=None):
        x = self.hidden(inputs)
        if self.normalization is not None:
            x = self.normalization(x, training=training)
        return self.top(x)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "batch_norm": self.batch_norm}
