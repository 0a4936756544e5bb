"""The Distillers of a sequence's students."""

from keras_ban._src.distillation.distiller import Distiller
from keras_ban._src.distillation.requirements import NO_HOOK, warn_of_own_steps


class StudentDistiller(Distiller):
    """The Distiller of one generation. Its sequence has checked the outputs."""

    def _check_outputs(self):
        pass

    def _warn_of_own_steps(self, student):
        warn_of_own_steps(student, type(self), NO_HOOK)


def distiller_for(sequence, student, teacher, label_weight):
    """Return the Distiller of a student with a sequence's settings. Without a teacher, the data bring soft targets."""
    return StudentDistiller(
        student=student,
        teacher=teacher,
        distillation_loss=sequence.distillation_loss,
        label_weight=label_weight,
        feature_matching=sequence.feature_matching,
        augmentation=sequence.augmentation,
    )


def label_weight_at(sequence, place):
    """Return the label weight of a student; the distilled student has that of the last generation."""
    label_weight = sequence.label_weight
    return label_weight[min(place, len(label_weight)) - 1] if isinstance(label_weight, list) else label_weight
