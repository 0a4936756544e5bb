"""What the generations of a `BornAgainSequence` are, who teaches and builds them, and what stops a run."""

import types

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.sequences import FIT, by_hand, compiled

import keras_ban
from keras_ban import SoftTargets
from keras_ban.losses import KnowledgeDistillation

# Compiled steps, several batches, a metric: what `trained` is trained with.
COMPILED = {"batch_size": 32, "epochs": 3}
ADAM = {"class_name": "Adam", "config": {"learning_rate": 0.02}}
STEP = {"optimizer": ADAM, "metrics": ["accuracy"], "run_eagerly": False}


@pytest.fixture(scope="module")
def trained():
    """Trained once for the tests that only look: dropout, BatchNorm and validation, too."""
    data, validation = make_blobs(), make_blobs(seed=2)
    model = classifier(dropout=0.3, batch_norm=True)
    before = values(model)
    loss = KnowledgeDistillation(temperature=2.0)
    sequence = compiled(model, generations=2, distillation_loss=loss, label_weight=0.3, **STEP)
    history = sequence.fit(*data, verbose=0, validation_data=validation, **COMPILED)
    return types.SimpleNamespace(
        sequence=sequence, history=history, model=model, before=before, data=data, validation=validation
    )


def test_the_step_is_traced_once_for_all_students(blobs, monkeypatch):
    traced, train_step = [], keras_ban.Distiller.train_step
    monkeypatch.setattr(keras_ban.Distiller, "train_step", lambda *args: traced.append(args) or train_step(*args))

    compiled(generations=3, run_eagerly=False).fit(*blobs, batch_size=32, epochs=2, verbose=0)

    # torch runs it at each step, of 3 students, 2 epochs and 3 batches.
    assert (18 if keras.config.backend() == "torch" else 1) == len(traced)


# What a generation is


@pytest.mark.parametrize("generation", [0, 1, 2])
def test_a_generation_is_trained_by_keras_or_a_distiller_under_its_recorded_seed(trained, generation):
    fit, distiller = dict(COMPILED), None
    if generation:
        teacher = trained.sequence.models[generation - 1]
        fit["soft_targets"] = SoftTargets.from_teacher(teacher, trained.data[0], verbose=0)
        distiller = {"distillation_loss": KnowledgeDistillation(temperature=2.0), "label_weight": 0.3}
    fit["validation_data"] = trained.validation

    model, logs = by_hand(trained.sequence, generation, trained.data, distiller, **STEP, **fit)

    assert_same(values(model), values(trained.sequence.models[generation]))
    assert logs == trained.history.records[generation].logs


@pytest.mark.one_backend
def test_a_built_generation_0_is_plain_keras_training_under_its_recorded_seed(blobs):
    def build(generation):
        return classifier(dropout=0.3)

    sequence = compiled(build)
    fit = {"batch_size": 32, "epochs": 2}
    sequence.fit(*blobs, verbose=0, **fit)

    assert_same(values(by_hand(sequence, 0, blobs, build=build, **fit)[0]), values(sequence.models[0]))


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


@pytest.mark.parametrize("seed", [None, pytest.param(1, marks=pytest.mark.one_backend)])
def test_generations_begin_from_unlike_weights(blobs, seed):
    initializer = keras.initializers.GlorotUniform(seed=seed)
    sequence = compiled(classifier(kernel_initializer=initializer), 2, keras.optimizers.SGD(0.0))
    sequence.fit(*blobs, **FIT)

    first, second, third = (values(model)[0].ravel() for model in sequence.models)
    # 128 independent draws correlate with a standard deviation of 0.09: 0.5 is out of reach.
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.5
    assert abs(np.corrcoef(second, third)[0, 1]) < 0.5


def test_the_records_tell_what_was_trained(trained):
    for record, model in zip(trained.history.records, trained.sequence.models, strict=True):
        assert record.epochs == 3
        assert record.seconds > 0
        loss, accuracy = model.evaluate(*trained.validation, verbose=0)
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
    model, (x, y) = trained.sequence.best_model, trained.data
    model.save(tmp_path / "best.keras")

    again = keras.saving.load_model(tmp_path / "best.keras")

    assert_same([model.predict(x, verbose=0)], [again.predict(x, verbose=0)])
    assert model.evaluate(x, y, verbose=0) == again.evaluate(x, y, verbose=0)


@pytest.mark.one_backend
def test_with_all_the_label_weight_the_students_are_plain_models(blobs):
    sequence = compiled(label_weight=1)
    sequence.fit(*blobs, **FIT)

    assert_same(values(by_hand(sequence, 1, blobs)[0]), values(sequence.models[1]))


@pytest.mark.one_backend
def test_without_label_weight_the_students_learn_from_the_teacher_alone(blobs):
    x, y = blobs
    model, teacher = classifier(), classifier()
    students = []
    for labels in (y, (y + 1) % CLASSES):
        sequence = compiled(model, label_weight=0, metrics=["accuracy"])
        sequence.fit(x, labels, **FIT, teacher=teacher)
        students.append(values(sequence.models[1]))

    assert_same(*students)


@pytest.mark.one_backend
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


# Seeds


def fitted(seed, **arguments):
    """A sequence of one student, trained on several shuffled batches, with dropout."""
    sequence = compiled(classifier(dropout=0.3), seed=seed)
    sequence.fit(*make_blobs(), batch_size=32, verbose=0, **arguments)
    return sequence


def test_the_same_seed_gives_the_same_generations_and_the_same_history(blobs):
    first = fitted(5, validation_data=blobs)
    keras.utils.set_random_seed(999)
    second = fitted(5, validation_data=blobs)

    for one, other in zip(first.models, second.models, strict=True):
        assert_same(values(one), values(other))
    for one, other in zip(first.history.records, second.history.records, strict=True):
        assert {**vars(one), "seconds": 0} == {**vars(other), "seconds": 0}
    assert first.history.ensemble == second.history.ensemble


@pytest.mark.one_backend
@pytest.mark.parametrize("seeds", [(5, 6), (None, None)])
def test_another_seed_gives_other_generations(seeds):
    first, second = (fitted(seed) for seed in seeds)

    for one, other in zip(first.models, second.models, strict=True):
        assert np.abs(values(one)[0] - values(other)[0]).max() > 0.01
    assert {r.seed for r in first.history.records}.isdisjoint({r.seed for r in second.history.records})


@pytest.mark.one_backend
def test_fit_twice_starts_over(blobs):
    sequence = fitted(5)
    models, history = sequence.models, sequence.history

    again = sequence.fit(*blobs, batch_size=32, verbose=0)

    assert again is sequence.history is not history
    assert len(models) == len(sequence.models) == 2
    for one, other in zip(models, sequence.models, strict=True):
        assert one is not other
        assert_same(values(one), values(other))


# A teacher that is given


@pytest.fixture(scope="module")
def teacher():
    """Trained once, for all tests: no sequence may change it."""
    model = classifier(dropout=0.3, batch_norm=True)
    model.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"], run_eagerly=True)
    model.fit(*make_blobs(), **FIT, epochs=3)
    return model


def test_a_teacher_given_is_generation_0_and_stays_as_it_is(blobs, teacher):
    before = values(teacher)
    optimizer, optimizer_before = teacher.optimizer, values(teacher.optimizer)
    evaluated = teacher.evaluate(*blobs, verbose=0, return_dict=True)
    adam_w = {"class_name": "AdamW", "config": {"learning_rate": 0.1, "weight_decay": 0.1}}
    rule = {"optimizer": adam_w, "metrics": ["accuracy"]}
    sequence = compiled(classifier(dropout=0.3), **rule)

    fit = {"epochs": 2, "validation_data": blobs}

    history = sequence.fit(*blobs, **FIT, **fit, teacher=teacher)

    assert sequence.models[0] is teacher
    assert len(sequence.models) == 2
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
    student, _ = by_hand(sequence, 1, blobs, {"teacher": teacher}, **fit, **rule)
    assert_same(values(student), values(sequence.models[1]))


@pytest.mark.one_backend
def test_the_model_itself_may_be_the_teacher(blobs, teacher):
    before = values(teacher)
    sequence = compiled(teacher)

    sequence.fit(*blobs, **FIT, teacher=teacher)

    assert sequence.models[0] is teacher
    assert_same(before, values(teacher))
    assert np.abs(values(sequence.models[1])[0] - before[0]).max() > 0.01


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_an_ensemble_may_be_the_teacher(blobs):
    teacher = keras_ban.EnsembleModel([classifier(), classifier(batch_norm=True)])
    sequence = compiled()

    sequence.fit(*blobs, **FIT, teacher=teacher)

    assert sequence.models[0] is teacher


# A callable that builds


@pytest.mark.one_backend
@pytest.mark.parametrize(("teacher", "expected"), [(False, [0, 1, 2]), (True, [1, 2])])
def test_models_and_callbacks_are_asked_for_once_for_each_generation_that_is_trained(teacher, expected, blobs):
    built, called = [], []

    def build(generation):
        built.append(generation)
        hidden = [keras.layers.Dense(16, activation="relu") for _ in range(generation + 1)]
        return keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(CLASSES)])

    def callbacks(generation):
        called.append(generation)
        return ()

    sequence = compiled(build, generations=2)
    sequence.fit(*blobs, **FIT, callbacks=callbacks, teacher=classifier() if teacher else None)

    assert expected == built == called
    assert [2, 3, 4] == [len(model.layers) for model in sequence.models]  # The teacher has two layers, too.


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
        sequence.fit(*blobs, **FIT, epochs=5)

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
