"""A `BornAgainHistory` as a pandas `DataFrame`."""

import dataclasses
import itertools

from keras_ban._src.history.scores import Scores, has_scipy
from keras_ban._src.history.table import best_of, rows_of

_COLUMNS = ("name", "generation", "best", "seed", "epochs", "seconds")
# The types of columns that have missing values.
_TYPES: dict[str, str | type] = dict.fromkeys(
    ("generation", "seed", "epochs", "examples", "positive_flips", "negative_flips"), "Int64"
)
# The number of a generation, or "ensemble".
_TYPES |= {"compared_with": object}


def draw(history):
    """Return a `pandas.DataFrame` with the rows of `BornAgainHistory.summary`. See `to_dataframe`."""
    try:
        # Optional.
        import pandas
    except ImportError as error:
        raise ImportError("`to_dataframe` needs pandas: `pip install pandas`.") from error

    rows = _rows(history)
    names = dict.fromkeys([*_COLUMNS, *(name for row in rows for name in row)])
    values = {name: [row.get(name) for row in rows] for name in names}
    # `None` leaves the type to pandas.
    types = {name: _TYPES.get(name.rpartition(".")[2]) for name in names}
    return pandas.DataFrame({name: pandas.Series(values[name], dtype=types[name]) for name in names})


def _rows(history):
    """Return the rows of the tables, each as a dict."""
    is_evaluated, best, found = any(record.evaluation for record in history.records), best_of(history), []
    prefix = f"{history.data}_" if is_evaluated else ""
    for row in itertools.chain(*rows_of(history)):
        about = {"name": row.name, "best": False, "epochs": row.epochs, "seconds": row.seconds}
        if row.record is not None:
            number = row.record.generation
            about |= {"generation": number, "seed": row.record.seed, "best": number == best}
        metrics = {f"{prefix}{name}": value for name, value in row.metrics.items()}
        found.append({**about, **metrics, **_of_scores(row.scores)})
    return found


def _of_scores(scores):
    """Return the values of scores by the names of columns."""
    if isinstance(scores, dict):
        return {f"{output}.{key}": value for output, each in scores.items() for key, value in _of_scores(each).items()}
    if scores is None:
        return {}
    values = dataclasses.asdict(scores)
    if isinstance(scores, Scores):
        values["change"] = scores.change
        if has_scipy():
            values["p_value"] = scores.p_value
    return values
