"""The report's pictures, as text that stands in the page itself: SVG for curves, PNG for images."""

import base64
import io

import numpy as np

BINS = 10


def curves(records, measure):
    """A measure over the epochs, a line for each generation: of validation, and thin of training."""
    figure, axes = new_figure()
    colours = colours_of(len(records))
    for record, colour in zip(records, colours, strict=True):
        for name, style in ((measure, {"linewidth": 0.8, "alpha": 0.6}), (f"val_{measure}", {"linewidth": 1.8})):
            values = record.logs.get(name, [])
            if name == measure and measure == "loss":
                values = record.logs.get("label_loss", values)  # A student's loss holds the distillation loss, too.
            label = f"generation {record.generation}" if name.startswith("val_") else None
            # A dot, where there is one epoch.
            marker = "o" if len(values) == 1 else None
            axes.plot(range(1, len(values) + 1), values, color=colour, label=label, marker=marker, **style)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss on labels" if measure == "loss" else measure)
    if measure == "loss":
        axes.set_yscale("log")
    axes.legend(frameon=False)
    return svg(figure)


def reliability(scored):
    """How often each model is right, by how sure it is; `Answers` by the model's name, the ensemble last."""
    figure, axes = new_figure()
    axes.plot([0, 1], [0, 1], color="#999", linewidth=1)
    for (name, answers), colour in zip(scored.items(), [*colours_of(len(scored) - 1), "black"], strict=True):
        confidence, right = answers.confidence.astype("float64"), answers.are_right
        which = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.bincount(which, minlength=BINS)
        sure, correct = (np.bincount(which, weights=v, minlength=BINS) for v in (confidence, right.astype(float)))
        some = counts > 0
        line = {"label": name, "color": colour, "linestyle": "--" if name == "ensemble" else "-", "marker": "o"}
        axes.plot(sure[some] / counts[some], correct[some] / counts[some], **line)
    axes.set_xlabel("confidence of the answer")
    axes.set_ylabel("share of right answers")
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False)
    return svg(figure)


def confusion(matrix, classes):
    """Labels down, answers across, in shares of each label's images; numbers where they can be read."""
    figure, axes = new_figure(height=4.6)
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= 12:
        for (i, j), count in np.ndenumerate(matrix):
            if count:
                axes.text(j, i, count, ha="center", va="center", color="white" if shares[i, j] > 0.5 else "black")
    if len(classes) <= 30:
        names = [name.encode("utf-8", "backslashreplace").decode() for name in classes]
        names = [name if len(name) <= 14 else name[:13] + "…" for name in names]
        upright = max(map(len, names)) > 2
        axes.set_xticks(range(len(classes)), names, rotation=90 if upright else 0, parse_math=False)
        axes.set_yticks(range(len(classes)), names, parse_math=False)
    axes.set_xlabel("answer")
    axes.set_ylabel("label")
    return svg(figure)


def thumbnail(image):
    """An image as a `data:` address."""
    # Optional: matplotlib brings it.
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def new_figure(height=3.6):
    # Optional. Not by pyplot, which would ask for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def colours_of(count):
    # Optional.
    from matplotlib import colormaps

    return [colormaps["viridis"](0.85 * i / max(count - 1, 1)) for i in range(count)]


def svg(figure):
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
