"""Checks of the arguments of a `Distiller`."""

import warnings

import keras

from keras_ban._src import backend
from keras_ban._src.distillation.feature_matching import FeatureMatching
from keras_ban._src.distillation.step import NO_FEATURES
from keras_ban._src.targets import augmented_views


def check_independent(student, teacher):
    if student is teacher:
        raise ValueError("`student` and `teacher` are the same model. For a new student use `keras_ban.reborn`.")
    trained = {id(v) for v in student.trainable_variables}
    shared = [v.path for v in teacher.variables if id(v) in trained]
    # A layer that is trained may also change variables without gradients, as BatchNorm does.
    of_teacher = {id(layer) for layer in backend.flat_layers(teacher)}
    layers = [layer for layer in backend.flat_layers(student) if id(layer) in of_teacher]
    shared += [f"{layer.name} (layer)" for layer in layers if layer.trainable and layer.variables]
    if shared:
        raise ValueError(
            f"`student` and `teacher` share weights that would be trained, and the teacher must not change: {shared}. "
            "Freeze the shared layers, or use `keras_ban.reborn(teacher)`."
        )


def check_augmentation(augmentation, teacher):
    """Raise an error if the augmentation is not supported, or would change the teacher."""
    augmented_views.check_augmentation(augmentation)
    of_teacher = {id(v) for v in getattr(teacher, "variables", [])}
    if any(id(weight) in of_teacher for weight in augmentation.weights):
        raise ValueError("`augmentation` and `teacher` share weights, and the teacher must not change.")


def check_feature_matching(feature_matching, teacher):
    if not isinstance(feature_matching, FeatureMatching):
        raise TypeError(
            "`feature_matching` must be `keras_ban.FeatureMatching({'student layer': 'teacher layer'})`, received: "
            f"{feature_matching!r} (of type {type(feature_matching).__name__})."
        )
    if teacher is None:
        raise ValueError(NO_FEATURES)


def warn_of_own_steps(student):
    names = ("train_step", "compute_loss")
    own = [f"`{name}`" for name in names if getattr(type(student), name) is not getattr(keras.Model, name)]
    if own:
        warnings.warn(
            f"The student, a {type(student).__name__}, has {' and '.join(own)} of its own, which no Distiller calls. "
            "Use the compiled loss, or `add_loss`.",
            stacklevel=3,
        )
