"""Builds the teacher on the first batch, and checks that the soft targets suit the loss."""

import keras

from keras_ban._src import backend
from keras_ban._src.data.batch import inputs_for, inputs_of_teacher, split_targets
from keras_ban._src.data.symbols import output_spec
from keras_ban._src.distillation.observer import split_observed
from keras_ban._src.losses.structure import targets_of
from keras_ban._src.targets.top_k_rows import is_top_k


def check_first_batch(data, student, teaching, outputs, in_step):
    """Check the teacher's outputs on the first batch, or the soft targets of the batch.

    Args:
        data: the training data.
        student: the student.
        teaching: the `Teaching` of the Distiller.
        outputs: the `Outputs` of student and teacher.
        in_step: whether the first step sees values, and can check them at no cost.

    Returns:
        Whether soft targets were checked.
    """
    teacher = teaching.teacher
    must_build = data.soft_targets is None and teacher is not None and not teacher.built
    if in_step and not must_build:
        return False
    first_x, first_y, _ = data.first_batch()
    first_x, of_teacher = keras.tree.map_structure(backend.as_tensor, (first_x, inputs_of_teacher(first_x, first_y)))
    _, first = split_targets(first_y)
    if is_top_k(first):
        return False  # `SoftTargets` were checked when they were created.
    if first is None and teacher is not None:
        if must_build:
            teacher(inputs_for(teacher, of_teacher))
        first, _ = split_observed(teaching.outputs(of_teacher))
    if first is None:
        return False
    nested = keras.tree.is_nested(first) and student.built
    look_at_soft_targets(first, output_spec(student, inputs_for(student, first_x)) if nested else first, outputs)
    return True


def look_at_soft_targets(soft_targets, y_pred, outputs):
    """Check that the values of soft targets suit each output's loss. Raise an error, or warn."""
    targets = targets_of(soft_targets, y_pred)
    outputs.check_soft_targets([None if each is None else keras.ops.convert_to_numpy(each) for each in targets], y_pred)
