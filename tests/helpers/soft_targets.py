"""Soft targets of small teachers, and the kinds of data that they are made from and paired with."""

import keras
import numpy as np
import pytest

from helpers.data import Batches
from keras_ban import SoftTargets


def make(teacher, x, **options):
    return SoftTargets.from_teacher(teacher, x, verbose=0, **options)


def logits_of(teacher, x):
    return keras.ops.convert_to_numpy(teacher(x))


def tf_data(x, y, size=10):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def loader(x, y, size=10, **options):
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(pairs, batch_size=size, **options)


DATASETS = {"PyDataset": lambda x, y: Batches(x, y, 10), "tf.data": tf_data, "DataLoader": loader}


def assert_close(expected, actual):
    """Of weights: a float32 forward pass in batches of another size differs in its last bits."""
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(e, a, rtol=0, atol=2e-6)
