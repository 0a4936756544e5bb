"""What a process must know where several train one model together, by the means of the backend's own engine.

A worker is one process of such a group; the chief is worker 0. Who are they, by backend:

- JAX: the processes of `jax.distributed`, once a `keras.distribution` is set;
- TensorFlow: those of the `MultiWorkerMirroredStrategy` in whose scope this is called (a `MirroredStrategy` is one
  worker with several replicas);
- torch: the ranks of `torch.distributed`, once it is initialised.

All workers run the same script. What is done by `gather`, `chiefs` and `together` must be done by all of them, in the
same order; each waits for the others for a bounded time.
"""

import contextlib
import threading
import zlib

import keras
import numpy as np

from keras_ban._src import backend

#: How long a worker waits for the others, in seconds.
WAIT_SECONDS = 600
_START_AGAIN = (
    "What the run directory holds is kept. End the workers that are left, and start all of them again, with the same "
    "script: they go on from there."
)
# TensorFlow's compiled functions that gather, by strategy and number of bytes.
_gathers = {}
# Whether `alone` runs: then a worker is the only one.
_by_itself = threading.Event()


def count():
    """How many workers train together; 1 where there is no engine, and in `alone`."""
    return 1 if _by_itself.is_set() else _count_and_index()[0]


def shared():
    """Whether a model's own `predict` is not for one process alone: several workers, or replicas of `tf.distribute`.

    (Each replica is given the whole of what `predict_on_batch` is given, and answers: rows come twice.)
    """
    return count() > 1 or backend.replica_count() > 1


def index():
    """Which of them this is, from 0."""
    return 0 if _by_itself.is_set() else _count_and_index()[1]


def is_chief():
    """Whether this is the one that writes."""
    return index() == 0


def gather(values, what):
    """What each worker passed, in all of them.

    Args:
        values: numbers or an array of the same dtype and shape in each worker.
        what: what they wait for, in words that go on from "to".

    Returns:
        A NumPy array `(count, ...)`.

    Raises:
        RuntimeError: not all workers came within `WAIT_SECONDS`, or one of them has ended.
    """
    values = np.asarray(values)
    workers = count()
    if workers == 1:
        return values[None]
    # As bytes, because JAX has no 64 bits by default, and the engines not all of NumPy's types.
    data = np.frombuffer(np.ascontiguousarray(values).tobytes(), "uint8")
    gather_bytes = _gatherer()
    found = _bounded(lambda: gather_bytes(data), what)
    return np.frombuffer(np.ascontiguousarray(found, "uint8").tobytes(), values.dtype).reshape(workers, *values.shape)


def chiefs(values, what):
    """What the chief passed, in all workers; see `gather`."""
    return gather(values, what)[0]


@contextlib.contextmanager
def together(what):
    """A context in which each worker does its own part; they leave it together, or none of them goes on.

    What is done in it must not need another worker. (See `gather` for `what`, and for the bounded wait.)

    Raises:
        RuntimeError: another worker failed in it, or did not come.
    """
    workers = count()
    if workers == 1:
        yield
        return
    try:
        yield
    except Exception:
        # The others are told, if they are still there; the error itself matters more than whether they heard.
        with contextlib.suppress(RuntimeError):
            gather(True, what)
        raise
    failed = np.flatnonzero(gather(False, what))
    if len(failed):
        raise RuntimeError(
            f"Worker {failed[0]} of {workers} (counted from 0) failed to {what}: its own message says why. "
            f"{_START_AGAIN}"
        )


def wait_for_all(what):
    """Wait until all workers are here; see `together`."""
    with together(what):
        pass


def parts():
    """`(how many, which is this worker's)`: the parts of a batch that workers must be given; `(1, 0)`: the whole batch.

    Under TensorFlow the strategy itself divides what each worker reads. Under JAX, Keras takes what a worker's data
    yield as its part of the batch, and puts the parts together; workers that hold one replica together, by a
    `ModelParallel`, take the same.
    """
    if backend.BACKEND != "jax" or count() == 1:
        return 1, 0
    parts = min(_replicas(keras.distribution.distribution()), count())
    return parts, index() // (count() // parts)


def shares():
    """How many devices an engine that needs equal shares divides each batch over; 1 where there is no such engine."""
    if backend.BACKEND == "jax":
        distribution = keras.distribution.distribution()
        return 1 if distribution is None or _by_itself.is_set() else _replicas(distribution)
    return backend.replica_count() if count() > 1 else 1


def _replicas(distribution):
    """How many copies of a model a `keras.distribution` holds: the size of its mesh's axis of the batch."""
    mesh = distribution.device_mesh
    return dict(zip(mesh.axis_names, mesh.shape, strict=True))[distribution.batch_dim_name]


def check_alike():
    """Raise where the workers' random numbers differ: they would shuffle, and draw weights, each in its own way."""
    if count() == 1:
        return
    states = backend.random_states()
    checksum = zlib.crc32(b"".join(np.ascontiguousarray(states[name]).tobytes() for name in sorted(states)))
    checksums = gather(checksum, "compare their random numbers").tolist()
    if len(set(checksums)) > 1:
        raise ValueError(
            f"The {count()} workers that train together have different random numbers, so that each would shuffle in "
            "an order of its own. Call `keras.utils.set_random_seed` with the same seed in each of them, before models "
            "are made."
        )
    if backend.BACKEND == "tensorflow":
        import tensorflow as tf

        # Keras shuffles arrays by a state of TensorFlow's own, which none can look at.
        tf.random.set_seed(checksum)


def check_engine(model):
    """Raise where several processes are there to train together, but the engine is not in force.

    Args:
        model: what a sequence was given: a model; or a callable, of which nothing is known.
    """
    if backend.BACKEND == "jax":
        import jax

        if keras.distribution.distribution() is None and jax.distributed.is_initialized() and jax.process_count() > 1:
            raise ValueError(
                f"{jax.process_count()} JAX processes are there, but each of them would train by itself. Call "
                "`keras.distribution.set_distribution(keras.distribution.DataParallel())` before models are made."
            )
    if backend.BACKEND == "tensorflow":
        import tensorflow as tf

        strategy = getattr(model, "distribute_strategy", None)
        made_in = isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy)
        if made_in and not isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
            raise ValueError(
                "The model was made in the scope of a `MultiWorkerMirroredStrategy`, but `fit` makes the generations "
                "where it is called: call it in `with strategy.scope():`, too."
            )


def check_whole(models):
    """Raise where no worker has the whole of a model, so that none could write it."""
    if backend.BACKEND != "jax" or count() == 1:
        return
    for model in models:
        for variable in model.variables:
            if not (variable.value.is_fully_replicated or variable.value.is_fully_addressable):
                raise ValueError(
                    f"{variable.path} of {model.name!r} is spread over several processes, so that none of them could "
                    "keep the model. Use `keras.distribution.DataParallel`, or a `ModelParallel` within one process."
                )


@contextlib.contextmanager
def engine_in_force(data):
    """A context to call Keras's `fit` in, with `data` (the training data, the validation data) as it is given them.

    It says where a worker was lost, and mends what keeps Keras 3.15 from training over several processes:

    - under JAX, a `keras.distribution` that is to divide datasets refuses all but those of `tf.data`; those that are
      divided here already are let through;
    - under TensorFlow, Keras asks a `MultiWorkerMirroredStrategy` for the mean of a whole nested batch, from which it
      only wants the shapes, and for the mean of single numbers along an axis, and the strategy can do neither.
    """
    if count() == 1:
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_lost_workers_told())
        if backend.BACKEND == "jax":
            distribution = keras.distribution.distribution()
            datasets = [each for each in data if each is not None]
            of_tf = [backend.is_tf_dataset(each) for each in datasets]
            if distribution.auto_shard_dataset and any(of_tf) and not all(of_tf):
                raise ValueError(
                    "Several workers train together, and `keras.distribution` divides either all data or none. Pass "
                    "both the training data and the validation data as `tf.data.Dataset`, or neither."
                )
            if not any(of_tf):
                stack.callback(setattr, distribution, "auto_shard_dataset", distribution.auto_shard_dataset)
                distribution.auto_shard_dataset = False
        if backend.BACKEND == "tensorflow":
            stack.enter_context(_mended_reduce())
        yield


@contextlib.contextmanager
def _mended_reduce():
    import tensorflow as tf

    strategy = tf.distribute.get_strategy()
    reduce = strategy.reduce

    def mended(reduce_op, value, axis):
        if isinstance(value, (list, tuple, dict)):
            return keras.tree.map_structure(lambda leaf: strategy.experimental_local_results(leaf)[0], value)
        single = len(strategy.experimental_local_results(value)[0].shape) == 0
        return reduce(reduce_op, value, axis=None if single else axis)

    strategy.reduce = mended
    try:
        yield
    finally:
        del strategy.reduce


def alone(function):
    """What `function()` returns, computed on this worker's own devices, outside the engine.

    A model that it uses must have been made in `alone`, too: its variables are then this worker's own. Under torch the
    engine has no part in a model that is not wrapped, and the function is just called.
    """
    if not shared():
        return function()
    _by_itself.set()
    try:
        if backend.BACKEND == "jax":
            distribution = keras.distribution.distribution()
            keras.distribution.set_distribution(None)
            try:
                return function()
            finally:
                keras.distribution.set_distribution(distribution)
        if backend.BACKEND == "tensorflow":
            return _outside_the_strategy(function)
        return function()
    finally:
        _by_itself.clear()


@contextlib.contextmanager
def _lost_workers_told():
    workers = count()
    try:
        yield
    except FloatingPointError:
        raise
    except Exception as error:
        error.add_note(
            f"This is worker {index()} of {workers} (counted from 0) that train together. If another one has ended "
            f"(look for an earlier message), this one cannot go on. {_START_AGAIN}"
        )
        raise


def _count_and_index():
    if backend.BACKEND == "jax":
        if keras.distribution.distribution() is None:
            return 1, 0
        import jax

        return jax.process_count(), jax.process_index()
    if backend.BACKEND == "tensorflow":
        import tensorflow as tf

        strategy = tf.distribute.get_strategy()
        if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
            return 1, 0
        resolver = strategy.cluster_resolver
        cluster = resolver.cluster_spec().as_dict()
        chiefs, workers = len(cluster.get("chief", [])), len(cluster.get("worker", []))
        if chiefs + workers < 2:
            return 1, 0
        return chiefs + workers, resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)
    import torch

    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 1, 0
    return torch.distributed.get_world_size(), torch.distributed.get_rank()


def _gatherer():
    """A function of bytes `(n,)` that gives those of all workers, to be called in another thread than this is."""
    if backend.BACKEND == "jax":
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather
    workers = count()
    if backend.BACKEND == "tensorflow":
        import tensorflow as tf

        strategy = tf.distribute.get_strategy()

        def gather_in_tensorflow(data):
            with strategy.scope():
                each = strategy.experimental_distribute_values_from_function(lambda _: tf.constant(data[None], "int32"))
                if (strategy, len(data)) not in _gathers:
                    _gathers[strategy, len(data)] = tf.function(lambda rows: strategy.gather(rows, axis=0))
                # A row for each replica; those of a worker are alike.
                return _gathers[strategy, len(data)](each).numpy().reshape(workers, -1, len(data))[:, 0]

        return gather_in_tensorflow
    import torch

    device = torch.device("cpu")
    if torch.distributed.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())

    def gather_in_torch(data):
        found = [torch.empty(len(data), dtype=torch.uint8, device=device) for _ in range(workers)]
        torch.distributed.all_gather(found, torch.tensor(data, device=device))
        return np.stack([each.cpu().numpy() for each in found])

    return gather_in_torch


def _bounded(function, what):
    """What `function()` returns, or an error where it takes longer than the workers wait for each other."""
    results = []

    def call():
        try:
            results.append((function(), None))
        except Exception as error:
            results.append((None, error))

    # The engines' own waits last from seconds to for ever; who waits in a thread of their own can be left behind.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(WAIT_SECONDS)
    result, error = results[0] if results else (None, None)
    if results and error is None:
        return result
    came = f"the engine failed ({type(error).__name__}, see above)"
    if not results:
        came = f"not all came within {WAIT_SECONDS} seconds"
    raise RuntimeError(
        f"Worker {index()} of {count()} (counted from 0) waited for the others to {what}, and {came}. One of them has "
        f"ended, or does something else. {_START_AGAIN}"
    ) from error


def _outside_the_strategy(function):
    """TensorFlow notes for each thread which strategy it is in; a new one is in none."""
    policy, results = keras.config.dtype_policy(), []

    def call():
        keras.config.set_dtype_policy(policy)  # Which Keras notes for each thread, too.
        try:
            results.append((function(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    result, error = results[0]
    if error is not None:
        raise error
    return result
