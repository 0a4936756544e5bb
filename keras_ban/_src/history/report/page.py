"""The report of a `BornAgainHistory`: one HTML file that needs nothing else."""

import html
import importlib.metadata
import os
import pathlib
import platform

import keras
import numpy as np

from keras_ban._src.files.writing import writing
from keras_ban._src.history.report import figures

MOST_IMAGES, MOST_PAIRS = 12, 15

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
table { font-size: .9rem; } th, td { padding: .3rem .35rem; text-align: right; border-bottom: 1px solid #ddd; }
td { white-space: nowrap; } th { vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; } tr.best td { font-weight: 600; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1rem; }
.figures svg { width: 100%; height: auto; } figure { margin: 0; } figcaption { font-size: .85rem; color: #555; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem; }
.images img { width: 96px; height: 96px; object-fit: contain; image-rendering: pixelated; }
pre { overflow-x: auto; background: #f5f5f5; padding: .7rem; font-size: .85rem; }
.note { color: #555; font-size: .9rem; } li { overflow-wrap: anywhere; }
"""


def write(path, history, *, title=None, class_names=None, file_names=None, images=None, details=None):
    """Write the report of a history.

    Args:
        path: of the file. A file that is there is replaced.
        history: a `BornAgainHistory`.
        title: the title. `None`: "Born-again generations".
        class_names: a name for each class. `None`: their numbers.
        file_names: the name of each example that the history was scored on, in their order, or `None`.
        images: an image of each example, `(n, height, width, channels)`, or `None`.
        details: more sections, `{heading: text}`: a text of options or the like, shown as it is, or a list of
            sentences.
    """
    title = title or "Born-again generations"
    scored = {f"generation {record.generation}": record.scores.answers for record in history.records}
    scored["ensemble"] = history.ensemble.answers
    labels = scored["ensemble"].labels
    classes = [str(each) for each in class_names or range(scored["ensemble"].classes)]
    best = history.best_generation
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>{summary(history)}</p>",
        f"<h2>Generations on {escape(history.data)} data</h2>",
        table(history),
        "<h2>Curves</h2>",
        '<div class="figures">',
        figure(figures.curves(history.records, "loss"), "Bold: validation data. Thin: training data."),
        figure(figures.curves(history.records, "accuracy"), "Bold: validation data. Thin: training data."),
        "</div><h2>Calibration and confusion</h2>",
        '<div class="figures">',
        figure(
            figures.reliability(scored),
            "Below the line a model is surer than it is right, above it less sure.",
        ),
        *confusion(scored[f"generation {best}"], classes, f"generation {best}, the best"),
        "</div>",
        *overturned(history, images, labels, scored, classes),
        *disagreements(images, labels, list(scored.values())[:-1], classes),
    ]
    for heading, text in (details or {}).items():
        body.append(f"<h2>{escape(heading)}</h2>")
        body += [f"<pre>{escape(text)}</pre>"] if isinstance(text, str) else [f"<p>{escape(each)}</p>" for each in text]
    body += ["<h2>Versions</h2>", f"<p>{escape(', '.join(versions()))}</p>"]
    # Between tags of script no text may look like their end.
    numbers = history.to_json().replace("<", "\\u003c")
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{STYLE}</style></head><body>
{"".join(body)}
<script type="application/json" id="history">{numbers}</script></body></html>
"""
    replace(pathlib.Path(path), page)


def replace(path, text):
    """Write a file whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, partial):
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)


def summary(history):
    """What came out, in sentences."""
    best = history.best_generation
    first, chosen, ensemble = history.records[0].scores, history.records[best].scores, history.ensemble
    text = (
        f"Chosen by {history.monitor}: generation {best}, with {percent(chosen.accuracy)} right of "
        f"{chosen.examples:,} test images; generation 0 had {percent(first.accuracy)}. "
    )
    gain = ensemble.accuracy - first.accuracy
    against_best = ensemble.accuracy - max(record.scores.accuracy for record in history.records)
    return text + (
        f"The ensemble of all {len(history.members)} generations has {percent(ensemble.accuracy)}: {points(gain)} "
        f"points against generation 0 (McNemar's p {p_value(ensemble, '= ')}), and {points(against_best)} against the "
        "best single one."
    )


def table(history):
    """The table of `history.summary()`, and the validation figures beside it."""
    head = ["", "accuracy", "NLL", "ECE", "change", "p", "agreement", "right to wrong", "wrong to right"]
    head += ["val. accuracy", "val. loss", "epochs", "seconds"]
    rows = []
    for record in history.records:
        metrics = record.metrics
        name = f"generation {record.generation}" + (" (teacher)" if record.generation == 0 else "")
        cells = [*score_cells(record.scores), percent(metrics["val_accuracy"]), f"{metrics['val_loss']:.4f}"]
        cells += [record.epochs, f"{record.seconds:.1f}"]
        rows.append((name, cells, record.generation == history.best_generation))
    seconds = sum(record.seconds for record in history.records)
    rows.append(
        (f"ensemble of {len(history.members)}", [*score_cells(history.ensemble), "", "", "", f"{seconds:.1f}"], 0)
    )
    lines = [f"<tr>{''.join(f'<th>{name}</th>' for name in head)}</tr>"]
    for name, cells, is_best in rows:
        row = "".join(f"<td>{cell}</td>" for cell in [name, *cells])
        lines.append(f"<tr{' class=best' if is_best else ''}>{row}</tr>")
    return (
        f'<div class="wide"><table>{"".join(lines)}</table></div><p class="note">Bold: the best {history.monitor}. '
        "change: accuracy in percentage points against the generation before (ensemble: against generation 0), with "
        "McNemar's exact p. NLL: negative log-likelihood. ECE: expected calibration error.</p>"
    )


def score_cells(scores):
    cells = [percent(scores.accuracy), f"{scores.nll:.4f}", percent(scores.ece)]
    if scores.compared_with is None:
        return [*cells, "", "", "", "", ""]
    flips = [scores.negative_flips, scores.positive_flips]
    return [*cells, points(scores.change), p_value(scores), percent(scores.agreement), *flips]


def confusion(answers, classes, name):
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (answers.labels, answers.predicted), 1)
    yield figure(figures.confusion(matrix, classes), f"Test images of each label, and the answers of {name}.")
    if len(classes) > 12:
        wrong = matrix - np.diag(matrix.diagonal())
        pairs = np.dstack(np.unravel_index(np.argsort(wrong, axis=None)[::-1][:MOST_PAIRS], wrong.shape))[0]
        rows = [
            f"<tr><td>{escape(classes[i])}</td><td>{escape(classes[j])}</td><td>{wrong[i, j]}</td></tr>"
            for i, j in pairs
            if wrong[i, j]
        ]
        head = "<tr><th>label</th><th>answer</th><th>images</th></tr>"
        yield f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'


def overturned(history, x, labels, scored, classes):
    """Images whose label the student knows and its teacher did not, and the other way round; the surest first."""
    yield "<h2>Where students overturned their teachers</h2>"
    for record in history.records[1:]:
        before, now = (scored[f"generation {g}"] for g in (record.generation - 1, record.generation))
        right_before, right_now = before.are_right, now.are_right
        for which, words in (
            (right_now & ~right_before, "for the better"),
            (right_before & ~right_now, "for the worse"),
        ):
            order = np.flatnonzero(which)[np.argsort(-now.confidence[which], kind="stable")]
            shown = f", the {MOST_IMAGES} surest" if len(order) > MOST_IMAGES else ""
            yield f"<h3>Generation {record.generation}, {words}: {len(order)} images{shown}</h3>"
            yield gallery(x, labels, order[:MOST_IMAGES], {"teacher": before, "student": now}, classes)


def disagreements(x, labels, scored, classes):
    """Images on which the generations give most answers; among those, the least sure first."""
    answers = np.stack([each.predicted for each in scored])
    different = np.array([len(set(column)) for column in answers.T])
    unsure = np.mean([each.confidence for each in scored], axis=0)
    order = np.lexsort((unsure, -different))
    order = order[different[order] > 1]
    yield f"<h2>Where generations disagree: {len(order)} of {len(labels):,} images</h2>"
    by_name = {f"gen. {generation}": each for generation, each in enumerate(scored)}
    yield gallery(x, labels, order[:MOST_IMAGES], by_name, classes)


def gallery(x, labels, order, scored, classes):
    if x is None:
        return ""
    cells = []
    for index in order:
        said = [
            f"{who}: {escape(classes[p.predicted[index]])} ({p.confidence[index]:.0%})" for who, p in scored.items()
        ]
        lines = "<br>".join([f"<b>label: {escape(classes[labels[index]])}</b>", *said])
        image = f'<img alt="{escape(classes[labels[index]])}" src="{figures.thumbnail(x[index])}">'
        cells.append(f"<figure>{image}<figcaption>{lines}</figcaption></figure>")
    return f'<div class="images">{"".join(cells)}</div>'


def versions():
    yield f"Python {platform.python_version()}"
    for name in dict.fromkeys(("keras-ban", "keras", keras.backend.backend(), "numpy")):
        for known in (name, f"{name}-cpu"):
            try:
                yield f"{name} {importlib.metadata.version(known)}"
                break
            except importlib.metadata.PackageNotFoundError:
                continue


def figure(picture, caption):
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def escape(text):
    return html.escape(str(text))


def percent(share):
    return f"{share:.2%}"


def p_value(scores, equals=""):
    return f"{equals}{scores.p_value:.3f}" if scores.p_value >= 0.001 else "&lt; 0.001"


def points(share):
    return f"{100 * share:+.2f}"
