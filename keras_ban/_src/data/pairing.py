"""Data in a fixed order: read batch by batch, and paired with the soft targets of the same rows."""

import math

import keras
import numpy as np

from keras_ban._src import backend, checks
from keras_ban._src.data import tf_pipeline, torch_loader
from keras_ban._src.data.batch import join_targets, key_of, split_targets, without_key
from keras_ban._src.data.fingerprints import example_keys
from keras_ban._src.data.kinds import is_data_loader, is_grain_dataset


def batches_of(x, batch_size):
    """Inputs in batches, in an order that is the same each time.

    Args:
        x: arrays, or a dataset whose batches are `x`, `(x, y)` or `(x, y, sample_weight)`.
        batch_size: for arrays.

    Returns:
        `(iterator over the (inputs, keys or None) of each batch, number of batches or None where it is not known)`.

    Raises:
        ValueError: there is no data, it has no end, or its order is not fixed and it brings no keys.
    """
    checks.check_not_empty(x)
    if not checks.is_dataset(x):
        size = size_of(x)
        starts = range(0, size, batch_size)
        return ((take(x, slice(start, start + batch_size)), None) for start in starts), len(starts)
    count = _number_of_batches(x)
    _check_fixed(x)
    return ((_inputs(batch), _key(batch)) for batch in _iterate(x)), count


def take(arrays, rows):
    """Those rows of nested arrays."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[rows], arrays)


def split_at(size, validation_split):
    """How many of the first examples are kept for training, as Keras counts; the others are for validation."""
    if not 0 < validation_split < 1:
        raise ValueError(f"`validation_split` must lie between 0 and 1, received: {validation_split!r}.")
    at = int(np.floor(size * (1.0 - validation_split)))
    if at in (0, size):
        raise ValueError(f"`validation_split={validation_split}` of {size} examples leaves a part empty.")
    return at


def pair(dataset, soft_targets):
    """A dataset of the same kind whose `y` is `{"labels": y, "soft_targets": ...}`; see `SoftTargets.pair`."""
    if soft_targets.by_key:
        return _pair_by_key(dataset, soft_targets)
    if isinstance(dataset, keras.utils.PyDataset):
        return PairedDataset(dataset, soft_targets)
    if soft_targets.views is not None:
        raise ValueError(
            "Soft targets of several views go with arrays or a `keras.utils.PyDataset`, which can be told the epoch's "
            f"view; received: {dataset!r}. Wrap the data in a `PyDataset`."
        )
    if is_data_loader(dataset):
        if not hasattr(dataset.dataset, "__getitem__") or dataset.batch_sampler is None:
            raise ValueError(
                "A torch `DataLoader` is paired by index: its dataset must have `__getitem__`, and the loader make the "
                "batches (`batch_size` or `batch_sampler`)."
            )
        if len(dataset.dataset) != len(soft_targets):
            raise ValueError(
                f"The soft targets hold {len(soft_targets)} examples, but the loader's dataset {len(dataset.dataset)}: "
                "they must come from the same data."
            )
        return torch_loader.pair_data_loader(dataset, _RowsOf(soft_targets), join)
    if backend.is_tf_dataset(dataset):
        return _pair_tf_dataset(dataset, soft_targets)
    raise TypeError(
        "Soft targets are paired with a `keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`, "
        f"received: {dataset!r} (of type {type(dataset).__name__}). Arrays go to `fit(x, y, soft_targets=...)`."
    )


def join(batch, rows, view_seeds=None):
    """A batch `x`, `(x, y)` or `(x, y, sample_weight)` with soft targets put beside its labels."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(tuple(batch) if isinstance(batch, list) else batch)
    if split_targets(y)[1] is not None:
        raise ValueError("The data brings soft targets already: `y` holds 'soft_targets'. Pair it with one set alone.")
    if key_of(y) is not None:
        raise ValueError(
            "The data brings keys, but the soft targets are kept by position. Compute them of data with keys, "
            "`SoftTargets.from_teacher(teacher, dataset)`, or leave 'key' out of `y`."
        )
    y = join_targets(y, rows, view_seeds)
    return (x, y) if sample_weight is None else (x, y, sample_weight)


class _RowsOf:
    """The soft targets of a batch, checked; a class, so that worker processes can be sent it."""

    def __init__(self, soft_targets):
        self._soft_targets = soft_targets

    def __call__(self, batch, rows):
        self._soft_targets.check(_inputs(batch), rows)
        return self._soft_targets.batch(rows)


def _pair_by_key(dataset, soft_targets):
    join = JoinByKey(soft_targets)
    if isinstance(dataset, keras.utils.PyDataset):
        return PairedByKey(dataset, join)
    if is_data_loader(dataset):
        return torch_loader.map_data_loader(dataset, join)
    if backend.is_tf_dataset(dataset):
        join.check_spec(dataset.element_spec)
        return tf_pipeline.map_tf_dataset(dataset, join.key, join.rows, soft_targets.batch(slice(0, 1)), join.put)
    if is_grain_dataset(dataset):
        return dataset.map(join)
    raise TypeError(
        "Soft targets are paired by key with a `keras.utils.PyDataset`, a `tf.data.Dataset`, a torch `DataLoader`, or "
        f"a `MapDataset` or `IterDataset` of Grain, received: {dataset!r} (of type {type(dataset).__name__}). They are "
        "found by the key that a dataset gives beside the labels: arrays have none."
    )


class JoinByKey:
    """Puts the soft targets of its keys into a batch; a class, so that worker processes can be sent it."""

    def __init__(self, soft_targets):
        # Here, and not in each thread or forked process that asks for rows first.
        soft_targets.index_keys()
        self._soft_targets = soft_targets

    def __call__(self, batch):
        return self.put(batch, self.rows(self.key(batch)))

    def key(self, batch):
        key = _key(batch)
        if key is None:
            raise ValueError(
                "The soft targets are kept by key, so the dataset must give `y` as `{'labels': y, 'key': key}`: it "
                "gives no 'key'."
            )
        return key

    def rows(self, keys):
        return self._soft_targets.batch(self._soft_targets.rows_of(keys))

    def put(self, batch, rows):
        x, y, *weights = batch
        return (x, join_targets(without_key(y), rows), *weights)

    def check_spec(self, spec):
        """Raise before anything is read where a dataset's `element_spec` brings no keys, or of another kind."""
        dtype = self.key(spec).dtype
        if not (dtype.is_integer or dtype.name == "string"):
            raise TypeError(f"A key must be a whole number or a text, received keys of dtype {dtype.name}.")
        self._soft_targets.check_kind("texts" if dtype.name == "string" else "whole numbers")


class Wrapped(keras.utils.PyDataset):
    """A `PyDataset` with the batches of another one; what is made of them is the subclass's `__getitem__`."""

    def __init__(self, dataset):
        super().__init__(dataset.workers, dataset.use_multiprocessing, dataset.max_queue_size)
        self._dataset = dataset

    @property
    def num_batches(self):
        return self._dataset.num_batches

    def on_epoch_begin(self):
        self._dataset.on_epoch_begin()

    def on_epoch_end(self):
        self._dataset.on_epoch_end()


class PairedDataset(Wrapped):
    """A `PyDataset` and the soft targets of its rows: batch `i` begins at row `i * size of batch 0`.

    Where these are of several views, `view` tells which is due.
    """

    def __init__(self, dataset, soft_targets):
        super().__init__(dataset)
        self._soft_targets = soft_targets
        self.views, self.view = soft_targets.views, 0
        count = _number_of_batches(dataset)
        self._batch_size = size_of(_inputs(dataset[0]))
        if not (count - 1) * self._batch_size < len(soft_targets) <= count * self._batch_size:
            raise ValueError(
                f"The soft targets hold {len(soft_targets)} examples, but the dataset has {count} batches of "
                f"{self._batch_size}: they must come from the same data, in batches of equal size (but the last)."
            )

    def __getitem__(self, index):
        batch = self._dataset[index]
        x = _inputs(batch)
        start = index * self._batch_size
        rows = slice(start, start + size_of(x))
        self._soft_targets.check(x, rows)
        return join(batch, *self._soft_targets.batch_and_seeds(rows, self.view))


class PairedByKey(Wrapped):
    """A `PyDataset` and the soft targets of its keys."""

    def __init__(self, dataset, join):
        super().__init__(dataset)
        self._join = join

    def __getitem__(self, index):
        return self._join(self._dataset[index])


class ArrayBatches(keras.utils.PyDataset):
    """Arrays `(x, y, sample_weight)` in batches, shuffled as `fit(shuffle=...)` does it.

    That is over all rows, or within each batch (`"batch"`); by NumPy's global random numbers.
    """

    def __init__(self, arrays, batch_size, shuffle):
        super().__init__()
        self._arrays = arrays
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._order = np.arange(size_of(arrays[0]))

    @property
    def num_batches(self):
        return -(-len(self._order) // self._batch_size)

    def on_epoch_begin(self):
        if self._shuffle and self._shuffle != "batch":
            self._order = np.random.permutation(len(self._order))

    def rows(self, index):
        """Which examples batch `index` holds."""
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        return np.random.permutation(rows) if self._shuffle == "batch" else rows

    def __getitem__(self, index):
        return keras.utils.pack_x_y_sample_weight(*take(self._arrays, self.rows(index)))


class ArrayRows(ArrayBatches):
    """Arrays and soft targets too large for memory, or of several views; each batch reads its own rows alone.

    Where the soft targets are of several views, `view` tells which is due.
    """

    def __init__(self, arrays, soft_targets, batch_size, shuffle):
        super().__init__(arrays, batch_size, shuffle)
        self._soft_targets = soft_targets
        self.views, self.view = soft_targets.views, 0

    def __getitem__(self, index):
        rows = self.rows(index)
        x, y, sample_weight = take(self._arrays, rows)
        y = join_targets(y, *self._soft_targets.batch_and_seeds(rows, self.view))
        return (x, y) if sample_weight is None else (x, y, sample_weight)


class ViewOfEpoch(keras.callbacks.Callback):
    """Epoch `e` trains on view `e mod views` of a `PairedDataset` or `ArrayRows`."""

    def __init__(self, dataset):
        super().__init__()
        self._dataset = dataset

    def on_epoch_begin(self, epoch, logs=None):
        self._dataset.view = epoch % self._dataset.views


def _pair_tf_dataset(dataset, soft_targets):
    first = _inputs(next(iter(dataset), None))
    size = size_of(first)
    soft_targets.check(first, slice(0, size))
    count = _number_of_batches(dataset)
    if count is not None and count != -(-len(soft_targets) // size):
        raise ValueError(
            f"The soft targets hold {len(soft_targets)} examples, but the dataset has {count} batches of {size}: they "
            "must come from the same data, in the same order."
        )
    return tf_pipeline.pair_tf_dataset(dataset, soft_targets.columns, soft_targets.records(), size, join)


def number_of_batches(dataset):
    """How many batches a dataset yields; `None` where it is not known, infinity where it has no end."""
    if isinstance(dataset, keras.utils.PyDataset):
        return math.inf if dataset.num_batches is None else dataset.num_batches
    if backend.is_tf_dataset(dataset):
        count = int(dataset.cardinality())
        return count if count >= 0 else math.inf if count == -1 else None
    try:
        return len(dataset)
    except TypeError:  # A torch `DataLoader` of an `IterableDataset` has a `__len__`, which may have no answer.
        return None


def _number_of_batches(dataset):
    count = number_of_batches(dataset)
    if count == math.inf and backend.is_tf_dataset(dataset):
        raise ValueError("The `tf.data.Dataset` has no end: leave out its `.repeat()`.")
    if count == math.inf:
        raise ValueError(f"The dataset {dataset!r} has no end: soft targets are of a fixed number of examples.")
    return count


def _iterate(dataset):
    if isinstance(dataset, keras.utils.PyDataset):
        return (dataset[i] for i in range(dataset.num_batches))
    return iter(dataset)


def _inputs(batch):
    if batch is None:
        raise ValueError("The dataset yields no batch.")
    x = keras.utils.unpack_x_y_sample_weight(tuple(batch) if isinstance(batch, list) else batch)[0]
    x = keras.tree.map_structure(lambda leaf: None if leaf is None else checks.as_array(leaf), x)
    if any(leaf is not None and leaf.ndim == 0 for leaf in keras.tree.flatten(x)):
        raise TypeError("`x` is no dataset: what it yields are single values, and no batches of examples.")
    return x


def _key(batch):
    is_batch = isinstance(batch, (list, tuple)) and 2 <= len(batch) <= 3
    return key_of(batch[1]) if is_batch else None


def size_of(x):
    """How many examples nested arrays hold."""
    return int(next(leaf for leaf in keras.tree.flatten(x) if leaf is not None).shape[0])


def _check_fixed(dataset):
    """Raise where a second look at the first batch shows another; what brings keys may come in any order."""
    if iter(dataset) is dataset:
        raise ValueError(
            "`x` is a generator or an iterator, which can be read once only: nothing would be left to train on. "
            "Pass arrays, a `keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`."
        )
    batch = next(iter(_iterate(dataset)), None)
    if _key(batch) is not None:
        return
    shuffled = is_data_loader(dataset) and type(dataset.sampler).__name__ == "RandomSampler"
    if not shuffled:
        first = example_keys(_inputs(batch))
        shuffled = not np.array_equal(first, example_keys(_inputs(next(iter(_iterate(dataset)), None))))
    if shuffled:
        raise ValueError(
            "The data comes in another order, or augmented, each time it is read: its soft targets cannot be stored. "
            "Read it without shuffling and without augmentation (a torch `DataLoader` with `shuffle=False`, a "
            "`tf.data.Dataset` before its `.shuffle`); or let the teacher run at each step, without soft targets."
        )
