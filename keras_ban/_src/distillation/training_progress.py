"""The fraction of a `fit` that is done, for schedules over the training."""

import math

import keras
from keras import ops

from keras_ban._src import backend
from keras_ban._src.losses.schedules import OverTraining

UNKNOWN_LENGTH = (
    "A schedule over the training needs the number of steps, and the data have no known length: pass `steps_per_epoch`."
)
NO_FIT = (
    "`keras_ban.OverTraining` is about the steps of a `fit`, and `train_on_batch` knows no number of steps: use `fit`, "
    "or a schedule of the training step."
)


def is_over_training(label_weight, distillation_loss):
    """Whether one of the label weights, or the temperature of a distillation loss, is a schedule over the training."""
    temperatures = [getattr(loss, "temperature", None) for loss in keras.tree.flatten(distillation_loss)]
    return any(isinstance(each, OverTraining) for each in [*keras.tree.flatten(label_weight), *temperatures])


def check_length(data, options):
    """Raise `ValueError` if the number of steps in an epoch is unknown."""
    if data.number_of_batches() in (None, math.inf) and options.get("steps_per_epoch") is None:
        raise ValueError(UNKNOWN_LENGTH)


def make_progress():
    """Return a variable `[steps done, steps of the training]`: a compiled step reads new numbers."""
    return keras.Variable(
        [0, 1], trainable=False, dtype="int32", name="training_progress", aggregation="only_first_replica"
    )


def advance(progress, state, non_trainable_variables):
    """Count a training step. Return the fraction that was done before it, and JAX's state after it.

    Args:
        progress: the variable of `make_progress`.
        state: JAX's state; empty on other backends.
        non_trainable_variables: those in that state.
    """
    with backend.reading(state, non_trainable_variables) as scope:
        done, planned = ops.unstack(ops.cast(progress.value, "float32"), 2)
        progress.assign(progress.value + ops.convert_to_tensor([1, 0], dtype="int32"))
    # A dataset may bring more batches than it said.
    return ops.minimum(done / planned, 1.0), backend.after(state, scope, non_trainable_variables)


class PlanSteps(keras.callbacks.Callback):
    """Sets the progress at the start of each epoch, wherever `fit` starts.

    Args:
        progress: the variable of `make_progress`.
    """

    def __init__(self, progress):
        super().__init__()
        self._progress = progress

    def on_train_begin(self, logs=None):
        if self.params["steps"] is None:
            raise ValueError(UNKNOWN_LENGTH)

    def on_epoch_begin(self, epoch, logs=None):
        self._progress.assign([epoch * self.params["steps"], self.params["epochs"] * self.params["steps"]])
