"""A student's outputs against its teacher's: the distillation losses of all outputs, added up."""

import keras

from keras_ban._src.distillation.outputs import has_schedule, loss_target, own_weights, per_output
from keras_ban._src.losses.base import check_comparable
from keras_ban._src.losses.keras_distillation import compare_whole_batch, is_of_keras_distillation
from keras_ban._src.losses.schedules import value_at


def compare_outputs(distiller, labels, soft_targets, y_pred, sample_weight, step):
    """The sum of the outputs' distillation losses, each weighted as `compile` weighs the output.

    Args:
        distiller: the `Distiller`, whose losses and weights count, and which keeps the mean of temperatures.
        labels, sample_weight: as for the student's own loss.
        soft_targets: of the same outputs as `y_pred`.
        y_pred: the student's outputs.
        step: the training step, where something changes with it, or `None`.
    """
    student, loss_weights, losses = distiller.student, distiller._loss_weights, distiller.distillation_loss
    outputs, targets = keras.tree.flatten(y_pred), keras.tree.flatten(soft_targets)
    if len(outputs) != len(targets):
        raise ValueError(
            f"The student gives {len(outputs)} outputs, the teacher {len(targets)}: they must be the same. Where "
            "outputs are a dict, the teacher's may hold more than the student's."
        )
    if is_of_keras_distillation(losses) and len(outputs) > 1:
        if loss_weights is not None:
            raise ValueError(
                f"One `{type(losses).__name__}` of keras.distillation for all outputs cannot be weighted by "
                "`loss_weights`: pass a list or dict of losses, one for each output."
            )
        return compare_whole_batch(losses, soft_targets, y_pred, sample_weight)
    values = (losses, loss_weights, labels, sample_weight)
    losses, weights, labels, sample_weights = (per_output(each, y_pred, student) for each in values)
    total = 0.0
    for loss, weight, label, target, output, each_sample_weight in zip(
        losses, weights, labels, targets, outputs, sample_weights, strict=True
    ):
        if loss is None:
            continue
        if target is None:
            raise ValueError(f"The teacher lacks one of the student's outputs, {list(y_pred)}, that has a loss.")
        check_comparable(loss, target, output)
        if is_of_keras_distillation(loss):
            value = compare_whole_batch(loss, target, output, each_sample_weight)
        else:
            if has_schedule(loss):
                distiller._temperature_tracker.update_state(value_at(loss.temperature, step))
            value = loss(loss_target(loss, label, target, step), output, own_weights(each_sample_weight))
        total += value if weight is None else weight * value
    return total
