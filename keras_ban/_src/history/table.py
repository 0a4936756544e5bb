"""The table of a `BornAgainHistory`, with rich."""

import io

from keras_ban._src.history import controls
from keras_ban._src.history.scores import ENSEMBLE, SIGNIFICANCE, has_scipy, in_words


def draw(history):
    """Return the table and the notes under it, as text of at most 120 columns."""
    # Optional.
    from rich import box
    from rich.console import Console
    from rich.table import Table

    scored = any(record.scores for record in history.records)
    names = list(dict.fromkeys(name for record in history.records for name in record.metrics))
    calibrated = _has_calibrated(history)
    columns = (_CALIBRATED_COLUMNS if calibrated else _SCORE_COLUMNS) if scored else names

    def cells(scores, metrics):
        return _score_cells(scores, calibrated) if scored else [_number(metrics.get(name)) for name in names]

    title = f"Generations on {history.data} data{_count(history)}"
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=calibrated)
    table.add_column("generation")
    for name in [*columns, "seconds"]:
        table.add_column(name, justify="left" if name == "verdict" else "right")
    best = history.best_generation if history.monitored() else None
    for record in history.records:
        label = str(record.generation)
        label += " distilled" if record.distilled else " (teacher)" if record.generation == 0 else ""
        label += " *" if record.generation == best else ""
        table.add_row(label, *cells(record.scores, record.metrics), f"{record.seconds:.1f}")
    if history.ensemble is not None:
        total = sum(record.seconds for record in history.members)
        table.add_section()
        table.add_row(f"ensemble of {len(history.members)}", *cells(history.ensemble, {}), f"{total:.1f}")
    if history.controls is not None:
        table.add_section()
        for label, scores, metrics, seconds in controls.rows(history):
            table.add_row(label, *cells(scores, metrics), f"{seconds:.1f}")
    # The text does not depend on the terminal, and names with [brackets] or :colons: are not read as markup.
    text = io.StringIO()
    Console(file=text, width=120, color_system=None, force_jupyter=False, markup=False, emoji=False).print(table)
    lines = [line.rstrip() for line in text.getvalue().rstrip().splitlines()]
    return "\n".join([*lines, *_notes(history, scored, best)])


def _has_calibrated(history):
    return any(record.scores and record.scores.calibrated_nll is not None for record in history.records)


def _count(history):
    scores = next((record.scores for record in history.records if record.scores), None)
    return f" ({scores.examples} examples)" if scores else ""


def _notes(history, scored, best):
    notes = []
    if best is not None:
        notes.append(f"* best {history.monitor}{'' if history.data == 'validation' else ' on the validation data'}")
    if any(record.distilled for record in history.records):
        notes.append(f"distilled: no generation, but a student of {in_words(ENSEMBLE, len(history.members))}")
    if _has_calibrated(history):
        notes.append("cal.: with a temperature, found on one half of the data and applied to the other")
    if scored:
        notes.append(
            "change: accuracy in percentage points against its own teacher (ensemble: against generation 0), with "
            "McNemar's exact p"
        )
        if any(record.scores and record.scores.compared_with == ENSEMBLE for record in history.records):
            notes.append("vs E: against the ensemble of all generations before it, which was its teacher")
        if not has_scipy():
            notes.append('no p-values: SciPy is not installed (`pip install "keras-ban[plot]"`)')
        for record in history.records:
            if record.scores and record.scores.change is not None and record.scores.change <= 0:
                what = "the distilled student" if record.distilled else f"generation {record.generation}"
                teacher = in_words(record.scores.compared_with, record.generation)
                notes.append(f"{what} did not beat its teacher, {teacher}")
    if history.controls is not None:
        notes += controls.notes(history, best)
    return notes


_SCORE_COLUMNS = ["accuracy", "NLL", "ECE", "change", "p", "verdict", "agreement", "neg. flips"]
# Narrower, because there are two columns more.
_CALIBRATED_COLUMNS = ["accuracy", "NLL", "cal.", "ECE", "cal.", "change", "p", "verdict", "agree", "neg.\nflips"]


def _score_cells(scores, calibrated):
    if scores is None:
        return [""] * len(_CALIBRATED_COLUMNS if calibrated else _SCORE_COLUMNS)
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
        f"{100 * scores.change:+.2f} vs {'E' if scores.compared_with == ENSEMBLE else scores.compared_with}",
        "" if p_value is None else f"{p_value:.3f}",
        _verdict(scores.change, p_value),
        f"{scores.agreement:.1%}",
        str(scores.negative_flips),
    ]


def _verdict(change, p_value):
    """Return a verdict, with "(chance?)" if McNemar's test is not significant at the 5% level."""
    if change == 0:
        return "no better"
    chance = "" if p_value is None or p_value < SIGNIFICANCE else " (chance?)"
    return ("better" if change > 0 else "worse") + chance


def _number(value):
    return "" if value is None else f"{value:.4g}"
