"""The distillation loss of each output: chosen, and told what teacher and student give, before training."""

import dataclasses

import keras
from keras import ops

from keras_ban._src.losses import meaning
from keras_ban._src.losses.base import AUTO, SoftTargetLoss, as_logits, in_rank, in_shape_of
from keras_ban._src.losses.knowledge_distillation import KnowledgeDistillation
from keras_ban._src.losses.masks import mask_of, with_mask
from keras_ban._src.losses.meaning import LINEAR, LastLayer, Meaning
from keras_ban._src.losses.precision import in_widest, precision

#: In the place of a distillation loss: choose one by the meaning of the output.
CHOOSE = "choose"
_UNKNOWN = Meaning()


@dataclasses.dataclass(frozen=True)
class Output:
    """What is known of one output before training.

    Attributes:
        distillation_loss: a loss, `None` for an output without distillation, or `CHOOSE`.
        label_loss: as in `compile`, or `None`.
        student, teacher: the `LastLayer`s.
        teacher_loss: the label loss with which the teacher was trained, or `None`.
        shape: the shape of the student's output, or `None`.
    """

    distillation_loss: object
    label_loss: object
    student: LastLayer
    teacher: LastLayer
    teacher_loss: object
    shape: tuple | None

    @property
    def rank(self):
        return None if self.shape is None else len(self.shape)

    @property
    def labels(self):
        """The `Meaning` according to the label loss."""
        labels = meaning.of_label_loss(self.label_loss)
        if isinstance(self.label_loss, str) and labels == Meaning(False) and self.shape is not None:
            # Keras chooses between binary and categorical crossentropy by the size of the output.
            return Meaning(False, "sigmoid") if self.shape[-1] == 1 else Meaning(False, "softmax", -1)
        return labels

    @property
    def meaning(self):
        """The `Meaning` of the student's output: that of its last layer, else that of the label loss.

        Outputs of a sigmoid are the values of a regression if the label loss is one.
        """
        layer, labels = self.student.meaning, self.labels
        if LINEAR == labels.activation and layer.activation != "softmax":
            return labels
        known = layer.completed_by(labels)
        is_last = None not in (known.axis, self.rank) and known.axis % self.rank == self.rank - 1
        return dataclasses.replace(known, axis=-1) if is_last else known

    @property
    def meaning_of_teacher(self):
        """The `Meaning` of the teacher's output: that of its last layer, else that of the loss it is compiled with."""
        return self.teacher.meaning.completed_by(meaning.of_label_loss(self.teacher_loss))


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The distillation loss of one output, and how it gets soft targets and outputs.

    Attributes:
        loss: the loss, or `None`.
        output: the `Output` of which it is.
        taken: the `Meaning` of the soft targets that the loss compares.
        outputs: the `Meaning` of the student's outputs that it compares.
        given: whether soft targets come as logits; `None` if that is not known.
        axis: the axis of the classes, which is moved to the last place, or `None`.
        ignore_class: the label of examples that do not count, or `None`.
        assumptions: sentences about what is not known, and was assumed.
    """

    loss: object
    output: Output
    taken: Meaning = _UNKNOWN
    outputs: Meaning = _UNKNOWN
    given: bool | None = None
    axis: int | None = None
    ignore_class: int | None = None
    assumptions: tuple = ()

    @property
    def converts(self):
        """Whether soft targets of another form than the loss compares are converted."""
        return converts(self.loss)

    @property
    def form(self):
        """What a compiled step depends on."""
        return self.given, self.taken, self.axis, self.ignore_class

    def prepared(self, labels, target, output, sample_weight, marks=None, labeled=None):
        """Return `(labels, soft targets, outputs, sample weights)` as the loss takes them.

        `marks` are the labels of which some mark examples that do not count, or `None`. `labeled` is 1 for each example
        with a label, else 0, `(batch,)`; `None` if all have one.
        """
        taken = self.taken
        if self.axis is not None and self.axis % len(output.shape) < len(output.shape) - 1:
            taken = dataclasses.replace(taken, axis=-1)
            if labels is not None and len(labels.shape) == len(output.shape):
                labels = ops.moveaxis(labels, self.axis, -1)
            mask = mask_of(output)
            target, output = ops.moveaxis(target, self.axis, -1), ops.moveaxis(output, self.axis, -1)
            output = output if mask is None else with_mask(output, mask)
        if self.converts:
            target = convert(target, self.given, taken)
        if self.ignore_class is None or marks is None:
            return labels, target, output, sample_weight
        counted = _counted(marks, self.ignore_class, output)
        rank = len(counted.shape)
        if labels is not None:
            labels = ops.reshape(labels, ops.shape(counted))
            labels = ops.where(counted, labels, ops.zeros_like(labels))
        if labeled is not None:
            counted = ops.logical_or(counted, in_rank(ops.logical_not(ops.cast(labeled, "bool")), rank))
        mask = mask_of(output)
        counted = counted if mask is None else ops.logical_and(counted, in_rank(ops.cast(mask, "bool"), rank))
        if sample_weight is not None:
            sample_weight = in_shape_of(sample_weight, counted)
        # A copy, because the mask is an attribute of the tensor, which others see as well.
        return labels, target, with_mask(ops.copy(output), counted), sample_weight


def converts(loss):
    """Return whether soft targets of another form than a loss compares can be converted.

    So it is for a loss of this package that reads the models, and for crossentropies and the divergence of Keras, whose
    `from_logits` is about the outputs alone.
    """
    if isinstance(loss, SoftTargetLoss):
        return loss.reads_models
    return meaning.crossentropy_name(loss) is not None or meaning.is_divergence(loss)


def convert(targets, given, taken):
    """Convert soft targets from logits (`given`) or probabilities to the form of the `Meaning` `taken`."""
    if None in (given, taken.from_logits) or given == taken.from_logits:
        return targets
    targets = ops.convert_to_tensor(targets)
    targets, _ = in_widest(targets, ops.zeros((), precision()))
    if given:
        return ops.sigmoid(targets) if taken.activation == "sigmoid" else ops.softmax(targets, axis=taken.axis or -1)
    logits = as_logits(targets, False, taken.activation)
    return logits[..., 0] - logits[..., 1] if taken.activation == "sigmoid" else logits


def resolve(output, stored=None):
    """Return the `Resolved` loss of an `Output`.

    `stored` is the form of stored soft targets: `True` for logits, or `None` if the teacher runs.

    Raises:
        ValueError: no loss can be chosen.
    """
    loss, assumptions = output.distillation_loss, []
    if loss is None:
        return Resolved(None, output)
    if loss is CHOOSE:
        loss = _choose(output, assumptions)
    axis = None
    if isinstance(loss, SoftTargetLoss) and loss.reads_models:
        if loss.from_logits == AUTO:
            loss = loss.resolved(_from_logits(output, assumptions))
        axis = output.meaning.axis if loss.activation == "softmax" and output.meaning.axis != -1 else None
    taken, outputs = meaning.of_distillation_loss(loss)
    if axis is not None:
        taken, outputs = (dataclasses.replace(each, axis=axis) for each in (taken, outputs))
    known = stored if stored is not None else output.meaning_of_teacher.from_logits
    given = taken.from_logits if known is None else known
    ignored = getattr(output.label_loss, "ignore_class", None)
    return Resolved(loss, output, taken, outputs, given, axis, ignored, tuple(assumptions))


def _choose(output, assumptions):
    """Return a distillation loss that suits what the output means."""
    activation, teacher_activation = output.meaning.activation, output.meaning_of_teacher.activation
    if LINEAR == (activation or teacher_activation):
        return keras.losses.MeanSquaredError()
    teacher_activation = output.teacher.meaning.activation if teacher_activation == LINEAR else teacher_activation
    if None not in (activation, teacher_activation) and activation != teacher_activation:
        raise ValueError(
            f"No `distillation_loss` can be chosen: the student gives outputs of a {activation}, the teacher of a "
            f"{teacher_activation}. Pass one, for instance `keras_ban.losses.KnowledgeDistillation(activation="
            f"'{activation}')`, or use models of the same kind."
        )
    activation = activation or teacher_activation
    if activation is None:
        if output.shape is not None and output.shape[-1] == 1:
            raise ValueError(
                f"No `distillation_loss` can be chosen for the student's output of shape {output.shape}, since "
                f"{_unknown(output)}. Pass "
                "`keras_ban.losses.KnowledgeDistillation(activation='sigmoid')` for a binary classifier, or "
                "`keras.losses.MeanSquaredError()` for a regression."
            )
        activation = "softmax"
        assumptions.append(
            f"`distillation_loss=None` takes the student's outputs for those of a softmax, since {_unknown(output)}. "
            "Pass `keras_ban.losses.KnowledgeDistillation()` if that is so, or else another `distillation_loss`, for "
            "instance `keras.losses.MeanSquaredError()` for a regression. (For several outputs: a list or dict, with "
            "`None` for an output that is not distilled.)"
        )
    return KnowledgeDistillation(activation=activation)


def _unknown(output):
    """Say why it is not known what the student's outputs are. It follows "since"."""
    layer, loss = output.student.name, output.label_loss
    of_layer = (
        "the last layer is not known" if layer is None else f"its last layer, {layer!r}, does not tell what they are"
    )
    of_loss = "there is no label loss" if loss is None else f"neither does the label loss, {loss!r}"
    if layer is None and loss is not None:
        of_loss = f"the label loss, {loss!r}, does not tell what they are"
    return f"{of_layer}, and {of_loss}"


def _from_logits(output, assumptions):
    """Return whether the student gives logits."""
    if output.meaning.from_logits is not None:
        return output.meaning.from_logits
    layer = output.student.meaning.from_logits  # Of a regression.
    if layer is not None:
        return layer
    found = output.meaning_of_teacher.from_logits
    from_logits = True if found is None else found
    like = "" if found is None else ", as the teacher does"
    assumptions.append(
        f"`from_logits='auto'`: the student is assumed to give {'logits' if from_logits else 'probabilities'}{like}, "
        f"since {_unknown(output)}. Pass `from_logits={from_logits}` to the distillation loss if that is so, or else "
        f"`from_logits={not from_logits}`."
    )
    return from_logits


def _counted(labels, ignore_class, output):
    """Return whether each label counts, in the shape of the outputs without their classes."""
    labels = in_rank(ops.convert_to_tensor(labels), len(output.shape) - 1)
    # Keras's crossentropy compares numbers, too, of which float32 holds those below 2**24.
    return ops.not_equal(ops.cast(labels, "float32"), float(ignore_class))
