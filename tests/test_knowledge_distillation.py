"""`KnowledgeDistillation`: its value and gradient, its limits, and what it refuses."""

import itertools

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, random_logits
from helpers.tables import cases
from helpers.training import loss_and_gradient
from keras import ops

from keras_ban.losses import KnowledgeDistillation


def per_example(**arguments):
    return KnowledgeDistillation(reduction=None, **arguments)


def pair(shape, scale):
    """`(teacher, student)`: different logits."""
    return random_logits(shape, scale, seed=1), random_logits(shape, scale, seed=2)


@cases(
    "classes, scale, temperature",
    *[(7, 50, 0.7), (30, 5, 4.0)],
    on_one_backend=itertools.product([2, 3, 10, 100, 1000], [1, 5, 50], [0.5, 1.0, 4.0, 20.0]),
)
def test_value_and_gradient_are_those_of_the_float64_oracle(classes, scale, temperature):
    teacher, student = pair((64, classes), scale)

    value, gradient = loss_and_gradient(per_example(temperature=temperature), teacher, student)

    expected = oracles.knowledge_distillation(teacher, student, temperature)
    # Where teacher and student agree almost to certainty, the value hangs on differences of logits that float32 cannot
    # hold: there, 5e-6 of the batch's mean is asked for, else 5e-6 of the value itself.
    np.testing.assert_allclose(value, expected, rtol=5e-6, atol=5e-6 * expected.mean())
    expected_gradient = oracles.knowledge_distillation_gradient(teacher, student, temperature)
    np.testing.assert_allclose(gradient, expected_gradient, atol=5e-6 * temperature)


@cases("shape", (4, 5, CLASSES), on_one_backend=[(16, CLASSES), (2, 3, 4, CLASSES)])
def test_classes_are_on_the_last_axis(shape):
    teacher, student = pair(shape, 3)

    value, gradient = loss_and_gradient(per_example(temperature=2.0), teacher, student)

    assert shape[:-1] == value.shape
    np.testing.assert_allclose(value, oracles.knowledge_distillation(teacher, student, 2.0), rtol=5e-6)
    expected_gradient = oracles.knowledge_distillation_gradient(teacher, student, 2.0)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)  # float32's 6e-8, times a few dozen roundings


def test_a_student_close_to_its_teacher_keeps_its_digits():
    teacher = random_logits((64, 100), 3, seed=1)
    student = teacher + random_logits((64, 100), 1e-3, seed=2)

    value, gradient = loss_and_gradient(per_example(), teacher, student)

    np.testing.assert_allclose(value, oracles.knowledge_distillation(teacher, student), rtol=5e-6)
    expected_gradient = oracles.knowledge_distillation_gradient(teacher, student)
    np.testing.assert_allclose(gradient, expected_gradient, atol=5e-6 * np.abs(expected_gradient).max())


@cases(
    "masked, whose",
    *[(-np.inf, "teacher"), (-np.inf, "student")],
    on_one_backend=itertools.product([-65504.0, -1e9], ["teacher", "student"]),
)
def test_a_class_that_one_of_the_two_masks_out_counts_as_the_other_says(masked, whose):
    masking, other = pair((16, 5), 2)
    masking[:, 2] = masked
    teacher, student = (masking, other) if whose == "teacher" else (other, masking)

    value, gradient = loss_and_gradient(per_example(), teacher, student)

    p, q = oracles.softmax(teacher), oracles.softmax(student)
    if whose == "teacher":
        expected = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(q)), 0.0).sum(axis=-1)
    else:  # p * 1e30 where -inf stands for -1e30
        expected = oracles.knowledge_distillation(teacher, np.maximum(student, -1e30))
    np.testing.assert_allclose(value, expected, rtol=5e-6)
    np.testing.assert_allclose(gradient, q - p, atol=1e-6)


def test_classes_that_both_mask_out_teach_nothing():
    teacher, student = np.array([[1.0, 2.0, -np.inf]], "float32"), np.array([[2.0, 1.0, -np.inf]], "float32")

    value, gradient = loss_and_gradient(per_example(), teacher, student)

    np.testing.assert_allclose(value, oracles.knowledge_distillation(teacher[:, :2], student[:, :2]), rtol=5e-6)
    assert 0.0 == gradient[0, 2]
    assert np.isfinite(gradient).all()


def test_the_gradient_can_be_differentiated_again():
    teacher, start = random_logits((3, 4), 2, seed=1), random_logits((3, 4), 1, seed=2)

    def of_gradient(weights):
        """The square of the gradient with respect to `weights`, of a student whose logits are `tanh(weights)`."""
        q, p = oracles.softmax(np.tanh(weights)), oracles.softmax(teacher)
        return float((((q - p) * (1 - np.tanh(weights) ** 2)) ** 2).sum())

    expected = oracles.finite_difference(of_gradient, start)
    loss = per_example()

    backend, weights = keras.config.backend(), ops.convert_to_tensor(start)
    if backend == "jax":
        import jax

        first = jax.grad(lambda w: ops.sum(loss(teacher, ops.tanh(w))))
        actual = jax.jit(jax.grad(lambda w: ops.sum(first(w) ** 2)))(weights)
    elif backend == "torch":
        import torch

        weights = weights.clone().requires_grad_(True)
        (first,) = torch.autograd.grad(ops.sum(loss(teacher, ops.tanh(weights))), weights, create_graph=True)
        (actual,) = torch.autograd.grad(ops.sum(first**2), weights)
    else:
        import tensorflow as tf

        with tf.GradientTape() as outer:
            outer.watch(weights)
            with tf.GradientTape() as inner:
                inner.watch(weights)
                value = ops.sum(loss(teacher, ops.tanh(weights)))
            squares = ops.sum(inner.gradient(value, weights) ** 2)
        actual = outer.gradient(squares, weights)

    np.testing.assert_allclose(ops.convert_to_numpy(actual), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(keras.config.backend() != "jax", reason="of JAX's own transformations")
def test_jax_differentiates_the_loss_through_functions_of_the_users():
    import jax

    teacher, student = (ops.convert_to_tensor(logits) for logits in pair((4, 5), 2))
    loss = per_example()
    _, expected = loss_and_gradient(loss, teacher, student)

    def total(teacher, student):
        return ops.sum(loss(teacher, student))

    for gradient in (jax.grad(jax.jit(total), argnums=1), jax.jit(jax.grad(jax.checkpoint(total), argnums=1))):
        np.testing.assert_allclose(gradient(teacher, student), expected, atol=1e-6)


@cases("temperature", 20.0, on_one_backend=[0.5, 1.0])
def test_a_student_that_equals_its_teacher_has_exactly_no_loss(temperature):
    logits = random_logits((32, 50), 10)
    model = keras.Sequential([keras.Input((50,)), keras.layers.Identity()])
    model.compile(loss=KnowledgeDistillation(temperature=temperature))

    value, gradient = loss_and_gradient(per_example(temperature=temperature), logits, logits)

    assert 0.0 == model.evaluate(logits, logits, verbose=0)
    assert (value == 0).all()
    # XLA may compile the two softmaxes differently, to within a last bit of probabilities of at most 1.
    np.testing.assert_allclose(gradient, np.zeros_like(logits), atol=1.2e-7 * temperature)


@pytest.mark.one_backend
def test_a_constant_added_to_all_logits_changes_nothing():
    teacher, student = pair((16, 10), 3)

    value = per_example()(teacher + 100.0, student - 50.0)

    # A logit of 100 keeps 7e-6 of absolute precision in float32.
    np.testing.assert_allclose(ops.convert_to_numpy(value), oracles.knowledge_distillation(teacher, student), rtol=1e-4)


@cases(
    "policy, temperature",
    *[("float32", 0.5), ("mixed_bfloat16", 1.0), ("mixed_float16", 20.0)],
    on_one_backend=[
        *[("float32", 1.0), ("float32", 20.0), ("mixed_bfloat16", 0.5), ("mixed_bfloat16", 20.0)],
        *[("mixed_float16", 0.5), ("mixed_float16", 1.0)],
    ],
)
def test_opposed_logits_of_ten_thousand_have_a_finite_loss_and_gradient(policy, temperature):
    keras.config.set_dtype_policy(policy)
    dtype = keras.config.dtype_policy().compute_dtype
    teacher = ops.cast(np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], "float32"), dtype)

    value, gradient = loss_and_gradient(per_example(temperature=temperature), teacher, -teacher)

    assert value.dtype == "float32"
    rounded = np.asarray(ops.convert_to_numpy(ops.cast(teacher, "float32")), "float64")
    # 1e4 itself is not a bfloat16: the oracle takes what the loss was given.
    np.testing.assert_allclose(value, oracles.knowledge_distillation(rounded, -rounded, temperature), rtol=5e-6)
    expected = oracles.knowledge_distillation_gradient(rounded, -rounded, temperature)
    atol = 1e-2 if dtype != "float32" else 1e-6
    np.testing.assert_allclose(gradient.astype("float64"), expected, rtol=1e-2, atol=atol)


@cases("temperature", 4.0, on_one_backend=[0.5, 1.0])
def test_probabilities_that_came_from_a_softmax_give_the_loss_of_their_logits(temperature):
    teacher, student = pair((64, 10), 3)
    loss = per_example(temperature=temperature, from_logits=False)

    value, _ = loss_and_gradient(loss, *(oracles.softmax(x).astype("float32") for x in (teacher, student)))

    expected = oracles.knowledge_distillation(teacher, student, temperature)
    # The probabilities themselves are rounded to 6e-8 of their value, so their logarithms to 6e-8.
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)


@cases(
    "activation, temperature",
    *[("softmax", 0.5), ("sigmoid", 20.0)],
    on_one_backend=[("softmax", 1.0), ("softmax", 20.0), ("sigmoid", 0.5), ("sigmoid", 1.0)],
)
def test_probabilities_of_exactly_zero_and_one_have_a_finite_loss_and_gradient(activation, temperature):
    certain = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "float32")
    loss = per_example(temperature=temperature, from_logits=False, activation=activation)

    value, gradient = loss_and_gradient(
        loss, np.concatenate([certain, certain]), np.concatenate([certain[::-1], certain])
    )

    assert np.isfinite(value).all()
    assert (value[:2] > 1).all()
    assert np.isfinite(gradient).all()
    assert (value[2:] == 0).all()
    # Equal outputs: to a last bit, as above.
    assert np.abs(gradient[2:]).max() < 1e-6 * np.abs(gradient[:2]).max()


@cases(
    "from_logits, outputs, temperature",
    *[(True, 3, 2.0), (False, 1, 1.0)],
    on_one_backend=itertools.product([True, False], [1, 4], [1.0, 3.0]),
)
def test_sigmoid_outputs_are_each_distilled_as_a_yes_or_no(from_logits, outputs, temperature):
    teacher, student = pair((32, outputs), 3)
    as_given = [x if from_logits else oracles.sigmoid(x).astype("float32") for x in (teacher, student)]
    loss = per_example(temperature=temperature, from_logits=from_logits, activation="sigmoid")

    value, _ = loss_and_gradient(loss, *as_given)

    p, q = (oracles.sigmoid(x.astype("float64") / temperature) for x in (teacher, student))
    expected = temperature**2 * oracles.bernoulli_divergence(p, q).mean(axis=-1)
    # `1 - p` of a probability near 1 has lost up to 6e-8 / (1 - p).
    np.testing.assert_allclose(value, expected, rtol=1e-5 if from_logits else 1e-3, atol=1e-6)


def test_sigmoid_logits_of_ten_thousand_have_a_finite_loss_and_gradient():
    logits = np.array([[1e4]], "float32")

    value, gradient = loss_and_gradient(per_example(activation="sigmoid"), logits, -logits)

    np.testing.assert_allclose(value, [1e4], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1.0]], rtol=1e-6)


@pytest.mark.one_backend
def test_settings_that_make_no_sense_are_refused():
    for temperature in (0, -1.0, float("nan"), float("inf"), "2", None, True):
        with pytest.raises(ValueError, match="`temperature` must be a positive, finite number, received: "):
            KnowledgeDistillation(temperature=temperature)
    with pytest.raises(ValueError, match="`activation` must be one of"):
        KnowledgeDistillation(activation="relu")
    with pytest.raises(ValueError, match="`standardize` is for `activation='softmax'`"):
        KnowledgeDistillation(standardize=True, activation="sigmoid")


@pytest.mark.one_backend
def test_numbers_of_any_type_are_temperatures_and_stay_as_they_are():
    for temperature in (2, np.float32(2.0), np.int64(2)):
        loss = KnowledgeDistillation(temperature=temperature)
        with pytest.raises(AttributeError):
            loss.temperature = 3.0  # A compiled step would not see it.
        assert 2.0 == loss.temperature


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "soft_targets, outputs, message",
    [
        ((4, 3), (4, 5), r"soft targets have shape \(4, 3\), the student's outputs \(4, 5\)"),
        ((4, 1), (4, 1), "activation='sigmoid'"),
        ((2, 3, 1), (2, 3, 1), r"of shape \(2, 3, 1\), have one class"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused_with_their_shapes(soft_targets, outputs, message):
    with pytest.raises(ValueError, match=message):
        KnowledgeDistillation()(np.zeros(soft_targets, "float32"), np.zeros(outputs, "float32"))
