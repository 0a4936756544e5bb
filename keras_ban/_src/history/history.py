"""The scores of generations, each compared with its teacher: a table, a plot, a paired test."""

import dataclasses
import importlib.util
import io
import json
import math

import numpy as np

from keras_ban._src.history import controls
from keras_ban._src.history.controls import Controls

CALIBRATION_BINS = 15
SIGNIFICANCE = 0.05
ENSEMBLE = "ensemble"


@dataclasses.dataclass
class Scores:
    """A classifier's scores on one set of examples, and its differences from another model.

    Attributes:
        examples: number of examples.
        accuracy: share of examples whose most probable class is the label, in [0, 1].
        nll: mean negative log-likelihood of the labels, in nats.
        ece: expected calibration error (Guo et al., 2017; top label, 15 bins of equal width), in [0, 1].
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
        if not _has_scipy():
            raise ImportError('The significance test needs SciPy: `pip install "keras-ban[plot]"`.')
        # Optional.
        from scipy import stats

        return float(stats.binomtest(self.positive_flips, flips, 0.5).pvalue)


def score(labels, probabilities, before=None, compared_with=None):
    """Return the `Scores` of `probabilities`, `(n, classes)`, for `labels`, class indices `(n,)`.

    With `before`, the probabilities of generation `compared_with` (or `"ensemble"`), the two models are compared.
    """
    labels = np.asarray(labels)
    probabilities = np.asarray(probabilities, dtype="float64")
    predicted = probabilities.argmax(axis=-1)
    right = predicted == labels
    of_label = np.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]
    scores = Scores(
        examples=len(labels),
        accuracy=float(right.mean()),
        nll=float(-np.log(np.maximum(of_label, 1e-30)).mean()),
        ece=expected_calibration_error(right, probabilities.max(axis=-1)),
    )
    if before is not None:
        predicted_before = np.asarray(before).argmax(axis=-1)
        right_before = predicted_before == labels
        scores.compared_with = compared_with
        scores.agreement = float((predicted == predicted_before).mean())
        scores.positive_flips = int((right & ~right_before).sum())
        scores.negative_flips = int((right_before & ~right).sum())
    return scores


def expected_calibration_error(right, confidence, bins=CALIBRATION_BINS):
    """Return the calibration error `sum over bins of |bin| / n * |accuracy - mean confidence|` (Guo et al., 2017).

    It is in [0, 1]. The bins have equal width in (0, 1]. `right` is whether each prediction is right, and `confidence`
    is the probability of the predicted class, both `(n,)`.
    """
    which = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(which, weights=np.asarray(right, dtype="float64") - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(which))


@dataclasses.dataclass
class GenerationRecord:
    """The results of one generation, as plain data.

    Attributes:
        generation: number of the generation. 0 is the first teacher.
        seed: the seed of the generation. `None` for a teacher that was passed to `fit`.
        epochs: number of epochs trained.
        seconds: wall time of training, in seconds.
        metrics: results of `evaluate` on the validation data after training. Names start with `val_`, as in Keras.
        logs: Keras's `History.history`: for each name, a list with a value for each epoch.
        scores: `Scores` of a classifier. `None` for other models, and without data to score on.
        distilled: whether this is the student distilled from the ensemble (`distill_ensemble`). Its `generation` is the
            number after the last generation.
    """

    generation: int
    seed: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    metrics: dict = dataclasses.field(default_factory=dict)
    logs: dict = dataclasses.field(default_factory=dict)
    scores: Scores | None = None
    distilled: bool = False


@dataclasses.dataclass
class BornAgainHistory:
    """The records of all generations, with a table, a plot, and conversion to and from JSON.

    Attributes:
        records: a `GenerationRecord` for each generation, in order, and for the distilled student, if there is one.
        monitor: the metric that selects the best generation.
        mode: `"min"` or `"max"`: whether smaller or larger values of the monitor are better.
        data: name of the data that the scores were measured on, for instance `"validation"`. Used in titles.
        ensemble: `Scores` of the average of all generations, without the distilled student, compared with generation
            0. `None` without scores.
        controls: `Controls`, the results of models trained on labels alone at the same cost. `None` without any.
    """

    records: list = dataclasses.field(default_factory=list)
    monitor: str = "val_loss"
    mode: str = "min"
    data: str = "validation"
    ensemble: Scores | None = None
    controls: Controls | None = None

    @property
    def best_generation(self):
        """The generation with the best monitored value, the earliest of equals. NaN is never the best.

        Raises:
            ValueError: if there are no records, or no generation has the monitored value.
        """
        values = self._monitored()
        if not values:
            known = sorted({name for record in self.records for name in record.metrics})
            raise ValueError(
                f"There is no best generation: {self.monitor!r} has no value other than NaN (known: {known}). Pass "
                "`validation_data` or `validation_split` to `fit`, and a `monitor` that is measured on it."
            )
        return (min if self.mode == "min" else max)(values, key=values.get)

    @property
    def members(self):
        """The records of the ensemble's members: all generations, without the distilled student."""
        return [record for record in self.records if not record.distilled]

    def _monitored(self):
        values = {record.generation: record.metrics.get(self.monitor, math.nan) for record in self.records}
        return {generation: value for generation, value in values.items() if not math.isnan(value)}

    def summary(self):
        """Return a table as text, with a row for each generation, the distilled student, the ensemble and each control.

        The columns for classifiers: accuracy, negative log-likelihood (NLL), expected calibration error (ECE), change
        of accuracy from the teacher (the previous generation, or the ensemble of all earlier ones) with McNemar's exact
        test, a verdict, agreement with the teacher, negative flips (right before, wrong now) and training time in
        seconds. The columns for other models: the results of `evaluate`. A star marks the best generation by the
        monitor.

        Returns:
            str, lines of at most 120 columns.
        """
        # Optional.
        from rich import box
        from rich.console import Console
        from rich.table import Table

        scored = any(record.scores for record in self.records)
        names = list(dict.fromkeys(name for record in self.records for name in record.metrics))
        table = Table(title=f"Generations on {self.data} data{self._count()}", box=box.SIMPLE_HEAD)
        table.add_column("generation")
        for name in (_SCORE_COLUMNS if scored else names) + ["seconds"]:
            table.add_column(name, justify="left" if name == "verdict" else "right")
        best = self.best_generation if self._monitored() else None
        for record in self.records:
            label = str(record.generation)
            label += " distilled" if record.distilled else " (teacher)" if record.generation == 0 else ""
            cells = _score_cells(record.scores) if scored else [_number(record.metrics.get(name)) for name in names]
            table.add_row(label + (" *" if record.generation == best else ""), *cells, f"{record.seconds:.1f}")
        if self.ensemble is not None:
            total = sum(record.seconds for record in self.members)
            table.add_section()
            table.add_row(f"ensemble of {len(self.members)}", *_score_cells(self.ensemble), f"{total:.1f}")
        if self.controls is not None:
            table.add_section()
            for label, scores, metrics, seconds in controls.rows(self):
                cells = _score_cells(scores) if scored else [_number(metrics.get(name)) for name in names]
                table.add_row(label, *cells, f"{seconds:.1f}")
        # The text does not depend on the terminal, and names with [brackets] or :colons: are not read as markup.
        text = io.StringIO()
        Console(file=text, width=120, color_system=None, force_jupyter=False, markup=False, emoji=False).print(table)
        lines = [line.rstrip() for line in text.getvalue().rstrip().splitlines()]
        return "\n".join([*lines, *self._notes(scored, best)])

    def _count(self):
        scores = next((record.scores for record in self.records if record.scores), None)
        return f" ({scores.examples} examples)" if scores else ""

    def _notes(self, scored, best):
        notes = []
        if best is not None:
            notes.append(f"* best {self.monitor}{'' if self.data == 'validation' else ' on the validation data'}")
        if any(record.distilled for record in self.records):
            notes.append(f"distilled: no generation, but a student of {in_words(ENSEMBLE, len(self.members))}")
        if scored:
            notes.append(
                "change: accuracy in percentage points against its own teacher (ensemble: against generation 0), with "
                "McNemar's exact p"
            )
            if any(record.scores and record.scores.compared_with == ENSEMBLE for record in self.records):
                notes.append("vs E: against the ensemble of all generations before it, which was its teacher")
            if not _has_scipy():
                notes.append('no p-values: SciPy is not installed (`pip install "keras-ban[plot]"`)')
            for record in self.records:
                if record.scores and record.scores.change is not None and record.scores.change <= 0:
                    what = "the distilled student" if record.distilled else f"generation {record.generation}"
                    teacher = in_words(record.scores.compared_with, record.generation)
                    notes.append(f"{what} did not beat its teacher, {teacher}")
        if self.controls is not None:
            notes += controls.notes(self, best, _p_in_words, better)
        return notes

    def plot(self, path=None):
        """Plot the generations: accuracy, NLL and calibration error of classifiers, and the validation curves.

        Args:
            path: file to write (PNG, PDF, SVG, by its suffix). `None` writes no file.

        Returns:
            `matplotlib.figure.Figure`.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if there are no records.
        """
        # Imports matplotlib, which is optional.
        from keras_ban._src.history import plot

        figure = plot.draw(self)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def to_dict(self):
        """Return the history as plain data for JSON."""
        data = dataclasses.asdict(self)
        if self.controls is None:
            del data["controls"]
        return data

    @classmethod
    def from_dict(cls, data):
        """Create a history from the result of `to_dict`."""
        records = [GenerationRecord(**{**r, "scores": _scores_from(r["scores"])}) for r in data["records"]]
        more = {"records": records, "ensemble": _scores_from(data["ensemble"])}
        if "controls" in data:
            more["controls"] = Controls.from_dict(data["controls"], _scores_from)
        return cls(**{**data, **more})

    def to_json(self):
        """Return the history as JSON text, with `NaN` and `Infinity` as Python's `json` reads them."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text):
        """Create a history from the result of `to_json`."""
        return cls.from_dict(json.loads(text))


_SCORE_COLUMNS = ["accuracy", "NLL", "ECE", "change", "p", "verdict", "agreement", "neg. flips"]


def _score_cells(scores):
    if scores is None:
        return [""] * len(_SCORE_COLUMNS)
    cells = [f"{scores.accuracy:.2%}", f"{scores.nll:.4f}", f"{scores.ece:.2%}"]
    if scores.compared_with is None:
        return [*cells, "", "", "", "", ""]
    p_value = scores.p_value if _has_scipy() else None
    return [
        *cells,
        f"{100 * scores.change:+.2f} vs {'E' if scores.compared_with == ENSEMBLE else scores.compared_with}",
        "" if p_value is None else f"{p_value:.3f}",
        _verdict(scores.change, p_value),
        f"{scores.agreement:.1%}",
        str(scores.negative_flips),
    ]


def in_words(teacher, generation):
    """Name the teacher of a generation: a number, or `"ensemble"` for all earlier generations."""
    return f"the ensemble of generations 0 to {generation - 1}" if teacher == ENSEMBLE else f"generation {teacher}"


def _verdict(change, p_value):
    """Return a verdict, with "(chance?)" if McNemar's test is not significant at the 5% level."""
    if change == 0:
        return "no better"
    chance = "" if p_value is None or p_value < SIGNIFICANCE else " (chance?)"
    return ("better" if change > 0 else "worse") + chance


def _p_in_words(scores):
    """Return the p-value of a comparison for a sentence, with "chance?" as in a verdict."""
    if not _has_scipy():
        return ""
    return f", p {scores.p_value:.3f}" + ("" if scores.p_value < SIGNIFICANCE else ", chance?")


def _number(value):
    return "" if value is None else f"{value:.4g}"


def _scores_from(data):
    return None if data is None else Scores(**data)


def _has_scipy():
    return importlib.util.find_spec("scipy") is not None


def better(mode, value, best):
    """Return whether `value` is better than `best`. NaN never is, and any other value is better than NaN."""
    if math.isnan(value) or math.isnan(best):
        return not math.isnan(value)
    return value < best if mode == "min" else value > best
