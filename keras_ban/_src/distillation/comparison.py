"""The sum of the distillation losses of all outputs."""

import keras

from keras_ban._src.distillation.loss_targets import has_schedule, loss_target, own_weights
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.losses.keras_distillation import compare_whole_batch, is_of_keras_distillation
from keras_ban._src.losses.precision import add_up
from keras_ban._src.losses.schedules import value_at


class Comparison:
    """Computes the sum of the outputs' distillation losses, weighted by the `loss_weights` of `compile`.

    Args:
        losses: the distillation losses, one for all outputs or nested.
        loss_weights: as in `keras.Model.compile`.
        outputs: the `Outputs` of student and teacher.
        temperature_tracker: the metric that averages temperature schedules, or `None`.
    """

    def __init__(self, losses, loss_weights, outputs, temperature_tracker):
        self._losses = losses
        self._loss_weights = loss_weights
        self._outputs = outputs
        self._temperature_tracker = temperature_tracker

    def __call__(self, labels, targets, y_pred, sample_weight, moment):
        """Compute the loss of a batch. `targets` are in the order of the flat outputs. `moment` is for schedules."""
        outputs = keras.tree.flatten(y_pred)
        if is_of_keras_distillation(self._losses) and len(outputs) > 1:
            return self._of_all(targets, y_pred, sample_weight)
        values = (self._losses, self._loss_weights, labels, sample_weight)
        columns = (self._outputs.for_each(each, y_pred) for each in values)
        terms = []
        for loss, weight, label, each_weight, target, output in zip(*columns, targets, outputs, strict=True):
            if loss is None:
                continue
            self._outputs.check_target(target, y_pred)
            check_comparable(loss, target, output)
            value = self._of_one(loss, label, target, output, each_weight, moment)
            terms.append(value if weight is None else weight * value)
        return add_up(terms)

    def _of_one(self, loss, label, target, output, sample_weight, moment):
        if is_of_keras_distillation(loss):
            return compare_whole_batch(loss, target, output, sample_weight)
        if has_schedule(loss):
            self._temperature_tracker.update_state(value_at(loss.temperature, moment))
        return loss(loss_target(loss, label, target, moment), output, own_weights(sample_weight))

    def _of_all(self, targets, y_pred, sample_weight):
        if self._loss_weights is not None:
            raise ValueError(
                f"One `{type(self._losses).__name__}` for all outputs cannot be weighted by `loss_weights`: pass a "
                "list or dict of losses, one for each output."
            )
        for target in targets:
            self._outputs.check_target(target, y_pred)
        targets = keras.tree.pack_sequence_as(y_pred, targets)
        return compare_whole_batch(self._losses, targets, y_pred, sample_weight)
