"""The meaning of a model's outputs, found once for all who ask."""

import warnings

import keras
import numpy as np

from keras_ban._src.losses import meaning
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.losses.meaning import LastLayer, Meaning
from keras_ban._src.losses.structure import for_each_output, targets_of


class Outputs:
    """What the outputs of a student and its teacher mean: for each, logits or probabilities, of what, along what axis.

    It is found out by the losses and by the last layers of the models, before anything is trained.

    Args:
        distillation_loss: a loss, or losses in dicts and lists, as in `Distiller`. `None`: no teacher is heard.
        label_loss: as in `keras.Model.compile`, or `None`.
        student, teacher: `keras.Model`s, or `None`.

    Attributes:
        names: of the student's flat outputs, by which values for them may be given; `None` where it has none.
        meaning: the `Meaning` of all outputs, if the distillation losses say it, and say the same; else `None`. Where
            no teacher is heard, the label losses say it.

    Raises:
        ValueError: there are distillation losses for other outputs than the student's.
    """

    def __init__(self, distillation_loss=None, label_loss=None, student=None, teacher=None):
        self.names = None if student is None else meaning.names_of(student)
        said_by = meaning.of_label_loss if distillation_loss is None else _of_outputs
        self.meaning = _common(said_by, label_loss if distillation_loss is None else distillation_loss)
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
        """`values`, nested as `compile` allows, as a list in the order of the flat outputs."""
        return for_each_output(values, outputs, self.names)

    def check_shapes(self):
        """Hold losses and output shapes together where they are known before any data is seen; a step does the rest."""
        theirs = meaning.outputs_of(self._teacher)
        if self._structure is None or theirs is None:
            return
        losses, outputs = self.for_each(self._distillation_loss, self._structure), keras.tree.flatten(self._structure)
        for loss, output, target in zip(losses, outputs, targets_of(theirs, self._structure), strict=True):
            if loss is not None:
                check_target(target, list(self._structure) if isinstance(self._structure, dict) else self.names)
                check_comparable(loss, target, output)

    def check(self):
        """Raise `ValueError` where two of losses and last layers contradict each other, and so cannot both be right.

        What passed is not looked at again.

        Warns:
            UserWarning: the label loss takes each output for a yes or a no, and the distillation loss for a class.
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
                    f"The label loss, {_name(label_loss)}, takes each output for a yes or a no of its own, but "
                    f"{_name(distillation_loss)} takes all of them for the classes of one softmax. For multi-label "
                    "models use `KnowledgeDistillation(activation='sigmoid')`.",
                    stacklevel=4,
                )
        self._checked = True

    def check_soft_targets(self, soft_targets, outputs):
        """Look at a first batch of soft targets.

        Args:
            soft_targets: arrays in the order of the flat outputs; `None` where there is none.
            outputs: the student's outputs, of which the structure counts.

        Raises:
            ValueError: they are broken, or no probabilities though the loss takes these; or the label loss and the
                distillation loss contradict each other, which is seen here of models that show no outputs before.

        Warns:
            UserWarning: they look like probabilities, and the loss takes logits.
        """
        losses, label_losses = self.for_each(self._distillation_loss, outputs), self._label_losses(outputs)
        for loss, label_loss, values in zip(losses, label_losses, soft_targets, strict=True):
            if loss is not None and values is not None:
                _check_values(loss, np.asarray(values, "float64"))
                _check_losses(label_loss, loss, np.ndim(values))

    def _parts(self):
        """For each output `(distillation loss, label loss, student's last layer, teacher's, rank)`, as far as known."""
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
        """The label losses in the order of the flat outputs; `None` for all where Keras pairs them in another way."""
        try:
            return self.for_each(self._label_loss, outputs)
        except ValueError:
            return [None] * len(keras.tree.flatten(outputs))


def check_distillation_loss(loss):
    """Raise where a distillation loss, or one of several, is no loss of soft targets."""
    losses = [each for each in keras.tree.flatten(loss) if each is not None]
    for each in losses:
        if not isinstance(each, (keras.losses.Loss, keras.distillation.DistillationLoss)):
            raise TypeError(
                "`distillation_loss` must be a `keras.losses.Loss` instance, such as "
                "`keras_ban.losses.KnowledgeDistillation()`, a `keras.distillation.DistillationLoss`, or a list or "
                f"dict of them for several outputs, received: {each!r}."
            )
        if type(each) is keras.losses.SparseCategoricalCrossentropy:
            raise ValueError(
                "`distillation_loss` is a `SparseCategoricalCrossentropy`, which takes the numbers of classes, and a "
                "teacher gives probabilities or logits. Use `keras_ban.losses.KnowledgeDistillation()`."
            )
    if not losses:
        raise ValueError("`distillation_loss` is None for every output. To train on labels alone use `label_weight=1`.")


def check_stored(loss, from_logits):
    """Raise `ValueError` where soft targets that were stored, logits or probabilities, are not what a loss takes."""
    takes, of_keras = meaning.of_distillation_loss(loss)[0].from_logits, meaning.crossentropy_name(loss)
    if not _differ(takes, from_logits):
        return
    other = "KnowledgeDistillation" if of_keras else type(loss).__name__
    raise ValueError(
        f"The teacher gave {'logits' if from_logits else 'probabilities'}, but the distillation loss "
        + (f"{_name(loss)} takes probabilities. " if of_keras else f"has from_logits={takes}. ")
        + f"Use `{other}(from_logits={from_logits})`; or, if its outputs were mistaken, "
        f"`SoftTargets.from_teacher(..., from_logits={takes})`."
    )


def check_target(target, names):
    """Raise `ValueError` where the teacher has nothing to say of an output that has a loss."""
    if target is None:
        raise ValueError(f"The teacher lacks one of the student's outputs, {names}, that has a loss.")


def _of_outputs(distillation_loss):
    return meaning.of_distillation_loss(distillation_loss)[1]


def _common(said_by, losses):
    """What all losses say alike; `None` where one says nothing, or something else."""
    found = {said_by(loss) for loss in keras.tree.flatten(losses)}
    common = found.pop()
    return None if found or None in (common.from_logits, common.activation) else common


def _check_layer(argument, loss, said, role, layer, rank):
    """Raise where a loss takes what a last layer does not give."""
    given = layer.meaning
    if loss is None or layer.name is None:
        return
    takes_softmax_of_sigmoid = (said.activation, given.activation) == ("softmax", "sigmoid")
    if _differ(said.from_logits, given.from_logits) or (argument == "distillation_loss" and takes_softmax_of_sigmoid):
        raise ValueError(
            f"`{argument}` contradicts the {role}: {_takes(loss, said)}, but the last layer of the {role}, "
            f"{layer.name!r}, gives {_kind(given)}. {_advice(loss, said, given, role)}"
        )
    if _axes_differ(said.axis, given.axis, rank):
        raise ValueError(
            f"`{argument}` contradicts the {role}: {_name(loss)} takes classes along axis={said.axis}, but the last "
            f"layer of the {role}, {layer.name!r}, is a softmax along axis={given.axis}. {_CLASSES_LAST}"
        )


def _check_losses(label_loss, distillation_loss, rank):
    """Raise where the two losses take the student's outputs for different things."""
    labels, outputs = meaning.of_label_loss(label_loss), _of_outputs(distillation_loss)
    if _differ(labels.from_logits, outputs.from_logits):
        raise ValueError(
            f"`loss` contradicts `distillation_loss`: {_takes(label_loss, labels)}, but "
            f"{_takes(distillation_loss, outputs)}, and both are given the student's outputs. Pass the same "
            "`from_logits` to both: True if the student gives logits, False if it ends in a softmax or sigmoid."
        )
    if _axes_differ(labels.axis, outputs.axis, rank):
        raise ValueError(
            f"`loss` contradicts `distillation_loss`: {_name(label_loss)} takes classes along axis={labels.axis}, but "
            f"{_name(distillation_loss)} along axis={outputs.axis}. {_CLASSES_LAST}"
        )


_CLASSES_LAST = (
    "The losses of keras_ban take classes along the last axis: let the models give them there (`keras.layers.Permute` "
    "moves an axis), and leave `axis` out; or take a distillation loss that has an `axis`, such as "
    "`keras.losses.CategoricalCrossentropy`."
)


def _differ(one, other):
    return None not in (one, other) and one != other


def _axes_differ(one, other, rank):
    if None in (one, other) or (rank is None and (one < 0) != (other < 0)):
        return False
    return one != other if rank is None else one % rank != other % rank


def _name(loss):
    if isinstance(loss, str):
        return f"`{loss!r}`"
    return f"`{loss.__name__ if callable(loss) and hasattr(loss, '__name__') else type(loss).__name__}`"


def _takes(loss, said):
    return f"{_name(loss)} takes {'logits' if said.from_logits else 'probabilities'} (`from_logits={said.from_logits}`)"


def _kind(given):
    if given.from_logits:
        return "logits" if given.activation else "no probabilities, as it has no activation"
    return f"probabilities of a {given.activation}"


def _advice(loss, said, given, role):
    if meaning.crossentropy_name(loss) is not None and role == "teacher":
        return (
            "Use `keras_ban.losses.KnowledgeDistillation()`, which takes logits, or a teacher that ends in a softmax."
        )
    name, arguments = meaning.crossentropy_name(loss) or type(loss).__name__, f"from_logits={given.from_logits}"
    if (said.activation, given.activation) == ("softmax", "sigmoid") and meaning.crossentropy_name(loss) is None:
        name, arguments = "KnowledgeDistillation", f"activation='sigmoid', {arguments}"
    layer = "an activation" if given.from_logits else f"the {given.activation}"
    with_layer = f"with {layer}" if given.from_logits else f"without {layer}"
    return f"Use `{name}({arguments})`, or a {role} {with_layer}."


def _check_values(loss, values):
    targets, _ = meaning.of_distillation_loss(loss)
    if not np.isfinite(values[~np.isneginf(values)]).all():
        raise ValueError(
            "The teacher's outputs on the first batch hold NaN or inf: it has nothing to teach. Was it trained to the "
            "end, and is `x` free of NaN and scaled as it was for the teacher?"
        )
    if targets.from_logits is None:
        return
    looks_like_probabilities = bool(((values >= -1e-6) & (values <= 1 + 1e-6)).all())
    if targets.activation != "sigmoid":
        axis = -1 if targets.axis is None else targets.axis
        looks_like_probabilities &= bool(np.allclose(values.sum(axis=axis), 1.0, atol=2e-2))
    if targets.from_logits and looks_like_probabilities:
        warnings.warn(
            "The teacher's outputs on the first batch look like probabilities, but the distillation loss takes logits "
            "(`from_logits=True`): a softmax of probabilities teaches next to nothing. If the models end in a softmax "
            f"or a sigmoid, use `{type(loss).__name__}(from_logits=False)`.",
            stacklevel=6,
        )
    if not targets.from_logits and not looks_like_probabilities:
        hint = "If the models give logits, use `from_logits=True`."
        if meaning.crossentropy_name(loss) is not None:
            hint = _advice(loss, targets, Meaning(True), "teacher")
        raise ValueError(
            "The distillation loss takes probabilities (`from_logits=False`), but the teacher's outputs on the first "
            f"batch are none: they range from {values.min():.4g} to {values.max():.4g}. {hint}"
        )
