"""A group of processes that train one model together.

A worker is a process of the group. The chief is worker 0. The backend's engine for distributed training defines the
group:

- JAX: the processes of `jax.distributed`, if a `keras.distribution` is set.
- TensorFlow: the workers of the `MultiWorkerMirroredStrategy` in whose scope a function is called. A
  `MirroredStrategy` is one worker with several replicas.
- torch: the ranks of `torch.distributed`, if it is initialized.

All workers run the same script. All of them must call `gather`, `chiefs` and `together` in the same order. Each call
waits for the other workers for up to `WAIT_SECONDS`.
"""

import concurrent.futures
import contextlib
import threading
import zlib

import numpy as np

from keras_ban._src import backend

# How long a worker waits for the others, in seconds.
WAIT_SECONDS = 600
_START_AGAIN = (
    "End the other workers, and start all of them again with the same script: they resume from the run directory."
)
# Set while `alone` runs. This process then is the only worker.
_by_itself = threading.Event()


def count():
    """Return the number of workers. It is 1 if this process trains by itself, and in `alone`."""
    return 1 if _by_itself.is_set() else backend.worker_count_and_index()[0]


def shared():
    """Return whether `model.predict` runs on several workers, or on several replicas of `tf.distribute`.

    Each replica computes all rows that `predict_on_batch` is called with, so that rows are returned twice.
    """
    return count() > 1 or backend.replica_count() > 1


def index():
    """Return the index of this worker, from 0."""
    return 0 if _by_itself.is_set() else backend.worker_count_and_index()[1]


def divides_in_step():
    """Whether there are several workers, each of which takes its part of a batch in the training step."""
    return backend.DIVIDES_BATCHES_IN_STEP and count() > 1


def divides_data():
    """Whether the data must give each worker or device its part of a batch."""
    return not backend.DIVIDES_BATCHES_IN_STEP and (count() > 1 or shares() > 1)


def is_chief():
    """Return whether this worker is the chief, which writes the files."""
    return index() == 0


def gather(values, task):
    """Return the values of all workers.

    Args:
        values: a number or an array, of the same dtype and shape in each worker.
        task: for error messages. It completes the sentence "The workers wait for each other to ...".

    Returns:
        A NumPy array `(count, ...)`.

    Raises:
        RuntimeError: if a worker has ended, or does not call `gather` within `WAIT_SECONDS`.
    """
    values = np.asarray(values)
    workers = count()
    if workers == 1:
        return values[None]
    # JAX has no 64-bit types by default, and no engine supports all dtypes of NumPy. All of them support bytes.
    data = np.frombuffer(np.ascontiguousarray(values).tobytes(), "uint8")
    gather_bytes = backend.byte_gatherer()
    found = _bounded(lambda: gather_bytes(data), task)
    return np.frombuffer(np.ascontiguousarray(found, "uint8").tobytes(), values.dtype).reshape(workers, *values.shape)


def chiefs(values, task):
    """Return the values of the chief in all workers. See `gather`."""
    return gather(values, task)[0]


@contextlib.contextmanager
def together(task):
    """Return a context that all workers leave together. If one of them fails in it, all of them raise an error.

    Code in the context must not wait for another worker.

    Args:
        task: as in `gather`.

    Raises:
        RuntimeError: if another worker fails in the context, or does not leave it within `WAIT_SECONDS`.
    """
    workers = count()
    if workers == 1:
        yield
        return
    try:
        yield
    except Exception:
        # Notify the other workers. This error is more important than an error of the notification.
        with contextlib.suppress(RuntimeError):
            gather(True, task)
        raise
    failed = np.flatnonzero(gather(False, task))
    if len(failed):
        raise RuntimeError(
            f"Worker {failed[0]} of {workers} (counted from 0) failed to {task}: see its own message. {_START_AGAIN}"
        )


def wait_for_all(task):
    """Wait until all workers call this function. See `together`."""
    with together(task):
        pass


def parts():
    """Return `(number of parts, index of this worker's part)` of a batch. `(1, 0)` is the whole batch.

    The caller must divide each batch accordingly, before it passes the data to Keras.
    """
    return (1, 0) if count() == 1 else backend.batch_parts()


def shares():
    """Return the number of devices that need equal shares of each batch. It is 1 if no engine needs equal shares."""
    return 1 if _by_itself.is_set() else backend.device_shares()


def check_alike():
    """Raise an error if the random numbers of the workers differ. Their weights and their order would differ, too."""
    if count() == 1:
        return
    states = backend.random_states()
    checksum = zlib.crc32(b"".join(np.ascontiguousarray(states[name]).tobytes() for name in sorted(states)))
    checksums = gather(checksum, "compare their random numbers").tolist()
    if len(set(checksums)) > 1:
        raise ValueError(
            f"The {count()} workers that train together have different random numbers, and would shuffle differently. "
            "Call `keras.utils.set_random_seed` with the same seed in each of them, before models are made."
        )
    backend.seed_shuffling(checksum)


def check_engine(model):
    """Raise an error if there are several processes, but each would train by itself.

    Args:
        model: the model of a sequence, or a function that creates it.
    """
    backend.check_engine(model)


def check_whole(models):
    """Raise an error if a model is spread over several workers, so that none can save it."""
    if count() > 1:
        backend.check_whole(models)


@contextlib.contextmanager
def engine_in_force(data):
    """Return a context for Keras's `fit`.

    With several workers, it works around limitations of Keras, and adds a note about lost workers to errors.

    Args:
        data: the training data and the validation data (or `None`), as `fit` is called with them.
    """
    workers = count()
    if workers == 1:
        yield
        return
    try:
        with backend.engine_repairs(data):
            yield
    except FloatingPointError:
        raise
    except Exception as error:
        error.add_note(
            f"This is worker {index()} of {workers} (counted from 0) that train together. If another one has ended "
            f"(look for an earlier message), this one cannot continue. {_START_AGAIN}"
        )
        raise


def alone(function):
    """Call a function on this worker's own devices, without the engine, and return its result.

    A model that the function uses must be created in `alone`, too, so that its variables belong to this worker.
    """
    if not shared():
        return function()
    _by_itself.set()
    try:
        return backend.run_outside_engine(function)
    finally:
        _by_itself.clear()


def _bounded(function, task):
    """Call a function and return its result. Raise an error after `WAIT_SECONDS`."""
    future = concurrent.futures.Future()

    def call():
        try:
            future.set_result(function())
        except Exception as error:
            future.set_exception(error)

    # The timeouts of the engines differ, and some wait forever. A waiting daemon thread can be abandoned.
    threading.Thread(target=call, daemon=True).start()
    try:
        return future.result(WAIT_SECONDS)
    except Exception as error:
        failed = f"the engine failed ({type(error).__name__}, see above)"
        reason = failed if future.done() else f"not all came within {WAIT_SECONDS} seconds"
        raise RuntimeError(
            f"Worker {index()} of {count()} (counted from 0) waited for the others to {task}, and {reason}. One has "
            f"ended, or does something else. {_START_AGAIN}"
        ) from error
