"""Errors that the user's own code raises keep their type and message."""

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import classifier, crossentropy
from keras import layers

from keras_ban import BornAgainSequence, Distiller
from keras_ban.losses import KnowledgeDistillation

X, Y = make_blobs()
DISTILLATION = KnowledgeDistillation(from_logits=True)  # A loss of one's own does not say what outputs are.


class OwnError(RuntimeError):
    """Not known to Keras or keras_ban."""


def fail(*args, **kwargs):
    raise OwnError("of my own")


class Failing(layers.Layer):
    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)

    def call(self, inputs):
        fail()


class FailingLoss(keras.losses.Loss):
    def call(self, y_true, y_pred):
        fail()


class FailingMetric(keras.metrics.Mean):
    def update_state(self, *args, **kwargs):
        fail()


def distiller(student=None, loss=None, **options):
    made = Distiller(student=student or classifier(), teacher=classifier(), distillation_loss=DISTILLATION)
    made.compile("sgd", loss or crossentropy(), **options)
    return made


def sequence(student=None, loss=None, **options):
    made = BornAgainSequence(student or classifier(), generations=1, distillation_loss=DISTILLATION)
    made.compile("sgd", loss or crossentropy(), **options)
    return made


@pytest.mark.parametrize("make", [distiller, sequence])
@pytest.mark.parametrize("part", ["loss", "metrics"])
def test_an_error_of_a_loss_or_a_metric(make, part):
    options = {"loss": FailingLoss()} if part == "loss" else {"metrics": [FailingMetric(name="own")]}
    with pytest.raises(OwnError, match="of my own"):
        make(**options).fit(X, Y, verbose=0)


def test_an_error_of_a_layer():
    inputs = keras.Input((8,))
    student = keras.Model(inputs, layers.Dense(CLASSES)(Failing()(inputs)))
    with pytest.raises(OwnError, match="of my own"):
        distiller(student, run_eagerly=True).fit(X, Y, verbose=0)


@pytest.mark.one_backend
@pytest.mark.parametrize("arguments", [{"label_weight": fail}, {"epochs": fail}])
def test_an_error_of_a_function_of_the_generation(arguments):
    with pytest.raises(OwnError, match="of my own"):
        made = BornAgainSequence(classifier(), generations=1, **{k: v for k, v in arguments.items() if k != "epochs"})
        made.compile("sgd", crossentropy())
        made.fit(X, Y, verbose=0, **{k: v for k, v in arguments.items() if k == "epochs"})


@pytest.mark.one_backend
def test_an_error_of_a_schedule():
    with pytest.raises(OwnError, match="of my own"):
        Distiller(student=classifier(), teacher=classifier(), label_weight=fail)


@pytest.mark.one_backend
def test_data_that_do_not_fit_are_still_named():
    with pytest.raises(ValueError, match="`x`, of which a first batch is .* does not fit"):
        sequence().fit(np.ones((6, 5), "float32"), np.zeros(6, "int64"), verbose=0)
