"""Augmentation by name: Keras's layers inside the training step, and what changes batches before it."""

import math

import keras
import numpy as np
from keras import layers

from keras_ban._src.images.choices import IN_BATCHES
from keras_ban._src.images.rand_augment import rand_augment


def in_step(names):
    """Return flips and crops as Keras's layers inside the training step, on every backend; `None` without any."""
    made = {
        "flip": lambda: layers.RandomFlip("horizontal"),
        # A crop of the image with a margin. JAX cannot compile `RandomCrop`.
        "crop": lambda: layers.RandomTranslation(0.125, 0.125, fill_mode="constant"),
    }
    chosen = [made[name]() for name in made if name in names]
    # First as floats, because some layers would round 8-bit numbers.
    return keras.Sequential([layers.Rescaling(1.0, dtype="float32"), *chosen]) if chosen else None


def in_batches(options, x, y):
    """Return `(x, y)` as `fit` takes them: arrays, or `ChangedBatches` and `None`."""
    names = [name for name in IN_BATCHES if name in options.augmentation]
    return (ChangedBatches(x, y, names, options.batch_size, options.seed), None) if names else (x, y)


class ChangedBatches(keras.utils.PyDataset):
    """Batches of images and one-hot labels, shuffled and changed by RandAugment, MixUp or CutMix.

    They are changed before the step, so that teacher and student see the same batch. NumPy and Pillow change them:
    Keras's RandAugment is slower, and takes JAX more than a minute to compile. A batch gets either MixUp or CutMix.

    Each batch follows from the seed, the model, the epoch and its index alone. So an interrupted run continues with the
    same batches.

    Args:
        x: images, uint8.
        y: labels, one-hot.
        names: of `choices.IN_BATCHES`.
        batch_size: number of images.
        seed: a whole number.

    Attributes:
        model: how many models were trained before.
        epoch: the current epoch, from 0.
        made_of: the arrays by which a run directory knows the data again.
    """

    model = epoch = 0

    def __init__(self, x, y, names, batch_size, seed):
        super().__init__()  # Pillow lets other threads run.
        self._x, self._y, self._batch_size, self._seed = x, y, batch_size, seed
        self.made_of = x, y
        self._changes_images = "randaugment" in names
        self._mixes = [mix for name, mix in (("mixup", mix_up), ("cutmix", cut_mix)) if name in names]

    def __len__(self):
        return math.ceil(len(self._x) / self._batch_size)

    def __getitem__(self, index):
        of_epoch = [self._seed, self.model, self.epoch]
        order = np.random.default_rng(of_epoch).permutation(len(self._x))
        rows = order[index * self._batch_size :][: self._batch_size]
        rng = np.random.default_rng([*of_epoch, 1 + index])
        x, y = self._x[rows], self._y[rows]
        if self._changes_images:
            x = np.stack([rand_augment(image, rng) for image in x])
        x = x.astype("float32")
        if self._mixes:
            x, y = self._mixes[rng.integers(len(self._mixes))](x, y, rng)
        return x, y


def mix_up(x, y, rng, alpha=0.2):
    """Return each image and label mixed with another of the batch (Zhang et al., 2018).

    The share of each is drawn from `Beta(alpha, alpha)`.
    """
    other = rng.permutation(len(x))
    share = rng.beta(alpha, alpha, len(x)).astype("float32")
    of_images, of_labels = share[:, None, None, None], share[:, None]
    return of_images * x + (1 - of_images) * x[other], of_labels * y + (1 - of_labels) * y[other]


def cut_mix(x, y, rng):
    """Return each image with a box of another (Yun et al., 2019), and labels in the shares of the pixels.

    The area of the box is drawn from 0 to that of the image, its place from where all of it is inside.
    """
    count, height, width, _ = x.shape
    other, length = rng.permutation(count), np.sqrt(rng.random(count))
    rows, columns = (_stretch(rng, length, size) for size in (height, width))
    box = rows[:, :, None] & columns[:, None, :]
    share = box.mean(axis=(1, 2), dtype="float32")[:, None]
    return np.where(box[..., None], x[other], x), (1 - share) * y + share * y[other]


def _stretch(rng, length, size):
    """Return which of `size` pixels lie in a stretch of a relative length, for each example."""
    pixels = np.rint(length * size).astype(int)
    start = rng.integers(size - pixels + 1)[:, None]
    position = np.arange(size)
    return (start <= position) & (position < start + pixels[:, None])
