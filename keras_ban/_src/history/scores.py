"""The scores of a classifier, and its comparison with another: calibration, a paired test."""

import dataclasses
import importlib.util
import math

import numpy as np

from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.plain_data import entries, entry, from_plain
from keras_ban._src.losses.temperature import SMALLEST, best_temperature, log_of_probabilities, log_softmax

CALIBRATION_BINS = 15
SIGNIFICANCE = 0.05
ENSEMBLE = "ensemble"


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


@dataclasses.dataclass
class Scores:
    """A classifier's scores on one set of examples, and its differences from another model.

    Attributes:
        examples: number of examples.
        accuracy: share of examples whose most probable class is the label, in [0, 1].
        nll: mean negative log-likelihood of the labels, in nats.
        ece: expected calibration error (Guo et al., 2017; top label, 15 bins of equal width), in [0, 1].
        calibrated_nll, calibrated_ece: the same with a temperature, as `EnsembleModel.calibrate` finds it. They are
            cross-fitted, so that no example is scored with a temperature that it helped to find: the temperature of the
            examples at even places is applied to those at odd places and vice versa, and the two halves are scored
            together. Where each label of a half is its most probable class, no temperature is the best, and 1 is taken.
            `None` for less than 4 examples, and in files of old versions.
        temperature: the best temperature for all examples, above 0. Above 1 the model is too confident.
        compared_with: the generation compared with, usually the teacher. `"ensemble"` if all earlier generations were
            the teacher. `None` without a comparison.
        agreement: share of examples for which both predict the same class, in [0, 1].
        positive_flips: number of examples that were wrong before and are right now.
        negative_flips: number of examples that were right before and are wrong now.
    """

    examples: int
    accuracy: float
    nll: float
    ece: float
    compared_with: int | str | None = None
    agreement: float | None = None
    positive_flips: int | None = None
    negative_flips: int | None = None
    calibrated_nll: float | None = None
    calibrated_ece: float | None = None
    temperature: float | None = None
    # The `Answers` that were scored, in the process that scored them. No field: they are neither stored nor compared.
    answers = None

    @property
    def change(self):
        """Accuracy minus the other model's, in [-1, 1]. `None` without a comparison."""
        if self.compared_with is None:
            return None
        return (self.positive_flips - self.negative_flips) / self.examples

    @property
    def p_value(self):
        """Probability of flips at least this uneven if neither model were better (McNemar's exact, two-sided test).

        Raises:
            ImportError: if SciPy is not installed.
        """
        if self.compared_with is None:
            return None
        flips = self.positive_flips + self.negative_flips
        if flips == 0:
            return 1.0
        if not has_scipy():
            raise ImportError('The significance test needs SciPy: `pip install "keras-ban[plot]"`.')
        # Optional.
        from scipy import stats

        return float(stats.binomtest(self.positive_flips, flips, 0.5).pvalue)


def score(labels, probabilities, before=None, compared_with=None):
    """Return the `Scores` of `probabilities`, `(n, classes)`, for `labels`, class indices `(n,)`.

    With `before`, the probabilities of generation `compared_with` (or `"ensemble"`), or its most probable classes
    `(n,)`, the two models are compared.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype="float64")
    predicted, confidence = probabilities.argmax(axis=-1), probabilities.max(axis=-1)
    right = predicted == labels
    of_label = np.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
    answers = [probabilities.shape[-1], labels, predicted, confidence, of_label]
    scores = Scores(
        examples=len(labels),
        accuracy=float(right.mean()),
        nll=float(-np.log(np.maximum(of_label, 1e-30)).mean()),
        ece=expected_calibration_error(right, confidence),
    )
    if len(labels) >= 4:
        logits = log_of_probabilities(probabilities)
        calibrated = np.exp(_cross_fitted(logits, labels))
        of_label = np.take_along_axis(calibrated, labels[:, None], axis=-1)[:, 0]
        scores.calibrated_nll = float(-log_of_probabilities(of_label).mean())
        answers.append(calibrated.max(axis=-1))
        scores.calibrated_ece = expected_calibration_error(right, answers[-1])
        scores.temperature = _temperature(logits, labels)
    scores.answers = Answers(*answers)
    if before is not None:
        before = np.asarray(before)
        predicted_before = before if before.ndim == 1 else before.argmax(axis=-1)
        right_before = predicted_before == labels
        scores.compared_with = compared_with
        scores.agreement = float((predicted == predicted_before).mean())
        scores.positive_flips = int((right & ~right_before).sum())
        scores.negative_flips = int((right_before & ~right).sum())
    return scores


def _cross_fitted(logits, labels):
    """Return the logarithms of probabilities, each half of the examples with the temperature of the other half."""
    calibrated = np.empty_like(logits)
    for own, other in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        calibrated[own] = log_softmax(logits[own] / _temperature(logits[other], labels[other]))
    return calibrated


def _temperature(logits, labels):
    found = best_temperature(logits, labels)
    return found if found > SMALLEST else 1.0


def expected_calibration_error(right, confidence, bins=CALIBRATION_BINS):
    """Return the calibration error `sum over bins of |bin| / n * |accuracy - mean confidence|` (Guo et al., 2017).

    It is in [0, 1]. The bins have equal width in (0, 1]. `right` is whether each prediction is right, and `confidence`
    is the probability of the predicted class, both `(n,)`.
    """
    which = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=np.asarray(right, dtype="float64") - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(which))


def has_scipy():
    """Return whether SciPy is installed, which is optional."""
    return importlib.util.find_spec("scipy") is not None


def p_in_words(p_value):
    """Return a p-value as text. No probability is written as 0."""
    return "< 0.001" if p_value < 0.001 else f"{p_value:.3f}"


def significance_in_words(scores):
    """Return the p-value of a comparison for a sentence, with "chance?" if it is not significant at the 5% level."""
    if isinstance(scores, Scores) and not has_scipy():
        return "not tested"
    return f"p {p_in_words(scores.p_value)}" + ("" if scores.p_value < SIGNIFICANCE else ", chance?")


def in_words(teacher, generation):
    """Name the teacher of a generation: a number, or `"ensemble"` for all earlier generations."""
    return f"the ensemble of generations 0 to {generation - 1}" if teacher == ENSEMBLE else f"generation {teacher}"


def sort_key(mode, value):
    """Return a key by which values are sorted: the best first, NaN last."""
    return (math.isnan(value), value if mode == "min" else -value)


def better(mode, value, best):
    """Return whether `value` is better than `best`. NaN never is, and any other value is better than NaN."""
    return sort_key(mode, value) < sort_key(mode, best)


def take_answers(scores, again):
    """Give scores that were read from a file the answers, or the losses, of the same model scored `again`."""
    if isinstance(scores, dict) and isinstance(again, dict):
        for name, each in scores.items():
            take_answers(each, again.get(name))
    elif isinstance(scores, Scores) and isinstance(again, Scores):
        scores.answers = again.answers
    elif isinstance(scores, LossScores) and isinstance(again, LossScores):
        scores.losses = again.losses


def by_output(scores):
    """Return the scores of each output that has some, by its name. The name of the only output is `None`."""
    named = scores if isinstance(scores, dict) else {None: scores}
    return {name: each for name, each in named.items() if each is not None}


def examples_in(records):
    """Return the number of examples of the first `Scores` of records, or `None`."""
    return next((record.scores.examples for record in records if isinstance(record.scores, Scores)), None)


def scores_from(where, data):
    """Return `Scores`, `LossScores`, or a dict of them by output, of plain data. Return `None` of `None`."""
    if data is None:
        return None
    if isinstance(data, dict) and not all(isinstance(each, dict) for each in data.values()):
        return from_plain(where, Scores if "accuracy" in data else LossScores, data)
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be a dict or None, received: {data!r}.")
    return {name: scores_from(f"{name!r} of {where}", each) for name, each in data.items()}


def results_from(where, data, cls, record_class):
    """Return an instance of a dataclass that has `records`, of another class, and the scores of their `ensemble`."""
    records = []
    for name, record in entries(where, data, "records"):
        scores = scores_from(f"the scores of {name}", entry(name, record, "scores"))
        records.append(from_plain(name, record_class, {**record, "scores": scores}))
    ensemble = scores_from(f"the ensemble of {where}", entry(where, data, "ensemble"))
    return from_plain(where, cls, {**data, "records": records, "ensemble": ensemble})
