"""`mixed_float16`: losses are scaled, or small gradients become 0 and nothing moves."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_ban

# The gradient of the loss is about 1e-8, which is 0 in float16. The learning rate makes up for it.
X = np.full((8, 2), 1e-4, "float32")
Y = np.zeros((8, 1), "float32")
RATE = 1e7


def model():
    """`x @ [[1], [1]]` in float16; made under the policy, which is no longer in force."""
    keras.config.set_dtype_policy("mixed_float16")
    made = keras.Sequential([keras.Input((2,)), layers.Dense(1, use_bias=False, kernel_initializer="ones")])
    keras.config.set_dtype_policy("float32")
    return made


def reloaded(path):
    model().save(path / "model.keras")
    return keras.saving.load_model(path / "model.keras")


def reborn(path):
    clone = keras_ban.reborn(model())
    clone.set_weights(model().get_weights())
    return clone


def inside_another(path):
    """Only a layer of it has the policy."""
    return keras.Sequential([keras.Input((2,)), model()])


def ensemble(member):
    return keras_ban.EnsembleModel([member], average="outputs")


def distiller(student):
    return keras_ban.Distiller(student=student, teacher=model(), label_weight=1)


@pytest.mark.parametrize("wrap", [ensemble, distiller, lambda model: distiller(ensemble(model))])
@pytest.mark.parametrize("make", [lambda path: model(), reloaded, reborn, inside_another])
def test_models_around_half_precision_models_scale_their_loss(tmp_path, make, wrap):
    wrapped = wrap(make(tmp_path))
    wrapped.compile(keras.optimizers.SGD(RATE), "mse")
    assert isinstance(wrapped.optimizer, keras.optimizers.LossScaleOptimizer)

    wrapped.fit(X, Y, batch_size=8, epochs=1, verbose=0)

    # The gradient of the mean of (x @ w - y)**2 in float64, at w = [1, 1].
    x = X.astype("float64")
    expected = 1 - RATE * 2 * (x * x.sum(axis=1, keepdims=True)).mean(axis=0)
    # float16 has 11 bits.
    np.testing.assert_allclose(wrapped.trainable_variables[0].numpy()[:, 0], expected, rtol=2e-3)


@pytest.mark.one_backend
def test_without_half_precision_nothing_is_scaled():
    plain = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    for wrapped in (ensemble(plain), keras_ban.Distiller(student=plain, label_weight=1)):
        wrapped.compile(keras.optimizers.SGD(1.0), "mse")
        assert isinstance(wrapped.optimizer, keras.optimizers.SGD)


@pytest.mark.one_backend
def test_a_model_that_is_born_again_has_the_policy_of_the_model_itself():
    clone = keras_ban.reborn(model())
    assert "mixed_float16" == clone.dtype_policy.name
    clone.compile(keras.optimizers.SGD(1.0), "mse")
    assert isinstance(clone.optimizer, keras.optimizers.LossScaleOptimizer)
