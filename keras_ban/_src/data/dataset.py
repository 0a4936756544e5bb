"""What all data have in common, and what all datasets, which yield batches by themselves."""

import itertools
import math

import keras
import numpy as np

from keras_ban._src.data import leaves
from keras_ban._src.data.batch import key_of_batch, unpack
from keras_ban._src.data.endless import Endless, InTurn
from keras_ban._src.data.fingerprints import described, example_form, example_keys
from keras_ban._src.data.model_inputs import input_names

_BATCH_THEM = "use `dataset.batch(32)` of `tf.data` and Grain, or `DataLoader(dataset, batch_size=32)` of torch"


# Grain says that a `MapDataset` without end has `sys.maxsize` examples, divided by the size of a batch.
_ENDLESS = 2**40


class NoBatchesError(TypeError):
    """A dataset yields single examples."""


class Data:
    """What a user passed, behind one interface. It is `Arrays`, or a kind of `Dataset`.

    Attributes:
        batch_size, shuffle: as the user passed them to `keras.Model.fit`; `None`: not given.
    """

    # What messages call the data.
    name = "x"
    # Whether the data yield batches by themselves.
    yields_batches = False
    # Whether all workers read the same batches, which are then divided among them.
    is_whole = False
    # Whether each epoch can have its own view.
    takes_views = False
    # Whether batches can be read in any order.
    by_position = False
    # Whether the examples and their order never change.
    fixed = False
    # Whether Keras reads the data in other processes.
    has_processes = False
    # Whether the data can be read only once.
    read_once = False
    # The sampler of a torch `DataLoader`.
    sampler = None

    def check_finite(self):
        """The number of batches. Raise `ValueError` if they have no end."""
        count = self.number_of_batches()
        if count == math.inf:
            raise ValueError(
                f"The dataset {self.dataset!r} has no end, and it must be read to its end: do not repeat it."
            )
        return count

    def has_workers(self, steps_per_epoch):
        """Whether `reading.ReadAhead` must read the data, and not Keras."""
        return False

    def callbacks(self):
        """Callbacks that the data need during training."""
        return []


class Dataset(Data):
    """A dataset whose batches are `x`, `(x, y)` or `(x, y, sample_weight)`.

    A kind of dataset is a subclass. This one stands for any object that can be iterated over again.

    Attributes:
        dataset: the user's dataset.
    """

    # The name of the kind in messages.
    kind = "dataset"
    yields_batches = True
    # Only the batches of a dataset show what it brings.
    labels = soft_targets = sample_weight = None
    lacks_labels = brings_soft_targets = False

    def __init__(self, dataset, batch_size=None, shuffle=None):
        self.dataset = dataset
        self.batch_size, self.shuffle = batch_size, shuffle
        self._first = None

    def of_same_kind(self, dataset):
        """Another dataset with the same options."""
        return type(self)(dataset, self.batch_size, self.shuffle)

    @classmethod
    def accepts(cls, data):
        """Whether data are of this kind."""
        return hasattr(data, "__iter__") and not isinstance(data, (list, tuple, dict, set, str, bytes))

    @classmethod
    def of_user(cls, dataset, y, sample_weight, batch_size, shuffle, names, models):
        """A user's dataset. The arguments are those of `as_data`.

        Raises:
            ValueError: the dataset is empty, or arrays come with it, which brings its own labels and weights.
        """
        data = cls(dataset, batch_size, shuffle)
        data.name = names[0]
        for name, part in (("y", y), ("sample_weight", sample_weight)):
            if part is not None:
                batches = "`(x, y)` or `(x, y, sample_weight)`"
                raise ValueError(f"When `x` is a {cls.kind}, `{name}` should not be passed: let it yield {batches}.")
        if data.number_of_batches() == 0:
            raise ValueError(f"`{data.name}` holds no examples: there is nothing to train on.")
        return data

    def iterate(self):
        """The user's batches, from the first."""
        return iter(self.dataset)

    def number_of_batches(self):
        """The number of batches. `None` if it is unknown, infinity if they have no end."""
        try:
            count = len(self.dataset)
        except TypeError:  # A torch `DataLoader` of an `IterableDataset` may have a `__len__` without an answer.
            return None
        return count if count < _ENDLESS else math.inf

    def first_batch(self):
        """`(x, y, sample_weight)` of the first batch, as NumPy arrays."""
        if self._first is None:
            batch = self._read_first()
            if batch is None:
                raise ValueError(f"`{self.name}` yields no batch: there is nothing to train on.")
            first = keras.tree.map_structure(leaves.numeric, unpack(batch))
            _check_is_batch(first[:2], self.name)
            self._first = first
        return self._first

    def _read_first(self):
        return next(self.iterate(), None)

    def batches(self, batch_size=None):
        """`(inputs, keys or None)` of each batch, in an order that is the same each time.

        Raises:
            ValueError: the order differs from one reading to the next, and there are no keys.
        """
        self.check_order()
        return ((_inputs(batch), key_of_batch(batch)) for batch in self.iterate())

    def check_order(self):
        """Raise `ValueError` if the first batch differs when it is read again. With keys, any order is allowed."""
        batch = next(self.iterate(), None)
        if key_of_batch(batch) is not None:
            return
        if self._order_differs_from(batch):
            raise ValueError(
                "The data come in another order, or augmented, each time they are read: soft targets cannot be stored. "
                "Do not shuffle or augment them, or let the teacher run at each step, without soft targets."
            )

    def _order_differs_from(self, first):
        if self.is_shuffled():
            return True
        return not np.array_equal(*(example_keys(_inputs(each)) for each in (first, next(self.iterate(), None))))

    def order_changes(self):
        """Whether the first batch differs when it is read again, or the dataset declares that it shuffles."""
        return not self.fixed and self._order_differs_from(next(self.iterate(), None))

    def is_shuffled(self):
        """Whether the dataset declares that it shuffles."""
        return False

    def with_soft_targets(self, soft_targets):
        """The same data with soft targets beside the labels, paired by position or by key."""
        raise no_pairing(soft_targets, self.dataset)

    def check_no_views(self, soft_targets):
        """Raise `ValueError` if soft targets are of views, because the dataset cannot be told the epoch's view."""
        if soft_targets.views is not None:
            raise ValueError(
                "Soft targets of several views go with arrays or a `keras.utils.PyDataset`, which can be told the "
                f"epoch's view; received: {self.dataset!r}. Wrap the data in a `PyDataset`."
            )

    def for_model(self, model):
        """The same data. Raise `ValueError` if the inputs are a dict with entries that the model does not take."""
        names, x = input_names(model), self.first_batch()[0]
        if names is not None and isinstance(x, dict) and set(x) > names:
            raise ValueError(
                f"The model {model.name!r} takes the inputs {sorted(names)}, but the {self.kind} yields {sorted(x)}. "
                "Leave out what the model does not take, because Keras would pair them by position."
            )
        return self

    def split(self, validation_split):
        raise ValueError("`validation_split` is for arrays. Pass `validation_data` with a dataset.")

    def weighted(self, options):
        """`(data, options)` unchanged: Keras weighs the classes of some datasets."""
        return self, options

    def check_labels(self, loss, model, by_name=True):
        """Do nothing: labels of a dataset are not read before training."""

    def check_shares(self, steps_per_epoch):
        """Do nothing: batches of a dataset are checked when they are read."""

    def without_labels(self):
        """The data for training without labels. Raise `ValueError` if Keras would lose their sample weights."""
        _, y, sample_weight = self.first_batch()
        if y is None and sample_weight is not None:
            raise ValueError(
                f"The {self.kind} yields batches `(x, None, sample_weight)`, which Keras does not take on TensorFlow. "
                "Use `(x, {'weights_without_labels': sample_weight})` to train on the teacher alone with weights."
            )
        return self

    def for_keras(self):
        """The data as arguments of Keras's `fit`, `evaluate` and `predict`."""
        return {"x": self.dataset} | ({} if self.batch_size is None else {"batch_size": self.batch_size})

    def by_index(self, in_order=False):
        """The data as a `PyDataset`. Its batches are read in the order of the dataset."""
        count = self.number_of_batches()
        return InTurn(self.iterate, None if count == math.inf else count)

    def endless(self, batch_size, seed=None):
        """The inputs as endless batches, which start again when they end."""
        return Endless(InTurn(self.iterate, None))

    def part_of_worker(self):
        """The part of the data that this worker reads, if the engine does not divide the data."""
        raise TypeError(
            f"Several workers train together, and {type(self.dataset).__name__} cannot be divided among them. Pass "
            "arrays, or a `keras.utils.PyDataset` or a `tf.data.Dataset` that yields whole batches."
        )

    def for_validation(self):
        """The data as `keras.Model.fit(validation_data=...)` takes them."""
        return self.for_keras()["x"]

    def description(self, hashes):
        """Plain data for the run's manifest: only the form of the first batch, because the order may change.

        A dataset of this package says the arrays `made_of` which it makes its batches. They have fingerprints, too.
        """
        form = [example_form(part) for part in self.first_batch() if part is not None]
        x = {"dataset": type(self.dataset).__name__, "first_batch": form}
        if hasattr(self.dataset, "made_of"):
            x["made_of"] = described(self.dataset.made_of, hashes)
        return {"x": x, "y": None, "sample_weight": None}


def no_pairing(soft_targets, data):
    """Return the error that soft targets cannot be paired with data."""
    received = f"received: {data!r} (of type {type(data).__name__})"
    if soft_targets.by_key:
        return TypeError(
            "Soft targets are paired by key with a `keras.utils.PyDataset`, a `tf.data.Dataset`, a torch `DataLoader`, "
            f"or a `MapDataset` or `IterDataset` of Grain, {received}. Arrays have no keys."
        )
    return TypeError(
        "Soft targets are paired with a `keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`, "
        f"{received}. Arrays go to `fit(x, y, soft_targets=...)`."
    )


class Stream(Dataset):
    """A generator or an iterator, which can be read once."""

    kind = "generator"
    read_once = True

    @classmethod
    def accepts(cls, data):
        return hasattr(data, "__next__")

    def number_of_batches(self):
        return None

    def _read_first(self):
        head = list(itertools.islice(self.dataset, 1))
        self.dataset = (batch for batch in itertools.chain(head, self.dataset))
        return head[0] if head else None

    def for_keras(self):
        # Keras takes generators of tuples, no other iterators.
        batches = (tuple(batch) if isinstance(batch, (list, tuple)) else (batch,) for batch in self.dataset)
        return {**super().for_keras(), "x": batches}

    def check_order(self):
        raise ValueError(
            "`x` is a generator or an iterator, which can be read once only. Pass arrays, a `keras.utils.PyDataset`, a "
            "`tf.data.Dataset` or a torch `DataLoader`."
        )


def _inputs(batch):
    if batch is None:
        raise ValueError("The dataset yields no batch.")
    x = leaves.map_leaves(leaves.as_array, unpack(batch)[0])
    _check_is_batch(x, "x")
    return x


def _check_is_batch(parts, name):
    """Raise `NoBatchesError` if an array has no axis for the examples."""
    if any(np.ndim(leaf) == 0 for leaf in leaves.leaves_of(parts)):
        raise NoBatchesError(f"`{name}` must yield batches, it yields single examples: {_BATCH_THEM}.")
