"""report.html: what the generations scored, where they differ, and with which options and versions; one file."""

import html
import importlib.metadata
import platform

import numpy as np

from kerascv import figures
from kerascv.options import to_toml
from kerascv.training import write as write_whole

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


def write(path, sequence, history, data, options):
    """Write the report of a finished run.

    Args:
        path: of the file.
        sequence: the `BornAgainSequence`, trained.
        history: its scores on the test images.
        data, options: what it was trained on, and with.
    """
    x, labels = data.test
    names = [f"generation {record.generation}" for record in history.records] + ["ensemble"]
    models = [*sequence.models, sequence.ensemble()]
    # Rounded to half precision they may not quite sum to 1.
    probabilities = {
        name: np.asarray(model.predict(x, batch_size=options.batch_size, verbose=0), "float64")
        for name, model in zip(names, models, strict=True)
    }
    best = history.best_generation
    body = [
        f"<h1>{escape(options.data)}: {escape(options.backbone)}, born again</h1>",
        f"<p>{summary(history)}</p>",
        "<h2>Generations on the test images</h2>",
        table(history),
        "<h2>Curves</h2>",
        '<div class="figures">',
        figure(figures.curves(history.records, "loss"), "Bold: validation images. Thin: training images."),
        figure(figures.curves(history.records, "accuracy"), "Bold: validation images. Thin: training images."),
        "</div><h2>Calibration and confusion</h2>",
        '<div class="figures">',
        figure(
            figures.reliability(labels, probabilities),
            "Below the line a model is surer than it is right, above it less sure.",
        ),
        *confusion(labels, probabilities[f"generation {best}"], data.classes, f"generation {best}, the best"),
        "</div>",
        *overturned(history, x, labels, probabilities, data.classes),
        *disagreements(x, labels, list(probabilities.values())[:-1], data.classes),
        "<h2>Data</h2>",
        *(f"<p>{escape(line)}</p>" for line in data.notes),
        *skipped(data.skipped),
        "<h2>Options</h2>",
        f"<pre>{escape(to_toml(options))}</pre>",
        "<h2>Versions</h2>",
        f"<p>{escape(', '.join(versions(options.backend)))}</p>",
    ]
    # Between tags of script no text may look like their end.
    numbers = history.to_json().replace("<", "\\u003c")
    page = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(options.data)}: born-again {escape(options.backbone)}</title><style>{STYLE}</style></head><body>
{"".join(body)}
<script type="application/json" id="history">{numbers}</script></body></html>
"""
    write_whole(path, page)


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


def confusion(labels, probabilities, classes, name):
    matrix = np.zeros((len(classes), len(classes)), int)
    np.add.at(matrix, (labels, probabilities.argmax(axis=-1)), 1)
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


def overturned(history, x, labels, probabilities, classes):
    """Images whose label the student knows and its teacher did not, and the other way round; the surest first."""
    yield "<h2>Where students overturned their teachers</h2>"
    for record in history.records[1:]:
        before, now = (probabilities[f"generation {g}"] for g in (record.generation - 1, record.generation))
        right_before, right_now = (p.argmax(axis=-1) == labels for p in (before, now))
        for which, words in (
            (right_now & ~right_before, "for the better"),
            (right_before & ~right_now, "for the worse"),
        ):
            order = np.flatnonzero(which)[np.argsort(-now.max(axis=-1)[which], kind="stable")]
            shown = f", the {MOST_IMAGES} surest" if len(order) > MOST_IMAGES else ""
            yield f"<h3>Generation {record.generation}, {words}: {len(order)} images{shown}</h3>"
            yield gallery(x, labels, order[:MOST_IMAGES], {"teacher": before, "student": now}, classes)


def disagreements(x, labels, probabilities, classes):
    """Images on which the generations give most answers; among those, the least sure first."""
    answers = np.stack([p.argmax(axis=-1) for p in probabilities])
    different = np.array([len(set(column)) for column in answers.T])
    unsure = np.mean([p.max(axis=-1) for p in probabilities], axis=0)
    order = np.lexsort((unsure, -different))
    order = order[different[order] > 1]
    yield f"<h2>Where generations disagree: {len(order)} of {len(labels):,} images</h2>"
    by_name = {f"gen. {generation}": p for generation, p in enumerate(probabilities)}
    yield gallery(x, labels, order[:MOST_IMAGES], by_name, classes)


def gallery(x, labels, order, probabilities, classes):
    cells = []
    for index in order:
        said = [
            f"{who}: {escape(classes[p[index].argmax()])} ({p[index].max():.0%})" for who, p in probabilities.items()
        ]
        lines = "<br>".join([f"<b>label: {escape(classes[labels[index]])}</b>", *said])
        image = f'<img alt="{escape(classes[labels[index]])}" src="{figures.thumbnail(x[index])}">'
        cells.append(f"<figure>{image}<figcaption>{lines}</figcaption></figure>")
    return f'<div class="images">{"".join(cells)}</div>'


def skipped(files):
    if files:
        yield f"<p>{len(files)} files could not be read, and were skipped:</p><ul>"
        yield from (f"<li>{escape(path)}: {escape(reason)}</li>" for path, reason in files)
        yield "</ul>"


def versions(backend):
    yield f"Python {platform.python_version()}"
    for name in ("keras-ban", "keras", {"tensorflow": "tensorflow-cpu"}.get(backend, backend), "keras-cv", "numpy"):
        for known in (name, name.removesuffix("-cpu")):
            try:
                yield f"{known} {importlib.metadata.version(known)}"
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
