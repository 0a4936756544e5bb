"""The teacher of each generation."""

import keras

from keras_ban._src import checks
from keras_ban._src.history.scores import ENSEMBLE


def check_teacher(teacher):
    """Return the teacher that was passed to `fit`. Raise an error if it is no trained model."""
    if not isinstance(teacher, keras.Model) and callable(teacher):
        raise TypeError(
            f"`teacher` must be a `keras.Model`, received: {teacher!r} (of type {type(teacher).__name__}), because it "
            "becomes generation 0. To learn from any function of a batch, train one student by "
            "`SoftTargets.from_teacher(function, x)` and `Distiller.fit(x, y, soft_targets=...)`, and pass that "
            "student as `teacher`."
        )
    checks.check_model("teacher", teacher)
    if not teacher.built:
        raise ValueError("`teacher` has no weights yet: it must be a trained model.")
    return teacher


def taught_by(teach_from, record):
    """The teacher of a generation: the number of the one before, `"ensemble"` for all before, or `None`.

    The ensemble of generation 0 alone is generation 0.
    """
    if record.generation == 0:
        return None
    of_all = (teach_from == ENSEMBLE or record.distilled) and record.generation > 1
    return ENSEMBLE if of_all else record.generation - 1
