"""The plot of a `BornAgainHistory`, with matplotlib. The report draws the same panels, each alone."""

import dataclasses
import io
import math

import numpy as np

from keras_ban._src.history import controls, intervals
from keras_ban._src.history.scores import Scores
from keras_ban._src.history.table import best_of

DOTS_PER_INCH = 150
COLOUR, ENSEMBLE_COLOUR, CONTROL_COLOUR = "#1f4e79", "#c55a11", "#5f5f5f"
# Title, unit, factor and attribute of each score, and the function of its interval.
_SCORES = [
    ("accuracy", "%", 100, "accuracy", intervals.of_accuracy),
    ("NLL", "nats", 1, "nll", intervals.of_nll),
    ("calibration error", "%", 100, "ece", lambda scores: None),
]
_ACCURACIES = ("accuracy", "acc")
# Of more curves, the first, the last and the chosen one alone are named.
_MOST_NAMES = 8


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


@dataclasses.dataclass
class Panel:
    """One number over the generations.

    Attributes:
        title, unit: texts.
        values: the number of each generation.
        bands: the 95% confidence intervals, `(low, high)`, of those generations that have one.
        ensemble: the number of the ensemble, or `None`.
        levels: the numbers of controls, by their labels.
    """

    title: str
    unit: str
    values: dict
    bands: dict = dataclasses.field(default_factory=dict)
    ensemble: float | None = None
    levels: dict = dataclasses.field(default_factory=dict)


def new_figure(*size, **options):
    """Return a matplotlib `Figure` of a size in inches. Raise `ImportError` if matplotlib is not installed."""
    try:
        # Optional. Not pyplot, which would change the user's figures and backend.
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('A plot or a report needs matplotlib: `pip install "keras-ban[plot]"`.') from error
    return Figure(figsize=size, layout="constrained", **options)


def draw(history):
    """Return the `Panels`: one for each score, and one for the validation curves."""
    if not history.records:
        raise ValueError("There is nothing to plot: no generation is recorded. Call `fit` first.")
    found = panels(history)
    has_curves = any(record.logs.get(history.monitor) for record in history.records)
    count = len(found) + has_curves
    rows, columns = (2, 2) if count > 2 else (1, max(count, 1))
    figure = new_figure(5 * columns, 4.2 * rows)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis, panel in zip(axes, found, strict=False):
        draw_panel(axis, panel, history)
        axis.set_title(_as_it_is(f"{panel.title}, {history.data} data"))
    if has_curves:
        draw_curves(axes[len(found)], history, history.monitor)
        axes[len(found)].set_title(_as_it_is(f"{history.monitor} while training"))
    for axis in axes[count:]:
        figure.delaxes(axis)
    return Panels(figure)


def panels(history):
    """Return the `Panel` of each score. Of other models than classifiers, that of the monitored metric."""
    scored = {record.generation: record.scores for record in history.records if isinstance(record.scores, Scores)}
    if not scored:
        # The history of `BornAgainSequence.evaluate` has other names.
        evaluated = any(record.evaluation for record in history.records)
        name = history.monitor.removeprefix("val_") if evaluated else history.monitor
        values = {r.generation: r.measured[name] for r in history.records if name in r.measured}
        bands = {r.generation: _around_loss(r.scores, values.get(r.generation)) for r in history.records}
        bands = {generation: band for generation, band in bands.items() if band}
        levels = _of_controls(history, lambda scores, metrics: metrics.get(name))
        ensemble = history.ensemble_metrics.get(name)
        return [Panel(name, "", values, bands, ensemble, levels)] if values else []
    found = []
    for title, unit, factor, name, interval in _SCORES:
        levels = _of_controls(history, lambda scores, metrics, name=name: getattr(scores, name, None))
        levels = {label: factor * level for label, level in levels.items()}
        values = {generation: factor * getattr(scores, name) for generation, scores in scored.items()}
        bands = {generation: interval(scores) for generation, scores in scored.items()}
        bands = {generation: (factor * band[0], factor * band[1]) for generation, band in bands.items() if band}
        ensemble = factor * getattr(history.ensemble, name) if isinstance(history.ensemble, Scores) else None
        found.append(Panel(title, unit, values, bands, ensemble, levels))
    return found


def _around_loss(scores, value):
    """Return the interval of a mean loss, if `value` is that mean. Otherwise `None`."""
    losses = getattr(scores, "losses", None)
    # A metric is a float32. The monitored metric may be another, or have penalties of weights.
    if losses is None or value is None or not math.isclose(value, scores.loss, rel_tol=1e-4, abs_tol=1e-6):
        return None
    return intervals.of_mean(losses[~np.isnan(losses)])


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


def draw_panel(axis, panel, history):
    """Draw a `Panel`, with a mark on the best generation."""
    for style, (label, level) in zip((":", "-."), panel.levels.items(), strict=False):
        axis.axhline(level, color=CONTROL_COLOUR, linestyle=style, label=label)
    distilled = next((record.generation for record in history.records if record.distilled), None)
    values, best = panel.values, best_of(history)
    generations = [generation for generation in values if generation != distilled]
    axis.plot(generations, [values[g] for g in generations], "o-", color=COLOUR, label="single model")
    if panel.ensemble is not None:
        label = f"ensemble of {len(history.members)}"
        axis.axhline(panel.ensemble, color=ENSEMBLE_COLOUR, linestyle="--", label=label)
    if distilled in values:
        axis.plot([distilled], [values[distilled]], "D", color=ENSEMBLE_COLOUR, label="distilled from the ensemble")
    if panel.bands:
        _draw_bands(axis, panel.bands, distilled)
    if panel.title == "NLL":
        _draw_calibrated(axis, history)
    if best in values:
        axis.scatter([best], [values[best]], s=160, facecolors="none", edgecolors=COLOUR, label="chosen generation")
    if panel.ensemble is not None or panel.levels or distilled in values or panel.bands or best in values:
        legend_below(axis)
    axis.margins(y=0.12)
    axis.set_xticks(list(values)[:: 1 + len(values) // 16])
    axis.set_xlabel("generation (0 is the first teacher)")
    axis.set_ylabel(_as_it_is(f"{panel.title} ({panel.unit})" if panel.unit else panel.title))
    axis.grid(alpha=0.3)


def legend_below(axis):
    """Add a legend that hides nothing."""
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=2, frameon=False, fontsize="small")


def _draw_bands(axis, bands, distilled):
    generations = [generation for generation in bands if generation != distilled]
    lows, highs = ([bands[generation][side] for generation in generations] for side in (0, 1))
    if len(generations) == 1:
        # A band of one generation would have no width.
        middle = (lows[0] + highs[0]) / 2
        axis.errorbar(generations, [middle], [[middle - lows[0]], [highs[0] - middle]], fmt="none", ecolor=COLOUR)
    elif generations:
        axis.fill_between(generations, lows, highs, color=COLOUR, alpha=0.15, linewidth=0, label="95% interval")


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


def draw_curves(axis, history, name, examples=None, training=None):
    """Draw a metric over the epochs, a line for each generation that has it, with a mark on the best generation.

    Args:
        axis: the axes.
        history: a `BornAgainHistory`.
        name: the name of the metric in the logs.
        examples: the number of examples that an accuracy was measured on, for a band of its 95% interval, or `None`.
        training: the names of the same metric on the training data, of which the first that a generation has is drawn
            as a thin line, or `None`.
    """
    # Optional.
    from matplotlib.ticker import MaxNLocator

    records = [record for record in history.records if record.logs.get(name)]
    best, is_accuracy = best_of(history), name.removeprefix("val_") in _ACCURACIES
    _draw_spread(axis, history, name)
    for shade, record in zip(np.linspace(0.25, 1, len(records)), records, strict=True):
        values = record.logs[name]
        epochs = range(1, len(values) + 1)
        colour, label = COLOUR, f"generation {record.generation}"
        if len(records) > _MOST_NAMES and record not in (records[0], records[-1]) and record.generation != best:
            label = None
        if record.distilled:
            colour, label = ENSEMBLE_COLOUR, "distilled from the ensemble"
        # One epoch makes no line.
        marker = "o" if len(values) == 1 else None
        axis.plot(epochs, values, color=colour, alpha=shade, label=label, marker=marker)
        known = next((record.logs[each] for each in training or () if record.logs.get(each)), None)
        if known is not None:
            axis.plot(range(1, len(known) + 1), known, ":", color=colour, alpha=shade, linewidth=1)
        if is_accuracy and examples and record.generation == best:
            lows, highs = zip(*(intervals.of_share(value, examples) for value in values), strict=True)
            axis.fill_between(epochs, lows, highs, color=colour, alpha=0.15, linewidth=0, label="its 95% interval")
        if record.generation == best:
            axis.scatter(epochs[-1:], values[-1:], s=160, facecolors="none", edgecolors=COLOUR, label="chosen")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    axis.set_xlabel("epoch")
    axis.set_ylabel(_as_it_is(name))
    legend_below(axis)
    axis.grid(alpha=0.3)


def _draw_spread(axis, history, name):
    """Add the range of the models that were trained as generation 0 was, from other seeds, if there are such."""
    independents = [] if history.controls is None else history.controls.independents
    logs = [record.logs[name] for record in [*history.records[:1], *independents] if record.logs.get(name)]
    if independents and len(logs) > 1:
        length = min(map(len, logs))
        values = [each[:length] for each in logs]
        label = f"range of {len(logs)} independent models"
        lows, highs = np.min(values, axis=0), np.max(values, axis=0)
        axis.fill_between(range(1, length + 1), lows, highs, color=CONTROL_COLOUR, alpha=0.2, linewidth=0, label=label)
