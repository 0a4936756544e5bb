"""Support for the losses of `keras.distillation`."""

import warnings

import keras
from keras import ops

from keras_ban._src import backend
from keras_ban._src.data.leaves import leaves_of
from keras_ban._src.losses.masks import mask_of


def is_of_keras_distillation(loss):
    return isinstance(loss, keras.distillation.DistillationLoss)


def check_of_keras_distillation(loss, student=None, teacher=None):
    """Raise an error if the loss is not supported. Warn if it does not compute a divergence."""
    student_layer, teacher_layer = (getattr(loss, f"{role}_layer_name", None) for role in ("student", "teacher"))
    if isinstance(loss, keras.distillation.FeatureDistillation) and (student_layer or teacher_layer):
        raise ValueError(
            "`FeatureDistillation` of named layers needs a second forward pass, with other dropout. `Distiller(..., "
            f"feature_matching=keras_ban.FeatureMatching({{{student_layer!r}: {teacher_layer!r}}}, loss=...))` needs "
            "none."
        )
    # For the name "kl_divergence", Keras uses the function, without a softmax.
    if isinstance(loss, keras.distillation.LogitsDistillation) and any(
        each is keras.losses.kl_divergence for each in keras.tree.flatten(loss.loss)
    ):
        warnings.warn(
            "`LogitsDistillation(loss='kl_divergence')`, the default, compares logits without a softmax, which is no "
            f"divergence. What is meant is `keras_ban.losses.KnowledgeDistillation(temperature={loss.temperature})`.",
            stacklevel=4,
        )
    if student is not None and teacher is not None:
        loss.validate_model_compatibility(teacher, student)


def cannot_act(loss, argument):
    """Return the message that weights or masks have no effect on such a loss."""
    return (
        f"`{type(loss).__name__}` of keras.distillation gives one number for a whole batch, so {argument} cannot act "
        "on it. Take `keras_ban.losses.KnowledgeDistillation(temperature=...)`, or write a `keras.losses.Loss`."
    )


def compare_whole_batch(loss, soft_targets, outputs, sample_weight):
    """Compute such a loss for a batch of (nested) tensors, scaled by 1 / replicas as Keras scales a loss.

    Raise `ValueError` if there are weights or masks, or if the loss does not return a single number.
    """
    flat = keras.tree.flatten(outputs)
    weighs = leaves_of(sample_weight)
    if weighs or any(mask_of(each) is not None for each in flat):
        raise ValueError(cannot_act(loss, "`sample_weight` and `class_weight`" if weighs else "masks"))
    loss.validate_outputs(soft_targets, outputs)
    soft_targets, outputs = keras.tree.map_structure(_at_least_float32, (soft_targets, outputs))
    # Keras losses inside would divide by the number of replicas, functions would not.
    with backend.as_if_alone():
        value = ops.convert_to_tensor(loss.compute_loss(soft_targets, outputs))
    if len(value.shape) > 0:
        name, shape = type(loss).__name__, tuple(value.shape)
        raise ValueError(f"`{name}.compute_loss` must give one number, but gave a tensor of shape {shape}.")
    return value / backend.replica_count()


def _at_least_float32(tensor):
    tensor = ops.convert_to_tensor(tensor)
    is_half = keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")
    return ops.cast(tensor, "float32") if is_half else tensor
