"""The content of the tables of a `BornAgainHistory`, and of the notes under them."""

import dataclasses
import math
from typing import Any

import numpy as np

from keras_ban._src.history import controls, intervals
from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.scores import ENSEMBLE, SIGNIFICANCE, Scores, by_output, has_scipy, in_words, p_in_words

# Compiled metrics that may be scores under another name, and the columns of these.
_SAME = {"loss": "NLL", "accuracy": "accuracy", "acc": "accuracy"}
# The order in which columns get room. Those up to `NEEDED` are always shown.
_RANKS = {"accuracy": 0, "NLL": 0, "loss": 0, "change": 2, "p": 3, "epochs": 4, "verdict": 6, "seconds": 7, "ECE": 8}
_RANKS |= {"cal.\nNLL": 9, "cal.\nECE": 9, "agree": 10, "neg.\nflips": 11, "95% interval": 12}
_MAIN_METRIC, NEEDED = 1, 5
_CHANCE = f" ({SIGNIFICANCE} or more: it may be chance)"


@dataclasses.dataclass
class Row:
    """A model's row. `scores` are as in `GenerationRecord`. `record` is that of a generation, and `None` of others."""

    name: str
    scores: Scores | LossScores | dict | None
    metrics: dict
    epochs: int
    seconds: float
    record: Any = None


@dataclasses.dataclass
class Column:
    """A column: its header, its cells from the first row to the last, and its rank. Those of rank 0 are needed most."""

    header: str
    cells: list
    rank: int

    @property
    def name(self):
        return self.header.replace("\n", " ")

    @property
    def is_needed(self):
        return self.rank <= NEEDED


@dataclasses.dataclass
class Table:
    """A title, the labels of the rows in sections, the columns, none of which is empty, and what a row is."""

    title: str
    sections: list
    columns: list
    rows: str = "generation"


def tables(history, with_intervals=False):
    """Return the `Table` of all models, and one for each of several outputs.

    `with_intervals`: whether accuracies have a column of 95% intervals beside them.
    """
    sections = rows_of(history)
    labels = [[_label(row, history) for row in section] for section in sections]
    rows = [row for section in sections for row in section]
    columns = [
        *_score_columns([row.scores for row in rows], with_intervals),
        *_metric_columns(history, rows),
        _column("epochs", [str(row.epochs) if row.epochs else "" for row in rows]),
        _column("seconds", [f"{row.seconds:.1f}" for row in rows]),
    ]
    found = [Table(f"Generations on {history.data} data{_count(rows)}", labels, _without_empty(columns))]
    for output in dict.fromkeys(name for row in rows if isinstance(row.scores, dict) for name in row.scores):
        scores = [row.scores.get(output) if isinstance(row.scores, dict) else None for row in rows]
        columns = _score_columns(scores, with_intervals)
        if not any(isinstance(each, Scores) for each in scores):
            columns.insert(0, _column("loss", [f"{each.loss:.4g}" if each is not None else "" for each in scores]))
        found.append(Table(f"Output {output!r}", labels, _without_empty(columns)))
    return found


def best_of(history):
    """Return the best generation, or `None` if there is none."""
    return history.best_generation if history.monitored() else None


def rows_of(history):
    """Return the rows in up to three sections: the generations, the ensemble, the controls."""
    generations = []
    for record in history.records:
        name = "distilled" if record.distilled else f"generation {record.generation}"
        generations.append(Row(name, record.scores, record.measured, record.epochs, record.seconds, record))
    sections = [generations]
    if history.ensemble is not None or history.ensemble_metrics:
        cost = [sum(getattr(record, name) for record in history.members) for name in ("epochs", "seconds")]
        sections.append([Row(ENSEMBLE, history.ensemble, history.ensemble_metrics, *cost)])
    if history.controls is not None:
        sections.append([Row(*row) for row in controls.rows(history)])
    return sections


def _label(row, history):
    record = row.record
    if record is None:
        return f"{ENSEMBLE} of {len(history.members)}" if row.name == ENSEMBLE else row.name
    kind = " distilled" if record.distilled else " (teacher)" if record.generation == 0 else ""
    return f"{record.generation}{kind}{' *' if record.generation == best_of(history) else ''}"


def _column(header, cells):
    return Column(header, cells, _RANKS[header])


def _without_empty(columns):
    return [column for column in columns if any(column.cells)]


def _metric_columns(history, rows):
    """Return the columns of the compiled metrics, except those that are a score under another name."""
    columns = []
    for name in dict.fromkeys(name for row in rows for name in row.metrics):
        if _score_of(name, rows) is not None:
            continue
        is_main = name.removeprefix("val_") in ("loss", history.monitor.removeprefix("val_"))
        cells = [_number(row.metrics.get(name)) for row in rows]
        columns.append(Column(name, cells, _MAIN_METRIC if is_main else NEEDED))
    return columns


def _score_of(name, rows):
    """Return the column of scores that holds the values of a compiled metric, or `None`."""
    column = _SAME.get(name.removeprefix("val_"))
    measured = [(row.metrics[name], row.scores) for row in rows if name in row.metrics]
    if column is None or not measured or not all(isinstance(scores, Scores) for _, scores in measured):
        return None
    # A metric is a float32, a score a float64.
    pairs = ((value, getattr(scores, column.lower())) for value, scores in measured)
    return column if all(math.isclose(*pair, rel_tol=1e-4, abs_tol=1e-6) for pair in pairs) else None


def _flat(rows):
    """Return the scores of all outputs of rows, or of records."""
    return [each for row in rows for each in by_output(row.scores).values()]


def _count(rows):
    scores = _flat(rows)
    return f" ({scores[0].examples} examples)" if scores else ""


def _score_columns(scores, with_intervals):
    """Return the columns of one output's scores, of a dict none. `scores` has one entry for each row."""
    if any(isinstance(each, Scores) for each in scores):
        cells = [_score_cells(each, with_intervals) if isinstance(each, Scores) else {} for each in scores]
    else:
        cells = [_loss_cells(each) if isinstance(each, LossScores) else {} for each in scores]
    headers = max(cells, key=len, default={})
    return [_column(header, [each.get(header, "") for each in cells]) for header in headers]


def _score_cells(scores, with_intervals):
    interval = {"95% interval": interval_in_words(scores)} if with_intervals else {}
    calibrated, compared = scores.calibrated_nll is not None, scores.compared_with is not None
    # Without a test, nobody knows whether a change is chance.
    tested = compared and has_scipy()
    return {
        "accuracy": f"{scores.accuracy:.2%}",
        **interval,
        "NLL": f"{scores.nll:.4f}",
        "cal.\nNLL": f"{scores.calibrated_nll:.4f}" if calibrated else "",
        "ECE": f"{scores.ece:.2%}",
        "cal.\nECE": f"{scores.calibrated_ece:.2%}" if calibrated else "",
        "change": f"{100 * scores.change:+.2f} vs {_other(scores)}" if compared else "",
        "p": p_in_words(scores.p_value) if tested else "",
        "verdict": _verdict(scores.change, scores.p_value) if tested else "",
        "agree": f"{scores.agreement:.1%}" if compared else "",
        "neg.\nflips": str(scores.negative_flips) if compared else "",
    }


def interval_in_words(scores):
    """Return the 95% interval of an accuracy as text."""
    interval = intervals.of_accuracy(scores)
    return "" if interval is None else f"{interval[0]:.1%} to {interval[1]:.1%}"


def _loss_cells(scores):
    if scores.change is None:
        return {}
    return {
        "change": f"{scores.change:+.4g} vs {_other(scores)}",
        "p": p_in_words(scores.p_value),
        "verdict": _verdict(_gain(scores), scores.p_value),
    }


def _other(scores):
    return "E" if scores.compared_with == ENSEMBLE else scores.compared_with


def _verdict(gain, p_value):
    """Return a verdict, with "(chance?)" if the test is not significant at the 5% level."""
    if gain == 0:
        return "no better"
    return ("better" if gain > 0 else "worse") + ("" if p_value < SIGNIFICANCE else " (chance?)")


def _number(value):
    if isinstance(value, list):
        return f"{np.mean(value):.4g} (mean of {np.size(value)})"  # As Keras's progress bar shows it.
    return "" if value is None else f"{value:.4g}"


# Notes


def notes(history, left_out=()):
    """Return the sentences under the tables. `left_out` are the names of columns that are not shown."""
    found, best = [], best_of(history)
    rows = [row for section in rows_of(history) for row in section]
    scores = _flat(rows)
    if best is not None:
        column = _score_of(history.monitor, rows)
        found.append(f"* best {history.monitor}" + ("" if column is None else f", which is the {column}"))
        found[-1] += "" if history.data == "validation" else " on the validation data"
    if any(record.distilled for record in history.records):
        found.append(f"distilled: no generation, but a student of {in_words(ENSEMBLE, len(history.members))}")
    is_calibrated = any(isinstance(each, Scores) and each.calibrated_nll is not None for each in scores)
    if is_calibrated and not {"cal. NLL", "cal. ECE"} <= set(left_out):
        found.append("cal.: with a temperature, found on one half of the data and applied to the other")
    found += _about_changes(scores)
    if any(each.compared_with == ENSEMBLE for each in _flat(history.records)):
        found.append("vs E: against the ensemble of all generations before it, which was its teacher")
    for record in history.records:
        found += _defeats(record)
    found += history.notes
    if history.controls is not None:
        found += controls.notes(history, best)
    return found


def _about_changes(scores):
    of_classes = any(isinstance(each, Scores) for each in scores)
    if of_classes:
        test = f", with McNemar's exact p{_CHANCE}" if has_scipy() else ""
        yield f"change: accuracy in percentage points against its own teacher (ensemble: against generation 0){test}"
    if any(isinstance(each, LossScores) and each.change is not None for each in scores):
        which = " of other outputs" if of_classes else ""
        yield (
            f"change{which}: loss against its own teacher (ensemble: against generation 0), with a paired permutation "
            f"test's p{_CHANCE}"
        )
    if of_classes and not has_scipy():
        yield (
            "no p-values, and no verdicts, of changes of accuracy: SciPy is not installed (`pip install "
            '"keras-ban[plot]"`)'
        )


def _defeats(record):
    """Return a line for each output in which a generation did not beat its teacher."""
    subject = "the distilled student" if record.distilled else f"generation {record.generation}"
    for output, scores in by_output(record.scores).items():
        if scores.change is not None and not _gain(scores) > 0:
            teacher = in_words(scores.compared_with, record.generation)
            yield f"{subject} did not beat its teacher, {teacher}{'' if output is None else f', in {output!r}'}"


def _gain(scores):
    """Return a number above 0 if the model is better than the other."""
    return scores.change if isinstance(scores, Scores) else -scores.change
