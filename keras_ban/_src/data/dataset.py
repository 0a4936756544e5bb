"""Data that yield batches by themselves: what all kinds of datasets have in common."""

import itertools
import math

import keras
import numpy as np

from keras_ban._src.data import leaves
from keras_ban._src.data.batch import input_names, key_of_batch, unpack
from keras_ban._src.data.fingerprints import example_form, example_keys


class Dataset:
    """A dataset whose batches are `x`, `(x, y)` or `(x, y, sample_weight)`.

    A kind of dataset is a subclass. This one stands for any object that can be iterated over again.

    Attributes:
        dataset: the user's dataset.
        batch_size, shuffle: as the user passed them to `keras.Model.fit`; `None`: not given.
    """

    #: What messages call the kind.
    kind = "dataset"
    yields_batches = True
    is_whole = False
    takes_views = False
    fixed = False
    brings_soft_targets = False
    # What a dataset brings is known from its batches alone.
    labels = soft_targets = sample_weight = None
    has_processes = lacks_labels = False
    # Whether the data can be read only once.
    read_once = False
    #: What chooses the examples of each batch, if it is known.
    sampler = None

    def __init__(self, dataset, batch_size=None, shuffle=None):
        self.dataset = dataset
        self.batch_size, self.shuffle = batch_size, shuffle
        self._first = None

    @classmethod
    def accepts(cls, data):
        """Whether data are of this kind."""
        return hasattr(data, "__iter__")

    def iterate(self):
        """The user's batches, from the first one."""
        return iter(self.dataset)

    def number_of_batches(self):
        """The number of batches; `None` if it is not known, infinity if they have no end."""
        try:
            return len(self.dataset)
        except TypeError:  # A torch `DataLoader` of an `IterableDataset` may have a `__len__` without an answer.
            return None

    def first_batch(self):
        """`(x, y, sample_weight)` of the first batch, as NumPy arrays."""
        if self._first is None:
            batch = next(self.iterate(), None)
            if batch is None:
                raise ValueError("`x` yields no batch: there is nothing to train on.")
            self._first = keras.tree.map_structure(leaves.numeric, unpack(batch))
        return self._first

    def check_alone(self, y, sample_weight):
        """Raise `ValueError` if arrays come with the dataset, which brings its own labels and weights."""
        for name, part in (("y", y), ("sample_weight", sample_weight)):
            if part is not None:
                raise ValueError(
                    f"When `x` is a {self.kind}, `{name}` should not be passed: let its batches be `(x, y)` or `(x, y, "
                    "sample_weight)`."
                )

    def check_not_empty(self):
        if self.number_of_batches() == 0:
            raise ValueError("`x` holds no examples: there is nothing to train on.")

    def check_finite(self):
        """The number of batches, or `ValueError` if they have no end."""
        count = self.number_of_batches()
        if count == math.inf:
            raise ValueError(
                f"The dataset {self.dataset!r} has no end, and soft targets need a fixed number of examples. Leave out "
                "what repeats it, `.repeat()` for instance."
            )
        return count

    def batches(self, batch_size=None):
        """`(inputs, keys or None)` of each batch, in an order that is the same each time.

        Raises:
            ValueError: the order differs from one reading to the next, and there are no keys.
        """
        self.check_order()
        return ((_inputs(batch), key_of_batch(batch)) for batch in self.iterate())

    def check_order(self):
        """Raise `ValueError` if the first batch differs when it is read again. With keys, any order will do."""
        batch = next(self.iterate(), None)
        if key_of_batch(batch) is not None:
            return
        if self.is_shuffled() or not np.array_equal(*map(_keys_of_first, (batch, next(self.iterate(), None)))):
            raise ValueError(
                "The data come in another order, or augmented, each time they are read: their soft targets cannot be "
                "stored. Read them without shuffling and without augmentation (a torch `DataLoader` with "
                "`shuffle=False`, a `tf.data.Dataset` before its `.shuffle`); or let the teacher run at each step, "
                "without soft targets."
            )

    def is_shuffled(self):
        """Whether the dataset declares that it shuffles."""
        return False

    def with_soft_targets(self, soft_targets):
        """The same data with the soft targets of its examples beside the labels, by position or by key."""
        raise no_pairing(soft_targets, self.dataset)

    def for_model(self, model):
        """Itself; `ValueError` if the inputs are a dict with more entries than the model takes."""
        names, x = input_names(model), self.first_batch()[0]
        if names is not None and isinstance(x, dict) and set(x) > names:
            raise ValueError(
                f"The model {model.name!r} takes the inputs {sorted(names)}, but the {self.kind} yields more: "
                f"{sorted(x)}. Keras would pair them by position. Leave out what the model does not take."
            )
        return self

    def split(self, validation_split):
        raise ValueError("`validation_split` is for arrays. Pass `validation_data` with a dataset.")

    def weighted(self, class_weight):
        """Itself; Keras weighs the classes of some datasets."""
        return self

    def check_labels(self, loss, model):
        """Labels of arrays are checked before training, those of a dataset are not read for it."""

    def check_shares(self, steps_per_epoch=None):
        """The batches of a dataset are checked when they are read."""

    def without_labels(self):
        """The data for training without labels: their sample weights must be where a `Distiller` finds them."""
        _, y, sample_weight = self.first_batch()
        if y is None and sample_weight is not None:
            raise ValueError(
                f"The {self.kind} yields batches `(x, None, sample_weight)`, which Keras does not take on TensorFlow. "
                "To train on the teacher alone with weights, let them be `(x, {'sample_weight': sample_weight})`."
            )
        return self

    def for_keras(self):
        """The arguments of Keras's `fit`, `evaluate` and `predict` that bring the data."""
        return {"x": self.dataset} | ({} if self.batch_size is None else {"batch_size": self.batch_size})

    def part_of_worker(self):
        """What this worker reads of the data, if the engine leaves it to the data to be divided."""
        raise TypeError(
            f"Several workers train together, and {type(self.dataset).__name__} cannot be divided among them. Pass "
            "arrays, a `keras.utils.PyDataset` that yields whole batches, or a `tf.data.Dataset` of whole batches."
        )

    def for_validation(self):
        """The data as `keras.Model.fit(validation_data=...)` takes them."""
        return self.dataset

    def callbacks(self):
        """Callbacks that the data need while they are trained on."""
        return []

    def description(self, hashes):
        """Plain data by which a run knows its data again: the form of the first batch, because data may be shuffled."""
        form = [example_form(part) for part in self.first_batch() if part is not None]
        x = {"dataset": type(self.dataset).__name__, "first_batch": form}
        return {"x": x, "y": None, "sample_weight": None}


def no_pairing(soft_targets, data):
    """The error that soft targets cannot be paired with data."""
    received = f"received: {data!r} (of type {type(data).__name__})"
    if soft_targets.by_key:
        return TypeError(
            "Soft targets are paired by key with a `keras.utils.PyDataset`, a `tf.data.Dataset`, a torch `DataLoader`, "
            f"or a `MapDataset` or `IterDataset` of Grain, {received}. They are found by the key that a dataset gives "
            "beside the labels: arrays have none."
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

    def first_batch(self):
        if self._first is None:
            head = list(itertools.islice(self.dataset, 1))
            self.dataset = (batch for batch in itertools.chain(head, self.dataset))
            if not head:
                raise ValueError("`x` yields no batch: there is nothing to train on.")
            self._first = keras.tree.map_structure(leaves.numeric, unpack(head[0]))
        return self._first

    def check_order(self):
        raise ValueError(
            "`x` is a generator or an iterator, which can be read once only: nothing would be left to train on. Pass "
            "arrays, a `keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`."
        )


def _inputs(batch):
    if batch is None:
        raise ValueError("The dataset yields no batch.")
    x = keras.tree.map_structure(lambda leaf: None if leaf is None else leaves.as_array(leaf), unpack(batch)[0])
    if any(leaf.ndim == 0 for leaf in leaves.leaves_of(x)):
        raise TypeError("`x` is no dataset of batches: it yields single values.")
    return x


def _keys_of_first(batch):
    return example_keys(_inputs(batch))
