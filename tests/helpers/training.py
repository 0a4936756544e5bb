"""Training as the package does it, and its interruption."""

import contextlib

import keras
import pytest
from keras import ops

from keras_ban._epochs import KeepEpochs
from keras_ban._shuffling import in_order_of_epoch


def fit_in_order(model, seed, x, y, **options):
    """Keras's `fit` in the order of a generation with that seed, which under TensorFlow is not that of Keras."""
    x, y, options = in_order_of_epoch(model, x, y, {"callbacks": [], "verbose": 0, **options}, seed)
    return model.fit(x, y, **options)


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
