"""Runs on data that come in another order each time."""

import contextlib
import importlib.util

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.runs import sequence

pytestmark = [
    pytest.mark.one_backend,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
needs_tensorflow = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="tf.data is TensorFlow's")
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="a DataLoader is torch's")


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.x[index::2], self.y[index::2]


class Shuffled(Batches):
    def on_epoch_end(self):
        order = np.random.default_rng().permutation(len(self.x))
        self.x, self.y = self.x[order], self.y[order]


class ButFixed(Shuffled):
    fixed = True


class Augmented(Batches):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + np.random.default_rng().normal(size=x.shape), y


def tf_data(x, y, **shuffling):
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    return (dataset.shuffle(len(x), **shuffling) if shuffling else dataset).batch(48)


def loader(x, y, shuffle):
    import torch

    return torch.utils.data.DataLoader(list(zip(x, y, strict=True)), batch_size=48, shuffle=shuffle)


CHANGES = {
    "PyDataset shuffled": Shuffled,
    "PyDataset augmented": Augmented,
    "tf.data": pytest.param(lambda x, y: tf_data(x, y, reshuffle_each_iteration=True), marks=needs_tensorflow),
    "tf.data with a seed": pytest.param(lambda x, y: tf_data(x, y, seed=1), marks=needs_tensorflow),
    "DataLoader": pytest.param(lambda x, y: loader(x, y, True), marks=needs_torch),
}
STAYS = {
    "arrays": lambda x, y: (x, y),
    "PyDataset": Batches,
    "PyDataset fixed": ButFixed,
    "tf.data": pytest.param(tf_data, marks=needs_tensorflow),
    "tf.data with a seed": pytest.param(
        lambda x, y: tf_data(x, y, seed=1, reshuffle_each_iteration=False), marks=needs_tensorflow
    ),
    "DataLoader": pytest.param(lambda x, y: loader(x, y, False), marks=needs_torch),
}
CASES = [
    pytest.param(*(getattr(make, "values", (make,))), warned, id=name, marks=getattr(make, "marks", ()))
    for table, warned in ((CHANGES, True), (STAYS, False))
    for name, make in table.items()
]


@pytest.mark.parametrize(("make", "warned"), CASES)
def test_a_run_says_at_its_beginning_if_a_resumed_one_will_differ(tmp_path, make, warned):
    x, y = make_blobs()
    data = make(x, y)
    data, options = (data, {}) if isinstance(data, tuple) else ((data,), {"shuffle": False})
    made = sequence(tmp_path, generations=1)

    class Stop(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            raise InterruptedError

    expected = pytest.warns(UserWarning, match="`x` may come in another order, or augmented, each time.*fixed = True")
    with expected if warned else contextlib.nullcontext(), pytest.raises(InterruptedError):
        made.fit(*data, callbacks=lambda generation: [Stop()], verbose=0, **options)


def test_without_a_directory_nothing_is_said():
    sequence(generations=1).fit(Shuffled(*make_blobs()), verbose=0)
