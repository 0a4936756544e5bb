"""Label loss and distillation loss from one softmax: the two losses, one after the other, are the oracle."""

import keras
import numpy as np
import oracles
import pytest
from helpers.data import random_logits
from helpers.tables import cases
from helpers.training import loss_and_gradient
from keras import ops

import keras_ban
from keras_ban._src import backend
from keras_ban._src.distillation.step import TermMean
from keras_ban.losses import KnowledgeDistillation

CROSSENTROPY = keras.losses.SparseCategoricalCrossentropy


def weighed(labels, label_weight=0.3):
    """A loss of `(teacher, student)`: the means of both losses, mixed."""

    def loss(teacher, student):
        given = (ops.convert_to_tensor(each) for each in (labels, teacher))
        label, distillation = backend.crossentropy_and_divergence(*given, student)
        return label_weight * label + (1 - label_weight) * distillation

    return loss


def mixed_oracle(labels, teacher, student, label_weight=0.3):
    """The mean of the values of all examples, and its gradient, in float64."""
    label = np.eye(student.shape[-1])[labels]
    crossentropy = -np.take_along_axis(oracles.log_softmax(student), labels[..., None], -1)[..., 0]
    value = label_weight * crossentropy + (1 - label_weight) * oracles.knowledge_distillation(teacher, student)
    target = label_weight * label + (1 - label_weight) * oracles.softmax(teacher)
    return value.mean(), (oracles.softmax(student) - target) / labels.size


@cases("shape, scale", *[((8, 5), 3), ((4, 3, 50), 20)], on_one_backend=[((64, 1000), 5), ((16, 2), 50)])
def test_both_terms_and_their_gradient_are_those_of_one_crossentropy_with_a_mixed_target(shape, scale):
    teacher, student = random_logits(shape, scale, seed=1), random_logits(shape, scale, seed=2)
    labels = np.random.default_rng(3).integers(0, shape[-1], shape[:-1]).astype("int32")

    value, gradient = loss_and_gradient(weighed(labels), teacher, student)

    expected, expected_gradient = mixed_oracle(labels, teacher, student)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6 / labels.size)


@pytest.mark.parametrize("distance", [0.0, 1e-3, 0.1])
def test_a_student_close_to_its_teacher_reports_its_divergence(distance):
    teacher = random_logits((64, 100), 3, seed=1)
    student = teacher + distance * random_logits((64, 100), 1, seed=2)
    labels = np.zeros(64, "int32")

    value, _ = loss_and_gradient(weighed(labels, 0.0), teacher, student)

    expected = oracles.knowledge_distillation(teacher, student).mean()
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-8)  # Roundings of single examples cancel.
    assert distance > 0 or value == 0


def test_classes_that_are_masked_out_count_as_in_the_two_losses():
    teacher, student = random_logits((4, 5), 2, seed=1), random_logits((4, 5), 2, seed=2)
    teacher[:2, 2], student[1:3, 2] = -np.inf, -np.inf  # In turn: the teacher's, both, the student's, none.
    labels = np.zeros(4, "int32")

    value, gradient = loss_and_gradient(weighed(labels), teacher, student)

    # The divergence is about 1e29 where the teacher has a class that the student masks out.
    expected, expected_gradient = mixed_oracle(labels, np.maximum(teacher, -1e30), np.maximum(student, -1e30))
    np.testing.assert_allclose(value, expected, rtol=2e-6)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
    teacher, student, labels = teacher[[0, 1, 3]], student[[0, 1, 3]], labels[:3]
    value, _ = loss_and_gradient(weighed(labels), teacher, student)
    np.testing.assert_allclose(value, mixed_oracle(labels, *np.maximum([teacher, student], -1e30))[0], rtol=2e-6)


def test_a_label_outside_of_the_classes_is_treated_as_in_keras():
    logits = random_logits((3, 5), 2, seed=1)

    def outcome(loss):
        try:
            return loss_and_gradient(loss, logits, logits)
        except Exception as error:
            return type(error), None

    for label in (-1, 7):
        labels = np.array([0, label, 1], "int32")
        value, gradient = outcome(weighed(labels, 1.0))
        expected, expected_gradient = outcome(lambda _, student, y=labels: CROSSENTROPY(from_logits=True)(y, student))
        if keras.config.backend() == "jax":
            np.testing.assert_allclose(value, expected, rtol=1e-6)
            np.testing.assert_allclose(gradient, expected_gradient, atol=1e-6)
        elif keras.config.backend() == "torch":
            assert isinstance(expected, type) and isinstance(value, type)  # Both raise an error.
        else:  # Keras raises an error on a CPU, and returns NaN where a step is compiled.
            assert np.isnan(value)


def student_and_targets(masks=False, tokens=False):
    """`(student, x, y, soft targets)`: a linear student, or one of tokens of which 0 is padding."""
    rng = np.random.default_rng(0)
    if not tokens:
        student = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
        return (
            student,
            rng.standard_normal((12, 6)).astype("float32"),
            rng.integers(0, 4, 12),
            random_logits((12, 4), 3),
        )
    embedding = keras.layers.Embedding(7, 6, mask_zero=masks)
    student = keras.Sequential([keras.Input((5,), dtype="int32"), embedding, keras.layers.Dense(4)])
    x = rng.integers(0, 7, (12, 5)).astype("int32")
    return student, x, rng.integers(0, 4, (12, 5)), random_logits((12, 5, 4), 3)


WEIGHTS = np.linspace(0, 2, 12).astype("float32")


def trained(distiller_class, label_shape, loss, label_loss, sample_weight=None, **kind):
    """`(weights, history)` after two epochs of SGD."""
    keras.utils.set_random_seed(1)
    student, x, y, soft_targets = student_and_targets(**kind)
    distiller = distiller_class(student=student, distillation_loss=loss, label_weight=0.3)
    distiller.compile(keras.optimizers.SGD(0.1), label_loss, metrics=["accuracy"])
    y = {"labels": y.reshape(label_shape(y.shape)), "soft_targets": soft_targets}
    history = distiller.fit(x, y, sample_weight=sample_weight, batch_size=5, epochs=2, shuffle=False, verbose=0).history
    return student.get_weights(), history


class Apart(keras_ban.Distiller):
    """Computes the label loss by itself, so that it cannot share a softmax."""

    def compute_label_loss(self, x, y, y_pred, sample_weight, training):
        return CROSSENTROPY(from_logits=True)(y, y_pred, sample_weight)


@cases(
    "kind, label_shape, sample_weight",
    *[({}, lambda shape: shape, WEIGHTS), ({"tokens": True, "masks": True}, lambda shape: shape, None)],
    on_one_backend=[
        ({}, lambda shape: (*shape, 1), None),
        ({}, lambda shape: shape, WEIGHTS[:, None]),
        ({"tokens": True}, lambda shape: (*shape, 1), None),
        ({"tokens": True, "masks": True}, lambda shape: shape, WEIGHTS[:, None] * np.ones((1, 5), "float32")),
    ],
)
def test_training_is_that_of_the_two_losses(kind, label_shape, sample_weight):
    options = (label_shape, KnowledgeDistillation(), CROSSENTROPY(from_logits=True), sample_weight)
    weights, history = trained(keras_ban.Distiller, *options, **kind)

    expected, expected_history = trained(Apart, *options, **kind)
    for one, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert set(expected_history) == set(history)
    for name, values in expected_history.items():
        np.testing.assert_allclose(history[name], values, rtol=2e-6, err_msg=name)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "loss, label_loss, shares",
    [
        (KnowledgeDistillation(), CROSSENTROPY(from_logits=True), True),
        (None, CROSSENTROPY(from_logits=True), True),
        (KnowledgeDistillation(temperature=2.0), CROSSENTROPY(from_logits=True), False),
        (KnowledgeDistillation(temperature=lambda step: 1.0), CROSSENTROPY(from_logits=True), False),
        (KnowledgeDistillation(standardize=True), CROSSENTROPY(from_logits=True), False),
        (KnowledgeDistillation(reduction="sum"), CROSSENTROPY(from_logits=True), False),
        (KnowledgeDistillation(), CROSSENTROPY(from_logits=True, reduction="sum"), False),
        (KnowledgeDistillation(), CROSSENTROPY(from_logits=True, ignore_class=3), False),
        (KnowledgeDistillation(), CROSSENTROPY(from_logits=True, dtype="bfloat16"), False),
        (keras_ban.losses.ConfidenceWeighted(), CROSSENTROPY(from_logits=True), False),
    ],
)
def test_only_losses_of_one_softmax_share_it(monkeypatch, loss, label_loss, shares):
    calls = []
    together = backend.crossentropy_and_divergence
    monkeypatch.setattr(backend, "crossentropy_and_divergence", lambda *args: calls.append(1) or together(*args))

    trained(keras_ban.Distiller, lambda shape: shape, loss, label_loss)

    assert shares == bool(calls)


def test_the_mean_of_a_term_is_that_of_keras():
    ours, theirs = TermMean(name="term"), keras.metrics.Mean(name="term")
    assert 0.0 == float(ours.result())
    for value, weight in [(1.5, 3), (ops.convert_to_tensor(0.1), 7), (ops.convert_to_tensor(2.0), ops.sum([1.0, 0.5]))]:
        ours.update_state(value, sample_weight=weight)
        theirs.update_state(value, sample_weight=weight)

    assert float(theirs.result()) == float(ours.result())
    ours.reset_state()
    assert 0.0 == float(ours.result())
    ours.update_state(np.float32("nan"))
    assert np.isnan(float(ours.result()))
