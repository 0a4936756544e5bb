import inspect
import math
import threading
import types

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES
from helpers.models import assert_same, classifier, constants, crossentropy, values
from helpers.training import fit_in_order

import keras_ban
from keras_ban import BornAgainSequence, Distiller, reborn
from keras_ban.losses import KnowledgeDistillation

# One step an epoch, and eagerly, where a test is not about the compiled step: tracing it would take most of the time.
# Equal shapes for the same reason: JAX compiles each operation once for each shape.
BATCHES = {"batch_size": 96}
FIT = {**BATCHES, "verbose": 0}


def points(examples=96, seed=1):
    """As the fixture `blobs`, for fixtures that serve the whole module."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, examples)
    x = rng.standard_normal((examples, 8)) + 1.5 * np.eye(CLASSES, 8)[y]
    return x.astype("float32"), y


def compiled(model=None, optimizer="adam", loss=None, metrics=None, generations=1, run_eagerly=True, **arguments):
    """A compiled sequence of one student of `classifier()`, unless told otherwise."""
    model = classifier() if model is None else model
    sequence = BornAgainSequence(model, generations=generations, **{"seed": 3, **arguments})
    sequence.compile(optimizer=optimizer, loss=loss or crossentropy(), metrics=metrics, run_eagerly=run_eagerly)
    return sequence


def regression(build, generations, metrics=None, learning_rate=0.0):
    """A sequence whose `val_loss` is the square of what `build` gives, where the targets are zeros."""
    loss = keras.losses.MeanSquaredError()
    optimizer = keras.optimizers.SGD(learning_rate)
    return compiled(build, optimizer, loss, metrics, generations, distillation_loss=keras.losses.MeanSquaredError())


def zeros(examples=8):
    return np.zeros((examples, 8), "float32"), np.zeros((examples, 1), "float32")


class Watch(keras.callbacks.Callback):
    """Notes the optimizer's iterations and learning rate at the start of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        self.seen.append((int(optimizer.iterations), float(optimizer.learning_rate)))


class Batches(keras.utils.PyDataset):
    """Arrays in batches, unshuffled."""

    def __init__(self, *arrays, size=32):
        super().__init__()
        self.arrays = arrays
        self.size = size

    def __len__(self):
        return len(self.arrays[0]) // self.size

    def __getitem__(self, index):
        return tuple(array[index * self.size : (index + 1) * self.size] for array in self.arrays)


@keras.saving.register_keras_serializable(package="tests")
class UnbuiltClassifier(keras.Model):
    """A subclassed model whose weights come into being on its first call."""

    def __init__(self, units=16, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.hidden = keras.layers.Dense(units, activation="relu")
        self.head = keras.layers.Dense(CLASSES)

    def call(self, inputs):
        return self.head(self.hidden(inputs))

    def get_config(self):
        return {"units": self.units, "name": self.name}


@pytest.fixture(scope="module")
def trained():
    """Trained once for the tests that only look: compiled steps, dropout, BatchNorm, several batches, validation."""
    x, y = points()
    x_val, y_val = points(48, seed=2)
    model = classifier(dropout=0.3, batch_norm=True)
    before = values(model)
    loss = KnowledgeDistillation(temperature=2.0)
    sequence = BornAgainSequence(model, generations=2, distillation_loss=loss, label_weight=0.3, seed=3)
    sequence.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"])
    history = sequence.fit(x, y, batch_size=32, epochs=3, verbose=0, validation_data=(x_val, y_val))
    return types.SimpleNamespace(
        sequence=sequence, history=history, model=model, before=before, x=x, y=y, x_val=x_val, y_val=y_val
    )


# What a generation is


def test_generation_0_is_plain_keras_training_under_its_recorded_seed(trained):
    keras.utils.set_random_seed(trained.history.records[0].seed)
    plain = reborn(trained.model)
    plain.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"])
    data = {"validation_data": (trained.x_val, trained.y_val)}
    seed = trained.history.records[0].seed
    logs = fit_in_order(plain, seed, trained.x, trained.y, batch_size=32, epochs=3, **data).history

    assert_same(values(plain), values(trained.sequence.models[0]))
    assert logs == trained.history.records[0].logs


@pytest.mark.parametrize("generation", [1, 2])
def test_later_generations_are_a_distiller_under_their_recorded_seed(trained, generation):
    teacher = trained.sequence.models[generation - 1]
    soft_targets = keras_ban.SoftTargets.from_teacher(teacher, trained.x, verbose=0)
    keras.utils.set_random_seed(trained.history.records[generation].seed)
    student = reborn(trained.model)
    distiller = Distiller(
        student=student,
        distillation_loss=KnowledgeDistillation(temperature=2.0),
        label_weight=0.3,
    )
    distiller.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"])
    data = {"validation_data": (trained.x_val, trained.y_val)}
    fit = {"soft_targets": soft_targets, "batch_size": 32, "epochs": 3}
    seed = trained.history.records[generation].seed
    logs = fit_in_order(distiller, seed, trained.x, trained.y, **fit, **data).history

    assert_same(values(student), values(trained.sequence.models[generation]))
    assert logs == trained.history.records[generation].logs


def test_a_built_generation_0_is_plain_keras_training_under_its_recorded_seed(blobs):
    def build(generation):
        return classifier(dropout=0.3)

    sequence = compiled(build)
    history = sequence.fit(*blobs, batch_size=32, epochs=2, verbose=0)

    keras.utils.set_random_seed(history.records[0].seed)
    plain = build(0)
    plain.compile("adam", crossentropy(), run_eagerly=True)
    fit_in_order(plain, history.records[0].seed, *blobs, batch_size=32, epochs=2)
    assert_same(values(plain), values(sequence.models[0]))


def test_a_model_with_penalties_fits_its_data(blobs):
    sequence = compiled(classifier(kernel_regularizer="l2", activity_regularizer="l2"))

    history = sequence.fit(*blobs, **FIT)

    assert [0, 1] == [record.generation for record in history.records]


def test_the_model_given_is_neither_trained_nor_changed_nor_compiled(trained):
    assert_same(trained.before, values(trained.model))
    assert not trained.model.compiled
    assert all(trained.model is not model for model in trained.sequence.models)


def test_every_generation_is_another_model_with_other_weights_and_another_seed(trained):
    models, records = trained.sequence.models, trained.history.records

    assert len(models) == len(records) == 3
    assert [0, 1, 2] == [record.generation for record in records]
    assert len({record.seed for record in records}) == 3
    assert all(type(record.seed) is int for record in records)
    kernels = [values(model)[0] for model in models]
    assert all(np.abs(kernels[i] - kernels[j]).max() > 0.01 for i, j in [(0, 1), (0, 2), (1, 2)])


def test_generations_begin_from_unlike_weights(blobs):
    sequence = compiled(optimizer=keras.optimizers.SGD(0.0), generations=2)
    sequence.fit(*blobs, **FIT)

    first, second, third = (values(model)[0].ravel() for model in sequence.models)
    # 128 independent draws correlate with a standard deviation of 0.09: 0.5 is out of reach.
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
    assert abs(np.corrcoef(second, third)[0, 1]) < 0.5


def test_a_seeded_initializer_does_not_make_the_generations_alike(blobs):
    model = classifier(kernel_initializer=keras.initializers.GlorotUniform(seed=1))
    sequence = compiled(model, optimizer=keras.optimizers.SGD(0.0))
    sequence.fit(*blobs, **FIT)

    first, second = (values(m)[0].ravel() for m in sequence.models)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5


def test_the_records_tell_what_was_trained(trained):
    for record, model in zip(trained.history.records, trained.sequence.models, strict=True):
        assert record.epochs == 3
        assert record.seconds > 0
        loss, accuracy = model.evaluate(trained.x_val, trained.y_val, verbose=0)
        assert {"val_loss": loss, "val_accuracy": accuracy} == record.metrics
        assert record.metrics["val_loss"] == record.logs["val_loss"][-1]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} == set(trained.history.records[0].logs)
    students = {*trained.history.records[0].logs, "label_loss", "distillation_loss"}
    assert students == set(trained.history.records[1].logs) == set(trained.history.records[2].logs)


def test_trained_models_are_compiled_with_a_fresh_optimizer(trained):
    for model in trained.sequence.models:
        assert model.compiled
        assert int(model.optimizer.iterations) == 0
        assert float(model.optimizer.learning_rate) == pytest.approx(0.02)  # float32


def test_the_best_model_comes_back_from_a_keras_file(trained, tmp_path):
    model = trained.sequence.best_model
    model.save(tmp_path / "best.keras")

    again = keras.saving.load_model(tmp_path / "best.keras")

    assert_same([model.predict(trained.x, verbose=0)], [again.predict(trained.x, verbose=0)])
    assert model.evaluate(trained.x, trained.y, verbose=0) == again.evaluate(trained.x, trained.y, verbose=0)


# Seeds


def fitted(seed, blobs, **arguments):
    """A sequence of one student, trained on several shuffled batches, with dropout."""
    sequence = compiled(classifier(dropout=0.3), seed=seed)
    sequence.fit(*blobs, batch_size=32, verbose=0, **arguments)
    return sequence


def test_the_same_seed_gives_the_same_generations_and_the_same_history(blobs):
    first = fitted(5, blobs, validation_data=blobs)
    keras.utils.set_random_seed(999)
    second = fitted(5, blobs, validation_data=blobs)

    for one, other in zip(first.models, second.models, strict=True):
        assert_same(values(one), values(other))
    for one, other in zip(first.history.records, second.history.records, strict=True):
        assert {**vars(one), "seconds": 0} == {**vars(other), "seconds": 0}
    assert first.history.ensemble == second.history.ensemble


@pytest.mark.one_backend
@pytest.mark.parametrize("seeds", [(5, 6), (None, None)])
def test_another_seed_gives_other_generations(seeds, blobs):
    first, second = (fitted(seed, blobs) for seed in seeds)

    for one, other in zip(first.models, second.models, strict=True):
        assert np.abs(values(one)[0] - values(other)[0]).max() > 0.01
    assert {r.seed for r in first.history.records}.isdisjoint({r.seed for r in second.history.records})


def test_fit_twice_starts_over(blobs):
    sequence = fitted(5, blobs)
    models, history = sequence.models, sequence.history

    again = sequence.fit(*blobs, batch_size=32, verbose=0)

    assert again is sequence.history is not history
    assert len(models) == len(sequence.models) == 2
    for one, other in zip(models, sequence.models, strict=True):
        assert one is not other
        assert_same(values(one), values(other))


@pytest.mark.one_backend
@pytest.mark.parametrize("model", [UnbuiltClassifier(), keras.Sequential([keras.layers.Dense(CLASSES)])])
def test_the_monitor_does_not_change_what_an_unbuilt_model_learns(model, blobs):
    weights = []
    for monitor in ("val_loss", "val_accuracy"):
        sequence = compiled(model, metrics=["accuracy"])
        sequence.fit(*blobs, **FIT, validation_data=blobs, monitor=monitor)
        weights.append([array for each in sequence.models for array in values(each)])

    assert not model.built
    assert_same(*weights)


# Optimizers and metrics


@pytest.mark.parametrize(
    "optimizer",
    ["sgd", {"class_name": "SGD", "config": {"learning_rate": 0.01}}, keras.optimizers.SGD(0.01)],
    ids=["string", "dict", "instance"],
)
def test_every_generation_gets_a_fresh_optimizer(optimizer, blobs):
    watches = [Watch(), Watch()]
    sequence = compiled(optimizer=optimizer)

    sequence.fit(*blobs, **FIT, epochs=2, callbacks=lambda generation: [watches[generation]])

    rate = float(np.float32(0.01))
    assert [(0, rate), (1, rate)] == watches[0].seen == watches[1].seen
    optimizers = {id(each.model.optimizer) for each in watches}
    assert len(optimizers) == 2
    assert all(isinstance(each.model.optimizer, keras.optimizers.SGD) for each in watches)


@pytest.mark.parametrize(
    "schedule",
    [
        keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5),
        keras.optimizers.schedules.CosineDecay(0.1, decay_steps=4),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_schedule_begins_again_in_each_generation(schedule, blobs):
    watches = [Watch(), Watch(), Watch()]
    sequence = compiled(optimizer=keras.optimizers.Adam(schedule), generations=2)

    sequence.fit(*blobs, **FIT, epochs=3, callbacks=lambda generation: [watches[generation]])

    expected = [float(schedule(step)) for step in range(3)]
    for watch in watches:
        assert [0, 1, 2] == [step for step, _ in watch.seen]
        np.testing.assert_allclose([rate for _, rate in watch.seen], expected, rtol=1e-6)  # float32


def test_a_learning_rate_that_a_callback_reduced_does_not_reach_the_next_generation(blobs):
    watches = [Watch(), Watch()]
    optimizer = keras.optimizers.SGD(0.5)
    sequence = compiled(optimizer=optimizer)

    def callbacks(generation):
        reduce = keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e6)
        return [watches[generation], reduce]

    history = sequence.fit(*blobs, **FIT, epochs=3, callbacks=callbacks)

    # The first epoch always counts as a gain; from the second on, each halves the rate.
    for watch, record in zip(watches, history.records, strict=True):
        assert [0.5, 0.5, 0.25] == [rate for _, rate in watch.seen]
        assert [0.5, 0.5, 0.25] == record.logs["learning_rate"]
    assert float(optimizer.learning_rate) == 0.5
    assert all(float(model.optimizer.learning_rate) == 0.5 for model in sequence.models)


def test_the_optimizer_given_is_left_as_it_was(blobs):
    optimizer = keras.optimizers.Adam(0.1)
    compiled(optimizer=optimizer).fit(*blobs, **FIT)

    assert int(optimizer.iterations) == 0
    assert not optimizer.built


def test_the_optimizer_counts_as_it_was_at_compile(blobs):
    watch = Watch()
    optimizer = keras.optimizers.SGD(0.5)
    sequence = compiled(optimizer=optimizer)
    optimizer.learning_rate = 0.25

    sequence.fit(*blobs, **FIT, callbacks=lambda generation: [watch])

    assert [(0, 0.5), (0, 0.5)] == watch.seen


def test_the_metrics_given_are_left_as_they_were(blobs):
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top_2")
    sequence = compiled(metrics=[metric])

    history = sequence.fit(*blobs, **FIT, validation_data=blobs)

    assert [0.0, 0.0] == [float(variable.value) for variable in metric.variables]
    for model, record in zip(sequence.models, history.records, strict=True):
        # k=2 came along: the figure is that of a plain sort. A mean of 96 yeses and noes, in float32.
        largest = np.argsort(model.predict(blobs[0], verbose=0), axis=-1)[:, -2:]
        expected = (largest == blobs[1][:, None]).any(-1).mean()
        assert record.metrics["val_top_2"] == pytest.approx(expected, abs=1e-6)


def test_weighted_metrics_see_the_sample_weights(blobs):
    x, y = blobs
    weights = np.where(y == 0, 3.0, 1.0)
    sequence = BornAgainSequence(classifier(), generations=1, seed=3)
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="weighted")
    sequence.compile("sgd", crossentropy(), weighted_metrics=[accuracy], run_eagerly=True)

    history = sequence.fit(x, y, **FIT, validation_data=(x, y, weights))

    for model, record in zip(sequence.models, history.records, strict=True):
        right = model.predict(x, verbose=0).argmax(-1) == y
        expected = np.average(right, weights=weights)
        assert record.metrics["val_weighted"] == pytest.approx(expected, abs=1e-6)  # summed in float32


# Callbacks


class Counting(keras.callbacks.Callback):
    """Keeps a count of its own, which a fresh copy begins at zero."""

    counts = None

    def __init__(self):
        super().__init__()
        self.count = 0

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        self.counts.append(self.count)


@pytest.mark.one_backend
@pytest.mark.parametrize("wrap", [lambda callback: [callback], lambda callback: (callback,), lambda callback: callback])
def test_callbacks_are_copied_for_each_generation(wrap, blobs, monkeypatch):
    monkeypatch.setattr(Counting, "counts", [])
    callback = Counting()

    compiled().fit(*blobs, **FIT, epochs=2, callbacks=wrap(callback))

    assert [1, 2, 1, 2] == Counting.counts
    assert callback.count == 0
    assert callback.model is None


def test_early_stopping_begins_anew_in_each_generation(blobs):
    callback = keras.callbacks.EarlyStopping("val_loss", min_delta=1e6, patience=1, restore_best_weights=True)

    history = compiled(generations=2).fit(*blobs, **FIT, epochs=5, validation_data=blobs, callbacks=[callback])

    # The first epoch counts as a gain, the second does not, and patience is at its end.
    assert [2, 2, 2] == [record.epochs for record in history.records]
    assert [2, 2, 2] == [len(record.logs["val_loss"]) for record in history.records]
    for record in history.records:
        assert record.metrics["val_loss"] == pytest.approx(record.logs["val_loss"][0], rel=1e-6)  # float32
    assert callback.stopped_epoch == 0
    assert callback.model is None


def test_a_callback_that_was_used_with_a_model_before_does_not_bring_it_along(blobs):
    model = classifier()
    callback = keras.callbacks.LambdaCallback()
    callback.set_model(model)
    before = values(model)

    compiled().fit(*blobs, **FIT, callbacks=[callback])

    assert callback.model is model
    assert_same(before, values(model))


def test_a_lambda_callback_is_called_in_each_generation(blobs):
    epochs = []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))

    compiled().fit(*blobs, **FIT, epochs=2, callbacks=[callback])

    assert [0, 1, 0, 1] == epochs


@pytest.mark.parametrize(("teacher", "expected"), [(False, [0, 1, 2]), (True, [1, 2])])
def test_a_callable_makes_the_callbacks_of_each_generation_once(teacher, expected, blobs):
    asked = []

    def callbacks(generation):
        asked.append(generation)
        return ()

    teacher = {"teacher": classifier()} if teacher else {}
    compiled(generations=2).fit(*blobs, **FIT, callbacks=callbacks, **teacher)

    assert expected == asked


class Holding(keras.callbacks.Callback):
    def __init__(self, thing):
        super().__init__()
        self.thing = thing


def test_a_callback_that_cannot_be_copied_is_refused_before_training(blobs, tmp_path):
    sequence = compiled()

    with open(tmp_path / "log", "w") as file:
        for thing in (threading.Lock(), file):
            message = r"Holding.*cannot be copied for each generation: .*Pass `callbacks` as a callable"
            with pytest.raises(TypeError, match=message):
                sequence.fit(*blobs, **FIT, callbacks=[Holding(thing)])

    assert [] == sequence.models
    sequence.fit(*blobs, **FIT, callbacks=lambda generation: [Holding(threading.Lock())])
    assert len(sequence.models) == 2


# A teacher that is given


def trained_teacher(blobs, **arguments):
    teacher = classifier(**{"dropout": 0.3, "batch_norm": True, **arguments})
    teacher.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"], run_eagerly=True)
    teacher.fit(*blobs, **FIT, epochs=3)
    return teacher


def test_a_teacher_given_is_generation_0_and_stays_as_it_is(blobs):
    teacher = trained_teacher(blobs)
    before = values(teacher)
    optimizer, optimizer_before = teacher.optimizer, values(teacher.optimizer)
    evaluated = teacher.evaluate(*blobs, verbose=0, return_dict=True)
    sequence = compiled(optimizer=keras.optimizers.AdamW(0.1, weight_decay=0.1), metrics=["accuracy"], generations=2)

    history = sequence.fit(*blobs, **FIT, epochs=2, validation_data=blobs, teacher=teacher)

    assert sequence.models[0] is teacher
    assert len(sequence.models) == 3
    assert_same(before, values(teacher))
    assert teacher.optimizer is optimizer
    assert_same(optimizer_before, values(teacher.optimizer))
    assert evaluated == teacher.evaluate(*blobs, verbose=0, return_dict=True)
    first = history.records[0]
    assert (None, 0, {}) == (first.seed, first.epochs, first.logs)
    assert set(first.metrics) == {"val_loss", "val_accuracy"}
    for name, value in evaluated.items():
        assert first.metrics[f"val_{name}"] == pytest.approx(value, rel=1e-6)  # float32, summed in other batches
    assert first.scores.accuracy == pytest.approx(evaluated["accuracy"], abs=1e-6)


def test_the_students_of_a_teacher_given_are_those_of_a_distiller(blobs):
    teacher = trained_teacher(blobs)
    sequence = compiled(classifier(dropout=0.3), generations=1)
    history = sequence.fit(*blobs, **FIT, epochs=2, teacher=teacher)

    keras.utils.set_random_seed(history.records[1].seed)
    student = reborn(sequence.model)
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile("adam", crossentropy(), run_eagerly=True)
    fit_in_order(distiller, history.records[1].seed, *blobs, **FIT, epochs=2)
    assert_same(values(student), values(sequence.models[1]))


def test_the_model_itself_may_be_the_teacher(blobs):
    teacher = trained_teacher(blobs)
    before = values(teacher)
    sequence = compiled(teacher)

    sequence.fit(*blobs, **FIT, teacher=teacher)

    assert sequence.models[0] is teacher
    assert_same(before, values(teacher))
    assert np.abs(values(sequence.models[1])[0] - before[0]).max() > 0.01


def test_a_teacher_that_is_not_compiled_stays_so(blobs):
    teacher = classifier()
    teacher.trainable = False
    sequence = compiled(metrics=["accuracy"])

    history = sequence.fit(*blobs, **FIT, validation_data=blobs, teacher=teacher, monitor="val_accuracy")
    sequence.evaluate(*blobs)
    sequence.ensemble()

    assert not teacher.compiled
    assert not teacher.trainable
    assert "val_accuracy" in history.records[0].metrics


def test_an_ensemble_may_be_the_teacher(blobs):
    teacher = keras_ban.EnsembleModel([classifier(), classifier(batch_norm=True)])
    sequence = compiled()

    sequence.fit(*blobs, **FIT, teacher=teacher)

    assert sequence.models[0] is teacher


@pytest.mark.parametrize("teacher", ["resnet", 3, classifier])
def test_a_teacher_that_is_no_keras_model_is_refused(teacher, blobs):
    with pytest.raises(TypeError, match=r"`teacher` must be a `keras.Model`, received: .*of type"):
        compiled().fit(*blobs, **FIT, teacher=teacher)


def test_a_teacher_without_weights_is_refused(blobs):
    with pytest.raises(ValueError, match="`teacher` has no weights yet: it must be a trained model"):
        compiled().fit(*blobs, **FIT, teacher=UnbuiltClassifier())


def test_a_teacher_of_other_outputs_is_refused_before_training(blobs):
    teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5)])
    sequence = compiled()

    with pytest.raises(ValueError, match=r"\(None, 5\).*\(None, 3\)"):
        sequence.fit(*blobs, **FIT, teacher=teacher)
    assert [] == sequence.models


# A callable that builds


def test_build_is_called_once_for_each_generation_and_may_change_the_architecture(blobs):
    asked = []

    def build(generation):
        asked.append(generation)
        hidden = [keras.layers.Dense(16, activation="relu") for _ in range(generation + 1)]
        return keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(CLASSES)])

    sequence = compiled(build, generations=2)
    sequence.fit(*blobs, **FIT)

    assert [0, 1, 2] == asked
    assert [2, 3, 4] == [len(model.layers) for model in sequence.models]


def test_with_a_teacher_build_is_called_for_its_students_alone(blobs):
    asked = []

    def build(generation):
        asked.append(generation)
        return classifier()

    compiled(build, generations=2).fit(*blobs, **FIT, teacher=classifier())

    assert [1, 2] == asked


def test_built_models_of_other_outputs_are_refused_before_training(blobs):
    def build(generation):
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(CLASSES if generation < 2 else 4)])

    sequence = compiled(build, generations=2)

    with pytest.raises(ValueError, match=r"\(None, 3\).*\(None, 4\)"):
        sequence.fit(*blobs, **FIT)
    assert [] == sequence.models


@pytest.mark.parametrize("returned", [None, "model", keras.layers.Dense])
def test_a_callable_that_returns_no_model_is_refused(returned, blobs):
    with pytest.raises(TypeError, match=r"`build\(0\)` must return a `keras.Model`, it returned: "):
        compiled(lambda generation: returned).fit(*blobs, **FIT)


@pytest.mark.parametrize("order", ["aa", "aba"])
def test_a_callable_that_returns_the_same_model_twice_is_refused_before_training(order, blobs):
    models = {"a": classifier(), "b": classifier()}
    sequence = compiled(lambda generation: models[order[generation]], generations=len(order) - 1)

    with pytest.raises(ValueError, match="the same model"):
        sequence.fit(*blobs, **FIT)
    assert [] == sequence.models


# Validation, monitor, patience


def test_the_best_model_has_the_best_monitored_value():
    sequence = regression(constants([3.0, 1.0, 2.0]), 2)
    history = sequence.fit(*zeros(), **FIT, validation_data=zeros())

    assert [9.0, 1.0, 4.0] == [record.metrics["val_loss"] for record in history.records]
    assert history.best_generation == 1
    assert sequence.best_model is sequence.models[1]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("monitor", "mode", "best"),
    [
        ("val_accuracy", "auto", 0),
        ("val_accuracy", "min", 1),
        ("val_level", "auto", 1),
        ("val_loss", "max", 0),
    ],
)
def test_the_mode_says_which_values_are_better(monitor, mode, best):
    def accuracy(y_true, y_pred):
        return keras.ops.mean(y_pred)

    def level(y_true, y_pred):
        return keras.ops.mean(y_pred)

    sequence = regression(constants([3.0, 1.0, 2.0]), 2, metrics=[accuracy, level])
    history = sequence.fit(*zeros(), **FIT, validation_data=zeros(), monitor=monitor, mode=mode)

    assert {0: "max", 1: "min"}[best] == history.mode
    assert monitor == history.monitor
    assert sequence.best_model is sequence.models[best]


def test_without_validation_data_there_is_no_best_model(blobs):
    sequence = compiled()
    history = sequence.fit(*blobs, **FIT)

    assert [{}, {}] == [record.metrics for record in history.records]
    assert [None, None] == [record.scores for record in history.records]
    with pytest.raises(ValueError, match=r"There is no best generation.*`validation_data`"):
        _ = sequence.best_model
    assert "generation" in history.summary()


def test_an_unknown_monitor_is_refused_before_training(blobs):
    sequence = compiled(metrics=["accuracy"])

    message = r"`monitor` must be one of \['val_accuracy', 'val_loss'\].*received: 'val_acc'"
    with pytest.raises(ValueError, match=message):
        sequence.fit(*blobs, **FIT, validation_data=blobs, monitor="val_acc")
    assert [] == sequence.models


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("levels", "patience", "trained"),
    [
        ([3, 1, 2, 2, 0], 1, 3),
        ([3, 1, 2, 2, 0], 2, 4),
        ([1, 1, 0, 0, 0], 1, 2),  # an equal value is no gain
    ],
)
def test_patience_stops_after_so_many_generations_without_a_gain(levels, patience, trained):
    sequence = regression(constants(levels), 4)
    history = sequence.fit(*zeros(), **FIT, validation_data=zeros(), patience=patience)

    assert trained == len(sequence.models) == len(history.records)


def test_patience_takes_any_number_for_better_than_nan():
    def logarithm(y_true, y_pred):
        return keras.ops.mean(keras.ops.log(y_pred))

    sequence = regression(constants([-1.0, 2.0, 3.0, 3.0, 4.0]), 4, metrics=[logarithm])
    history = sequence.fit(*zeros(), **FIT, validation_data=zeros(), monitor="val_logarithm", mode="max", patience=1)

    assert math.isnan(history.records[0].metrics["val_logarithm"])
    assert len(history.records) == 4
    assert history.best_generation == 2


@pytest.mark.one_backend
def test_validation_split_keeps_the_last_part(blobs):
    x, y = blobs
    weights = np.linspace(0.5, 2.0, 96).astype("float32")
    split, by_hand = compiled(), compiled()

    split.fit(x, y, **FIT, sample_weight=weights, validation_split=1 / 3)
    data = (x[64:], y[64:], weights[64:])
    by_hand.fit(x[:64], y[:64], **FIT, sample_weight=weights[:64], validation_data=data)

    for one, other in zip(split.models, by_hand.models, strict=True):
        assert_same(values(one), values(other))
    expected = [(record.metrics, record.scores) for record in by_hand.history.records]
    assert expected == [(record.metrics, record.scores) for record in split.history.records]


def test_validation_split_is_that_of_plain_keras(blobs):
    sequence = compiled()
    history = sequence.fit(*blobs, **FIT, epochs=2, validation_split=1 / 3)

    keras.utils.set_random_seed(history.records[0].seed)
    plain = reborn(sequence.model)
    plain.compile("adam", crossentropy(), run_eagerly=True)
    expected = plain.fit(*blobs, **FIT, epochs=2, validation_split=1 / 3).history
    assert expected == history.records[0].logs


def test_an_endless_validation_dataset_is_read_for_validation_steps(blobs):
    tf = pytest.importorskip("tensorflow")
    dataset = tf.data.Dataset.from_tensor_slices(blobs).batch(32).repeat()

    history = compiled(metrics=["accuracy"]).fit(
        *blobs, **FIT, validation_data=dataset, validation_steps=3, monitor="val_accuracy"
    )

    for record in history.records:
        assert record.metrics["val_loss"] == pytest.approx(record.logs["val_loss"][-1], rel=1e-6)  # float32


# The ensemble


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [({}, [1, 1, 1]), ({"last": 2}, [0, 1, 1]), ({"weights": [1, 2, 5]}, [1, 2, 5]), ({"last": 1}, [0, 0, 1])],
)
def test_the_ensemble_is_the_average_of_probabilities(trained, arguments, weights):
    ensemble = trained.sequence.ensemble(**arguments)

    members = [oracles.softmax(model.predict(trained.x, verbose=0)) for model in trained.sequence.models]
    expected = np.average(members, axis=0, weights=weights)
    actual = oracles.softmax(ensemble.predict(trained.x, verbose=0))
    np.testing.assert_allclose(actual, expected, atol=1e-6)  # computed in float32


def test_the_ensemble_of_logits_is_their_average(trained):
    ensemble = trained.sequence.ensemble(average="logits")

    expected = np.mean([model.predict(trained.x, verbose=0) for model in trained.sequence.models], axis=0)
    np.testing.assert_allclose(ensemble.predict(trained.x, verbose=0), expected, atol=1e-5)  # logits of up to 10


def test_the_ensemble_is_compiled(trained):
    loss, accuracy = trained.sequence.ensemble().evaluate(trained.x_val, trained.y_val, verbose=0)

    assert accuracy == pytest.approx(trained.history.ensemble.accuracy, abs=1e-6)  # float32
    assert loss == pytest.approx(trained.history.ensemble.nll, rel=1e-5)


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (0, "`last` must be a whole number of at least 1, received: 0"),
        (-1, "`last` must be a whole number of at least 1, received: -1"),
        (1.5, "`last` must be a whole number of at least 1, received: 1.5"),
        (4, "`last` must lie between 1 and 3, the models trained, received: 4"),
    ],
)
def test_an_ensemble_of_impossible_size_is_refused(trained, last, message):
    with pytest.raises(ValueError, match=message):
        trained.sequence.ensemble(last=last)


def test_an_ensemble_with_weights_for_others_is_refused(trained):
    with pytest.raises(ValueError, match="one number for each of the 2 members"):
        trained.sequence.ensemble(last=2, weights=[1, 2, 3])


# Scores


def scores_by_hand(probabilities, labels, before):
    predicted = probabilities.argmax(-1)
    right = predicted == labels
    figures = {
        "examples": len(labels),
        "accuracy": right.mean(),
        "nll": -np.mean([math.log(p[label]) for p, label in zip(probabilities, labels, strict=True)]),
    }
    if before is not None:
        right_before = before.argmax(-1) == labels
        figures["agreement"] = (predicted == before.argmax(-1)).mean()
        figures["positive_flips"] = sum(right & ~right_before)
        figures["negative_flips"] = sum(right_before & ~right)
    return figures


def assert_scored(history, probabilities, labels):
    """Whether the history scores the generations, and their average, as by hand."""
    for generation, record in enumerate(history.records):
        before = probabilities[generation - 1] if generation else None
        assert (generation - 1 if generation else None) == record.scores.compared_with
        expected = scores_by_hand(probabilities[generation], labels, before)
        for name, value in expected.items():
            assert getattr(record.scores, name) == pytest.approx(value, rel=1e-9), name  # both in float64
    assert history.ensemble.compared_with == 0
    expected = scores_by_hand(np.mean(probabilities, axis=0), labels, probabilities[0])
    for name, value in expected.items():
        assert getattr(history.ensemble, name) == pytest.approx(value, rel=1e-9), name


def predicted_by(models, x, batch_size=None):
    # In the batches in which they were scored: in others the last bits differ on some processors.
    return [model.predict(x, batch_size=batch_size, verbose=0) for model in models]


@pytest.mark.parametrize("form", ["whole", "column", "one-hot", "float", "list", "tensor"])
def test_evaluate_scores_labels_of_every_form(trained, form):
    x, y = points(64, seed=9)
    labels = {
        "whole": y,
        "column": y[:, None],
        "one-hot": np.eye(CLASSES, dtype="float32")[y],
        "float": y.astype("float32"),
        "list": y.tolist(),
        "tensor": keras.ops.convert_to_tensor(y),
    }[form]

    history = trained.sequence.evaluate(x, labels)

    assert_scored(history, [oracles.softmax(logits) for logits in predicted_by(trained.sequence.models, x)], y)


def test_fit_scores_the_validation_data_the_same_way(trained):
    probabilities = [oracles.softmax(logits) for logits in predicted_by(trained.sequence.models, trained.x_val)]

    assert_scored(trained.history, probabilities, trained.y_val)
    assert trained.history.data == "validation"


def test_evaluate_keeps_the_choice_that_was_made_on_the_validation_data(trained):
    history = trained.sequence.evaluate(trained.x, trained.y, data="held-out")

    assert trained.history.best_generation == history.best_generation
    assert trained.history.records[1].metrics == history.records[1].metrics
    assert trained.history.records[1].scores != history.records[1].scores
    assert "Generations on held-out data (96 examples)" in history.summary()
    assert history is not trained.history is trained.sequence.history


@pytest.mark.parametrize(
    "labels", [np.full(96, 7), np.linspace(0, 1, 96), np.zeros((96, 2)), np.zeros(95, int), {"a": np.zeros(96)}]
)
def test_evaluate_refuses_labels_that_it_cannot_score(trained, labels):
    with pytest.raises(ValueError, match="`evaluate` scores classifiers with one output"):
        trained.sequence.evaluate(trained.x, labels)


@pytest.mark.parametrize("from_logits", [True, False])
def test_binary_models_are_scored(from_logits, blobs):
    x, y = blobs[0], (blobs[1] == 1).astype("int32")
    activation = None if from_logits else "sigmoid"
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, activation=activation)])
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    distillation_loss = KnowledgeDistillation(activation="sigmoid", from_logits=from_logits)
    sequence = compiled(model, loss=loss, distillation_loss=distillation_loss)

    history = sequence.fit(x, y[:, None], **FIT, validation_data=(x, y[:, None]))

    outputs = predicted_by(sequence.models, x, **BATCHES)
    yes = [oracles.sigmoid(each) if from_logits else each.astype("float64") for each in outputs]
    assert_scored(history, [np.concatenate([1 - each, each], axis=-1) for each in yes], y)
    assert_scored(sequence.evaluate(x, y, **BATCHES), [np.concatenate([1 - each, each], axis=-1) for each in yes], y)
    ensemble = sequence.ensemble().predict(x, verbose=0)
    ensemble = oracles.sigmoid(ensemble) if from_logits else ensemble
    np.testing.assert_allclose(ensemble, np.mean(yes, axis=0), atol=1e-6)  # computed in float32


@pytest.mark.parametrize("level", [40.0, 1000.0])
def test_a_confident_binary_model_is_scored_without_loss_of_digits(level):
    x, y = np.zeros((8, 8), "float32"), np.array([[1]] * 6 + [[0]] * 2)
    sequence = compiled(
        constants([level, -level]),
        optimizer=keras.optimizers.SGD(0.0),
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        distillation_loss=KnowledgeDistillation(activation="sigmoid"),
    )
    history = sequence.fit(x, y, **FIT, validation_data=(x, y))

    # A wrong answer at a logit of 40 costs log(1 + exp(40)) = 40 nats, a right one nothing; at 1,000 the smallest
    # probability that counts, 1e-30, is reached.
    wrong = min(level, 30 * math.log(10))
    assert history.records[0].scores.nll == pytest.approx(wrong / 4, rel=1e-9)
    assert history.records[1].scores.nll == pytest.approx(3 * wrong / 4, rel=1e-9)


def test_models_that_end_in_a_softmax_are_scored(blobs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    sequence = compiled(
        classifier(activation="softmax"), loss=loss, distillation_loss=KnowledgeDistillation(from_logits=False)
    )

    history = sequence.fit(*blobs, **FIT, validation_data=blobs)

    probabilities = [each.astype("float64") for each in predicted_by(sequence.models, blobs[0], **BATCHES)]
    assert_scored(history, probabilities, blobs[1])
    ensemble = sequence.ensemble().predict(blobs[0], verbose=0)
    np.testing.assert_allclose(ensemble, np.mean(probabilities, axis=0), atol=1e-6)  # computed in float32


def test_one_hot_labels_train_and_are_scored(blobs):
    x, one_hot = blobs[0], np.eye(CLASSES, dtype="float32")[blobs[1]]
    sequence = compiled(loss=keras.losses.CategoricalCrossentropy(from_logits=True))

    history = sequence.fit(x, one_hot, **FIT, validation_data=(x, one_hot))

    outputs = predicted_by(sequence.models, x, **BATCHES)
    assert_scored(history, [oracles.softmax(each) for each in outputs], blobs[1])


def test_regression_has_metrics_and_a_table_but_no_scores():
    sequence = regression(constants([3.0, 1.0]), 1, metrics=["mae"], learning_rate=0.01)
    history = sequence.fit(*zeros(), **FIT, validation_data=zeros())

    assert [None, None] == [record.scores for record in history.records]
    assert history.ensemble is None
    assert all({"val_loss", "val_mae"} == set(record.metrics) for record in history.records)
    assert "val_mae" in history.summary()
    ensemble = sequence.ensemble().predict(zeros()[0], verbose=0)
    np.testing.assert_allclose(ensemble, np.mean(predicted_by(sequence.models, zeros()[0]), axis=0), rtol=1e-6)
    with pytest.raises(ValueError, match="`evaluate` scores classifiers"):
        sequence.evaluate(*zeros())


@pytest.mark.parametrize(
    "distillation_loss", [None, {"kind": KnowledgeDistillation(), "size": KnowledgeDistillation(temperature=2.0)}]
)
def test_models_with_several_outputs_train(blobs, distillation_loss):
    x, y = blobs
    inputs = keras.Input((8,))
    outputs = {"kind": keras.layers.Dense(CLASSES)(inputs), "size": keras.layers.Dense(2)(inputs)}
    loss = {"kind": crossentropy(), "size": crossentropy()}
    labels = {"kind": y, "size": y % 2}
    metrics = {"kind": ["accuracy"], "size": ["accuracy"]}
    model = keras.Model(inputs, outputs)
    sequence = compiled(model, loss=loss, metrics=metrics, distillation_loss=distillation_loss)

    history = sequence.fit(x, labels, **FIT, validation_data=(x, labels), monitor="val_size_accuracy")

    assert all({"val_kind_accuracy", "val_size_accuracy", "val_loss"} <= set(r.metrics) for r in history.records)
    assert "val_kind_accuracy" in history.summary()
    members = predicted_by(sequence.models, x)
    ensemble = sequence.ensemble().predict(x, verbose=0)
    for name in outputs:
        expected = np.mean([oracles.softmax(member[name]) for member in members], axis=0)
        np.testing.assert_allclose(oracles.softmax(ensemble[name]), expected, atol=1e-6)  # computed in float32


# Data


def assert_trained_as_on_arrays(dataset, blobs):
    """Whether a dataset of `blobs`, in batches of 32, trains and validates as the arrays do."""
    from_dataset, from_arrays = compiled(metrics=["accuracy"]), compiled(metrics=["accuracy"])

    options = {"verbose": 0, "epochs": 2, "shuffle": False, "monitor": "val_accuracy"}
    from_dataset.fit(dataset, **options, validation_data=dataset)
    from_arrays.fit(*blobs, **options, batch_size=32, validation_data=blobs)

    for one, other in zip(from_dataset.models, from_arrays.models, strict=True):
        assert_same(values(other), values(one))
    for one, other in zip(from_dataset.history.records, from_arrays.history.records, strict=True):
        assert other.metrics == one.metrics
        assert one.scores is None
    assert "val_accuracy" in from_dataset.history.summary()


def test_a_py_dataset_trains_as_arrays_do(blobs):
    assert_trained_as_on_arrays(Batches(*blobs), blobs)


def test_a_tf_data_dataset_trains_as_arrays_do(blobs):
    tf = pytest.importorskip("tensorflow")
    assert_trained_as_on_arrays(tf.data.Dataset.from_tensor_slices(blobs).batch(32), blobs)


def test_a_torch_data_loader_trains_as_arrays_do(blobs):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(*map(torch.as_tensor, blobs))
    assert_trained_as_on_arrays(torch.utils.data.DataLoader(data, batch_size=32), blobs)


def test_generators_are_refused(blobs):
    def generator():
        while True:
            yield blobs

    sequence = compiled()
    with pytest.raises(ValueError, match=r"`x` is a generator or an iterator, .*`keras.utils.PyDataset`"):
        sequence.fit(generator(), verbose=0, steps_per_epoch=1)
    with pytest.raises(ValueError, match=r"`validation_data` is a generator or an iterator"):
        sequence.fit(*blobs, **FIT, validation_data=generator(), validation_steps=1)
    assert [] == sequence.models


@pytest.mark.parametrize("weighting", ["sample_weight", "class_weight"])
def test_weights_of_examples_and_classes_reach_every_generation(weighting, blobs):
    x, y = blobs
    weight = {0: 3.0, 1: 0.5, 2: 0.0}
    given = {"class_weight": weight, "sample_weight": np.array([weight[label] for label in y])}
    options = {**FIT, "epochs": 2, weighting: given[weighting]}
    sequence = compiled()

    history = sequence.fit(x, y, **options)

    keras.utils.set_random_seed(history.records[0].seed)
    plain = reborn(sequence.model)
    plain.compile("adam", crossentropy(), run_eagerly=True)
    fit_in_order(plain, history.records[0].seed, x, y, **options)
    assert_same(values(plain), values(sequence.models[0]))
    keras.utils.set_random_seed(history.records[1].seed)
    student = reborn(sequence.model)
    distiller = Distiller(student=student, teacher=plain)
    distiller.compile("adam", crossentropy(), run_eagerly=True)
    fit_in_order(distiller, history.records[1].seed, x, y, **options)
    assert_same(values(student), values(sequence.models[1]))


def test_without_label_weight_the_students_learn_from_the_teacher_alone(blobs):
    x, y = blobs
    model, teacher = classifier(), classifier()
    students = []
    for labels in (y, (y + 1) % CLASSES):
        sequence = compiled(model, label_weight=0, metrics=["accuracy"])
        sequence.fit(x, labels, **FIT, teacher=teacher)
        students.append(values(sequence.models[1]))

    assert_same(*students)


def test_with_all_the_label_weight_the_students_are_plain_models(blobs):
    sequence = compiled(label_weight=1)
    history = sequence.fit(*blobs, **FIT)

    keras.utils.set_random_seed(history.records[1].seed)
    plain = reborn(sequence.model)
    plain.compile("adam", crossentropy(), run_eagerly=True)
    fit_in_order(plain, history.records[1].seed, *blobs, **FIT)
    assert_same(values(plain), values(sequence.models[1]))


def test_each_generation_is_announced_unless_fit_is_silent(blobs, capsys):
    compiled().fit(*blobs, batch_size=96, verbose=2)
    said = capsys.readouterr().out
    compiled(label_weight=1.0).fit(*blobs, batch_size=96, verbose=2)
    said_without_a_teacher = capsys.readouterr().out
    compiled().fit(*blobs, **FIT)

    assert "Generation 0 of 1, on labels alone" in said
    assert "Generation 1 of 1, taught by generation 0" in said
    assert "Generation 1 of 1, on labels alone" in said_without_a_teacher
    assert capsys.readouterr().out == ""


# What goes wrong while training


class HugeLearningRate(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.model.optimizer.learning_rate = 1e30


@pytest.mark.one_backend
def test_a_generation_that_ends_in_nan_stops_the_run_and_leaves_the_earlier_ones(blobs):
    sequence = compiled(optimizer="sgd", generations=3)

    with pytest.raises(FloatingPointError, match=r"Generation 2 ended with loss=.*Generations 0 to 1 are kept"):
        sequence.fit(
            *blobs,
            **FIT,
            epochs=5,
            validation_data=blobs,
            callbacks=lambda generation: [HugeLearningRate()] if generation == 2 else [],
        )

    assert [0, 1] == [record.generation for record in sequence.history.records]
    assert len(sequence.models) == 2
    assert all(np.isfinite(model.predict(blobs[0], verbose=0)).all() for model in sequence.models)
    assert sequence.best_model in sequence.models
    assert np.isfinite(sequence.ensemble().predict(blobs[0], verbose=0)).all()
    assert "generation" in sequence.history.summary()
    assert len(sequence.evaluate(*blobs).records) == 2


def test_a_first_generation_that_ends_in_nan_says_that_nothing_is_kept(blobs):
    sequence = compiled(optimizer=keras.optimizers.SGD(1e30))

    with pytest.raises(FloatingPointError, match=r"Generation 0 ended .*Nothing was trained before it.*learning rate"):
        sequence.fit(*blobs, **FIT, epochs=50)

    assert [] == sequence.models


class Interrupt(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.one_backend
def test_an_interrupted_generation_leaves_the_earlier_ones_usable(blobs):
    # Compiled: under JAX, a step that was interrupted has given its buffers away.
    sequence = compiled(classifier(batch_norm=True), run_eagerly=False, metrics=["accuracy"])

    with pytest.raises(KeyboardInterrupt):
        sequence.fit(
            *blobs,
            batch_size=32,
            verbose=0,
            validation_data=blobs,
            callbacks=lambda generation: [Interrupt()] if generation == 1 else [],
        )

    assert len(sequence.models) == len(sequence.history.records) == 1
    (model,) = sequence.models
    expected = sequence.history.records[0].metrics
    actual = model.evaluate(*blobs, verbose=0, return_dict=True)
    assert expected == {f"val_{name}": value for name, value in actual.items()}
    assert sequence.best_model is model
    assert len(sequence.evaluate(*blobs).records) == 1
    sequence.fit(*blobs, **FIT, teacher=model)
    assert len(sequence.models) == 2


# Bad input


@pytest.mark.parametrize("generations", [0, -1, 2.5, True, "3", None])
def test_generations_must_be_a_whole_number_of_at_least_1(generations):
    message = f"`generations` must be a whole number of at least 1, received: {generations!r}"
    with pytest.raises(ValueError, match=message):
        BornAgainSequence(classifier(), generations=generations)


@pytest.mark.parametrize("label_weight", [1.5, -0.1, math.nan, math.inf, "0.5", True, None])
def test_label_weight_must_be_a_share(label_weight):
    message = rf"`label_weight` must be a number in \[0, 1\], received: {label_weight!r}"
    with pytest.raises(ValueError, match=message):
        BornAgainSequence(classifier(), label_weight=label_weight)


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_a_seed_must_be_a_whole_number(seed):
    with pytest.raises(ValueError, match=f"`seed` must be a whole number of at least 0, or None, received: {seed!r}"):
        BornAgainSequence(classifier(), seed=seed)


@pytest.mark.parametrize("model", ["resnet", None, 3])
def test_a_model_must_be_a_model_or_a_callable(model):
    with pytest.raises(TypeError, match=r"`model` must be a `keras.Model`, or a callable `build\(generation\)`"):
        BornAgainSequence(model)


@pytest.mark.parametrize("loss", ["kl_divergence", 2.0, keras.losses.kl_divergence, [None, "mse"]])
def test_a_distillation_loss_must_be_a_keras_loss(loss):
    with pytest.raises(TypeError, match="`distillation_loss` must be a `keras.losses.Loss` instance"):
        BornAgainSequence(classifier(), distillation_loss=loss)


def test_fit_before_compile_is_refused(blobs):
    with pytest.raises(ValueError, match=r"You must call `compile\(\)` before calling `fit\(\)`"):
        BornAgainSequence(classifier()).fit(*blobs)


def test_compile_without_a_loss_is_refused():
    with pytest.raises(ValueError, match="`compile` needs a `loss` for the labels"):
        BornAgainSequence(classifier(), label_weight=0).compile("adam")


@pytest.mark.parametrize(
    "use",
    [lambda s: s.ensemble(), lambda s: s.best_model, lambda s: s.evaluate(*points())],
    ids=["ensemble", "best_model", "evaluate"],
)
def test_what_needs_trained_generations_says_so_before_fit(use):
    with pytest.raises(ValueError, match=r"No generation is trained yet: call `compile\(\)` and `fit\(\)` first"):
        use(compiled())


X, Y = points()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": None, "y": None}, "`x` is None: there is no data to train on"),
        ({"x": X[:0], "y": Y[:0]}, "`x` holds no examples"),
        ({"x": Batches(X, Y, size=1000), "y": None}, "`x` holds no examples"),
        ({"y": Y + 1}, r"outputs have 3 classes, so labels must lie in \[0, 2\], but `y` holds .* 3 for instance"),
        ({"y": Y - 1}, r"labels must lie in \[0, 2\], but `y` holds .* -1 for instance"),
        ({"y": Y.astype("float32")}, "labels as whole numbers, received `y` of dtype float32"),
        ({"y": np.eye(3)[Y]}, "They look one-hot: use `CategoricalCrossentropy`"),
        ({"epochs": 0}, "`epochs` must be a whole number of at least 1, received: 0"),
        ({"epochs": 1.5}, "`epochs` must be a whole number of at least 1, received: 1.5"),
        ({"patience": 0, "validation_split": 0.5}, "`patience` must be a whole number of at least 1, received: 0"),
        ({"patience": 1}, "`patience` needs 'val_loss': pass `validation_data` or `validation_split`"),
        ({"mode": "largest"}, "`mode` must be 'auto', 'min' or 'max', received: 'largest'"),
        ({"validation_split": 1.0}, "`validation_split` must lie between 0 and 1, received: 1.0"),
        ({"validation_split": -0.5}, "`validation_split` must lie between 0 and 1, received: -0.5"),
        ({"x": X[:1], "y": Y[:1], "validation_split": 0.5}, "of 1 examples leaves a part empty"),
        ({"x": Batches(X, Y), "y": None, "validation_split": 0.5}, "`validation_split` is for arrays"),
    ],
)
def test_fit_refuses_bad_input_before_training(arguments, message):
    sequence = compiled()

    with pytest.raises(ValueError, match=message):
        sequence.fit(**{"x": X, "y": Y, **FIT, **arguments})

    assert [] == sequence.models


@pytest.mark.parametrize("callbacks", ["early_stopping", 3, {"a": 1}])
def test_callbacks_of_another_kind_are_refused(callbacks, blobs):
    with pytest.raises(TypeError, match="`callbacks` must be a list of `keras.callbacks.Callback`, or a callable"):
        compiled().fit(*blobs, **FIT, callbacks=callbacks)


def test_a_list_that_holds_no_callback_is_refused(blobs):
    with pytest.raises(TypeError, match=r"Each of `callbacks` must be a `keras.callbacks.Callback`, received: 'x'"):
        compiled().fit(*blobs, **FIT, callbacks=["x"])


class AtLeast(keras.metrics.MeanMetricWrapper):
    """A metric whose `get_config` forgets the threshold."""

    def __init__(self, threshold, name="at_least"):
        super().__init__(lambda y_true, y_pred: keras.ops.cast(y_pred >= threshold, "float32"), name)

    def get_config(self):
        return {"name": self.name}


class AtLeastByDefault(keras.metrics.Metric):
    """A metric without `get_config`, whose argument would silently become its default."""

    def __init__(self, threshold=0.5, name="at_least", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold

    def update_state(self, y_true, y_pred, sample_weight=None):
        pass

    def result(self):
        return self.threshold


class Halving(keras.optimizers.SGD):
    """An optimizer without `get_config` for its own argument."""

    def __init__(self, factor, learning_rate=0.1, **kwargs):
        super().__init__(learning_rate, **kwargs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": [AtLeast(0.7)]}, "`metrics`: .*AtLeast.*cannot be made anew.*Complete its `get_config`"),
        ({"metrics": [AtLeastByDefault(0.7)]}, r"`metrics`: .*AtLeastByDefault.*cannot be made anew.*threshold"),
        ({"optimizer": Halving(0.5)}, "`optimizer`: .*Halving.*cannot be made anew.*Complete its `get_config`"),
    ],
)
def test_what_cannot_be_made_anew_is_refused_at_compile(arguments, message):
    sequence = BornAgainSequence(classifier())

    with pytest.raises(ValueError, match=message):
        sequence.compile(**{"loss": crossentropy(), **arguments})


# `pytest.warns` raises Keras's own again, without the module that the exception in pyproject.toml asks for.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_probabilities_where_logits_are_declared_are_warned_of(blobs):
    loss = keras.losses.SparseCategoricalCrossentropy()
    sequence = compiled(classifier(activation="softmax"), loss=loss)

    with pytest.warns(UserWarning, match=r"look like probabilities, .*`KnowledgeDistillation\(from_logits=False\)`"):
        sequence.fit(*blobs, **FIT)


def test_a_model_that_cannot_be_cloned_is_told_the_way_out(blobs):
    class Stubborn(keras.Model):
        def __init__(self, units):
            super().__init__()
            self.dense = keras.layers.Dense(units)

        def call(self, inputs):
            return self.dense(inputs)

    sequence = compiled(Stubborn(CLASSES))

    with pytest.raises(ValueError, match=r"`BornAgainSequence` a callable `build\(generation\)`"):
        sequence.fit(*blobs, **FIT)


def test_fit_takes_the_arguments_of_keras_in_the_same_order():
    plain = list(inspect.signature(keras.Model.fit).parameters)
    parameters = inspect.signature(BornAgainSequence.fit).parameters.items()
    ours = [name for name, parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]

    assert plain[: len(ours)] == ours


def test_a_binary_model_with_a_loss_for_classes_is_refused_before_training(blobs):
    x, y = blobs
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    sequence = BornAgainSequence(model, generations=1)
    sequence.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))

    with pytest.raises(ValueError, match="activation='sigmoid'"):
        sequence.fit(x, y % 2, verbose=0)

    assert [] == sequence.models
