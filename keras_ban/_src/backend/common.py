"""Functions that are the same on every backend."""

import contextlib
import random

import keras
import numpy as np


def as_tensor(array):
    """Convert a NumPy array to a tensor. Return anything else, for instance a list of strings, unchanged."""
    return keras.ops.convert_to_tensor(array) if isinstance(array, np.ndarray) else array


def value_of(variable):
    """Return the value of a variable as a NumPy array. Of a variable on several replicas, return this process's value.

    The detour over a tensor is needed: NumPy cannot read a scalar that `tf.distribute` mirrors.
    """
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def is_tf_dataset(data):
    """Return whether `data` is a `tf.data.Dataset`, without importing TensorFlow."""
    return any(c.__name__ == "DatasetV2" and c.__module__.startswith("tensorflow.") for c in type(data).__mro__)


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


def random_states():
    """Return the states of the global random generators of Python and NumPy, as arrays by name."""
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
