"""The outputs of student and teacher: their meaning, and whether losses and models agree about it."""

import warnings

import keras
import numpy as np

from keras_ban._src.losses import meaning
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.losses.meaning import LastLayer, Meaning
from keras_ban._src.losses.structure import for_each_output, targets_of


class Outputs:
    """Compares the losses with the last layers of student and teacher, before training.

    Args:
        distillation_loss: as in `Distiller`. `None` without a teacher.
        label_loss: as in `keras.Model.compile`, or `None`.
        student, teacher: `keras.Model`s, or `None`.

    Attributes:
        names: the names of the student's flat outputs, or `None`.
        meaning: the `Meaning` of all outputs, according to the distillation losses (without any, to the label losses).
            `None` if they do not tell, or differ.
    """

    def __init__(self, distillation_loss=None, label_loss=None, student=None, teacher=None):
        self.names = None if student is None else meaning.names_of(student)
        if distillation_loss is None:
            self.meaning = _common([meaning.of_label_loss(loss) for loss in keras.tree.flatten(label_loss)])
        else:
            self.meaning = _common([_of_outputs(loss) for loss in keras.tree.flatten(distillation_loss)])
        self._distillation_loss, self._label_loss = distillation_loss, label_loss
        self._student, self._teacher = student, teacher
        self._structure = meaning.outputs_of(student)
        self._checked = False
        if self._structure is not None:
            try:
                self.for_each(distillation_loss, self._structure)
            except ValueError as error:
                raise ValueError(f"`distillation_loss` does not fit the student's outputs. {error}") from None

    def for_each(self, values, outputs):
        """Return `values`, nested as in `compile`, as a list in the order of the flat outputs."""
        return for_each_output(values, outputs, self.names)

    def check_shapes(self):
        """Raise an error if the shapes of soft targets and outputs differ, as far as they are known without data."""
        theirs = meaning.outputs_of(self._teacher)
        if self._structure is None or theirs is None:
            return
        losses, outputs = self.for_each(self._distillation_loss, self._structure), keras.tree.flatten(self._structure)
        for loss, output, target in zip(losses, outputs, targets_of(theirs, self._structure), strict=True):
            if loss is not None:
                self.check_target(target, self._structure)
                check_comparable(loss, _of_any_batch(target), _of_any_batch(output))

    def check_target(self, target, outputs):
        """Raise an error if the soft targets of an output with a loss are `None`."""
        if target is None:
            names = list(outputs) if isinstance(outputs, dict) else self.names
            raise ValueError(f"The teacher lacks one of the student's outputs, {names}, that has a loss.")

    def check(self):
        """Raise `ValueError` if losses and last layers contradict each other. A passed check is not repeated.

        Warn if the label loss needs yes-or-no outputs, and the distillation loss classes.
        """
        if self._checked:
            return
        for distillation_loss, label_loss, student, teacher, rank in self._parts():
            if distillation_loss is None:
                continue
            targets, outputs = meaning.of_distillation_loss(distillation_loss)
            labels = meaning.of_label_loss(label_loss)
            _check_layer("distillation_loss", distillation_loss, outputs, "student", student, rank)
            _check_layer("distillation_loss", distillation_loss, targets, "teacher", teacher, rank)
            _check_layer("loss", label_loss, labels, "student", student, rank)
            _check_losses(label_loss, distillation_loss, rank)
            ends_in_softmax = "softmax" in (student.meaning.activation, teacher.meaning.activation)
            if (labels.activation, outputs.activation) == ("sigmoid", "softmax") and not ends_in_softmax:
                warnings.warn(
                    f"{_name(label_loss)} takes each output for a yes or a no of its own, but "
                    f"{_name(distillation_loss)} takes them for the classes of one softmax. For multi-label models use "
                    "`KnowledgeDistillation(activation='sigmoid')`.",
                    stacklevel=4,
                )
        self._checked = True

    def check_soft_targets(self, soft_targets, outputs):
        """Check the soft targets of a first batch, arrays in the order of the flat outputs, or `None`.

        Raise `ValueError` if they hold NaN or inf, or no probabilities although the loss needs them, or if the two
        losses contradict each other (`check` cannot see this if outputs are not known). Warn if they look like
        probabilities and the loss needs logits.
        """
        losses, label_losses = self.for_each(self._distillation_loss, outputs), self._label_losses(outputs)
        for loss, label_loss, values in zip(losses, label_losses, soft_targets, strict=True):
            if loss is not None and values is not None:
                _check_values(loss, np.asarray(values, "float64"))
                _check_losses(label_loss, loss, np.ndim(values))

    def _parts(self):
        """Return `(distillation loss, label loss, student's last layer, teacher's, rank)` of each known output."""
        layers = [LastLayer() if each is None else meaning.of_model(each) for each in (self._student, self._teacher)]
        if self._structure is None:
            parts = (self._distillation_loss, self._label_loss, *layers)
            return [] if any(keras.tree.is_nested(part) for part in parts) else [(*parts, None)]
        ranks = [len(output.shape) for output in keras.tree.flatten(self._structure)]
        student, teacher = layers
        pair = targets_of if keras.tree.is_nested(teacher) else self.for_each
        return zip(
            self.for_each(self._distillation_loss, self._structure),
            self._label_losses(self._structure),
            self.for_each(student, self._structure),
            [layer or LastLayer() for layer in pair(teacher, self._structure)],
            ranks,
            strict=True,
        )

    def _label_losses(self, outputs):
        """Return the label losses in the order of the flat outputs, all `None` if Keras pairs them in another way."""
        try:
            return self.for_each(self._label_loss, outputs)
        except ValueError:
            return [None] * len(keras.tree.flatten(outputs))


def check_distillation_loss(loss):
    """Raise an error if a distillation loss, or one of several, cannot compare soft targets."""
    losses = [each for each in keras.tree.flatten(loss) if each is not None]
    for each in losses:
        if not isinstance(each, (keras.losses.Loss, keras.distillation.DistillationLoss)):
            raise TypeError(
                "`distillation_loss` must be a `keras.losses.Loss` instance, a `keras.distillation.DistillationLoss`, "
                f"or a list or dict of them for several outputs, received: {each!r}."
            )
        if type(each) is keras.losses.SparseCategoricalCrossentropy:
            raise ValueError(
                "`SparseCategoricalCrossentropy` takes the numbers of classes, but a teacher gives probabilities or "
                "logits. Use `distillation_loss=keras_ban.losses.KnowledgeDistillation()`."
            )
    if not losses:
        raise ValueError("`distillation_loss` is None for every output. To train on labels alone use `label_weight=1`.")


def check_stored(loss, from_logits):
    """Raise `ValueError` if stored soft targets are logits and the loss needs probabilities, or vice versa."""
    takes = meaning.of_distillation_loss(loss)[0].from_logits
    if _differ(takes, from_logits):
        name = "KnowledgeDistillation" if meaning.crossentropy_name(loss) else type(loss).__name__
        raise ValueError(
            f"The teacher gave {_logits_or_probabilities(from_logits)}, but the distillation loss has "
            f"from_logits={takes} for soft targets. Use `{name}(from_logits={from_logits})`. If they really are "
            f"{_logits_or_probabilities(takes)}, use `SoftTargets.from_teacher(..., from_logits={takes})`."
        )


def _of_outputs(distillation_loss):
    return meaning.of_distillation_loss(distillation_loss)[1]


def _common(meanings):
    """Return the `Meaning`, if all are equal and known. Else `None`."""
    first = meanings[0]
    return None if len(set(meanings)) > 1 or None in (first.from_logits, first.activation) else first


def _check_layer(argument, loss, said, role, layer, rank):
    """Raise an error if a last layer does not give what a loss takes."""
    given = layer.meaning
    if loss is None or layer.name is None:
        return
    takes_softmax_of_sigmoid = (said.activation, given.activation) == ("softmax", "sigmoid")
    if _differ(said.from_logits, given.from_logits) or (argument == "distillation_loss" and takes_softmax_of_sigmoid):
        raise ValueError(
            f"`{argument}` contradicts the {role}: {_takes(loss, said)}, but the last layer of the {role}, "
            f"{layer.name!r}, gives {_kind(given)}. {_advice(loss, said, given, role)}"
        )
    softmax = f"the last layer of the {role}, {layer.name!r}, is a softmax"
    _check_axes(f"`{argument}` contradicts the {role}: {_name(loss)}", said.axis, softmax, given.axis, rank)


def _check_losses(label_loss, distillation_loss, rank):
    """Raise an error if the two losses need different outputs of the student."""
    labels, outputs = meaning.of_label_loss(label_loss), _of_outputs(distillation_loss)
    if _differ(labels.from_logits, outputs.from_logits):
        raise ValueError(
            f"`loss` contradicts `distillation_loss`: {_takes(label_loss, labels)}, but "
            f"{_takes(distillation_loss, outputs)}. Pass the same `from_logits` to both: True if the student gives "
            "logits, False if it ends in a softmax or sigmoid."
        )
    loss = f"`loss` contradicts `distillation_loss`: {_name(label_loss)}"
    _check_axes(loss, labels.axis, _name(distillation_loss), outputs.axis, rank)


def _check_axes(loss, axis, other, other_axis, rank):
    """Raise an error if the axes of two softmaxes differ. `rank` is that of the outputs, or `None`."""
    if rank is not None and None not in (axis, other_axis):
        differ = axis % rank != other_axis % rank
    else:
        differ = _differ(axis, other_axis) and (axis < 0) == (other_axis < 0)
    if differ:
        raise ValueError(
            f"{loss} takes classes along axis={axis}, but {other} along axis={other_axis}. Move the classes to the "
            "last axis (`keras.layers.Permute`), or use a distillation loss with an `axis`, such as "
            "`keras.losses.CategoricalCrossentropy`."
        )


def _differ(one, other):
    return None not in (one, other) and one != other


def _name(loss):
    if isinstance(loss, str):
        return f"`{loss!r}`"
    return f"`{loss.__name__ if callable(loss) and hasattr(loss, '__name__') else type(loss).__name__}`"


def _takes(loss, said):
    return f"{_name(loss)} takes {_logits_or_probabilities(said.from_logits)} (`from_logits={said.from_logits}`)"


def _logits_or_probabilities(from_logits):
    return "logits" if from_logits else "probabilities"


def _kind(given):
    if given.from_logits:
        return "logits" if given.activation else "no probabilities, as it has no activation"
    return f"probabilities of a {given.activation}"


def _advice(loss, said, given, role):
    of_keras = meaning.crossentropy_name(loss)
    if of_keras and role == "teacher":
        return "Use `keras_ban.losses.KnowledgeDistillation()`, which takes logits, or a teacher with a softmax."
    name, arguments = of_keras or type(loss).__name__, f"from_logits={given.from_logits}"
    if not of_keras and (said.activation, given.activation) == ("softmax", "sigmoid"):
        name, arguments = "KnowledgeDistillation", f"activation='sigmoid', {arguments}"
    change = "with an activation" if given.from_logits else f"without the {given.activation}"
    return f"Use `{name}({arguments})`, or a {role} {change}."


def _of_any_batch(output):
    """Return a symbolic output without its batch size. A model that was built by a batch has the size of that batch."""
    return keras.KerasTensor((None, *output.shape[1:]), output.dtype)


def _check_values(loss, values):
    targets, _ = meaning.of_distillation_loss(loss)
    if not np.isfinite(values[~np.isneginf(values)]).all():
        raise ValueError(
            "The teacher's outputs on the first batch hold NaN or inf. Check that it is trained, and that `x` holds no "
            "NaN and is scaled as in its training."
        )
    if targets.from_logits is None:
        return
    looks_like_probabilities = bool(((values >= -1e-6) & (values <= 1 + 1e-6)).all())
    if targets.activation != "sigmoid":
        axis = -1 if targets.axis is None else targets.axis
        looks_like_probabilities &= bool(np.allclose(values.sum(axis=axis), 1.0, atol=2e-2))
    if targets.from_logits and looks_like_probabilities:
        warnings.warn(
            "The teacher's outputs on the first batch look like probabilities, but the distillation loss takes logits. "
            f"If the models end in a softmax or a sigmoid, use `{type(loss).__name__}(from_logits=False)`.",
            stacklevel=6,
        )
    if not targets.from_logits and not looks_like_probabilities:
        of_keras = meaning.crossentropy_name(loss)
        hint = _advice(loss, targets, Meaning(True), "teacher") if of_keras else "For logits use `from_logits=True`."
        raise ValueError(
            "The distillation loss takes probabilities (`from_logits=False`), but the teacher's outputs on the first "
            f"batch are not: they range from {values.min():.4g} to {values.max():.4g}. {hint}"
        )
