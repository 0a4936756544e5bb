"""The classes in a report: results of each class, and confusions between classes."""

import numpy as np

from keras_ban._src.history import intervals
from keras_ban._src.history.report.markup import Html, element, folded, note, paragraph, table, wide
from keras_ban._src.history.report.outputs import ENSEMBLE, in_sentence

# More classes are shown in part: the worst, and a block of those that are confused most.
MOST_CLASSES, BLOCK, MOST_PAIRS = 15, 10, 15


def confusion(answers):
    """Return `(classes, classes)`: the number of examples of each label (rows) and answer (columns)."""
    matrix = np.zeros((answers.classes, answers.classes), "int64")
    np.add.at(matrix, (answers.labels, answers.predicted), 1)
    return matrix


def most_confused(matrix, count):
    """Return a block of up to `count` classes, sorted, that are taken for each other most often.

    It starts with the pair with the most errors, and takes in the class with the most errors from and to the block.
    """
    wrong = matrix - np.diag(matrix.diagonal())
    wrong = wrong + wrong.T
    block = list(np.unravel_index(wrong.argmax(), wrong.shape)) if wrong.any() else [0]
    while len(block) < min(count, len(matrix)):
        left = wrong[:, block].sum(axis=1)
        left[block] = -1
        block.append(int(left.argmax()))
    return sorted(int(each) for each in block)


def per_class(output):
    """Yield the table of classes, those with the smallest share of right answers first."""
    answers, names, chosen = output.answers, output.class_names, output.chosen
    matrices = {label: confusion(answers[label]) for label in output.shown if label in answers}
    matrix = matrices[chosen]
    counts, answered = matrix.sum(axis=1), matrix.sum(axis=0)
    known = np.flatnonzero(counts)
    shares = {label: each.diagonal() / np.maximum(each.sum(axis=1), 1) for label, each in matrices.items()}
    order = known[np.argsort(shares[chosen][known], kind="stable")]
    head = ["class", "examples", *(f"{label}: right" for label in matrices)]
    head += [f"{chosen}: 95% interval", f"{chosen}: precision", f"{chosen}: most frequent error"]
    rows = []
    for place in order:
        low, high = intervals.of_share(float(shares[chosen][place]), int(counts[place]))
        wrong = matrix[place].copy()
        wrong[place] = 0
        error = f"{names[wrong.argmax()]} ({wrong.max()})" if wrong.any() else ""
        precision = f"{matrix[place, place] / answered[place]:.1%}" if answered[place] else ""
        right = [f"{each[place]:.1%}" for each in shares.values()]
        rows.append([names[place], f"{counts[place]:,}", *right, f"{low:.0%} to {high:.0%}", precision, error])
    texts = (0, len(head) - 1)
    yield element("h2", output.heading("Results of each class"))
    yield paragraph(
        "Of the examples of each class, the share that a model has right (recall), the class with the smallest share "
        "first. Precision: of the answers with this class, the share that is right."
    )
    if len(rows) <= MOST_CLASSES:
        yield table(head, rows, texts=texts)
        return
    yield table(head, rows[:MOST_CLASSES], f"The {MOST_CLASSES} classes with the smallest share", texts)
    yield folded(f"All {len(rows)} classes", table(head, rows, texts=texts))


def confusions(output):
    """Yield the matrix of the chosen generation, of many classes a block of it, and the most frequent confusions."""
    answers, names, chosen = output.answers, output.class_names, output.chosen
    labels = [label for label in dict.fromkeys((chosen, ENSEMBLE)) if label in answers]
    matrices = {label: confusion(answers[label]) for label in labels}
    whole = len(names) <= MOST_CLASSES
    yield element("h2", output.heading("Which classes are taken for each other"))
    block = list(range(len(names))) if whole else most_confused(matrices[chosen], BLOCK)
    which = "" if whole else f", the {BLOCK} of {len(names)} classes that are confused most"
    for label in labels:
        drawn = _matrix(matrices[label], block, names, f"Answers of {in_sentence(label)}{which}")
        yield drawn if label == chosen else folded(f"The same of the {label}", drawn)
    yield note(
        "A row for each label, a column for each answer. Numbers count examples. The darker a cell, the larger its "
        "share of the row's examples. Framed: right answers."
    )
    wrong = matrices[chosen] - np.diag(matrices[chosen].diagonal())
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [divmod(int(each), len(names)) for each in order]
    counts = wrong.sum(axis=1) + matrices[chosen].diagonal()
    rows = [
        [names[i], names[j], *(f"{each[i, j]:,}" for each in matrices.values()), f"{wrong[i, j] / counts[i]:.1%}"]
        for i, j in pairs
        if wrong[i, j]
    ]
    if rows:
        head = ["label", "wrong answer", *(f"{label}: times" for label in labels), f"{chosen}: share of the label"]
        yield table(head, rows, "The most frequent errors", texts=(0, 1))


def _matrix(matrix, block, names, caption):
    """Return a confusion matrix of some classes as a table."""
    others = len(block) < len(names)
    columns = [*(names[place] for place in block), *(["all other classes"] if others else [])]
    head = [element("th", "label \\ answer"), *(element("th", Html(element("span", each))) for each in columns)]
    lines = [f"<thead><tr>{''.join(head)}</tr></thead><tbody>"]
    most = 0
    for row in block:
        total = max(int(matrix[row].sum()), 1)
        counts = [(int(matrix[row, column]), column == row) for column in block]
        counts += [(int(matrix[row].sum() - matrix[row, block].sum()), False)] if others else []
        cells, most = [element("th", names[row])], max(most, *(count for count, _ in counts))
        for count, is_right in counts:
            share = count / total
            kind = " ".join(word for word, holds in (("right", is_right), ("strong", share > 0.5)) if holds)
            style = f"background: rgba(var(--heat), {share:.2f})" if count else ""
            cells.append(element("td", count or "", class_=kind, style=style))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    lines.append("</tbody>")
    # The style sheet fits so many narrow columns of numbers below 1,000 into the screen of a phone.
    fits = len(columns) <= BLOCK + 1 and most < 1000
    return wide(element("table", Html("\n".join(lines)), class_="matrix"), not fits, caption)
