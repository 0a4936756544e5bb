"""Augmentation by name: Keras's layers inside the training step, and what changes whole batches in `tf.data`."""

import keras
from keras import layers

from keras_ban._src.images.choices import IN_BATCHES


def in_step(names):
    """Return flips and crops as Keras's layers inside the training step, on every backend; `None` without any.

    KerasCV's layers of these names run on TensorFlow's operations alone.
    """
    made = {
        "flip": lambda: layers.RandomFlip("horizontal"),
        # A crop of the image with a margin; `RandomCrop` is one that JAX cannot compile.
        "crop": lambda: layers.RandomTranslation(0.125, 0.125, fill_mode="constant"),
    }
    chosen = [made[name]() for name in made if name in names]
    # First as floats, because some layers would round 8-bit numbers.
    return keras.Sequential([layers.Rescaling(1.0, dtype="float32"), *chosen]) if chosen else None


def in_batches(options, x, y):
    """Return `(x, y)` as `fit` takes them: arrays, or a dataset of batches that layers changed in `tf.data`.

    There, because MixUp and CutMix change labels too, and because Keras's own RandAugment is slower (a quarter of the
    images per second) and takes JAX more than a minute to compile. All but CutMix are KerasCV's. Teacher and student
    see the same batch.
    """
    named = [name for name in IN_BATCHES if name in options.augmentation]
    if not named:
        return x, y
    # Optional, as KerasCV, which needs it.
    import keras_cv
    import tensorflow as tf

    makers = {
        "randaugment": lambda: keras_cv.layers.RandAugment(value_range=(0, 255), seed=options.seed),
        "mixup": lambda: keras_cv.layers.MixUp(seed=options.seed),
        # KerasCV's own weighs labels by the whole box where the image's edge cuts it off, which was up to 0.4 wrong.
        "cutmix": lambda: layers.CutMix(seed=options.seed),
    }
    made = {name: makers[name]() for name in named}

    def change(images, labels):
        batch = {"images": tf.cast(images, "float32"), "labels": labels}
        if "randaugment" in made:
            batch = {**batch, "images": made["randaugment"](batch["images"])}
        mixed = [made[name](batch) for name in ("mixup", "cutmix") if name in made]
        if len(mixed) == 2:  # One of the two for each batch.
            first = tf.random.uniform([]) < 0.5
            batch = tf.nest.map_structure(lambda a, b: tf.where(first, a, b), *mixed)
        elif mixed:
            (batch,) = mixed
        return batch["images"], batch["labels"]

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=options.seed)
    dataset = dataset.batch(options.batch_size).map(change, num_parallel_calls=tf.data.AUTOTUNE)
    return dataset.prefetch(tf.data.AUTOTUNE), None
