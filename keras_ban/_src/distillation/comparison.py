"""The sum of the distillation losses of all outputs."""

import keras

from keras_ban._src.distillation.loss_targets import has_schedule, loss_target, own_weights
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.losses.keras_distillation import compare_whole_batch, is_of_keras_distillation
from keras_ban._src.losses.precision import add_up
from keras_ban._src.losses.schedules import value_at
from keras_ban._src.losses.shared_softmax import share_softmax, shared_losses


class Comparison:
    """Computes the sum of the outputs' distillation losses, weighted by the `loss_weights` of `compile`.

    Args:
        outputs: the `Outputs` of student and teacher, which know the losses.
        loss_weights: as in `keras.Model.compile`.
        temperature_tracker: the metric that averages temperature schedules, or `None`.

    Attributes:
        losses: the distillation losses, one for all outputs or nested.
    """

    def __init__(self, outputs, loss_weights, temperature_tracker):
        self._outputs = outputs
        self.losses = outputs.losses
        self._ignores = any(each.ignore_class is not None for each in outputs.resolved)
        self._loss_weights = loss_weights
        self._temperature_tracker = temperature_tracker
        first, *others = outputs.resolved
        self._shares_softmax = not others and loss_weights is None and share_softmax(first)

    def __call__(self, labels, targets, y_pred, sample_weight, moment, labeled):
        """Compute the loss of a batch.

        Args:
            labels: nested labels, or `None`. The label loss may ignore a class of them.
            targets: the soft targets, in the order of the flat outputs.
            y_pred, sample_weight: nested outputs and weights.
            moment: for schedules, as in `schedules.value_at`.
            labeled: 1 for each example with a label, else 0, `(batch,)`, where the losses get no labels; `None` if all
                have one.
        """
        outputs = keras.tree.flatten(y_pred)
        if is_of_keras_distillation(self.losses) and len(outputs) > 1:
            return self._of_all(targets, y_pred, sample_weight)
        marks, labels = labels if self._ignores else None, labels if labeled is None else None
        values = (self._outputs.in_structure, self._loss_weights, labels, sample_weight, marks)
        columns = (self._outputs.for_each(each, y_pred) for each in values)
        terms = []
        for resolved, weight, label, each_weight, mark, target, output in zip(*columns, targets, outputs, strict=True):
            self._outputs.check_resolved(resolved, y_pred)
            if resolved is None or resolved.loss is None:
                continue
            self._outputs.check_target(target, y_pred)
            check_comparable(resolved.loss if resolved.axis is None else None, target, output)
            each = resolved.prepared(label, target, output, each_weight, mark, labeled)
            value = self._of_one(resolved.loss, *each, moment)
            terms.append(value if weight is None else weight * value)
        return add_up(terms)

    def with_labels(self, labels, targets, y_pred, sample_weight):
        """Compute `(label loss, distillation loss)` from one softmax. `None` if the two are not of one.

        The arguments are as in `__call__`.
        """
        if not self._shares_softmax or any(map(keras.tree.is_nested, (labels, y_pred, sample_weight))):
            return None
        (target,) = targets
        self._outputs.check_target(target, y_pred)
        return shared_losses(self._outputs.resolved[0], labels, target, y_pred, sample_weight)

    def _of_one(self, loss, label, target, output, sample_weight, moment):
        if is_of_keras_distillation(loss):
            return compare_whole_batch(loss, target, output, sample_weight)
        if has_schedule(loss):
            self._temperature_tracker.update_state(value_at(loss.temperature, moment))
        y_true = loss_target(loss, label, target, moment)
        try:
            return loss(y_true, output, own_weights(sample_weight))
        except Exception as error:
            if isinstance(y_true, dict) and type(loss).__module__.split(".")[0] != "keras_ban":
                error.add_note(
                    f"The `distillation_loss`, a `{type(loss).__name__}`, was called with a dict as `y_true`: "
                    f"`y_true['soft_targets']` is what the teacher gives. (Its keys: {list(y_true)}.)"
                )
            raise

    def _of_all(self, targets, y_pred, sample_weight):
        if self._loss_weights is not None:
            raise ValueError(
                f"One `{type(self.losses).__name__}` for all outputs cannot be weighted by `loss_weights`: pass a "
                "list or dict of losses, one for each output."
            )
        for target in targets:
            self._outputs.check_target(target, y_pred)
        targets = keras.tree.pack_sequence_as(y_pred, targets)
        return compare_whole_batch(self.losses, targets, y_pred, sample_weight)
