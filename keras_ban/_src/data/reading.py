"""`PyDataset`s with workers, read as Keras describes it.

With `workers` above 1, Keras 3.15 lets threads read before `on_epoch_begin`, and gives what they read too early to the
next epoch. So a batch may come twice in an epoch, or not at all, or be of another epoch, and `predict` may return rows
in another order. `ReadAhead` ends its threads with the epoch.

With `use_multiprocessing=True`, Keras reads through a `multiprocessing.Pool`, which waits forever for the result of a
dead process. The standard library's `ProcessPoolExecutor` raises an error.
"""

import contextlib
import random
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from keras_ban._src.data.wrappers import Wrapped

# The dataset, in a process that reads it.
_dataset = None


@contextlib.contextmanager
def watched(*data, shuffle=False, steps=None):
    """Return a context that yields the data for Keras to read: each batch once in an epoch, or an error.

    Args:
        data: `Arrays`, kinds of `Dataset`, or `None`.
        shuffle: whether Keras is to shuffle the batches of the first, as `fit` does.
        steps: the `steps_per_epoch` of the first.

    Raises:
        RuntimeError: a process that read a dataset has died.
    """
    wrapped = []

    def in_processes(dataset):
        wrapped.append(_InProcesses(dataset))
        return wrapped[-1]

    def ahead(each, *options):
        if each is None or not each.has_workers(options[1]):
            return each
        wrapped.insert(0, ReadAhead(each.dataset, *options))
        return each.in_order_of(wrapped[0])

    read = [each if each is None or not each.has_processes else each.read_by(in_processes) for each in data]
    read = [ahead(each, *((False, None) if number else (shuffle, steps))) for number, each in enumerate(read)]
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


class _InExecutor(Wrapped):
    """A dataset whose batches an executor of the standard library makes."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self.use_multiprocessing = False
        self.died = False
        self._executor, self._lock = None, threading.Lock()
        self._futures = {}  # Batches by position that were begun, and not asked for yet.

    def end(self, wait=True):
        """End the threads or processes. The next batch starts new ones, with the dataset's state at that time."""
        with self._lock:
            executor, self._executor = self._executor, None
            self._futures.clear()
        if executor is not None:
            executor.shutdown(wait, cancel_futures=True)

    def on_epoch_end(self):
        self.end()
        super().on_epoch_end()


class ReadAhead(_InExecutor):
    """A dataset that Keras reads in one thread, in order. `dataset.workers` threads read ahead in each epoch.

    Keras on TensorFlow prefetches past the end of an epoch of `steps` steps: that batch is read as one of the next.

    Args:
        dataset: a `PyDataset`.
        shuffle: whether to shuffle the batches in each pass, by the random numbers that Keras draws for it.
        steps: `steps_per_epoch`, or `None`.
    """

    follows_epochs = True

    def __init__(self, dataset, shuffle, steps):
        super().__init__(dataset)
        self._threads, self._ahead = self.workers, max(self.workers, self.max_queue_size)
        self.workers = 1
        self._shuffle, self._steps = shuffle and self.num_batches is not None, steps
        self._epoch, self._first = None, 0  # The current epoch, and the position of its first batch.
        self._order = None
        self._within_epoch = False

    @property
    def epoch(self):
        return self._epoch

    @epoch.setter
    def epoch(self, epoch):
        if self._epoch is not None and self._steps is not None:
            self._first += self._steps
            if self.num_batches is not None and self._first >= self.num_batches:
                self._first = 0  # Keras starts again.
        self._epoch = epoch
        self._tell(epoch)

    def _tell(self, epoch):
        if super().follows_epochs:
            self._dataset.epoch = epoch

    def on_epoch_begin(self):
        self.end()  # Whoever reads the first batch alone does not end an epoch.
        super().on_epoch_begin()
        self._within_epoch = True

    def on_epoch_end(self):
        self._within_epoch = False
        super().on_epoch_end()

    def __getitem__(self, position):
        with self._lock:
            if position == 0:
                self._order = self._new_order()
            if self._steps is not None and position >= self._first + self._steps:
                self._tell((self._epoch or 0) + (position - self._first) // self._steps)
            elif self._within_epoch and self._threads > 1:
                return self._read_ahead(position)
            return self._batch(position)

    def _read_ahead(self, position):
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._threads)
        ends = [position + self._ahead, self.num_batches, self._steps and self._first + self._steps]
        for each in range(position, min(end for end in ends if end is not None)):
            if each not in self._futures:
                self._futures[each] = self._executor.submit(self._batch, each)
        return self._futures.pop(position).result()

    def _new_order(self):
        if not (self._shuffle and self._within_epoch):
            return None
        order = list(range(self.num_batches))
        random.shuffle(order)
        return order

    def _batch(self, position):
        return self._dataset[position if self._order is None else self._order[position]]


class _InProcesses(_InExecutor):
    """A dataset whose batches are made in `dataset.workers` processes. They are new in each epoch, as in Keras."""

    def __init__(self, dataset):
        super().__init__(dataset)
        # Threads wait for the processes. With a single thread, a batch would be made only when it is needed.
        self.workers = max(2, dataset.workers)

    @property
    def epoch(self):
        return self._dataset.epoch

    @epoch.setter
    def epoch(self, epoch):
        self.end()  # The processes do not hear of it.
        self._dataset.epoch = epoch

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


def _begin(dataset):
    global _dataset
    _dataset = dataset


def _batch(index):
    return _dataset[index]
