"""Soft targets of a model whose `predict_on_batch` or `predict_step` is the user's own."""

import keras
import numpy as np
import pytest

from keras_ban import Distiller, EnsembleModel, SoftTargets

X = np.random.default_rng(0).normal(size=(12, 4)).astype("float32")


def linear(of=keras.Sequential):
    return of([keras.Input((4,)), keras.layers.Dense(3, activation="linear")])


class OwnBatch:
    """Three times what the model predicts."""

    def predict_on_batch(self, x):
        return 3 * np.asarray(super().predict_on_batch(x))


class OwnStep:
    """Three times what the model predicts."""

    def predict_step(self, *args):
        result = super().predict_step(*args)
        return (3 * result[0], *result[1:]) if isinstance(result, tuple) else 3 * result


class EnsembleOfOwnBatch(OwnBatch, EnsembleModel):
    pass


class EnsembleOfOwnStep(OwnStep, EnsembleModel):
    pass


class DistillerOfOwnBatch(OwnBatch, Distiller):
    pass


class DistillerOfOwnStep(OwnStep, Distiller):
    pass


class ModelOfOwnBatch(OwnBatch, keras.Sequential):
    pass


class ModelOfOwnStep(OwnStep, keras.Sequential):
    pass


MAKE = {
    EnsembleOfOwnBatch: lambda of: of([linear()]),
    EnsembleOfOwnStep: lambda of: of([linear()]),
    DistillerOfOwnBatch: lambda of: of(student=linear(), label_weight=1),
    DistillerOfOwnStep: lambda of: of(student=linear(), label_weight=1),
    ModelOfOwnBatch: linear,
    ModelOfOwnStep: linear,
}


@pytest.mark.parametrize("of", MAKE)
def test_soft_targets_are_what_the_users_own_method_predicts(of):
    teacher = MAKE[of](of)
    expected = teacher.predict_on_batch(X)
    stored = SoftTargets.from_teacher(teacher, X, from_logits=True, verbose=0)

    np.testing.assert_allclose(expected, stored.to_dense(), rtol=1e-5)
    np.testing.assert_allclose(3 * np.asarray(keras.ops.convert_to_numpy(teacher(X))), stored.to_dense(), rtol=1e-4)
    assert stored.verify(teacher, X) < 1e-5
