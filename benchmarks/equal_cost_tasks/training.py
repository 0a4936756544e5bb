"""Trains members with `Distiller`, and keeps what they are and what they predict in a folder."""

import pathlib
import time

import keras
import numpy as np
from _user_files import read_arrays

import keras_ban
from equal_cost_tasks.member import FoldMember, MixedMember
from equal_cost_tasks.scores import best_temperature, nll, temperature_of
from equal_cost_tasks.task import stratified

# Models differ between members, seeds and costs in their values alone. So one compiled step serves all of a kind.


class Trainer:
    """Trains the members of a task, for one seed after the other.

    Args:
        task: a `Task`.
        seed: with a member's name, it decides all random numbers of its training.
        folder: where members are kept: one file each, with weights, outputs on held-out inputs, the examples that
            passed through its training, and seconds.
    """

    def __init__(self, task, seed, folder):
        self._parent = pathlib.Path(folder)
        self.set_task(task, seed)
        self._model = task.build()  # Runs members that are trained.
        self._averages = {}  # By the number of teachers.
        self._distillers = {}  # By how a student learns: Distillers, and the initial values of their optimizers.
        self._augmentations = {}  # Their layers, by the `id` of the Distiller.
        self.trained = 0

    def set_task(self, task, seed):
        """Go on with the same task of another seed. What is compiled stays."""
        self._task = task
        self._seed = seed
        self._folder = self._parent / task.name / f"seed-{seed}"

    def outputs(self, member):
        """Return the logits of a member for the held-out inputs: the validation halves, then the test examples."""
        return self._get(member)["outputs"]

    def examples(self, member):
        """Return how many examples passed through a member's own training."""
        return int(self._get(member)["examples"])

    def seconds(self, member):
        return float(self._get(member)["seconds"])

    def _get(self, member):
        path = self._folder / f"{member.name}.npz"
        if not path.exists():
            for each in member.needs:
                self._get(each)
            self._train(member, path)
        names = ["outputs", "examples", "seconds", *(f"weight_{place}" for place in range(len(self._model.weights)))]
        return read_arrays(path, names, "a trained member: remove it, and it is trained again")

    def _weights(self, member):
        stored = self._get(member)
        return [stored[f"weight_{place}"] for place in range(len(self._model.weights))]

    def _train(self, member, path):
        task, began = self._task, time.time()
        seed = int.from_bytes(bytes.fromhex(member.name)[:4], "big") ^ self._seed
        keras.utils.set_random_seed(seed % 2**31)
        distiller = self._distiller_of(member)
        self._reset(distiller, member)
        passed = self._fit(distiller, member)
        self._model.set_weights(distiller.student.get_weights())
        held_out = np.concatenate([part[0] for part in (task.weights_data, task.temperature_data, task.test)])
        outputs = self._model.predict(held_out, batch_size=256, verbose=0)
        weights = {f"weight_{place}": value for place, value in enumerate(self._model.get_weights())}
        self._write(path, outputs=outputs, examples=passed, seconds=time.time() - began, **weights)
        self.trained += 1

    def _fit(self, distiller, member):
        """Train a member, and return how many examples passed through its training."""
        task, (x, y) = self._task, self._task.train
        if isinstance(member, FoldMember):
            rows = self._folds(member.folds) != member.fold
            x, y = x[rows], y[rows]
        options, targets = {"batch_size": task.batch_size, "verbose": 0}, None
        if member.teachers:
            teacher = self._teacher(member)
            if task.augmentation is None:
                inputs = np.concatenate([x, task.unlabeled]) if member.unlabeled else x
                targets = keras_ban.SoftTargets.from_teacher(teacher, inputs, batch_size=256, verbose=0)
        balanced = member.unlabeled and member.lesson.balanced
        of_epoch = len(x) * (1 + balanced) + (len(task.unlabeled) if member.unlabeled and not balanced else 0)
        # Members of folds have the epochs of others, but fewer examples in each.
        all_rows = len(task.train[0]) if isinstance(member, FoldMember) else of_epoch
        count, epochs = Count(task.batch_size, of_epoch), task.epochs_of(member.length, all_rows)
        if isinstance(member, MixedMember):
            y = keras.utils.to_categorical(y)
        options["callbacks"] = [keras.callbacks.LearningRateScheduler(cosine(self._peak, epochs)), count]
        if not balanced:
            if member.unlabeled:
                options["unlabeled"] = task.unlabeled
            distiller.fit(x, y, epochs=epochs, soft_targets=targets, **options)
            return count.examples
        # An epoch of `fit` has all unlabeled inputs, so each part of them needs its own.
        order = np.random.default_rng(self._seed).permutation(len(task.unlabeled))
        for epoch in range(epochs):
            rows = np.take(order, range(epoch * len(x), (epoch + 1) * len(x)), mode="wrap")
            if targets is not None:
                options["soft_targets"] = targets[np.concatenate([np.arange(len(x)), len(x) + rows])]
            options["unlabeled"] = task.unlabeled[rows]
            distiller.fit(x, y, epochs=epoch + 1, initial_epoch=epoch, **options)
        return count.examples

    def _write(self, path, **arrays):
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, **arrays)
        unfinished.rename(path)

    def _teacher(self, member):
        """Return the model that teaches a member, with the weights of its teachers."""
        count = len(member.teachers)
        if count not in self._averages:
            models = [self._task.build() for _ in range(count)]
            average = models[0] if count == 1 else keras_ban.EnsembleModel(models, from_logits=True)
            teacher = keras.Sequential([keras.Input(models[0].input_shape[1:]), average, Softened(dtype="float32")])
            self._averages[count] = models, teacher
        models, teacher = self._averages[count]
        for model, each in zip(models, member.teachers, strict=True):
            model.set_weights(self._weights(each))
        softened = teacher.layers[-1].temperature
        softened.assign(1.0)
        if member.lesson.softened == "cross-fitted":
            softened.assign(self._cross_fitted_temperature(teacher, models))
        elif member.lesson.softened is not None:
            softened.assign(self._temperature(teacher, honest=member.lesson.softened == "honest"))
        return teacher

    def _folds(self, folds):
        """Return the fold of each training example. Each fold has the classes in about equal shares."""
        y = self._task.train[1]
        rng = np.random.default_rng([self._seed, folds])
        order = stratified(y, rng) if y.ndim == 1 else rng.permutation(len(y))
        found = np.empty(len(y), int)
        found[order] = np.arange(len(y)) % folds
        return found

    def _cross_fitted_temperature(self, teacher, models):
        """Return the temperature at which the average has the likelihood of its models on the other folds."""
        x, y, folds = *self._training_examples(), self._folds(len(models))
        folds = np.resize(folds, len(y))  # Once for each copy of the examples.
        unseen = None
        for fold, model in enumerate(models):
            outputs = model.predict(x[folds == fold], batch_size=256, verbose=0)
            unseen = np.empty((len(y), *outputs.shape[1:]), outputs.dtype) if unseen is None else unseen
            unseen[folds == fold] = outputs
        likelihood = nll(unseen / best_temperature(unseen, y), y)
        return temperature_of(likelihood, teacher.predict(x, batch_size=256, verbose=0), y)

    def _temperature(self, teacher, honest):
        """Return the temperature of a teacher's lesson, found on half A of the validation data."""
        x, y = self._task.weights_data
        held_out = teacher.predict(x, batch_size=256, verbose=0)
        calibrated = best_temperature(held_out, y)
        if not honest:
            return calibrated
        likelihood = nll(held_out / calibrated, y)
        x, y = self._training_examples()
        return temperature_of(likelihood, teacher.predict(x, batch_size=256, verbose=0), y)

    def _training_examples(self):
        """Return the labeled examples as a student sees them: with augmentation, four copies."""
        x, y = self._task.train
        if self._task.augmentation is not None:
            x, y = np.concatenate([x] * 4), np.concatenate([y] * 4)
            # In parts, because a layer that runs outside of a step needs many times the memory of its inputs.
            for layer in self._task.augmentation():
                parts = (layer(x[start : start + 1000], training=True) for start in range(0, len(x), 1000))
                x = np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])
        return x, y

    def _distiller_of(self, member):
        # Without augmentation soft targets are computed once, and then all teachers look alike.
        online = len(member.teachers) if self._task.augmentation is not None else bool(member.teachers)
        mixed = isinstance(member, MixedMember)
        kind = (member.lesson, online, member.unlabeled, mixed)
        if kind not in self._distillers:
            lesson = {"label_weight": 1.0} if member.lesson is None else arguments_of(member.lesson)
            teacher = self._teacher(member) if member.teachers and self._task.augmentation is not None else None
            augmentation = self._layers(mixed)
            student = self._task.build()
            distiller = keras_ban.Distiller(student=student, teacher=teacher, augmentation=augmentation, **lesson)
            crossentropies = keras.losses.SparseCategoricalCrossentropy, keras.losses.CategoricalCrossentropy
            distiller.compile(self._task.optimizer(), crossentropies[mixed](from_logits=True))
            distiller.optimizer.build(student.trainable_variables)
            initial = [keras.ops.convert_to_numpy(variable.value).copy() for variable in distiller.optimizer.variables]
            self._distillers[kind] = distiller, initial
            self._augmentations[id(distiller)] = augmentation
        return self._distillers[kind][0]

    def _reset(self, distiller, member):
        """Make the Distiller as good as new, with the weights with which the member starts."""
        fresh = self._task.build()
        _copy_values(fresh.variables, distiller.student.variables)
        layers = self._layers(isinstance(member, MixedMember))
        if layers is not None:
            for old, new in zip(self._augmentations[id(distiller)], layers, strict=True):
                _copy_values(new.variables, old.variables)
        if member.start is not None:
            distiller.student.set_weights(self._weights(member.start))
        initial = next(initial for each, initial in self._distillers.values() if each is distiller)
        for variable, value in zip(distiller.optimizer.variables, initial, strict=True):
            variable.assign(value)

    def _layers(self, mixed):
        """Return new layers that augment inputs, or `None`."""
        layers = [*([] if self._task.augmentation is None else self._task.augmentation())]
        return [*layers, *(self._task.mixing() if mixed else [])] or None

    @property
    def _peak(self):
        return float(keras.ops.convert_to_numpy(self._task.optimizer().learning_rate))


def _copy_values(sources, targets):
    for source, target in zip(sources, targets, strict=True):
        target.assign(keras.ops.copy(source.value))


def arguments_of(lesson):
    """The arguments of a `Distiller` that teaches so."""
    label_weight = lesson.label_weight
    if isinstance(label_weight, tuple):
        first, last = label_weight
        label_weight = keras_ban.OverTraining(lambda done: first + (last - first) * done)
    loss = keras_ban.losses.KnowledgeDistillation(temperature=lesson.temperature)
    return {"label_weight": label_weight, "distillation_loss": loss}


def cosine(peak, epochs):
    """Return the learning rate of each epoch: that of a cosine to 0 in the middle of the epoch."""
    return lambda epoch, rate=None: peak * 0.5 * (1 + np.cos(np.pi * (epoch + 0.5) / epochs))


class Softened(keras.layers.Layer):
    """Divides logits by a temperature, which is a weight, so that compiled steps use a new value."""

    def build(self, input_shape):
        self.temperature = self.add_weight(shape=(), initializer="ones", trainable=False, name="temperature")

    def call(self, inputs):
        return inputs / self.temperature


class Count(keras.callbacks.Callback):
    """Counts the examples that pass through a training."""

    async_safe = True  # It reads no logs, so no step waits for them.

    def __init__(self, batch_size, of_epoch):
        super().__init__()
        self._batch_size = batch_size
        self._of_epoch = of_epoch
        self.examples = 0

    def on_train_batch_end(self, batch, logs=None):
        self.examples += min(self._batch_size, self._of_epoch - batch * self._batch_size)
