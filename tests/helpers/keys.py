"""Data whose examples have keys, and the soft targets that are found by them."""

import keras
import numpy as np

from helpers.data import Batches
from keras_ban import SoftTargets

TEXTS = np.array([f"part-{i % 3}/é{i}" for i in range(96)])
NUMBERS = np.arange(96, dtype="int64") * 7 - 50
ORDER = np.random.default_rng(0).permutation(96)


def keyed(keys, rows=slice(None), size=16, **options):
    """A `PyDataset` of those rows."""
    x, y = arrays()
    return Keyed(x[rows], y[rows], keys[rows], size, **options)


def arrays():
    rng = np.random.default_rng(1)
    return rng.standard_normal((96, 8)).astype("float32"), rng.integers(0, 3, 96)


class Keyed(Batches):
    def __init__(self, x, y, keys, size, **options):
        super().__init__(x, y, size, **options)
        self.keys = keys

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, {"labels": y, "key": self.keys[index * self.size : (index + 1) * self.size]}


def make(teacher, dataset, **options):
    return SoftTargets.from_teacher(teacher, dataset, verbose=0, **options)


def batch_by_batch(dataset):
    if isinstance(dataset, keras.utils.PyDataset):
        dataset = map(dataset.__getitem__, range(dataset.num_batches))
    for x, y in dataset:
        yield np.asarray(x), np.asarray(y["labels"]), np.asarray(y["soft_targets"])


def assert_paired(paired, teacher, count=96):
    """Each example has its own label, and what the teacher says of it."""
    all_x, all_y = arrays()
    label_of = {x.tobytes(): y for x, y in zip(all_x, all_y, strict=True)}
    seen = 0
    for x, y, soft_targets in batch_by_batch(paired):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(teacher(x)), soft_targets, rtol=1e-5, atol=1e-6)
        assert [label_of[row.tobytes()] for row in x] == y.tolist()
        seen += len(x)
    assert count == seen
