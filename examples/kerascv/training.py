"""The born-again sequence that the options describe: losses, optimizer, augmentation, callbacks, the time left."""

import contextlib
import math
import os
import shutil
import time

import numpy as np

from kerascv import models
from kerascv.options import OPTIONS_FILE, to_toml


def make_sequence(options, data):
    """A compiled `BornAgainSequence`."""
    import keras

    import keras_ban

    if options.mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{options.mixed_precision}")
    input_shape, classes = data.train[0].shape[1:], len(data.classes)
    of_teacher = options.teacher_backbone or options.backbone
    for role, name in (("teacher", of_teacher), ("students", options.backbone)):
        model = models.build(name, input_shape, classes, options.library, options.weights)
        if name not in models.NAMES[options.library]:
            models.check_probabilities(name, model, input_shape)
        print(f"{role}: {name}, {model.count_params():,} weights")

    def build(generation):
        name = of_teacher if generation == 0 else options.backbone
        return models.build(name, input_shape, classes, options.library, options.weights)

    # Of a model the sequence makes copies, which share one compiled step. One's own functions may build what has none.
    alike = of_teacher == options.backbone and options.backbone in models.NAMES[options.library]
    alike = alike and options.weights is None
    sequence = keras_ban.BornAgainSequence(
        model if alike else build,
        generations=options.generations,
        distillation_loss=distillation_loss(options),
        label_weight=options.label_weight,
        directory=options.out,
        seed=options.seed,
        soft_targets="online" if options.augment else "cached",
        augmentation=augmentation(options.augment),
    )
    sequence.compile(
        optimizer=optimizer(options, steps=math.ceil(len(data.train[1]) / options.batch_size)),
        # From probabilities, as all models here give. With `from_logits=True` a softmax would be taken of a softmax.
        loss=keras.losses.CategoricalCrossentropy(from_logits=False, label_smoothing=options.label_smoothing),
        metrics=["accuracy"],
    )
    return sequence


def distillation_loss(options):
    from keras_ban import losses

    if options.objective == "cwtm":
        return losses.ConfidenceWeighted(from_logits=False)
    kinds = {
        "kd": losses.KnowledgeDistillation,
        "dkpp": losses.PermutedDarkKnowledge,
        "dkd": losses.DecoupledKnowledgeDistillation,
        "dist": losses.DIST,
    }
    return kinds[options.objective](temperature=options.temperature, from_logits=False)


def optimizer(options, steps):
    """One whose learning rate rises for the warm-up's epochs, and falls along a cosine to 0 at the generation's end."""
    from keras import optimizers

    warmup = options.warmup * steps
    rate = optimizers.schedules.CosineDecay(
        0.0 if warmup else options.learning_rate,
        decay_steps=options.epochs * steps - warmup,
        warmup_target=options.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    decay = options.weight_decay or None
    if options.optimizer == "sgd":
        return optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    if options.optimizer == "adam":
        return optimizers.Adam(rate, weight_decay=decay)
    return optimizers.AdamW(rate, weight_decay=options.weight_decay)


def augmentation(names):
    """Flips and crops, as Keras's layers inside the training step, on every backend; `None` where there are none.

    KerasCV's layers of these names run on TensorFlow's operations alone.
    """
    import keras
    from keras import layers

    made = {
        "flip": lambda: layers.RandomFlip("horizontal"),
        # A crop of the image with a margin; `RandomCrop` is one that JAX cannot compile.
        "crop": lambda: layers.RandomTranslation(0.125, 0.125, fill_mode="constant"),
    }
    chosen = [made[name]() for name in made if name in names]
    # First as floats, because some layers would round 8-bit numbers.
    return keras.Sequential([layers.Rescaling(1.0, dtype="float32"), *chosen]) if chosen else None


def training_data(options, x, y):
    """`(x, y)` as `fit` takes them: arrays, or a dataset of batches that layers changed in `tf.data`.

    There, because MixUp and CutMix change labels too, and because Keras's own RandAugment is slower (a quarter of the
    images per second) and takes JAX more than a minute to compile. All but CutMix are KerasCV's. Teacher and student
    see the same batch.
    """
    named = [name for name in ("randaugment", "mixup", "cutmix") if name in options.augment]
    if not named:
        return x, y
    import keras
    import keras_cv
    import tensorflow as tf

    layers = {
        "randaugment": lambda: keras_cv.layers.RandAugment(value_range=(0, 255), seed=options.seed),
        "mixup": lambda: keras_cv.layers.MixUp(seed=options.seed),
        # KerasCV's own weighs labels by the whole box where the image's edge cuts it off, which was up to 0.4 wrong.
        "cutmix": lambda: keras.layers.CutMix(seed=options.seed),
    }
    made = {name: layers[name]() for name in named}

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


def train(sequence, options, data, verbose):
    """Train the generations, or go on with those of an interrupted run; returns the scores on the test images."""
    import keras

    def one_hot(y):
        return keras.utils.to_categorical(y, len(data.classes)).astype("float32")

    say_how(options)
    x, y = training_data(options, data.train[0], one_hot(data.train[1]))
    sequence.fit(
        x,
        y,
        batch_size=options.batch_size if y is not None else None,
        epochs=options.epochs,
        verbose=verbose,
        validation_data=(data.validation[0], one_hot(data.validation[1])),
        callbacks=Callbacks(sequence, options),
        resume=options.resume,
    )
    return sequence.evaluate(data.test[0], one_hot(data.test[1]), batch_size=options.batch_size)


def say_how(options):
    """Where soft targets come from, and what an interruption costs."""
    if options.augment:
        print(
            "soft targets: from the teacher at each step, on the images that the student sees, since "
            f"{', '.join(options.augment)} change them each time."
        )
        if set(options.augment) - {"flip", "crop"}:
            print("An interrupted generation goes on after its last epoch, but not bit for bit: tf.data shuffles anew.")
    else:
        print("soft targets: computed once for each generation, since without --augment images stay as they are.")
    if options.early_stopping or options.tensorboard:
        print("A generation that is interrupted begins again, because of --early-stopping or --tensorboard.")


class Callbacks:
    """For each generation its callbacks; and before it begins, the options are written and the time left is told."""

    def __init__(self, sequence, options):
        self._sequence, self._options = sequence, options

    def __call__(self, generation):
        import keras

        options = self._options
        write(options.out / OPTIONS_FILE, to_toml(options))
        print(f"  {time_left(self._sequence.history.records, options.generations)}", flush=True)
        callbacks = [] if generation else [tell_time_left(options)]
        if options.early_stopping:
            callbacks.append(keras.callbacks.EarlyStopping(patience=options.early_stopping, restore_best_weights=True))
        if options.tensorboard:
            logs = options.out / "tensorboard" / f"generation-{generation:02d}"
            shutil.rmtree(logs, ignore_errors=True)  # Of this generation, which was interrupted and begins again.
            callbacks.append(keras.callbacks.TensorBoard(logs, write_graph=False))
        return callbacks


def tell_time_left(options):
    """A callback of generation 0 that tells how long the run takes, after two epochs: the first compiles as well."""
    import keras

    begun = []

    def tell(epoch, logs=None):
        if len(begun) == 2:
            epochs = (options.generations + 1) * options.epochs - epoch - 1
            print(f"\n  {left_in_words((time.perf_counter() - begun[-1]) * epochs)}", flush=True)

    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs=None: begun.append(time.perf_counter()), on_epoch_end=tell
    )
    callback.stateless = True  # What it counts is of this process alone: an interrupted generation goes on with it.
    return callback


def time_left(records, generations):
    """An estimate in words; a student takes as long as the students so far, the first as long as the teacher."""
    if not records:
        return "how long the run takes will be told after two epochs"
    of_students = [record.seconds for record in records[1:]] or [records[0].seconds]
    return left_in_words((generations + 1 - len(records)) * float(np.mean(of_students)))


def left_in_words(left):
    done = time.strftime("%a %H:%M", time.localtime(time.time() + left))
    return f"about {in_words(left)} left for this and the generations to come, until {done}"


def in_words(seconds):
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def write(path, text):
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
