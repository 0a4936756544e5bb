"""How outputs, losses, labels, soft targets and weights of a student and its teacher belong together."""

import copy

import keras

from keras_ban._src.data.batch import join_targets
from keras_ban._src.losses.base import check_comparable


def of_same_outputs(soft_targets, outputs):
    """The soft targets of those outputs, in their structure; of dicts `None` where there is none."""
    if isinstance(outputs, dict) and isinstance(soft_targets, dict):
        return {name: soft_targets.get(name) for name in outputs}
    if isinstance(outputs, dict) or isinstance(soft_targets, dict):
        raise ValueError(
            "Student and teacher must both give dicts of outputs, or neither, so that it is clear which belong "
            f"together. The student gives: {_structure(outputs)}, the teacher: {_structure(soft_targets)}."
        )
    return soft_targets


def _structure(outputs):
    return keras.tree.map_structure(lambda tensor: tuple(tensor.shape), outputs)


def per_output(values, outputs, model):
    """`values`, one for all outputs or nested as `compile` allows, as a list in the order of the flat outputs."""
    flat_outputs = keras.tree.flatten(outputs)
    if not keras.tree.is_nested(values):
        return [values] * len(flat_outputs)
    if isinstance(values, dict):
        if isinstance(outputs, dict):
            names = sorted(outputs)
        else:
            names = getattr(model, "output_names", None) or [None] * len(flat_outputs)
        unknown = set(values) - set(names)
        if unknown:
            raise ValueError(f"There are no outputs of the names {sorted(unknown)}: the model's outputs are {names}.")
        return [values.get(name) for name in names]
    flat_values = keras.tree.flatten(values)
    if len(flat_values) != len(flat_outputs):
        raise ValueError(f"The model has {len(flat_outputs)} outputs, but {len(flat_values)} values came: {values}.")
    return flat_values


def loss_target(loss, labels, soft_targets, step=None):
    """`y_true` for a distillation loss."""
    if getattr(keras.losses, type(loss).__name__, None) is type(loss):
        return soft_targets
    y_true = join_targets(labels, soft_targets)
    return {**y_true, "step": step} if has_schedule(loss) else y_true


def own_weights(sample_weight):
    """The sample weights for one loss alone: on torch Keras multiplies them by a mask in place."""
    return keras.tree.map_structure(lambda each: None if each is None else keras.ops.copy(each), sample_weight)


def has_schedule(loss):
    """Whether a distillation loss's temperature changes over the run."""
    return callable(getattr(loss, "temperature", None))


def with_own_seed(loss):
    """The loss itself; of one that draws random numbers a copy, whose generator is as new."""
    if not hasattr(loss, "seed_generator"):
        return loss
    loss = copy.copy(loss)
    loss.seed_generator = keras.random.SeedGenerator.from_config(loss.seed_generator.get_config())
    return loss


def seed_generators(losses):
    return [loss.seed_generator for loss in keras.tree.flatten(losses) if hasattr(loss, "seed_generator")]


def check_independent(student, teacher):
    if student is teacher:
        raise ValueError(
            "`student` and `teacher` are the same model. For a new student use `keras_ban.reborn(teacher)`."
        )
    trained = {id(v) for v in student.trainable_variables}
    shared = [v.path for v in teacher.variables if id(v) in trained]
    # A layer that trains may also move what is not trained by gradients, as BatchNorm does.
    of_teacher = {id(layer) for layer in teacher._flatten_layers()}
    layers = [layer for layer in student._flatten_layers() if id(layer) in of_teacher]
    shared += [f"{layer.name} (layer)" for layer in layers if layer.trainable and layer.variables]
    if shared:
        raise ValueError(
            f"`student` and `teacher` share weights that would be trained, and the teacher must not change: {shared}. "
            "Freeze the shared layers, or use `keras_ban.reborn(teacher)`, which shares nothing."
        )


def check_known_outputs(student, teacher, distillation_loss):
    """Hold losses and output shapes together where they are known before any data is seen; a step does the rest."""
    ours, theirs = (getattr(model, "outputs", None) or [] for model in (student, teacher))
    if not ours:
        return
    try:
        # In the structure in which the model gives them: a dict has names.
        losses = per_output(distillation_loss, getattr(student, "output", ours), student)
    except ValueError as error:
        raise ValueError(f"`distillation_loss` does not fit the student's outputs. {error}") from None
    if len(ours) != len(theirs):
        return
    for loss, output, target in zip(losses, ours, theirs, strict=True):
        if loss is not None:
            check_comparable(loss, target, output)
