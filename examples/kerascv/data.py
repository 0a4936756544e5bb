"""Images and labels from scikit-learn's digits, a .npz file, a folder or TFDS, all in memory as they are trained on.

In memory as 8-bit numbers, because so they can be fed at any speed on every backend, soft targets can be kept for them,
and an interrupted run goes on with the very same batches. Every image has three channels and one size.
"""

import dataclasses
import pathlib
import sys
from collections import Counter

import numpy as np
import user_files

from kerascv import folder, pictures, tfds_data

PARTS = ("train", "validation", "test")


@dataclasses.dataclass
class Data:
    """Images `(n, height, width, 3)` in uint8 and labels `(n,)` from 0, for each part.

    Attributes:
        train, validation, test: `(x, y)`.
        classes: a name for each.
        notes: what was done to the images, a sentence each.
        skipped: `(path, reason)` of each file that could not be read.
    """

    train: tuple
    validation: tuple
    test: tuple
    classes: list
    notes: list
    skipped: list


def load(options):
    """The data that the options name; what cannot be used ends the process with a message."""
    kind, _, place = options.data.partition(":")
    notes, skipped = pictures.Notes(), []
    if kind == "digits":
        parts, classes = digits()
    elif kind == "npz":
        parts, classes = npz(place)
    elif kind == "folder":
        parts, classes, skipped = folder.read(pathlib.Path(place), options.image_size, notes)
    else:
        parts, classes = tfds_data.read(place, options.data_dir)
    if kind != "folder":
        arrays = [x[:1] if isinstance(x, np.ndarray) else x for x, _ in parts.values()]
        size = options.image_size or pictures.own_size(image.shape[:2] for x in arrays for image in x)
        parts = {name: (pictures.from_arrays(x, size, notes, place or kind), y) for name, (x, y) in parts.items()}
    check_classes(parts, classes, options.data)
    lines = notes.lines()
    parts, held_out = with_all_parts(parts, options.seed)
    for name, source in held_out.items():
        lines.append(f"No {name} images of their own: a tenth of the {source} images, drawn by seed {options.seed}.")
    for name in PARTS:
        if len(parts[name][1]) == 0:
            sys.exit(f"{options.data} has too few images: none are left for {name}. Each class needs some ten or more.")
    return Data(**parts, classes=classes, notes=lines, skipped=skipped)


def digits():
    """300 train, 300 validate, 1,197 test (as in digits.py), each pixel as 4x4: 32x32."""
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        sys.exit('The digits are scikit-learn\'s, which is missing: pip install ".[examples]"')
    loaded = load_digits()
    images = (loaded.images * 255 / 16).astype("uint8").repeat(4, axis=1).repeat(4, axis=2)
    order = np.random.default_rng(0).permutation(len(images))
    parts = zip(PARTS, np.split(order, [300, 600]), strict=True)
    return {name: (images[part], loaded.target[part]) for name, part in parts}, [str(n) for n in range(10)]


def npz(path):
    """`x_train`, `y_train`; where they are there `x_val`, `y_val`, `x_test`, `y_test` and `classes`."""
    names = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}
    parts = {}
    wanted = "a .npz file of the arrays x_train, y_train and, if there are, x_test, y_test"
    of_parts = [name for pair in names.values() for name in pair]
    arrays = user_files.read_arrays(path, of_parts[:2], wanted, optional=[*of_parts[2:], "classes"])
    for part, (x, y) in names.items():
        if x in arrays:
            if y not in arrays:
                sys.exit(f"{path} must be {wanted}: there is no {y}")
            parts[part] = (arrays[x], arrays[y].squeeze())
    classes = [str(name) for name in arrays["classes"].ravel()] if "classes" in arrays else None
    for part, (x, y) in parts.items():
        if x.ndim not in (3, 4) or y.ndim != 1 or len(x) != len(y) or not np.issubdtype(y.dtype, np.integer):
            sys.exit(
                f"{path} must hold images (n, height, width) or (n, height, width, channels) and a whole number as "
                f"label of each. For {part} came: images {x.shape}, labels {y.shape} of {y.dtype}."
            )
    labels = np.concatenate([y for _, y in parts.values()])
    least, most = labels.min(), labels.max()
    if least < 0 or (classes is not None and most >= len(classes)):
        sys.exit(f"{path} must number its classes from 0, its labels run from {least} to {most}.")
    return parts, classes or [str(n) for n in range(most + 1)]


def check_classes(parts, classes, source):
    """End where there is one class alone, or a class without images to train on."""
    if len(classes) < 2:
        sys.exit(f"{source} has one class alone ({classes}): a classifier needs two or more.")
    counts = np.bincount(parts["train"][1], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        sys.exit(
            f"{source} has no (readable) training image of {len(empty)} of its {len(classes)} classes: "
            f"{', '.join(empty[:5])}{', ...' if len(empty) > 5 else ''}. Add some, or take the class away."
        )


def with_all_parts(parts, seed):
    """`parts` with those that were missing, each a tenth of the training images, of each class alike."""
    parts, held_out = dict(parts), {}
    for name in ("test", "validation"):
        if name in parts:
            continue
        x, y = parts["train"]
        chosen = a_tenth(y, np.random.default_rng([seed, PARTS.index(name)]))
        parts[name] = (x[chosen], y[chosen])
        parts["train"] = (x[~chosen], y[~chosen])
        held_out[name] = "training"
    return parts, held_out


def a_tenth(y, rng):
    """Which examples: of each class a tenth, one at least, but for a class that has one alone."""
    chosen = np.zeros(len(y), bool)
    for label, count in sorted(Counter(y.tolist()).items()):
        share = min(max(1, round(count / 10)), count - 1)
        chosen[rng.permutation(np.flatnonzero(y == label))[:share]] = True
    return chosen


def describe(data):
    """Some lines that tell what there is."""
    (x, y), counts = data.train, [len(part[1]) for part in (data.train, data.validation, data.test)]
    per_class = np.bincount(y)
    lines = [
        f"{counts[0]:,} images to train on, {counts[1]:,} to validate, {counts[2]:,} to test; {len(data.classes)} "
        f"classes of {per_class.min():,} to {per_class.max():,} images; {x.shape[1]}x{x.shape[2]} pixels",
        *data.notes,
    ]
    if data.skipped:
        lines.append(f"{len(data.skipped)} files could not be read as images, and were skipped:")
        lines += [f"  {path}: {reason}" for path, reason in data.skipped[:5]]
        if len(data.skipped) > 5:
            lines.append(f"  and {len(data.skipped) - 5} others, which report.html names")
    return lines
