"""Checks stored soft targets, and adds them to the training data."""

import keras

from keras_ban._src.data import fit_arguments
from keras_ban._src.data.model_inputs import is_fingerprint_of
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.targets.soft_targets import SoftTargets


def attach(data, options, soft_targets=None):
    """Return `(data, options)` of a `fit`: validation data split off, classes weighted, and soft targets in `y`."""
    if soft_targets is not None and data.yields_batches and options.get("class_weight") is not None:
        raise ValueError(
            "With a dataset and `soft_targets`, let the dataset yield `sample_weight` in place of `class_weight`."
        )
    data, options = fit_arguments.split_off(data, options)
    data, options = data.weighted(options)
    if soft_targets is None:
        return data, options
    if not data.yields_batches and len(data) < len(soft_targets):
        soft_targets = soft_targets[: len(data)]  # The rest belongs to the validation data.
    return data.with_soft_targets(soft_targets), options


def check_stored(distiller, soft_targets, data):
    """Raise an error if stored soft targets belong to other data or another teacher, or do not suit the loss."""
    if not isinstance(soft_targets, SoftTargets):
        raise TypeError(
            f"`soft_targets` must be `keras_ban.SoftTargets`, received: {type(soft_targets).__name__}. Pass an array "
            "of a teacher's outputs in `y={'labels': y, 'soft_targets': array}`."
        )
    if data.soft_targets is not None:
        raise ValueError("Both `soft_targets` and `y` bring soft targets: pass one of them.")
    if distiller.label_weight == 1:
        raise ValueError("`soft_targets` play no part with `label_weight=1`: leave them out.")
    teacher = distiller.teacher
    if teacher is not None and soft_targets.teacher_fingerprint is None:
        raise ValueError(
            f"The soft targets were made by a function, {soft_targets.teacher_name!r}, so that nothing tells whether "
            f"it is this Distiller's teacher, {teacher.name!r}. Leave `teacher` out: `Distiller(student=student)`."
        )
    if teacher is not None and not is_fingerprint_of(soft_targets.teacher_fingerprint, teacher):
        raise ValueError(
            f"The soft targets were made by a teacher named {soft_targets.teacher_name!r} whose weights, "
            f"preprocessor or temperature are not those of this Distiller's teacher, {teacher.name!r}. Compute them "
            "again, or leave `teacher` out."
        )
    if keras.tree.is_nested(distiller.distillation_loss):
        raise ValueError("`soft_targets` are of one output, but `distillation_loss` is a list or dict of losses.")
    soft_targets.check_augmentation(distiller.augmentation)
    soft_targets.check_for(distiller.distillation_loss)
    soft_targets.check_content()
    outputs = getattr(distiller.student, "outputs", None)
    if outputs and len(outputs) == 1:
        shape = soft_targets.shape[1 if soft_targets.views is None else 2 :]
        check_comparable(distiller.distillation_loss, keras.KerasTensor((None, *shape)), outputs[0])
    if not data.yields_batches:
        soft_targets.check(data.x)
