"""Training as the package does it, and its interruption."""

import contextlib
import functools

import keras
import pytest
from keras import ops

from keras_ban import Distiller
from keras_ban._src.data import fit_arguments
from keras_ban._src.distillation.attachment import attach
from keras_ban._src.distillation.shuffling import in_order_of_epoch
from keras_ban._src.runs.epochs import KeepEpochs
from keras_ban._src.sequence.generations import fit


def fit_in_order(model, seed, x, y, soft_targets=None, **options):
    """Keras's `fit` in the order of a generation with that seed, which under TensorFlow is not that of Keras."""
    data, options = fit_arguments.read({"x": x, "y": y, "callbacks": [], "verbose": 0, **options})
    data, options = attach(data, options, soft_targets)
    data, options = in_order_of_epoch(data, options, seed)
    return model.fit(data, **options) if isinstance(model, Distiller) else fit(model, data, options)


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


def loss_and_gradient(loss, y_true, student):
    """`loss(y_true, student)` and the gradient of its sum by `student`, as NumPy arrays.

    JAX compiles one function for both, once for a loss and a shape: op by op it would compile each op for each shape.
    """
    student = ops.convert_to_tensor(student)
    backend = keras.config.backend()
    if backend == "jax":
        (_, value), gradient = _compiled_on_jax(loss)(student, y_true)
    elif backend == "torch":
        student = student.clone().requires_grad_(True)
        value = loss(y_true, student)
        ops.sum(value).backward()
        gradient = student.grad
    else:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(student)
            value = loss(y_true, student)
            total = ops.sum(value)
        gradient = tape.gradient(total, student)
    return ops.convert_to_numpy(value), ops.convert_to_numpy(gradient)


@functools.lru_cache(maxsize=1)
def _compiled_on_jax(loss):
    import jax

    def total(student, y_true):
        with keras.StatelessScope():  # Random number generators of the loss keep their state.
            value = loss(y_true, student)
        return ops.sum(value), value

    return jax.jit(jax.value_and_grad(total, has_aux=True))
