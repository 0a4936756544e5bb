"""`keras-ban compare RUN RUN ...`."""

import dataclasses
import json
import math
import os
import string

from keras_ban._src.command.stored_runs import read, terminal_width
from keras_ban._src.history.history import BornAgainHistory
from keras_ban._src.history.scores import Scores, by_output, sort_key
from keras_ban._src.history.table import Column, Table
from keras_ban._src.history.text import lines_of, wrapped

# Of runs whose data are not known.
UNKNOWN = "?"
_LONGEST_LABEL = 24


@dataclasses.dataclass
class Run:
    """A run in the table.

    Attributes:
        label: its name.
        history: its `BornAgainHistory`.
        planned: the number of generations that were asked for, with generation 0.
        finished: whether the run is finished.
        data: a text that two runs share if they were measured on the same validation data. `None`: not known.
    """

    label: str
    history: BornAgainHistory
    planned: int
    finished: bool
    data: str | None

    @property
    def best(self):
        """The record of the best generation, or `None`."""
        return self.history.records[self.history.best_generation] if self.history.monitored() else None

    @property
    def value(self):
        """The monitored value of the best generation. NaN if there is none."""
        return math.nan if self.best is None else self.best.metrics[self.history.monitor]


def run(arguments):
    """Print the table of the runs."""
    stored = [read(path) for path in arguments.runs]
    newest = max(each.manifest["begun_with"].get("hashes", 1) for each in stored)
    labels = labels_of([each.path for each in stored])
    runs = [_run(label, each, newest) for label, each in zip(labels, stored, strict=True)]
    print("\n".join(draw(runs, terminal_width())))


def _run(label, stored, hashes):
    begun_with = stored.manifest["begun_with"]
    planned = begun_with.get("generations", len(stored.entries) - 1) + 1
    return Run(label, stored.history(), planned, stored.finished, data_of(begun_with, hashes))


def data_of(begun_with, hashes):
    """Return a text for the validation data of a run. `None` if the manifest does not have their fingerprints.

    `hashes` is the version of the fingerprints. Those of another version are not known.
    """
    described = begun_with.get("data", {}).get("validation_data")
    are_known = isinstance(described, list) and described and begun_with.get("hashes", 1) == hashes
    if not are_known or not all(isinstance(each, dict) and "fingerprint" in each for each in described):
        return None
    return json.dumps(described, sort_keys=True)


def labels_of(paths):
    """Return short names of paths: what is below the folder that all have in common."""
    common = os.path.commonpath([path.parent for path in paths])
    labels = [os.path.relpath(path, common) for path in paths]
    return [label if len(label) <= _LONGEST_LABEL else f"…{label[1 - _LONGEST_LABEL :]}" for label in labels]


def draw(runs, width):
    """Return the lines of the table and of the notes under it."""
    # Runs on the same data are in one section, the best first.
    groups = {}
    for each in runs:
        groups.setdefault(each.data, []).append(each)
    known = iter(string.ascii_uppercase * len(runs))
    letters = {data: UNKNOWN if data is None else next(known) for data in groups}
    monitors = {(each.history.monitor, each.history.mode) for each in runs}
    if len(monitors) == 1:
        ((_, mode),) = monitors
        groups = {data: sorted(group, key=lambda each: sort_key(mode, each.value)) for data, group in groups.items()}
    rows = [each for group in groups.values() for each in group]
    columns = _columns(rows, sorted({monitor for monitor, _ in monitors}))
    is_marked = set(letters.values()) != {"A"}
    if is_marked:
        columns.insert(0, Column("data", [letters[each.data] for each in rows], 0))
    sections = [[each.label for each in group] for group in groups.values()]
    columns = [column for column in columns if any(column.cells)]
    lines, _, _ = lines_of([Table("Runs, each by its best generation", sections, columns, rows="run")], width)
    return [*lines, *(line for note in _notes(monitors, letters) for line in wrapped(note, width))]


def _columns(rows, monitors):
    columns = [Column("best", ["" if each.best is None else str(each.best.generation) for each in rows], 0)]
    for monitor in monitors:
        values = [None if each.best is None else each.best.metrics.get(monitor) for each in rows]
        columns.append(Column(monitor, ["" if value is None else f"{value:.4g}" for value in values], 0))
    columns += _score_columns([None if each.best is None else each.best.scores for each in rows], "", 1)
    columns += _score_columns([each.history.ensemble for each in rows], "ensemble\n", 2)
    members = [each.history.members for each in rows]
    counts = [f"{len(group)} of {each.planned}" for group, each in zip(members, rows, strict=True)]
    records = [each.history.records for each in rows]
    return [
        *columns,
        Column("finished", ["yes" if each.finished else "no" for each in rows], 3),
        Column("generations", counts, 3),
        Column("epochs", [str(sum(record.epochs for record in group)) for group in records], 4),
        Column("seconds", [f"{sum(record.seconds for record in group):.1f}" for group in records], 5),
    ]


def _score_columns(scores, prefix, rank):
    """Return the columns of the main scores of models, one for each row. `None`: without scores."""
    cells = []
    for each in scores:
        named = by_output(each).items()
        cells.append({f"{name or ''} {key}".strip(): text for name, one in named for key, text in _main(one)})
    headers = dict.fromkeys(header for row in cells for header in row)
    return [Column(prefix + header, [row.get(header, "") for row in cells], rank) for header in headers]


def _main(scores):
    if isinstance(scores, Scores):
        return [("accuracy", f"{scores.accuracy:.2%}"), ("NLL", f"{scores.nll:.4f}")]
    return [("loss", f"{scores.loss:.4g}")]


def _notes(monitors, letters):
    if len(monitors) == 1:
        ((monitor, mode),) = monitors
        extreme = "lowest" if mode == "min" else "highest"
        yield f"best: the generation with the {extreme} {monitor}, by which the runs are sorted"
    else:
        names = ", ".join(sorted(f"{monitor} ({mode})" for monitor, mode in monitors))
        yield f"not sorted: the runs have several monitors, {names}"
    if len(set(letters.values()) - {UNKNOWN}) > 1:
        yield "data: runs of different letters have scores on different validation data, which cannot be compared"
    if UNKNOWN in letters.values():
        yield (
            f"data {UNKNOWN}: run.json does not say what the validation data are (a dataset, or none, or the run is of "
            "an old version)"
        )
    yield "generations, epochs, seconds: of the whole run, generation 0 and a distilled student included"
