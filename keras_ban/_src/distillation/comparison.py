"""A student's outputs against its teacher's: the distillation losses of all outputs, added up."""

import keras

from keras_ban._src.distillation.loss_targets import has_schedule, loss_target, own_weights
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.losses.keras_distillation import compare_whole_batch, is_of_keras_distillation
from keras_ban._src.losses.outputs import check_target
from keras_ban._src.losses.precision import add_up
from keras_ban._src.losses.schedules import value_at


class Comparison:
    """The sum of the outputs' distillation losses, each weighted as `compile` weighs the output.

    Args:
        losses: the distillation losses, one for all outputs or nested.
        loss_weights: as in `keras.Model.compile`.
        outputs: the `Outputs` that say which values belong to which output.
        temperature_tracker: a metric, the mean of temperatures that change; or `None`.
    """

    def __init__(self, losses, loss_weights, outputs, temperature_tracker):
        self._losses = losses
        self._loss_weights = loss_weights
        self._outputs = outputs
        self._temperature_tracker = temperature_tracker

    def __call__(self, labels, targets, y_pred, sample_weight, step):
        """The loss of a batch.

        Args:
            labels, sample_weight: as for the student's own loss.
            targets: the soft targets, in the order of the flat outputs.
            y_pred: the student's outputs.
            step: the training step, where something changes with it, or `None`.
        """
        outputs = keras.tree.flatten(y_pred)
        if is_of_keras_distillation(self._losses) and len(outputs) > 1:
            return self._of_all(targets, y_pred, sample_weight)
        values = (self._losses, self._loss_weights, labels, sample_weight)
        columns = (self._outputs.for_each(each, y_pred) for each in values)
        terms = []
        for loss, weight, label, each_weight, target, output in zip(*columns, targets, outputs, strict=True):
            if loss is None:
                continue
            check_target(target, list(y_pred) if isinstance(y_pred, dict) else self._outputs.names)
            check_comparable(loss, target, output)
            value = self._of_one(loss, label, target, output, each_weight, step)
            terms.append(value if weight is None else weight * value)
        return add_up(terms)

    def _of_one(self, loss, label, target, output, sample_weight, step):
        if is_of_keras_distillation(loss):
            return compare_whole_batch(loss, target, output, sample_weight)
        if has_schedule(loss):
            self._temperature_tracker.update_state(value_at(loss.temperature, step))
        return loss(loss_target(loss, label, target, step), output, own_weights(sample_weight))

    def _of_all(self, targets, y_pred, sample_weight):
        if self._loss_weights is not None:
            raise ValueError(
                f"One `{type(self._losses).__name__}` of keras.distillation for all outputs cannot be weighted by "
                "`loss_weights`: pass a list or dict of losses, one for each output."
            )
        for target in targets:
            check_target(target, list(y_pred) if isinstance(y_pred, dict) else self._outputs.names)
        targets = keras.tree.pack_sequence_as(y_pred, targets)
        return compare_whole_batch(self._losses, targets, y_pred, sample_weight)
