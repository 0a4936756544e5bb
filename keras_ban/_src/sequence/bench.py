"""Where generations of one architecture are trained in turn, so that the training step is compiled once for all."""

import keras

from keras_ban._src import backend
from keras_ban._src.distillation.outputs import seed_generators, with_own_seed


class Bench:
    """A Distiller that trains one generation after another.

    A new model would be traced and compiled anew each time, though nothing differs but its values. So each generation's
    initial values are put into the student that lies here, with the optimizer as it was before its first step, and the
    trained values are taken out again. What comes out is what a new Distiller would have given, bit for bit. (The label
    weight is a constant of the compiled step: another weight takes another bench.)
    """

    def __init__(self, distiller):
        self.distiller = distiller
        self.student = distiller.student
        self.holds = None  # The model whose values the student has.
        self._optimizer_values = None

    def put_in(self, model):
        """Give the student the values of `model`: weights, statistics and the states of random generators."""
        _copy_values(model.variables, self.student.variables)
        self.holds = model

    def take_out(self, model):
        """Give `model` the student's values."""
        _copy_values(self.student.variables, model.variables)

    def reset(self):
        """Make the Distiller what it was before the first step of the first generation."""
        optimizer = self.distiller.optimizer
        if self._optimizer_values is None:
            optimizer.build(self.student.trainable_variables)
            self._optimizer_values = [backend.value_of(v).copy() for v in optimizer.variables]
        for variable, value in zip(optimizer.variables, self._optimizer_values, strict=True):
            variable.assign(value)
        fresh = keras.tree.map_structure(with_own_seed, self.distiller.distillation_loss)
        for old, new in zip(seed_generators(self.distiller.distillation_loss), seed_generators(fresh), strict=True):
            old.state.assign(new.state)
        # Keras draws a batch to build a new model from, which moves the random numbers by which it shuffles: so it must
        # do here too.
        self.distiller.built = False
        # Left by `BackupAndRestore`, when it went on from a later epoch.
        self.distiller._initial_epoch = None


def _copy_values(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        # Under JAX, training gives its buffers away: no two variables may share one.
        target.assign(keras.ops.copy(source.value))
