"""The scores of generations, each compared with its teacher: a table, a plot, a paired test."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from typing import Any, Self

from keras_ban._src import checks, hints
from keras_ban._src.history import html_tables
from keras_ban._src.history.controls import Controls
from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.plain_data import entry
from keras_ban._src.history.scores import Scores, results_from, sort_key


@dataclasses.dataclass
class GenerationRecord:
    """The results of one generation, as plain data.

    Attributes:
        generation: number of the generation. 0 is the first teacher.
        seed: the seed of the generation. `None` for a teacher that was passed to `fit`.
        epochs: number of epochs trained.
        seconds: wall time of training, in seconds.
        metrics: results of `evaluate` on the validation data after training. Names start with `val_`, as in Keras.
        logs: Keras's `History.history`: for each name, a list with a value for each epoch. (The value of a metric with
            several, as `F1Score()` has for the classes, is itself a list, also in `metrics`.)
        scores: `Scores` of a classifier, `LossScores` of another model, or a dict of them with the names of several
            outputs. `None` without data to score on, or if the `notes` of the history say why.
        distilled: whether this is the student distilled from the ensemble (`distill_ensemble`). Its `generation` is the
            number after the last generation.
        evaluation: the compiled metrics on the data of `BornAgainSequence.evaluate`, with the names of Keras. Empty in
            the history of `fit`.
        teacher_temperature: the temperature that softened the teacher (`soften_teachers`), or `None`.
    """

    generation: int
    seed: int | None = None
    epochs: int = 0
    seconds: float = 0.0
    metrics: dict[str, float | list] = dataclasses.field(default_factory=dict)
    logs: dict[str, list] = dataclasses.field(default_factory=dict)
    scores: Scores | LossScores | dict | None = None
    distilled: bool = False
    evaluation: dict[str, float | list] = dataclasses.field(default_factory=dict)
    teacher_temperature: float | None = None

    @property
    def measured(self) -> dict[str, float | list]:
        """The metrics on the data of the history: `evaluation`, or `metrics`."""
        return self.evaluation or self.metrics

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain data for JSON."""
        return _without_empty(dataclasses.asdict(self), "evaluation", "teacher_temperature")


@dataclasses.dataclass
class BornAgainHistory:
    """The records of all generations, with a table, a plot, and conversion to and from JSON.

    Attributes:
        records: a `GenerationRecord` for each generation, in order, and for the distilled student, if there is one.
        monitor: the metric that selects the best generation.
        mode: `"min"` or `"max"`: whether smaller or larger values of the monitor are better.
        data: name of the data that the scores were measured on, for instance `"validation"`. Used in titles.
        ensemble: the scores of the average of all generations, without the distilled student, compared with generation
            0: as those of a record. `None` without scores.
        ensemble_metrics: the compiled metrics of this average. Its loss has no penalties of weights. Names are as in
            `metrics` (after `evaluate`, as in `evaluation`) of a record.
        notes: sentences that say which scores could not be given, and why.
        controls: `Controls`, the results of models trained on labels alone at the same cost. `None` without any.
        directory: a `pathlib.Path` of the run on disk, for the report. `None` without one. It is not stored.
    """

    records: list[GenerationRecord] = dataclasses.field(default_factory=list)
    monitor: str = "val_loss"
    mode: str = "min"
    data: str = "validation"
    ensemble: Scores | LossScores | dict | None = None
    controls: Controls | None = None
    ensemble_metrics: dict[str, float | list] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    # No fields: they are neither stored nor compared. `validation_examples` is the number of validation examples, where
    # `data` are others.
    directory = None
    validation_examples = None

    @property
    def best_generation(self) -> int:
        """The generation with the best monitored value, the earliest of equals. NaN is never the best.

        Raises:
            ValueError: if there are no records, or no generation has the monitored value.
        """
        values = self.monitored()
        if not self.records:
            raise ValueError("There is no best generation, because none is recorded. Call `fit` first.")
        if not values:
            known = sorted({name for record in self.records for name in record.metrics})
            raise ValueError(
                f"There is no best generation: {self.monitor!r} has no value other than NaN (known: {known}). Pass "
                "`validation_data` or `validation_split` to `fit`, and a `monitor` that is measured on it."
            )
        return min(values, key=lambda generation: sort_key(self.mode, values[generation]))

    @property
    def members(self) -> list[GenerationRecord]:
        """The records of the ensemble's members: all generations, without the distilled student."""
        return [record for record in self.records if not record.distilled]

    def monitored(self) -> dict[int, float]:
        """Return the monitored value of each generation that has one, except NaN."""
        values: dict[int, Any] = {
            record.generation: record.metrics.get(self.monitor, math.nan) for record in self.records
        }
        return {generation: value for generation, value in values.items() if not math.isnan(value)}

    def summary(self, width: int | None = None) -> str:
        """Return a table as text, with a row for each generation, the distilled student, the ensemble and each control.

        The columns for classifiers: accuracy, negative log-likelihood (NLL), change of accuracy from the teacher (the
        previous generation, or the ensemble of all earlier ones) with McNemar's exact test; and as far as they fit a
        verdict, training time in seconds, expected calibration error (ECE), NLL and ECE with a cross-fitted temperature
        (`cal.`, see `Scores`), agreement with the teacher and negative flips (right before, wrong now). The columns for
        other models: the change of the loss from the teacher, with a paired permutation test. For all models: the
        number of epochs, and the compiled metrics, except those that are accuracy or NLL under another name. Each of
        several outputs has its own table of scores. A star marks the best generation by the monitor. The notes say
        which scores could not be given, and why.

        Args:
            width: the number of columns of the text, at least 40. `None`: 80. Metrics that do not fit are in a table
                below. What is left out is named in the last line, with the width that shows it; `to_dataframe` always
                does. See `docs/history.md`.

        Returns:
            str, lines of at most `width` columns.

        Raises:
            ValueError: `width` is not as above.
        """
        # Imports rich, which is optional.
        from keras_ban._src.history import text

        return text.draw(self, width)

    def _repr_html_(self):
        """Return all columns of the summary as HTML, which a notebook shows."""
        return html_tables.draw(self)

    def to_dataframe(self) -> Any:
        """Return the rows of `summary` as a pandas `DataFrame`, one for each model.

        Columns: `name`, `generation`, `best`, `seed`, `epochs`, `seconds`; the compiled metrics by their names
        (`val_loss`), after `evaluate` with the name of the data before them (`test_loss`); and the attributes of the
        scores by theirs, with `change` and `p_value`. Those of several outputs have the name of the output before them
        (`kind.accuracy`). What a model does not have is missing (`NaN` or `NA`). Without SciPy, accuracies have no
        `p_value`. The epochs are in the `logs` of each record: `pandas.DataFrame(history.records[1].logs)`.

        Returns:
            `pandas.DataFrame`.

        Raises:
            ImportError: if pandas is not installed.
        """
        # Imports pandas, which is optional.
        from keras_ban._src.history import data_frame

        return data_frame.draw(self)

    def plot(self, path: hints.Path | None = None) -> Any:
        """Plot the generations: accuracy, NLL and calibration error of classifiers, and the validation curves.

        Args:
            path: file to write (PNG, PDF, SVG, by its suffix). `None` writes no file.

        Returns:
            A list of `matplotlib.axes.Axes`, one for each panel, which can be changed. Its `figure` is the figure that
            they are in. A notebook shows the figure.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if there are no records.
        """
        # Imports matplotlib, which is optional.
        from keras_ban._src.history import plot

        panels = plot.draw(self)
        if path is not None:
            is_path = isinstance(path, (str, os.PathLike))  # matplotlib writes to an open file, too.
            panels.figure.savefig(checks.check_path("path", path) if is_path else path, dpi=plot.DOTS_PER_INCH)
        return panels

    def report(
        self,
        path: hints.Path,
        *,
        title: str | None = None,
        class_names: Sequence[str] | dict[str, Sequence[str]] | None = None,
        file_names: Sequence[hints.Path] | None = None,
        images: Any = None,
    ) -> None:
        """Write a report: one HTML file for phones and wide screens, that loads nothing from elsewhere.

        It has the scores with 95% intervals, the curves, calibration before and after a temperature, and the code that
        loads the models. What `fit` and `evaluate` return knows the answers of each model on each example, until the
        process ends. Then the report also has the results of each class, the confusions, and the most confident errors
        of the chosen generation and of the ensemble; for other models than classifiers the examples with the largest
        loss. See `docs/history.md`.

        Args:
            path: the file to write. A file that is there is replaced.
            title: the title. `None`: the name of the run's directory, or "Born-again networks".
            class_names: a name for each class, in their order. With several outputs a dict `{output: names}`.
            file_names: a name for each example that was scored, in their order.
            images: an image of each example, to show beside the answers: `(n, height, width)` or `(n, height, width,
                channels)` with 1, 3 or 4 channels. Values are in [0, 1], or up to 255. Other ranges are scaled.

        Raises:
            ImportError: if matplotlib is not installed.
            TypeError: `path` is no path.
            ValueError: there are no records, or names or images do not fit the classes or the examples.
            OSError: the file cannot be written.

        Example:

        ```python
        history = sequence.evaluate(x_test, y_test)
        history.report("report.html", class_names=["cat", "dog"], file_names=paths, images=x_test)
        ```
        """
        # Imports matplotlib, which is optional.
        from keras_ban._src.history.report import page

        names = {"class_names": class_names, "file_names": file_names}
        page.write(path, self, title=title, images=images, **names)

    def to_dict(self) -> dict[str, Any]:
        """Return the history as plain data for JSON."""
        data = {**dataclasses.asdict(self), "records": [record.to_dict() for record in self.records]}
        if self.controls is not None:
            data["controls"] = _without_empty(data["controls"], "ensemble_metrics")
        return _without_empty(data, "controls", "ensemble_metrics", "notes")

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Create a history from the result of `to_dict`.

        Raises:
            ValueError: if `data` is not the result of `to_dict`: an entry is missing, unknown, or of another type.
        """
        where = "the history"
        if entry(where, data, "mode", "min") not in ("min", "max"):
            raise ValueError(f"'mode' of {where} must be 'min' or 'max', received: {data['mode']!r}.")
        if "controls" in data:
            data = {**data, "controls": Controls.from_dict(data["controls"])}
        return results_from(where, data, cls, GenerationRecord)

    def to_json(self) -> str:
        """Return the history as JSON text, with `NaN` and `Infinity` as Python's `json` reads them."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Create a history from the result of `to_json`.

        Raises:
            ValueError: if `text` is not JSON, or not that of a history.
        """
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("The text is not that of a history: its values are nested too deeply.") from error
        return cls.from_dict(data)


def _without_empty(data, *names):
    """Return a dict without these entries, if they are empty: older versions did not write them."""
    return {name: value for name, value in data.items() if value or name not in names}
