"""What differs between TensorFlow, JAX and torch; nothing else in the package asks which backend runs."""

import contextlib
import random

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


def differentiates_gradients():
    """Whether a gradient given in closed form is being differentiated itself: torch alone does not see through it."""
    if BACKEND != "torch":
        return False
    import torch

    return torch.is_grad_enabled()


def replica_count():
    """How many replicas share a batch: Keras scales each replica's loss by 1 / count (`tf.distribute` only)."""
    if BACKEND != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(value):
    """The sum of a value over the replicas that share a batch (`tf.distribute` only)."""
    if replica_count() == 1:
        return value
    import tensorflow as tf

    if tf.distribute.in_cross_replica_context():
        return value  # Called beside the replicas, with the whole batch.
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def as_if_alone():
    """A context in which a replica appears to be the only one: nothing in it is scaled by their number."""
    if replica_count() == 1:
        return contextlib.nullcontext()
    import tensorflow as tf

    # A new graph knows no strategy; its context may be entered here.
    with tf.Graph().as_default():
        return tf.distribute.get_replica_context()


def step_of(optimizer, variables=None):
    """How many steps an optimizer has made, as a tensor `()`; `variables` are its variables' values in JAX's step."""
    if variables is None:
        return keras.ops.convert_to_tensor(optimizer.iterations, dtype="int32")
    with keras.StatelessScope(state_mapping=list(zip(optimizer.variables, variables, strict=True))):
        return keras.ops.convert_to_tensor(optimizer.iterations, dtype="int32")


def steps_see_values(model):
    """Whether `train_step` runs on values; else it is traced once and compiled, and sees placeholders alone."""
    return BACKEND == "torch" or model.run_eagerly


def for_each_example(function, examples):
    """`function` of each example of nested tensors `(examples, ...)`, the results stacked.

    At once under JAX; one after the other under TensorFlow, in its graph, and under torch, whose random numbers and
    many of whose operations cannot be vectorized.
    """
    if BACKEND == "jax":
        return keras.ops.vectorized_map(function, examples)
    return keras.ops.map(function, examples)


def compiles_image_layers():
    """Whether image layers of Keras compile though they say that they do not support it.

    Many say so because of an operation that TensorFlow cannot compile. JAX has no trouble with most of them, and would
    be slow beyond use without.
    """
    return BACKEND == "jax"


def error_of_tracing(function, x):
    """The error that JAX meets when it traces `function` of `x`; `None` where there is none, and on other backends."""
    if BACKEND != "jax":
        return None
    import jax

    try:
        jax.eval_shape(function, x)
    except Exception as error:
        return error
    return None


def value_of(variable):
    """A variable's value as a NumPy array; that of this process, of one that `tf.distribute` mirrors.

    (NumPy itself cannot read a single number that is mirrored.)
    """
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


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


@contextlib.contextmanager
def keeping_values(model):
    """A context for `predict` and `evaluate`, which on an error would leave a model without values as training does."""
    variables = model.variables + model.metrics_variables if BACKEND == "jax" else []
    values = [(v, v.value) for v in variables]
    try:
        yield
    except BaseException:
        if BACKEND == "jax":
            model.jax_state_sync()
        restore(values)
        raise


def separate(variables, others):
    """Give those variables that hold the same buffer as one of the others a copy: JAX gives away what it trains."""
    if BACKEND != "jax":
        return
    buffers = {id(v.value) for v in others}
    for variable in variables:
        if id(variable.value) in buffers:
            variable.assign(keras.ops.copy(variable.value))


def reading(state, non_trainable_variables):
    """A context in which a training step reads, and writes, JAX's state in place of the variables themselves."""
    if not state:
        return contextlib.nullcontext()
    return keras.StatelessScope(state_mapping=list(zip(non_trainable_variables, state[0][1], strict=True)))


def after(state, scope, non_trainable_variables):
    """JAX's state after what was written in `reading`'s context."""
    if not state:
        return state
    (trainable, _, *others), *rest = state
    return [(trainable, [scope.get_current_value(v) for v in non_trainable_variables], *others), *rest]


def random_states():
    """The states of the global random generators that move while Keras trains, as arrays by name."""
    _, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": np.array(internal, "uint64"),
        "python_gauss": np.array([] if gauss is None else [gauss]),
        "numpy_keys": keys,
        "numpy_rest": np.array([position, has_gauss, cached]),
    }
    if BACKEND == "torch":
        import torch

        states["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available():
            states |= {f"cuda_{i}": state.cpu().numpy() for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states):
    """The reverse of `random_states`."""
    gauss = states["python_gauss"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = states["numpy_rest"].tolist()
    np.random.set_state(("MT19937", states["numpy_keys"], int(position), int(has_gauss), cached))
    if BACKEND == "torch":
        import torch

        torch.set_rng_state(torch.from_numpy(states["torch"]))
        cuda = [torch.from_numpy(state) for name, state in states.items() if name.startswith("cuda_")]
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


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

    def in_step(self, non_trainable_state=None):
        """`(variable, value)` of those whose value within a step is another; JAX's state ends with `in_state`."""
        if not self._copies:
            return []
        return list(zip(self._originals, non_trainable_state[-len(self._copies) :], strict=True))


def is_tf_dataset(data):
    return any(c.__name__ == "DatasetV2" and c.__module__.startswith("tensorflow.") for c in type(data).__mro__)


def shuffles_each_epoch_anew():
    """Whether Keras shuffles arrays by random numbers that go on from epoch to epoch; see `_shuffling`."""
    return BACKEND != "tensorflow" or replica_count() > 1
