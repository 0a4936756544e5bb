"""Each generation has a new optimizer, also when all of them are trained by one compiled step."""

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import crossentropy
from keras import layers

from keras_ban import BornAgainSequence, Distiller

X, Y = make_blobs()
RATE = 0.01


@keras.saving.register_keras_serializable(package="test_optimizers_of_generations")
class ToTheStart(keras.optimizers.SGD):
    """Keeps the weights with which it was built, and goes back to them in each step."""

    def build(self, variables):
        super().build(variables)
        self.starts = []
        for variable in variables:
            start = self.add_variable_from_reference(variable, name="start", initializer="zeros")
            start.assign(keras.ops.copy(variable))
            self.starts.append(start)

    def update_step(self, gradient, variable, learning_rate):
        self.assign(variable, self.starts[self._get_variable_index(variable)])


def model(seed):
    """Kernels of size about 1. A model that is born again has about 0.05."""
    made = keras.Sequential([keras.Input((8,)), layers.Dense(3, kernel_initializer="random_normal")])
    rng = np.random.default_rng(seed)
    made.set_weights([rng.standard_normal((8, 3)), np.zeros(3)])
    return made


OPTIMIZERS = [ToTheStart(RATE), keras.optimizers.SGD(RATE, momentum=0.9), keras.optimizers.Adam(RATE)]
if hasattr(keras.optimizers, "ScheduleFreeAdamW"):
    OPTIMIZERS.append(keras.optimizers.ScheduleFreeAdamW(RATE))


def trained(optimizer, soft_targets):
    sequence = BornAgainSequence(model(0), generations=2, soft_targets=soft_targets, seed=1)
    sequence.compile(optimizer, crossentropy())
    sequence.fit(X, Y, epochs=1, batch_size=48, verbose=0)
    return [made.get_weights()[0] for made in sequence.models]


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=lambda each: type(each).__name__)
def test_generations_on_one_compiled_step_are_those_of_new_distillers(optimizer):
    # With "online" soft targets, each generation has a Distiller of its own. Their soft targets differ in rounding.
    for cached, online in zip(trained(optimizer, "cached"), trained(optimizer, "online"), strict=True):
        np.testing.assert_allclose(cached, online, rtol=1e-4, atol=1e-5)


def test_an_optimizer_that_starts_from_the_weights_starts_from_those_of_its_own_generation():
    kernels = trained(ToTheStart(RATE), "cached")
    # The optimizer leaves each generation where it started: `model(0)`, or what its seed drew, of a deviation of 0.05.
    for kernel, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(kernels[kernel] - kernels[other]).max() > 0.01
    assert all(0.02 < kernel.std() for kernel in kernels)


@pytest.mark.skipif(len(OPTIMIZERS) < 4, reason="This Keras has no ScheduleFreeAdamW.")
@pytest.mark.parametrize("teacher", [None, 2])
def test_a_distiller_moves_as_far_as_plain_keras_moves_a_model_whose_optimizer_is_built(teacher):
    plain, student = model(1), model(1)
    start = plain.get_weights()[0]
    plain.compile(keras.optimizers.ScheduleFreeAdamW(RATE), crossentropy())
    plain.optimizer.build(plain.trainable_variables)
    plain.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    arguments = {"label_weight": 1} if teacher is None else {"teacher": model(teacher)}
    distiller = Distiller(student=student, **arguments)
    distiller.compile(keras.optimizers.ScheduleFreeAdamW(RATE), crossentropy())
    distiller.fit(X, Y, batch_size=32, shuffle=False, verbose=0)
    moved = np.abs(student.get_weights()[0] - start).max()
    assert moved < 3.5 * RATE  # Three steps. From zeros, it moved by the size of the weights.
    if teacher is None:
        np.testing.assert_allclose(student.get_weights()[0], plain.get_weights()[0], rtol=1e-6)


# Each step of decay takes a tenth of a weight. The gradients move it by less than 1e-5.
DECAY = {"learning_rate": 1e-6, "weight_decay": 1e5}
DECAYING = {
    "SGD": lambda: keras.optimizers.SGD(**DECAY),
    "AdamW": lambda: keras.optimizers.AdamW(**DECAY),
    "a schedule": lambda: keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(1e-6, 1000), weight_decay=1e5),
    "LossScaleOptimizer": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(**DECAY), initial_scale=1.0),
}


def named_ones(seed=0):
    ones = {"kernel_initializer": "ones", "bias_initializer": "ones"}
    return keras.Sequential([keras.Input((8,)), layers.Dense(3, **ones)])


def without_decay(make, **names):
    optimizer = make()
    getattr(optimizer, "inner_optimizer", optimizer).exclude_from_weight_decay(**names)
    return optimizer


class KeepLast(keras.callbacks.Callback):
    def on_train_end(self, logs=None):
        type(self).trained = self.model


def assert_only_the_kernel_decayed(model):
    kernel, bias = model.get_weights()
    assert kernel.max() < 0.95
    np.testing.assert_allclose(bias, 1.0, atol=1e-3)  # A decay would have taken a tenth.


@pytest.mark.parametrize("soft_targets", ["cached", "online"])
@pytest.mark.parametrize("make", DECAYING.values(), ids=list(DECAYING))
def test_what_is_excluded_from_weight_decay_is_excluded_in_each_generation_and_after_loading(
    make, soft_targets, tmp_path
):
    sequence = BornAgainSequence(
        named_ones(), generations=2, seed=1, soft_targets=soft_targets, directory=tmp_path, controls=("longer",)
    )
    sequence.compile(without_decay(make, var_names=["bias", "gamma"]), crossentropy())
    sequence.fit(X, Y, epochs=1, batch_size=48, verbose=0, validation_data=(X, Y), callbacks=[KeepLast()])
    assert all(KeepLast.trained is not model for model in sequence.models)  # The control is trained last.
    for model in [*sequence.models, KeepLast.trained]:
        assert_only_the_kernel_decayed(model)
    loaded = BornAgainSequence.load(tmp_path).models[0]
    loaded.fit(X, Y, batch_size=48, verbose=0)
    assert_only_the_kernel_decayed(loaded)


@pytest.mark.one_backend
def test_a_run_is_not_continued_with_other_exclusions_from_weight_decay(tmp_path):
    def trained(**names):
        sequence = BornAgainSequence(named_ones(), generations=1, seed=1, directory=tmp_path)
        sequence.compile(without_decay(DECAYING["SGD"], **names), crossentropy())
        sequence.fit(X, Y, epochs=1, batch_size=48, verbose=0)

    trained(var_names=["bias"])
    trained(var_names=["bias"])
    with pytest.raises(ValueError, match="excluded_from_weight_decay"):
        trained(var_names=["kernel"])


@pytest.mark.one_backend
@pytest.mark.parametrize("make", DECAYING.values(), ids=list(DECAYING))
def test_variables_of_one_model_are_not_excluded_from_the_weight_decay_of_others(make):
    model = named_ones()
    optimizer = without_decay(make, var_list=[model.layers[0].bias])
    with pytest.raises(ValueError, match=r"`exclude_from_weight_decay\(var_list=...\)` .* use `var_names`"):
        BornAgainSequence(model).compile(optimizer, crossentropy())
