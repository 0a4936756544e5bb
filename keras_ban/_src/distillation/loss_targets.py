"""The arguments and the random state of a distillation loss."""

import copy

import keras

from keras_ban._src.data.batch import join_targets


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
