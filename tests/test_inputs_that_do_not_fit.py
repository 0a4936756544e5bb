"""Data that models cannot take, wherever they predict, are scored or are fitted: an error names the argument."""

import keras
import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.models import classifier, crossentropy

from keras_ban import BornAgainSequence, Distiller, EnsembleModel

X, Y = make_blobs()
OTHERS = make_blobs(seed=2)


def ensemble():
    made = EnsembleModel([classifier(), classifier()], from_logits=True)
    made.compile(loss=crossentropy(), metrics=["accuracy"])
    return made


def distiller():
    made = Distiller(student=classifier(), teacher=classifier())
    made.compile("sgd", crossentropy())
    return made


@pytest.fixture(scope="module")
def sequence():
    made = BornAgainSequence(classifier(), generations=1)
    made.compile("sgd", crossentropy())
    made.fit(X, Y, verbose=0)
    return made


class Singles(Batches):
    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


WRONG = {
    # The data, and what is said of them.
    "columns": (lambda: (X[:, :4], Y), r"`x`, of which a first batch is float32\(32, 4\), does not fit the model '"),
    "one column": (lambda: (X[:, 0], Y), r"`x`, of which a first batch is float32\(32,\), does not fit the model '"),
    "batches": (lambda: (Batches(X[:, :4], Y),), r"`x`, of which a first batch is float32\(32, 4\), does not fit the"),
    "single examples": (lambda: (Singles(X, Y),), "`x` must yield batches, it yields single examples"),
}
USES = {
    "EnsembleModel.predict": lambda *data: ensemble().predict(data[0], verbose=0),
    "EnsembleModel.evaluate": lambda *data: ensemble().evaluate(*data, verbose=0),
    "EnsembleModel.calibrate": lambda *data: ensemble().calibrate(*data),
    "EnsembleModel.fit_weights": lambda *data: ensemble().fit_weights(*data),
    "EnsembleModel.soften": lambda *data: ensemble().soften(*data, validation_data=OTHERS),
    "Distiller.predict": lambda *data: distiller().predict(data[0], verbose=0),
    "Distiller.evaluate": lambda *data: distiller().evaluate(*data, verbose=0),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("use", USES)
def test_data_that_no_member_takes_are_named(use, wrong):
    build, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        USES[use](*build())


@pytest.mark.parametrize("wrong", ["columns", "batches", "single examples"])
def test_data_that_no_generation_takes_are_named(wrong, sequence):
    build, message = WRONG[wrong]
    with pytest.raises((ValueError, TypeError), match=message):
        sequence.evaluate(*build())


@pytest.mark.one_backend
def test_validation_data_are_named_too():
    with pytest.raises(ValueError, match=r"`validation_data\[0\]`, of which a first batch is float32\(32, 4\)"):
        ensemble().soften(X, Y, validation_data=(X[:, :4], Y))


@pytest.mark.parametrize("make", [ensemble, distiller])
def test_labels_that_cannot_be_evaluated_are_refused_with_what_to_do(make):
    with pytest.raises(ValueError, match="They look one-hot: use `CategoricalCrossentropy`"):
        make().evaluate(X, np.eye(3, dtype="int64")[Y], verbose=0)
    if keras.config.backend() == "torch":  # The others do not see it.
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\]"):
            make().evaluate(X, Y + 1, verbose=0)
    with pytest.raises(ValueError, match=r"np\.unique\(y, return_inverse=True\)"):
        make().evaluate(X, np.array(["cat", "dog", "owl"])[Y], verbose=0)


def test_inputs_that_are_nan_are_named():
    keras.utils.set_random_seed(0)
    made = BornAgainSequence(keras.Sequential([keras.Input((8,)), keras.layers.Dense(1, activation="sigmoid")]))
    made.compile("sgd", "binary_crossentropy")
    x = X.copy()
    x[3, 2] = np.nan
    # On torch, this loss of Keras fails before the first step.
    with pytest.raises((ValueError, FloatingPointError), match=r"(?s)(NaN.* example 3|example 3.* NaN)"):
        made.fit(x, Y // 2, verbose=0)


class NaNAsZero(keras.layers.Layer):
    def call(self, inputs):
        return keras.ops.where(keras.ops.isnan(inputs), 0.0, inputs)


def test_nan_that_a_model_takes_does_not_hide_what_is_wrong():
    made = BornAgainSequence(keras.Sequential([keras.Input((8,)), NaNAsZero(), keras.layers.Dense(3)]))
    made.compile("sgd", crossentropy())
    x = X.copy()
    x[3, 2] = np.nan
    with pytest.raises(ValueError, match="`y`, of which a first batch is .* does not fit the loss"):
        made.fit(x, np.zeros((len(x), 5, 2)), verbose=0)


@pytest.mark.parametrize("make", [BornAgainSequence, lambda model: Distiller(student=model, teacher=classifier())])
def test_texts_that_no_layer_takes_are_named(make):
    made, texts = make(classifier()), np.array(["a text", "another"] * 48)
    made.compile("sgd", crossentropy())
    under_tensorflow = keras.config.backend() == "tensorflow"
    with pytest.raises(ValueError, match="does not fit the model" if under_tensorflow else "holds texts, which layers"):
        made.fit(texts, Y, verbose=0)


class OwnError(RuntimeError):
    pass


class Failing(keras.layers.Layer):
    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs):
        raise OwnError("of my own")


def test_an_error_of_a_layer_stays_as_it_is():
    inputs = keras.Input((8,))
    model = keras.Model(inputs, keras.layers.Dense(3)(Failing()(inputs)))
    with pytest.raises(OwnError, match="of my own"):
        EnsembleModel([model], from_logits=True).calibrate(X, Y)
    with pytest.raises(OwnError, match="of my own"):
        EnsembleModel([model], from_logits=True).predict(X, verbose=0)
