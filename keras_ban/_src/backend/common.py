"""The functions of every backend. A backend's own file defines some of them again, with the same arguments.

The docstrings here say what a function does on all of them.
"""

import contextlib
import random

import keras
import numpy as np

# Facts about a backend, with the values of most of them.
# Whether Keras's mask of a tensor is always an attribute of it. JAX's tracers have no attributes.
MASKS_ARE_ATTRIBUTES = False
# Whether the `call` of a model can update metrics in a step.
CALLS_UPDATE_METRICS = True
# Whether the mean loss of a batch without examples is 0. Otherwise it is NaN, or an error.
TRAINS_ON_NO_EXAMPLES = False
# Whether image layers of Keras can be compiled although their `supports_jit` is `False`.
COMPILES_IMAGE_LAYERS = False
# Whether each of several workers takes its part of a batch in the training step. Otherwise engine or data divide it.
DIVIDES_BATCHES_IN_STEP = False
# Whether Keras writes a SavedModel in this process. Otherwise, a process with TensorFlow writes it.
WRITES_SAVED_MODELS = False


def as_tensor(array):
    """Convert a NumPy array to a tensor. Return anything else, for instance a list of strings, unchanged."""
    return keras.ops.convert_to_tensor(array) if isinstance(array, np.ndarray) else array


def value_of(variable):
    """Return the value of a variable as a NumPy array. Of a variable on several replicas, return this process's value.

    The detour over a tensor is needed: NumPy cannot read a scalar that `tf.distribute` mirrors.
    """
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def is_of_library(value, library, *names):
    """Return whether a value is of one of these classes of a library, which need not be installed.

    Without names, any class of the library counts, also as a base.
    """
    classes = [each for each in type(value).__mro__ if each.__module__.split(".")[0] == library]
    return any(not names or each.__name__ in names for each in classes)


def is_tf_dataset(data):
    """Return whether `data` is a `tf.data.Dataset`."""
    return is_of_library(data, "tensorflow", "DatasetV2")


def step_of(optimizer, variables=None):
    """Return the number of steps of an optimizer as a scalar tensor.

    Args:
        optimizer: a `keras.optimizers.Optimizer`.
        variables: the values of its variables in JAX's training state. `None` on the other backends.
    """
    if variables is None:
        return keras.ops.convert_to_tensor(optimizer.iterations, dtype="int32")
    with keras.StatelessScope(state_mapping=list(zip(optimizer.variables, variables, strict=True))):
        return keras.ops.convert_to_tensor(optimizer.iterations, dtype="int32")


def reading(state, non_trainable_variables):
    """Return a context in which variables are read from, and written to, JAX's training state.

    Args:
        state: what Keras passes to `train_step` before the data: `[training_state]` under JAX, else an empty list.
        non_trainable_variables: the model's non-trainable variables.
    """
    if not state:
        return contextlib.nullcontext()
    return keras.StatelessScope(state_mapping=list(zip(non_trainable_variables, state[0][1], strict=True)))


def after(state, scope, non_trainable_variables):
    """Return `state` with the values that were written in the context of `reading`.

    Args:
        state: as in `reading`.
        scope: the `keras.StatelessScope` that `reading` opened.
        non_trainable_variables: as in `reading`.
    """
    if not state:
        return state
    (trainable, _, *others), *rest = state
    return [(trainable, [scope.get_current_value(v) for v in non_trainable_variables], *others), *rest]


def flat_layers(model, include_self=True):
    """Return the model and all layers within it, nested ones too."""
    # Private, because Keras has no public function for it.
    return list(model._flatten_layers(include_self=include_self))


def dtype_policy_of(models):
    """Return the dtype policy for a model that trains `models`. With `mixed_float16`, `compile` scales losses.

    Keras forgets the policy of a functional or Sequential model when it loads or clones it, but not that of its layers.
    """
    policies = [layer.dtype_policy for model in models for layer in flat_layers(model)]
    return next((policy for policy in policies if policy.name == "mixed_float16"), models[0].dtype_policy)


def without_gradients():
    """Return a context in which no gradients are recorded.

    TensorFlow and JAX record gradients only in a tape or a transformation, which Keras opens later.
    """
    return contextlib.nullcontext()


def differentiates_gradients():
    """Return whether a function of `keras.ops.custom_gradient` must compute its gradient so that it has one, too.

    TensorFlow and JAX differentiate a gradient through values of the forward pass.
    """
    return False


def update_mean(metric, value, weight):
    """Update a `keras.metrics.Mean` by a scalar and its weight, in fewer operations than Keras."""
    value, weight = (keras.ops.convert_to_tensor(each, metric.dtype) for each in (value, weight))
    metric.total.assign(metric.total + value * weight)
    metric.count.assign(metric.count + weight)


def result_of_mean(metric):
    """Return the result of a `keras.metrics.Mean`."""
    return keras.metrics.Mean.result(metric)


def replica_count():
    """Return the number of replicas that share a batch. Keras scales the loss of each replica by 1 / count.

    Torch computes the loss of each process's own batch, and JAX that of the whole batch, on any number of devices.
    """
    return 1


def sum_over_replicas(value):
    """Return the sum of a value over the replicas that share a batch."""
    return value


def as_if_alone():
    """Return a context in which Keras sees a single replica, and does not scale the loss."""
    return contextlib.nullcontext()


def steps_see_values(model):
    """Return whether `train_step` runs on values. Otherwise it is traced once, and sees symbolic tensors only."""
    return model.run_eagerly


def build_optimizer(model):
    """Build the optimizer of a compiled model before its first step, if Keras does not build it on values."""


def for_each_example(function, examples):
    """Call a function with each example of nested tensors `(examples, ...)`. Return the stacked results."""
    return keras.ops.map(function, examples)


def as_texts(array, in_batch=False):
    """Return an array of texts as Keras takes it. JAX and torch have no tensors of texts."""
    return array


def double_precision():
    """Return a context in which tensors may be float64."""
    return contextlib.nullcontext()


def error_of_tracing(function, x):
    """Return the error raised while JAX traces a function. `None` without an error, and on the other backends."""
    return None


def call_once(function, x, variables):
    """Return what `function(x, values)` returns, in the way that costs least for one call.

    `values` pairs `variables` with their values. Without them, the variables have the values that they have.
    """
    return function(x)


def shuffles_each_epoch_anew(workers=1):
    """Return whether Keras shuffles arrays in a new order in each epoch, and alike on all of several workers."""
    return True


def check_values(model):
    """Raise `ValueError` if an interrupted step took the values of a model's variables, as on JAX."""


def keeping_values(model):
    """Return a context for `fit`, `predict` and `evaluate`, after which the model has its values, however they end."""
    return contextlib.nullcontext()


def release_gradients(model):
    """Release what the backend keeps of the last step of a model that is trained."""


def separate(variables, others=()):
    """Copy the values of variables that share a buffer with each other or with other variables."""


class StepConstants:
    """Variables that a training step reads and never changes. TensorFlow and torch read them where they are used.

    Attributes:
        in_state: the variables that the step needs at the end of its non-trainable state.
    """

    def __init__(self, variables):
        self.in_state = []

    def are_current(self):
        """Return whether the variables still have the values that the step reads."""
        return True

    def in_step(self, non_trainable_state=None):
        """Return pairs of a variable and its value in the step, for those with another value in it."""
        return []


def with_current_constants(train_function, constants):
    """Return a training function whose steps read the values that variables have when the step begins.

    `constants` is a function that returns the `StepConstants` of these variables, or `None`.
    """
    return train_function


def random_states():
    """Return the states of the global random generators that training uses, as arrays by name.

    Those of Python and NumPy. JAX has no global generator, and TensorFlow's has no readable state.
    """
    _, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": np.array(internal, "uint64"),
        "python_gauss": np.array([] if gauss is None else [gauss]),
        "numpy_keys": keys,
        "numpy_rest": np.array([position, has_gauss, cached]),
    }


def set_random_states(states):
    """Set the states that `random_states` returned."""
    gauss = states["python_gauss"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = states["numpy_rest"].tolist()
    np.random.set_state(("MT19937", states["numpy_keys"], int(position), int(has_gauss), cached))


def seed_shuffling(seed):
    """Seed the random numbers by which Keras shuffles, if `random_states` cannot return their state."""


# `process_group` calls the functions below.


def batch_parts():
    """Return `(number of parts, index of this worker's part)` of a batch, for several workers.

    `(1, 0)`: the strategy of TensorFlow divides the data, and on torch the training step divides a batch.
    """
    return 1, 0


def device_shares():
    """Return the number of devices that need equal shares of each batch."""
    return 1


def check_engine(model):
    """Raise `ValueError` if there are several processes, but each would train by itself."""


def check_whole(models):
    """Raise `ValueError` if a model is spread over several workers, so that none can save it."""


def engine_repairs(data):
    """Return a context for `fit` with several workers, which works around limitations of Keras."""
    return contextlib.nullcontext()


def run_outside_engine(function):
    """Call a function on this worker's own devices, and return its result."""
    return function()
