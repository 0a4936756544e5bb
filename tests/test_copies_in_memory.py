"""Copies of what no file holds: lambdas, functions of one name, and constructors without `**kwargs`."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import keras_ban

X = np.random.default_rng(0).standard_normal((8, 4)).astype("float32")


class Repeat(layers.Layer):
    """As in many tutorials: `get_config` holds what the constructor takes, which takes nothing of Keras's."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def call(self, inputs):
        return ops.concatenate([inputs] * self.times, axis=-1)

    def get_config(self):
        return {**super().get_config(), "times": self.times}


class Block(layers.Layer):
    """As in Keras's guides: neither a `get_config` nor a `build`, and layers within."""

    def __init__(self, units, rate=0.1):
        super().__init__()
        self.dense, self.dropout, self.repeat = layers.Dense(units, "relu"), layers.Dropout(rate), Repeat(2)

    def call(self, inputs, training=None):
        return self.repeat(self.dropout(self.dense(inputs), training=training))


class Network(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.top = Block(3), layers.Dense(2)

    def call(self, inputs):
        return self.top(self.block(inputs))


class Graph(keras.Model):
    def __init__(self):
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(2)(Block(3)(inputs)))


class Activated(layers.Layer):
    """As many custom layers: `get_config` holds the functions themselves, and `from_config` is Keras's."""

    def __init__(self, units, first, last, **kwargs):
        super().__init__(**kwargs)
        self.units, self.first, self.last = units, first, last
        self.inner = [layers.Dense(units, activation=last), layers.Dense(units, activation=first)]

    def build(self, shape):
        for layer in self.inner:
            layer.build(shape)

    def call(self, inputs):
        return self.inner[1](self.inner[0](inputs))

    def get_config(self):
        return {**super().get_config(), "units": self.units, "first": self.first, "last": self.last}


class Alone(Activated):
    """Its constructor takes nothing of Keras's."""

    def __init__(self, units, first, last):
        super().__init__(units, first, last)


class Scaled(keras.initializers.Initializer):
    def __init__(self, scale=1.0):
        self.scale = scale

    def __call__(self, shape, dtype=None):
        return self.scale * keras.random.normal(shape, dtype=dtype)

    def get_config(self):
        return {"scale": self.scale}


class Squared(keras.regularizers.Regularizer):
    def __call__(self, weight):
        return ops.sum(weight**2)

    def get_config(self):
        return {}


class Clipped(keras.constraints.Constraint):
    def __call__(self, weight):
        return ops.clip(weight, -0.1, 0.1)


def leaky_relu(x):
    """Keras has another of this name."""
    return ops.leaky_relu(x, 0.5)


def halved(x):
    return x / 2


def slope(negative):
    def sloping(x):
        return ops.leaky_relu(x, negative)

    return sloping


def stacked(*between):
    return keras.Sequential([keras.Input((4,)), *between, layers.Dense(2)])


def called(model):
    model(X)
    return model


def frozen():
    model = stacked(Block(3, rate=0.5))
    model.layers[0].trainable = False
    return model


def with_lora():
    model = stacked(layers.Dense(8, activation=lambda x: 2 * x), Repeat(1))
    model.layers[0].enable_lora(2)
    return model


def of_parts():
    return layers.Dense(
        4, kernel_initializer=Scaled(2.0), kernel_regularizer=Squared(), kernel_constraint=Clipped(), name="parts"
    )


def of_lambdas():
    return layers.Dense(
        4,
        activation=lambda x: 0.5 * x,
        kernel_initializer=lambda shape, dtype=None: 3 * keras.random.normal(shape, dtype=dtype),
    )


MODELS = {
    "a subclass without arguments": lambda: called(Network()),
    "a subclass, not built": Network,
    "a functional subclass": Graph,
    "blocks": lambda: stacked(Repeat(3), Block(3, rate=0.5)),
    "a frozen block": frozen,
    "Lambda": lambda: stacked(layers.Lambda(lambda x: 3 * x), layers.Lambda(lambda x: x**2)),
    "lambdas of a layer": lambda: stacked(of_lambdas()),
    "functions of one name": lambda: stacked(*(layers.Dense(4, slope(each)) for each in (0.1, 0.2))),
    "a function of Keras's name": lambda: stacked(layers.Dense(4, leaky_relu)),
    "classes of parts": lambda: stacked(of_parts()),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_the_copy_computes_what_the_model_does_and_is_told_apart_as_it_is(make):
    model = make()
    copy = keras_ban.reborn(model)
    assert [layer.name for layer in model.layers] == [layer.name for layer in copy.layers]
    assert [layer.trainable for layer in model.layers] == [layer.trainable for layer in copy.layers]
    assert "leaky_relu" == leaky_relu.__name__
    for each in (model, copy):
        each(X)
        assert "get_config" not in vars(each) and all("get_config" not in vars(layer) for layer in each.layers)
    weights = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
    drawn = [ops.convert_to_numpy(weight) for weight in copy.trainable_weights]
    assert all(np.any(old != new) for old, new in zip(weights, drawn, strict=True) if old.ndim > 1)
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(X, verbose=0), copy.predict(X, verbose=0))
    penalties = [[float(ops.convert_to_numpy(loss)) for loss in each.losses] for each in (model, copy)]
    assert penalties[0] == penalties[1]


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_generations_are_trained(make):
    sequence = keras_ban.BornAgainSequence(make(), generations=1, seed=0)
    sequence.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = sequence.fit(X, np.arange(8) % 2, verbose=0)
    assert 2 == len(history.records)


KEPT = {
    "lambdas": lambda: stacked(Activated(4, lambda x: 3 * x, lambda x: x**2)),
    "functions of one name": lambda: stacked(Activated(4, slope(0.1), slope(0.2))),
    "a function of Keras's name": lambda: stacked(Activated(4, leaky_relu, halved)),
    "without **kwargs": lambda: stacked(Alone(4, lambda x: 3 * x, halved)),
    "LoRA": with_lora,
}


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT.keys())
def test_copies_of_copies_have_the_functions_of_the_first(make):
    model = called(make())
    copy = keras_ban.reborn(keras_ban.reborn(keras_ban.reborn(model)))
    copy.set_weights(model.get_weights())
    np.testing.assert_array_equal(model.predict(X, verbose=0), copy.predict(X, verbose=0))


def test_a_layer_that_keeps_its_functions_is_kept_in_a_directory(tmp_path):
    model = stacked(Activated(4, halved, halved))
    sequence = keras_ban.BornAgainSequence(model, generations=2, directory=tmp_path)
    sequence.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sequence.fit(X, np.arange(8) % 2, verbose=0)
    classes = {"Activated": Activated, "halved": halved}
    loaded = keras_ban.BornAgainSequence.load(tmp_path, custom_objects=classes)
    for old, new in zip(sequence.models, loaded.models, strict=True):
        np.testing.assert_array_equal(old.predict(X, verbose=0), new.predict(X, verbose=0))
