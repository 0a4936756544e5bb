"""Labeled and unlabeled examples in one batch."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import leaves
from keras_ban._src.data.batch import join_targets, pack, split_targets, unpack
from keras_ban._src.data.dataset import Stream
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.leaves import as_array, in_batch, map_leaves, size_of, take
from keras_ban._src.data.py_dataset import PyDatasetData
from keras_ban._src.data.wrappers import Wrapped


def as_unlabeled(unlabeled, data, class_weight, models):
    """Return unlabeled inputs as data that can be read again. Raise an error if they do not go with the labeled data.

    Args:
        unlabeled: arrays or a dataset, as the user passed them.
        data: the labeled data.
        class_weight: as in `keras.Model.fit`.
        models: the models that take the inputs.
    """
    unlabeled = as_data(unlabeled, names=("unlabeled",) * 3, shuffle=data.shuffle, models=models)
    if unlabeled.read_once:
        raise ValueError(
            "`unlabeled` is a generator or an iterator, which cannot start again when it ends. Pass arrays, a "
            "`keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`."
        )
    forms = [map_leaves(_form, each.first_batch()[0]) for each in (data, unlabeled)]
    if forms[0] != forms[1]:
        raise ValueError(
            f"`unlabeled` must hold inputs like those of `x`. One example of `x` is {forms[0]}, one of `unlabeled` is "
            f"{forms[1]}."
        )
    if class_weight is not None and (data.yields_batches or unlabeled.yields_batches):
        raise ValueError(
            "`unlabeled` goes with `class_weight` if `x` and `unlabeled` are arrays. With datasets, pass or yield "
            "`sample_weight`."
        )
    return unlabeled


def with_unlabeled(data, unlabeled, steps_per_epoch=None, seed=None):
    """Labeled data with unlabeled inputs.

    The rows of arrays follow those of `x`. If one of them is a dataset, each step gets a batch of both.

    Args:
        data: the labeled data.
        unlabeled: the unlabeled data, from `as_unlabeled`.
        steps_per_epoch: as in `keras.Model.fit`.
        seed: of the order of unlabeled arrays beside a dataset; `None`: drawn from NumPy's global random numbers.
    """
    if not data.yields_batches and not unlabeled.yields_batches:
        return data.with_parts(*join((data.x, data.y, data.sample_weight), unlabeled.x))
    if process_group.divides_in_step():
        raise ValueError(
            "Several workers train together, and each would add the same batches of `unlabeled` to its own part of "
            "`x`. Pass `x` and `unlabeled` as arrays."
        )
    endless = unlabeled.endless(data.batch_size or size_of(data.first_batch()[0]), seed)
    if data.read_once:
        batches = (join(unpack(batch), endless.batch(number)) for number, batch in enumerate(data.iterate()))
        return Stream(batches, data.batch_size, data.shuffle)
    dataset = data.by_index()
    steps = steps_per_epoch or dataset.num_batches
    if steps is None:
        raise ValueError(
            "The number of batches of `x` is unknown: pass `steps_per_epoch`, so that `unlabeled` fits it."
        )
    # Without the user's `shuffle`, Keras shuffles the batches of a `PyDataset`.
    shuffle = data.by_position and data.shuffle in (None, True)
    return PyDatasetData(WithUnlabeled(dataset, endless, steps, shuffle), shuffle=False)


def join(batch, unlabeled):
    """`(x, y, sample_weight)` of labeled examples, followed by unlabeled inputs.

    Unlabeled examples get the first label, because a loss must be finite before it gets the weight 0.
    """
    x, y, sample_weight = batch
    labels, soft_targets = split_targets(y)
    if soft_targets is not None:
        raise ValueError("`y` brings soft targets, which `unlabeled` inputs lack. Pass a `teacher`, and labels alone.")
    count, added = size_of(x), size_of(unlabeled)
    x = map_leaves(_stack, x, unlabeled)
    labels = map_leaves(lambda leaf: _stack(leaf, np.repeat(leaf[:1], added, 0)), labels)
    weights = map_leaves(
        lambda leaf: _stack(leaf, np.ones((added, *leaf.shape[1:]), as_array(leaf).dtype)), sample_weight
    )
    labeled = np.repeat(np.array([1.0, 0.0], "float32"), (count, added))
    return x, join_targets(labels, None, labeled=labeled), weights


class WithUnlabeled(Wrapped):
    """A dataset with a batch of unlabeled inputs in each of its batches.

    The unlabeled batches continue from epoch to epoch.

    Args:
        dataset: a `PyDataset` of labeled batches.
        unlabeled: their inputs, as `endless` returns them.
        steps: the number of steps of an epoch.
        shuffle: whether to shuffle the order of the labeled batches.
    """

    follows_epochs = True
    epoch = 0

    def __init__(self, dataset, unlabeled, steps, shuffle):
        super().__init__(dataset)
        if unlabeled.in_turn:
            if self.use_multiprocessing and self.workers > 0:
                raise ValueError(
                    "Several processes read `x`, and each would read `unlabeled` from its first batch. Pass "
                    "`unlabeled` as arrays or as a `keras.utils.PyDataset`, or use `use_multiprocessing=False`."
                )
            self.workers = 0  # Several threads would not read in turn.
        self._unlabeled = unlabeled
        self._steps = steps
        self._shuffle = shuffle and dataset.num_batches is not None
        self._order = None

    def on_epoch_begin(self):
        super().on_epoch_begin()
        self._unlabeled.on_epoch_begin(self.epoch * self._steps)
        if self._shuffle:
            self._order = np.random.permutation(self.num_batches)

    def __getitem__(self, index):
        number = self.epoch * self._steps + index % self._steps
        labeled = self._dataset[index if self._order is None else self._order[index]]
        batch = join(take(unpack(labeled), slice(None)), self._unlabeled.batch(number))
        return keras.tree.map_structure(in_batch, pack(*batch))


def _stack(leaf, other):
    """The rows of both. Floats of two dtypes become the wider, as in `np.concatenate`."""
    if hasattr(leaf, "tocsr") and hasattr(other, "tocsr"):
        import scipy.sparse  # Installed, because the data are of it.

        return scipy.sparse.vstack([leaf, other]).tocsr()
    rows = np.concatenate([as_array(leaf), as_array(other)])
    return backend.as_texts(rows) if leaves.holds_texts(rows) else rows


def _form(leaf):
    """The kind and the shape of one example, as text."""
    kind = str(getattr(leaf, "dtype", type(leaf).__name__))
    if leaves.is_texts(leaf):
        kind = "text"  # A NumPy dtype of texts has their length.
    return f"{'float' if 'float' in kind else kind}{tuple(np.shape(leaf))[1:]}"
