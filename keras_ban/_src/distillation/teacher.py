"""A teacher inside a training step."""

import keras

from keras_ban._src import backend
from keras_ban._src.data.batch import inputs_for


class Teaching:
    """What a Distiller's teacher says within a training step: in inference mode, without gradients, never changed.

    Held by the Distiller as a plain object, where Keras does not look for layers: so the teacher is no part of the
    model, of its weights, of its `trainable` flag, of its checkpoints.

    Args:
        teacher: the `keras.Model`, or `None`.
        observer: calls the teacher so that its features are `Observed` beside its outputs; `None`: outputs alone.
    """

    def __init__(self, teacher, observer=None):
        self.teacher = teacher
        self._call = teacher if observer is None else observer
        self._constants = None

    @property
    def in_state(self):
        """Variables that a step needs in its state, at the end of the non-trainable ones."""
        return [] if self._constants is None else self._constants.in_state

    def begin(self, student):
        """Before training: hand the teacher's values to the steps."""
        if self._constants is None or not self._constants.are_current():
            backend.separate(student.variables, self.teacher.variables)
            self._constants = backend.StepConstants(self.teacher.variables)

    def end(self):
        self._constants = None

    def in_step(self, x, state):
        """The teacher's outputs, `Observed` with an observer, within a training step; `state` is JAX's, else empty."""
        if self.teacher is None:
            raise ValueError(NO_TEACHER)
        if self._constants is None:
            self._constants = backend.StepConstants(self.teacher.variables)
        return self.outputs(x, self._constants.in_step(state[0][1] if state else None))

    def outputs(self, x, values=()):
        # In a scope, so that whatever the teacher's layers would write back is dropped.
        with backend.without_gradients(), keras.StatelessScope(state_mapping=values):
            return self._call(inputs_for(self.teacher, x), training=False)


NO_TEACHER = (
    "The Distiller has no teacher, and the data brings no soft targets. Pass `Distiller(teacher=...)`, or data whose "
    "`y` is {'labels': ..., 'soft_targets': ...}."
)
