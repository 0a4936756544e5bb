"""Keras's `PyDataset(use_multiprocessing=True)`, but that a process which dies ends training with an error.

Keras 3.15 reads such a dataset through a `multiprocessing.Pool`, which waits for ever for what a dead process was to
bring; the standard library's `ProcessPoolExecutor` does not.
"""

import contextlib
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from keras_ban._src.data.wrappers import Wrapped

# In a process that reads: the dataset.
_dataset = None


@contextlib.contextmanager
def watched(*data):
    """A context in which a process that reads data and dies ends training with an error.

    Args:
        data: `Arrays`, kinds of `Dataset`, or `None`.

    Yields:
        The same data, for Keras to read.

    Raises:
        RuntimeError: a process that read a dataset has died.
    """
    read = [each if each is None or not each.has_processes else each.read_by(_InProcesses) for each in data]
    ours = [each.dataset for each, original in zip(read, data, strict=True) if each is not original]
    try:
        yield read
    except Exception as error:
        if any(each.died for each in ours):
            raise RuntimeError(
                "A process that read the `PyDataset(use_multiprocessing=True)` has died: the system ended it (it may "
                "have run out of memory), or code in `__getitem__` did. Call `fit` again, with fewer `workers` or with "
                "`use_multiprocessing=False` if it happens again."
            ) from error
        raise
    finally:
        for each in ours:
            each.end(wait=False)


class _InProcesses(Wrapped):
    """A dataset whose batches are made in `dataset.workers` processes, new ones in each epoch, as Keras has it."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.use_multiprocessing = False
        # Keras's threads wait for the processes; a single one would make each batch only when it is asked for.
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
        # Keras sends all datasets that it has in use to the processes that it starts for any of them.
        return {**self.__dict__, "_executor": None, "_lock": None}

    def on_epoch_end(self):
        self.end()
        super().on_epoch_end()

    def end(self, wait=True):
        """End the processes; the next batch starts others, with the dataset as it is then."""
        with self._lock:
            executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait, cancel_futures=True)


def _begin(dataset):
    global _dataset
    _dataset = dataset


def _batch(index):
    return _dataset[index]
