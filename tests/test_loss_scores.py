"""The loss of each example, and the paired permutation test."""

import dataclasses
import itertools

import keras
import numpy as np
import oracles
import pytest
from helpers.tables import cases
from scipy import stats

from keras_ban._src.history.loss_scores import EXACT, GROUPS, loss_scores, sign_flip_p_value
from keras_ban._src.losses.example_losses import example_losses
from keras_ban._src.losses.masks import with_mask

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape).astype("float32")


# The test


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "differences", [[1.0], [1, 2, -3], [0.1, 0.2, 0.3, 0.0], [1, 1, 1, 1, -1], RNG.normal(0.5, 1, EXACT).tolist()]
)
def test_the_p_value_of_few_differences_is_that_of_all_signs(differences):
    sums = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]

    expected = np.mean(np.array(sums) >= abs(sum(differences)) - 1e-9)

    assert expected == pytest.approx(sign_flip_p_value(differences), rel=1e-12)


@pytest.mark.one_backend
@pytest.mark.parametrize("shift", [0.0, 0.3, 0.8])
def test_the_p_value_of_more_differences_is_near_that_of_all_signs(shift):
    differences = np.random.default_rng(1).standard_normal(16) + shift
    exact = stats.permutation_test((differences,), np.sum, permutation_type="samples", n_resamples=np.inf).pvalue

    # Five standard errors of 9,999 draws.
    assert sign_flip_p_value(differences) == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 9_999) + 1e-4)


@pytest.mark.one_backend
@pytest.mark.parametrize("shift", [0.0, 0.01, 0.05])
def test_the_p_value_of_very_many_differences_is_that_of_a_normal_distribution(shift):
    differences = np.random.default_rng(2).standard_normal(3 * GROUPS + 7) + shift
    expected = 2 * stats.norm.sf(abs(differences.sum()) / np.sqrt((differences**2).sum()))

    assert sign_flip_p_value(differences) == pytest.approx(expected, abs=0.03)


@pytest.mark.one_backend
def test_the_p_value_is_the_same_each_time_and_needs_finite_differences():
    differences = np.random.default_rng(3).standard_normal(50)

    assert sign_flip_p_value(differences) == sign_flip_p_value(differences)
    assert sign_flip_p_value(differences) == sign_flip_p_value(-differences)
    assert sign_flip_p_value(np.zeros(5)) == sign_flip_p_value([]) == 1.0
    assert np.isnan(sign_flip_p_value([1.0, np.nan]))
    assert np.isnan(sign_flip_p_value([1.0, np.inf]))


@pytest.mark.one_backend
def test_weights_count_in_the_mean_and_in_the_test():
    losses, before, weights = np.array([1.0, 2, 3, 100]), np.array([2.0, 2, 1, 0]), np.array([1.0, 1, 2, 0])

    scores = loss_scores(losses, weights, before, compared_with=3)

    assert (3, 3) == (scores.examples, scores.compared_with)
    assert scores.loss == pytest.approx((1 + 2 + 6) / 4)
    assert scores.change == pytest.approx((-1 + 0 + 4) / 4)
    # The sums of weighted differences are -1 + 4, -1 - 4, 1 + 4, 1 - 4: all are as far from 0, or farther.
    assert 1.0 == scores.p_value
    assert (None, None, None) == dataclasses.astuple(loss_scores(losses, weights))[2:]
    assert 0 == loss_scores(losses, np.zeros(4)).examples


# The loss of each example


def crossentropies(labels, logits):
    return -np.take_along_axis(oracles.log_softmax(logits), labels[..., None], -1)[..., 0]


LOGITS, LABELS = normal(5, 3), np.array([0, 1, 2, 1, 0])
TOKENS, TOKEN_LABELS = normal(5, 4, 3), RNG.integers(0, 3, (5, 4))
MASK = np.arange(4) < np.array([4, 3, 2, 1, 0])[:, None]
PIXELS, PIXEL_LABELS = normal(5, 2, 2, 3), RNG.integers(0, 3, (5, 2, 2))
VALUES, TARGETS = normal(5, 2), normal(5, 2)
YES = RNG.integers(0, 2, (5, 2))
SPARSE = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
WEIGHTS = np.array([1.0, 0, 2, 0.5, 3])
OF_TOKENS = np.where(MASK, 1 + np.arange(4), 0)


def mean_over(values, weights):
    return (values * weights).sum(-1) / np.maximum(weights.sum(-1), 1e-9)


def smooth(labels, outputs):
    return keras.ops.mean(keras.ops.abs(labels - outputs), axis=-1)


OF_ALL = np.ones(5)
SQUARES = ((VALUES - TARGETS) ** 2).mean(-1)
OF_LABELS, IGNORED = crossentropies(TOKEN_LABELS, TOKENS), TOKEN_LABELS != 1
OF_PIXELS = crossentropies(PIXEL_LABELS, PIXELS).mean((1, 2))
BINARY = np.logaddexp(0, -(2 * YES - 1) * VALUES.astype("float64")).mean(-1)


@cases(
    "loss, labels, outputs, weights, mask, expected, weight",
    (SPARSE, TOKEN_LABELS, TOKENS, None, MASK, mean_over(OF_LABELS, MASK), MASK.any(-1)),
    (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=1),
        *(TOKEN_LABELS, TOKENS, None, MASK, mean_over(OF_LABELS, MASK & IGNORED), (MASK & IGNORED).any(-1)),
    ),
    (SPARSE, PIXEL_LABELS, PIXELS, None, None, OF_PIXELS, OF_ALL),
    (keras.losses.MeanSquaredError(), TARGETS, VALUES, WEIGHTS, None, SQUARES, WEIGHTS),
    on_one_backend=[
        (SPARSE, LABELS, LOGITS, None, None, crossentropies(LABELS, LOGITS), OF_ALL),
        (SPARSE, LABELS[:, None], LOGITS, WEIGHTS[:, None], None, crossentropies(LABELS, LOGITS), WEIGHTS),
        (SPARSE, TOKEN_LABELS, TOKENS, OF_TOKENS, None, mean_over(OF_LABELS, OF_TOKENS), MASK.any(-1)),
        (SPARSE, TOKEN_LABELS, TOKENS, WEIGHTS[:, None], MASK, mean_over(OF_LABELS, MASK), WEIGHTS * MASK.any(-1)),
        (
            SPARSE,
            PIXEL_LABELS[..., None],
            PIXELS,
            None,
            None,
            crossentropies(PIXEL_LABELS, PIXELS).mean((1, 2)),
            OF_ALL,
        ),
        (keras.losses.BinaryCrossentropy(from_logits=True), YES, VALUES, None, None, BINARY, OF_ALL),
        (keras.losses.MeanSquaredError(reduction="sum"), TARGETS, VALUES, None, None, SQUARES, OF_ALL),
        ("mse", TARGETS[:, 0], VALUES[:, :1], None, None, (VALUES[:, 0] - TARGETS[:, 0]) ** 2, OF_ALL),
        ("mean_absolute_error", TARGETS, VALUES, None, None, np.abs(VALUES - TARGETS).mean(-1), OF_ALL),
        (smooth, TARGETS, VALUES, None, None, np.abs(VALUES - TARGETS).mean(-1), OF_ALL),
        ("crossentropy", LABELS, oracles.softmax(LOGITS), None, None, crossentropies(LABELS, LOGITS), OF_ALL),
        ("ce", np.eye(3)[LABELS], oracles.softmax(LOGITS), None, None, crossentropies(LABELS, LOGITS), OF_ALL),
    ],
)
def test_the_loss_of_an_example_is_the_mean_over_its_positions_that_count(
    loss, labels, outputs, weights, mask, expected, weight
):
    outputs = keras.ops.convert_to_tensor(np.asarray(outputs, "float32"))
    if mask is not None:
        outputs = with_mask(outputs, keras.ops.convert_to_tensor(mask))
    weights = None if weights is None else keras.ops.convert_to_tensor(weights.astype("float32"))
    labels = labels.astype("float32") if labels.dtype.kind == "f" else labels

    found, counted = example_losses(loss, keras.ops.convert_to_tensor(labels), outputs, weights)

    found, counted = (keras.ops.convert_to_numpy(each) for each in (found, counted))
    np.testing.assert_allclose(counted, weight)
    where = weight > 0
    np.testing.assert_allclose(found[where], expected[where], rtol=1e-5)  # computed in float32


@pytest.mark.one_backend
def test_masked_positions_may_hold_nan():
    outputs = with_mask(keras.ops.convert_to_tensor(np.where(MASK[..., None], TOKENS, np.nan)), MASK)

    found, _ = example_losses(SPARSE, keras.ops.convert_to_tensor(TOKEN_LABELS), outputs)

    np.testing.assert_allclose(keras.ops.convert_to_numpy(found)[:4], mean_over(OF_LABELS, MASK)[:4], rtol=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("function", [lambda y, p: keras.ops.mean(y - p), lambda y, p: keras.ops.sum(y - p, axis=0)])
def test_a_loss_without_a_number_for_each_example_is_named(function):
    function.__name__ = "whole"

    with pytest.raises(ValueError, match=r"the loss 'whole' gives values of shape .* not a number for each example"):
        example_losses(function, *(keras.ops.convert_to_tensor(each) for each in (TARGETS, VALUES)))
