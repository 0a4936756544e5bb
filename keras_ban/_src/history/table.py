"""The tables of a `BornAgainHistory`, with rich."""

import dataclasses
import io
import textwrap

from keras_ban._src.history import controls
from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.scores import ENSEMBLE, SIGNIFICANCE, Scores, has_scipy, in_words

WIDTH = 120
# The columns for labels and seconds, and those of a comparison of losses.
_LABELS, _COMPARISON = 32, 45
# What the scores of a classifier show already.
_SHOWN = ("loss", "accuracy", "acc")


@dataclasses.dataclass
class _Row:
    """A model's row. `scores` are as in `GenerationRecord`."""

    label: str
    scores: Scores | LossScores | dict | None
    metrics: dict
    seconds: float


def draw(history):
    """Return the tables and the notes under them, as text of at most 120 columns."""
    best = history.best_generation if history.monitored() else None
    sections = _sections(history, best)
    rows = [row for section in sections for row in section]
    outputs = list(dict.fromkeys(name for row in rows if isinstance(row.scores, dict) for name in row.scores))
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    scored = any(isinstance(row.scores, Scores) for row in rows)
    columns = _columns([row.scores for row in rows])
    if scored:
        names = [name for name in names if name.removeprefix("val_") not in _SHOWN]
        chunks = [[], *_chunks(names, WIDTH - _LABELS)]
    else:
        chunks = _chunks(names, WIDTH - _LABELS - (_COMPARISON if columns else 0), WIDTH - _LABELS) or [[]]

    def metrics_of(row, some):
        return [_number(row.metrics.get(name)) for name in some]

    title = f"Generations on {history.data} data{_count(rows)}"
    lines = _lines(
        title,
        sections,
        [*chunks[0], *columns, "seconds"],
        lambda row: [*metrics_of(row, chunks[0]), *_cells(row.scores, columns), f"{row.seconds:.1f}"],
    )
    for output in outputs:
        columns_of_output = _columns([_of_output(row, output) for row in rows])
        if "change" in columns_of_output and "NLL" not in columns_of_output:
            columns_of_output = ["loss", *columns_of_output]

        def cells(row, output=output, columns=columns_of_output):
            return _cells(_of_output(row, output), columns)

        lines += ["", *_lines(f"Output {output!r}", sections, columns_of_output, cells)]
    for some in chunks[1:]:
        lines += ["", *_lines("Metrics", sections, some, lambda row, some=some: metrics_of(row, some))]
    notes = [line for note in _notes(history, rows, best) for line in textwrap.wrap(note, WIDTH)]
    return "\n".join([*lines, *notes])


def _sections(history, best):
    """Return the rows: the generations, the ensemble, the controls."""
    generations = []
    for record in history.records:
        label = str(record.generation)
        label += " distilled" if record.distilled else " (teacher)" if record.generation == 0 else ""
        label += " *" if record.generation == best else ""
        generations.append(_Row(label, record.scores, record.measured, record.seconds))
    sections = [generations]
    if history.ensemble is not None or history.ensemble_metrics:
        total = sum(record.seconds for record in history.members)
        label = f"ensemble of {len(history.members)}"
        sections.append([_Row(label, history.ensemble, history.ensemble_metrics, total)])
    if history.controls is not None:
        sections.append([_Row(*row) for row in controls.rows(history)])
    return sections


def _lines(title, sections, columns, cells):
    """Return the lines of one table. `cells` is a function from a row to its cells without the label."""
    # Optional.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=columns.count("cal.") > 0)
    table.add_column("generation")
    for name in columns:
        table.add_column(name, justify="left" if name == "verdict" else "right")
    for section in sections:
        for row in section:
            table.add_row(row.label, *cells(row))
        table.add_section()
    # The text does not depend on the terminal, and names with [brackets] or :colons: are not read as markup.
    text = io.StringIO()
    Console(file=text, width=WIDTH, color_system=None, force_jupyter=False, markup=False, emoji=False).print(table)
    return [line.rstrip() for line in text.getvalue().rstrip().splitlines()]


def _chunks(names, first, rest=None):
    """Return the names of columns in lists, each as wide as `first` allows, and the later ones as `rest`."""
    chunks, left = [], 0
    for name in names:
        width = max(len(name), 9) + 2
        if not chunks or width > left:
            left = first if not chunks else rest or first
            chunks.append([])
        chunks[-1].append(name)
        left -= width
    return chunks


def _of_output(row, output):
    return row.scores.get(output) if isinstance(row.scores, dict) else None


def _columns(scores):
    """Return the columns of scores: none if there are none, or of several outputs."""
    if any(isinstance(each, Scores) for each in scores):
        return _CALIBRATED_COLUMNS if _has_calibrated(scores) else _SCORE_COLUMNS
    return _LOSS_COLUMNS if any(isinstance(each, LossScores) for each in scores) else []


def _has_calibrated(scores):
    return any(isinstance(each, Scores) and each.calibrated_nll is not None for each in scores)


def _flat(rows):
    """Return the scores of all rows and outputs, except `None`."""
    found = [each for row in rows for each in (row.scores.values() if isinstance(row.scores, dict) else [row.scores])]
    return [each for each in found if each is not None]


def _count(rows):
    scores = _flat(rows)
    return f" ({scores[0].examples} examples)" if scores else ""


def _notes(history, rows, best):
    notes, scores = [], _flat(rows)
    if best is not None:
        notes.append(f"* best {history.monitor}{'' if history.data == 'validation' else ' on the validation data'}")
    if any(record.distilled for record in history.records):
        notes.append(f"distilled: no generation, but a student of {in_words(ENSEMBLE, len(history.members))}")
    if _has_calibrated(scores):
        notes.append("cal.: with a temperature, found on one half of the data and applied to the other")
    if any(isinstance(each, Scores) for each in scores):
        notes.append(
            "change: accuracy in percentage points against its own teacher (ensemble: against generation 0), with "
            "McNemar's exact p"
        )
    if any(isinstance(each, LossScores) and each.change is not None for each in scores):
        which = "" if not any(isinstance(each, Scores) for each in scores) else " of other outputs"
        notes.append(
            f"change{which}: loss against its own teacher (ensemble: against generation 0), with a paired permutation "
            "test's p"
        )
    if any(each.compared_with == ENSEMBLE for record in history.records for each in _of(record)):
        notes.append("vs E: against the ensemble of all generations before it, which was its teacher")
    if any(isinstance(each, Scores) for each in scores) and not has_scipy():
        notes.append('no p-values: SciPy is not installed (`pip install "keras-ban[plot]"`)')
    for record in history.records:
        notes += _defeats(record)
    notes += history.notes
    if history.controls is not None:
        notes += controls.notes(history, best)
    return notes


def _of(record):
    """Return the scores of a record's outputs."""
    return _flat([_Row("", record.scores, {}, 0)])


def _defeats(record):
    """Return a line for each output in which a generation did not beat its teacher."""
    what = "the distilled student" if record.distilled else f"generation {record.generation}"
    named = record.scores if isinstance(record.scores, dict) else {None: record.scores}
    for output, scores in named.items():
        if scores is not None and scores.change is not None and not _gain(scores) > 0:
            teacher = in_words(scores.compared_with, record.generation)
            yield f"{what} did not beat its teacher, {teacher}{'' if output is None else f', in {output!r}'}"


def _gain(scores):
    """Return a number above 0 if the model is better than the other."""
    return scores.change if isinstance(scores, Scores) else -scores.change


_SCORE_COLUMNS = ["accuracy", "NLL", "ECE", "change", "p", "verdict", "agreement", "neg. flips"]
# Narrower, because there are two columns more.
_CALIBRATED_COLUMNS = ["accuracy", "NLL", "cal.", "ECE", "cal.", "change", "p", "verdict", "agree", "neg.\nflips"]
_LOSS_COLUMNS = ["change", "p", "verdict"]


def _cells(scores, columns):
    if not isinstance(scores, (Scores, LossScores)):
        return [""] * len(columns)
    if isinstance(scores, Scores):
        return _score_cells(scores, "cal." in columns)
    cells = ["", "", ""] if scores.change is None else _loss_cells(scores)
    return [*([f"{scores.loss:.4g}"] if "loss" in columns else []), *cells]


def _loss_cells(scores):
    return [
        f"{scores.change:+.4g} vs {_other(scores)}",
        f"{scores.p_value:.3f}",
        _verdict(_gain(scores), scores.p_value),
    ]


def _score_cells(scores, calibrated):
    cells = [f"{scores.accuracy:.2%}", f"{scores.nll:.4f}", f"{scores.ece:.2%}"]
    if calibrated:
        known = scores.calibrated_nll is not None
        cells.insert(2, f"{scores.calibrated_nll:.4f}" if known else "")
        cells.append(f"{scores.calibrated_ece:.2%}" if known else "")
    if scores.compared_with is None:
        return [*cells, "", "", "", "", ""]
    p_value = scores.p_value if has_scipy() else None
    return [
        *cells,
        f"{100 * scores.change:+.2f} vs {_other(scores)}",
        "" if p_value is None else f"{p_value:.3f}",
        _verdict(scores.change, p_value),
        f"{scores.agreement:.1%}",
        str(scores.negative_flips),
    ]


def _other(scores):
    return "E" if scores.compared_with == ENSEMBLE else scores.compared_with


def _verdict(gain, p_value):
    """Return a verdict, with "(chance?)" if the test is not significant at the 5% level."""
    if gain == 0:
        return "no better"
    chance = "" if p_value is None or p_value < SIGNIFICANCE else " (chance?)"
    return ("better" if gain > 0 else "worse") + chance


def _number(value):
    return "" if value is None else f"{value:.4g}"
