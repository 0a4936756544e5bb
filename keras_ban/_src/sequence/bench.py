"""Reuse one compiled training step for all generations of the same architecture."""

import keras

from keras_ban._src.distillation.loss_targets import seed_generators, with_own_seed
from keras_ban._src.sequence.clones import copy_values
from keras_ban._src.sequence.recipes import Recipe


class Bench:
    """Trains one generation after another with the same Distiller.

    A new model would be traced and compiled again, although only its values differ. So each generation's values are
    copied to the Distiller's student and back, and the optimizer is reset. The result is bit for bit that of a new
    Distiller. (The label weight and the schedules are constants of the compiled step: others need another bench.)

    Args:
        distiller: a compiled `Distiller`.
        stretch: by how much its schedules are stretched.
    """

    def __init__(self, distiller, stretch):
        self.distiller = distiller
        self.stretch = stretch
        self.student = distiller.student
        self.holds = None  # The model whose values the student has.
        self._new_optimizer = None

    def put_in(self, model):
        """Give the student the values of `model`, and reset the Distiller to its state before the first step.

        Values are weights, statistics and states of random generators.
        """
        copy_values(model.variables, self.student.variables)
        self.holds = model
        optimizer = self.distiller.optimizer
        if self._new_optimizer is None:
            self._new_optimizer = Recipe(optimizer)
            optimizer.build(self.student.trainable_variables)
        # A new one, because some optimizers start from the weights, such as `ScheduleFreeAdamW`.
        fresh = self._new_optimizer.make()
        fresh.build(self.student.trainable_variables)
        copy_values(fresh.variables, optimizer.variables)
        losses = keras.tree.map_structure(with_own_seed, self.distiller.distillation_loss)
        for old, new in zip(seed_generators(self.distiller.distillation_loss), seed_generators(losses), strict=True):
            old.state.assign(new.state)
        # To build a new model, Keras draws a batch, which changes the random numbers for shuffling. It must do so here,
        # too.
        self.distiller.built = False
        # `BackupAndRestore` leaves it when it continues from a later epoch.
        self.distiller._initial_epoch = None

    def take_out(self, model):
        """Copy the student's values to `model`."""
        copy_values(self.student.variables, model.variables)
