"""Models that train by `add_loss` alone, without a compiled loss."""

import keras
import numpy as np
import pytest
from helpers.models import assert_same, values
from keras import layers, ops

from keras_ban import BornAgainSequence, Distiller, FeatureMatching
from keras_ban.losses import KnowledgeDistillation

RNG = np.random.default_rng(3)
X, Y = RNG.standard_normal((8, 4)).astype("float32"), RNG.integers(0, 3, 8)
KERNELS = [RNG.standard_normal((4, 3)).astype("float32") for _ in range(2)]
RATE = 0.1


@keras.saving.register_keras_serializable(package="test_add_loss")
class Activity(layers.Layer):
    """Adds half the mean square of its inputs to the loss."""

    def call(self, inputs):
        self.add_loss(ops.mean(ops.square(inputs)) / 2)
        return inputs


def model(which=0, activity=True, **dense):
    top = layers.Dense(3, use_bias=False, name="top", **dense)
    made = keras.Sequential([keras.Input((4,)), top, *([Activity()] if activity else [])])
    made.set_weights([KERNELS[which]])
    return made


def after_a_step(made, *data, **options):
    made.compile(keras.optimizers.SGD(RATE))
    logs = made.fit(*data, batch_size=8, shuffle=False, verbose=0, **options).history
    return logs, made.evaluate(*data, verbose=0, return_dict=True)


def expected(kernel, teacher=None):
    """The kernel after a step, in float64; a teacher adds the mean squared difference."""
    kernel, x = kernel.astype("float64"), X.astype("float64")
    gradient = x.T @ (x @ kernel) / 24
    return kernel - RATE * (gradient if teacher is None else gradient + 2 * x.T @ (x @ (kernel - teacher)) / 24)


@pytest.mark.parametrize("data", [(X,), (X, Y)], ids=["x", "x-y"])
def test_a_student_without_a_teacher_trains_as_plain_keras_trains_it(data):
    plain, student = model(), model()
    wanted = after_a_step(plain, *data)
    logs, scores = after_a_step(Distiller(student=student, label_weight=1), *data)

    np.testing.assert_allclose(student.get_weights()[0], expected(KERNELS[0]), rtol=1e-5, atol=1e-6)
    assert_same(values(plain), values(student))
    assert (logs, scores) == wanted


@keras.saving.register_keras_serializable(package="test_add_loss")
class Coder(keras.Model):
    """Its `call` has no argument `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)

    def call(self, inputs):
        outputs = self.dense(inputs)
        self.add_loss(ops.mean(ops.square(outputs - inputs)))
        return outputs


@pytest.mark.parametrize(
    "validation", [{"validation_data": (X[6:],)}, {"validation_split": 0.25}], ids=["data", "split"]
)
def test_a_subclassed_model_trains_and_is_validated_by_its_own_loss(validation):
    teacher, loss = Coder(), keras.losses.MeanSquaredError()
    teacher(X)
    distiller = Distiller(student=Coder(), teacher=teacher, label_weight=0, distillation_loss=loss)
    sequence = BornAgainSequence(lambda _: Coder(), 1, label_weight=0, distillation_loss=loss, seed=0)
    for each in (distiller, sequence):
        each.compile(keras.optimizers.SGD(RATE))
        each.fit(X if "validation_split" in validation else X[:6], verbose=0, **validation)

    for record, one in zip(sequence.history.records, sequence.models, strict=True):
        wanted = np.mean(np.square(one.predict(X[6:], verbose=0) - X[6:], dtype="float64"))
        np.testing.assert_allclose(record.metrics["val_loss"], wanted, rtol=1e-5)
    wanted = np.mean(np.square(distiller.predict(X[6:], verbose=0) - X[6:], dtype="float64"))
    np.testing.assert_allclose(distiller.history.history["val_loss"], [wanted], rtol=1e-5)


def test_a_teacher_adds_its_loss():
    student = model()
    distiller = Distiller(
        student=student, teacher=model(1), label_weight=0, distillation_loss=keras.losses.MeanSquaredError()
    )
    logs, scores = after_a_step(distiller, X)
    wanted = expected(KERNELS[0], KERNELS[1].astype("float64"))
    np.testing.assert_allclose(student.get_weights()[0], wanted, rtol=1e-5, atol=1e-6)
    assert ({"loss", "distillation_loss"}, {"loss"}) == (set(logs), set(scores))


def test_without_a_label_loss_features_alone_teach():
    student, matching = model(activity=False), FeatureMatching(["top"])
    distiller = Distiller(student=student, teacher=model(1, activity=False), label_weight=1, feature_matching=matching)
    distiller.compile(keras.optimizers.SGD(RATE))
    logs = distiller.fit(X, batch_size=8, verbose=0).history
    x, difference = X.astype("float64"), KERNELS[0].astype("float64") - KERNELS[1]
    wanted = KERNELS[0] - RATE * 2 * x.T @ (x @ difference) / 24
    np.testing.assert_allclose(student.get_weights()[0], wanted, rtol=1e-5, atol=1e-6)
    assert {"loss", "feature_loss"} == set(logs)


def test_what_has_no_loss_is_not_evaluated():
    """It would be 0 in all epochs, and `EarlyStopping` would act on it. Plain Keras refuses it too, except on JAX."""
    student, started = model(activity=False), []
    kind = KnowledgeDistillation(from_logits=True)  # Nothing says what the outputs are.
    distiller = Distiller(student=student, teacher=model(1, activity=False), distillation_loss=kind, label_weight=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    wanted = distiller.evaluate(X, Y, verbose=0, return_dict=True)
    distiller.compile(keras.optimizers.SGD(RATE), metrics=["accuracy"])
    spy = keras.callbacks.LambdaCallback(on_train_begin=started.append)

    for options in ({"validation_data": (X, Y)}, {"validation_data": (X,)}, {"validation_split": 0.5}):
        with pytest.raises(ValueError, match="`compile` got no `loss`.* Pass one: with `label_weight=0`"):
            distiller.fit(X, Y, verbose=0, callbacks=[spy], **options)
    for evaluate in (distiller.evaluate, distiller.test_on_batch):
        with pytest.raises(ValueError, match="`compile` got no `loss`"):
            evaluate(X, Y)

    assert [] == started
    distiller.compile(keras.optimizers.SGD(RATE), loss, metrics=["accuracy"])
    assert wanted == distiller.evaluate(X, Y, verbose=0, return_dict=True)


def test_a_distiller_that_is_compiled_again_forgets_its_label_loss():
    student = model()
    distiller = Distiller(student=student, label_weight=1)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    logs, _ = after_a_step(distiller, X, Y)
    np.testing.assert_allclose(student.get_weights()[0], expected(KERNELS[0]), rtol=1e-5, atol=1e-6)
    assert {"loss"} == set(logs)


def test_generations_train_by_their_own_loss():
    loss = KnowledgeDistillation(from_logits=True)  # Nothing says what the outputs are.
    arguments = {"label_weight": 0, "distillation_loss": loss, "initial_weights": "model", "seed": 0}
    sequence = BornAgainSequence(model(), generations=1, **arguments)
    sequence.compile(keras.optimizers.SGD(RATE))
    sequence.fit(X, batch_size=8, verbose=0, validation_data=(X,))
    first, second = (made.get_weights()[0] for made in sequence.models)
    np.testing.assert_allclose(first, expected(KERNELS[0]), rtol=1e-5, atol=1e-6)
    # The student starts as generation 0 did. The gradient of the divergence of their outputs is added.
    x = X.astype("float64")
    p, q = (np.exp(x @ kernel) / np.exp(x @ kernel).sum(-1, keepdims=True) for kernel in (first, KERNELS[0]))
    wanted = expected(KERNELS[0]) - RATE * x.T @ (q - p) / 8
    np.testing.assert_allclose(second, wanted, rtol=1e-4, atol=1e-5)
    assert all(record.metrics["val_loss"] > 0 for record in sequence.history.records)


@pytest.mark.parametrize("regularizer", [None, "l2"])
def test_a_student_that_has_no_loss_at_all_is_refused(regularizer):
    student = model(activity=False, kernel_regularizer=regularizer)
    distiller = Distiller(student=student, label_weight=1)
    distiller.compile("sgd")
    before = values(student)
    with pytest.raises(ValueError, match="nothing to train on: `compile` got no `loss`"):
        distiller.fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="nothing to train on: `compile` got no `loss`"):
        distiller.train_on_batch(X, Y)
    assert_same(before, values(student))
    sequence = BornAgainSequence(
        student, generations=1, label_weight=0, distillation_loss=KnowledgeDistillation(from_logits=True)
    )
    sequence.compile("sgd")
    with pytest.raises(ValueError, match="nothing to train on: `compile` got no `loss`"):
        sequence.fit(X, Y, verbose=0)


@pytest.mark.one_backend
@pytest.mark.parametrize("label_weight", [0.5, keras.optimizers.schedules.CosineDecay(1.0, 5)])
def test_labels_that_are_weighed_against_a_teacher_need_a_loss(label_weight):
    with pytest.raises(ValueError, match="`compile` needs a `loss` for the labels"):
        Distiller(student=model(), teacher=model(1), label_weight=label_weight).compile("sgd")
    if not callable(label_weight):
        with pytest.raises(ValueError, match="needs a `loss` for the labels"):
            BornAgainSequence(model(), label_weight=[0.0, 0.0, 0.5]).compile("sgd")


@pytest.mark.one_backend
def test_a_sequence_needs_an_optimizer():
    with pytest.raises(ValueError, match="`compile` needs an `optimizer`, received None"):
        BornAgainSequence(model()).compile(None, "mse")
