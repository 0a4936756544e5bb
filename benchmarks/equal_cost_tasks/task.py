"""What a task of the benchmark is: data in five disjoint parts, a model, and how it is trained."""

import dataclasses
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass
class Task:
    """A task of one seed. The seed decides which examples are in which part.

    Args:
        name: as in the results.
        train: `(x, y)`, the labeled examples.
        unlabeled: inputs without labels.
        weights_data: `(x, y)`, half A of the validation data. Weights of members may be fitted to it.
        temperature_data: `(x, y)`, half B of the validation data. It fits the temperature, and chooses recipes.
        test: `(x, y)`, which is only scored.
        build: returns a new model that gives logits, of float32 whatever the dtype policy is.
        optimizer: returns a new optimizer. Its learning rate is the one at the start of a cosine.
        epochs: the length of a plain training.
        batch_size: examples in a step.
        augmentation: returns the layers that augment inputs in each step, or `None`.
        mixing: returns the layers that then mix examples, for members with mixed images, or `None`.
    """

    name: str
    train: tuple
    unlabeled: np.ndarray
    weights_data: tuple
    temperature_data: tuple
    test: tuple
    build: Callable
    optimizer: Callable
    epochs: int
    batch_size: int
    augmentation: Callable | None = None
    mixing: Callable | None = None

    @property
    def examples(self):
        """The number of examples that pass through a plain training."""
        return self.epochs * len(self.train[0])

    def epochs_of(self, length, of_epoch):
        """The epochs, of so many examples, in which no more examples pass than in `length` plain trainings."""
        return max(1, length * self.examples // of_epoch)


def split(x, y, seed, sizes):
    """Return disjoint parts of the examples, `(x, y)` each. Each part has the classes in equal shares.

    Args:
        x, y: arrays of examples, and of their classes.
        seed: decides which examples are in which part.
        sizes: the number of examples of each part; `None`: all that are left.
    """
    order = stratified(y, np.random.default_rng(seed))
    parts, start = [], 0
    for size in sizes:
        rows = order[start:] if size is None else order[start : start + size]
        if size is not None and len(rows) < size:
            raise ValueError(f"There are {len(y)} examples, but the parts need {sum(n for n in sizes if n)}.")
        parts.append((x[rows], y[rows]))
        start += len(rows)
    return parts


def of_largest_classes(x, y, count):
    """Return the examples of the classes with the most of them. The classes are numbered anew."""
    largest = np.sort(np.argsort(-np.bincount(y), kind="stable")[:count])
    rows = np.flatnonzero(np.isin(y, largest))
    return x[rows], np.searchsorted(largest, y[rows]).astype(y.dtype)


def stratified(y, rng):
    """Return a random order of the examples, in which every stretch has the classes in about equal shares."""
    places = np.empty(len(y))
    for each in np.unique(y):
        rows = np.flatnonzero(y == each)
        places[rows] = (rng.permutation(len(rows)) + rng.random(len(rows))) / len(rows)
    return np.argsort(places)
