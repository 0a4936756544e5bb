"""The pictures of a report as text that stands in the page itself: SVG for figures, PNG and JPEG for images."""

import base64
import io
import re

import numpy as np

from keras_ban._src.history import intervals, plot
from keras_ban._src.history.scores import CALIBRATION_BINS

_SIZE = (4.4, 3.9)
# In pixels. Smaller images are enlarged by the page.
_THUMBNAIL = 96


def over_generations(history):
    """Yield `(Panel, SVG)` of each score over the generations."""
    for panel in plot.panels(history):
        figure = plot.new_figure(*_SIZE)
        plot.draw_panel(figure.add_subplot(), panel, history)
        yield panel, svg(figure)


def while_training(history, examples):
    """Yield `(title, SVG)` of the curves of the monitor, and of the other metrics on the validation data.

    `examples` is the number of validation examples, or `None`.
    """
    logged = dict.fromkeys(name for record in history.records for name in record.logs)
    # A metric may have several values for each epoch, of which there is no curve.
    names = [name for name in logged if all(np.ndim(record.logs.get(name, [])) == 1 for record in history.records)]
    names = [name for name in names if name.startswith("val_")] or [name for name in names if name == "loss"]
    names.sort(key=lambda name: name != history.monitor)
    for name in names:
        figure = plot.new_figure(*_SIZE)
        on_training = name.removeprefix("val_")
        # The loss of a student contains the distillation loss.
        training = [f"label_{on_training}", on_training] if on_training == "loss" else [on_training]
        plot.draw_curves(figure.add_subplot(), history, name, examples, training if name != on_training else None)
        yield name, svg(figure)


def reliability(answers, calibrated=False):
    """Return how often models are right, by how sure they are, as SVG.

    Args:
        answers: the `Answers` of up to three models, by their labels.
        calibrated: whether confidences are those with the cross-fitted temperature.
    """
    figure = plot.new_figure(*_SIZE)
    axis = figure.add_subplot()
    axis.plot([0, 100], [0, 100], color="#999", linewidth=1, label="perfectly calibrated")
    colours = [plot.CONTROL_COLOUR, plot.COLOUR, plot.ENSEMBLE_COLOUR][-len(answers) :]
    for (label, each), colour in zip(answers.items(), colours, strict=True):
        found = np.asarray(reliability_bins(each, calibrated))
        if len(found):
            sure, right, low, high = 100 * found.T
            # The interval is beside the share where rounding put it there.
            bars = np.maximum([right - low, high - right], 0)
            axis.errorbar(sure, right, bars, fmt="o-", color=colour, label=label, elinewidth=0.8, markersize=4)
    axis.set_xlabel("confidence: probability of the answer (%)")
    axis.set_ylabel("right answers (%)")
    axis.set_xlim(0, 102)
    axis.set_ylim(0, 102)
    plot.legend_below(axis)
    axis.grid(alpha=0.3)
    return svg(figure)


def reliability_bins(answers, calibrated=False):
    """Return `(mean confidence, share right, low, high)` of each bin that has examples. The bins are those of the ECE.

    `low` and `high` are the 95% interval of the share.
    """
    confidence = np.asarray(answers.calibrated_confidence if calibrated else answers.confidence, "float64")
    right = answers.are_right.astype("float64")
    which = np.clip(np.ceil(confidence * CALIBRATION_BINS).astype(int) - 1, 0, CALIBRATION_BINS - 1)
    found = []
    for number in np.unique(which):
        inside = which == number
        share = float(right[inside].mean())
        found.append((float(confidence[inside].mean()), share, *intervals.of_share(share, int(inside.sum()))))
    return found


def thumbnail(image):
    """Return an image, `(height, width, channels)` of 8 bits, as a `data:` address."""
    # Optional. matplotlib brings it.
    from PIL import Image

    image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    buffer, is_small = io.BytesIO(), max(image.size) <= _THUMBNAIL
    image.thumbnail((2 * _THUMBNAIL, 2 * _THUMBNAIL))
    kind = "PNG" if is_small or image.mode == "RGBA" else "JPEG"
    image.save(buffer, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def svg(figure):
    """Return a figure as SVG that can stand in a page beside others: the same text for the same figure."""
    # Optional.
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "keras_ban"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # In one page, no two groups may have one name. Nothing refers to these.
    return re.sub(r'<g id="[^"]*">', "<g>", text)
