"""`reborn`: weights that are frozen one by one, LoRA, quantized layers, and weights that no seed changes."""

import keras
import numpy as np
import pytest
from helpers.models import Perceptron, assert_same, values
from keras import layers

import keras_ban

ONE_BACKEND = pytest.mark.one_backend
RNG = np.random.default_rng(5)
X = RNG.standard_normal((8, 6)).astype("float32")


def dense():
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="first"), layers.Dense(2, name="top")])
    return model, model.layers[0]


def convolution():
    first = layers.Conv1D(5, 2, name="first")
    return keras.Sequential(
        [keras.Input((6,)), layers.Reshape((3, 2)), first, layers.Flatten(), layers.Dense(2)]
    ), first


def einsum():
    first = layers.EinsumDense("ab,bc->ac", (5,), bias_axes="c", name="first")
    return keras.Sequential([keras.Input((6,)), first, layers.Dense(2)]), first


def embedding():
    first = layers.Embedding(7, 4, name="first")
    lookup = layers.Rescaling(0.0, offset=3.0)
    return keras.Sequential([keras.Input((6,)), lookup, first, layers.Flatten(), layers.Dense(2)]), first


def subclassed():
    model = Perceptron(5, name="perceptron")
    model(X)
    return model, model.hidden


def nested():
    inner, first = dense()
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(2, name="outer_top")])
    return model, first


WITH_LORA = [
    pytest.param(dense, id="dense"),
    *(
        pytest.param(make, id=make.__name__, marks=ONE_BACKEND)
        for make in (convolution, einsum, embedding, nested, subclassed)
    ),
]


def by_name(layer):
    return {w.path.split("/")[-1]: keras.ops.convert_to_numpy(w.value).copy() for w in layer.weights}


def copy_of(layer, model):
    return next(each for each in model._flatten_layers() if each.name == layer.name)


def train(model):
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(X, np.ones((8, 2), "float32"), epochs=2, verbose=0)
    return model


@pytest.mark.parametrize("frozen", [False, True], ids=["trainable", "frozen as a whole"])
@pytest.mark.parametrize("make", WITH_LORA)
def test_a_lora_model_keeps_its_base_kernel_and_gets_fresh_lora_weights(make, frozen):
    model, layer = make()
    layer.enable_lora(2)
    train(model)
    trained = by_name(layer)
    model.trainable = not frozen
    before = values(model)

    clone = keras_ban.reborn(model)
    new = copy_of(layer, clone)
    at_birth = by_name(new)
    train(clone)
    afterwards = by_name(new)

    base = "embeddings" if "embeddings" in trained else "kernel"
    assert [base] == [v.path.split("/")[-1] for v in new.weights if not v.trainable]
    np.testing.assert_array_equal(trained[base], at_birth[base])
    np.testing.assert_array_equal(trained[base], afterwards[base])
    (a,) = [name for name in trained if name.endswith("_a")]
    (b,) = [name for name in trained if name.endswith("_b")]
    assert (trained[a] != at_birth[a]).all()
    assert trained[b].any() and not at_birth[b].any() and afterwards[b].any()
    assert_same(before, values(model))


def test_a_copy_of_a_copy_with_lora_keeps_the_same_kernel():
    model, layer = dense()
    layer.enable_lora(2)
    last = keras_ban.reborn(train(keras_ban.reborn(model)))
    np.testing.assert_array_equal(by_name(layer)["kernel"], by_name(copy_of(layer, last))["kernel"])


@pytest.mark.parametrize("make", [dense, pytest.param(subclassed, marks=ONE_BACKEND)])
def test_a_weight_that_is_frozen_alone_keeps_its_value_and_the_others_start_anew(make):
    model, layer = make()
    train(model)
    layer.bias.trainable = False
    new = copy_of(layer, clone := keras_ban.reborn(model))

    assert [False, True] == [new.bias.trainable, new.kernel.trainable]
    assert by_name(layer)["bias"].any()
    np.testing.assert_array_equal(by_name(layer)["bias"], by_name(new)["bias"])
    assert (by_name(layer)["kernel"] != by_name(new)["kernel"]).all()
    train(clone)
    np.testing.assert_array_equal(by_name(layer)["bias"], by_name(new)["bias"])


def test_a_frozen_layer_may_be_quantized_and_computes_the_same():
    model, layer = dense()
    train(model)
    layer.quantize("int8")
    layer.trainable = False
    clone = keras_ban.reborn(model)
    new = copy_of(layer, clone)

    expected, actual = (keras.ops.convert_to_numpy(each(X)) for each in (layer, new))
    assert expected.any()
    np.testing.assert_array_equal(expected, actual)
    train(clone)
    np.testing.assert_array_equal(expected, keras.ops.convert_to_numpy(new(X)))


@ONE_BACKEND
def test_a_quantized_model_with_lora_keeps_its_quantized_kernels():
    model, layer = dense()
    layer.enable_lora(2)
    for each in model.layers:
        each.quantize("int8")
    clone = keras_ban.reborn(model)

    for old, new in zip(model.layers, clone.layers, strict=True):
        fixed = [name for name in by_name(old) if name.startswith("kernel")]
        assert ["kernel", "kernel_scale"] == sorted(fixed)
        for name in fixed:
            assert by_name(old)[name].any()
            np.testing.assert_array_equal(by_name(old)[name], by_name(new)[name])
    lora = [name for name in by_name(layer) if name.startswith("lora")]
    assert 2 == len(lora)
    train(clone)
    for name in lora:
        assert by_name(clone.layers[0])[name].any()


# Weights that no seed changes.


class Weighing(layers.Layer):
    """Its `build` draws or computes the initial weights."""

    def __init__(self, initializer=None, fixed=False, **kwargs):
        super().__init__(**kwargs)
        self.fixed = fixed
        self.build_with = initializer

    def build(self, input_shape):
        self.factors = self.add_weight(
            shape=(input_shape[-1], 2), initializer=self.make(), trainable=not self.fixed, name="factors"
        )

    def call(self, inputs):
        return inputs @ self.factors

    def get_config(self):
        return {**super().get_config(), "fixed": self.fixed}


class Seeded(Weighing):
    def make(self):
        return keras.initializers.GlorotUniform(seed=1)


class OfNumPy(Weighing):
    def make(self):
        return lambda shape, dtype=None: np.random.default_rng(0).standard_normal(shape).astype(dtype or "float32")


class Identity(Weighing):
    def make(self):
        return lambda shape, dtype=None: keras.ops.eye(*shape, dtype=dtype)


class Unseeded(Weighing):
    def make(self):
        return "glorot_uniform"


class Ones(Weighing):
    def make(self):
        return "ones"


@keras.saving.register_keras_serializable(package="test_cloning_frozen_weights")
class OneDraw(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return keras.random.normal(shape, dtype=dtype, seed=1)


WARNED = {
    "seeded": (lambda: Seeded(name="only"), True),
    "NumPy": (lambda: OfNumPy(name="only"), True),
    "identity": (lambda: Identity(name="only"), True),
    "initializer": (lambda: layers.Dense(2, kernel_initializer=OneDraw(), name="only"), True),
    "unseeded": (lambda: Unseeded(name="only"), False),
    "ones": (lambda: Ones(name="only"), False),
    "a table": (lambda: Seeded(fixed=True, name="only"), False),
    "frozen": (lambda: Seeded(trainable=False, name="only"), False),
}
WARNED = [
    pytest.param(make, warned, id=name, marks=[] if name in ("seeded", "unseeded") else ONE_BACKEND)
    for name, (make, warned) in WARNED.items()
]


@pytest.mark.parametrize(("make", "warned"), WARNED)
def test_trainable_weights_that_are_the_same_in_each_copy_are_warned_of(make, warned, recwarn):
    model = keras.Sequential([keras.Input((6,)), make()])
    moved = [w + 1.0 for w in model.get_weights()]
    model.set_weights(moved)
    keras_ban.reborn(model)

    # torch warns of other things.
    found = [each for each in recwarn if each.category is UserWarning]
    messages = [str(each.message) for each in found]
    assert warned == bool(messages), messages
    if warned:
        (message,) = messages
        assert "only/" in message and "start from the same values in every generation" in message
        assert __file__ == found[0].filename


@ONE_BACKEND
def test_looking_for_same_starts_leaves_the_random_numbers_as_they_were():
    def weights(layer):
        model = keras.Sequential([keras.Input((6,)), layer, layers.Dense(3)])
        keras.utils.set_random_seed(4)
        return [keras_ban.reborn(model).get_weights()[1] for _ in range(2)]

    # Only the model with a custom layer is rebuilt a second time.
    for custom, plain in zip(weights(Unseeded()), weights(layers.Dense(2, use_bias=False)), strict=True):
        np.testing.assert_array_equal(custom, plain)


class OfGlobalNumPy(Weighing):
    def make(self):
        return lambda shape, dtype=None: np.random.standard_normal(shape).astype(dtype or "float32")


@ONE_BACKEND
def test_looking_for_same_starts_leaves_numpys_random_numbers_as_they_were():
    model = keras.Sequential([keras.Input((6,)), OfGlobalNumPy()])
    keras.utils.set_random_seed(4)
    (weight,) = keras_ban.reborn(model).get_weights()
    following = np.random.random()

    random = np.random.RandomState(4)
    np.testing.assert_array_equal(random.standard_normal((6, 2)).astype("float32"), weight)
    assert random.random_sample() == following


# Models of keras.applications use layers and operations of the same names.


@pytest.mark.slow
@ONE_BACKEND
def test_a_model_of_keras_applications_is_reborn():
    model = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3), alpha=0.25, weights=None, classes=3, include_preprocessing=False
    )
    clone = keras_ban.reborn(model)
    clone.set_weights(model.get_weights())
    images = RNG.random((2, 32, 32, 3), "float32")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(images)) for each in (model, clone)))
