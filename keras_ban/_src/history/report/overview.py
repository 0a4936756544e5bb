"""The first sections of a report: what came out, in a few numbers, tables and curves."""

import platform

import keras
import numpy as np

import keras_ban
from keras_ban._src.history import html_tables
from keras_ban._src.history.report import figures
from keras_ban._src.history.report.markup import NARROW, Html, element, figure, note, paragraph, table, wide
from keras_ban._src.history.report.outputs import ENSEMBLE, label_of
from keras_ban._src.history.scores import Scores, examples_in, has_scipy, significance_in_words
from keras_ban._src.history.table import best_of, interval_in_words, notes, tables

_PAID = "being born again"


def opening(history, outputs):
    """Yield what the run is, its most important numbers, and whether being born again paid."""
    count = len(history.members)
    yield paragraph(
        f"A run of {count} generation{'s' if count > 1 else ''} of born-again networks (Furlanello et al., 2018). "
        "Generation 0 is the first teacher. Each later generation was trained anew, with outputs of the generations "
        f"before as targets. The ensemble averages the outputs of {'both' if count == 2 else 'all'} generations."
    )
    tiles = list(_tiles(outputs))
    if tiles:
        yield element("div", Html("".join(tiles)), class_="tiles")
    best = best_of(history)
    if best is not None:
        chosen = label_of(history.records[best])
        lowest = "lowest" if history.mode == "min" else "highest"
        yield paragraph(f"Chosen: {chosen}, with the {lowest} {history.monitor} on the validation data.")
    for output in outputs:
        scores = output.scores.get(ENSEMBLE)
        if isinstance(scores, Scores) and scores.change is not None:
            test = f" (McNemar's exact test: {significance_in_words(scores)})" if has_scipy() else ""
            change = f"{100 * scores.change:+.2f} percentage points against generation 0{test}."
            yield paragraph(f"{output.heading('Accuracy of the ensemble')}: {change}")
    for sentence in notes(history):
        if sentence.startswith(_PAID):
            yield paragraph(f"{sentence.capitalize()}.")


def _tiles(outputs):
    """Yield the first, the chosen and the best result, each with its interval."""
    for output in outputs:
        for label in output.shown:
            scores = output.scores[label]
            of_classes = isinstance(scores, Scores)
            words = output.heading(f"{label[0].upper()}{label[1:]}{', chosen' if label == output.chosen else ''}")
            value = f"{scores.accuracy:.2%}" if of_classes else f"{scores.loss:.4g}"
            about = f"right of {scores.examples:,} examples; 95% interval {interval_in_words(scores)}"
            about = about if of_classes else f"mean loss of {scores.examples:,} examples"
            content = element("span", words) + element("b", value) + element("span", about)
            yield element("div", Html(content), class_="tile chosen" if label == output.chosen else "tile")


def all_scores(history):
    """Yield the tables of `history.summary()` with all columns, and the notes under them."""
    yield element("h2", f"All models on the {history.data} data")
    found = tables(history, with_intervals=True)
    for content in found:
        yield wide("\n".join(html_tables.lines_of(content)), len(content.columns) > NARROW, content.title)
    shown = [sentence for sentence in notes(history) if not sentence.startswith(_PAID)]
    names = {column.name for content in found for column in content.columns}
    about = {
        "95% interval": "95% interval: Wilson's score interval of the accuracy, about chance in the choice of examples",
        "NLL": "NLL: mean negative log-likelihood of the labels, in nats; smaller is better",
        "ECE": "ECE: expected calibration error, how far confidence and accuracy are apart; smaller is better",
        "p": "p: probability of a difference at least this large if neither model were better",
        "agree": "agree: share of examples with the same answer as the teacher",
        "neg. flips": "neg. flips: examples that the teacher had right, and this model has wrong",
    }
    yield html_tables.list_of([*shown, *(text for name, text in about.items() if name in names)])


def curves(history):
    """Yield the scores over generations and the curves while training."""
    panels = list(figures.over_generations(history))
    if panels:
        yield element("h2", "From generation to generation")
        yield _grid(figure(svg, f"{panel.title} on the {history.data} data") for panel, svg in panels)
        about = "Circle: the chosen generation. Dashed: the ensemble."
        if any(panel.bands for panel, _ in panels):
            about += (
                " Bands: 95% intervals, of an accuracy Wilson's, of a mean loss (NLL) 1.96 standard errors of this "
                "mean over the examples."
            )
        yield note(about)
    is_of_fit = not any(record.evaluation for record in history.records)
    examples = examples_in(history.records) if is_of_fit else history.validation_examples
    trained = list(figures.while_training(history, examples))
    if trained:
        yield element("h2", "While training")
        yield _grid(figure(svg, _curve_caption(name)) for name, svg in trained)
        yield note(
            "A line for each generation, the later the darker. Dotted: the same on the training data, of students "
            "their loss on the labels. Circle: the end of the chosen generation."
        )


def _curve_caption(name):
    if name.startswith("val_"):
        return f"{name}: {name.removeprefix('val_')} on the validation data, after each epoch"
    return f"{name} on the training data, in each epoch"


def _grid(pictures):
    return element("div", Html("".join(pictures)), class_="figures")


def calibration(output):
    """Yield how far confidence and accuracy are apart, before and after a temperature."""
    scored = {label: each for label, each in output.scores.items() if isinstance(each, Scores) and each.temperature}
    if not scored:
        return
    yield element("h2", output.heading("Calibration, before and after"))
    yield paragraph(
        "A calibrated model that is 80% sure is right in 80% of such cases. One number, the temperature, divides the "
        "logits and repairs most of an error: above 1, the model was too sure, below 1 not sure enough. After: with "
        "the temperature of one half of the examples on the other half, so that no example chose its own. Answers do "
        "not change."
    )
    rows = [
        [label, f"{each.temperature:.2f}"]
        + [f"{value:.2%}" for value in (each.ece, each.calibrated_ece)]
        + [f"{value:.4f}" for value in (each.nll, each.calibrated_nll)]
        for label, each in scored.items()
    ]
    yield table(["model", "temperature", "ECE before", "ECE after", "NLL before", "NLL after"], rows)
    answers = {label: output.answers[label] for label in output.shown if label in output.answers}
    if answers and all(each.calibrated_confidence is not None for each in answers.values()):
        yield _grid(
            [
                figure(figures.reliability(answers), "Before. Below the line, a model is surer than it is right."),
                figure(figures.reliability(answers, calibrated=True), "After, with the temperature."),
            ]
        )
        yield note("Bars: 95% intervals (Wilson) of the share in each of 15 bins.")


def loading(history):
    """Yield the code that loads the models."""
    best = best_of(history)
    yield element("h2", "Use the models")
    if history.directory is None:
        code = 'sequence.best_model.save("best.keras")\nsequence.ensemble().save("ensemble.keras")\n\n'
        code += 'model = keras.saving.load_model("best.keras")'
        yield paragraph("This run has no directory. In the process that trained it, save what you need:")
        yield element("pre", Html(element("code", code)))
        return
    directory = str(history.directory)
    code = f"import keras\nimport keras_ban\n\nsequence = keras_ban.BornAgainSequence.load({directory!r})\n"
    code += "ensemble = sequence.ensemble()\n"
    if best is not None:
        folder = history.directory / f"generation-{best:02d}"
        code += f"model = sequence.best_model  # {label_of(history.records[best])}\n\n"
        code += (
            f"# The same model, without the others:\nmodel = keras.saving.load_model({str(folder / 'model.keras')!r})"
        )
    yield element("pre", Html(element("code", code)))


def versions():
    """Yield what wrote the report."""
    parts = [f"keras_ban {keras_ban.__version__}", f"Keras {keras.__version__} on {keras.backend.backend()}"]
    parts += [f"NumPy {np.__version__}", f"Python {platform.python_version()}"]
    yield note(f"Written by {', '.join(parts)}.")
