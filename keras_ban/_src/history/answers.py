"""What a classifier answered on each example: what reports show beyond scores."""

import dataclasses

import numpy as np


@dataclasses.dataclass(eq=False)
class Answers:
    """The answers of a classifier on the examples that it was scored on, in their order. They are not stored.

    Attributes:
        classes: the number of classes.
        labels: class indices, `(n,)`.
        predicted: the most probable class of each example, `(n,)`.
        confidence: the probability of this class, `(n,)`.
        of_label: the probability of the label, `(n,)`.
        calibrated_confidence: as `confidence`, with the cross-fitted temperature of `Scores`. `None` for less than 4
            examples.
    """

    classes: int
    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    of_label: np.ndarray
    calibrated_confidence: np.ndarray | None = None

    def __post_init__(self):
        # All of it stays in memory as long as the history.
        self.labels, self.predicted = (each.astype("int32") for each in (self.labels, self.predicted))
        self.confidence, self.of_label = (each.astype("float32") for each in (self.confidence, self.of_label))
        if self.calibrated_confidence is not None:
            self.calibrated_confidence = self.calibrated_confidence.astype("float32")

    @property
    def are_right(self):
        return self.predicted == self.labels

    @property
    def nll(self):
        """The negative log-likelihood of each label, `(n,)`."""
        return -np.log(np.maximum(self.of_label.astype("float64"), 1e-30))
