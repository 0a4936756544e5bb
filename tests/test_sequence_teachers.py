"""Who teaches each generation of a sequence, and with which label weight."""

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES
from helpers.models import assert_same, classifier, constants, values
from helpers.runs import assert_same_run
from helpers.sequences import by_hand, compiled
from helpers.training import interrupted_after

from keras_ban import BornAgainSequence, Distiller, EnsembleModel, SoftTargets
from keras_ban.losses import KnowledgeDistillation

FIT = {"batch_size": 96, "shuffle": False, "verbose": 0}  # One step an epoch.


def probabilities(models, x):
    """Averaged, in float64."""
    return np.mean([oracles.softmax(model.predict(x, verbose=0)) for model in models], axis=0)


def close(expected, actual):
    # Averages in float32 against float64, outputs of compiled passes against eager ones: the last bits differ.
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(e, a, rtol=0, atol=2e-5)


def assert_taught_by(sequence, number, soft_targets, blobs, distiller=None, build=None):
    """Whether a generation is the student that a `Distiller` makes of these soft targets."""
    x, y = blobs
    data = x, {"labels": y, "soft_targets": soft_targets}
    student, _ = by_hand(sequence, number, data, distiller or {}, build, shuffle=False)
    close(values(student), values(sequence.models[number]))


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


@pytest.mark.one_backend
def test_each_student_is_trained_with_its_own_label_weight(blobs, computed):
    sequence = compiled(generations=4, label_weight=[0.3, 1, 0, 0.3])

    sequence.fit(*blobs, **FIT)

    assert 3 == len(computed)  # The student of weight 1 does not hear its teacher.
    for generation, label_weight in [(1, 0.3), (2, None), (3, 0.0), (4, 0.3)]:
        fit, distiller = {}, None
        if label_weight is not None:
            fit["soft_targets"] = SoftTargets.from_teacher(sequence.models[generation - 1], blobs[0], 96, verbose=0)
            distiller = {"label_weight": label_weight}
        student, _ = by_hand(sequence, generation, blobs, distiller, shuffle=False, **fit)
        assert_same(values(student), values(sequence.models[generation]))


def test_compiled_steps_follow_the_label_weight(blobs):
    weights = [0.9, 0.1]
    cached = compiled(generations=2, label_weight=weights, run_eagerly=False)
    online = compiled(generations=2, label_weight=weights, soft_targets="online")
    for sequence in (cached, online):
        sequence.fit(*blobs, epochs=2, **FIT)

    for expected, actual in zip(online.models, cached.models, strict=True):
        close(values(expected), values(actual))


@pytest.mark.one_backend
def test_a_callable_is_asked_for_each_students_label_weight_at_once():
    asked = []

    def label_weight(generation):
        asked.append(generation)
        return 1 / (generation + 1)

    assert [1 / 2, 1 / 3, 1 / 4] == BornAgainSequence(classifier(), 3, label_weight=label_weight).label_weight
    assert [1, 2, 3] == asked


def test_a_schedule_is_one_of_the_step_and_begins_again_in_each_student(blobs, tmp_path):
    schedule = keras.optimizers.schedules.PolynomialDecay(1.0, decay_steps=4, end_learning_rate=0.0)
    sequence = compiled(generations=2, label_weight=schedule, directory=tmp_path)

    history = sequence.fit(*blobs, epochs=2, **FIT)

    assert [[1.0, 0.75]] * 2 == [record.logs["label_weight"] for record in history.records[1:]]
    assert schedule.get_config() == BornAgainSequence.load(tmp_path).label_weight.get_config()


@pytest.mark.one_backend
def test_students_of_a_given_teacher_without_a_label_weight_need_no_labels(blobs):
    x, y = blobs
    teacher = classifier()
    sequences = [compiled(generations=2, label_weight=[0, 0.0]) for _ in range(2)]
    for sequence, labels in zip(sequences, (None, y), strict=True):
        sequence.fit(x, labels, teacher=teacher, **FIT)

    for one, other in zip(*(sequence.models for sequence in sequences), strict=True):
        assert_same(values(other), values(one))


@pytest.mark.one_backend
def test_a_run_goes_on_with_its_own_label_weights_alone(blobs, tmp_path):
    fit = {**FIT, "epochs": 2}

    def sequence(label_weight, directory=tmp_path):
        return compiled(generations=2, label_weight=label_weight, directory=directory)

    whole, again = sequence([0.2, 0.7], None), sequence(lambda generation: [0.2, 0.7][generation - 1])
    whole.fit(*blobs, **fit)
    with interrupted_after(generation=2):
        sequence((0.2, 0.7)).fit(*blobs, **fit)

    with pytest.raises(ValueError, match=r"label_weight\[1\]: 0.7 in the directory, 0.6 now"):
        sequence([0.2, 0.6]).fit(*blobs, **fit)
    assert [0.2, 0.7] == BornAgainSequence.load(tmp_path).label_weight
    again.fit(*blobs, **fit)
    assert_same_run(whole, again)


@pytest.mark.one_backend
def test_a_student_that_does_not_use_its_teacher_is_not_compared_with_it(blobs, tmp_path):
    sequence = compiled(generations=2, label_weight=[1, 0.5], teach_from="ensemble", directory=tmp_path)
    with interrupted_after(generation=1):
        sequence.fit(*blobs, validation_data=blobs, **FIT)
    history = sequence.fit(*blobs, validation_data=blobs, **FIT)

    for each in (history, sequence.evaluate(*blobs), BornAgainSequence.load(tmp_path).history):
        assert [None, None, "ensemble"] == [record.scores.compared_with for record in each.records]
        assert "generation 1 did not beat" not in each.summary()


# The ensemble as teacher


@pytest.mark.one_backend
@pytest.mark.parametrize("soft_targets", ["cached", "online"])
def test_the_ensemble_so_far_teaches_and_is_what_a_student_is_compared_with(blobs, soft_targets):
    x, y = blobs
    sequence = compiled(generations=2, teach_from="ensemble", soft_targets=soft_targets)

    history = sequence.fit(x, y, validation_data=blobs, **FIT)

    first, second, third = sequence.models
    for number, teachers in [(1, [first]), (2, [first, second])]:
        assert_taught_by(sequence, number, np.log(probabilities(teachers, x)), blobs)
    before, now = (probabilities(models, x).argmax(axis=-1) == y for models in ([first, second], [third]))
    scores = history.records[2].scores
    assert [None, 0, "ensemble"] == [record.scores.compared_with for record in history.records]
    assert ((now & ~before).sum(), (before & ~now).sum()) == (scores.positive_flips, scores.negative_flips)
    assert scores == sequence.evaluate(x, y, batch_size=FIT["batch_size"]).records[2].scores


@pytest.mark.one_backend
def test_the_ensemble_of_models_that_end_in_a_softmax_averages_their_probabilities(blobs):
    x, _ = blobs
    distiller = {"distillation_loss": KnowledgeDistillation(from_logits=False), "label_weight": 0}
    own = keras.losses.SparseCategoricalCrossentropy()
    sequence = compiled(classifier(activation="softmax"), 2, loss=own, teach_from="ensemble", **distiller)
    sequence.fit(*blobs, **FIT)

    mean = np.mean([model.predict(x, verbose=0) for model in sequence.models[:2]], axis=0, dtype="float64")
    assert_taught_by(sequence, 2, mean, blobs, distiller)


ZEROS = np.zeros((8, 8), "float32"), np.zeros((8, 1), "float32")


def regression(levels, generations, **arguments):
    """A sequence of models that give `levels`, whatever they are trained on; or of a callable that builds them."""
    build, loss = levels if callable(levels) else constants(levels), keras.losses.MeanSquaredError()
    return compiled(build, generations, keras.optimizers.SGD(0.0), loss, distillation_loss=loss, **arguments)


@pytest.mark.one_backend
def test_regressions_are_averaged_as_they_are():
    logs = regression([1.0, 3.0, 5.0], 2, teach_from="ensemble").fit(*ZEROS, **FIT).records[2].logs

    assert [(5.0 - (1.0 + 3.0) / 2) ** 2] == logs["distillation_loss"]


@pytest.mark.parametrize(
    ("soft_targets", "generation"),
    # The last one, or the ensemble's student.
    [("cached", 2), pytest.param("online", 3, marks=pytest.mark.one_backend)],
)
def test_a_run_taught_by_ensembles_goes_on_to_the_same_end(blobs, tmp_path, soft_targets, generation):
    distill = generation == 3
    fit = {**FIT, "epochs": 2, "validation_data": blobs if distill else None}
    options = {"teach_from": "ensemble", "distill_ensemble": distill, "soft_targets": soft_targets}

    def sequence(directory=tmp_path, **options):
        return compiled(classifier(dropout=0.3, batch_norm=True), 2, directory=directory, **options)

    whole, again = sequence(None, **options), sequence(**options)
    whole.fit(*blobs, **fit)
    with interrupted_after(generation):
        sequence(**options).fit(*blobs, **fit)
    with pytest.raises(ValueError, match='teach_from: "ensemble" in the directory, "last" now'):
        sequence().fit(*blobs, **fit)
    again.fit(*blobs, **fit)
    assert_same_run(whole, again)

    loaded = BornAgainSequence.load(tmp_path)
    assert_same_run(whole, loaded)
    assert ("ensemble", distill) == (loaded.teach_from, loaded.distill_ensemble)
    assert loaded.distilled is (loaded.models[3] if distill else None)


# The ensemble's student


def test_the_ensemble_of_all_generations_is_distilled_into_one_more_student(blobs, capsys):
    x, y = blobs
    sequence = compiled(generations=2, distill_ensemble=True)

    history = sequence.fit(x, y, validation_data=blobs, **{**FIT, "verbose": 2})

    *generations, distilled = sequence.models
    assert [False, False, False, True] == [record.distilled for record in history.records]
    assert (3, distilled) == (len(generations), sequence.distilled)
    assert_taught_by(sequence, 3, np.log(probabilities(generations, x)), blobs)
    # The ensemble stays that of the generations.
    assert generations == sequence.ensemble().members
    assert generations[-1:] == sequence.ensemble(last=1).members
    expected = probabilities(generations, x)
    assert (expected.argmax(axis=-1) == y).mean() == history.ensemble.accuracy
    assert "ensemble" == history.records[3].scores.compared_with
    assert history.ensemble == sequence.evaluate(x, y, batch_size=FIT["batch_size"]).ensemble
    assert "The ensemble's student, taught by the ensemble of generations 0 to 2" in capsys.readouterr().out


@pytest.mark.one_backend
def test_the_ensembles_student_is_built_chosen_and_announced_as_such():
    asked, build = [], constants([3.0, 2.0, 4.0, 1.0])

    def noting(generation):
        asked.append(generation)
        return build(generation)

    sequence = regression(noting, 2, distill_ensemble=True)
    history = sequence.fit(*ZEROS, validation_data=ZEROS, **FIT)

    assert [0, 1, 2, 3] == asked
    assert [9.0, 4.0, 16.0, 1.0] == [record.metrics["val_loss"] for record in history.records]
    assert (3, sequence.distilled) == (history.best_generation, sequence.best_model)
    assert [(1 - 3.0) ** 2] == history.records[3].logs["distillation_loss"]  # The mean of 3, 2 and 4.
    assert 3.0 == sequence.ensemble().predict(ZEROS[0], verbose=0)[0, 0]


@pytest.mark.one_backend
def test_generations_that_patience_ended_are_distilled_too(tmp_path):
    def sequence(directory=None):
        return regression([1.0, 2.0, 3.0, 4.0, 5.0], 3, distill_ensemble=True, directory=directory)

    fit = {**FIT, "validation_data": ZEROS, "patience": 1}
    whole = sequence()
    whole.fit(*ZEROS, **fit)

    assert [(0, False), (1, False), (2, True)] == [(r.generation, r.distilled) for r in whole.history.records]
    assert [1.0, 2.0, 5.0] == [float(model.predict(ZEROS[0], verbose=0)[0, 0]) for model in whole.models]
    with interrupted_after(generation=2):
        sequence(tmp_path).fit(*ZEROS, **fit)
    for _ in range(2):  # Trained on, and loaded.
        again = sequence(tmp_path)
        again.fit(*ZEROS, **fit)
        assert_same_run(whole, again)
    assert BornAgainSequence.load(tmp_path).distilled.predict(ZEROS[0], verbose=0)[0, 0] == 5.0


@pytest.mark.one_backend
def test_the_ensembles_student_is_compared_with_its_teacher_after_patience(blobs):
    options = {"optimizer": keras.optimizers.SGD(0.0), "initial_weights": "model", "distill_ensemble": True}
    sequence = compiled(generations=3, label_weight=[1, 1, 0.5], **options)

    history = sequence.fit(*blobs, **FIT, validation_data=blobs, patience=1)

    assert [False, False, True] == [record.distilled for record in history.records]
    for records in (history.records, sequence.evaluate(*blobs).records):
        assert [None, None, "ensemble"] == [record.scores.compared_with for record in records]


@pytest.mark.one_backend
def test_without_distillation_there_is_no_distilled_model(blobs):
    sequence = compiled()
    assert sequence.distilled is None
    sequence.fit(*blobs, **FIT)
    assert sequence.distilled is None


# Several teachers, and students of other sizes


def linear():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(CLASSES, kernel_initializer="zeros")])


def deep(units, layers):
    hidden = [keras.layers.Dense(units, activation="relu") for _ in range(layers)]
    return keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(CLASSES)])


@pytest.mark.parametrize(
    "way", [*(pytest.param(way, marks=pytest.mark.one_backend) for way in ("Distiller", "online")), "cached"]
)
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


@pytest.mark.parametrize("soft_targets", ["cached", pytest.param("online", marks=pytest.mark.one_backend)])
def test_students_may_be_deeper_or_narrower_than_their_teacher(blobs, soft_targets):
    sizes = {0: (16, 1), 1: (8, 3)}

    def build(generation):
        return deep(*sizes[generation])

    sequence = compiled(build, soft_targets=soft_targets)

    sequence.fit(*blobs, **FIT)

    counts = [8 * u + u + (n - 1) * (u * u + u) + 3 * u + 3 for u, n in sizes.values()]
    assert counts == [model.count_params() for model in sequence.models]
    assert_taught_by(sequence, 1, np.log(probabilities(sequence.models[:1], blobs[0])), blobs, build=build)
