"""The plot of a `BornAgainHistory`, with matplotlib."""

import io

import numpy as np

from keras_ban._src.history import controls
from keras_ban._src.history.scores import Scores

DOTS_PER_INCH = 150
COLOUR, ENSEMBLE_COLOUR, CONTROL_COLOUR = "#1f4e79", "#c55a11", "#5f5f5f"
# Title, unit, factor and attribute of each score.
_SCORES = [("accuracy", "%", 100, "accuracy"), ("NLL", "nats", 1, "nll"), ("calibration error", "%", 100, "ece")]


class Panels(list):
    """The axes of a plot, and the `matplotlib.figure.Figure` that they are in.

    A notebook shows a figure by itself only if pyplot made it, so it shows these.
    """

    def __init__(self, figure):
        super().__init__(figure.axes)
        self.figure = figure

    def _repr_png_(self):
        image = io.BytesIO()
        self.figure.savefig(image, format="png", dpi=DOTS_PER_INCH)
        return image.getvalue()


def draw(history):
    """Return the `Panels`: one for each score, and one for the validation curves."""
    if not history.records:
        raise ValueError("There is nothing to plot: no generation is recorded. Call `fit` first.")
    try:
        # Optional.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('`plot` needs matplotlib: `pip install "keras-ban[plot]"`.') from error

    panels = _panels(history)
    curves = [record for record in history.records if record.logs.get(history.monitor)]
    count = len(panels) + bool(curves)
    # Not with pyplot, which would change the user's figures and backend.
    rows, columns = (2, 2) if count > 2 else (1, max(count, 1))
    figure = Figure(figsize=(5 * columns, 3.8 * rows), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    distilled = next((record.generation for record in history.records if record.distilled), None)
    for axis, (title, unit, values, ensemble, levels) in zip(axes, panels, strict=False):
        for style, (label, level) in zip((":", "-."), levels.items(), strict=False):
            axis.axhline(level, color=CONTROL_COLOUR, linestyle=style, label=label)
        _draw_panel(axis, title, unit, values, ensemble, history.data, len(history.members), distilled)
    for axis, (title, *_, levels) in zip(axes, panels, strict=False):
        if title == "NLL":
            _draw_calibrated(axis, history)
        if levels:
            axis.legend(frameon=False)
    if curves:
        _draw_curves(axes[len(panels)], curves, history.monitor)
    for axis in axes[count:]:
        figure.delaxes(axis)
    return Panels(figure)


def _panels(history):
    """Return `(title, unit, {generation: value}, ensemble's value, {control: value})` for each panel."""
    scored = {record.generation: record.scores for record in history.records if isinstance(record.scores, Scores)}
    if not scored:
        # The history of `BornAgainSequence.evaluate` has other names.
        evaluated = any(record.evaluation for record in history.records)
        name = history.monitor.removeprefix("val_") if evaluated else history.monitor
        values = {r.generation: r.measured[name] for r in history.records if name in r.measured}
        levels = _of_controls(history, lambda scores, metrics: metrics.get(name))
        return [(name, "", values, history.ensemble_metrics.get(name), levels)] if values else []
    panels = []
    for title, unit, factor, name in _SCORES:
        levels = _of_controls(history, lambda scores, metrics, name=name: getattr(scores, name, None))
        levels = {label: factor * level for label, level in levels.items()}
        values = {generation: factor * getattr(scores, name) for generation, scores in scored.items()}
        ensemble = factor * getattr(history.ensemble, name) if isinstance(history.ensemble, Scores) else None
        panels.append((title, unit, values, ensemble, levels))
    return panels


def _of_controls(history, value):
    """Return `{label: value}` of the longer model, and of the independent models averaged.

    `value` is a function of the scores and the metrics of a row.
    """
    found = {}
    for label, scores, metrics, *_ in [] if history.controls is None else controls.rows(history):
        level = None if label.startswith("independent ") else value(scores, metrics)
        if level is not None:
            found[label] = level
    return found


def _draw_panel(axis, title, unit, values, ensemble, data, count, distilled):
    generations = [generation for generation in values if generation != distilled]
    axis.plot(generations, [values[g] for g in generations], "o-", color=COLOUR, label="single model")
    if ensemble is not None:
        axis.axhline(ensemble, color=ENSEMBLE_COLOUR, linestyle="--", label=f"ensemble of {count}")
    if distilled in values:
        axis.plot([distilled], [values[distilled]], "D", color=ENSEMBLE_COLOUR, label="distilled from the ensemble")
    if ensemble is not None or distilled in values:
        axis.legend(frameon=False)
    axis.margins(y=0.12)
    axis.set_xticks(list(values))
    axis.set_xlabel("generation (0 is the first teacher)")
    axis.set_ylabel(_as_it_is(f"{title} ({unit})" if unit else title))
    axis.set_title(_as_it_is(f"{title}, {data} data"))
    axis.grid(alpha=0.3)


def _as_it_is(text):
    """Return a text that matplotlib draws as it is: no formulas, and escapes for what no font has."""
    return text.encode("utf-8", "backslashreplace").decode().replace("$", r"\$")


def _draw_calibrated(axis, history):
    """Add the NLL with a cross-fitted temperature, as a thin line."""
    scored = {r.generation: r.scores for r in history.members if getattr(r.scores, "calibrated_nll", None) is not None}
    if scored:
        values = [scores.calibrated_nll for scores in scored.values()]
        axis.plot(list(scored), values, "o:", color=COLOUR, alpha=0.5, label="single model, calibrated")
        if history.ensemble is not None and history.ensemble.calibrated_nll is not None:
            value = history.ensemble.calibrated_nll
            axis.axhline(value, color=ENSEMBLE_COLOUR, linestyle=":", alpha=0.7, label="ensemble, calibrated")
        axis.legend(frameon=False)


def _draw_curves(axis, records, monitor):
    for shade, record in zip(np.linspace(0.25, 1, len(records)), records, strict=True):
        values = record.logs[monitor]
        colour, label = COLOUR, f"generation {record.generation}"
        if record.distilled:
            colour, label = ENSEMBLE_COLOUR, "distilled from the ensemble"
        axis.plot(range(1, len(values) + 1), values, color=colour, alpha=shade, label=label)
    axis.set_xlabel("epoch")
    axis.set_ylabel(_as_it_is(monitor))
    axis.set_title(_as_it_is(f"{monitor} while training"))
    axis.legend(frameon=False)
    axis.grid(alpha=0.3)
