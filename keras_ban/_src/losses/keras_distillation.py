"""Losses of `keras.distillation`, so that who has one need not rewrite it."""

import warnings

import keras
from keras import ops

from keras_ban._src import backend
from keras_ban._src.losses.masks import mask_of


def is_of_keras_distillation(loss):
    return isinstance(loss, keras.distillation.DistillationLoss)


def check_of_keras_distillation(loss, student=None, teacher=None):
    """Raise where such a loss cannot be taken, and warn where it does not do what it is meant for."""
    ours, theirs = (getattr(loss, f"{role}_layer_name", None) for role in ("student", "teacher"))
    if isinstance(loss, keras.distillation.FeatureDistillation) and (ours or theirs):
        raise ValueError(
            "`FeatureDistillation` of named layers needs a second forward pass, in which dropout differs and BatchNorm "
            "moves again. `Distiller(..., feature_matching=keras_ban.FeatureMatching("
            f"{{{ours!r}: {theirs!r}}}, loss=...))` needs none, and takes a distillation loss beside it."
        )
    # By name Keras finds the function, for which it takes no softmax.
    if isinstance(loss, keras.distillation.LogitsDistillation) and any(
        each is keras.losses.kl_divergence for each in keras.tree.flatten(loss.loss)
    ):
        warnings.warn(
            "`LogitsDistillation(loss='kl_divergence')`, the default, compares logits without a softmax: it is no "
            "divergence, and changes by a shift of the logits. What is meant is "
            f"`keras_ban.losses.KnowledgeDistillation(temperature={loss.temperature})`.",
            stacklevel=3,
        )
    if student is not None and teacher is not None:
        loss.validate_model_compatibility(teacher, student)


def cannot_act(loss, what):
    """The message that weights or masks do not reach such a loss."""
    return (
        f"`{type(loss).__name__}` of keras.distillation gives one number for a whole batch, so that {what} cannot act "
        "on it. Take `keras_ban.losses.KnowledgeDistillation(temperature=...)`, or write yours as a "
        "`keras.losses.Loss`."
    )


def compare_whole_batch(loss, soft_targets, outputs, sample_weight):
    """What such a loss makes of a batch, scaled as Keras scales a loss where replicas share it.

    Args:
        loss: a `keras.distillation.DistillationLoss`.
        soft_targets, outputs: tensors, or nests of them.
        sample_weight: must be `None`.

    Raises:
        ValueError: there are weights or masks, which cannot reach the loss, or it gives no single number.
    """
    flat = keras.tree.flatten(outputs)
    weighs = [each for each in keras.tree.flatten(sample_weight) if each is not None]
    if weighs or any(mask_of(each) is not None for each in flat):
        raise ValueError(cannot_act(loss, "`sample_weight` and `class_weight`" if weighs else "masks"))
    loss.validate_outputs(soft_targets, outputs)
    soft_targets, outputs = keras.tree.map_structure(_at_least_float32, (soft_targets, outputs))
    # Losses of Keras inside would divide by the number of replicas, functions would not.
    with backend.as_if_alone():
        value = ops.convert_to_tensor(loss.compute_loss(soft_targets, outputs))
    if len(value.shape) > 0:
        raise ValueError(
            f"`{type(loss).__name__}.compute_loss` must give one number, but gave a tensor of shape "
            f"{tuple(value.shape)}."
        )
    return value / backend.replica_count()


def _at_least_float32(tensor):
    tensor = ops.convert_to_tensor(tensor)
    is_half = keras.backend.standardize_dtype(tensor.dtype) in ("float16", "bfloat16")
    return ops.cast(tensor, "float32") if is_half else tensor
