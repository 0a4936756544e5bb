"""A `BornAgainHistory` as a pandas `DataFrame`."""

import dataclasses

from keras_ban._src.history import controls
from keras_ban._src.history.scores import Scores, has_scipy
from keras_ban._src.history.table import best_of

_COLUMNS = ("name", "generation", "best", "seed", "epochs", "seconds")
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
    return pandas.DataFrame({name: pandas.Series(values[name], dtype=_type_of(name)) for name in names})


def _type_of(name):
    """Return the type of a column that has missing values. `None` leaves it to pandas."""
    return _TYPES.get(name.rpartition(".")[2])


def _rows(history):
    is_evaluated = any(record.evaluation for record in history.records)

    def row(name, scores, metrics, epochs, seconds, **others):
        prefix = f"{history.data}_" if is_evaluated else ""
        metrics = {f"{prefix}{key}": value for key, value in metrics.items()}
        cost = {"epochs": epochs, "seconds": seconds}
        return {"name": name, "best": False, **others, **cost, **metrics, **_of_scores(scores)}

    rows, best = [], best_of(history)
    for record in history.records:
        number = record.generation
        name = "distilled" if record.distilled else f"generation {number}"
        about = {"generation": number, "seed": record.seed, "best": number == best}
        rows.append(row(name, record.scores, record.measured, record.epochs, record.seconds, **about))
    if history.ensemble is not None or history.ensemble_metrics:
        cost = [sum(getattr(record, name) for record in history.members) for name in ("epochs", "seconds")]
        rows.append(row("ensemble", history.ensemble, history.ensemble_metrics, *cost))
    if history.controls is not None:
        rows += [row(*each) for each in controls.rows(history)]
    return rows


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
