"""Data that are arrays, with the examples in rows."""

import copy
import math

import keras
import numpy as np

from keras_ban._src.backend import process_group
from keras_ban._src.data import leaves
from keras_ban._src.data.batch import add_soft_targets, is_labeled, pack, split_targets, unpack, weights_like
from keras_ban._src.data.dataset import Data
from keras_ban._src.data.endless import ShuffledRows
from keras_ban._src.data.fingerprints import described
from keras_ban._src.data.labels import check_finite, check_label_values, check_labels, check_numbers
from keras_ban._src.data.leaves import as_array, leaves_of, size_of, slice_rows, take
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.model_outputs import check_names
from keras_ban._src.data.py_dataset import PyDatasetData
from keras_ban._src.data.wrappers import ArrayBatches, ArrayRows, WorkerPart

# A loss with this weight, summed over a batch, is finite in float32.
LARGEST_WEIGHT = 1e30


class Arrays(Data):
    """Inputs, labels and sample weights, as nested arrays with one row for each example.

    Attributes:
        x, y, sample_weight: nested NumPy arrays or SciPy CSR matrices. `y` and `sample_weight` may be `None`.
        names: the names of the three parts in messages.
    """

    is_whole = takes_views = fixed = True

    def __init__(self, x, y=None, sample_weight=None, batch_size=None, shuffle=None, names=None):
        self.names = names or ("x", "y", "sample_weight")
        self.x = _from_user(self.names[0], x, is_input=True)
        labels = zip(self.names[1:], (y, sample_weight), strict=False)
        self.y, self.sample_weight = (_from_user(name, part, is_input=False) for name, part in labels)
        self.batch_size, self.shuffle = batch_size, shuffle
        self._check_sizes()
        for leaf in leaves_of(self.sample_weight):
            _check_weights(self.names[2], leaf)

    @classmethod
    def accepts(cls, data):
        """Whether data are of this kind."""
        found = leaves_of(data)
        return bool(found) and all(leaves.is_array(leaf) for leaf in found)

    @classmethod
    def of_user(cls, x, y, sample_weight, batch_size, shuffle, names, models):
        """A user's arrays. The arguments are those of `as_data`."""
        return cls(x, y, sample_weight, batch_size, shuffle, names)

    def __len__(self):
        return size_of(self.x)

    @property
    def labels(self):
        return split_targets(self.y)[0]

    @property
    def lacks_labels(self):
        return self.labels is None

    @property
    def soft_targets(self):
        """The soft targets that the user passed in `y`."""
        return split_targets(self.y)[1]

    @property
    def brings_soft_targets(self):
        return self.soft_targets is not None

    def first_batch(self):
        """`(x, y, sample_weight)` of the first examples, as NumPy arrays."""
        parts = slice_rows((self.x, self.y, self.sample_weight), slice(0, self.batch_size or 32))
        return keras.tree.map_structure(leaves.numeric, parts)

    def number_of_batches(self):
        return math.ceil(len(self) / (self.batch_size or 32))

    def batches(self, batch_size):
        """`(inputs, None)` of each batch, in their order."""
        return ((take(self.x, slice(i, i + batch_size)), None) for i in range(0, len(self), batch_size))

    def order_changes(self):
        return False

    def check_labels(self, loss, model, by_name=True):
        """Raise `ValueError` if the labels do not fit the loss and the model's outputs, or hold NaN.

        `by_name` is whether Keras pairs labels, losses and outputs by their names.
        """
        if by_name:
            check_names(self.labels, self.sample_weight, loss, model, self.names[1:])
        if self.labels is not None:
            check_labels(self.labels, loss, model, self.names[1])
            check_label_values(self.names[1], self.labels, loss)

    def check_shares(self, steps_per_epoch):
        """Raise `ValueError` if batches do not divide evenly over the devices that share each of them."""
        shares, size, batch_size = process_group.shares(), len(self), self.batch_size or 32
        batches, last = divmod(size, batch_size)
        if batches and batch_size % shares:
            culprit, advice = f"batch_size={batch_size}", f"Use a multiple of {shares} as `batch_size`"
        elif last % shares and (steps_per_epoch is None or steps_per_epoch > batches):
            culprit = f"the last batch of each epoch, of {last} examples,"
            advice = f"Leave out {last % shares} of the {size} examples, or choose another `batch_size`"
        else:
            return
        raise ValueError(
            f"Each batch is divided evenly over {shares} devices, but {culprit} does not divide. {advice}."
        )

    def with_parts(self, x, y, sample_weight):
        """Other arrays with the same options."""
        other = copy.copy(self)
        other.x, other.y, other.sample_weight = x, y, sample_weight
        return other

    def rows(self, rows):
        """A part of the examples."""
        return self.with_parts(*slice_rows((self.x, self.y, self.sample_weight), rows))

    def for_model(self, model):
        """The same data, without entries of an input dict that the model does not take."""
        return self.with_parts(inputs_for(model, self.x), self.y, self.sample_weight)

    def split(self, validation_split):
        """`(training data, validation data)`, split like arrays in `keras.Model.fit`."""
        at = math.floor(len(self) * (1.0 - validation_split))
        if at in (0, len(self)):
            raise ValueError(f"`validation_split={validation_split}` of {len(self)} examples leaves a part empty.")
        kept, validation = self.rows(slice(0, at)), self.rows(slice(at, None))
        return kept, validation.with_parts(validation.x, validation.labels, validation.sample_weight)

    def weighted(self, options):
        """`(data, options)` of a `fit`, with `class_weight` as sample weights, as Keras computes them."""
        class_weight = options.get("class_weight")
        if class_weight is None:
            return self, options
        weights = _weights_of_classes(self.labels, self.sample_weight, class_weight)
        labeled = is_labeled(self.y)
        if labeled is not None:
            weights[labeled == 0] = 1.0
        options = {name: value for name, value in options.items() if name != "class_weight"}
        return self.with_parts(self.x, self.y, weights), options

    def with_soft_targets(self, soft_targets):
        """The same data with soft targets beside the labels."""
        if soft_targets.views is not None or not soft_targets.in_memory:
            rows = ArrayRows((self.x, self.y, self.sample_weight), soft_targets, self.batch_size or 32, self.shuffles)
            return PyDatasetData(rows, shuffle=False)
        return self.with_parts(self.x, add_soft_targets(self.y, soft_targets.batch(slice(None))), self.sample_weight)

    def by_index(self, in_order=False):
        """The data as a `PyDataset`. It shuffles as `shuffle` says, but not `in_order`."""
        shuffle = False if in_order else self.shuffles
        return ArrayBatches((self.x, self.y, self.sample_weight), self.batch_size or 32, shuffle)

    def endless(self, batch_size, seed=None):
        """The inputs as endless batches."""
        return ShuffledRows(self.x, batch_size, self.shuffles, seed)

    def part_of_worker(self):
        """The part of the data that this worker reads, if the engine does not divide the data."""
        _, *others = unpack(self.packed())
        batches = ArrayBatches((self.x, *others), self.batch_size or 32, self.shuffles)
        return PyDatasetData(WorkerPart(batches), shuffle=False)

    @property
    def shuffles(self):
        """`shuffle`, or the default of `keras.Model.fit`."""
        return True if self.shuffle is None else self.shuffle

    @property
    def is_numeric(self):
        """Whether all parts are NumPy arrays of numbers."""
        parts = leaves_of((self.x, self.y, self.sample_weight))
        return all(isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biuf" for leaf in parts)

    def without_labels(self):
        """The same data: `packed` keeps sample weights without labels."""
        return self

    def for_keras(self):
        """The data as arguments of Keras's `fit`, `evaluate` and `predict`."""
        _, y, weights = unpack(self.packed())
        options = {"y": y, "sample_weight": weights, "batch_size": self.batch_size}
        return {"x": self.x, **{name: value for name, value in options.items() if value is not None}}

    def packed(self):
        """The data as one batch of a dataset, with the weights in the structure of `y`."""
        weights = self.sample_weight
        if weights is not None and keras.tree.is_nested(self.y):
            if self.brings_soft_targets or is_labeled(self.y) is not None:
                weights = {name: weights_like(weights, part) for name, part in self.y.items()}
            else:
                weights = weights_like(weights, self.y)
        return pack(self.x, self.y, weights)

    def for_validation(self):
        """The data as `keras.Model.fit(validation_data=...)` takes them."""
        parts = (self.x, self.y, self.sample_weight)
        return parts if self.sample_weight is not None else parts[: 1 if self.y is None else 2]

    def description(self, hashes):
        """Plain data for the run's manifest: fingerprints of each array, of version `hashes`."""
        parts = {"x": self.x, "y": self.y, "sample_weight": self.sample_weight}
        return {name: None if part is None else described(part, hashes) for name, part in parts.items()}

    def _check_sizes(self):
        sizes = {}
        for name, part in zip(self.names, (self.x, self.y, self.sample_weight), strict=False):
            found = sorted({int(leaf.shape[0]) for leaf in leaves_of(part)})
            if len(found) > 1:
                advice = _advice_for_lists(name, part)
                raise ValueError(f"The arrays of `{name}` hold different numbers of examples: {found}.{advice}")
            if found == [0]:
                raise ValueError(f"`{name}` holds no examples.")
            if found:
                sizes[name] = found[0]
        if len(set(sizes.values())) > 1:
            holds = ", ".join(f"`{name}` {size}" for name, size in sizes.items())
            advice = _advice_for_lists(self.names[0], self.x)
            raise ValueError(f"All parts of the data must hold the same number of examples, received: {holds}.{advice}")


def _advice_for_lists(name, part):
    """What to do about a list with an array for each example, as text. Empty for other data."""
    if not isinstance(part, (list, tuple)):
        return ""
    return (
        f" A list stands for several inputs or outputs, here {len(part)}. Make one array of a list of examples: "
        f"`np.stack({name})`."
    )


def _from_user(name, part, is_input):
    if part is None:
        return None
    if not all(leaves.is_array(leaf) for leaf in leaves_of(part)):
        raise TypeError(
            f"`{name}` must be arrays, received: {short(part)} (of type {type(part).__name__}). Convert a list of "
            f"numbers with `np.asarray({name})`."
        )
    part = leaves.map_leaves(lambda leaf: leaves.from_user(name, leaf, is_input), part)
    for leaf in leaves_of(part):
        if isinstance(leaf, np.ndarray) and leaf.dtype.kind not in "biufcSU" and not leaves.holds_texts(leaf):
            raise ValueError(
                f"`{name}` must hold numbers or texts, received dtype {leaf.dtype} (perhaps rows of unequal length, or "
                f"`None` among numbers). Convert it: `{name}.astype('float32')`."
            )
    return part


def _check_weights(name, leaf):
    check_numbers(name, leaf)
    check_finite(name, leaf)
    if isinstance(leaf, np.memmap):
        return
    if 0 in leaf.shape[1:]:
        raise ValueError(f"`{name}` must hold a number for each example, received the shape {tuple(leaf.shape)}.")
    largest = np.abs(as_array(leaf)).max()
    if largest > LARGEST_WEIGHT:
        raise ValueError(
            f"`{name}` must hold weights of {LARGEST_WEIGHT:g} at most, received {largest:g}: the loss would be "
            "infinite. Divide all of them by the largest."
        )


def _weights_of_classes(labels, sample_weight, class_weight):
    """The weight of each example's class. It is 1 for classes without a weight."""
    if sample_weight is not None:
        raise ValueError("You cannot use `class_weight` and `sample_weight` at the same time.")
    if labels is None or keras.tree.is_nested(labels):
        raise ValueError("`class_weight` is only supported for models with a single output, and with labels.")
    classes = as_array(labels)
    if classes.ndim > 1:
        classes = classes.argmax(axis=-1) if classes.shape[-1] > 1 else classes[..., 0]
    classes = np.round(classes).astype("int32")
    known, which = np.unique(classes, return_inverse=True)
    weights = np.array([class_weight.get(int(each), 1.0) for each in known], keras.config.floatx())
    return weights[which.reshape(classes.shape)]


def short(value):
    """A value as text of at most 203 characters, for messages."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
