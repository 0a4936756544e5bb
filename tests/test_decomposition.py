"""What the gradient is made of, against its definition and against the gradient that training has."""

import keras
import numpy as np
import oracles
import pytest
from helpers.data import random_logits
from helpers.models import assert_same, classifier, values
from helpers.tables import cases
from helpers.training import loss_and_gradient

import keras_ban
from keras_ban.losses import KnowledgeDistillation


def says(shape, scale=1.0):
    """A model whose outputs are its inputs, scaled."""
    return keras.Sequential([keras.Input(shape[1:]), keras.layers.Rescaling(scale)])


def parts_of(teacher, student, labels, from_logits=True, **arguments):
    model = says(student.shape)
    return keras_ban.gradient_decomposition(model, teacher, student, labels, from_logits=from_logits, **arguments)


def example(shape=(6, 5)):
    labels = np.random.default_rng(3).integers(0, shape[-1], shape[:-1])
    return random_logits(shape, 2, seed=1), random_logits(shape, 2, seed=2), labels


@cases("shape, temperature", ((2, 3, 4), 3.0), on_one_backend=[((6, 5), 1.0), ((6, 5), 3.0), ((2, 3, 4), 1.0)])
def test_the_parts_together_are_the_gradient_of_a_training_step(shape, temperature):
    teacher, student, labels = example(shape)
    _, expected = loss_and_gradient(KnowledgeDistillation(temperature, reduction=None), teacher, student)

    parts = parts_of(teacher, student, labels, temperature=temperature)

    whole = parts.dark_knowledge + np.eye(shape[-1])[labels] * parts.ground_truth[..., None]
    np.testing.assert_allclose(whole, expected, atol=2e-6)  # the step's float32
    assert shape[:-1] == parts.ground_truth.shape
    at_the_label = np.take_along_axis(parts.dark_knowledge, labels[..., None], axis=-1)
    np.testing.assert_array_equal(np.zeros_like(at_the_label), at_the_label)


@pytest.mark.one_backend
def test_the_parts_are_those_of_a_finite_difference():
    teacher, student, labels = example((3, 4))
    expected = oracles.finite_difference(lambda s: oracles.knowledge_distillation(teacher, s).sum(), student)

    parts = parts_of(teacher, student, labels)

    np.testing.assert_allclose(parts.ground_truth, expected[np.arange(3), labels], atol=1e-8)  # steps of 1e-5, squared
    others = np.arange(4) != labels[:, None]
    np.testing.assert_allclose(parts.dark_knowledge[others], expected[others], atol=1e-8)


@pytest.mark.one_backend
def test_the_sums_of_equation_7_cancel():
    parts = parts_of(*example())

    np.testing.assert_allclose(parts.dark_knowledge.sum(axis=-1), -parts.ground_truth, atol=1e-15)


@pytest.mark.one_backend
def test_norms_and_shares_are_those_of_their_definitions():
    parts = keras_ban.GradientDecomposition(
        np.array([3.0, 0.0, 0.0]), np.array([[0.0, 4.0, 0.0], [0.0, 6.0, 8.0], [0.0, 0.0, 0.0]])
    )

    np.testing.assert_array_equal([3, 0, 0], parts.ground_truth_norm)
    np.testing.assert_array_equal([4, 10, 0], parts.dark_knowledge_norm)
    np.testing.assert_array_equal([16 / 25, 1, np.nan], parts.dark_knowledge_share)
    assert 1.0 == parts.batch_ground_truth_norm
    np.testing.assert_allclose(parts.batch_dark_knowledge_norm, np.sqrt(116) / 3)
    np.testing.assert_allclose(parts.batch_dark_knowledge_share, 116 / 125)


@pytest.mark.one_backend
def test_a_teacher_that_knows_the_labels_alone_teaches_by_them_and_by_uniform_others():
    _, student, labels = example()
    teacher = np.where(np.eye(5)[labels] > 0, 100.0, 0.0)

    parts = parts_of(teacher, student, labels)

    # Eq. 6: the gradient of the labels' own cross-entropy.
    expected = oracles.softmax(student) - np.eye(5)[labels]
    np.testing.assert_allclose(parts.ground_truth, expected[np.arange(6), labels], atol=1e-12)
    np.testing.assert_allclose(parts.dark_knowledge, np.maximum(expected, 0), atol=1e-12)


@cases("given", "model", on_one_backend=["soft targets", "probabilities"])
def test_a_teacher_may_be_a_model_or_what_it_said(given):
    teacher, student, labels = example()
    expected = parts_of(teacher, student, labels)
    if given == "probabilities":
        probabilities = [oracles.softmax(logits) for logits in (teacher, student)]
        actual = parts_of(*probabilities, labels, from_logits=False)
    else:
        model = says(student.shape, -2.0)
        expected = parts_of(-2 * student, student, labels)
        actual = parts_of(
            model if given == "model" else keras_ban.SoftTargets.from_teacher(model, student, verbose=0),
            student,
            labels,
        )

    np.testing.assert_allclose(actual.ground_truth, expected.ground_truth, atol=1e-6)  # float32
    np.testing.assert_allclose(actual.dark_knowledge, expected.dark_knowledge, atol=1e-6)


def _softmax(logits):
    return keras.Sequential([logits, keras.layers.Softmax()])


@cases(
    "ends, given",
    (("logits", "softmax"), "model"),
    on_one_backend=[
        (("softmax", "softmax"), "model"),
        (("softmax", "logits"), "model"),
        (("softmax", "logits"), "soft targets"),
        (("logits", "softmax"), "soft targets"),
        (("softmax", "softmax"), "array"),
        (("a loss", "softmax"), "model"),
    ],
)
def test_what_each_model_gives_is_read(ends, given):
    x = random_logits((6, 4), 1, seed=0)
    dense = [keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)]) for _ in range(2)]
    student, teacher = (_softmax(model) if end == "softmax" else model for end, model in zip(ends, dense, strict=True))
    if ends[0] == "a loss":  # Its last layer tells nothing.
        student = keras.Sequential([_softmax(dense[0]), keras.layers.Rescaling(1.0)])
        student.compile(loss="sparse_categorical_crossentropy")
    if given != "model":
        teacher = keras_ban.SoftTargets.from_teacher(teacher, x, verbose=0)
        teacher = teacher.to_dense() if given == "array" else teacher
    labels = np.arange(6) % 5

    parts = keras_ban.gradient_decomposition(student, teacher, x, labels)

    q, p = (oracles.softmax(model.predict(x, verbose=0)) for model in dense)
    np.testing.assert_allclose(parts.ground_truth, (q - p)[np.arange(6), labels], atol=1e-6)  # float32


# `pytest.warns` raises Keras's own again, without the module that the exception in pyproject.toml asks for.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.one_backend
def test_models_that_tell_nothing_are_assumed_to_give_logits_with_a_warning():
    teacher, student, labels = example()

    with pytest.warns(UserWarning, match="the student is assumed to give logits") as caught:
        parts = parts_of(teacher, student, labels, from_logits="auto")

    assert [__file__] == [each.filename for each in caught if each.category is UserWarning]
    np.testing.assert_array_equal(parts_of(teacher, student, labels).ground_truth, parts.ground_truth)


@pytest.mark.one_backend
def test_a_sigmoid_or_a_softmax_over_another_axis_cannot_be_taken_apart():
    x = random_logits((6, 4), 1, seed=0)
    sigmoid = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, activation="sigmoid")])
    first = keras.Sequential([keras.Input((4,)), keras.layers.Reshape((2, 2)), keras.layers.Softmax(axis=1)])

    with pytest.raises(ValueError, match="gives probabilities of a sigmoid"):
        keras_ban.gradient_decomposition(sigmoid, x, x, np.arange(6) % 4)
    with pytest.raises(ValueError, match="a softmax over the last axis, the student's is over axis=1"):
        keras_ban.gradient_decomposition(first, x.reshape(6, 2, 2), x, np.zeros((6, 2), int))
    with pytest.raises(ValueError, match="`from_logits` must be True, False or 'auto'"):
        parts_of(x, x, np.arange(6) % 4, from_logits="no")


@pytest.mark.one_backend
def test_labels_come_in_every_form():
    teacher, student, labels = example()
    expected = parts_of(teacher, student, labels)

    for form in (labels[:, None], np.eye(5)[labels]):
        np.testing.assert_array_equal(expected.ground_truth, parts_of(teacher, student, form).ground_truth)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "labels, message",
    [
        (np.zeros(5, int), r"of shape \(6,\) or \(6, 1\), or be one-hot of shape \(6, 5\), received shape \(5,\)"),
        (np.full(6, 5), r"whole numbers in \[0, 4\] .* with values from 5 to 5"),
        (np.full(6, -1), r"whole numbers in \[0, 4\] .* with values from -1 to -1"),
        (np.array([0, 1, 2, 3, 4, 1.5]), r"whole numbers in \[0, 4\] of shape \(6,\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, message):
    teacher, student, _ = example()

    with pytest.raises(ValueError, match=message):
        parts_of(teacher, student, labels)


@pytest.mark.one_backend
def test_outputs_that_cannot_be_taken_apart_are_refused():
    teacher, student, labels = example()

    with pytest.raises(ValueError, match=r"shape \(6, 4\), the student's \(6, 5\)"):
        parts_of(teacher[:, :4], student, labels)
    with pytest.raises(ValueError, match=r"for one output `\(batch, ..., classes\)` of a softmax"):
        parts_of(teacher[:, :1], student[:, :1], labels)
    with pytest.raises(ValueError, match="The teacher gave logits, but from_logits=False"):
        targets = keras_ban.SoftTargets.from_teacher(says(student.shape), student, verbose=0)
        parts_of(targets, student, labels, from_logits=False)
    with pytest.raises(ValueError, match="Compute them again with `SoftTargets.from_teacher"):
        keras_ban.gradient_decomposition(says(student.shape), targets, student + 1, labels)
    with pytest.raises(TypeError, match="`student` must be a `keras.Model`"):
        keras_ban.gradient_decomposition(student, teacher, student, labels)


@pytest.mark.one_backend
def test_what_does_not_fit_leaves_both_models_with_their_weights():
    student, teacher = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
    before = [model.get_weights() for model in (student, teacher)]
    x, labels = np.zeros((6, 4), "float32"), np.zeros(6, "int64")

    for data in ({"x": x[:, :3]}, {"x": x, "teacher": keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])}):
        with pytest.raises(ValueError, match="does not fit the model"):
            keras_ban.gradient_decomposition(**{"student": student, "teacher": teacher, "y": labels, **data})

    for model, weights in zip((student, teacher), before, strict=True):
        for expected, actual in zip(weights, model.get_weights(), strict=True):
            np.testing.assert_array_equal(expected, actual)


def test_a_model_keeps_its_values_when_it_cannot_predict():
    teacher, _, labels = example()
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(5)])
    before = values(model)

    with pytest.raises(ValueError, match="`x`"):
        keras_ban.gradient_decomposition(model, teacher, np.ones((6, 7), "float32"), labels)

    assert_same(before, values(model))


@pytest.mark.one_backend
@pytest.mark.parametrize("loss", [keras.losses.BinaryCrossentropy(from_logits=True), "mse"])
def test_a_model_whose_compiled_loss_is_of_no_softmax_is_refused(loss):
    model = classifier()
    model.compile(loss=loss)
    x, y = np.zeros((2, 8), "float32"), np.arange(2)

    with pytest.raises(ValueError, match="for classifiers with a softmax, and the student is compiled with"):
        keras_ban.gradient_decomposition(model, classifier(), x, y)

    assert keras_ban.gradient_decomposition(model, classifier(), x, y, from_logits=True)
