"""The functions that JAX defines again, or in its own way."""

import contextlib

import jax
import keras
from jax.experimental import multihost_utils

from keras_ban._src.backend import common
from keras_ban._src.backend.jax_values import check_values, keeping_values, separate  # noqa: F401

# Keras does not pass the variables of metrics to the forward pass of a step.
CALLS_UPDATE_METRICS = False
# JAX compiles most of them, and is very slow without. The flag of the layers is about TensorFlow.
COMPILES_IMAGE_LAYERS = True


@jax.custom_vjp
def _crossentropy_and_divergence(labels, teacher, student):
    return _forward(labels, teacher, student)[0]


def _forward(labels, teacher, student):
    log_q = jax.nn.log_softmax(student)
    crossentropy = -jax.numpy.take_along_axis(log_q, labels[..., None], axis=-1, mode="clip")[..., 0]
    # A finite value takes the place of a divergence that is infinite.
    log_p = jax.numpy.maximum(jax.nn.log_softmax(teacher), -1e30)
    p, q = jax.numpy.exp(log_p), jax.numpy.exp(log_q)
    # `q - p` adds up to 0. It cancels the rounding errors of the sums.
    divergence = ((log_p - jax.numpy.maximum(log_q, -1e30)) * p + (q - p)).sum(axis=-1)
    return (crossentropy, divergence), (labels, p, q)


def _backward(saved, slopes):
    labels, p, q = saved
    of_crossentropy, of_divergence = (each[..., None] for each in slopes)
    one_hot = jax.nn.one_hot(labels, q.shape[-1], dtype=q.dtype)
    return None, None, (of_crossentropy + of_divergence) * q - of_divergence * p - of_crossentropy * one_hot


_crossentropy_and_divergence.defvjp(_forward, _backward)


def crossentropy_and_divergence(labels, teacher, student, weights=None):
    """Compute both of logits `(..., classes)`. A label outside of the classes has the crossentropy 0, as in Keras."""
    inside = (labels >= 0) & (labels < student.shape[-1])
    crossentropy, divergence = _crossentropy_and_divergence(labels, teacher, student)
    values = jax.numpy.where(inside, crossentropy, 0), divergence
    return tuple(jax.numpy.mean(value if weights is None else value * weights) for value in values)


def for_each_example(function, examples):
    """Vectorize the function, so that all examples are computed at once."""
    return keras.ops.vectorized_map(function, examples)


def error_of_tracing(function, x):
    """Trace the function, and return the error or `None`."""
    try:
        jax.eval_shape(function, x)
    except Exception as error:
        return error
    return None


def call_once(function, x, variables):
    """Compile the function. One by one, JAX would compile each operation, and keep what it returns for longer."""

    def run(x, values):
        return function(x, list(zip(variables, values, strict=True)))

    return jax.jit(run)(x, [v.value for v in variables])


class StepConstants(common.StepConstants):
    """Variables that a training step reads and never changes, passed to the step as copies in its state.

    JAX compiles a value outside the step's state as a constant. It deletes the buffers of the state at each step, so
    that an interrupted step leaves deleted buffers. With copies in the state, the variables keep their own buffers.

    Attributes:
        in_state: the copies, which must be the last of the model's non-trainable variables.
    """

    def __init__(self, variables):
        self._originals = list(variables)
        self._values = self._current_values()
        self.in_state = [
            keras.Variable(keras.ops.copy(v.value), trainable=False, dtype=v.dtype, name=v.name)
            for v in self._originals
        ]

    def are_current(self):
        """Return whether the variables still have the values that were copied."""
        return not self._changed()

    def _current_values(self):
        # Private, because the public `value` asks for scopes and policies, and each step compares all values.
        return [v._value for v in self._originals]

    def _changed(self):
        """Return the new values by place. Keras has taken those of a layer of the student, which have none."""
        pairs = enumerate(zip(self._current_values(), self._values, strict=True))
        return {place: new for place, (new, old) in pairs if new is not None and new is not old}

    def _renewed(self, state):
        """Return the state of a step with the values that the variables have now, for instance from a callback."""
        changed = self._changed()
        if not changed:
            return state
        trainable, non_trainable, *others = state
        non_trainable, first = list(non_trainable), len(non_trainable) - len(self._originals)
        for place, value in changed.items():
            self._values[place] = value
            non_trainable[first + place] = keras.ops.copy(value)
        return trainable, non_trainable, *others

    def in_step(self, non_trainable_state=None):
        """Return pairs of a variable and its value in the step, from the end of `non_trainable_state`."""
        if not self._originals:
            return []
        return list(zip(self._originals, non_trainable_state[-len(self._originals) :], strict=True))


def with_current_constants(train_function, constants):
    """Return a training function whose steps read the values that variables have when the step begins.

    `constants` is a function that returns the `StepConstants` of these variables, or `None`.
    """

    def run_step(state, iterator):
        found = constants()
        return train_function(state if found is None else found._renewed(state), iterator)

    return run_step


def worker_count_and_index():
    """Return count and index of the JAX processes. Without a `keras.distribution`, each trains by itself."""
    if keras.distribution.distribution() is None:
        return 1, 0
    return jax.process_count(), jax.process_index()


def byte_gatherer():
    """Return JAX's own function."""
    return multihost_utils.process_allgather


def batch_parts():
    """Divide the workers into the replicas of the model.

    Keras takes the data of a worker as a part of the batch, and puts the parts together. Workers that hold one replica
    together, by a `ModelParallel`, read the same part.
    """
    count, index = worker_count_and_index()
    parts = min(_model_replicas(keras.distribution.distribution()), count)
    return parts, index // (count // parts)


def device_shares():
    """Return the number of replicas of the model in the current `keras.distribution`."""
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else _model_replicas(distribution)


def check_engine(model):
    """Raise an error if there are several JAX processes, but no `keras.distribution`."""
    if keras.distribution.distribution() is None and jax.distributed.is_initialized() and jax.process_count() > 1:
        raise ValueError(
            f"Each of {jax.process_count()} JAX processes would train by itself. Call `keras.distribution."
            "set_distribution(keras.distribution.DataParallel())` before models are made."
        )


def check_whole(models):
    """Raise an error if this process cannot read the whole value of a variable."""
    for model in models:
        for variable in model.variables:
            if not (variable.value.is_fully_replicated or variable.value.is_fully_addressable):
                raise ValueError(
                    f"{variable.path} of {model.name!r} is spread over several processes, so none of them can save the "
                    "model. Use `keras.distribution.DataParallel`, or a `ModelParallel` within one process."
                )


@contextlib.contextmanager
def engine_repairs(data):
    """Turn off `auto_shard_dataset` of the distribution, unless the data are datasets of `tf.data`.

    With `auto_shard_dataset`, Keras 3.15 refuses all other datasets, although keras_ban has divided them already.
    """
    distribution = keras.distribution.distribution()
    of_tf = [common.is_tf_dataset(each) for each in data if each is not None]
    auto_shard = distribution.auto_shard_dataset
    if auto_shard and any(of_tf) and not all(of_tf):
        raise ValueError(
            "With several workers, `keras.distribution` divides either all data or none. Pass both the training data "
            "and the validation data as `tf.data.Dataset`, or neither."
        )
    distribution.auto_shard_dataset = auto_shard and any(of_tf)
    try:
        yield
    finally:
        distribution.auto_shard_dataset = auto_shard


def run_outside_engine(function):
    """Call the function without a `keras.distribution`."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        return function()
    finally:
        keras.distribution.set_distribution(distribution)


def _model_replicas(distribution):
    """Return the number of copies of a model: the size of the batch axis of the distribution's mesh."""
    mesh = distribution.device_mesh
    return dict(zip(mesh.axis_names, mesh.shape, strict=True))[distribution.batch_dim_name]


def double_precision():
    """Return a context in which JAX computes in float64."""
    # Older versions have it under another name.
    return (jax if hasattr(jax, "enable_x64") else jax.experimental).enable_x64(True)
