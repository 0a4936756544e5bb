"""The arguments and the random state of a distillation loss."""

import copy

import keras

from keras_ban._src.data.batch import join_targets
from keras_ban._src.data.labels import is_of_keras
from keras_ban._src.data.leaves import map_leaves
from keras_ban._src.losses.keras_distillation import is_of_keras_distillation

NO_LABELS = (
    "The data brings no labels, though they have a weight. Pass `y`, or a dataset that yields `(x, y)`; or train on "
    "the teacher alone with `Distiller(..., label_weight=0)`."
)
NOTHING_TO_MEASURE = (
    "`compile` was given metrics, which are measured on labels, but the data brings none: pass `y`, or compile without "
    "metrics."
)


def loss_target(loss, labels, soft_targets, moment=None):
    """Return `y_true` for a distillation loss. Losses of `keras.losses` get the soft targets only.

    `moment`, as in `schedules.value_at`, is for a loss with a schedule.
    """
    if is_of_keras(loss):
        return soft_targets
    y_true = join_targets(labels, soft_targets)
    return {**y_true, **moment} if has_schedule(loss) else y_true


def uses_labels(loss):
    """Return whether a distillation loss may use labels. Of losses that are not of this package, this is not known."""
    if loss is None or is_of_keras(loss) or is_of_keras_distillation(loss):
        return False
    # Not inherited: a subclass may use labels.
    return vars(type(loss)).get("labels_as", "unknown") is not None


def own_weights(sample_weight):
    """Return a copy of the sample weights, because Keras on torch multiplies them by a mask in place."""
    return map_leaves(keras.ops.copy, sample_weight)


def has_schedule(loss):
    """Return whether the temperature of a distillation loss is a schedule."""
    return callable(getattr(loss, "temperature", None))


def with_own_seed(loss):
    """Return the loss. If it draws random numbers, return a copy with a new generator."""
    if not hasattr(loss, "seed_generator"):
        return loss
    loss = copy.copy(loss)
    loss.seed_generator = keras.random.SeedGenerator.from_config(loss.seed_generator.get_config())
    return loss


def seed_generators(losses):
    return [loss.seed_generator for loss in keras.tree.flatten(losses) if hasattr(loss, "seed_generator")]
