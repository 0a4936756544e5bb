"""`PyDataset`s that wrap other data: with soft targets, of arrays, or one worker's part."""

import math

import keras
import numpy as np

from keras_ban._src.backend import process_group
from keras_ban._src.data.batch import join_rows, pack, unpack
from keras_ban._src.data.leaves import in_batch, leaves_of, size_of, slice_rows, take


class Wrapped(keras.utils.PyDataset):
    """A `PyDataset` with the batches of another one. A subclass's `__getitem__` changes them."""

    def __init__(self, dataset):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset = dataset

    @property
    def follows_epochs(self):
        """Whether the batches depend on the epoch, so that the dataset must be told it."""
        return getattr(self._dataset, "follows_epochs", False)

    @property
    def epoch(self):
        """The current epoch, from 0."""
        return self._dataset.epoch

    @epoch.setter
    def epoch(self, epoch):
        self._dataset.epoch = epoch

    @property
    def num_batches(self):
        return self._dataset.num_batches

    def on_epoch_begin(self):
        self._dataset.on_epoch_begin()

    def on_epoch_end(self):
        self._dataset.on_epoch_end()


class PairedDataset(Wrapped):
    """A `PyDataset` with the soft targets of its rows. Batch `i` starts at row `i * batch_size`."""

    epoch = 0

    def __init__(self, dataset, soft_targets, count, batch_size):
        super().__init__(dataset)
        self._soft_targets = soft_targets
        self._batch_size = batch_size
        if not (count - 1) * batch_size < len(soft_targets) <= count * batch_size:
            raise ValueError(
                f"The soft targets hold {len(soft_targets)} examples, but the dataset has {count} batches of "
                f"{batch_size}: they must come from the same data, in batches of equal size (except the last)."
            )

    @property
    def follows_epochs(self):
        return self._soft_targets.views is not None

    def __getitem__(self, index):
        batch = self._dataset[index]
        x = take(unpack(batch)[0], slice(None))
        start = index * self._batch_size
        rows = slice(start, start + size_of(x))
        self._soft_targets.check(x, rows)
        return join_rows(batch, *self._soft_targets.batch_and_seeds(rows, self.epoch))


class Mapped(Wrapped):
    """A `PyDataset` whose batches a function changes."""

    def __init__(self, dataset, function):
        super().__init__(dataset)
        self._function = function

    def __getitem__(self, index):
        return self._function(self._dataset[index])


class PairedByKey(Mapped):
    """A `PyDataset` with the soft targets of its keys, which a `JoinByKey` joins."""


class ArrayBatches(keras.utils.PyDataset):
    """Arrays `(x, y, sample_weight)` in batches, shuffled as by `fit(shuffle=...)` with NumPy's global random numbers.

    `shuffle="batch"` shuffles the rows within each batch.
    """

    def __init__(self, arrays, batch_size, shuffle):
        super().__init__()
        self._arrays = keras.tree.lists_to_tuples(arrays)  # TensorFlow converts lists to tensors.
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._order = np.arange(size_of(arrays[0]))

    @property
    def num_batches(self):
        return math.ceil(len(self._order) / self._batch_size)

    def on_epoch_begin(self):
        if self._shuffle and self._shuffle != "batch":
            self._order = np.random.permutation(len(self._order))

    def rows(self, index):
        """The positions of the examples in a batch."""
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return np.random.permutation(rows) if self._shuffle == "batch" else rows

    def __getitem__(self, index):
        return pack(*self.batch(self.rows(index)))

    def batch(self, rows):
        """`(x, y, sample_weight)` of the examples at these positions."""
        return keras.tree.map_structure(in_batch, take(self._arrays, rows))


class ArrayRows(ArrayBatches):
    """Arrays with soft targets of several views, or on disk: each batch reads its own rows."""

    epoch = 0

    def __init__(self, arrays, soft_targets, batch_size, shuffle):
        super().__init__(arrays, batch_size, shuffle)
        self._soft_targets = soft_targets

    @property
    def follows_epochs(self):
        return self._soft_targets.views is not None

    def __getitem__(self, index):
        rows = self.rows(index)
        return join_rows(self.batch(rows), *self._soft_targets.batch_and_seeds(rows, self.epoch))


class WorkerPart(Wrapped):
    """One worker's rows of each batch of a dataset."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self._parts, self._this = process_group.parts()
        self._shares = process_group.shares()

    def __getitem__(self, index):
        batch = self._dataset[index]
        size = size_of(leaves_of(batch))
        if size % self._shares:
            raise ValueError(
                f"Batch {index} has {size} examples, which do not divide evenly over {self._shares} devices. Use a "
                "multiple as batch size, for validation too, and leave out the rest of the examples."
            )
        each = size // self._parts
        return slice_rows(batch, slice(self._this * each, (self._this + 1) * each))
