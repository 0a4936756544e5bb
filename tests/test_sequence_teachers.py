"""Who teaches each generation of a sequence, and with which label weight."""

import re

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES
from helpers.models import assert_same, classifier, constants, crossentropy, values
from helpers.training import interrupted_after

from keras_ban import BornAgainSequence, Distiller, EnsembleModel, SoftTargets, reborn
from keras_ban.losses import KnowledgeDistillation

BACKEND = keras.config.backend()
FIT = {"batch_size": 96, "shuffle": False, "verbose": 0}  # One step an epoch.


def compiled(model=None, generations=2, optimizer=None, loss=None, run_eagerly=True, **arguments):
    model = classifier() if model is None else model
    sequence = BornAgainSequence(model, generations=generations, **{"seed": 3, **arguments})
    optimizer = optimizer or keras.optimizers.Adam(0.02)
    sequence.compile(optimizer, loss or crossentropy(), run_eagerly=run_eagerly)
    return sequence


def taught_by_hand(sequence, number, soft_targets, data, label_weight=0.5, loss=None, model=None):
    """The values of a student that a Distiller trains on stored soft targets, under a generation's recorded seed."""
    x, y = data
    keras.utils.set_random_seed(sequence.history.records[number].seed)
    student = reborn(sequence.model) if model is None else model
    distiller = Distiller(student=student, distillation_loss=loss, label_weight=label_weight)
    distiller.compile(keras.optimizers.Adam(0.02), crossentropy(), run_eagerly=True)
    if isinstance(soft_targets, SoftTargets):
        distiller.fit(x, y, soft_targets=soft_targets, epochs=1, **FIT)
    else:
        distiller.fit(x, {"labels": y, "soft_targets": soft_targets}, epochs=1, **FIT)
    return values(student)


def probabilities(models, x):
    """Averaged, in float64."""
    return np.mean([oracles.softmax(model.predict(x, verbose=0)) for model in models], axis=0)


def close(expected, actual):
    # Averages in float32 against float64, outputs of compiled passes against eager ones: the last bits, moved by Adam.
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(e, a, rtol=0, atol=2e-5)


def assert_same_run(expected, actual):
    for one, other in zip(expected.models, actual.models, strict=True):
        assert_same([w.numpy() for w in one.weights], [w.numpy() for w in other.weights])
    one, other = expected.history.to_dict(), actual.history.to_dict()
    for record in one["records"] + other["records"]:
        record.pop("seconds")
    assert one == other


@pytest.fixture
def computed(monkeypatch):
    """The teachers whose soft targets were computed."""
    teachers, original = [], SoftTargets.from_teacher.__func__

    def noting(cls, teacher, *args, **kwargs):
        teachers.append(teacher)
        return original(cls, teacher, *args, **kwargs)

    monkeypatch.setattr(SoftTargets, "from_teacher", classmethod(noting))
    return teachers


# Label weights of the generations


def test_each_student_is_trained_with_its_own_label_weight(blobs, computed):
    x, y = blobs
    sequence = compiled(generations=4, label_weight=[0.3, 1, 0, 0.3])

    sequence.fit(x, y, **FIT)

    assert 3 == len(computed)  # The student of weight 1 does not hear its teacher.
    for generation, label_weight in [(1, 0.3), (3, 0.0), (4, 0.3)]:
        targets = SoftTargets.from_teacher(sequence.models[generation - 1], x, 96, verbose=0)
        student = taught_by_hand(sequence, generation, targets, blobs, label_weight)
        assert_same(student, values(sequence.models[generation]))
    keras.utils.set_random_seed(sequence.history.records[2].seed)
    plain = reborn(sequence.model)
    plain.compile(keras.optimizers.Adam(0.02), crossentropy(), run_eagerly=True)
    plain.fit(x, y, **FIT)
    assert_same(values(plain), values(sequence.models[2]))


def test_compiled_steps_follow_the_label_weight(blobs):
    weights = [0.9, 0.1]
    cached = compiled(label_weight=weights, run_eagerly=False)
    online = compiled(label_weight=weights, soft_targets="online")
    for sequence in (cached, online):
        sequence.fit(*blobs, epochs=2, **FIT)

    for expected, actual in zip(online.models, cached.models, strict=True):
        close(values(expected), values(actual))


def test_a_callable_is_asked_for_each_students_label_weight_at_once():
    asked = []

    def label_weight(generation):
        asked.append(generation)
        return 1 / (generation + 1)

    assert [1 / 2, 1 / 3, 1 / 4] == BornAgainSequence(classifier(), 3, label_weight=label_weight).label_weight
    assert [1, 2, 3] == asked


@pytest.mark.parametrize(
    ("label_weight", "message"),
    [
        ([0.5], "one number for each student, generation 1 first: with generations=2 that are 2, received 1: [0.5]"),
        ((0.5, 0.5, 0.5), "that are 2, received 3"),
        ([0.5, 1.5], "Generation 2: `label_weight` must be a number in [0, 1], received: 1.5"),
        (lambda generation: -generation, "Generation 1: `label_weight` must be a number in [0, 1], received: -1"),
        (np.array([0.5, 0.5]), "`label_weight` must be a number in [0, 1]"),
    ],
)
def test_label_weights_are_checked_before_anything_is_trained(label_weight, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BornAgainSequence(classifier(), 2, label_weight=label_weight)


def test_a_schedule_is_one_of_the_step_and_begins_again_in_each_student(blobs, tmp_path):
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, decay_steps=4, end_learning_rate=0.0)
    sequence = compiled(label_weight=schedule, directory=tmp_path)

    history = sequence.fit(*blobs, epochs=2, **FIT)

    assert [[1.0, 0.75]] * 2 == [record.logs["label_weight"] for record in history.records[1:]]
    assert schedule.get_config() == BornAgainSequence.load(tmp_path).label_weight.get_config()


def test_students_of_a_given_teacher_without_a_label_weight_need_no_labels(blobs):
    x, y = blobs
    teacher = classifier()
    sequences = [compiled(label_weight=[0, 0.0]) for _ in range(2)]
    for sequence, labels in zip(sequences, (None, y), strict=True):
        sequence.fit(x, labels, teacher=teacher, **FIT)

    for one, other in zip(*(sequence.models for sequence in sequences), strict=True):
        assert_same(values(other), values(one))


@pytest.mark.parametrize(("teacher", "label_weight"), [(False, 0), (True, [0, 0.5])])
def test_labels_that_are_needed_are_missed_before_training(teacher, label_weight, blobs):
    sequence = compiled(label_weight=label_weight)

    with pytest.raises(ValueError, match="The data brings no labels"):
        sequence.fit(blobs[0], teacher=classifier() if teacher else None, **FIT)

    assert [] == sequence.models


@pytest.mark.one_backend
def test_a_run_goes_on_with_its_own_label_weights_alone(blobs, tmp_path):
    fit = {**FIT, "epochs": 2, "validation_data": blobs}
    whole = compiled(label_weight=[0.2, 0.7])
    whole.fit(*blobs, **fit)
    with interrupted_after(generation=2):
        compiled(label_weight=(0.2, 0.7), directory=tmp_path).fit(*blobs, **fit)

    with pytest.raises(ValueError, match=r"label_weight\[1\]: 0.7 in the directory, 0.6 now"):
        compiled(label_weight=[0.2, 0.6], directory=tmp_path).fit(*blobs, **fit)
    assert [0.2, 0.7] == BornAgainSequence.load(tmp_path).label_weight

    again = compiled(label_weight=lambda generation: [0.2, 0.7][generation - 1], directory=tmp_path)
    again.fit(*blobs, **fit)
    assert_same_run(whole, again)


# The ensemble as teacher


@pytest.mark.parametrize("soft_targets", ["cached", "online"])
def test_the_ensemble_so_far_teaches_and_is_what_a_student_is_compared_with(blobs, soft_targets):
    x, y = blobs
    sequence = compiled(teach_from="ensemble", soft_targets=soft_targets)

    history = sequence.fit(x, y, validation_data=blobs, **FIT)

    first, second, third = sequence.models
    for number, teachers in [(1, [first]), (2, [first, second])]:
        close(
            taught_by_hand(sequence, number, np.log(probabilities(teachers, x)), blobs), values(sequence.models[number])
        )
    before, now = (probabilities(models, x).argmax(axis=-1) == y for models in ([first, second], [third]))
    scores = history.records[2].scores
    assert [None, 0, "ensemble"] == [record.scores.compared_with for record in history.records]
    assert ((now & ~before).sum(), (before & ~now).sum()) == (scores.positive_flips, scores.negative_flips)
    assert vars(scores) == vars(sequence.evaluate(x, y, batch_size=FIT["batch_size"]).records[2].scores)


def test_the_ensemble_of_models_that_end_in_a_softmax_averages_their_probabilities(blobs):
    x, _ = blobs
    loss = KnowledgeDistillation(from_logits=False)
    own = keras.losses.SparseCategoricalCrossentropy()
    options = {"distillation_loss": loss, "label_weight": 0, "teach_from": "ensemble"}
    sequence = compiled(classifier(activation="softmax"), loss=own, **options)
    sequence.fit(*blobs, **FIT)

    mean = np.mean([model.predict(x, verbose=0) for model in sequence.models[:2]], axis=0, dtype="float64")
    close(taught_by_hand(sequence, 2, mean, blobs, 0, loss), values(sequence.models[2]))


def test_regressions_are_averaged_as_they_are():
    x, y = np.ones((8, 8), "float32"), np.zeros((8, 1), "float32")
    loss = keras.losses.MeanSquaredError()
    build, optimizer = constants([1.0, 3.0, 5.0]), keras.optimizers.SGD(0.0)
    sequence = compiled(build, 2, optimizer, loss, distillation_loss=loss, teach_from="ensemble")

    logs = sequence.fit(x, y, **FIT).records[2].logs

    assert [(5.0 - (1.0 + 3.0) / 2) ** 2] == logs["distillation_loss"]


@pytest.mark.parametrize(
    ("soft_targets", "generation"),
    [pytest.param("online", 2, marks=pytest.mark.one_backend), ("cached", 3)],
)
def test_a_run_taught_by_ensembles_goes_on_to_the_same_end(blobs, tmp_path, soft_targets, generation):
    fit = {**FIT, "epochs": 2, "validation_data": blobs}
    options = {"teach_from": "ensemble", "distill_ensemble": True, "soft_targets": soft_targets}
    whole = compiled(classifier(dropout=0.3, batch_norm=True), **options)
    whole.fit(*blobs, **fit)
    with interrupted_after(generation):  # The last one, or the ensemble's student.
        compiled(classifier(dropout=0.3, batch_norm=True), directory=tmp_path, **options).fit(*blobs, **fit)
    with pytest.raises(ValueError, match='teach_from: "ensemble" in the directory, "last" now'):
        compiled(classifier(dropout=0.3, batch_norm=True), directory=tmp_path).fit(*blobs, **fit)

    again = compiled(classifier(dropout=0.3, batch_norm=True), directory=tmp_path, **options)
    again.fit(*blobs, **fit)
    assert_same_run(whole, again)

    loaded = BornAgainSequence.load(tmp_path)
    assert_same_run(whole, loaded)
    assert ("ensemble", True) == (loaded.teach_from, loaded.distill_ensemble)
    assert loaded.distilled is loaded.models[3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"teach_from": "first"}, "`teach_from` must be 'last' or 'ensemble', received: 'first'"),
        ({"teach_from": ["last"]}, "`teach_from` must be 'last' or 'ensemble'"),
        ({"distill_ensemble": 2}, "`distill_ensemble` must be True or False, received: 2"),
        ({"distill_ensemble": True, "label_weight": 1.0}, "it would not hear its teacher"),
        ({"distill_ensemble": True, "label_weight": [0.5, 0.5, 1]}, "it would not hear its teacher"),
    ],
)
def test_other_ways_to_teach_are_refused(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        BornAgainSequence(classifier(), **arguments)


# The ensemble's student


def test_the_ensemble_of_all_generations_is_distilled_into_one_more_student(blobs, capsys):
    x, y = blobs
    sequence = compiled(distill_ensemble=True)

    history = sequence.fit(x, y, validation_data=blobs, **{**FIT, "verbose": 2})

    *generations, distilled = sequence.models
    assert [False, False, False, True] == [record.distilled for record in history.records]
    assert (3, distilled) == (len(generations), sequence.distilled)
    close(taught_by_hand(sequence, 3, np.log(probabilities(generations, x)), blobs), values(distilled))
    # The ensemble stays that of the generations.
    assert generations == sequence.ensemble().members
    assert generations[-1:] == sequence.ensemble(last=1).members
    expected = probabilities(generations, x)
    assert (expected.argmax(axis=-1) == y).mean() == history.ensemble.accuracy
    assert "ensemble" == history.records[3].scores.compared_with
    assert vars(history.ensemble) == vars(sequence.evaluate(x, y, batch_size=FIT["batch_size"]).ensemble)
    assert "The ensemble's student, taught by the ensemble of generations 0 to 2" in capsys.readouterr().out


def test_the_ensembles_student_is_built_chosen_and_announced_as_such(capsys):
    x, y = np.zeros((8, 8), "float32"), np.zeros((8, 1), "float32")
    asked, build = [], constants([3.0, 2.0, 4.0, 1.0])

    def noting(generation):
        asked.append(generation)
        return build(generation)

    loss = keras.losses.MeanSquaredError()
    sequence = compiled(noting, 2, keras.optimizers.SGD(0.0), loss, distillation_loss=loss, distill_ensemble=True)
    history = sequence.fit(x, y, validation_data=(x, y), **FIT)

    assert [0, 1, 2, 3] == asked
    assert [9.0, 4.0, 16.0, 1.0] == [record.metrics["val_loss"] for record in history.records]
    assert (3, sequence.distilled) == (history.best_generation, sequence.best_model)
    assert [(1 - 3.0) ** 2] == history.records[3].logs["distillation_loss"]  # The mean of 3, 2 and 4.
    assert 3.0 == sequence.ensemble().predict(x, verbose=0)[0, 0]


@pytest.mark.one_backend
def test_generations_that_patience_ended_are_distilled_too(tmp_path):
    x, y = np.zeros((8, 8), "float32"), np.zeros((8, 1), "float32")
    loss = keras.losses.MeanSquaredError()

    def sequence(directory=None):
        build = constants([1.0, 2.0, 3.0, 4.0, 5.0])
        options = {"distillation_loss": loss, "distill_ensemble": True, "directory": directory}
        return compiled(build, 3, keras.optimizers.SGD(0.0), loss, **options)

    fit = {**FIT, "validation_data": (x, y), "patience": 1}
    whole = sequence()
    whole.fit(x, y, **fit)

    assert [(0, False), (1, False), (2, True)] == [(r.generation, r.distilled) for r in whole.history.records]
    assert [1.0, 2.0, 5.0] == [float(model.predict(x, verbose=0)[0, 0]) for model in whole.models]
    with interrupted_after(generation=2):
        sequence(tmp_path).fit(x, y, **fit)
    for _ in range(2):  # Trained on, and loaded.
        again = sequence(tmp_path)
        again.fit(x, y, **fit)
        assert_same_run(whole, again)
    assert BornAgainSequence.load(tmp_path).distilled.predict(x, verbose=0)[0, 0] == 5.0


def test_without_distillation_there_is_no_distilled_model(blobs):
    sequence = compiled(generations=1)
    assert sequence.distilled is None
    sequence.fit(*blobs, **FIT)
    assert sequence.distilled is None


# Several teachers, and students of other sizes


def linear():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(CLASSES, kernel_initializer="zeros")])


def deep(units, layers):
    hidden = [keras.layers.Dense(units, activation="relu") for _ in range(layers)]
    return keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(CLASSES)])


@pytest.mark.parametrize("way", ["Distiller", "online", "cached"])
def test_one_step_after_several_weighted_teachers_is_that_of_the_closed_form(blobs, way):
    x, y = blobs
    teachers, weights, temperature, rate = [linear(), deep(5, 2)], [1.0, 3.0], 2.0, 0.5
    teachers[0].layers[0].set_weights([np.random.default_rng(0).standard_normal((8, 3)), np.array([1.0, 0.0, -1.0])])
    teacher = EnsembleModel(teachers, weights=weights)
    options = {"distillation_loss": KnowledgeDistillation(temperature=temperature), "label_weight": 0}
    optimizer = keras.optimizers.SGD(rate)

    if way == "Distiller":
        student = linear()
        distiller = Distiller(student=student, teacher=teacher, **options)
        distiller.compile(optimizer, run_eagerly=True)
        distiller.fit(x, y, **FIT)
    else:
        sequence = compiled(linear(), 1, optimizer, soft_targets=way, **options)
        sequence.fit(x, y, teacher=teacher, **FIT)
        student = sequence.models[1]

    mean = sum(w / 4 * oracles.softmax(t.predict(x, verbose=0)) for w, t in zip(weights, teachers, strict=True))
    p, q = oracles.softmax(np.log(mean) / temperature), np.full((96, CLASSES), 1 / CLASSES)
    kernel, bias = student.get_weights()
    # The closed form in float64 against float32: the rounding of a sum of 96 terms.
    np.testing.assert_allclose(-rate * temperature * x.T @ (q - p) / 96, kernel, rtol=0, atol=2e-6)
    np.testing.assert_allclose(-rate * temperature * (q - p).mean(axis=0), bias, rtol=0, atol=2e-6)


@pytest.mark.parametrize("soft_targets", ["cached", "online"])
def test_students_may_be_deeper_or_narrower_than_their_teacher(blobs, soft_targets):
    x, _ = blobs
    sizes = {0: (16, 1), 1: (8, 3)}
    sequence = compiled(lambda generation: deep(*sizes[generation]), 1, soft_targets=soft_targets)

    sequence.fit(*blobs, **FIT)

    counts = [8 * u + u + (n - 1) * (u * u + u) + 3 * u + 3 for u, n in sizes.values()]
    assert counts == [model.count_params() for model in sequence.models]
    keras.utils.set_random_seed(sequence.history.records[1].seed)
    student, soft = deep(*sizes[1]), np.log(probabilities(sequence.models[:1], x))
    close(taught_by_hand(sequence, 1, soft, blobs, model=student), values(sequence.models[1]))


def test_a_validation_split_of_data_without_labels_is_refused(blobs):
    x, _ = blobs
    sequence = compiled(label_weight=0)
    with pytest.raises(ValueError, match="`validation_split` keeps labelled examples .* brings no labels"):
        sequence.fit(x, validation_split=0.2, teacher=classifier(), **FIT)
