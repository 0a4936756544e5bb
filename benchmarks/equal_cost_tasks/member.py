"""What a trained model is: how long it was trained, by whom it was taught, and from which weights it started."""

import dataclasses
import fractions
import hashlib


@dataclasses.dataclass(frozen=True)
class Lesson:
    """How a student listens to its teachers.

    Args:
        temperature: that of the distillation loss, for teacher and student.
        label_weight: a number, or `(first, last)` over the training.
        softened: divides the teachers' logits, not the student's. `"calibrated"`: by the temperature with the smallest
            NLL on held-out examples. `"honest"`: by the one with which the NLL on the training examples is that of
            the calibrated teacher on held-out examples, because a teacher is too sure of what it was trained on.
            `"cross-fitted"`: by the one with which the NLL of the average of `FoldMember`s on the training examples is
            that of each on the fold that it was not trained on, after calibration there. `None`: by 1.
        balanced: whether each epoch has as many unlabeled inputs as labeled ones: another part of them each time.
    """

    temperature: float = 1.0
    label_weight: float | tuple = 0.5
    softened: str | None = None
    balanced: bool = False


@dataclasses.dataclass(frozen=True)
class Member:
    """A model of the benchmark. Two members that are equal are one model, which is trained once.

    Args:
        length: its own training, in plain trainings.
        number: tells apart members that are alike but for their random numbers.
        teachers: the members whose average teaches it. Without them it learns from labels alone.
        lesson: how it listens to them.
        start: the member whose weights it starts with; `None`: new weights.
        unlabeled: whether it also learns from the inputs without labels.
    """

    length: int = 1
    number: int = 0
    teachers: tuple = ()
    lesson: Lesson | None = None
    start: "Member | None" = None
    unlabeled: bool = False

    @property
    def needs(self):
        """The members that must be trained before this one."""
        return (*self.teachers, *([] if self.start is None else [self.start]))

    @property
    def cost(self):
        """What its own training costs, in plain trainings."""
        return self.length

    @property
    def name(self):
        """A text that is the same in each process. Files and random seeds are made from it."""
        return hashlib.sha256(repr(self).encode()).hexdigest()[:20]


class MixedMember(Member):
    """A member whose images are mixed with others in each step of its training, and their labels with them: CutMix."""


@dataclasses.dataclass(frozen=True)
class FoldMember(Member):
    """A member that is trained on all labeled examples but those of one fold, for as many epochs.

    Args:
        fold: the fold that it is not trained on.
        folds: the number of folds.
    """

    fold: int = 0
    folds: int = 2

    @property
    def cost(self):
        return self.length * fractions.Fraction(self.folds - 1, self.folds)


def lineage(members):
    """Return the set of members that had to be trained to get these: they, their teachers, and so on."""
    found, waiting = set(), list(members)
    while waiting:
        member = waiting.pop()
        if member not in found:
            found.add(member)
            waiting.extend(member.needs)
    return found


def cost_of(members):
    """Return what members cost, in plain trainings. Teachers count, and no model counts twice."""
    return sum(member.cost for member in lineage(members))
