"""Batches of inputs without end: data that start again when they end."""

import keras
import numpy as np

from keras_ban._src.data.batch import unpack
from keras_ban._src.data.leaves import size_of, take


class ShuffledRows:
    """Batches of arrays. Each pass over the arrays has its own order, derived from `seed`.

    `seed=None` draws one from NumPy's global random numbers.
    """

    in_turn = False

    def __init__(self, x, batch_size, shuffle, seed=None):
        self._x = x
        self._size = size_of(x)
        self._batch_size = batch_size
        if shuffle and seed is None:
            seed = np.random.randint(2**31)
        self._seed = seed if shuffle else None
        self._last = None, None  # The number of a pass, and its order.

    def on_epoch_begin(self, number):
        pass

    def batch(self, number):
        """Batch `number` of all passes in a row. A batch may hold the end of one pass and the start of the next."""
        passes, rows = np.divmod(np.arange(number * self._batch_size, (number + 1) * self._batch_size), self._size)
        if self._seed is not None:
            for each in np.unique(passes).tolist():
                rows = np.where(passes == each, self._order(each)[rows], rows)
        return take(self._x, rows)

    def _order(self, number):
        """The order of a pass. That of the current pass is kept, because each of its batches needs it."""
        known, order = self._last
        if known != number:
            order = np.random.default_rng([self._seed, number]).permutation(self._size)
            self._last = number, order
        return order


class Endless:
    """The batches of a `PyDataset`."""

    def __init__(self, dataset):
        self._dataset = dataset
        self._pass = None

    @property
    def in_turn(self):
        """Whether the batches can be read in their order only."""
        return isinstance(self._dataset, InTurn)

    def on_epoch_begin(self, number):
        """Begin or end an epoch of the dataset, if batch `number` is the first of a pass or later."""
        count = self._dataset.num_batches
        current = 0 if count is None else number // count
        if self._pass is not None and current > self._pass:
            self._dataset.on_epoch_end()
        if current != self._pass:
            self._dataset.on_epoch_begin()
        self._pass = current

    def batch(self, number):
        """Batch `number` of all passes in a row."""
        count = self._dataset.num_batches
        batch = self._dataset[number if count is None else number % count]
        return take(unpack(batch)[0], slice(None))


class InTurn(keras.utils.PyDataset):
    """Batches that can be read in their order only, as a `PyDataset`. Without a `count`, they start again at the end.

    An earlier batch is found by reading from the first one again.
    """

    def __init__(self, iterate, count):
        super().__init__(workers=0)
        self._iterate = iterate
        self._count = count
        self._batches, self._next = None, 0

    @property
    def num_batches(self):
        return self._count

    def __getitem__(self, index):
        if self._batches is None or index < self._next:
            self._batches, self._next = self._iterate(), 0
        while self._next < index:
            self._read()
        return self._read()

    def _read(self):
        for _ in range(2):
            for batch in self._batches:
                self._next += 1
                return batch
            if self._count is not None:
                break
            self._batches = self._iterate()
        raise ValueError(f"The data end after {self._next} batches. Expected: {self._count or 'at least one'}.")
