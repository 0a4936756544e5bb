"""The outputs of student and teacher: their meaning, and the losses that compare them."""

import functools
import warnings

import keras
import numpy as np

from keras_ban._src.data.model_outputs import known_names, names_of, outputs_of
from keras_ban._src.losses import contradictions, meaning
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.losses.contradictions import differ, logits_or_probabilities
from keras_ban._src.losses.meaning import LastLayer
from keras_ban._src.losses.resolution import CHOOSE, Output, converts, resolve
from keras_ban._src.losses.structure import for_each_output, targets_of


class Outputs:
    """What student and teacher give, according to losses and last layers, and the distillation loss of each output.

    Args:
        distillation_loss: as in `Distiller`. `None`: chosen by the meaning of each output.
        label_loss: as in `keras.Model.compile`, or `None`.
        student, teacher: `keras.Model`s, or `None`.
        checks_labels: whether the label loss counts. Otherwise it only tells what outputs mean.
        stored: whether the soft targets are stored logits (`True`) or probabilities; `None`: as the teacher gives them.

    Attributes:
        names: the names of the student's flat outputs, or `None`.
    """

    def __init__(
        self, distillation_loss=None, label_loss=None, student=None, teacher=None, checks_labels=True, stored=None
    ):
        self.names = None if student is None else names_of(student)
        self.stored = stored
        self._distillation_loss, self._label_loss = distillation_loss, label_loss
        self._checks_labels = checks_labels
        self._student, self._teacher = student, teacher
        self._structure = outputs_of(student)
        self._checked = False
        if self._structure is not None:
            try:
                self.for_each(distillation_loss, self._structure)
            except ValueError as error:
                raise ValueError(f"`distillation_loss` does not fit the student's outputs. {error}") from None

    @property
    def meaning(self):
        """The `Meaning` of all outputs, according to the distillation losses. `None` if they do not tell, or differ."""
        return _common([each.outputs for each in self.resolved])

    @property
    def meaning_of_labels(self):
        """The `Meaning` of all outputs, according to the label losses. `None` if they do not tell, or differ."""
        return _common([each.labels for each in self.outputs])

    @property
    def meanings(self):
        """The `Meaning` of each flat output, as far as losses and last layers tell. One, if it is not known how many.

        A regression has the activation `"linear"`.
        """
        pairs = [(each.output.meaning, each.outputs) for each in self.resolved]
        return [known if known.activation == meaning.LINEAR else said.completed_by(known) for known, said in pairs]

    @functools.cached_property
    def resolved(self):
        """The `Resolved` loss of each flat output. One, if it is not known how many.

        Raises:
            ValueError: no loss can be chosen for an output.
        """
        return [resolve(output, self.stored) for output in self.outputs]

    @property
    def are_those_of_label_losses(self):
        """Whether nested label losses alone tell which outputs there are, so that the student may give more."""
        return self._structure is None and self._distillation_loss is None and keras.tree.is_nested(self._template)

    @functools.cached_property
    def in_structure(self):
        """The `Resolved` losses, nested as the outputs. One, if the outputs are not known and all are alike.

        Outputs that nested label losses do not name have none: nothing was passed or chosen for them.
        """
        alike = _alike([each.loss for each in self.resolved]) and len(set(self.form)) == 1
        if self._structure is None and alike and not self.are_those_of_label_losses:
            return self.resolved[0]
        return keras.tree.pack_sequence_as(self._template, self.resolved)

    @property
    def losses(self):
        """The distillation losses, nested as they were passed if that is possible. One, if all are alike."""
        passed = self._distillation_loss
        by_passed = {}
        for each in self.resolved:
            by_passed.setdefault(id(each.output.distillation_loss), []).append(each.loss)
        if not all(_alike(losses) for losses in by_passed.values()):
            return keras.tree.pack_sequence_as(self._template, [each.loss for each in self.resolved])
        if passed is None:
            return by_passed[id(CHOOSE)][0]
        return keras.tree.map_structure(lambda loss: by_passed.get(id(loss), [loss])[0], passed)

    @property
    def form(self):
        """What a compiled step depends on."""
        return [each.form for each in self.resolved]

    def for_each(self, values, outputs):
        """Return `values`, nested as in `compile`, as a list in the order of the flat outputs."""
        return for_each_output(values, outputs, self.names)

    def check_shapes(self):
        """Raise an error if the shapes of soft targets and outputs differ, as far as they are known without data."""
        theirs = outputs_of(self._teacher)
        if self._structure is None or theirs is None:
            return
        losses, outputs = self.for_each(self._distillation_loss, self._structure), keras.tree.flatten(self._structure)
        for loss, output, target in zip(losses, outputs, targets_of(theirs, self._structure), strict=True):
            if loss is not None or self._distillation_loss is None:
                self.check_target(target, self._structure)
                check_comparable(None, _of_any_batch(target), _of_any_batch(output))

    def check_resolved(self, resolved, outputs):
        """Raise an error if there is no `Resolved` loss for one of several outputs, for which no `None` was passed."""
        if resolved is None and not keras.tree.is_nested(self._distillation_loss):
            raise ValueError(
                f"The student gives the outputs {known_names(self._student, outputs)}, of which one has no label loss "
                "that tells what it means. Pass a `distillation_loss` for each output, or None for an output without "
                "distillation."
            )

    def check_target(self, target, outputs):
        """Raise an error if the soft targets of an output with a loss are `None`."""
        if target is None:
            names = known_names(self._student, outputs)
            raise ValueError(f"The teacher lacks one of the student's outputs, {names}, that has a loss.")

    def check(self):
        """Raise `ValueError` if losses and last layers contradict each other. Warn of the `doubts`.

        A passed check is not repeated.
        """
        if self._checked:
            return
        self.check_contradictions()
        for doubt in self.doubts:
            warnings.warn(doubt, stacklevel=4)
        self._checked = True

    def check_contradictions(self):
        """As `check`, without warnings."""
        for each in self.resolved:
            contradictions.check_resolved(each, self._checks_labels)

    @property
    def doubts(self):
        """Sentences about what was assumed, and about yes-or-no outputs that are taken for classes."""
        found = [text for each in self.resolved for text in each.assumptions]
        if self._checks_labels:
            found += [contradictions.doubt_about_classes(each) for each in self.resolved]
        return list(dict.fromkeys(text for text in found if text is not None))

    def check_soft_targets(self, soft_targets, outputs):
        """Check the values of the soft targets of a first batch, nested as the teacher gives them.

        Raise `ValueError` if they hold NaN or inf, or no probabilities although they should, or if the two losses
        contradict each other (`check` cannot see this if outputs are not known). Warn if they look like probabilities
        and the loss needs logits.
        """
        targets = targets_of(soft_targets, outputs)
        for each, target in zip(self.for_each(self.in_structure, outputs), targets, strict=True):
            self.check_resolved(each, outputs)
            if each is not None and each.loss is not None and target is not None:
                values = keras.ops.convert_to_numpy(target)
                contradictions.check_values(each, values)
                if self._checks_labels:
                    contradictions.check_losses(each, np.ndim(values))

    @functools.cached_property
    def _template(self):
        """The structure of the outputs. If it is not known, that of the losses."""
        if self._structure is not None:
            return self._structure
        nested = [each for each in (self._distillation_loss, self._label_loss) if keras.tree.is_nested(each)]
        return nested[0] if nested else None

    @functools.cached_property
    def outputs(self):
        """The `Output`s, in their flat order. One, if it is not known how many."""
        known, template = self._structure is not None, self._template
        last = [LastLayer() if each is None else meaning.of_model(each) for each in (self._student, self._teacher)]
        student, teacher = (each if known or not keras.tree.is_nested(each) else LastLayer() for each in last)
        pair = targets_of if keras.tree.is_nested(teacher) else self.for_each
        losses = CHOOSE if self._distillation_loss is None else self._distillation_loss
        columns = (
            self.for_each(losses, template),
            self._label_losses(template, self._label_loss),
            self.for_each(student, template),
            [layer or LastLayer() for layer in pair(teacher, template)],
            self._label_losses(template, getattr(self._teacher, "loss", None)),
            [tuple(output.shape) if known else None for output in keras.tree.flatten(template)],
        )
        return [Output(*column) for column in zip(*columns, strict=True)]

    def _label_losses(self, outputs, losses):
        """Return label losses in the order of the flat outputs, all `None` if Keras pairs them in another way."""
        try:
            return self.for_each(losses, outputs)
        except ValueError:
            return [None] * len(keras.tree.flatten(outputs))


def check_distillation_loss(loss):
    """Raise an error if a distillation loss, or one of several, cannot compare soft targets."""
    if loss is None:
        return
    losses = [each for each in keras.tree.flatten(loss) if each is not None]
    for each in losses:
        if not isinstance(each, (keras.losses.Loss, keras.distillation.DistillationLoss)):
            raise TypeError(
                "`distillation_loss` must be a `keras.losses.Loss` instance, a `keras.distillation.DistillationLoss`, "
                f"or a list or dict of them for several outputs, received: {each!r}. For a loss of your own, subclass "
                "`keras.losses.Loss`: the `y_true` of its `call` is a dict with 'soft_targets' and 'labels'."
            )
        if type(each) is keras.losses.SparseCategoricalCrossentropy:
            raise ValueError(
                "`SparseCategoricalCrossentropy` takes the numbers of classes, but a teacher gives probabilities or "
                "logits. Use `distillation_loss=keras_ban.losses.KnowledgeDistillation()`."
            )
    if not losses:
        raise ValueError("`distillation_loss` is None for every output. To train on labels alone use `label_weight=1`.")


def check_stored(loss, from_logits):
    """Raise `ValueError` if stored soft targets are not of the form that the loss needs, and it converts none."""
    takes = meaning.of_distillation_loss(loss)[0].from_logits
    if differ(takes, from_logits) and not converts(loss):
        raise ValueError(
            f"The teacher gave {logits_or_probabilities(from_logits)}, but the distillation loss has "
            f"from_logits={takes} for soft targets. Use `{type(loss).__name__}()` without `from_logits`, which "
            f"converts them. If they really are {logits_or_probabilities(takes)}, use `SoftTargets.from_teacher(..., "
            f"from_logits={takes})`."
        )


def _common(meanings):
    """Return the `Meaning`, if all are equal and known. Else `None`."""
    first = meanings[0]
    return None if len(set(meanings)) > 1 or None in (first.from_logits, first.activation) else first


def _alike(losses):
    """Whether losses are one, or equal in their settings."""
    first = losses[0]
    return all(each is first or _settings(each) == _settings(first) for each in losses[1:])


def _settings(loss):
    return None if loss is None else (type(loss), loss.get_config())


def _of_any_batch(output):
    """Return a symbolic output without its batch size. A model that was built by a batch has the size of that batch."""
    return keras.KerasTensor((None, *output.shape[1:]), output.dtype)
