import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, random_logits
from helpers.training import loss_and_gradient
from keras import ops

from keras_ban.losses import KnowledgeDistillation

SHAPES = [(16, CLASSES), (4, 5, CLASSES), (2, 3, 4, CLASSES)]


def per_example(**arguments):
    return KnowledgeDistillation(reduction=None, **arguments)


@pytest.mark.parametrize("classes", [2, 3, 10, 100, 1000])
@pytest.mark.parametrize("scale", [1, 5, 50])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_distillation_has_the_value_and_the_gradient_of_the_float64_oracle(classes, scale, temperature):
    teacher, student = random_logits((64, classes), scale, seed=1), random_logits((64, classes), scale, seed=2)
    loss = per_example(temperature=temperature)

    value, gradient = loss_and_gradient(lambda s: loss(teacher, s), student)

    expected = oracles.knowledge_distillation(teacher, student, temperature)
    # Where teacher and student agree almost to certainty, the value hangs on differences of logits that float32 cannot
    # hold: there, 5e-6 of the batch's mean is asked for, else 5e-6 of the value itself.
    np.testing.assert_allclose(value, expected, rtol=5e-6, atol=5e-6 * expected.mean())
    expected_gradient = oracles.knowledge_distillation_gradient(teacher, student, temperature)
    np.testing.assert_allclose(gradient, expected_gradient, atol=5e-6 * temperature)


@pytest.mark.parametrize("shape", SHAPES)
def test_classes_are_on_the_last_axis_whatever_comes_before(shape):
    teacher, student = random_logits(shape, 3, seed=1), random_logits(shape, 3, seed=2)
    loss = per_example(temperature=2.0)

    value, gradient = loss_and_gradient(lambda s: loss(teacher, s), student)

    expected = oracles.knowledge_distillation(teacher, student, 2.0)
    assert shape[:-1] == value.shape
    np.testing.assert_allclose(value, expected, rtol=5e-6)
    expected_gradient = oracles.knowledge_distillation_gradient(teacher, student, 2.0)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)  # float32's 6e-8, times a few dozen roundings


def test_a_student_close_to_its_teacher_keeps_its_digits():
    teacher = random_logits((64, 100), 3, seed=1)
    student = teacher + random_logits((64, 100), 1e-3, seed=2)

    value, gradient = loss_and_gradient(lambda s: per_example()(teacher, s), student)

    np.testing.assert_allclose(value, oracles.knowledge_distillation(teacher, student), rtol=5e-6)
    expected_gradient = oracles.knowledge_distillation_gradient(teacher, student)
    np.testing.assert_allclose(gradient, expected_gradient, atol=5e-6 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("masked", [-65504.0, -1e9, -np.inf])
@pytest.mark.parametrize("whose", ["teacher", "student"])
def test_a_class_that_one_of_the_two_masks_out_counts_as_the_other_says(masked, whose):
    free, other = random_logits((16, 5), 2, seed=1), random_logits((16, 5), 2, seed=2)
    masking = free.copy()
    masking[:, 2] = masked
    teacher, student = (masking, other) if whose == "teacher" else (other, masking)

    value, gradient = loss_and_gradient(lambda s: per_example()(teacher, s), student)

    p, q = oracles.softmax(teacher), oracles.softmax(student)
    if whose == "teacher":
        expected = np.where(p > 0, p * (np.log(np.maximum(p, 1e-300)) - np.log(q)), 0.0).sum(axis=-1)
    else:  # p * 1e30 where -inf stands for -1e30
        expected = oracles.knowledge_distillation(teacher, np.maximum(student, -1e30))
    np.testing.assert_allclose(value, expected, rtol=5e-6)
    np.testing.assert_allclose(gradient, q - p, atol=1e-6)


def test_the_gradient_can_be_differentiated_again():
    teacher, start = random_logits((3, 4), 2, seed=1), random_logits((3, 4), 1, seed=2)

    def of_gradient(weights):
        """The square of the gradient with respect to `weights`, of a student whose logits are `tanh(weights)`."""
        q, p = oracles.softmax(np.tanh(weights)), oracles.softmax(teacher)
        return float((((q - p) * (1 - np.tanh(weights) ** 2)) ** 2).sum())

    step, expected = 1e-5, np.zeros_like(start, dtype="float64")
    for place in np.ndindex(start.shape):
        move = np.zeros(start.shape)
        move[place] = step
        expected[place] = (of_gradient(start + move) - of_gradient(start - move)) / (2 * step)
    loss = per_example()

    backend, weights = keras.config.backend(), ops.convert_to_tensor(start)
    if backend == "jax":
        import jax

        first = jax.grad(lambda w: ops.sum(loss(teacher, ops.tanh(w))))
        actual = jax.grad(lambda w: ops.sum(first(w) ** 2))(weights)
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

    teacher, student = (ops.convert_to_tensor(random_logits((4, 5), 2, seed=seed)) for seed in (1, 2))
    loss = per_example()
    _, expected = loss_and_gradient(lambda s: loss(teacher, s), student)

    def total(teacher, student):
        return ops.sum(loss(teacher, student))

    for transformed in (jax.jit(total), jax.checkpoint(total)):
        np.testing.assert_allclose(jax.grad(transformed, argnums=1)(teacher, student), expected, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_a_compiled_step_has_exactly_no_loss_either_where_student_equals_teacher(temperature):
    logits = random_logits((32, 50), 10)
    model = keras.Sequential([keras.Input((50,)), keras.layers.Identity()])
    model.compile(loss=KnowledgeDistillation(temperature=temperature))

    assert 0.0 == model.evaluate(logits, logits, verbose=0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_a_student_that_equals_its_teacher_has_exactly_no_loss(temperature):
    logits = random_logits((32, 50), 10)

    value, gradient = loss_and_gradient(lambda s: per_example(temperature=temperature)(logits, s), logits)

    assert (value == 0).all()
    # XLA may compile the two softmaxes differently, to within a last bit of probabilities of at most 1.
    np.testing.assert_allclose(gradient, np.zeros_like(logits), atol=1.2e-7 * temperature)


def test_the_gradient_is_that_of_a_finite_difference():
    teacher, student = random_logits((1, 4), 2, seed=1), random_logits((1, 4), 2, seed=2)
    step = 1e-6
    differences = [
        oracles.knowledge_distillation(teacher, student + step * direction, 3.0)
        - oracles.knowledge_distillation(teacher, student - step * direction, 3.0)
        for direction in np.eye(4)
    ]

    _, gradient = loss_and_gradient(lambda s: per_example(temperature=3.0)(teacher, s), student)

    np.testing.assert_allclose(gradient[0], np.ravel(differences) / (2 * step), rtol=1e-5, atol=1e-6)


def test_adding_a_constant_to_all_logits_changes_nothing():
    teacher, student = random_logits((16, 10), 3, seed=1), random_logits((16, 10), 3, seed=2)

    value = per_example()(teacher + 100.0, student - 50.0)

    # A logit of 100 keeps 7e-6 of absolute precision in float32.
    np.testing.assert_allclose(ops.convert_to_numpy(value), oracles.knowledge_distillation(teacher, student), rtol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_opposed_logits_of_ten_thousand_have_a_finite_loss_and_gradient(policy, temperature):
    keras.config.set_dtype_policy(policy)
    dtype = keras.config.dtype_policy().compute_dtype
    teacher = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]], "float32")
    student = ops.cast(-teacher, dtype)
    loss = per_example(temperature=temperature)

    value, gradient = loss_and_gradient(lambda s: loss(ops.cast(teacher, dtype), s), student)

    assert value.dtype == "float32"
    rounded = np.asarray(ops.convert_to_numpy(ops.cast(student, "float32")), "float64")
    # 1e4 itself is not a bfloat16: the oracle takes what the loss was given.
    np.testing.assert_allclose(value, oracles.knowledge_distillation(-rounded, rounded, temperature), rtol=5e-6)
    expected = oracles.knowledge_distillation_gradient(-rounded, rounded, temperature)
    np.testing.assert_allclose(
        gradient.astype("float64"), expected, rtol=1e-2, atol=1e-2 if dtype != "float32" else 1e-6
    )


def test_classes_masked_out_with_minus_infinity_teach_nothing():
    teacher = np.array([[1.0, 2.0, -np.inf]], "float32")
    student = np.array([[2.0, 1.0, -np.inf]], "float32")

    value, gradient = loss_and_gradient(lambda s: per_example()(teacher, s), student)

    np.testing.assert_allclose(value, oracles.knowledge_distillation(teacher[:, :2], student[:, :2]), rtol=5e-6)
    assert 0.0 == gradient[0, 2]
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_probabilities_that_came_from_a_softmax_give_the_loss_of_their_logits(temperature):
    teacher, student = random_logits((64, 10), 3, seed=1), random_logits((64, 10), 3, seed=2)
    probabilities = [oracles.softmax(x).astype("float32") for x in (teacher, student)]

    value = per_example(temperature=temperature, from_logits=False)(*probabilities)

    expected = oracles.knowledge_distillation(teacher, student, temperature)
    # The probabilities themselves are rounded to 6e-8 of their value, so their logarithms to 6e-8.
    np.testing.assert_allclose(ops.convert_to_numpy(value), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 20.0])
def test_probabilities_of_exactly_zero_and_one_have_a_finite_loss_and_gradient(activation, temperature):
    certain = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "float32")
    loss = per_example(temperature=temperature, from_logits=False, activation=activation)

    opposed, gradient = loss_and_gradient(lambda s: loss(certain, s), certain[::-1].copy())
    equal, equal_gradient = loss_and_gradient(lambda s: loss(certain, s), certain)

    assert np.isfinite(opposed).all()
    assert (opposed > 1).all()
    assert np.isfinite(gradient).all()
    assert (equal == 0).all()
    assert np.abs(equal_gradient).max() < 1e-6 * np.abs(gradient).max()  # as above, to a last bit


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("outputs", [1, 4])
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_sigmoid_outputs_are_each_distilled_as_a_yes_or_no(from_logits, outputs, temperature):
    teacher, student = random_logits((32, outputs), 3, seed=1), random_logits((32, outputs), 3, seed=2)
    as_given = [x if from_logits else oracles.sigmoid(x).astype("float32") for x in (teacher, student)]
    loss = per_example(temperature=temperature, from_logits=from_logits, activation="sigmoid")

    value = loss(*as_given)

    p, q = (
        oracles.sigmoid(teacher.astype("float64") / temperature),
        oracles.sigmoid(student.astype("float64") / temperature),
    )
    expected = temperature**2 * oracles.bernoulli_divergence(p, q).mean(axis=-1)
    # `1 - p` of a probability near 1 has lost up to 6e-8 / (1 - p).
    np.testing.assert_allclose(ops.convert_to_numpy(value), expected, rtol=1e-5 if from_logits else 1e-3, atol=1e-6)


def test_sigmoid_logits_of_ten_thousand_have_a_finite_loss_and_gradient():
    loss = per_example(activation="sigmoid")

    value, gradient = loss_and_gradient(lambda s: loss([[1e4]], s), np.array([[-1e4]], "float32"))

    np.testing.assert_allclose(value, [1e4], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1.0]], rtol=1e-6)


def test_sample_weights_scale_each_example():
    teacher, student = random_logits((4, 5), 3, seed=1), random_logits((4, 5), 3, seed=2)
    weights = np.array([0.0, 1.0, 2.0, 0.5], "float32")

    value = KnowledgeDistillation()(teacher, student, sample_weight=weights)

    expected = (oracles.knowledge_distillation(teacher, student) * weights).sum() / 4
    np.testing.assert_allclose(float(value), expected, rtol=5e-6)


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf"), "2", None, True])
def test_a_temperature_that_is_no_positive_finite_number_is_refused(temperature):
    with pytest.raises(ValueError, match="`temperature` must be a positive, finite number, received: "):
        KnowledgeDistillation(temperature=temperature)


@pytest.mark.parametrize("temperature", [2, np.float32(2.0), np.int64(2)])
def test_numbers_of_any_type_are_temperatures(temperature):
    assert 2.0 == KnowledgeDistillation(temperature=temperature).temperature


def test_an_unknown_activation_is_refused():
    with pytest.raises(ValueError, match="`activation` must be one of"):
        KnowledgeDistillation(activation="relu")


def test_settings_of_a_loss_cannot_be_changed_behind_the_back_of_a_compiled_step():
    loss = KnowledgeDistillation(temperature=2.0)

    with pytest.raises(AttributeError):
        loss.temperature = 3.0


def test_soft_targets_of_another_shape_are_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"soft targets have shape \(4, 3\), the student's outputs \(4, 5\)"):
        KnowledgeDistillation()(np.zeros((4, 3), "float32"), np.zeros((4, 5), "float32"))


def test_a_softmax_over_one_class_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="activation='sigmoid'"):
        KnowledgeDistillation()(np.zeros((4, 1), "float32"), np.zeros((4, 1), "float32"))
