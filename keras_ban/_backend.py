"""What differs between TensorFlow, JAX and torch; nothing else in the package asks which backend runs."""

import contextlib

import keras
import numpy as np

BACKEND = keras.config.backend()


def without_gradients():
    """A context in which no gradients are recorded.

    TensorFlow and JAX record only inside the tape and the transformation that Keras opens later; torch records always.
    """
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def replica_count():
    """How many replicas share a batch: Keras scales each replica's loss by 1 / count (`tf.distribute` only)."""
    if BACKEND != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def steps_see_values(model):
    """Whether `train_step` runs on values; else it is traced once and compiled, and sees placeholders alone."""
    return BACKEND == "torch" or model.run_eagerly


def as_tensor(array):
    """A NumPy array as the backend's tensor; anything else, strings for instance, as it is."""
    return keras.ops.convert_to_tensor(array) if isinstance(array, np.ndarray) else array


def values_before_training(model):
    """What a model's variables hold before its first step, for `restore`.

    Under JAX, Keras takes the values out of the model before the first step and puts them back after it. Where labels
    do not fit the loss, say, or the data raise, there may be no "after", and the model would be left without any.
    """
    if BACKEND != "jax":
        return []
    variables = model.variables + model.optimizer.variables + model.metrics_variables
    return [(v, v.value) for v in variables]


def restore(values):
    """Give variables that were left without a value the one that they had."""
    for variable, value in values:
        if variable._value is None and not value.is_deleted():
            variable.assign(value)


def separate(variables, others):
    """Give those variables that hold the same buffer as one of the others a copy: JAX gives away what it trains."""
    if BACKEND != "jax":
        return
    buffers = {id(v.value) for v in others}
    for variable in variables:
        if id(variable.value) in buffers:
            variable.assign(keras.ops.copy(variable.value))


class StepConstants:
    """Variables that a training step reads and never changes, handed to it the way the backend wants.

    TensorFlow and torch read variables where they are used. Under JAX, what is not part of the step's state is compiled
    in as a constant, and the state's buffers are given away at each step: a run that stops halfway leaves them deleted.
    So under JAX copies travel in the state, and the variables themselves are never at risk.
    """

    def __init__(self, variables):
        self._originals = list(variables)
        self._values = [v.value for v in self._originals]
        self._copies = []
        if BACKEND == "jax":
            self._copies = [
                keras.Variable(keras.ops.copy(v.value), trainable=False, dtype=v.dtype, name=v.name)
                for v in self._originals
            ]

    def are_current(self):
        """Whether the variables still hold what they held."""
        return not self._copies or all(v.value is value for v, value in zip(self._originals, self._values, strict=True))

    @property
    def in_state(self):
        """The variables to append to the model's non-trainable ones."""
        return self._copies

    def values(self, non_trainable_state=None):
        """The values within a step, in order; `non_trainable_state` is JAX's, which ends with `in_state`."""
        if self._copies:
            return list(non_trainable_state[-len(self._copies) :])
        return [v.value for v in self._originals]
