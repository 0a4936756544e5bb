"""The teacher in a training step."""

import keras

from keras_ban._src import backend
from keras_ban._src.data.model_inputs import inputs_for


class Teaching:
    """Calls a Distiller's teacher in a training step: in inference mode, without gradients, and without changes to it.

    It is not a Keras object, so the teacher is not part of the Distiller's weights, `trainable` flag and checkpoints.
    With an `Observer`, it returns `Observed`.
    """

    def __init__(self, teacher, observer=None):
        self.teacher = teacher
        self._call = teacher if observer is None else observer
        self._constants = None

    @property
    def in_state(self):
        """The variables that a step needs at the end of its non-trainable state."""
        return [] if self._constants is None else self._constants.in_state

    def constants(self):
        """Return the `StepConstants` of the teacher's variables, or `None` outside of training."""
        return self._constants

    def prepare(self, student):
        """Prepare the teacher's variables for training."""
        if self._constants is None or not self._constants.are_current():
            backend.separate(student.variables, self.teacher.variables)
            self._constants = backend.StepConstants(self.teacher.variables)

    def end(self):
        self._constants = None

    def in_step(self, x, state):
        """Return the outputs in a training step, or `Observed`. `state` is JAX's, and empty on the other backends."""
        if self.teacher is None:
            raise ValueError(NO_TEACHER)
        if self._constants is None:
            self._constants = backend.StepConstants(self.teacher.variables)
        return self.outputs(x, self._constants.in_step(state[0][1] if state else None))

    def look(self, x, compiled):
        """Return the outputs, or `Observed`, of a batch outside of a training step."""
        return backend.call_once(self.outputs, x, self.teacher.variables) if compiled else self.outputs(x)

    def outputs(self, x, values=()):
        # The scope drops all updates of variables by the teacher's layers.
        with backend.without_gradients(), keras.StatelessScope(state_mapping=values):
            return self._call(inputs_for(self.teacher, x), training=False)


NO_TEACHER = (
    "The Distiller has no teacher, and the data brings no soft targets. Pass `Distiller(teacher=...)`, or data whose "
    "`y` is {'labels': ..., 'soft_targets': ...}."
)
