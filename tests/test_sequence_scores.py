"""How a `BornAgainSequence` measures its generations, chooses among them, and averages them."""

import math
import types

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import classifier, constants, crossentropy
from helpers.sequences import FIT, compiled

from keras_ban.losses import KnowledgeDistillation

BATCHES = {"batch_size": 96}


@pytest.fixture(scope="module")
def trained():
    """Three generations and their scores, for the tests that only look."""
    (x, y), (x_val, y_val) = make_blobs(), make_blobs(seed=2)
    sequence = compiled(generations=2, metrics=["accuracy"])
    history = sequence.fit(x, y, **FIT, validation_data=(x_val, y_val))
    return types.SimpleNamespace(sequence=sequence, history=history, x=x, y=y, x_val=x_val, y_val=y_val)


def regression(build, generations, metrics=None, learning_rate=0.0):
    """A sequence whose `val_loss` is the square of what `build` gives, where the targets are zeros."""
    loss = keras.losses.MeanSquaredError()
    return compiled(build, generations, keras.optimizers.SGD(learning_rate), loss, metrics, distillation_loss=loss)


ZEROS = np.zeros((8, 8), "float32"), np.zeros((8, 1), "float32")


# Validation, monitor, patience


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("monitor", "mode", "found", "best"),
    [
        ("val_loss", "auto", "min", 1),
        ("val_accuracy", "auto", "max", 0),
        ("val_accuracy", "min", "min", 1),
        ("val_level", "auto", "min", 1),
        ("val_loss", "max", "max", 0),
    ],
)
def test_the_best_model_has_the_best_monitored_value(monitor, mode, found, best):
    def accuracy(y_true, y_pred):
        return keras.ops.mean(y_pred)

    def level(y_true, y_pred):
        return keras.ops.mean(y_pred)

    sequence = regression(constants([3.0, 1.0, 2.0]), 2, metrics=[accuracy, level])
    history = sequence.fit(*ZEROS, **FIT, validation_data=ZEROS, monitor=monitor, mode=mode)

    assert [9.0, 1.0, 4.0] == [record.metrics["val_loss"] for record in history.records]
    assert (monitor, found, best) == (history.monitor, history.mode, history.best_generation)
    assert sequence.best_model is sequence.models[best]


@pytest.mark.one_backend
def test_without_validation_data_there_is_no_best_model(blobs):
    sequence = compiled()
    history = sequence.fit(*blobs, **FIT)

    assert [{}, {}] == [record.metrics for record in history.records]
    assert [None, None] == [record.scores for record in history.records]
    with pytest.raises(ValueError, match=r"There is no best generation.*`validation_data`"):
        _ = sequence.best_model
    assert "generation" in history.summary()


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


@pytest.mark.one_backend
@pytest.mark.parametrize("build", [UnbuiltClassifier, lambda: keras.Sequential([keras.layers.Dense(CLASSES)])])
def test_the_monitor_does_not_change_what_an_unbuilt_model_learns(build, blobs):
    weights, model = [], build()
    for monitor in ("val_loss", "val_accuracy"):
        sequence = compiled(model, metrics=["accuracy"])
        sequence.fit(*blobs, **FIT, validation_data=blobs, monitor=monitor)
        weights.append([array for each in sequence.models for array in each.get_weights()])

    assert not model.built
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


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
    history = sequence.fit(*ZEROS, **FIT, validation_data=ZEROS, patience=patience)

    assert trained == len(sequence.models) == len(history.records)


@pytest.mark.one_backend
def test_patience_takes_any_number_for_better_than_nan():
    def logarithm(y_true, y_pred):
        return keras.ops.mean(keras.ops.log(y_pred))

    sequence = regression(constants([-1.0, 2.0, 3.0, 3.0, 4.0]), 4, metrics=[logarithm])
    history = sequence.fit(*ZEROS, **FIT, validation_data=ZEROS, monitor="val_logarithm", mode="max", patience=1)

    assert math.isnan(history.records[0].metrics["val_logarithm"])
    assert len(history.records) == 4
    assert history.best_generation == 2


# The ensemble


@pytest.mark.parametrize(
    ("arguments", "weights"),
    [
        ({}, [1, 1, 1]),
        pytest.param({"last": 2}, [0, 1, 1], marks=pytest.mark.one_backend),
        pytest.param({"weights": [1, 2, 5]}, [1, 2, 5], marks=pytest.mark.one_backend),
        pytest.param({"last": 1}, [0, 0, 1], marks=pytest.mark.one_backend),
    ],
)
def test_the_ensemble_is_the_average_of_probabilities(trained, arguments, weights):
    ensemble = trained.sequence.ensemble(**arguments)

    members = [oracles.softmax(logits) for logits in predicted_by(trained.sequence.models, trained.x)]
    expected = np.average(members, axis=0, weights=weights)
    actual = oracles.softmax(ensemble.predict(trained.x, verbose=0))
    np.testing.assert_allclose(actual, expected, atol=1e-6)  # computed in float32


@pytest.mark.one_backend
def test_the_ensemble_of_logits_is_their_average(trained):
    ensemble = trained.sequence.ensemble(average="logits")

    expected = np.mean(predicted_by(trained.sequence.models, trained.x), axis=0)
    np.testing.assert_allclose(ensemble.predict(trained.x, verbose=0), expected, atol=1e-5)  # logits of up to 10


def test_the_ensemble_is_compiled(trained):
    loss, accuracy = trained.sequence.ensemble().evaluate(trained.x_val, trained.y_val, verbose=0)

    assert accuracy == pytest.approx(trained.history.ensemble.accuracy, abs=1e-6)  # float32
    assert loss == pytest.approx(trained.history.ensemble.nll, rel=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"last": 0}, "`last` must be a whole number of at least 1, received: 0"),
        ({"last": -1}, "`last` must be a whole number of at least 1, received: -1"),
        ({"last": 1.5}, "`last` must be a whole number of at least 1, received: 1.5"),
        ({"last": 4}, "`last` must lie between 1 and 3, the models trained, received: 4"),
        ({"last": 2, "weights": [1, 2, 3]}, "one number for each of the 2 members"),
    ],
)
def test_an_impossible_ensemble_is_refused(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        trained.sequence.ensemble(**arguments)


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


def predicted_by(models, x, batch_size=96):
    # In the batches in which they were scored: in others the last bits differ on some processors.
    return [model.predict(x, batch_size=batch_size, verbose=0) for model in models]


@pytest.mark.parametrize(
    "form",
    [
        "tensor",
        *(pytest.param(f, marks=pytest.mark.one_backend) for f in ("whole", "column", "one-hot", "float", "list")),
    ],
)
def test_evaluate_scores_labels_of_every_form(trained, form):
    x, y = trained.x, trained.y
    labels = {
        "whole": y,
        "column": y[:, None],
        "one-hot": np.eye(CLASSES, dtype="float32")[y],
        "float": y.astype("float32"),
        "list": y.tolist(),
        "tensor": keras.ops.convert_to_tensor(y),
    }[form]

    history = trained.sequence.evaluate(x, labels, **BATCHES)

    assert_scored(history, [oracles.softmax(logits) for logits in predicted_by(trained.sequence.models, x)], y)


def test_fit_scores_the_validation_data_the_same_way(trained):
    probabilities = [oracles.softmax(logits) for logits in predicted_by(trained.sequence.models, trained.x_val)]

    assert_scored(trained.history, probabilities, trained.y_val)
    assert trained.history.data == "validation"


@pytest.mark.one_backend
def test_evaluate_keeps_the_choice_that_was_made_on_the_validation_data(trained):
    history = trained.sequence.evaluate(trained.x, trained.y, data="held-out")

    assert trained.history.best_generation == history.best_generation
    assert trained.history.records[1].metrics == history.records[1].metrics
    assert trained.history.records[1].scores != history.records[1].scores
    assert "Generations on held-out data (96 examples)" in history.summary()
    assert history is not trained.history is trained.sequence.history


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full(96, 7), r"cannot be scored on these data: .*labels must lie in \[0, 2\], but `y` holds 96 others"),
        (np.linspace(0, 1, 96), "cannot be scored on these data: .*wants labels as whole numbers"),
        (np.zeros((96, 2)), "cannot be scored on these data: .*wants labels as whole numbers"),
        (np.zeros(95, int), "the same number of examples"),
        ({"a": np.zeros(96)}, r"cannot be scored on these data: .*keys \['a'\], but the model .* has one output"),
        (None, "The data bring no labels: pass `y`"),
    ],
)
def test_evaluate_refuses_labels_that_it_cannot_score(trained, labels, message):
    with pytest.raises(ValueError, match=message):
        trained.sequence.evaluate(trained.x, labels)


@pytest.mark.one_backend
@pytest.mark.parametrize("from_logits", [True, False])
def test_binary_models_are_scored(from_logits, blobs):
    x, y = blobs[0], (blobs[1] == 1).astype("int32")
    activation = None if from_logits else "sigmoid"
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, activation=activation)])
    loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
    distillation_loss = KnowledgeDistillation(activation="sigmoid", from_logits=from_logits)
    sequence = compiled(model, loss=loss, distillation_loss=distillation_loss)

    history = sequence.fit(x, y[:, None], **FIT, validation_data=(x, y[:, None]))

    outputs = predicted_by(sequence.models, x)
    yes = [oracles.sigmoid(each) if from_logits else each.astype("float64") for each in outputs]
    assert_scored(history, [np.concatenate([1 - each, each], axis=-1) for each in yes], y)
    assert_scored(sequence.evaluate(x, y, **BATCHES), [np.concatenate([1 - each, each], axis=-1) for each in yes], y)
    ensemble = sequence.ensemble().predict(x, verbose=0)
    ensemble = oracles.sigmoid(ensemble) if from_logits else ensemble
    np.testing.assert_allclose(ensemble, np.mean(yes, axis=0), atol=1e-6)  # computed in float32


@pytest.mark.one_backend
@pytest.mark.parametrize("level", [40.0, 1000.0])
def test_a_confident_binary_model_is_scored_without_loss_of_digits(level):
    x, y = ZEROS[0], np.array([[1]] * 6 + [[0]] * 2)
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


@pytest.mark.one_backend
def test_models_that_end_in_a_softmax_are_scored(blobs):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=False)
    distillation_loss = KnowledgeDistillation(from_logits=False)
    sequence = compiled(classifier(activation="softmax"), loss=loss, distillation_loss=distillation_loss)

    history = sequence.fit(*blobs, **FIT, validation_data=blobs)

    probabilities = [each.astype("float64") for each in predicted_by(sequence.models, blobs[0])]
    assert_scored(history, probabilities, blobs[1])
    ensemble = sequence.ensemble().predict(blobs[0], verbose=0)
    np.testing.assert_allclose(ensemble, np.mean(probabilities, axis=0), atol=1e-6)  # computed in float32


@pytest.mark.one_backend
def test_one_hot_labels_train_and_are_scored(blobs):
    x, one_hot = blobs[0], np.eye(CLASSES, dtype="float32")[blobs[1]]
    sequence = compiled(loss=keras.losses.CategoricalCrossentropy(from_logits=True))

    history = sequence.fit(x, one_hot, **FIT, validation_data=(x, one_hot))

    assert_scored(history, [oracles.softmax(each) for each in predicted_by(sequence.models, x)], blobs[1])


@pytest.mark.one_backend
def test_regression_has_metrics_and_losses_as_scores():
    sequence = regression(constants([3.0, 1.0]), 1, metrics=["mae"], learning_rate=0.01)
    history = sequence.fit(*ZEROS, **FIT, validation_data=ZEROS)

    for record in [*history.records, history]:
        scores, metrics = (
            (record.ensemble, record.ensemble_metrics) if record is history else (record.scores, record.metrics)
        )
        assert scores.loss == pytest.approx(metrics["val_loss"], rel=1e-6)  # float32
    assert all({"val_loss", "val_mae"} == set(record.metrics) for record in history.records)
    assert "val_mae" in history.summary()
    ensemble = sequence.ensemble().predict(ZEROS[0], verbose=0)
    np.testing.assert_allclose(ensemble, np.mean(predicted_by(sequence.models, ZEROS[0]), axis=0), rtol=1e-6)


@pytest.mark.parametrize("one_for_each", [pytest.param(False, marks=pytest.mark.one_backend), True])
def test_models_with_several_outputs_train(blobs, one_for_each):
    x, y = blobs
    inputs = keras.Input((8,))
    outputs = {"kind": keras.layers.Dense(CLASSES)(inputs), "size": keras.layers.Dense(2)(inputs)}
    distillation_loss = {"kind": KnowledgeDistillation(), "size": KnowledgeDistillation(temperature=2.0)}
    labels = {"kind": y, "size": y % 2}
    sequence = compiled(
        keras.Model(inputs, outputs),
        loss={"kind": crossentropy(), "size": crossentropy()},
        metrics={"kind": ["accuracy"], "size": ["accuracy"]},
        distillation_loss=distillation_loss if one_for_each else None,
    )

    history = sequence.fit(x, labels, **FIT, validation_data=(x, labels), monitor="val_size_accuracy")

    assert all({"val_kind_accuracy", "val_size_accuracy", "val_loss"} <= set(r.metrics) for r in history.records)
    assert "val_kind_accuracy" in history.summary()
    members = predicted_by(sequence.models, x)
    ensemble = sequence.ensemble().predict(x, **BATCHES, verbose=0)
    for name in outputs:
        expected = np.mean([oracles.softmax(member[name]) for member in members], axis=0)
        np.testing.assert_allclose(oracles.softmax(ensemble[name]), expected, atol=1e-6)  # computed in float32
