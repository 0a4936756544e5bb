"""What holds for every loss, and the value and the gradient of each objective."""

import inspect

import keras
import numpy as np
import oracles
import pytest
from helpers.data import random_logits
from helpers.models import assert_same, classifier
from helpers.tables import cases
from helpers.training import loss_and_gradient
from keras import ops

import keras_ban
from keras_ban._src.losses.permuted import permute_all_but_largest
from keras_ban.losses import (
    DIST,
    ConfidenceWeighted,
    DecoupledKnowledgeDistillation,
    KnowledgeDistillation,
    PermutedDarkKnowledge,
)

# Every public loss. What holds for one must hold for those to come.
LOSSES = [getattr(keras_ban.losses, name) for name in keras_ban.losses.__all__]
WANT_LABELS = {ConfidenceWeighted, DecoupledKnowledgeDistillation}
# A value that is not the default for every argument of every loss.
OPTIONS = {
    "temperature": 3.0,
    "from_logits": False,
    "activation": "sigmoid",
    "reduction": "sum",
    "name": "other",
    "ignore_class": 1,
    "seed": 7,
    "standardize": True,
    "target_weight": 3.0,
    "non_target_weight": 0.5,
    "inter_class_weight": 3.0,
    "intra_class_weight": 0.0,
}


# Those of the papers; decoupled knowledge distillation's as in Zhao et al. (2022) on CIFAR-100.
DEFAULTS = {
    "KnowledgeDistillation": {"temperature": 1.0, "activation": "softmax", "standardize": False},
    "ConfidenceWeighted": {"ignore_class": None},
    "PermutedDarkKnowledge": {"temperature": 1.0},
    "DecoupledKnowledgeDistillation": {"target_weight": 1.0, "non_target_weight": 8.0, "temperature": 4.0},
    "DIST": {"inter_class_weight": 1.0, "intra_class_weight": 1.0, "temperature": 1.0},
}


def make(loss_class, **options):
    """A loss, with a seed if it takes one, so that two of them draw the same."""
    known = inspect.signature(loss_class).parameters
    return loss_class(**{**({"seed": 3} if "seed" in known else {}), **options})


def a_batch(shape=(8, 5), scale=3):
    """`(y_true, student)`."""
    teacher, student = random_logits(shape, scale, seed=1), random_logits(shape, scale, seed=2)
    labels = np.random.default_rng(3).integers(0, shape[-1], shape[:-1])
    return {"labels": labels, "soft_targets": teacher}, student


@pytest.mark.one_backend
@pytest.mark.parametrize("loss_class", LOSSES)
def test_the_defaults_of_every_loss_are_those_of_its_paper(loss_class):
    defaults = {**DEFAULTS[loss_class.__name__], "from_logits": "auto", "reduction": "sum_over_batch_size"}
    config = loss_class().get_config()
    assert defaults == {name: config[name] for name in defaults}
    assert f"keras_ban>{loss_class.__name__}" == keras.saving.get_registered_name(loss_class)


@pytest.mark.one_backend
@pytest.mark.parametrize("loss_class", LOSSES)
def test_every_loss_says_what_it_needs(loss_class):
    y_true, student = a_batch()
    labels, soft_targets = y_true.values()

    if loss_class in WANT_LABELS:
        with pytest.raises(ValueError, match=f"`{loss_class.__name__}` needs labels, and there are none: pass `y`"):
            make(loss_class)(soft_targets, student)
    else:
        assert float(make(loss_class)(y_true, student)) == float(make(loss_class)(soft_targets, student))
    with pytest.raises(ValueError, match=r"or a dict with 'soft_targets', received a dict of \['labels'\]"):
        loss_class()({"labels": labels}, student)
    with pytest.raises(ValueError, match=r"soft targets have shape \(8, 4\), the student's outputs \(8, 5\)"):
        loss_class()({"labels": labels, "soft_targets": soft_targets[:, :4]}, student)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "loss_class, option", [(loss, name) for loss in LOSSES for name in inspect.signature(loss).parameters]
)
def test_every_argument_of_every_loss_comes_back_from_its_configuration(loss_class, option):
    y_true, student = a_batch(scale=1)
    y_true["soft_targets"], student = (oracles.softmax(x).astype("float32") for x in (y_true["soft_targets"], student))
    original = make(loss_class, **{option: OPTIONS[option]})

    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(original))

    assert type(original) is type(restored)
    assert original.name == restored.name
    assert float(original(y_true, student)) == float(restored(y_true, student))
    if option != "name":
        assert float(restored(y_true, student)) != float(make(loss_class)(y_true, student))


@cases(
    "loss_class, policy",
    (ConfidenceWeighted, "mixed_bfloat16"),
    on_one_backend=[
        *[(loss, "mixed_bfloat16") for loss in LOSSES if loss is not ConfidenceWeighted],
        *[(loss, "mixed_float16") for loss in LOSSES],
    ],
)
def test_every_loss_is_computed_in_float32_under_mixed_precision(loss_class, policy):
    y_true, student = a_batch((8, 300))
    y_true["labels"][:] = 257  # no bfloat16
    student = ops.cast(student, policy.removeprefix("mixed_"))
    expected, _ = loss_and_gradient(make(loss_class), y_true, ops.cast(student, "float32"))

    keras.config.set_dtype_policy(policy)
    value, _ = loss_and_gradient(make(loss_class), y_true, student)

    assert "float32" == value.dtype
    assert expected == value


@pytest.mark.one_backend
@pytest.mark.parametrize("loss_class", LOSSES)
def test_sample_weights_scale_each_example_of_every_loss(loss_class):
    y_true, student = a_batch()
    weights = np.linspace(0, 2, 8).astype("float32")
    each = ops.convert_to_numpy(make(loss_class, reduction=None)(y_true, student))

    value = make(loss_class)(y_true, student, sample_weight=weights)

    assert (8,) == each.shape
    assert () == tuple(value.shape)
    assert np.isfinite(float(value))
    np.testing.assert_allclose(float(value), (each.astype("float64") * weights).mean(), rtol=1e-6)  # float32's sum


@pytest.mark.parametrize("loss_class", LOSSES)
def test_every_loss_is_finite_at_the_extremes(loss_class):
    opposed = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [1e4, 1e4, 1e4]], "float32")
    masked = random_logits((2, 3, 3), 3)
    masked[..., 2] = -np.inf
    certain = np.eye(3, dtype="float32")
    logits, probabilities = (make(loss_class, from_logits=given, reduction=None) for given in (True, False))
    gradients = {}

    for name, loss, teacher, student, labels in (
        ("opposed logits of ten thousand", logits, opposed, -opposed, [0, 1, 2]),
        ("a class masked out with minus infinity", logits, *masked, [1, 1, 1]),
        ("probabilities of exactly 0 and 1", probabilities, certain, certain[[1, 0, 2]], [2, 1, 2]),
    ):
        y_true = {"labels": np.array(labels), "soft_targets": teacher}
        value, gradients[name] = loss_and_gradient(loss, y_true, student)
        assert np.isfinite(value).all(), name
        assert np.isfinite(gradients[name]).all(), name

    if loss_class is not PermutedDarkKnowledge:  # It moves what is masked.
        assert (gradients["a class masked out with minus infinity"][:, 2] == 0).all()


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "loss_class, name",
    [(loss, name) for loss in LOSSES for name in inspect.signature(loss).parameters if name.endswith("_weight")],
)
def test_weights_that_are_no_finite_numbers_of_at_least_zero_are_refused(loss_class, name):
    for weight in (-1.0, float("nan"), float("inf"), "1", None, True):
        with pytest.raises(ValueError, match=f"`{name}` must be a finite number of at least 0, received: "):
            loss_class(**{name: weight})


def permuted(teacher, seed=3):
    """The soft targets as `PermutedDarkKnowledge(seed=3)` permutes them the first time."""
    teacher = ops.convert_to_tensor(teacher, "float32")
    return ops.convert_to_numpy(permute_all_but_largest(teacher, keras.random.SeedGenerator(seed)))


def by_rows(oracle):
    """An oracle of `(n, classes)` for any number of leading axes."""

    def of_any_rank(teacher, student, labels):
        result = oracle(*(x.reshape(-1, x.shape[-1]) for x in (teacher, student)), labels.ravel())
        return result.reshape(student.shape if result.ndim == 2 else labels.shape)

    return of_any_rank


# The loss, its options, its value and its gradient.
ORACLES = {
    "plain": (
        KnowledgeDistillation,
        {"temperature": 3.0},
        lambda teacher, student, labels: oracles.knowledge_distillation(teacher, student, 3.0),
        lambda teacher, student, labels: oracles.knowledge_distillation_gradient(teacher, student, 3.0),
    ),
    "confidence weighted": (
        ConfidenceWeighted,
        {},
        oracles.confidence_weighted,
        oracles.confidence_weighted_gradient,
    ),
    "permuted": (
        PermutedDarkKnowledge,
        {"temperature": 2.0},
        lambda teacher, student, labels: oracles.knowledge_distillation(permuted(teacher), student, 2.0),
        lambda teacher, student, labels: oracles.knowledge_distillation_gradient(permuted(teacher), student, 2.0),
    ),
    "decoupled": (
        DecoupledKnowledgeDistillation,
        {"target_weight": 2.0, "non_target_weight": 5.0, "temperature": 3.0},
        by_rows(lambda *rows: oracles.decoupled(*rows, 2.0, 5.0, 3.0)),
        by_rows(lambda *rows: oracles.decoupled_gradient(*rows, 2.0, 5.0, 3.0)),
    ),
    "dist": (
        DIST,
        {"inter_class_weight": 2.0, "intra_class_weight": 3.0, "temperature": 2.0},
        by_rows(lambda teacher, student, labels: oracles.dist(teacher, student, 2.0, 3.0, 2.0)),
        by_rows(lambda teacher, student, labels: oracles.dist_gradient(teacher, student, 2.0, 3.0, 2.0)),
    ),
    "standardised": (
        KnowledgeDistillation,
        {"standardize": True, "temperature": 2.0},
        lambda teacher, student, labels: oracles.knowledge_distillation(
            oracles.standardized(teacher), oracles.standardized(student), 2.0
        ),
        lambda teacher, student, labels: oracles.standardized_gradient(teacher, student, 2.0),
    ),
}


@pytest.mark.parametrize("objective", ORACLES)
@cases("scale, shape", (10, (2, 3, 4, 5)), on_one_backend=[(1, (2, 3, 4, 5)), (1, (64, 10)), (10, (64, 10))])
def test_each_objective_has_the_value_and_the_gradient_of_its_float64_oracle(objective, scale, shape):
    loss_class, options, oracle, oracle_gradient = ORACLES[objective]
    y_true, student = a_batch(shape, scale)
    arguments = y_true["soft_targets"], student, y_true["labels"]
    expected, expected_gradient = oracle(*arguments), oracle_gradient(*arguments)

    value, gradient = loss_and_gradient(make(loss_class, reduction=None, **options), y_true, student)

    assert shape[:-1] == value.shape
    # float32's 6e-8, times a few dozen roundings.
    np.testing.assert_allclose(value, expected, rtol=5e-6, atol=5e-6 * np.abs(expected).mean())
    np.testing.assert_allclose(gradient, expected_gradient, atol=5e-6 * np.abs(expected_gradient).max())


@pytest.mark.one_backend
@pytest.mark.parametrize("objective", ORACLES)
def test_the_gradient_of_each_objective_is_that_of_a_finite_difference(objective):
    loss_class, options, oracle, _ = ORACLES[objective]
    y_true, student = a_batch((3, 4), scale=2)
    expected = oracles.finite_difference(lambda s: oracle(y_true["soft_targets"], s, y_true["labels"]).sum(), student)

    _, gradient = loss_and_gradient(make(loss_class, reduction=None, **options), y_true, student)

    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)  # float32 of order 1


@pytest.mark.one_backend
@pytest.mark.parametrize("objective", ORACLES)
def test_probabilities_give_each_objective_the_value_of_their_logits(objective):
    loss_class, options, oracle, _ = ORACLES[objective]
    y_true, student = a_batch()
    expected = oracle(y_true["soft_targets"], student, y_true["labels"])
    probabilities = [oracles.softmax(x).astype("float32") for x in (y_true["soft_targets"], student)]
    y_true["soft_targets"] = probabilities[0]

    value = make(loss_class, from_logits=False, reduction=None, **options)(y_true, probabilities[1])

    # The probabilities are rounded to 6e-8 of their value, their logarithms to as much.
    np.testing.assert_allclose(ops.convert_to_numpy(value), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize("objective", ORACLES)
def test_a_step_of_a_linear_student_is_that_of_the_oracles_gradient(blobs, objective):
    x, y = blobs
    loss_class, options, _, oracle_gradient = ORACLES[objective]
    teacher = random_logits((96, 3), 2, seed=4)
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    before = student.get_weights()
    logits = x @ before[0] + before[1]
    model = keras_ban.Distiller(student=student, distillation_loss=make(loss_class, **options), label_weight=0)
    model.compile(keras.optimizers.SGD(0.5))
    model.fit(x, {"labels": y, "soft_targets": teacher}, batch_size=96, shuffle=False, verbose=0)

    expected = before[0] - 0.5 * x.T.astype("float64") @ oracle_gradient(teacher, logits, y) / 96
    np.testing.assert_allclose(student.get_weights()[0], expected, rtol=1e-5, atol=5e-6)  # float32; DIST is steep


@pytest.mark.one_backend
def test_labels_come_in_every_form_that_keras_takes():
    y_true, student = a_batch((4, 5, 6))
    labels = y_true["labels"]
    expected = oracles.confidence_weighted(y_true["soft_targets"], student, labels)

    for form in (labels, labels[..., None], np.eye(6)[labels]):
        value = ConfidenceWeighted(reduction=None)({**y_true, "labels": form}, student)
        np.testing.assert_allclose(ops.convert_to_numpy(value), expected, rtol=5e-6, err_msg=f"{form.shape}")


def test_soft_labels_mix_the_cross_entropies_of_their_classes():
    y_true, student = a_batch()
    first, second = y_true["labels"], (y_true["labels"] + 1) % 5
    mixed = 0.3 * np.eye(5)[first] + 0.7 * np.eye(5)[second]
    expected = 0.3 * oracles.confidence_weighted(y_true["soft_targets"], student, first)
    expected = expected + 0.7 * oracles.confidence_weighted(y_true["soft_targets"], student, second)

    value = ConfidenceWeighted(reduction=None)({**y_true, "labels": mixed}, student)

    np.testing.assert_allclose(ops.convert_to_numpy(value), expected, rtol=5e-6)


@pytest.mark.one_backend
def test_labels_of_another_shape_are_refused_with_both_shapes():
    y_true, student = a_batch()
    message = r"outputs \(8, 5\): labels must be whole numbers of shape \(8,\) or \(8, 1\)"

    for shape in ((7,), (8, 3), (8, 5, 1)):
        with pytest.raises(ValueError, match=message):
            ConfidenceWeighted()({**y_true, "labels": np.zeros(shape, "int32")}, student)


def with_mask(student, mask):
    outputs = ops.convert_to_tensor(student)
    outputs._keras_mask = ops.convert_to_tensor(mask)
    return outputs


# Of 4 sequences of 5 tokens.
MASK = np.arange(5) < np.array([5, 3, 1, 2])[:, None]


@pytest.mark.one_backend
def test_masked_and_ignored_tokens_are_no_part_of_the_normalisation():
    y_true, student = a_batch((4, 5, 6))
    ignored = np.random.default_rng(0).random((4, 5)) < 0.3

    for ignore_class, mask, outputs in ((255, MASK, with_mask(student, MASK)), (-1, np.ones_like(MASK), student)):
        counted = mask & ~ignored
        labels = np.where(ignored, ignore_class, y_true["labels"])
        value = ConfidenceWeighted(ignore_class=ignore_class)({**y_true, "labels": labels}, outputs)
        each = oracles.confidence_weighted(y_true["soft_targets"], student, y_true["labels"], counted)
        assert 0 < counted.sum() < mask.sum()
        np.testing.assert_allclose(float(value), each[counted].mean(), rtol=5e-6)


def test_in_a_training_step_padding_is_no_part_of_the_normalisation():
    tokens = np.random.default_rng(0).integers(1, 6, (8, 5))
    tokens[:5, 3:] = 0
    layers = [keras.layers.Embedding(6, 4, "random_normal", mask_zero=True), keras.layers.Dense(6)]
    student = keras.Sequential([keras.Input((5,), dtype="int32"), *layers])
    soft_targets = random_logits((8, 5, 6), 2.0)
    student_logits = student.predict(tokens, verbose=0)
    model = keras_ban.Distiller(student=student, distillation_loss=ConfidenceWeighted(), label_weight=0)
    model.compile("sgd")

    logs = model.train_on_batch(tokens, {"labels": tokens, "soft_targets": soft_targets}, return_dict=True)

    counted = tokens > 0
    expected = oracles.confidence_weighted(soft_targets, student_logits, tokens, counted)
    np.testing.assert_allclose(expected[counted].mean(), float(logs["distillation_loss"]), rtol=1e-5)


@pytest.mark.one_backend
def test_dist_leaves_masked_tokens_out_of_both_correlations():
    y_true, student = a_batch((4, 5, 6))
    expected = oracles.dist(y_true["soft_targets"][MASK], student[MASK], 2.0, 3.0, 2.0).mean()

    value = DIST(2.0, 3.0, temperature=2.0)(y_true, with_mask(student, MASK))
    alone = DIST(0.0, 1.0)(y_true, with_mask(student, np.arange(20).reshape(4, 5) == 0))

    np.testing.assert_allclose(float(value), expected, rtol=5e-6)
    # A single value is its own mean: what varies not at all is as constant for the one as for the other.
    np.testing.assert_allclose(float(alone), 0.0, atol=1e-6)


@pytest.mark.one_backend
def test_a_batch_in_which_nothing_counts_has_no_loss():
    y_true, student = a_batch()

    value = ConfidenceWeighted(ignore_class=1)({**y_true, "labels": np.ones(8, "int32")}, student)

    assert 0.0 == float(value)


def test_labels_reach_the_distillation_loss_where_they_have_no_weight_of_their_own(blobs):
    x, y = blobs
    teacher, student = classifier(), classifier()
    model = keras_ban.Distiller(
        student=student, teacher=teacher, distillation_loss=ConfidenceWeighted(), label_weight=0
    )
    model.compile(keras.optimizers.SGD(0.1))
    expected = oracles.confidence_weighted(*(m.predict(x, verbose=0) for m in (teacher, student)), y).mean()

    logs = model.fit(x, y, batch_size=96, verbose=0).history

    np.testing.assert_allclose(logs["distillation_loss"], [expected], rtol=1e-5)  # float32's mean of 96
    assert {"loss", "distillation_loss"} == set(logs)


@pytest.mark.one_backend
def test_a_fit_without_labels_says_that_the_loss_needs_them_and_changes_nothing(blobs):
    student = classifier()
    before = student.get_weights()
    model = keras_ban.Distiller(
        student=student, teacher=classifier(), distillation_loss=ConfidenceWeighted(), label_weight=0
    )
    model.compile()

    with pytest.raises(ValueError, match="`ConfidenceWeighted` needs labels, and there are none"):
        model.fit(blobs[0], verbose=0)

    assert_same(before, student.get_weights())


@pytest.mark.one_backend
@pytest.mark.parametrize("loss_class", [ConfidenceWeighted, PermutedDarkKnowledge])
def test_top_k_soft_targets_are_spread_out_before_the_loss_sees_them(blobs, loss_class):
    x, y = blobs
    teacher, student = classifier(), classifier()
    targets = keras_ban.SoftTargets.from_teacher(teacher, x, top_k=2)
    y_true = {"labels": y, "soft_targets": targets.to_dense()}
    expected, _ = loss_and_gradient(make(loss_class), y_true, student.predict(x, verbose=0))
    model = keras_ban.Distiller(student=student, distillation_loss=make(loss_class), label_weight=0)
    model.compile(keras.optimizers.SGD(0.1))

    logs = model.fit(x, y, soft_targets=targets, batch_size=96, shuffle=False, verbose=0).history

    np.testing.assert_allclose(logs["distillation_loss"], [expected], rtol=1e-5)  # float32, compiled or not


@pytest.mark.one_backend
def test_decoupled_distillation_with_the_weights_of_plain_distillation_is_plain_distillation():
    y_true, student = a_batch((1, 6))
    p = oracles.softmax(y_true["soft_targets"] / 3.0)[0, y_true["labels"][0]]

    value = DecoupledKnowledgeDistillation(1.0, float(1 - p), temperature=3.0)(y_true, student)

    expected = oracles.knowledge_distillation(y_true["soft_targets"], student, 3.0)
    np.testing.assert_allclose(float(value), expected[0], rtol=5e-6)


@pytest.mark.parametrize("loss_class", [DIST, DecoupledKnowledgeDistillation])
def test_a_student_that_equals_its_teacher_has_exactly_no_loss(loss_class):
    y_true, _ = a_batch((8, 6))

    value, gradient = loss_and_gradient(make(loss_class, reduction=None), y_true, y_true["soft_targets"].copy())

    assert (value == 0).all()
    np.testing.assert_allclose(gradient, np.zeros_like(gradient), atol=1e-6)  # a last bit, compiled another way


@pytest.mark.one_backend
def test_standardised_logits_teach_the_same_at_any_size_and_shift():
    y_true, student = a_batch()
    loss = KnowledgeDistillation(standardize=True)

    expected = oracles.knowledge_distillation(*map(oracles.standardized, (y_true["soft_targets"], student))).mean()

    for teacher in (y_true["soft_targets"], 7 * y_true["soft_targets"] - 3):
        np.testing.assert_allclose(float(loss(teacher, student)), expected, rtol=1e-5)


def test_standardised_logits_that_are_all_equal_are_finite():
    y_true, student = a_batch()

    value, gradient = loss_and_gradient(KnowledgeDistillation(standardize=True), y_true, np.full_like(student, 2.0))

    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
