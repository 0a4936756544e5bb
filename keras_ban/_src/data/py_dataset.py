"""`keras.utils.PyDataset`."""

import itertools
import math

import keras

from keras_ban._src.data.batch import JoinByKey, packed_again
from keras_ban._src.data.dataset import Dataset
from keras_ban._src.data.endless import Endless
from keras_ban._src.data.leaves import size_of
from keras_ban._src.data.wrappers import ArrayRows, Mapped, PairedByKey, PairedDataset, WorkerPart


class PyDatasetData(Dataset):
    """A `keras.utils.PyDataset`: batches by index."""

    kind = "`PyDataset`"
    takes_views = True
    by_position = True

    @classmethod
    def accepts(cls, data):
        return isinstance(data, keras.utils.PyDataset)

    @property
    def fixed(self):
        return getattr(self.dataset, "fixed", False)

    def order_changes(self):
        # Most shuffle at the end of an epoch.
        changes_itself = type(self.dataset).on_epoch_end is not keras.utils.PyDataset.on_epoch_end
        return not self.fixed and (changes_itself or super().order_changes())

    @property
    def is_whole(self):
        return isinstance(self.dataset, ArrayRows)

    @property
    def brings_soft_targets(self):
        return isinstance(self.dataset, (ArrayRows, PairedByKey, PairedDataset))

    @property
    def has_processes(self):
        """Whether Keras reads it in other processes."""
        return self.dataset.use_multiprocessing and self.dataset.workers > 0

    def has_workers(self, steps_per_epoch):
        # With `steps_per_epoch`, Keras on TensorFlow prefetches past the end of an epoch.
        followed = steps_per_epoch is not None and getattr(self.dataset, "follows_epochs", False)
        return self.dataset.workers > 1 or followed

    def in_order_of(self, reader):
        """The same data, in the order in which a `ReadAhead` reads them."""
        return PyDatasetData(reader, shuffle=False)

    def read_by(self, wrapper):
        """The same data, in a wrapper that reads them."""
        return self.of_same_kind(wrapper(self.dataset))

    def iterate(self):
        # As Keras reads an epoch: a dataset may make its order here.
        self.dataset.on_epoch_begin()
        count = self.dataset.num_batches
        return (self.dataset[index] for index in (itertools.count() if count is None else range(count)))

    def number_of_batches(self):
        return math.inf if self.dataset.num_batches is None else self.dataset.num_batches

    def with_soft_targets(self, soft_targets):
        if soft_targets.by_key:
            return self.of_same_kind(PairedByKey(self.dataset, JoinByKey(soft_targets)))
        count, batch_size = self.check_finite(), size_of(self.first_batch()[0])
        paired = PairedDataset(self.dataset, soft_targets, count, batch_size)
        return self.of_same_kind(paired)

    def without_labels(self):
        _, y, sample_weight = self.first_batch()
        if y is not None or sample_weight is None:
            return self
        return self.read_by(lambda dataset: Mapped(dataset, packed_again))

    def by_index(self, in_order=False):
        return self.dataset

    def endless(self, batch_size, seed=None):
        return Endless(self.dataset)

    def part_of_worker(self):
        return self.of_same_kind(WorkerPart(self.dataset))

    def callbacks(self):
        dataset = self.dataset
        if not getattr(dataset, "follows_epochs", False):
            return []
        # Keras tells a dataset that an epoch begins, but not which one: training may resume at a later one.
        tell = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs=None: setattr(dataset, "epoch", epoch))
        return [tell]
