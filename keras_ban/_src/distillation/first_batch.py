"""A look at the first batch: a teacher that is not built is built by it, and soft targets must fit the loss."""

import warnings

import keras

from keras_ban._src import backend, checks
from keras_ban._src.data.batch import split_targets
from keras_ban._src.data.symbols import output_spec
from keras_ban._src.distillation.outputs import of_same_outputs, per_output
from keras_ban._src.targets.top_k_rows import is_top_k


def check_first_batch(distiller, data):
    """Look at the teacher's outputs on the first examples, or at their soft targets."""
    teacher, student = distiller.teacher, distiller.student
    must_build = data.soft_targets is None and teacher is not None and not teacher.built
    if backend.steps_see_values(distiller) and not must_build:
        return  # The first step itself will look, at no cost.
    first_x, first_y, _ = data.first_batch()
    first_x = keras.tree.map_structure(backend.as_tensor, first_x)
    _, first_soft_targets = split_targets(first_y)
    if is_top_k(first_soft_targets):
        return  # Looked at when they were made.
    if first_soft_targets is None and teacher is not None:
        if must_build:
            teacher(first_x)
        first_soft_targets = distiller._teaching.outputs(first_x)
    if isinstance(first_soft_targets, dict) and student.built:
        first_soft_targets = of_same_outputs(first_soft_targets, output_spec(student, first_x))
    if first_soft_targets is not None:
        check_soft_targets(distiller, first_soft_targets)


def check_soft_targets(distiller, soft_targets):
    """Hold soft targets, as values, against each output's loss: raise, or warn, once for a Distiller."""
    distiller._soft_targets_checked = True
    losses = per_output(distiller.distillation_loss, soft_targets, distiller.student)
    for loss, values in zip(losses, keras.tree.flatten(soft_targets), strict=True):
        if loss is None or values is None:
            continue
        message = checks.check_soft_targets(keras.ops.convert_to_numpy(values), loss)
        if message:
            warnings.warn(message, stacklevel=5)
