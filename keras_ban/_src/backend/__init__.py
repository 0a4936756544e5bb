"""The functions that differ between TensorFlow, JAX and torch.

`tensorflow.py`, `jax.py` and `torch.py` define the same functions. The file of Keras's backend is chosen once, here.
The comments below say what a function does on every backend. The docstrings in the three files say how.
"""

import importlib

import keras

from keras_ban._src.backend.common import (  # noqa: F401
    after,
    as_tensor,
    dtype_policy_of,
    flat_layers,
    is_tf_dataset,
    reading,
    step_of,
    value_of,
)

BACKEND = keras.config.backend()
if BACKEND not in ("tensorflow", "jax", "torch"):
    raise ImportError(f"keras_ban needs Keras on TensorFlow, JAX or torch, but Keras's backend is {BACKEND!r}.")

# The frameworks are optional: the files of the other backends could not be imported.
_chosen = importlib.import_module(f"{__name__}.{BACKEND}")

# Returns a context in which no gradients are recorded.
without_gradients = _chosen.without_gradients
# Whether a function of `keras.ops.custom_gradient` must compute its gradient so that it can be differentiated, too.
differentiates_gradients = _chosen.differentiates_gradients
# Returns the crossentropy of labels, and the divergence of a teacher, from one softmax: weighted means over examples.
crossentropy_and_divergence = _chosen.crossentropy_and_divergence
# Whether Keras's mask of a tensor is always an attribute of it.
masks_are_attributes = _chosen.masks_are_attributes

# Updates a `keras.metrics.Mean` by a scalar and its weight.
update_mean = _chosen.update_mean
# Returns the result of a `keras.metrics.Mean`.
result_of_mean = _chosen.result_of_mean

# The number of replicas that share a batch. Keras scales the loss of each replica by 1 / count.
replica_count = _chosen.replica_count
# Returns the sum of a value over the replicas that share a batch.
sum_over_replicas = _chosen.sum_over_replicas
# Returns a context in which Keras sees a single replica, and does not scale the loss.
as_if_alone = _chosen.as_if_alone

# Whether `train_step` runs on values. Otherwise it is traced once, and sees symbolic tensors only.
steps_see_values = _chosen.steps_see_values
# Builds the optimizer of a compiled model before its first step, for optimizers that start from the weights.
build_optimizer = _chosen.build_optimizer
# Whether the `call` of a model can update metrics in a step.
calls_update_metrics = _chosen.calls_update_metrics
# Whether the mean loss of a batch without examples is 0. Otherwise it is NaN, or an error.
trains_on_no_examples = _chosen.trains_on_no_examples
# Calls a function with each example of nested tensors `(examples, ...)`. Returns the stacked results.
for_each_example = _chosen.for_each_example
# Whether image layers of Keras can be compiled although their `supports_jit` is `False`.
compiles_image_layers = _chosen.compiles_image_layers
# Returns an array of texts as Keras takes it.
as_texts = _chosen.as_texts
# Returns a context in which tensors may be float64.
double_precision = _chosen.double_precision
# Returns the error raised while JAX traces a function. `None` without an error, and on the other backends.
error_of_tracing = _chosen.error_of_tracing
# Returns what `function(x, values)` returns, in the way that costs least for one call. `values` pairs `variables` with
# their values; without them, the variables have the values that they have.
call_once = _chosen.call_once
# Whether Keras shuffles arrays in a new order in each epoch, and alike on all of several workers.
shuffles_each_epoch_anew = _chosen.shuffles_each_epoch_anew

# Returns a context for `fit`, `predict` and `evaluate`, after which the model has its values, however they end.
keeping_values = _chosen.keeping_values
# Raises an error if an interrupted step took the values of a model's variables.
check_values = _chosen.check_values
# Releases what the backend keeps of the last step of a model that is trained.
release_gradients = _chosen.release_gradients
# Copies the values of variables that share a buffer with other variables.
separate = _chosen.separate
# Passes variables that never change to the training step.
StepConstants = _chosen.StepConstants
# Wraps a training function, so that a step reads such variables anew if they changed after the step before.
with_current_constants = _chosen.with_current_constants

# Returns the states of the global random generators that training uses, as arrays by name.
random_states = _chosen.random_states
# Sets the states that `random_states` returned.
set_random_states = _chosen.set_random_states
# Seeds the random numbers by which Keras shuffles, if `random_states` cannot return their state.
seed_shuffling = _chosen.seed_shuffling
# Whether each of several workers takes its part of a batch in the training step.
divides_batches_in_step = _chosen.divides_batches_in_step
# Whether Keras writes a SavedModel in this process.
writes_saved_models = _chosen.writes_saved_models

# `process_group` calls the functions below.
# Returns `(number of workers, index of this worker)`. It is `(1, 0)` if this process trains by itself.
worker_count_and_index = _chosen.worker_count_and_index
# Returns a function that gathers an array of bytes `(n,)` from all workers. It may be called in another thread.
byte_gatherer = _chosen.byte_gatherer
# Returns `(number of parts, index of this worker's part)` of a batch, for several workers.
batch_parts = _chosen.batch_parts
# The number of devices that need equal shares of each batch.
device_shares = _chosen.device_shares
# Raises an error if there are several processes, but each would train by itself.
check_engine = _chosen.check_engine
# Raises an error if a model is spread over several workers, so that none can save it.
check_whole = _chosen.check_whole
# Returns a context for `fit` with several workers, which works around limitations of Keras.
engine_repairs = _chosen.engine_repairs
# Calls a function on this worker's own devices. Returns its result.
run_outside_engine = _chosen.run_outside_engine
