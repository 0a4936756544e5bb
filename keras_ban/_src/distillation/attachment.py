"""`Distiller.fit`'s arguments where the teacher's outputs were computed before: checked, and put into the data."""

import inspect

import keras

from keras_ban._src import checks
from keras_ban._src.data.batch import join_targets, split_targets, weights_like
from keras_ban._src.data.fingerprints import model_fingerprint
from keras_ban._src.data.pairing import ArrayRows, PairedDataset, ViewOfEpoch, size_of, split_at, take
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.targets.soft_targets import SoftTargets

_DATA_ARGUMENTS = ("x", "y", "sample_weight", "class_weight")


def attach(distiller, soft_targets, x, y, args, kwargs):
    """`fit`'s arguments, `(x, y, the others)`, with the soft targets in the data and weights as Keras wants them."""
    arguments = inspect.signature(keras.Model.fit).bind(distiller, x, y, *args, **kwargs).arguments
    x, y, weights, class_weight = (arguments.pop(name, None) for name in _DATA_ARGUMENTS)
    del arguments["self"]
    if soft_targets is not None:
        _check_stored(distiller, soft_targets, y)
    if checks.is_dataset(x):
        if class_weight is not None:
            raise ValueError(
                "`class_weight` does not go with a dataset and `soft_targets`: let the dataset yield "
                "`(x, y, sample_weight)`."
            )
        return _follow_epochs(x if soft_targets is None else soft_targets.pair(x), y, arguments)
    labels, in_y = split_targets(y)
    if soft_targets is not None:
        soft_targets.check(x)
    split = arguments.pop("validation_split", 0.0)
    if split and arguments.get("validation_data") is None:
        data = (x, labels, weights)
        at = split_at(size_of(x), split)
        (x, labels, weights), in_y = take(data, slice(0, at)), take(in_y, slice(0, at))
        arguments["validation_data"] = tuple(part for part in take(data, slice(at, None)) if part is not None)
        soft_targets = None if soft_targets is None else soft_targets[:at]
    if class_weight is not None:
        weights = checks.class_weights(labels, weights, class_weight)
    if soft_targets is not None and (soft_targets.views is not None or not soft_targets.in_memory):
        shuffle, batch_size = arguments.pop("shuffle", True), arguments.pop("batch_size", None) or 32
        arguments.setdefault("validation_batch_size", batch_size)
        x = ArrayRows((x, labels, weights), soft_targets, batch_size, shuffle)
        return _follow_epochs(x, None, {**arguments, "shuffle": False})
    y = join_targets(labels, in_y if soft_targets is None else soft_targets.batch(slice(None)))
    if weights is not None:
        # Keras wants weights in the structure of `y`; `compute_loss` takes those of the labels.
        arguments["sample_weight"] = {name: weights_like(weights, y[name]) for name in y}
    return x, y, arguments


def _follow_epochs(x, y, arguments):
    """The same arguments, with a callback that tells a dataset of several views the epoch."""
    if isinstance(x, (ArrayRows, PairedDataset)) and x.views is not None:
        arguments = with_callback(ViewOfEpoch(x), arguments)
    return x, y, arguments


def with_callback(callback, arguments):
    """`fit`'s arguments with one more callback, the first where they are a list."""
    callbacks = arguments.get("callbacks")
    if isinstance(callbacks, keras.callbacks.CallbackList):
        callbacks.append(callback)
        return arguments
    others = [] if callbacks is None else keras.tree.flatten(callbacks)
    return {**arguments, "callbacks": [callback, *others]}


def _check_stored(distiller, soft_targets, y):
    if not isinstance(soft_targets, SoftTargets):
        raise TypeError(
            "`soft_targets` must be `keras_ban.SoftTargets`, made by `SoftTargets.from_teacher(teacher, x)`, "
            f"received: {type(soft_targets).__name__}. Arrays of a teacher's outputs go into "
            "`y={'labels': y, 'soft_targets': array}`."
        )
    if split_targets(y)[1] is not None:
        raise ValueError("Both `soft_targets` and `y` bring soft targets: pass one of them.")
    if distiller.label_weight == 1:
        raise ValueError("`soft_targets` play no part with `label_weight=1`: leave them out.")
    teacher = distiller.teacher
    if teacher is not None and model_fingerprint(teacher) != soft_targets.teacher_fingerprint:
        raise ValueError(
            f"The soft targets were made by a teacher named {soft_targets.teacher_name!r} whose weights are not "
            f"those of this Distiller's teacher, {teacher.name!r}. Compute them with "
            "`SoftTargets.from_teacher(teacher, x)`, or build the Distiller without a teacher."
        )
    if keras.tree.is_nested(distiller.distillation_loss):
        raise ValueError("`soft_targets` are of one output, but `distillation_loss` is a list or dict of losses.")
    soft_targets.check_augmentation(distiller.augmentation)
    soft_targets.check_for(distiller.distillation_loss)
    soft_targets.check_content()
    outputs = getattr(distiller.student, "outputs", None)
    if outputs and len(outputs) == 1:
        examples, *shape = soft_targets.shape
        shape = shape if soft_targets.views is None else shape[1:]
        check_comparable(distiller.distillation_loss, keras.KerasTensor((examples, *shape)), outputs[0])
