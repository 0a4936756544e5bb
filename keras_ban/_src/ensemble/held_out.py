"""Data, held out or not, as an ensemble is fitted to them: the outputs of its members, labels and weights, in NumPy."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import leaves, reading
from keras_ban._src.data.batch import split_targets, unpack, without_key
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.leaves import as_array
from keras_ban._src.data.preprocessing import predict, predict_on_batch
from keras_ban._src.files import model_file


class HeldOut:
    """The outputs of an ensemble's members on data. Members run one after the other, in inference mode.

    Args:
        ensemble: an `EnsembleModel`.
        x, y, sample_weight, batch_size: as in `keras.Model.evaluate`.
        all_members: whether members of weight 0 run, too.
        seen: whether the examples may be those that trained the members.
        folds: `(n,)`, the place of the member that was not trained on each example, or `None`. For arrays.

    Attributes:
        outputs: a list of the outputs of all members, in float32 or as they are. `None` for a member that did not run.
        labels, weights: NumPy arrays. `weights` may be `None`.

    Raises:
        TypeError, ValueError: the data cannot be read, they lack labels, a member gives several outputs or NaN.
    """

    def __init__(
        self, ensemble, x, y=None, sample_weight=None, batch_size=None, all_members=False, seen=False, folds=None
    ):
        y = as_array_of_numbers(y)
        data = as_data(x, y, sample_weight, batch_size=batch_size, models=(ensemble,))
        self.folds = None if folds is None else _check_folds(folds, data, len(ensemble.members))
        members = [
            member if all_members or share > 0 else None
            for member, share in zip(ensemble.members, ensemble.member_weights, strict=True)
        ]
        read = self._read_batches if data.yields_batches else self._read_arrays
        self._trained_on = None if seen else ensemble.trained_on
        self.outputs, labels, weights = read(data, members, batch_size)
        self.labels, self.weights = _single("y", labels), _single("sample_weight", weights)
        if self.labels is None:
            raise ValueError("The data bring no labels: pass `y`, or a dataset that yields `(x, y)`.")
        for place, outputs in enumerate(self.outputs):
            if outputs is not None:
                _check_outputs(place, outputs)

    def _read_arrays(self, data, members, batch_size):
        def run(member):
            if member is None:
                return None
            local = model_file.on_this_worker(member)
            with backend.keeping_values(local):
                return process_group.alone(lambda: predict(local, data, batch_size))

        if self._trained_on is not None:
            self._trained_on.check([self._trained_on.keys_of(data.x)])
        if data.labels is None:  # Before the members run.
            return [], None, None
        return [run(member) for member in members], data.labels, data.sample_weight

    def _read_batches(self, data, members, batch_size):
        data.check_finite()
        outputs, labels, weights, keys = [[] for _ in members], [], [], []
        local = [None if member is None else model_file.on_this_worker(member) for member in members]
        with reading.watched(data) as (data,):
            for batch in data.iterate():
                x, y, sample_weight = keras.tree.map_structure(leaves.numeric, unpack(batch))
                y = split_targets(without_key(y))[0]
                if y is None:
                    return [], None, None
                labels.append(y)
                weights.append(sample_weight)
                if self._trained_on is not None:
                    keys.append(self._trained_on.keys_of(x))
                for member, found in zip(local, outputs, strict=True):
                    if member is not None:
                        found.append(_of_batch(member, x))
        if not labels:
            raise ValueError("The dataset yields no batch: there is nothing to fit to.")
        if keys:
            self._trained_on.check(keys)
        weights = None if any(each is None for each in weights) else _joined(weights)
        return [_joined(each) if each else None for each in outputs], _joined(labels), weights


def as_array_of_numbers(y):
    """Return labels, with a list of numbers as an array."""
    return np.asarray(y) if isinstance(y, list) and not any(hasattr(each, "shape") for each in y) else y


def _of_batch(member, x):
    with backend.keeping_values(member):
        return process_group.alone(lambda: predict_on_batch(member, x))


def _joined(parts):
    return keras.tree.map_structure(lambda *arrays: np.concatenate(arrays), *parts)


def _single(name, part):
    """Return the one array of labels or weights."""
    found = leaves.leaves_of(part)
    if len(found) > 1:
        raise ValueError(f"`{name}` must be one array, for the one output of the ensemble, received: {len(found)}.")
    return as_array(found[0]) if found else None


def _check_outputs(place, outputs):
    if keras.tree.is_nested(outputs):
        raise ValueError("An ensemble of models with several outputs cannot be fitted to data: use one output.")
    if np.isnan(outputs).any() or np.isposinf(outputs).any():
        raise ValueError(
            f"The outputs of member {place} hold NaN or inf on these data. Check that it is trained, and that `x` "
            "holds no NaN and is scaled as in its training."
        )


def _check_folds(folds, data, members):
    """Return folds as an array. Raise `ValueError` unless they tell for each example one of at least two members."""
    if data.yields_batches:
        raise ValueError("`folds` are by the place of each example, so `x` must be arrays. Use `validation_data`.")
    folds, size = as_array(folds), leaves.size_of(data.x)
    if members < 2:
        raise ValueError("`folds` need at least 2 members, each trained without one fold. Use `validation_data`.")
    if folds.shape != (size,) or folds.dtype.kind not in "iu" or set(np.unique(folds)) != set(range(members)):
        raise ValueError(
            f"`folds` must hold, for each of the {size} examples, the place of the member that was not trained on "
            f"it: whole numbers from 0 to {members - 1}, each at least once. Received the shape {folds.shape}, the "
            f"dtype {folds.dtype} and the values {np.unique(folds)[:10].tolist()}."
        )
    return folds


def class_targets(held_out, shape, activation, ignore_class=None):
    """Return `(labels, weights)` for outputs of a shape, for the likelihood of each label.

    With a softmax, labels are class indices `(n,)` or probabilities `(n, classes)`, and weights are `(n,)`, where `n`
    counts all leading axes. With a sigmoid, both are `(n,)`, where `n` counts all outputs.

    Raises:
        ValueError: the labels or weights do not fit the outputs.
    """
    labels = held_out.labels
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"`y` must hold numbers, received dtype {labels.dtype}.")
    if not np.isfinite(labels).all():
        raise ValueError("`y` holds NaN or inf.")
    positions = shape[:-1] if activation == "softmax" or len(shape) > 1 else shape
    weights = weights_of(held_out.weights, positions)
    if activation == "sigmoid":
        labels = _yes_or_no(labels, shape)
        return labels, np.repeat(weights, labels.size // weights.size)
    if len(shape) < 2 or shape[-1] < 2:
        raise ValueError(
            f"The outputs have the shape {shape}, which is no softmax over classes. For one output of a sigmoid, make "
            "the ensemble with `activation='sigmoid'`."
        )
    labels = _classes(labels, shape)
    if labels.ndim == 1 and ignore_class is not None:
        weights = np.where(labels == ignore_class, 0.0, weights)
        labels = np.where(labels == ignore_class, 0, labels)
    if weights.sum() == 0:
        raise ValueError("All examples have the weight 0: there is nothing to fit to.")
    if labels.ndim == 1 and (labels.min() < 0 or labels.max() >= shape[-1]):
        wrong = labels[(labels < 0) | (labels >= shape[-1])][0]
        raise ValueError(
            f"The outputs have {shape[-1]} classes, so labels must lie in [0, {shape[-1] - 1}], but `y` holds {wrong}. "
            "Give padding the label 0 and the `sample_weight` 0."
        )
    return labels, weights


def _classes(labels, shape):
    """Return class indices `(n,)`, or probabilities `(n, classes)`."""
    if labels.shape in (shape[:-1], (*shape[:-1], 1)):
        if (labels != np.floor(labels)).any():
            raise ValueError("`y` must hold class indices, which are whole numbers, received others.")
        return labels.reshape(-1).astype("int64")
    if labels.shape != shape:
        raise ValueError(
            f"`y` must hold class indices of the shape {shape[:-1]}, or probabilities of the shape {shape} of the "
            f"outputs, received the shape {labels.shape}."
        )
    labels = labels.reshape(-1, shape[-1]).astype("float64")
    if (labels < 0).any() or np.abs(labels.sum(axis=-1) - 1).max() > 1e-3:
        raise ValueError("`y` must hold probabilities that sum to 1 over the classes, such as one-hot labels.")
    return labels.argmax(axis=-1) if ((labels == 0) | (labels == 1)).all() else labels


def _yes_or_no(labels, shape):
    if labels.shape != shape and labels.size == np.prod(shape) and 1 in (shape[-1], labels.shape[-1]):
        labels = labels.reshape(shape)
    if labels.shape != shape:
        raise ValueError(f"`y` must have the shape of the outputs, {shape}, received: {labels.shape}.")
    if (labels < 0).any() or (labels > 1).any():
        raise ValueError("`y` must hold numbers in [0, 1] for a sigmoid, received others.")
    return labels.reshape(-1).astype("float64")


def weights_of(weights, positions):
    """Return a weight for each position, as `(n,)`."""
    if weights is None:
        return np.ones(int(np.prod(positions)))
    if weights.ndim > len(positions) and weights.shape[-1] == 1:
        weights = weights[..., 0]
    if weights.shape != positions[: weights.ndim]:
        raise ValueError(
            f"`sample_weight` must have the shape {positions}, or {positions[:1]}, received {weights.shape}."
        )
    if (weights < 0).any() or not np.isfinite(weights).all() or weights.sum() == 0:
        raise ValueError("`sample_weight` must be finite, non-negative and not all 0.")
    weights = weights.reshape(weights.shape + (1,) * (len(positions) - weights.ndim))
    return np.broadcast_to(weights, positions).reshape(-1).astype("float64")
