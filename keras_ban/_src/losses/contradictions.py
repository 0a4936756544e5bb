"""Contradictions between losses and last layers, found before training."""

import warnings

import keras
import numpy as np

from keras_ban._src.data.labels import is_of_keras
from keras_ban._src.losses import meaning
from keras_ban._src.losses.base import SoftTargetLoss, check_comparable
from keras_ban._src.losses.keras_distillation import cannot_act, is_of_keras_distillation
from keras_ban._src.losses.meaning import Meaning

_OF_BOTH = "`keras_ban.losses.KnowledgeDistillation()`, which reads what each model gives"


def check_resolved(resolved, checks_labels):
    """Raise `ValueError` if losses and last layers of one output contradict each other.

    `resolved` is a `Resolved` loss. `checks_labels` is whether the label loss counts.
    """
    output, loss = resolved.output, resolved.loss
    if loss is None:
        return
    if output.shape is not None and resolved.axis is None:
        check_comparable(loss, output, output, output.labels.activation == meaning.LINEAR)
    if resolved.ignore_class is not None and is_of_keras_distillation(loss):
        raise ValueError(cannot_act(loss, "the `ignore_class` of the label loss"))
    targets, outputs = resolved.taken, resolved.outputs
    if _takes_logits(loss):
        targets = outputs = Meaning(True, "softmax", -1)
    _check_layer("distillation_loss", loss, outputs, "student", output)
    _check_layer("distillation_loss", loss, targets, "teacher", output, resolved.converts)
    if checks_labels:
        _check_layer("loss", output.label_loss, output.labels, "student", output)
        check_losses(resolved)
    _check_same_form(loss, targets, output)


def doubt_about_classes(resolved):
    """Return a sentence if the label loss needs yes-or-no outputs, and the distillation loss classes; else `None`."""
    output = resolved.output
    ends_in_softmax = "softmax" in (output.student.meaning.activation, output.teacher.meaning.activation)
    if ends_in_softmax or (output.labels.activation, resolved.outputs.activation) != ("sigmoid", "softmax"):
        return None
    return (
        f"{_name(output.label_loss)} takes each output for a yes or a no of its own, but {_name(resolved.loss)} takes "
        "them for the classes of one softmax. For multi-label models use `KnowledgeDistillation(activation='sigmoid')`."
    )


def check_values(resolved, values):
    """Raise `ValueError` if soft targets of a first batch are not what the loss takes. Warn if they look like it.

    As `Outputs.check_soft_targets`.
    """
    values = np.asarray(values, "float64")
    if not np.isfinite(values[~np.isneginf(values)]).all():
        raise ValueError(
            "The teacher's outputs on the first batch hold NaN or inf. Check that it is trained, and that `x` holds no "
            "NaN and is scaled as in its training."
        )
    if resolved.taken.from_logits is None or resolved.given is None:
        return
    axis = resolved.taken.axis if resolved.axis is None else resolved.axis
    looks_like_probabilities = look_like_probabilities(values, resolved.taken.activation, axis)
    if resolved.given and looks_like_probabilities and resolved.output.teacher.meaning.from_logits is None:
        name = type(resolved.loss).__name__
        warnings.warn(
            "The teacher's outputs on the first batch look like probabilities, but the distillation loss takes logits. "
            f"If the models end in a softmax or a sigmoid, use `{name}(from_logits=False)`. If only the teacher does, "
            "pass the logarithm of its outputs.",
            stacklevel=6,
        )
    if not resolved.given and not looks_like_probabilities:
        of_keras = meaning.crossentropy_name(resolved.loss) or meaning.is_divergence(resolved.loss)
        hint = f"Use {_OF_BOTH}." if of_keras else "For logits use `from_logits=True`."
        raise ValueError(
            "The distillation loss takes probabilities (`from_logits=False`), but the teacher's outputs on the first "
            f"batch are not: they range from {values.min():.4g} to {values.max():.4g}. {hint}"
        )


def look_like_probabilities(values, activation, axis=None):
    """Return whether all values are in [0, 1], and add up to 1 over an axis (unless they are of sigmoids)."""
    values = np.asarray(values, "float64")
    in_range = bool(((values >= -1e-6) & (values <= 1 + 1e-6)).all())
    if activation == "sigmoid":
        return in_range
    return in_range and bool(np.allclose(values.sum(axis=-1 if axis is None else axis), 1.0, atol=2e-2))


def logits_or_probabilities(from_logits):
    return "logits" if from_logits else "probabilities"


def differ(one, other):
    return None not in (one, other) and one != other


def _takes_logits(loss):
    """Whether it is Keras's loss of logits, if it applies a softmax: it does to a divergence alone."""
    of_logits = isinstance(loss, keras.distillation.LogitsDistillation)
    return of_logits and any(isinstance(each, keras.losses.KLDivergence) for each in keras.tree.flatten(loss.loss))


def _check_layer(argument, loss, said, role, output, any_form=False):
    """Raise an error if a last layer does not give what a loss takes. With `any_form`, logits may be probabilities."""
    layer = getattr(output, role)
    given = layer.meaning
    if loss is None or layer.name is None:
        return
    takes_softmax_of_sigmoid = (said.activation, given.activation) == ("softmax", "sigmoid")
    other_form = differ(said.from_logits, given.from_logits) and not any_form
    if other_form or (argument == "distillation_loss" and takes_softmax_of_sigmoid):
        raise ValueError(
            f"`{argument}` contradicts the {role}: {_takes(loss, said)}, but the last layer of the {role}, "
            f"{layer.name!r}, gives {_kind(given)}. {_advice(argument, loss, said, given, role)}"
        )
    softmax = f"the last layer of the {role}, {layer.name!r}, is a softmax"
    _check_axes(f"`{argument}` contradicts the {role}: {_name(loss)}", said.axis, softmax, given.axis, output.rank)


def check_losses(resolved, rank=None):
    """Raise an error if the two losses need different outputs of the student. `rank` is that of the outputs."""
    label_loss, loss, outputs = resolved.output.label_loss, resolved.loss, resolved.outputs
    labels = resolved.output.labels
    if differ(labels.from_logits, outputs.from_logits):
        raise ValueError(
            f"`loss` contradicts `distillation_loss`: {_takes(label_loss, labels)}, but {_takes(loss, outputs)}. Leave "
            "`from_logits` of the distillation loss out, or pass the same to both: True if the student gives logits, "
            "False if it ends in a softmax or sigmoid."
        )
    name = f"`loss` contradicts `distillation_loss`: {_name(label_loss)}"
    _check_axes(name, labels.axis, _name(loss), outputs.axis, rank or resolved.output.rank)


def _check_same_form(loss, targets, output):
    """Raise an error if a loss compares outputs as they are, and one model gives logits, the other probabilities."""
    student, teacher = output.meaning.from_logits, output.teacher.meaning.from_logits
    as_they_are = is_of_keras(loss) or is_of_keras_distillation(loss)
    if targets.from_logits is not None or not as_they_are or not differ(student, teacher):
        return
    if output.labels.from_logits is None:
        return  # An output without an activation may be a probability.
    raise ValueError(
        f"`distillation_loss` contradicts the models: {_name(loss)} compares outputs as they are, but the student "
        f"gives {logits_or_probabilities(student)} and the teacher {logits_or_probabilities(teacher)}. Use {_OF_BOTH}."
    )


def _check_axes(loss, axis, other, other_axis, rank):
    """Raise an error if the axes of two softmaxes differ. `rank` is that of the outputs, or `None`."""
    if rank is not None and None not in (axis, other_axis):
        is_other = axis % rank != other_axis % rank
    else:
        is_other = differ(axis, other_axis) and (axis < 0) == (other_axis < 0)
    if is_other:
        raise ValueError(
            f"{loss} takes classes along axis={axis}, but {other} along axis={other_axis}. Use "
            "`keras_ban.losses.KnowledgeDistillation()` without `from_logits`, which reads the axis too, or move the "
            "classes to the last axis (`keras.layers.Permute`)."
        )


def _name(loss):
    if isinstance(loss, str):
        return f"`{loss!r}`"
    return f"`{loss.__name__ if callable(loss) and hasattr(loss, '__name__') else type(loss).__name__}`"


def _takes(loss, said):
    return f"{_name(loss)} takes {logits_or_probabilities(said.from_logits)} (`from_logits={said.from_logits}`)"


def _kind(given):
    if given.from_logits:
        return "logits" if given.activation else "no probabilities, as it has no activation"
    return f"probabilities of a {given.activation}"


def _advice(argument, loss, said, given, role):
    of_keras = meaning.crossentropy_name(loss)
    change = f"a {role} {'with an activation' if given.from_logits else f'without the {given.activation}'}"
    if argument == "distillation_loss" and (said.activation, given.activation) == ("softmax", "sigmoid"):
        return f"Use `KnowledgeDistillation(activation='sigmoid', from_logits={given.from_logits})`, or {change}."
    if argument == "distillation_loss" and isinstance(loss, SoftTargetLoss):
        return f"Use `{type(loss).__name__}()` without `from_logits`, which reads what each model gives, or {change}."
    if meaning.is_divergence(loss) and argument == "loss":
        return f"Use `CategoricalCrossentropy(from_logits={given.from_logits})`, or {change}."
    if of_keras is None or role == "teacher":
        return f"Use {_OF_BOTH}, or {change}."
    return f"Use `{of_keras}(from_logits={given.from_logits})`, or {change}."
