"""One `fit` of a sequence: its data and its other arguments, and the models before training."""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_ban._src.backend import process_group
from keras_ban._src.distillation.distiller import Distiller
from keras_ban._src.distillation.requirements import NO_HOOK, warn_of_own_steps
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.sequence.per_generation import label_weight_at


@dataclasses.dataclass
class Training:
    """One `fit` of a `BornAgainSequence`.

    The place of a generation is its number. The place of the student distilled from the ensemble is `generations + 1`,
    even if `patience` ended the generations earlier.

    Attributes:
        sequence: the `BornAgainSequence` with the settings.
        compile_arguments: its `CompileArguments`.
        data: the training data.
        unlabeled: the inputs without labels for the students, or `None`.
        options: the other arguments of `keras.Model.fit` by name. `epochs` is as `check_epochs` returns it.
        make_callbacks: a function from the generation to a list of callbacks.
        teacher: generation 0, if it was passed to `fit`, or `None`.
        patience: as in `BornAgainSequence.fit`.
        run: the `RunDirectory` of generations and soft targets; `None`: everything is in memory.
        entropy: the number from which the seeds are derived.
        starts: the models before training, by place. If generations are copies of one model, there is only the first.
    """

    sequence: Any
    compile_arguments: Any
    data: Any
    unlabeled: Any
    options: dict[str, Any]
    make_callbacks: Callable[..., list]
    teacher: keras.Model | None
    patience: int | None
    run: RunDirectory | None
    entropy: int
    starts: dict[int, keras.Model] = dataclasses.field(default_factory=dict)

    @property
    def first(self):
        """The place of the first model that is trained."""
        return 0 if self.teacher is None else 1

    @property
    def last(self):
        """The place of the last model that is trained, if `patience` does not end the generations."""
        return self.sequence.generations + self.sequence.distill_ensemble

    @property
    def trained_starts(self):
        """`starts` without the given teacher."""
        return {place: model for place, model in self.starts.items() if model is not self.teacher}

    @property
    def example(self):
        """A model with the outputs that all of them have: the last of `starts`."""
        return self.starts[max(self.starts)]

    def seed(self, *place):
        """The seed of a place: whole numbers, of which the last is not 0 if there are several.

        (`SeedSequence` does not tell `[entropy, 1]` from `[entropy, 1, 0]`.)
        """
        return int(np.random.SeedSequence([self.entropy, *place]).generate_state(1)[0])

    def epochs(self, place):
        """The number of epochs of a place. A given teacher has that of the first student."""
        epochs = self.options["epochs"]
        return epochs[max(place, self.first) - self.first] if isinstance(epochs, list) else epochs

    def label_weight(self, place):
        return label_weight_at(self.sequence.label_weight, place)

    def distiller(self, student, teacher, label_weight):
        """The Distiller of a student. Without a teacher, the data bring soft targets."""
        return StudentDistiller(
            student=student,
            teacher=teacher,
            distillation_loss=self.sequence.distillation_loss,
            label_weight=label_weight,
            feature_matching=self.sequence.feature_matching,
            augmentation=self.sequence.augmentation,
        )


def entropy_of(run, seed, resume):
    """The number from which the seeds of the generations are derived: `seed`, that of the run, or a new one."""
    if run is None or run.manifest is None or (not resume and run.holds_nothing):
        drawn = process_group.chiefs(np.random.SeedSequence().entropy % 2**32, "agree on a seed")
        return int(drawn) if seed is None else seed
    if not resume:
        raise ValueError(
            f"{run.path} holds a run, and `resume=False` begins another, which would have to be written over it: "
            "choose a new directory."
        )
    return run.manifest["seed"] if seed is None else seed


class StudentDistiller(Distiller):
    """The Distiller of one generation. Its sequence has checked the outputs."""

    def _check_outputs(self):
        pass

    def _warn_of_own_steps(self, student):
        warn_of_own_steps(student, type(self), NO_HOOK)
