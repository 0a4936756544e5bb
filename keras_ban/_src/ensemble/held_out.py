"""Data, held out or not, as an ensemble is fitted to them: the outputs of its members, labels and weights, in NumPy."""

import numbers

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import leaves, reading, trial
from keras_ban._src.data.any_data import AnyData
from keras_ban._src.data.arrays import short
from keras_ban._src.data.batch import split_targets, unpack, without_key
from keras_ban._src.data.hugging_face import column_as_array
from keras_ban._src.data.labels import advice_for_texts
from keras_ban._src.data.leaves import as_array
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.preprocessing import data_in_steps, inputs_in_steps, predict, predict_on_batch
from keras_ban._src.files import model_file
from keras_ban._src.losses.masks import mask_of


class HeldOut:
    """The outputs of an ensemble's members on data. Members run one after the other, in inference mode.

    Args:
        ensemble: an `EnsembleModel`.
        data: the result of `as_data` or `as_validation_data`.
        all_members: whether members of weight 0 run, too.
        trained_on: the `TrainingData` of which `data` may hold no examples. Each may be `None`.
        folds: `(n,)`, the place of the member that was not trained on each example, or `None`. For arrays.

    Attributes:
        outputs: a list of the outputs of all members, in float32 or as they are. `None` for a member that did not run.
        labels, weights: NumPy arrays. `weights` may be `None`. They are 0 where the mask of the outputs is.
        names: what messages call labels and weights.
        ignore_class: that of the compiled loss, or `None`.

    Raises:
        TypeError, ValueError: the data cannot be read, they lack labels, a member gives several outputs or NaN.
    """

    def __init__(self, ensemble, data, all_members=False, trained_on=(), folds=None):
        of_data, *self.names = (data.name, "y", "sample_weight") if data.yields_batches else data.names
        self.ignore_class = getattr(getattr(ensemble, "loss", None), "ignore_class", None)
        self.folds = None if folds is None else _check_folds(folds, data, len(ensemble.members))
        members = [
            member if all_members or share > 0 else None
            for member, share in zip(ensemble.members, ensemble.member_weights, strict=True)
        ]
        self._trained_on = [each for each in trained_on if each is not None]
        read = self._read_batches if data.yields_batches else self._read_arrays
        try:
            self.outputs, labels, weights, masks = read(data, members)
        except Exception:
            for member in members:
                if member is not None and not data.read_once:
                    trial.explain_use(member, data_in_steps(member, data), of_data)
            raise
        self.labels, self.weights = (
            _single(name, part) for name, part in zip(self.names, (labels, weights), strict=True)
        )
        if self.labels is None:
            raise ValueError(
                f"`{of_data}` brings no labels: pass `{self.names[0]}`, or a dataset that yields `(x, y)`."
            )
        for place, outputs in enumerate(self.outputs):
            if outputs is not None:
                _check_outputs(place, outputs)
        self._leave_out(masks)

    def _read_arrays(self, data, members):
        for trained_on in self._trained_on:
            trained_on.check([trained_on.keys_of(data.x)])
        if data.labels is None:  # Before the members run.
            return [], None, None, None
        # One copy of a member at a time.
        outputs = [None if each is None else _alone(_local(each), predict, data, data.batch_size) for each in members]
        model = _mask_model(members, outputs, leaves.take(data.x, slice(0, 1)))
        masks = None if model is None else _alone(model, predict, data, data.batch_size)
        return outputs, data.labels, data.sample_weight, masks

    def _read_batches(self, data, members):
        data.check_finite()
        members, found = [_local(member) for member in members], []
        with reading.watched(data) as (data,):
            for batch in data.iterate():
                x, y, sample_weight = keras.tree.map_structure(leaves.numeric, unpack(batch))
                y = split_targets(without_key(y))[0]
                if y is None:
                    return [], None, None, None
                outputs = [None if each is None else _alone(each, predict_on_batch, x) for each in members]
                if not found:
                    model = _mask_model(members, outputs, leaves.take(x, slice(0, 1)))
                mask = None if model is None else _alone(model, predict_on_batch, x)
                keys = [trained_on.keys_of(x) for trained_on in self._trained_on]
                found.append((keys, y, sample_weight, mask, *outputs))
        if not found:
            raise ValueError("The dataset yields no batch: there is nothing to fit to.")
        keys, *parts = zip(*found, strict=True)
        for trained_on, of_batches in zip(self._trained_on, zip(*keys, strict=True), strict=True):
            trained_on.check(of_batches)
        labels, weights, masks, *outputs = map(_joined, parts)
        return outputs, labels, weights, masks

    def _leave_out(self, masks):
        """Give the weight 0 to positions that the Keras mask of the outputs leaves out."""
        if masks is None:
            return
        positions = next(each for each in self.outputs if each is not None).shape[:-1]
        weights = [weights_of(each, positions, self.names[1]) for each in (self.weights, masks)]
        self.weights = (weights[0] * weights[1]).reshape(positions)


class _Mask(AnyData, keras.Model):
    """Gives the Keras mask of a model's outputs."""

    def __init__(self, model):
        super().__init__(name=model.name, autocast=False)
        self.model = model
        self.run_eagerly, self.jit_compile = model.run_eagerly, model.jit_compile
        self.built = True

    def call(self, inputs, training=None):
        return mask_of(self.model(inputs_for(self.model, inputs), training=training))

    def models_within(self):
        return [self.model]


def _mask_model(members, outputs, x):
    """Return a model that gives the mask of the outputs of the first member that ran. `None` if they have none.

    `x` is one example. Outputs of rank 2 have no positions that a mask could leave out.
    """
    member, output = next((_local(m), o) for m, o in zip(members, outputs, strict=True) if m is not None)
    if keras.tree.is_nested(output) or output.ndim < 3:
        return None
    inputs = keras.tree.map_structure(backend.as_tensor, inputs_in_steps(member, x))
    with backend.without_gradients():
        mask = _alone(member, lambda model, x: mask_of(model(x, training=False)), inputs)
    return None if mask is None else _Mask(member)


def _local(member):
    return None if member is None else model_file.on_this_worker(member)


def _alone(model, function, *args):
    """Return `function(model, *args)`, without other workers, and with the model's values kept."""
    with backend.keeping_values(model):
        return process_group.alone(lambda: function(model, *args))


def _joined(parts):
    """Return the parts of all batches as one. `None` if one is."""
    if any(part is None for part in parts):
        return None
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
    if members < 2:
        raise ValueError("`folds` need at least 2 members, each trained without one fold. Use `validation_data`.")
    wanted = (
        f"`folds` must hold, for each of the {leaves.size_of(data.x)} examples, the place of the member that was not "
        f"trained on it: whole numbers from 0 to {members - 1}, each at least once."
    )
    folds = column_as_array(folds)
    is_list = isinstance(folds, (list, tuple)) and all(isinstance(each, numbers.Number) for each in folds)
    if not is_list and not leaves.is_array(folds):
        made = "`for fold, (seen, unseen) in enumerate(KFold(3).split(x)): folds[unseen] = fold`"
        raise ValueError(f"{wanted} Received: {short(folds)}. With a splitter of scikit-learn: {made}.")
    folds = as_array(folds)
    is_whole = folds.shape == (leaves.size_of(data.x),) and folds.dtype.kind in "iu"
    if not is_whole or set(np.unique(folds)) != set(range(members)):
        values = short(np.unique(folds.astype(str)).tolist() if folds.dtype.kind == "O" else np.unique(folds).tolist())
        raise ValueError(f"{wanted} Received the shape {folds.shape}, the dtype {folds.dtype} and the values {values}.")
    return folds


def class_targets(held_out, shape, activation):
    """Return `(labels, weights)` for outputs of a shape, for the likelihood of each label.

    With a softmax, labels are class indices `(n,)` or probabilities `(n, classes)`, and weights are `(n,)`, where `n`
    counts all leading axes. With a sigmoid, both are `(n,)`, where `n` counts all outputs.

    Raises:
        ValueError: the labels or weights do not fit the outputs.
    """
    labels, name = held_out.labels, held_out.names[0]
    if labels.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` must hold numbers, received dtype {labels.dtype}. {advice_for_texts(labels)}")
    if not np.isfinite(labels).all():
        raise ValueError(f"`{name}` holds NaN or inf.")
    positions = shape[:-1] if activation == "softmax" or len(shape) > 1 else shape
    weights = weights_of(held_out.weights, positions, held_out.names[1])
    if activation == "sigmoid":
        labels = _yes_or_no(labels, shape, name)
        return labels, np.repeat(weights, labels.size // weights.size)
    if len(shape) < 2 or shape[-1] < 2:
        raise ValueError(
            f"The outputs have the shape {shape}, which is no softmax over classes. For one output of a sigmoid, make "
            "the ensemble with `activation='sigmoid'`."
        )
    labels = _classes(labels, shape, name)
    if labels.ndim == 1 and held_out.ignore_class is not None:
        weights = np.where(labels == held_out.ignore_class, 0.0, weights)
        labels = np.where(labels == held_out.ignore_class, 0, labels)
    if weights.sum() == 0:
        raise ValueError("All examples have the weight 0: there is nothing to fit to.")
    if labels.ndim == 1 and (labels.min() < 0 or labels.max() >= shape[-1]):
        wrong = labels[(labels < 0) | (labels >= shape[-1])][0]
        raise ValueError(
            f"The outputs have {shape[-1]} classes, so labels must lie in [0, {shape[-1] - 1}], but `{name}` holds "
            f"{wrong}. Give padding the label 0 and the `sample_weight` 0."
        )
    return labels, weights


def _classes(labels, shape, name):
    """Return class indices `(n,)`, or probabilities `(n, classes)`."""
    if labels.shape in (shape[:-1], (*shape[:-1], 1)):
        if (labels != np.floor(labels)).any():
            raise ValueError(f"`{name}` must hold class indices, which are whole numbers, received others.")
        return labels.reshape(-1).astype("int64")
    if labels.shape != shape:
        raise ValueError(
            f"`{name}` must hold class indices of the shape {shape[:-1]}, or probabilities of the shape {shape} of the "
            f"outputs, received the shape {labels.shape}."
        )
    labels = labels.reshape(-1, shape[-1]).astype("float64")
    if (labels < 0).any() or np.abs(labels.sum(axis=-1) - 1).max() > 1e-3:
        raise ValueError(f"`{name}` must hold probabilities that sum to 1 over the classes, such as one-hot labels.")
    return labels.argmax(axis=-1) if ((labels == 0) | (labels == 1)).all() else labels


def _yes_or_no(labels, shape, name):
    if labels.shape != shape and labels.size == np.prod(shape) and 1 in (shape[-1], labels.shape[-1]):
        labels = labels.reshape(shape)
    if labels.shape != shape:
        raise ValueError(f"`{name}` must have the shape of the outputs, {shape}, received: {labels.shape}.")
    if (labels < 0).any() or (labels > 1).any():
        raise ValueError(f"`{name}` must hold numbers in [0, 1] for a sigmoid, received others.")
    return labels.reshape(-1).astype("float64")


def weights_of(weights, positions, name):
    """Return a weight for each position, as `(n,)`."""
    if weights is None:
        return np.ones(int(np.prod(positions)))
    if weights.ndim > len(positions) and weights.shape[-1] == 1:
        weights = weights[..., 0]
    if weights.shape != positions[: weights.ndim]:
        raise ValueError(f"`{name}` must have the shape {positions}, or {positions[:1]}, received {weights.shape}.")
    if (weights < 0).any() or not np.isfinite(weights).all() or weights.sum() == 0:
        raise ValueError(f"`{name}` must be finite, non-negative and not all 0.")
    weights = weights.reshape(weights.shape + (1,) * (len(positions) - weights.ndim))
    return np.broadcast_to(weights, positions).reshape(-1).astype("float64")
