"""Positions that a Keras mask leaves out count neither for weights nor for the temperature of an ensemble."""

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.tables import cases

from keras_ban import EnsembleModel

WORDS, STEPS, CLASSES = 12, 5, 3
RNG = np.random.default_rng(3)
X = RNG.integers(1, WORDS, (60, STEPS))
X[np.arange(STEPS) >= RNG.integers(1, STEPS + 1, 60)[:, None]] = 0
Y = RNG.integers(0, CLASSES, X.shape)
COUNTS = (X > 0).astype("float64")
WEIGHTS = RNG.uniform(0.1, 2.0, 60)
TRAINING, OTHERS = slice(30), slice(30, None)


def members(mask_zero):
    """Three models, each of which knows two thirds of the labels of a word."""
    known = [np.eye(CLASSES)[np.random.default_rng(seed).integers(0, CLASSES, WORDS)] for seed in range(3)]
    made = []
    for logits in known:
        embedding = keras.layers.Embedding(WORDS, CLASSES, mask_zero=mask_zero)
        made.append(keras.Sequential([keras.Input((STEPS,), dtype="int32"), embedding]))
        made[-1].set_weights([3 * logits])
    return made


def nested(mask_zero):
    first, *others = members(mask_zero)
    return EnsembleModel([EnsembleModel(others, from_logits=True), first], from_logits=True)


def ensemble(mask_zero):
    return EnsembleModel(members(mask_zero), from_logits=True)


def calibrate(made, weights):
    return made.calibrate(X, Y, weights)


def fit_weights(made, weights):
    return made.fit_weights(X, Y, sample_weight=weights)


def fit_weights_of_a_loss(made, weights):
    made.compile(loss=keras.losses.CategoricalFocalCrossentropy(from_logits=True))
    return made.fit_weights(X, np.eye(CLASSES)[Y], sample_weight=weights)


def soften(made, weights):
    parts = [None if weights is None else weights[part] for part in (TRAINING, OTHERS)]
    return made.soften(X[TRAINING], Y[TRAINING], parts[0], validation_data=(X[OTHERS], Y[OTHERS], parts[1]))


def soften_folds(made, weights):
    return made.soften(X, Y, weights, folds=np.arange(60) % len(made.members))


@cases("method", calibrate, fit_weights, on_one_backend=[soften, soften_folds, fit_weights_of_a_loss])
@pytest.mark.parametrize("build", [ensemble, pytest.param(nested, marks=pytest.mark.one_backend)])
@pytest.mark.filterwarnings("ignore:There is no best temperature")
def test_masked_positions_do_not_count(method, build):
    # With a mask, as with weights that are 0 where the mask is.
    expected = method(build(mask_zero=False), COUNTS)
    assert method(build(mask_zero=True), None) == pytest.approx(expected, rel=1e-6)

    both = method(build(mask_zero=False), COUNTS * WEIGHTS[:, None])
    assert method(build(mask_zero=True), WEIGHTS) == pytest.approx(both, rel=1e-6)
    assert expected != pytest.approx(method(build(mask_zero=False), None), rel=1e-3)


def test_masks_of_batches_do_not_count():
    expected = calibrate(ensemble(mask_zero=False), COUNTS)

    assert ensemble(mask_zero=True).calibrate(Batches(X, Y, 25)) == pytest.approx(expected, rel=1e-6)
