"""The message of `--resume` if the run was begun with other images than those of now."""

import shlex

from keras_ban._src.command import train_checks
from keras_ban._src.command.options_file import OPTIONS_FILE, read

_PARTS = {"x": "to train on", "validation_data": "to validate", "unlabeled": "without labels"}


def explained(error, options):
    """Return the text of an `OtherSettings` error for the command line: which images differ, and what to do."""
    out, path = options.out, options.out / OPTIONS_FILE
    config, another = (shlex.quote(str(each)) for each in (path, f"{out}-2"))
    other = f"{train_checks.program()} train --config {config} --out {another}"
    lines = list(_differences(*(_of_arrays(each["data"]) for each in (error.stored, error.given))))
    if not lines:
        return f"{error}\nTo begin another run: {other}"
    at_first = read(path).get("data", options.data) if path.exists() else options.data
    place = at_first.partition(":")[2] or at_first
    how = f"restore the images in {place}" if at_first == options.data else f"name {place}, with which it was begun"
    listed = "".join(f"- {line}\n" for line in lines)
    return (
        f"{out} holds a run that was begun with other images:\n{listed}"
        f"To continue it, {how}. To begin another run with those that are there: {other}"
    )


def _of_arrays(described):
    """The description of data, with the arrays that datasets are made of in the place of the datasets."""
    datasets = {name: each for name, each in described.items() if isinstance(each, dict)}
    made_of = {name: each["made_of"] for name, each in datasets.items() if "made_of" in each}
    x, *y = made_of.get("x", [None])
    return described | made_of | ({"x": [x], "y": y} if y else {})


def _differences(stored, given):
    """Yield a line for each part of the images that is not what it was."""
    for name, words in _PARTS.items():
        before, after = (_first(each.get(name)) for each in (stored, given))
        counts = [0 if each is None else each.get("examples") for each in (before, after)]
        if before == after or None in counts:  # Older versions do not say how many.
            continue
        if counts[0] != counts[1]:
            yield f"images {words}: {counts[0]:,} in the run, {counts[1]:,} now"
        else:
            yield f"images {words}: {counts[0]:,} as in the run, but not the same ones"
    classes = [_classes(each) for each in (stored, given)]
    if None not in classes and classes[0] != classes[1]:
        yield f"classes: {classes[0]} in the run, {classes[1]} now"


def _first(described):
    return described[0] if isinstance(described, list) else described


def _classes(described):
    """The number of classes of one-hot labels, in the description of training data or validation data."""
    labels = described.get("y") or (described.get("validation_data") or [None, None])[1:]
    return labels[0]["dtype_and_shape"][1][0] if labels and isinstance(labels[0], dict) else None
