"""Students with steps of their own, which no Distiller calls, and with metrics that their `call` updates."""

import warnings
from contextlib import nullcontext

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import classifier, crossentropy
from keras import layers, ops

from keras_ban import BornAgainSequence, Distiller

X, Y = make_blobs()
ON_JAX = "jax" == keras.config.backend()
STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "get_metrics_result")


def functional(**methods):
    """A functional model of a class that has those methods."""
    inputs = keras.Input((8,))
    return type("Own", (keras.Model,), methods)(inputs, layers.Dense(CLASSES)(inputs))


@pytest.mark.one_backend
@pytest.mark.parametrize("name", STEPS)
def test_a_step_of_the_student_that_no_distiller_calls_is_warned_of(name):
    with pytest.warns(UserWarning, match=f"has `{name}` of its own, which no Distiller calls"):
        Distiller(student=functional(**{name: lambda self, *_: None}), teacher=classifier())


@pytest.mark.one_backend
def test_all_of_them_are_named_and_others_are_not():
    methods = {name: lambda self, *_: None for name in ("test_step", "compute_metrics", "train_step", "call_again")}
    with pytest.warns(UserWarning, match="has `train_step`, `test_step` and `compute_metrics` of its own"):
        Distiller(student=functional(**methods), teacher=classifier())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Distiller(student=functional(call_again=None), teacher=classifier())


def compile_with_two_losses(self, box_loss=None, class_loss=None, **arguments):
    keras.Model.compile(self, loss={"box": box_loss, "class": class_loss}, **arguments)


def compile_with_few_arguments(self, optimizer, loss_fn):
    keras.Model.compile(self, optimizer)


@pytest.mark.one_backend
@pytest.mark.parametrize("own", [compile_with_two_losses, compile_with_few_arguments])
def test_a_model_that_compiles_in_another_way_is_refused_by_a_sequence_before_training(own):
    sequence = BornAgainSequence(lambda generation: functional(compile=own))
    sequence.compile("sgd", crossentropy())
    with pytest.raises(ValueError, match=r"Own\) has its own `compile`, .* a subclass of `Distiller` that overrides"):
        sequence.fit(X, Y, verbose=0)


@keras.saving.register_keras_serializable(package="test_own_steps")
class Measuring(keras.Model):
    """Measures the mean of its outputs while it computes them, in itself and in a layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.top = layers.Dense(CLASSES)
        self.mean = keras.metrics.Mean(name="mean")
        self.inner = _Inner()

    def call(self, inputs):
        outputs = self.top(inputs)
        self.mean.update_state(ops.mean(outputs))
        return self.inner(outputs)


class _Inner(layers.Layer):
    def __init__(self):
        super().__init__()
        self.largest = keras.metrics.Mean(name="largest")

    def call(self, inputs):
        if ON_JAX:
            return inputs
        self.largest.update_state(ops.max(inputs))
        return inputs


@pytest.mark.parametrize("label_weight", [1.0, 0.5])
def test_a_metric_that_the_student_updates_in_its_call_is_reported(label_weight):
    student = Measuring()
    student(X[:1])
    with pytest.warns(UserWarning, match=r"the metrics \['mean'\].* not reported") if ON_JAX else nullcontext():
        distiller = Distiller(student=student, teacher=classifier(), label_weight=label_weight)
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy(), metrics=["accuracy"])
    outputs = X.astype("float64") @ student.top.kernel.numpy().astype("float64")
    batches = np.split(outputs, 3)
    expected = {"mean": np.mean(outputs), "largest": np.mean([batch.max() for batch in batches])}

    logs = distiller.fit(X, Y, batch_size=32, shuffle=False, epochs=2, verbose=0).history
    scores = distiller.evaluate(X, Y, batch_size=32, verbose=0, return_dict=True)

    if ON_JAX:  # As plain Keras, it cannot update metrics there, but it trains.
        assert {"loss", "accuracy", "largest"} == set(scores)
        return
    for name, value in expected.items():
        np.testing.assert_allclose(logs[name], [value] * 2, rtol=1e-5)
        np.testing.assert_allclose(scores[name], value, rtol=1e-5)
    assert {"loss", "accuracy", "mean", "largest"} == set(scores)


@pytest.mark.one_backend
def test_metrics_of_steps_that_are_not_called_are_not_reported():
    def train_step(self, *_):
        """Not called."""

    student = functional(train_step=train_step)
    student.tracker = keras.metrics.Mean(name="total_loss")
    with pytest.warns(UserWarning, match="of its own"):
        distiller = Distiller(student=student, teacher=classifier())
    distiller.compile("sgd", crossentropy())
    assert "total_loss" not in distiller.fit(X, Y, verbose=0).history
