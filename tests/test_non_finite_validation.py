"""Data whose inputs are NaN or infinite."""

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import assert_same, crossentropy

from keras_ban import BornAgainSequence, Distiller


def linear():
    """Without a relu, which TensorFlow takes from NaN to 0."""
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation="linear")])


def spoiled(x, value):
    x = x.copy()
    x[40, 2] = value
    return x


def sequence(**options):
    made = BornAgainSequence(linear(), generations=1, seed=0, **options)
    made.compile("sgd", crossentropy())
    return made


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (np.nan, "arrays"),
        *(
            pytest.param(*case, marks=pytest.mark.one_backend)
            for case in [(np.inf, "arrays"), (-np.inf, "PyDataset"), (np.nan, "PyDataset")]
        ),
    ],
)
@pytest.mark.parametrize("given", [False, pytest.param(True, marks=pytest.mark.one_backend)])
def test_a_sequence_stops_after_its_first_epoch_and_names_the_example(blobs, value, kind, given):
    x, y = blobs
    epochs = []
    note = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    validation = (spoiled(x, value), y) if kind == "arrays" else Batches(spoiled(x, value), y)
    place = "example 40" if kind == "arrays" else "batch 1"
    options = {"teacher": linear()} if given else {}
    with pytest.raises(FloatingPointError, match=f"validation loss is (nan|-?inf), and {place} of .* are NaN or inf"):
        sequence().fit(x, y, epochs=3, validation_data=validation, callbacks=[note], verbose=0, **options)

    assert len(epochs) <= 1


@pytest.mark.parametrize("value", [np.nan, pytest.param(np.inf, marks=pytest.mark.one_backend)])
@pytest.mark.parametrize("kind", ["arrays", pytest.param("PyDataset", marks=pytest.mark.one_backend)])
def test_a_generation_that_training_data_make_nan_names_the_example(blobs, value, kind):
    x, y = blobs
    data, place = (
        ((spoiled(x, value), y), "example 40") if kind == "arrays" else ((Batches(spoiled(x, value), y),), "batch 1")
    )
    with pytest.raises(FloatingPointError, match=f"^Generation 0 .* In the data, {place} of `x` .* replace the values"):
        sequence().fit(*data, epochs=2, verbose=0)


@pytest.mark.one_backend
def test_without_such_an_example_a_lower_learning_rate_is_advised(blobs):
    made = BornAgainSequence(linear(), generations=1)
    made.compile(keras.optimizers.SGD(1e38), "mse")
    with pytest.raises(FloatingPointError, match="Try a lower learning rate"):
        made.fit(blobs[0], np.eye(3)[blobs[1]], epochs=3, verbose=0)


def test_a_distiller_reports_nan_as_keras_does(blobs):
    x, y = blobs
    distiller = Distiller(student=linear(), teacher=linear())
    distiller.compile("sgd", crossentropy())
    logs = distiller.fit(x, y, validation_data=(spoiled(x, np.nan), y), verbose=0).history

    assert np.isnan(logs["val_loss"]).all()
    assert np.isfinite(logs["loss"]).all()


@keras.saving.register_keras_serializable(package="test_non_finite_validation")
class KnownNumbers(keras.layers.Layer):
    """NaN in inputs is meant: it becomes 0."""

    def call(self, x):
        return keras.ops.where(keras.ops.isnan(x), keras.ops.zeros_like(x), x)


@pytest.mark.one_backend
def test_nan_that_is_meant_is_measured(blobs):
    x, y = blobs
    model = keras.Sequential([keras.Input((8,)), KnownNumbers(), keras.layers.Dense(3, activation="linear")])
    metrics = []
    for validation in (spoiled(x, np.nan), spoiled(x, 0.0)):
        made = BornAgainSequence(model, generations=1, seed=0)
        made.compile("sgd", crossentropy())
        metrics.append(made.fit(x, y, validation_data=(validation, y), verbose=0).records[1].metrics["val_loss"])

    assert_same(*([each] for each in metrics))


@pytest.mark.one_backend
def test_outputs_that_are_not_finite_give_no_scores_and_a_note(blobs):
    x, y = blobs
    made = sequence()
    made.fit(x, y, verbose=0)
    scores = made.evaluate(spoiled(x, np.nan), y)

    assert any(
        "no scores: the outputs or the losses of 1 of 96 examples are NaN or infinite" in n for n in scores.notes
    )
