"""Single examples in a report: the most confident errors, and where models differ. With file names and images."""

import dataclasses

import numpy as np

from keras_ban._src.history.report import figures
from keras_ban._src.history.report.markup import Html, element, folded, paragraph, table
from keras_ban._src.history.report.outputs import ENSEMBLE, in_sentence

MOST = 12
COUNTED = " Examples are counted from 0, in the order in which they were scored."


@dataclasses.dataclass
class Examples:
    """What is known of the examples that the models were scored on.

    Attributes:
        file_names: the name of each, or `None`.
        images: 8-bit images `(n, height, width, channels)`, or a function of a place, or `None`.
    """

    file_names: list | None = None
    images: np.ndarray | None = None

    def name(self, place):
        return f"example {place}" if self.file_names is None else str(self.file_names[place])


def as_images(images, count):
    """Return images as `(n, height, width, channels)` of 8 bits. Raise `ValueError` if they are none, or too few."""
    images = np.asarray(images)
    images = images[..., None] if images.ndim == 3 else images
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or images.dtype.kind not in "biuf":
        raise ValueError(
            "`images` must hold numbers of the shape `(n, height, width)` or `(n, height, width, channels)` with 1, 3 "
            f"or 4 channels, received the shape {images.shape} of {images.dtype}."
        )
    if len(images) != count:
        raise ValueError(f"`images` must hold one image for each of the {count} examples, received {len(images)}.")
    return images if images.dtype == np.uint8 else Scaled(images)


class Scaled:
    """Images of other numbers, as 8 bits: from 0 to 1, or to 255; of another range, from the least to the most."""

    def __init__(self, images):
        self._images = images
        # NaN would spoil all of them.
        self._low, self._high = float(np.nanmin(images)), float(np.nanmax(images))
        if 0 <= self._low and self._high <= 255:
            self._low, self._high = 0.0, 1.0 if self._high <= 1 else 255.0

    def __getitem__(self, place):
        image = np.nan_to_num(np.asarray(self._images[place], "float64"))
        return np.clip(255 * (image - self._low) / max(self._high - self._low, 1e-12), 0, 255).round().astype("uint8")


def confident_errors(output, examples):
    """Yield the errors of the chosen generation and of the ensemble, the most confident first."""
    yield element("h2", output.heading("The most confident errors"))
    yield paragraph(
        "Wrong answers with the highest probabilities: often a wrong label, or classes that look alike. In brackets: "
        "the probability of the answer." + ("" if examples.file_names else COUNTED)
    )
    for label in output.shown[-2:]:
        answers = output.answers.get(label)
        if answers is None or label not in (output.chosen, ENSEMBLE):
            continue
        order = confident_error_places(answers)
        of_all = f", the {MOST} most confident of {len(order):,}" if len(order) > MOST else f": {len(order):,}"
        yield element("h3", f"Errors of {in_sentence(label)}{of_all}")
        yield gallery(output, examples, order[:MOST], {"answer": answers})


def confident_error_places(answers):
    """Return the places of the errors, the most confident first."""
    wrong = np.flatnonzero(~answers.are_right)
    return wrong[np.argsort(-answers.confidence[wrong], kind="stable")]


def overturned(output, examples):
    """Yield the examples that a student has right and its teacher wrong, and the reverse, the most confident first."""
    answers, parts = output.answers, []
    for label, scores in output.scores.items():
        teacher = f"generation {getattr(scores, 'compared_with', None)}"
        if label == ENSEMBLE or teacher not in answers or label not in answers:
            continue
        before, now = answers[teacher], answers[label]
        for which, words in (
            (now.are_right & ~before.are_right, f"right, where {teacher} was wrong"),
            (before.are_right & ~now.are_right, f"wrong, where {teacher} was right"),
        ):
            places = np.flatnonzero(which)
            order = places[np.argsort(-now.confidence[places], kind="stable")]
            shown = f", the {MOST} most confident" if len(order) > MOST else ""
            models = {"teacher": before, "student": now}
            content = gallery(output, examples, order[:MOST], models) if len(order) else "<p>None.</p>"
            parts.append(folded(f"{label.capitalize()} is {words}: {len(order):,} examples{shown}", content))
    if parts:
        yield element("h2", output.heading("Where students differ from their teachers"))
        yield from parts


def disagreements(output, examples):
    """Yield the examples with the most different answers of the generations; of equals, the least confident first."""
    answers = {label: each for label, each in output.answers.items() if label != ENSEMBLE}
    if len(answers) < 2:
        return
    predicted = np.stack([each.predicted for each in answers.values()])
    ordered = np.sort(predicted, axis=0)
    different = 1 + (ordered[1:] != ordered[:-1]).sum(axis=0)
    unsure = np.mean([each.confidence for each in answers.values()], axis=0)
    order = np.lexsort((unsure, -different))
    order = order[different[order] > 1]
    if len(order):
        yield element("h2", output.heading("Where generations disagree"))
        yield paragraph(f"The generations give different answers on {len(order):,} of {predicted.shape[1]:,} examples.")
        shown = f"The {MOST} with the most different answers" if len(order) > MOST else "All of them"
        yield folded(shown, gallery(output, examples, order[:MOST], answers))


def largest_losses(output, examples):
    """Yield the examples with the largest loss of the chosen generation."""
    losses, chosen = output.losses, output.losses[output.chosen]
    order = np.argsort(-np.nan_to_num(chosen, nan=-np.inf), kind="stable")[:MOST]
    order = order[~np.isnan(chosen[order])]
    yield element("h2", output.heading("The examples with the largest loss"))
    labels = [label for label in output.shown if label in losses and len(losses[label]) == len(chosen)]
    rows = [[examples.name(place), *(f"{losses[label][place]:.4g}" for label in labels)] for place in order]
    counted = "" if examples.file_names else COUNTED
    yield paragraph(f"Sorted by the loss of {in_sentence(output.chosen)}.{counted}")
    yield table(["example", *(f"loss of {in_sentence(label)}" for label in labels)], rows)


def gallery(output, examples, places, models):
    """Return examples with their labels and the answers of models: with images, or as a table."""
    names = output.class_names
    if examples.images is None:
        head = ["example", "label", *(part for name in models for part in (name, "confidence"))]
        rows = []
        for place in places:
            said = [(names[each.predicted[place]], f"{each.confidence[place]:.1%}") for each in models.values()]
            label = names[next(iter(models.values())).labels[place]]
            rows.append([examples.name(place), label, *(part for pair in said for part in pair)])
        return table(head, rows, texts=(0, 1, *range(2, len(head), 2)))
    cells = []
    for place in places:
        label = names[next(iter(models.values())).labels[place]]
        lines = [element("span", examples.name(place)), element("b", f"label: {label}")]
        for name, each in models.items():
            lines.append(element("span", f"{name}: {names[each.predicted[place]]} ({each.confidence[place]:.1%})"))
        caption = element("figcaption", Html("<br>".join(lines)))
        image = f'<img alt="" loading="lazy" src="{figures.thumbnail(examples.images[place])}">'
        cells.append(f"<figure>{image}{caption}</figure>")
    return element("div", Html("".join(cells)), class_="images")
