"""Three noisy classes and a tiny model: for tests of the benchmark, which must take seconds."""

import keras
import numpy as np

from equal_cost_tasks.task import Task, split


def toy(seed, data_folder=None):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 6)).astype("float32")
    y = (x[:, :3] + 0.3 * rng.gumbel(size=(400, 3))).argmax(axis=-1)
    train, (unlabeled, _), weights_data, temperature_data, test = split(x, y, seed, [32, 96, 40, 40, None])
    return Task(
        name="toy",
        train=train,
        unlabeled=unlabeled,
        weights_data=weights_data,
        temperature_data=temperature_data,
        test=test,
        build=_model,
        optimizer=lambda: keras.optimizers.Adam(0.05),
        epochs=8,
        batch_size=16,
    )


def _model():
    layers = keras.layers
    return keras.Sequential([keras.Input((6,)), layers.Dense(8, "relu"), layers.Dense(3, dtype="float32")])
