"""The results of controls: models trained on labels alone, at the cost of the generations."""

import dataclasses
from typing import Any, Self

from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.scores import Scores, better, results_from, significance_in_words

LONGER, INDEPENDENT = "longer", "independent"


@dataclasses.dataclass
class ControlRecord:
    """The results of one control of a `BornAgainSequence`, as plain data.

    Attributes:
        control: `"longer"`: trained for the epochs of all generations together. `"independent"`: trained as generation
            0 was, from another seed.
        number: 1, 2, ... of the independent models. Generation 0 counts as the first, so that they begin with 2.
        seed, epochs, seconds, metrics, logs: as in `GenerationRecord`.
        scores: as in `GenerationRecord`. Those of the longer model are compared with the best generation.
    """

    control: str
    number: int = 1
    seed: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    metrics: dict[str, float | list] = dataclasses.field(default_factory=dict)
    logs: dict[str, list] = dataclasses.field(default_factory=dict)
    scores: Scores | LossScores | dict | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data for JSON."""
        return dataclasses.asdict(self)

    @property
    def name(self) -> str:
        return LONGER if self.control == LONGER else f"{INDEPENDENT}-{self.number:02d}"


@dataclasses.dataclass
class Controls:
    """The results of all controls.

    Attributes:
        records: a `ControlRecord` for each model.
        ensemble: `Scores` of the average of generation 0 and the independent models, compared with the ensemble of the
            generations. `None` without scores.
        ensemble_metrics: the compiled metrics of this average.
    """

    records: list[ControlRecord] = dataclasses.field(default_factory=list)
    ensemble: Scores | LossScores | dict | None = None
    ensemble_metrics: dict[str, float | list] = dataclasses.field(default_factory=dict)

    @property
    def longer(self) -> ControlRecord | None:
        """The record of the longer model, or `None`."""
        return next((record for record in self.records if record.control == LONGER), None)

    @property
    def independents(self) -> list[ControlRecord]:
        """The records of the independent models, without generation 0."""
        return [record for record in self.records if record.control == INDEPENDENT]

    @classmethod
    def from_dict(cls, data: dict[str, Any], where: str = "controls") -> Self:
        """Create controls from plain data. Raise `ValueError` if it is not that of controls."""
        return results_from(where, data, cls, ControlRecord)


def planned(names, generations):
    """Return an empty record for each control, in the order in which they are trained beside so many generations."""
    records = [ControlRecord(LONGER)] if LONGER in names else []
    if INDEPENDENT in names:
        records += [ControlRecord(INDEPENDENT, number) for number in range(2, generations + 1)]
    return records


def rows(history):
    """Return `(label, scores, metrics, epochs, seconds)` for each row of the table."""
    controls = history.controls
    found = []
    for record in controls.records:
        label = LONGER if record.control == LONGER else f"{INDEPENDENT} {record.number}"
        found.append((label, record.scores, record.metrics, record.epochs, record.seconds))
    if controls.ensemble is not None:
        averaged = [history.records[0], *controls.independents]
        cost = [sum(getattr(record, name) for record in averaged) for name in ("epochs", "seconds")]
        found.append((_all(controls), controls.ensemble, controls.ensemble_metrics, *cost))
    return found


def notes(history, best):
    """Return the sentences under the table. The last sentence says whether being born again paid.

    `best` is the best generation or `None`.
    """
    controls = history.controls
    found = ["longer, independent: controls, trained on labels alone, with the epochs of all generations or of one"]
    if controls.ensemble is not None:
        found.append(f"{_all(controls)}: generation 0 and the independent ones, averaged; vs E: against the ensemble")
    parts = [_of_longer(history, best), _of_independents(history)]
    if any(parts):
        found.append("being born again " + ", and ".join(part for part in parts if part))
    return found


def _of_longer(history, best):
    """The comparison of the best generation with the longer model, or `None`."""
    longer, monitor = history.controls.longer, history.monitor
    if longer is None or best is None or monitor not in longer.metrics:
        return None
    best = history.records[best]
    name = "the distilled student" if best.distilled else f"generation {best.generation}"
    against = f"against one model of {longer.epochs} epochs ({name}: "
    if isinstance(longer.scores, Scores) and longer.scores.change is not None:
        of_both = f"{best.scores.accuracy:.2%}, longer: {longer.scores.accuracy:.2%}"
        return f"{_paid(-longer.scores.change)} {against}{of_both}, {significance_in_words(longer.scores)})"
    value, other = best.metrics[monitor], longer.metrics[monitor]
    gain = better(history.mode, value, other) - better(history.mode, other, value)
    is_tested = isinstance(longer.scores, LossScores) and longer.scores.change is not None and monitor == "val_loss"
    p_value = f", {significance_in_words(longer.scores)}" if is_tested else ""
    return f"{_paid(gain)} {against}{monitor} {value:.4g}, longer: {other:.4g}{p_value})"


def _of_independents(history):
    """The comparison of the ensemble with the independent models, or `None`."""
    scores, ensemble = history.controls.ensemble, history.ensemble
    if scores is None or ensemble is None or isinstance(scores, dict) or scores.change is None:
        return None
    if isinstance(scores, Scores):
        gain, of_both = -scores.change, f"ensemble: {ensemble.accuracy:.2%}, theirs: {scores.accuracy:.2%}"
    else:
        gain, of_both = scores.change, f"ensemble: loss {ensemble.loss:.4g}, theirs: {scores.loss:.4g}"
    return f"{_paid(gain)} against {_all(history.controls)} ({of_both}, {significance_in_words(scores)})"


def _paid(gain):
    return "paid" if gain > 0 else "did not pay"


def _all(controls):
    return f"{len(controls.independents) + 1} independents"
