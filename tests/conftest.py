"""Shared by all tests; every test runs on the backend that `KERAS_BACKEND` names."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest

CLASSES = 3


@pytest.fixture(autouse=True)
def reset_keras():
    """Each test begins with the same random numbers, and leaves no policy and no graph behind."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def blobs():
    """`(x, y)`: 96 points around three centres, `(96, 8)` float32, labels 0 to 2."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, CLASSES, 96)
    x = rng.standard_normal((96, 8)) + 1.5 * np.eye(CLASSES, 8)[y]
    return x.astype("float32"), y


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(dropout=0.0, batch_norm=False, units=16, activation=None, **dense):
    """A small functional-style Sequential: 8 numbers in, three classes out; logits unless told otherwise."""
    layers = [keras.Input((8,)), keras.layers.Dense(units, activation="relu", **dense)]
    if batch_norm:
        layers.append(keras.layers.BatchNormalization())
    if dropout:
        layers.append(keras.layers.Dropout(dropout))
    return keras.Sequential([*layers, keras.layers.Dense(CLASSES, activation=activation)])


def values(model):
    """Copies of all of a model's variables, as NumPy arrays."""
    return [keras.ops.convert_to_numpy(v.value).copy() for v in model.variables]


def assert_same(expected, actual):
    """Bit for bit."""
    assert len(expected) == len(actual)
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_array_equal(e, a)
