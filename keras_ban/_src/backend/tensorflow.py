"""The functions that TensorFlow defines again, or in its own way."""

import concurrent.futures
import contextlib

import keras
import tensorflow as tf

TRAINS_ON_NO_EXAMPLES = WRITES_SAVED_MODELS = True

# The compiled functions of `byte_gatherer`, by strategy and number of bytes.
_gathers: dict = {}


def crossentropy_and_divergence(labels, teacher, student, weights=None):
    """Compute both of logits `(..., classes)`. A label outside of the classes has the crossentropy NaN, as in Keras.

    The means are within the gradient, and the functions are TensorFlow's own, because each operation of a step takes
    time.
    """
    # As in Keras, the mean over no examples is 0.
    count = tf.cast(tf.size(labels) * replica_count(), student.dtype)
    share = tf.math.divide_no_nan(tf.ones_like(count), count)

    @tf.custom_gradient
    def means(student):
        inside = tf.clip_by_value(labels, 0, student.shape[-1] - 1)
        log_q = tf.nn.log_softmax(student)
        crossentropy = -tf.gather(log_q, inside, batch_dims=labels.shape.rank)
        crossentropy = tf.where(labels == inside, crossentropy, float("nan"))
        # A finite value takes the place of a divergence that is infinite.
        log_p = tf.maximum(tf.nn.log_softmax(teacher), -1e30)
        p, q = tf.exp(log_p), tf.exp(log_q)
        # `q - p` adds up to 0. It cancels the rounding errors of the sums.
        divergence = tf.reduce_sum((log_p - tf.maximum(log_q, -1e30)) * p + (q - p), axis=-1)

        def gradient(of_crossentropy, of_divergence):
            of_crossentropy, of_divergence = of_crossentropy * share, of_divergence * share
            one_hot = tf.one_hot(labels, q.shape[-1], on_value=of_crossentropy, off_value=0.0, dtype=q.dtype)
            slope = (of_crossentropy + of_divergence) * q - of_divergence * p - one_hot
            return slope if weights is None else slope * weights[..., tf.newaxis]

        values = (crossentropy, divergence)
        values = values if weights is None else [value * weights for value in values]
        return tuple(tf.reduce_sum(value) * share for value in values), gradient

    return means(student)


def replica_count():
    """Return the number of replicas of the current `tf.distribute` strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(value):
    """Sum over the replicas with `all_reduce`."""
    if replica_count() == 1 or tf.distribute.in_cross_replica_context():
        return value  # In the cross-replica context, `value` is computed from the whole batch.
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def as_if_alone():
    """Enter the replica context of a graph without a strategy."""
    if replica_count() == 1:
        return contextlib.nullcontext()
    # A new graph has no strategy, so its replica context can be entered here.
    with tf.Graph().as_default():
        return tf.distribute.get_replica_context()


def build_optimizer(model):
    """Build it, outside the traced step, in which its variables cannot take the values of the weights."""
    if model.built and not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def as_texts(array, in_batch=False):
    """Return an array of objects for whole data of rank 1, and a tensor for higher ranks, bytes and batches."""
    is_str = array.dtype.kind == "U" or isinstance(array.flat[0], str)
    return array.astype(object) if array.ndim == 1 and is_str and not in_batch else tf.convert_to_tensor(array)


def shuffles_each_epoch_anew(workers=1):
    """Return whether there are several replicas, of one worker.

    With one replica, after `keras.utils.set_random_seed`, each epoch of a `fit` starts with the same random numbers.
    Workers shuffle by a state of TensorFlow that differs. See `keras_ban._src.distillation.shuffling`.
    """
    return replica_count() > 1 and workers == 1


def seed_shuffling(seed):
    """Seed TensorFlow's global generator, by which Keras shuffles arrays."""
    tf.random.set_seed(seed)


def worker_count_and_index():
    """Return count and index in the `MultiWorkerMirroredStrategy` in whose scope this is called."""
    strategy = tf.distribute.get_strategy()
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1, 0
    resolver = strategy.cluster_resolver
    cluster = resolver.cluster_spec().as_dict()
    chiefs, workers = len(cluster.get("chief", [])), len(cluster.get("worker", []))
    if chiefs + workers < 2:
        return 1, 0
    return chiefs + workers, resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)


def byte_gatherer():
    """Return a function that gathers with the current strategy."""
    workers, _ = worker_count_and_index()
    strategy = tf.distribute.get_strategy()

    def gather(data):
        with strategy.scope():
            each = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(data[None], "int32"))
            if (strategy, len(data)) not in _gathers:
                _gathers[strategy, len(data)] = tf.function(lambda rows: strategy.gather(rows, axis=0))
            # There is one row for each replica. The rows of a worker are equal.
            return _gathers[strategy, len(data)](each).numpy().reshape(workers, -1, len(data))[:, 0]

    return gather


def device_shares():
    """Return the number of replicas of all workers, or 1 for a single worker."""
    return replica_count() if worker_count_and_index()[0] > 1 else 1


def check_engine(model):
    """Raise an error if the model was created in the scope of a strategy that is no longer in force."""
    strategy = getattr(model, "distribute_strategy", None)
    multi_worker = tf.distribute.MultiWorkerMirroredStrategy
    if isinstance(strategy, multi_worker) and not isinstance(tf.distribute.get_strategy(), multi_worker):
        raise ValueError(
            "The model was made in the scope of a `MultiWorkerMirroredStrategy`: call `fit` in `with "
            "strategy.scope():`, too."
        )


@contextlib.contextmanager
def engine_repairs(data):
    """Extend the `reduce` method of the current strategy.

    Keras 3.15 calls `reduce` with a whole nested batch, of which it needs only the shapes, and calls it with scalars
    and an axis. A `MultiWorkerMirroredStrategy` supports neither.
    """
    strategy = tf.distribute.get_strategy()
    reduce = strategy.reduce

    def extended_reduce(reduce_op, value, axis):
        if isinstance(value, (list, tuple, dict)):
            return keras.tree.map_structure(lambda leaf: strategy.experimental_local_results(leaf)[0], value)
        is_scalar = len(strategy.experimental_local_results(value)[0].shape) == 0
        return reduce(reduce_op, value, axis=None if is_scalar else axis)

    strategy.reduce = extended_reduce
    try:
        yield
    finally:
        del strategy.reduce


def run_outside_engine(function):
    """Call the function in a new thread, because TensorFlow keeps the current strategy per thread."""
    # Keras keeps the dtype policy per thread, too.
    policy = (keras.config.dtype_policy(),)
    thread = concurrent.futures.ThreadPoolExecutor(1, initializer=keras.config.set_dtype_policy, initargs=policy)
    try:
        return thread.submit(function).result()
    finally:
        thread.shutdown(wait=False)
