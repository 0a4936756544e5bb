"""The report of a `BornAgainHistory`: one HTML file that needs nothing else."""

import pathlib

from keras_ban._src import checks
from keras_ban._src.files.writing import write_text
from keras_ban._src.history import plot
from keras_ban._src.history.html_tables import escaped
from keras_ban._src.history.report import classes, overview
from keras_ban._src.history.report.examples import (
    Examples,
    as_images,
    confident_errors,
    disagreements,
    largest_losses,
    overturned,
)
from keras_ban._src.history.report.markup import Html, element, paragraph
from keras_ban._src.history.report.outputs import outputs_of
from keras_ban._src.history.report.style import STYLE
from keras_ban._src.history.scores import Scores


def write(path, history, *, title=None, class_names=None, file_names=None, images=None, details=None):
    """Write the report of a history.

    Args:
        path, history, title, class_names, file_names, images: as in `BornAgainHistory.report`.
        details: more sections, `{heading: text}`. A text, for instance of options, is shown as it is; a list is one of
            sentences.
    """
    if not history.records:
        raise ValueError("There is nothing to report: no generation is recorded. Call `fit` first.")
    path = pathlib.Path(checks.check_path("path", path))
    plot.new_figure(1, 1)  # An error now, not after the work.
    outputs = outputs_of(history, class_names)
    examples = _examples(outputs, class_names, file_names, images)
    title = title or ("Born-again networks" if history.directory is None else history.directory.name)
    body = [element("h1", title), *overview.opening(history, outputs), *overview.all_scores(history)]
    body += overview.curves(history)
    for output in outputs:
        body += _of_output(output, examples)
    body += _not_shown(outputs)
    for heading, text in (details or {}).items():
        body.append(element("h2", heading))
        body += [element("pre", text)] if isinstance(text, str) else [paragraph(each) for each in text]
    body += [*overview.loading(history), *overview.versions()]
    write_text(path, _page(title, body, history))


def _examples(outputs, class_names, file_names, images):
    """Return the `Examples`. Raise `ValueError` if names or images do not fit the examples that were scored."""
    values = {"file_names": file_names, "images": images, "class_names": class_names}
    given = [name for name, value in values.items() if value is not None]
    known = [each for each in outputs if each.examples]
    if given and not known:
        raise ValueError(
            f"`{given[0]}` is about the examples that were scored, and this history does not hold their answers: it "
            "was read from a file, or nothing was scored. Call `report` of what `sequence.evaluate(x, y)` returns."
        )
    if set(given) - {"class_names"} and not all(each.is_paired for each in known):
        raise ValueError(
            f"`{given[0]}` cannot be matched with the examples, because these came in another order each time they "
            "were read. Score the models on data in a fixed order."
        )
    if file_names is not None:
        file_names = list(file_names)
        if len(file_names) != known[0].examples:
            raise ValueError(
                f"`file_names` must hold one name for each of the {known[0].examples} examples, received "
                f"{len(file_names)}."
            )
    return Examples(file_names, None if images is None else as_images(images, known[0].examples))


def _of_output(output, examples):
    """Yield the sections of one output."""
    yield from overview.calibration(output)
    if output.chosen in output.answers:
        yield from classes.per_class(output)
        yield from classes.confusions(output)
        yield from confident_errors(output, examples)
        if output.is_paired:
            yield from overturned(output, examples)
            yield from disagreements(output, examples)
    elif output.chosen in output.losses:
        yield from largest_losses(output, examples)


def _not_shown(outputs):
    """Yield a section about what the report lacks, and how to get it."""
    if any(isinstance(each.scores[each.chosen], Scores) and each.chosen not in each.answers for each in outputs):
        yield element("h2", "Results of each class and each example")
        yield paragraph(
            Html(
                "Not in this report: it was written from scores on disk. "
                "<code>sequence.evaluate(x, y).report(&quot;report.html&quot;)</code> writes one with confusions and "
                "errors."
            )
        )


def _page(title, body, history):
    # Between tags of script no text may look like their end.
    numbers = history.to_json().replace("<", "\\u003c")
    content = "\n".join(body)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escaped(title)}</title><style>{STYLE}</style></head><body>
{content}
<script type="application/json" id="history">{numbers}</script></body></html>
"""
