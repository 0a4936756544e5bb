"""Images: 100 classes of Tiny ImageNet, and CIFAR-10, as JPEG in `.npz` files of the data folder.

An `.npz` has the bytes of all images (`jpeg`), where each begins (`offsets`) and the labels. Decoding needs Pillow.
"""

import importlib
import io
import itertools
import pathlib

import keras
import numpy as np
from _user_files import read, read_arrays

from equal_cost_tasks.task import Task, split

# Labeled examples, unlabeled, and the halves of the validation data. There are 25,000 images besides those for tests.
_TINY_IMAGENET = [5000, 17500, 1250, 1250]
_CIFAR10_2500 = [2500, 10000, 2000, 2000]
_CIFAR10_10K = [10000, 10000, 2000, 2000]
_CIFAR10_25K = [22000, 0, 1500, 1500]


def tiny_imagenet(seed, data_folder):
    return _task("tiny_imagenet", data_folder, seed, _TINY_IMAGENET, classes=100, blocks=1, width=1, epochs=36)


def cifar10_2500(seed, data_folder):
    return _task(
        "cifar10_2500", data_folder, seed, _CIFAR10_2500, classes=10, blocks=1, width=1, epochs=60, batch_size=64
    )


def cifar10_10k(seed, data_folder):
    return _task("cifar10_10k", data_folder, seed, _CIFAR10_10K, classes=10, blocks=1, width=1, epochs=20)


def cifar10_25k(seed, data_folder):
    return _task("cifar10_25k", data_folder, seed, _CIFAR10_25K, classes=10, blocks=1, width=1, epochs=12)


def tiny_imagenet_large(seed, data_folder):
    return _task(
        "tiny_imagenet_large",
        data_folder,
        seed,
        _TINY_IMAGENET,
        classes=100,
        blocks=2,
        width=2,
        epochs=48,
        batch_size=256,
    )


def cifar10_10k_large(seed, data_folder):
    return _task(
        "cifar10_10k_large", data_folder, seed, _CIFAR10_10K, classes=10, blocks=2, width=2, epochs=60, batch_size=256
    )


def cifar10_25k_large(seed, data_folder):
    return _task(
        "cifar10_25k_large", data_folder, seed, _CIFAR10_25K, classes=10, blocks=2, width=2, epochs=40, batch_size=256
    )


def _task(name, data_folder, seed, sizes, classes, blocks, width, epochs, batch_size=128):
    source = "cifar10" if name.startswith("cifar10") else "tiny_imagenet"
    x, y = _decoded(pathlib.Path(data_folder) / f"{source}_train.npz")
    train, (unlabeled, _), weights_data, temperature_data = split(x, y, seed, sizes)
    return Task(
        name=name,
        train=train,
        unlabeled=unlabeled,
        weights_data=weights_data,
        temperature_data=temperature_data,
        test=_decoded(pathlib.Path(data_folder) / f"{source}_test.npz"),
        build=lambda: _wide_residual_network(blocks, width, classes),
        optimizer=lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        epochs=epochs,
        batch_size=batch_size,
        augmentation=lambda: [PadAndCrop(4), keras.layers.RandomFlip("horizontal")],
        mixing=lambda: [keras.layers.CutMix(dtype="float32")],  # Labels are mixed, too.
    )


def _decoded(path):
    image = importlib.import_module("PIL.Image")
    arrays = read_arrays(path, ("jpeg", "offsets", "labels"))
    jpeg, offsets, labels = arrays["jpeg"].tobytes(), arrays["offsets"], arrays["labels"].astype("int32")

    def decode(_):
        pieces = [io.BytesIO(jpeg[start:stop]) for start, stop in itertools.pairwise(offsets)]
        return np.stack([np.asarray(image.open(piece).convert("RGB")) for piece in pieces])

    x = read(path, decode, "a .npz file of JPEG images of one size")
    return (x.astype("float32") / 127.5) - 1, labels


def _wide_residual_network(blocks, width, classes):
    """WRN-(6 * blocks + 4)-width (Zagoruyko and Komodakis, 2016)."""
    layers = keras.layers
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    for filters, first_stride in ((16, 1), (32, 2), (64, 2)):
        for block in range(blocks):
            x = _block(x, filters * width, first_stride if block == 0 else 1)
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    return keras.Model(inputs, layers.Dense(classes, dtype="float32")(layers.GlobalAveragePooling2D()(x)))


def _block(x, filters, stride):
    layers = keras.layers
    y = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(x))
    if stride != 1 or x.shape[-1] != filters:
        x = layers.Conv2D(filters, 1, stride, padding="same", use_bias=False)(y)
    y = layers.Conv2D(filters, 3, stride, padding="same", use_bias=False)(y)
    y = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(y))
    return layers.Add()([x, layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)])


class PadAndCrop(keras.layers.Layer):
    """Moves each image by up to `pixels` in both directions, at random. What enters is black."""

    def __init__(self, pixels, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.pixels = pixels
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=None):
        if not training:
            return inputs
        ops, pad = keras.ops, self.pixels
        batch, height, width = ops.shape(inputs)[0], inputs.shape[1], inputs.shape[2]
        corners = keras.random.randint((batch, 2), 0, 2 * pad + 1, seed=self.seed_generator)
        corners = ops.cast(corners, "int32")
        padded = ops.pad(inputs, [(0, 0), (pad, pad), (pad, pad), (0, 0)], constant_values=-1)
        rows = ops.arange(height, dtype="int32")[None] + corners[:, :1]
        columns = ops.arange(width, dtype="int32")[None] + corners[:, 1:]
        cropped = ops.take_along_axis(padded, rows[:, :, None, None], axis=1)
        return ops.take_along_axis(cropped, columns[:, None, :, None], axis=2)

    def get_config(self):
        return {**super().get_config(), "pixels": self.pixels}
