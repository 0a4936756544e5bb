"""`PyDataset(use_multiprocessing=True)` with an error if a process dies.

Keras 3.15 reads such a dataset through a `multiprocessing.Pool`, which waits forever for the result of a dead process.
The standard library's `ProcessPoolExecutor` raises an error.
"""

import contextlib
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from keras_ban._src.data.wrappers import Wrapped

# The dataset, in a process that reads it.
_dataset = None


@contextlib.contextmanager
def watched(*data):
    """Return a context that yields the data for Keras to read, with an error if a process that reads them dies.

    `data` are `Arrays`, kinds of `Dataset`, or `None`.

    Raises:
        RuntimeError: a process that read a dataset has died.
    """
    wrapped = []

    def in_processes(dataset):
        wrapped.append(_InProcesses(dataset))
        return wrapped[-1]

    read = [each if each is None or not each.has_processes else each.read_by(in_processes) for each in data]
    try:
        yield read
    except Exception as error:
        if any(each.died for each in wrapped):
            raise RuntimeError(
                "A process that read the `PyDataset(use_multiprocessing=True)` has died, perhaps because memory ran "
                "out. Call `fit` again, with fewer `workers` or with `use_multiprocessing=False`."
            ) from error
        raise
    finally:
        for each in wrapped:
            each.end(wait=False)


class _InProcesses(Wrapped):
    """A dataset whose batches are made in `dataset.workers` processes. They are new in each epoch, as in Keras."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.use_multiprocessing = False
        # Keras's threads wait for the processes. With a single thread, a batch would be made only when it is needed.
        self.workers = max(2, dataset.workers)
        self.died = False
        self._executor, self._lock = None, threading.Lock()

    def __getitem__(self, index):
        with self._lock:
            if self._executor is None:
                workers = self._dataset.workers
                self._executor = ProcessPoolExecutor(workers, initializer=_begin, initargs=(self._dataset,))
            batch = self._executor.submit(_batch, index)
        try:
            return batch.result()
        except BrokenProcessPool:
            self.died = True
            raise

    def __getstate__(self):
        # Keras sends all datasets in use to each process that it starts.
        return {**self.__dict__, "_executor": None, "_lock": None}

    def on_epoch_end(self):
        self.end()
        super().on_epoch_end()

    def end(self, wait=True):
        """End the processes. The next batch starts new ones, with the dataset's state at that time."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait, cancel_futures=True)


def _begin(dataset):
    global _dataset
    _dataset = dataset


def _batch(index):
    return _dataset[index]
