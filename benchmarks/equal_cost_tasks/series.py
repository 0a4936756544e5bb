"""Time series that the package `aeon` contains: Japanese vowels of nine speakers, outlines of six kinds of leaves."""

import importlib

import keras
import numpy as np
from keras import ops

from equal_cost_tasks.task import Task, split


def japanese_vowels(seed, data_folder=None):
    """Which of nine speakers: 12 cepstrum coefficients of 7 to 29 frames, padded with zeros to 30."""
    x, y = _load("JapaneseVowels")
    padded = np.zeros((len(x), 30, 12), "float32")
    for row, series in zip(padded, x, strict=True):
        row[: series.shape[1]] = series.T
    return _task("japanese_vowels", padded, y, seed, [36, 144, 100, 160, None], kernels=(5, 3, 3), classes=9)


def osu_leaf(seed, data_folder=None):
    """Which of six kinds of leaves: 427 distances from the center to the outline, here every third."""
    x, y = _load("OSULeaf")
    x = np.stack([series[0, ::3, None] for series in x]).astype("float32")
    return _task("osu_leaf", x, y, seed, [48, 96, 60, 110, None], kernels=(8, 5, 3), classes=6)


def _load(name):
    x, y = importlib.import_module("aeon.datasets").load_classification(name)
    return x, np.unique(y, return_inverse=True)[1].astype("int32")


def _task(name, x, y, seed, sizes, kernels, classes):
    train, (unlabeled, _), weights_data, temperature_data, test = split(x, y, seed, sizes)
    known = np.concatenate([train[0], unlabeled])
    mean, deviation = known.mean(axis=(0, 1)), known.std(axis=(0, 1))

    def scaled(part):
        return (part[0] - mean) / deviation, part[1]

    return Task(
        name=name,
        train=scaled(train),
        unlabeled=(unlabeled - mean) / deviation,
        weights_data=scaled(weights_data),
        temperature_data=scaled(temperature_data),
        test=scaled(test),
        build=lambda: _model(x.shape[1:], kernels, classes),
        optimizer=lambda: keras.optimizers.AdamW(1e-2, weight_decay=0.02),
        epochs=160,
        batch_size=16,
        augmentation=lambda: [TimeShift(x.shape[1] // 10), keras.layers.GaussianNoise(0.1)],
    )


def _model(shape, kernels, classes):
    """The fully convolutional network of Wang et al. (2017), narrower."""
    layers = keras.layers
    x = inputs = keras.Input(shape)
    for filters, kernel in zip((32, 64, 32), kernels, strict=True):
        x = layers.Conv1D(filters, kernel, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.Activation("relu")(x)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling1D()(x))
    return keras.Model(inputs, layers.Dense(classes, dtype="float32")(x))


class TimeShift(keras.layers.Layer):
    """Shifts each series in time by up to `steps`, at random. What leaves at one end enters at the other."""

    def __init__(self, steps, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.steps = steps
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        if not training:
            return inputs
        batch, length = ops.shape(inputs)[0], inputs.shape[1]
        shifts = keras.random.randint((batch, 1), -self.steps, self.steps + 1, seed=self.seed_generator)
        places = (ops.arange(length, dtype="int32")[None] + ops.cast(shifts, "int32") + length) % length
        return ops.take_along_axis(inputs, places[:, :, None], axis=1)

    def get_config(self):
        return {**super().get_config(), "steps": self.steps}
