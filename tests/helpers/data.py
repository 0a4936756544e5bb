"""Small data sets."""

import io

import keras
import numpy as np

CLASSES = 3


def make_blobs(seed=1):
    """`(x, y)`: 96 points around three centres, `(96, 8)` float32, labels 0 to 2."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, 96)
    x = rng.standard_normal((96, 8)) + 1.5 * np.eye(CLASSES, 8)[y]
    return x.astype("float32"), y


class Batches(keras.utils.PyDataset):
    """Arrays in batches, in their order; `fixed`, if it is given, is what the dataset says of itself."""

    def __init__(self, x, y, size=32, fixed=None, **options):
        super().__init__(**options)
        self.x, self.y, self.size = x, y, size
        if fixed is not None:
            self.fixed = fixed

    def __len__(self):
        return -(-len(self.x) // self.size)

    def __getitem__(self, index):
        rows = slice(index * self.size, (index + 1) * self.size)
        return self.x[rows], self.y[rows]


def random_logits(shape, scale, seed=0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype("float32")


def npz(**arrays):
    """The bytes of a .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()
