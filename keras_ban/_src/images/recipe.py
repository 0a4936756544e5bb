"""The born-again sequence that the options describe: losses, optimizer, callbacks, the time left."""

import math
import shutil
import time

import keras
from keras import optimizers

from keras_ban import losses
from keras_ban._src.images import augmentation, models
from keras_ban._src.images.choices import BACKBONES
from keras_ban._src.sequence.clones import reborn
from keras_ban._src.sequence.progress import time_in_words
from keras_ban._src.sequence.sequence import BornAgainSequence


def make_sequence(options, data):
    """Return a compiled `BornAgainSequence`."""
    if options.mixed_precision != "none":
        keras.config.set_dtype_policy(f"mixed_{options.mixed_precision}")
    input_shape, classes = data.train[0].shape[1:], len(data.classes)
    teacher_backbone = options.teacher_backbone or options.backbone
    own = [name for name in models.names(options) if name not in BACKBONES[options.library]]
    for role, name in (("teacher", teacher_backbone), ("students", options.backbone)):
        model = models.build(name, input_shape, classes, options.library, options.weights)
        if name in own:
            models.check_probabilities(name, model, input_shape)
        print(f"{role}: {name}, {model.count_params():,} weights")

    def build(generation):
        name = teacher_backbone if generation == 0 else options.backbone
        made = models.build(name, input_shape, classes, options.library, options.weights)
        return reborn(made) if options.initial_weights == "fresh" else made

    # Copies of one model share a compiled step. A user's function may build models that cannot be copied.
    alike = teacher_backbone == options.backbone and not own and options.weights is None
    # Without the option: fresh weights, or those with which `build` makes the models.
    chosen = {} if options.initial_weights is None else {"initial_weights": options.initial_weights}
    sequence = BornAgainSequence(
        model if alike else build,
        generations=options.generations,
        distillation_loss=distillation_loss(options),
        label_weight=options.label_weight,
        directory=options.out,
        seed=options.seed,
        soft_targets="online" if options.augmentation or options.unlabeled else "cached",
        augmentation=augmentation.in_step(options.augmentation),
        teach_from=options.teach_from,
        distill_ensemble=options.distill_ensemble,
        soften_teachers=options.soften_teachers,
        controls=options.controls or None,
        **chosen,
    )
    sequence.compile(
        optimizer=optimizer(options, steps=math.ceil(len(data.train[1]) / options.batch_size)),
        # All models here give probabilities.
        loss=keras.losses.CategoricalCrossentropy(from_logits=False, label_smoothing=options.label_smoothing),
        metrics=["accuracy"],
    )
    return sequence


def distillation_loss(options):
    temperature = {} if options.temperature is None else {"temperature": options.temperature}
    return getattr(losses, options.distillation_loss)(**temperature, from_logits=False)


def optimizer(options, steps):
    """Return an optimizer whose learning rate rises during warm-up, then falls along a cosine to 0 at the end."""
    warmup = options.warmup * steps
    first = options.epochs[0] if isinstance(options.epochs, list) else options.epochs
    rate = optimizers.schedules.CosineDecay(
        0.0 if warmup else options.learning_rate,
        decay_steps=first * steps - warmup,  # Of generation 0. It is stretched to the length of others.
        warmup_target=options.learning_rate if warmup else None,
        warmup_steps=warmup,
    )
    decay = options.weight_decay or None
    if options.optimizer == "sgd":
        return optimizers.SGD(rate, momentum=0.9, nesterov=True, weight_decay=decay)
    if options.optimizer == "adam":
        return optimizers.Adam(rate, weight_decay=decay)
    return optimizers.AdamW(rate, weight_decay=options.weight_decay)


class Batches(keras.utils.PyDataset):
    """Unlabeled images in batches, so that an epoch of students has as many steps as one of generation 0."""

    fixed = True

    def __init__(self, x, batch_size, dtype):
        super().__init__()
        self._x, self._batch_size, self._dtype = x, batch_size, dtype
        self.made_of = x  # By which a run directory knows the data again.

    def __len__(self):
        return math.ceil(len(self._x) / self._batch_size)

    def __getitem__(self, index):
        return self._x[index * self._batch_size :][: self._batch_size].astype(self._dtype)


def train(sequence, options, data, verbose, before_generation):
    """Train the generations, or go on with those of an interrupted run; return the scores on the test images.

    `before_generation` is called without arguments.
    """

    def one_hot(y):
        return keras.utils.to_categorical(y, len(data.classes)).astype("float32")

    x, y = augmentation.in_batches(options, data.train[0], one_hot(data.train[1]))
    unlabeled = None
    if data.unlabeled is not None:
        unlabeled = Batches(data.unlabeled, options.batch_size, "uint8" if y is not None else "float32")
    sequence.fit(
        x,
        y,
        # Batches that were changed come shuffled.
        **({"batch_size": options.batch_size} if y is not None else {"shuffle": False}),
        epochs=options.epochs,
        verbose=verbose,
        validation_data=(data.validation[0], one_hot(data.validation[1])),
        callbacks=lambda generation: callbacks(generation, options, before_generation, sequence.history, x),
        unlabeled=unlabeled,
        monitor=options.monitor,
        patience=options.patience,
        resume=options.resume,
    )
    return sequence.evaluate(data.test[0], one_hot(data.test[1]), batch_size=options.batch_size)


def describe(options):
    """Yield sentences about where soft targets come from, and what an interruption costs."""
    if options.augmentation:
        names = ", ".join(options.augmentation)
        yield f"Soft targets: from the teacher at each step, since the images change each time ({names})."
    elif options.unlabeled:
        yield "Soft targets: from the teacher at each step, for images with and without labels."
    else:
        yield "Soft targets: computed once for each generation, as images stay as they are without --augmentation."
    if options.tensorboard:
        yield "An interrupted generation begins again, because of --tensorboard."


def callbacks(generation, options, before_generation, history, x):
    """Return the callbacks of a generation. `history` has those that are finished, `x` are the images to train on.

    A control gets those of generation 0. The sequence gives them a folder of their own for logs.
    """
    before_generation()
    trained = len(history.records)
    is_control = generation < trained
    made = [tell_time_left(options)] if generation == 0 and not is_control else []
    if isinstance(x, augmentation.ChangedBatches):
        made.append(tell_batches(x, trained + len(history.controls.records if is_control else [])))
    if options.early_stopping:
        made.append(keras.callbacks.EarlyStopping(patience=options.early_stopping, restore_best_weights=True))
    if options.tensorboard:
        logs = options.out / "tensorboard"
        if not is_control:
            logs /= f"generation-{generation:02d}"
            shutil.rmtree(logs, ignore_errors=True)  # Of this generation, which was interrupted and begins again.
        made.append(keras.callbacks.TensorBoard(logs, write_graph=False))
    return made


def tell_batches(batches, trained):
    """Return a callback that sets the `model` and the `epoch` of batches."""

    def tell(epoch, logs=None):
        batches.model, batches.epoch = trained, epoch

    callback = keras.callbacks.LambdaCallback(on_epoch_begin=tell)
    callback.stateless = True
    return callback


def tell_time_left(options):
    """Return a callback that prints the time left after two epochs of generation 0. The first also compiles."""
    begun = []

    def tell(epoch, logs=None):
        if len(begun) == 2:
            seconds = (time.perf_counter() - begun[-1]) * (epochs_of_run(options) - epoch - 1)
            done = time.strftime("%a %H:%M", time.localtime(time.time() + seconds))
            print(f"\n  about {time_in_words(seconds)} left for all generations, until {done}", flush=True)

    callback = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs=None: begun.append(time.perf_counter()), on_epoch_end=tell
    )
    callback.stateless = True  # An interrupted generation need not continue its count.
    return callback


def epochs_of_run(options):
    epochs = list(options.epochs) if isinstance(options.epochs, list) else [options.epochs] * (options.generations + 1)
    epochs += epochs[-1:] * options.distill_ensemble
    of_controls = {"longer": sum(epochs), "independent": options.generations * epochs[0]}
    return sum(epochs) + sum(of_controls[name] for name in options.controls)
