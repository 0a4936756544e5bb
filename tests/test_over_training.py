"""Schedules over the training: numbers that depend on the fraction of its steps that are done."""

import keras
import numpy as np
import oracles
import pytest
from helpers.data import Batches, random_logits
from helpers.models import assert_same, classifier, crossentropy
from helpers.runs import assert_same_run
from helpers.tables import cases
from helpers.training import interrupted_after
from keras import ops

import keras_ban
from keras_ban import BornAgainSequence, Distiller, OverTraining
from keras_ban.losses import KnowledgeDistillation

BACKEND = keras.config.backend()
X = np.random.default_rng(0).standard_normal((20, 8)).astype("float32")
LABELS = np.arange(20) % 3
TEACHER = random_logits((20, 3), 3)
Y = {"labels": LABELS, "soft_targets": TEACHER}


@keras.saving.register_keras_serializable(package="test_over_training")
def squared(done):
    return done**2


@keras.saving.register_keras_serializable(package="test_over_training")
def cooling(done):
    return 4.0 - 3.0 * ops.sqrt(done)


def distiller(label_weight=None, loss=None, rate=0.0, **options):
    keras.utils.set_random_seed(0)
    weight = OverTraining(squared) if label_weight is None else label_weight
    model = Distiller(student=classifier(), distillation_loss=loss, label_weight=weight)
    model.compile(keras.optimizers.SGD(rate), crossentropy(), **options)
    return model


def fit(model, x=X, y=Y, batch_size=8, epochs=3, **options):
    """Three steps in an epoch, unless told otherwise."""
    return model.fit(x, y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0, **options).history


def means(function, epochs, steps, first=0):
    """The means over the steps of each epoch, in float64."""
    done = np.arange(epochs * steps).reshape(epochs, steps) / (epochs * steps)
    return function(done).mean(-1)[first:]


def assert_weights(expected, logs):
    np.testing.assert_allclose(logs["label_weight"], expected, rtol=1e-6, atol=1e-7)  # float32


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_the_label_weight_of_each_epoch_is_the_mean_over_its_steps(run_eagerly):
    model = distiller(run_eagerly=run_eagerly)

    assert_weights(means(np.square, 3, 3), fit(model))
    # A compiled step reads the new total, and each fit starts again.
    assert_weights(means(np.square, 5, 3), fit(model, epochs=5))
    assert_weights(means(np.square, 2, 5), fit(model, batch_size=4, epochs=2))
    assert_weights(means(np.square, 4, 3, first=2), fit(model, epochs=4, initial_epoch=2))


def test_temperature_and_losses_are_those_of_each_step():
    model = distiller(loss=KnowledgeDistillation(temperature=OverTraining(cooling)))
    student = model.predict(X, verbose=0)
    logs = fit(model, batch_size=20, epochs=4)

    temperatures = 4 - 3 * np.sqrt(np.arange(4) / 4)
    np.testing.assert_allclose(logs["temperature"], temperatures, rtol=1e-6)
    expected = [oracles.knowledge_distillation(TEACHER, student, each).mean() for each in temperatures]
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=1e-5)  # float32
    weights = (np.arange(4) / 4) ** 2
    mixed = weights * logs["label_loss"] + (1 - weights) * logs["distillation_loss"]
    np.testing.assert_allclose(logs["loss"], mixed, rtol=1e-6)


def test_several_steps_per_execution_have_each_their_own():
    if BACKEND == "torch":
        pytest.skip("Keras demands `steps_per_execution=1` on torch")

    assert_weights(means(np.square, 3, 4), fit(distiller(steps_per_execution=2), batch_size=5))


@cases("way", "accumulation", on_one_backend=["half precision", "a dataset", "steps_per_epoch", "BackupAndRestore"])
def test_steps_are_counted_whatever_the_optimizer_and_the_data(way, tmp_path):
    if way == "half precision":
        keras.config.set_dtype_policy("mixed_float16")  # Its optimizer counts no step that overflows.
    keras.utils.set_random_seed(0)
    teacher = classifier()
    accumulation = {"gradient_accumulation_steps": 2} if way == "accumulation" else {}
    model = Distiller(student=classifier(), teacher=teacher, label_weight=OverTraining(squared))
    model.compile(keras.optimizers.SGD(0.1, **accumulation), crossentropy())
    if way == "steps_per_epoch":
        endless = ((X[:4], LABELS[:4]) for _ in iter(int, 1))
        logs = fit(model, endless, None, None, 3, steps_per_epoch=3)
    elif way == "a dataset":
        logs = fit(model, Batches(X, LABELS, 8), None, None)
    elif way == "BackupAndRestore":

        class Stop(keras.callbacks.Callback):
            def on_epoch_begin(self, epoch, logs=None):
                if epoch == 1:
                    raise InterruptedError

        backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
        with pytest.raises(InterruptedError):
            fit(model, X, LABELS, callbacks=[backup, Stop()])
        assert_weights(means(np.square, 3, 3, first=1), fit(model, X, LABELS, callbacks=[backup]))
        return
    else:
        logs = fit(model, X, LABELS)

    assert_weights(means(np.square, 3, 3), logs)


def sequence(label_weight, directory=None, generations=2, **options):
    made = BornAgainSequence(
        classifier(), generations, label_weight=label_weight, directory=directory, seed=3, **options
    )
    made.compile(keras.optimizers.Adam(0.02), crossentropy())
    return made


def run(made, blobs, **options):
    made.fit(*blobs, **{"batch_size": 32, "epochs": 3, "verbose": 0, "validation_data": blobs, **options})
    return made


@cases("soft_targets", "cached", on_one_backend=["online"])
def test_each_student_of_a_sequence_begins_again_with_one_compiled_step(blobs, soft_targets):
    made = run(sequence(OverTraining(squared), soft_targets=soft_targets), blobs)

    for record in made.history.records[1:]:
        assert_weights(means(np.square, 3, 3), record.logs)
    # Each `fit` has its own total.
    assert_weights(means(np.square, 2, 3), run(made, blobs, epochs=2).history.records[2].logs)


def test_a_resumed_run_ends_as_an_uninterrupted_one(blobs, tmp_path):
    whole = run(sequence(OverTraining(squared), tmp_path / "whole", 1), blobs)
    with interrupted_after(1, 0):
        run(sequence(OverTraining(squared), tmp_path / "cut", 1), blobs)
    cut = run(sequence(OverTraining(squared), tmp_path / "cut", 1), blobs)

    assert_same_run(whole, cut)
    assert_weights(means(np.square, 3, 3), cut.history.records[1].logs)
    loaded = BornAgainSequence.load(tmp_path / "cut")
    assert squared is loaded.label_weight.function


@pytest.mark.one_backend
def test_a_list_may_hold_schedules(blobs):
    per_generation = [0.25, OverTraining(squared), keras.optimizers.schedules.PolynomialDecay(1.0, 4, 0.0)]
    for given in (per_generation, lambda generation: per_generation[generation - 1]):
        made = run(sequence(given, generations=3), blobs, epochs=2)

        logs = [record.logs for record in made.history.records[1:]]
        assert "label_weight" not in logs[0]
        assert_weights(means(np.square, 2, 3), logs[1])
        assert_weights([0.75, (0.25 + 0 + 0) / 3], logs[2])


def test_files_hold_the_function(tmp_path):
    model = distiller(loss=KnowledgeDistillation(temperature=OverTraining(cooling)), rate=0.1)
    fit(model)
    model.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    expected, logs = fit(model), fit(loaded)

    for name in ("temperature", "label_weight", "loss"):
        np.testing.assert_allclose(logs[name], expected[name], rtol=1e-5)
    plain = distiller(0.5)
    plain.student.set_weights(loaded.student.get_weights())
    assert "label_weight" not in fit(plain)


@pytest.mark.one_backend
def test_a_schedule_of_kerass_is_a_function_too():
    schedule = keras.optimizers.schedules.PolynomialDecay(0.8, 1, 0.2)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(OverTraining(schedule)))

    assert_weights(0.8 - 0.6 * means(np.asarray, 3, 3), fit(distiller(again)))


@pytest.mark.one_backend
def test_what_a_schedule_over_the_training_needs_is_said(blobs):
    endless = ((X[:4], LABELS[:4]) for _ in iter(int, 1))
    teacher, student = classifier(), classifier()
    model = Distiller(student=student, teacher=teacher, label_weight=OverTraining(squared))
    model.compile("sgd", crossentropy())
    before = student.get_weights()
    with pytest.raises(ValueError, match="have no known length: pass `steps_per_epoch`"):
        model.fit(endless, verbose=0)
    with pytest.raises(ValueError, match="`train_on_batch` knows no number of steps"):
        model.train_on_batch(X, LABELS)
    assert_same(before, student.get_weights())
    with pytest.raises(TypeError, match="`function` must be a callable"):
        OverTraining(0.5)
    for function in (lambda done: 2 * done, lambda done: 4 * done * (1 - done) * 1.5, lambda done: -done):
        with pytest.raises(ValueError, match=r"`label_weight` must be a number in \[0, 1\]"):
            Distiller(student=student, label_weight=OverTraining(function))
    with pytest.raises(ValueError, match="Generation 2: `label_weight` must be a number"):
        BornAgainSequence(student, 2, label_weight=[0.5, OverTraining(lambda done: 2.0)])
    with pytest.raises(ValueError, match="changes with the training progress, which a `Distiller` tells it"):
        KnowledgeDistillation(temperature=OverTraining(cooling))(TEACHER, TEACHER)
    value = KnowledgeDistillation(temperature=OverTraining(cooling))({**Y, "fraction": 0.25}, X[:, :3])
    assert float(KnowledgeDistillation(temperature=2.5)(Y, X[:, :3])) == pytest.approx(float(value))
    assert keras_ban.OverTraining(squared).function is squared
