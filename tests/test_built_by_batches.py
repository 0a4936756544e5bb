"""Models that were built by batches, whose sizes may differ: the size of a batch is no part of a model."""

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, crossentropy, values
from keras import layers

from keras_ban import Distiller, EnsembleModel, FeatureMatching

X, Y = make_blobs()


def model(size, units=4, seed=0):
    """A classifier that a batch of `size` examples built, or an `Input` if that is `None`."""
    own = [layers.Dense(units, activation="relu", name="hidden"), layers.Dense(CLASSES)]
    built = keras.Sequential([keras.Input((8,)), *own] if size is None else own)
    if size is not None:
        built(X[:size])
    rng = np.random.default_rng(seed)
    built.set_weights([rng.standard_normal(weight.shape) for weight in built.weights])
    return built


def trained(sizes, feature_matching=None):
    """A Distiller of models that batches of these sizes built, after three steps."""
    student, teacher = model(sizes[0]), model(sizes[1], units=6, seed=1)
    distiller = Distiller(student=student, teacher=teacher, feature_matching=feature_matching)
    for name, projection in distiller.projections.items():
        projection.set_weights([np.random.default_rng(len(name)).standard_normal((4, 6))])
    distiller.compile("sgd", crossentropy())
    distiller.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    return distiller


@pytest.mark.parametrize("feature_matching", [None, FeatureMatching(["hidden"])], ids=["outputs", "features"])
def test_a_distiller_of_models_that_batches_of_different_sizes_built_trains_and_comes_back(tmp_path, feature_matching):
    distiller = trained((8, 16), feature_matching)
    expected = trained((None, None), feature_matching)
    assert_same(values(expected.student), values(distiller.student))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    np.testing.assert_array_equal(distiller.predict(X, verbose=0), loaded.predict(X, verbose=0))
    np.testing.assert_array_equal(distiller.teacher.predict(X, verbose=0), loaded.teacher.predict(X, verbose=0))


def test_an_ensemble_of_members_that_batches_of_different_sizes_built_averages_and_comes_back(tmp_path):
    ensemble = EnsembleModel([model(8), model(16, seed=1), model(None, seed=2)], average="logits")
    expected = np.mean([member.predict(X, verbose=0) for member in ensemble.members], axis=0)
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), expected, rtol=1e-5, atol=1e-5)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    np.testing.assert_array_equal(ensemble.predict(X, verbose=0), loaded.predict(X, verbose=0))


def test_classes_that_differ_are_still_refused():
    student, teacher = model(8), keras.Sequential([layers.Dense(CLASSES + 1)])
    teacher(X[:16])
    with pytest.raises(ValueError, match=r"shape \(None, 4\), the student's outputs \(None, 3\)"):
        Distiller(student=student, teacher=teacher)
    with pytest.raises(ValueError, match=r"\(None, 3\).* and another .*\(None, 4\)"):
        EnsembleModel([student, teacher])
