"""Shared by all tests; every test runs on the backend that `KERAS_BACKEND` names."""

import contextlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import pytest
from keras import ops

from keras_ban._epochs import KeepEpochs
from keras_ban._shuffling import in_order_of_epoch

CLASSES = 3


@pytest.hookimpl(tryfirst=True)  # Before pytest leaves out what is slow.
def pytest_collection_modifyitems(items):
    for item in items:
        if keras.config.backend() != "torch" and item.get_closest_marker("slow_but_on_torch"):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def reset_keras():
    """Each test begins with the same random numbers, and leaves no policy and no graph behind."""
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def blobs():
    return make_blobs()


@pytest.fixture
def epochs_trained(monkeypatch):
    """`(generation, epoch)` of each epoch that is trained without callbacks of the user's."""
    seen, original = [], KeepEpochs.on_epoch_begin

    def note(self, epoch, logs=None):
        seen.append((self.generation, epoch))
        original(self, epoch, logs)

    monkeypatch.setattr(KeepEpochs, "on_epoch_begin", note)
    return seen


def make_blobs():
    """`(x, y)`: 96 points around three centres, `(96, 8)` float32, labels 0 to 2."""
    rng = np.random.default_rng(1)
    y = rng.integers(0, CLASSES, 96)
    x = rng.standard_normal((96, 8)) + 1.5 * np.eye(CLASSES, 8)[y]
    return x.astype("float32"), y


class Batches(keras.utils.PyDataset):
    """Arrays in batches, in their order; `fixed`, if it is given, is what the dataset says of itself."""

    def __init__(self, x, y, size=32, fixed=None, **options):
        super().__init__(**options)
        self.x, self.y, self.size = x, y, size
        if fixed is not None:
            self.fixed = fixed

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return self.x[rows], self.y[rows]


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


def fit_in_order(model, seed, x, y, **options):
    """Keras's `fit` in the order of a generation with that seed, which under TensorFlow is not that of Keras."""
    x, y, options = in_order_of_epoch(model, x, y, {"callbacks": [], "verbose": 0, **options}, seed)
    return model.fit(x, y, **options)


def random_logits(shape, scale, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("float32")


def loss_and_gradient(function, student):
    """`function(student)` and the gradient of its sum, as NumPy arrays."""
    student = ops.convert_to_tensor(student)
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        value = function(student)
        gradient = jax.grad(lambda s: ops.sum(function(s)))(student)
    elif backend == "torch":
        student = student.clone().requires_grad_(True)
        value = function(student)
        ops.sum(value).backward()
        gradient = student.grad
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(student)
            value = function(student)
            total = ops.sum(value)
        gradient = tape.gradient(total, student)
    return ops.convert_to_numpy(value), ops.convert_to_numpy(gradient)


def constants(levels):
    """`build(generation)`: models whose only output is `levels[generation]`, whatever comes in."""

    def build(generation):
        bias = keras.initializers.Constant(levels[generation])
        dense = keras.layers.Dense(1, kernel_initializer="zeros", bias_initializer=bias)
        return keras.Sequential([keras.Input((8,)), dense])

    return build


@contextlib.contextmanager
def interrupted_after(generation, epoch=0):
    """Stops the run after an epoch, without a callback of the user's: the state of that epoch is on disk."""
    original = KeepEpochs.on_epoch_end

    def stop(self, now, logs=None):
        original(self, now, logs)
        if (self.generation, now) == (generation, epoch):
            raise InterruptedError("by the test")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(KeepEpochs, "on_epoch_end", stop)
        yield
