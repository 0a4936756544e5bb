"""Images and labels from scikit-learn's digits, a .npz file, a folder or TFDS.

All images are in memory as 8-bit numbers, with three channels and one size. So reading them does not slow down training
on any backend, soft targets can be kept for them, and an interrupted run continues with the same batches.
"""

import dataclasses
import pathlib
from collections import Counter

import numpy as np

from keras_ban._src.images import arrays, folder, models, pictures, sizes, tfds

PARTS = ("train", "validation", "test")
_MOST_SKIPPED = 5


@dataclasses.dataclass
class Data:
    """Images `(n, height, width, 3)` in uint8, labels `(n,)` from 0, and the images' names, for each part.

    Attributes:
        train, validation, test: `(x, y, names)`. Names are those of files, or of rows.
        classes: the name of each class.
        notes: sentences about what was done to the images.
        skipped: `(path, reason)` of each file that could not be read.
        unlabeled: images without labels, or `None`.
    """

    train: tuple
    validation: tuple
    test: tuple
    classes: list
    notes: list
    skipped: list
    unlabeled: np.ndarray | None = None

    @property
    def size(self):
        """The height and width of all images."""
        return self.train[0].shape[1:3]


def load(options):
    """Return the `Data` that the options name. Raise `ValueError` if they cannot be used."""
    kind, _, place = options.data.partition(":")
    notes, skipped = pictures.Notes(), []
    chosen = {
        "asked": options.image_size,
        "limits": models.limits(options),
        "of_preset": models.size_of_preset(options),
        "asked_by": "in the run that is continued" if options.resume else "--image-size says",
    }
    lines = []
    if kind == "folder":
        found = folder.Folder(place)
        size, notes.reason = sizes.choose(found.sizes(), **chosen)
        (parts, skipped), classes, lines = found.read(size, notes), found.classes, found.notes
    else:
        if kind == "digits":
            parts, classes = arrays.digits()
            lines.append("The digits, which have 8x8 pixels, are enlarged four times.")
        elif kind == "npz":
            parts, classes = arrays.npz(place)
        else:
            parts, classes = tfds.read(place, options.data_dir)
        firsts = [x[:1] if isinstance(x, np.ndarray) else x for x, _ in parts.values()]
        size, notes.reason = sizes.choose((image.shape[:2] for x in firsts for image in x), **chosen)
        parts = {
            name: named(name, pictures.from_arrays(x, size, notes, place or kind), y) for name, (x, y) in parts.items()
        }
    check_classes(parts, classes, place or kind, skipped)
    unlabeled = None
    if options.unlabeled is not None:
        unlabeled, broken = read_unlabeled(options.unlabeled, size, notes)
        skipped += broken
    lines = [*notes.lines(), *lines]
    parts, held_out = with_all_parts(parts, options.seed)
    if held_out:
        of_them = " and ".join(held_out)
        lines.append(f"No {of_them} images of their own: a tenth of the training images, drawn by seed {options.seed}.")
    for name in PARTS:
        if len(parts[name][1]) == 0:
            raise ValueError(
                f"{place or kind} has too few images: none are left for {name}. Each class needs some ten or more."
            )
    lines += without_images(parts, classes)
    return Data(**parts, classes=classes, notes=lines, skipped=skipped, unlabeled=unlabeled)


def named(part, x, y):
    """Return images and labels with a name for each, of its part and row."""
    return x, y, np.array([f"{part} {row}" for row in range(len(y))], object)


def read_unlabeled(place, size, notes):
    """Return the images in a folder, at any depth, and `(path, reason)` of those that could not be read.

    Raise `ValueError` if there are no images.
    """
    files = folder.image_files(pathlib.Path(place))
    x, _, broken = folder.read_all(files, size, notes)
    if len(x) == 0:
        why = f"{broken[0][0]}: {broken[0][1]}" if broken else f"their files must end in {folder.ENDINGS_IN_WORDS}"
        raise ValueError(f"--unlabeled {place} holds no images that can be read: {why}.")
    return x, [(str(file), reason) for file, reason in broken]


def check_classes(parts, classes, source, skipped):
    """Raise `ValueError` if there is only one class, or a class without training images."""
    if len(classes) < 2:
        raise ValueError(f"{source} has one class alone ({classes}): a classifier needs two or more.")
    counts = np.bincount(parts["train"][1], minlength=len(classes))
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        why = f" ({skipped[0][0]}: {skipped[0][1]})" if skipped else ""
        raise ValueError(
            f"{source} has no readable training image of {len(empty)} of its {len(classes)} classes: "
            f"{_some(empty)}{why}. Add some, or take the class away."
        )


def with_all_parts(parts, seed):
    """Return all parts, and the names of those that were missing. Each gets a tenth of each class's training images."""
    parts, held_out = dict(parts), []
    for name in ("test", "validation"):
        if name in parts:
            continue
        chosen = a_tenth(parts["train"][1], np.random.default_rng([seed, PARTS.index(name)]))
        parts[name] = tuple(each[chosen] for each in parts["train"])
        parts["train"] = tuple(each[~chosen] for each in parts["train"])
        held_out.append(name)
    return parts, held_out


def a_tenth(y, rng):
    """Return which examples to hold out, `(n,)`: a tenth of each class, at least one, but not the only one."""
    chosen = np.zeros(len(y), bool)
    for label, count in sorted(Counter(y.tolist()).items()):
        share = min(max(1, round(count / 10)), count - 1)
        chosen[rng.permutation(np.flatnonzero(y == label))[:share]] = True
    return chosen


def without_images(parts, classes):
    """Yield a sentence for each part that has no images of some classes."""
    for name in PARTS[1:]:
        counts = np.bincount(parts[name][1], minlength=len(classes))
        missing = [each for each, count in zip(classes, counts, strict=True) if count == 0]
        if missing:
            yield f"No {name} image of {_some(missing)}: how well the models know them is not measured there."


def _some(names):
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def describe(data):
    """Return lines about the images: their number, classes and size, and what was done to them."""
    counts = [len(part[1]) for part in (data.train, data.validation, data.test)]
    per_class = np.bincount(data.train[1])
    of_each = f"{per_class.min():,}" + (f" to {per_class.max():,}" if per_class.min() != per_class.max() else "")
    more = f", {len(data.unlabeled):,} without labels" if data.unlabeled is not None else ""
    lines = [
        f"{counts[0]:,} images to train on, {counts[1]:,} to validate, {counts[2]:,} to test{more}; "
        f"{len(data.classes)} classes of {of_each} images; {sizes.as_text(data.size)} pixels.",
        *data.notes,
    ]
    if data.skipped:
        lines.append(f"{len(data.skipped):,} files could not be read as images, and were skipped:")
        lines += [f"  {path}: {reason}" for path, reason in data.skipped[:_MOST_SKIPPED]]
        if len(data.skipped) > _MOST_SKIPPED:
            lines.append(f"  and {len(data.skipped) - _MOST_SKIPPED:,} more, which report.html names")
    return lines


def about(data):
    """Return what was done to the images, and all files that could not be read, as sentences for the report."""
    skipped = [f"{path}: {reason}" for path, reason in data.skipped]
    heading = f"{len(skipped):,} files could not be read, and were skipped:"
    return [*data.notes, *([heading, *skipped] if skipped else [])]
