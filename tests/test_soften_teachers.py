"""`BornAgainSequence(soften_teachers=True)`: each teacher is as unsure of the training examples as of others."""

import re

import keras
import numpy as np
import pytest
from helpers import soft_targets
from helpers.data import CLASSES, Batches, make_blobs
from helpers.models import crossentropy, values
from helpers.runs import assert_same_run
from helpers.sequences import FIT, by_hand, compiled
from helpers.training import interrupted_after

from keras_ban import BornAgainHistory, BornAgainSequence, EnsembleModel, FeatureMatching
from keras_ban._src.backend import process_group

X, Y = make_blobs()
# A third of the labels are wrong, so that the models are too sure of their training examples.
HELD_OUT = make_blobs(2)[0], np.where(np.arange(96) % 3, make_blobs(2)[1], 0)
one_backend = pytest.mark.one_backend


def fitted(x=X, y=Y, validation_data=HELD_OUT, model=None, compile_arguments=None, fit=None, **options):
    sequence = compiled(model, **{"generations": 2, "soften_teachers": True, **options}, **compile_arguments or {})
    sequence.fit(x, y, validation_data=validation_data, shuffle=False, **{"epochs": 3, **FIT, **(fit or {})})
    return sequence


def temperatures(sequence):
    return [record.teacher_temperature for record in sequence.history.records]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"soft_targets": "online"},
        pytest.param({"teach_from": "ensemble", "label_weight": [1, 0.5]}, id="two teachers"),
        pytest.param({"distill_ensemble": True}, marks=one_backend),
        pytest.param({"generations": 1, "teacher": True}, marks=one_backend, id="given teacher"),
    ],
    ids=str,
)
def test_students_learn_what_the_softened_teacher_says(options):
    sequence = fitted(**{name: value for name, value in options.items() if name != "teacher"})
    if "teacher" in options:
        teacher = sequence.models[0]
        sequence.fit(X, Y, validation_data=HELD_OUT, shuffle=False, epochs=3, teacher=teacher, **FIT)
        assert teacher is sequence.models[0]

    found = temperatures(sequence)
    assert found[0] is None
    for number, temperature in enumerate(found[1:], start=1):
        if options.get("label_weight", 0.5) != 0.5 and number == 1:
            assert temperature is None  # It does not use its teacher.
            continue
        alone = "teach_from" not in options and not sequence.history.records[number].distilled
        teacher = EnsembleModel(sequence.models[number - 1 if alone else 0 : number], from_logits=True)
        assert teacher.soften(X, Y, validation_data=HELD_OUT) == pytest.approx(temperature, rel=1e-4)
        assert temperature > 1.2
        data = X, {"labels": Y, "soft_targets": teacher.predict(X, verbose=0)}
        student, _ = by_hand(sequence, number, data, {}, epochs=3, shuffle=False)
        for expected, actual in zip(values(student), values(sequence.models[number]), strict=True):
            # Outputs of compiled passes against eager ones: the last bits differ.
            np.testing.assert_allclose(expected, actual, rtol=0, atol=2e-5)


def test_the_models_keep_their_own_outputs():
    plain = compiled(generations=1)
    plain.fit(X, Y, validation_data=HELD_OUT, shuffle=False, epochs=3, **FIT)

    sequence = fitted(generations=1)

    np.testing.assert_array_equal(plain.models[0].predict(X, verbose=0), sequence.models[0].predict(X, verbose=0))
    assert 1.0 == sequence.ensemble().temperature


@one_backend
@pytest.mark.parametrize("kind", ["PyDataset", "tf.data", "DataLoader"])
def test_data_of_every_kind_give_the_same_temperature(kind):
    kinds = {**soft_targets.DATASETS, "PyDataset": lambda x, y: Batches(x, y, 48)}
    sequence = compiled(generations=1, soften_teachers=True)

    sequence.fit(kinds[kind](X, Y), validation_data=kinds[kind](*HELD_OUT), epochs=3, verbose=0, shuffle=False)

    teacher = EnsembleModel(sequence.models[:1], from_logits=True)
    wanted = teacher.soften(X, Y, validation_data=HELD_OUT)
    assert wanted == pytest.approx(temperatures(sequence)[1], rel=1e-4)


class Shifted(keras.layers.Layer):
    """Moves inputs in training alone."""

    def call(self, inputs, training=None):
        return inputs + 1.0 if training else inputs


@pytest.mark.parametrize("kind", ["arrays", pytest.param("dataset", marks=one_backend)])
def test_training_examples_are_seen_with_their_augmentation(kind):
    data = (X, Y) if kind == "arrays" else (Batches(X, Y, 48), None)
    sequence = fitted(
        *data, generations=1, augmentation=Shifted(), fit={} if kind == "arrays" else {"batch_size": None}
    )

    teacher = EnsembleModel(sequence.models[:1], from_logits=True)
    expected = teacher.soften(X + 1, Y, validation_data=HELD_OUT)
    assert temperatures(sequence)[1] == pytest.approx(expected, rel=1e-4)
    assert abs(teacher.soften(X, Y, validation_data=HELD_OUT) - expected) > 0.05


def test_labels_that_the_loss_ignores_do_not_count():
    labels, held_out = np.where(np.arange(96) % 4, Y, -1), np.where(np.arange(96) % 5, HELD_OUT[1], -1)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)

    sequence = fitted(X, labels, (HELD_OUT[0], held_out), generations=1, compile_arguments={"loss": loss})

    teacher = EnsembleModel(sequence.models[:1], from_logits=True)
    counts = (labels >= 0, held_out >= 0)
    validation_data = (HELD_OUT[0][counts[1]], held_out[counts[1]])
    wanted = teacher.soften(X[counts[0]], labels[counts[0]], validation_data=validation_data)
    assert wanted == pytest.approx(temperatures(sequence)[1], rel=1e-4)


@pytest.mark.parametrize("augmentation", [None, pytest.param(keras.layers.GaussianNoise(0.5), marks=one_backend)])
def test_an_interrupted_run_goes_on_with_the_same_temperatures(augmentation, tmp_path):
    options = {"teach_from": "ensemble", "augmentation": augmentation}
    whole = fitted(**options)
    with interrupted_after(generation=2):
        fitted(**options, directory=tmp_path)

    with pytest.raises(ValueError, match="soften_teachers: true in the directory, null now"):
        fitted(**options, directory=tmp_path, soften_teachers=False)
    again = fitted(**options, directory=tmp_path)

    assert_same_run(whole, again)
    assert temperatures(whole) == temperatures(again)
    loaded = BornAgainSequence.load(tmp_path)
    assert loaded.soften_teachers
    assert temperatures(whole) == temperatures(loaded)
    assert temperatures(whole) == [
        record.teacher_temperature for record in BornAgainHistory.from_json(whole.history.to_json()).records
    ]


def two_outputs():
    inputs = keras.Input((8,))
    return keras.Model(inputs, {name: keras.layers.Dense(CLASSES, name=name)(inputs) for name in ("a", "b")})


def regression():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])


ONE_HOT = keras.utils.to_categorical(Y, CLASSES)
REFUSED = {
    "no validation data": ("pass `validation_data` or `validation_split`", {"validation_data": None}),
    "unlabeled": ("`unlabeled` inputs did not. Calibrate a trained teacher", {"fit": {"unlabeled": X}}),
    "no teacher": ("has no effect with label_weight=1", {"label_weight": 1}),
    "mixing": (
        "mixes them. Calibrate a trained teacher",
        {"augmentation": keras.layers.MixUp(), "compile_arguments": {"loss": "categorical_crossentropy"}},
    ),
    "features": ("and `soften_teachers`, which makes an ensemble", {"feature_matching": FeatureMatching(["a"])}),
    "no flag": ("`soften_teachers` must be True or False", {"soften_teachers": "yes"}),
    "regression": (
        "It needs classifiers with one output",
        {"model": regression(), "y": Y.astype("float32"), "compile_arguments": {"loss": "mse"}},
    ),
    "two outputs": (
        "It needs classifiers with one output",
        {
            "model": two_outputs(),
            "y": {"a": Y, "b": Y},
            "validation_data": (X, {"a": Y, "b": Y}),
            "compile_arguments": {"loss": {"a": crossentropy(), "b": crossentropy()}},
        },
    ),
    "seen data": ("These examples trained the members", {"validation_data": (X, Y)}),
    "soft labels": (
        "must hold probabilities that sum to 1",
        {
            "y": 2 * ONE_HOT,
            "validation_data": (HELD_OUT[0], ONE_HOT),
            "compile_arguments": {"loss": keras.losses.CategoricalCrossentropy(from_logits=True)},
        },
    ),
    "endless": ("has no end", {"x": Batches(X, Y), "y": None, "fit": {"steps_per_epoch": 2, "batch_size": None}}),
    "endless validation": ("has no end", {"validation_data": Batches(X, Y), "fit": {"validation_steps": 2}}),
}


@one_backend
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_softened_is_refused_before_training(name, monkeypatch):
    message, options = REFUSED[name]
    if name.startswith("endless"):
        monkeypatch.setattr(Batches, "num_batches", None)
    fit = {**options.get("fit", {}), "callbacks": lambda generation: pytest.fail("It was trained.")}

    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        fitted(**{**options, "fit": fit})


def few_categories(seed):
    """Inputs of 200 categories: in a batch, most are different, among all of them few."""
    rng = np.random.default_rng(seed)
    categories, noise = rng.integers(0, 200, 2000), rng.random(2000) < 0.3
    return np.eye(200, dtype="float32")[categories], (categories + noise) % CLASSES


@one_backend
def test_examples_that_are_equal_by_chance_are_not_those_of_training():
    data, held_out = few_categories(0), few_categories(1)
    held_out[0][:8] = data[0][:8]
    model = keras.Sequential([keras.Input((200,)), keras.layers.Dense(CLASSES)])

    sequence = fitted(*data, held_out, model, generations=1, fit={"batch_size": 8, "epochs": 1})

    assert temperatures(sequence)[1] >= 1


@one_backend
@pytest.mark.parametrize("how", ["weight 0", "ignored"])
def test_examples_that_do_not_count_may_come_first(how):
    labels, weights, loss = Y.copy(), np.repeat([0.0, 1.0], 48), None
    if how == "ignored":
        labels[:48], loss = -1, keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
    fit = {"batch_size": 48, "sample_weight": weights if how == "weight 0" else None}

    sequence = fitted(y=labels, generations=1, compile_arguments={"loss": loss}, fit=fit)

    teacher = EnsembleModel(sequence.models[:1], from_logits=True)
    expected = teacher.soften(X[48:], Y[48:], validation_data=HELD_OUT)
    assert temperatures(sequence)[1] == pytest.approx(expected, rel=1e-4)


@one_backend
def test_all_workers_have_the_temperature_of_the_chief(monkeypatch):
    own = fitted(generations=1)
    original = process_group.chiefs
    monkeypatch.setattr(
        process_group,
        "chiefs",
        lambda values, task: 7.0 if task == "agree on a temperature" else original(values, task),
    )

    sequence = fitted(generations=1)

    assert 7.0 == temperatures(sequence)[1] != temperatures(own)[1]
    teacher = EnsembleModel(sequence.models[:1], from_logits=True, temperature=7.0)
    data = X, {"labels": Y, "soft_targets": teacher.predict(X, verbose=0)}
    student, _ = by_hand(sequence, 1, data, {}, epochs=3, shuffle=False)
    for expected, actual in zip(values(student), values(sequence.models[1]), strict=True):
        # Outputs of compiled passes against eager ones: the last bits differ.
        np.testing.assert_allclose(expected, actual, rtol=0, atol=2e-5)


@one_backend
def test_a_line_says_the_temperature(capsys):
    sequence = fitted(generations=1, fit={"verbose": 2})

    line = f"Its teacher is softened by the temperature {temperatures(sequence)[1]:.3g}"
    assert line in capsys.readouterr().out
