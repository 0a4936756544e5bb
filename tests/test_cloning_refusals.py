"""`reborn` refuses a model that it cannot rebuild, and says why."""

import functools
import re

import keras
import numpy as np
import pytest
from helpers.models import Perceptron
from keras import layers

import keras_ban

pytestmark = pytest.mark.one_backend


def called(model):
    model(np.ones((8, 3), "float32"))
    return model


def changed(model, **attributes):
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


class Top(keras.Model):
    """Without a `get_config`, as its subclasses are."""

    def call(self, inputs):
        return self.top(inputs)


class Needing(Top):
    def __init__(self, units):
        super().__init__(name="needing")
        self.top = layers.Dense(units)


class Defaulting(Top):
    def __init__(self, units=4, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.top = keras.Sequential([layers.Dense(units), layers.Dropout(rate)])


class DefaultingGraph(keras.Model):
    def __init__(self, units=4, rate=0.1, **kwargs):
        inputs = keras.Input((3,))
        super().__init__(inputs, layers.Dropout(rate)(layers.Dense(units)(inputs)), **kwargs)


class Forgetful(Perceptron):
    """Its `get_config` leaves an argument out."""

    def __init__(self, units=4, activity=0.0, **kwargs):
        super().__init__(units, **kwargs)


class Taking(Top):
    """Takes its arguments from `kwargs`, and loses them."""

    def __init__(self, **kwargs):
        units = kwargs.pop("units", 4)
        super().__init__(**kwargs)
        self.top = layers.Dense(units)


class Stack(keras.Sequential):
    """Adds its own layers. Its configuration would add them again."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.add(layers.Dense(units))


class Seeded(Top):
    """Its seed stands in its code."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.top = layers.Dense(3, kernel_initializer=keras.initializers.GlorotUniform(seed=1))


class Noisy(layers.Layer):
    """The seed of its generator stands in its code, as in the example of `keras.random.SeedGenerator`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.seed_generator = keras.random.SeedGenerator(1337)

    def call(self, inputs):
        return keras.random.dropout(inputs, 0.5, seed=self.seed_generator)


class Holding(Top):
    """Its configuration holds a layer itself."""

    def __init__(self, top, **kwargs):
        super().__init__(**kwargs)
        self.top = top

    def get_config(self):
        return {**super().get_config(), "top": self.top}


class Add(layers.Layer):
    """Not registered. Keras writes the operation of `+` by the same name."""

    def call(self, inputs):
        return inputs[0] + inputs[1]


def two_named_add():
    inputs = keras.Input((3,))
    return keras.Model(inputs, Add()([layers.Dense(3)(inputs), inputs]) + inputs)


def two_named_same():
    other = type("Add", (Add,), {"__module__": "elsewhere"})
    inputs = keras.Input((3,))
    return keras.Model(inputs, Add()([other()([layers.Dense(3)(inputs), inputs]), inputs]))


def quantized(mode):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4, name="first"), layers.Dense(2)])
    # Not the whole model, for which Keras warns of its `InputLayer`.
    model.layers[0].quantize(mode)
    return model


def of_functions(*functions):
    return keras.Sequential([keras.Input((3,)), *(layers.Dense(2, activation=each) for each in functions)])


def leaky_relu(x):
    """Keras has another of this name."""
    return keras.ops.leaky_relu(x, 0.5)


class Bare(layers.Layer):
    """Its constructor takes no `name`, `trainable` and `dtype`, which a file would pass."""

    def __init__(self, units):
        super().__init__()
        self.units, self.top = units, layers.Dense(units)

    def build(self, shape):
        self.top.build(shape)

    def call(self, inputs):
        return self.top(inputs)


LOST = "does not hold the constructor's arguments ['units', 'rate']"
REFUSED = {
    "no_get_config": (lambda: Needing(3), ["its class has no `get_config`"]),
    "no_get_config, built": (lambda: called(Needing(3)), ["its class has no `get_config`"]),
    "defaults of units": (lambda: Defaulting(units=7), [LOST]),
    "defaults of units, built": (lambda: called(Defaulting(units=7)), [LOST]),
    "defaults of rate": (lambda: Defaulting(rate=0.9), [LOST]),
    "defaults of rate, built": (lambda: called(Defaulting(rate=0.9)), [LOST]),
    "defaults of units, functional": (lambda: DefaultingGraph(units=7), [LOST]),
    "defaults of rate, functional": (lambda: DefaultingGraph(rate=0.9), [LOST]),
    "forgetful": (lambda: Forgetful(5, 1.0), ["does not hold the constructor's arguments ['activity']"]),
    "from kwargs": (lambda: called(Taking(units=7)), ["weights of other shapes than it has"]),
    "layers twice": (lambda: called(Stack(7)), []),
    "other layers": (
        lambda: changed(called(Perceptron(4)), batch_norm=True),
        ["its configuration gives other layers than it has"],
    ),
    "other weights": (
        lambda: changed(called(Perceptron(4)), units=5),
        ["its configuration gives weights of other shapes than it has"],
    ),
    "a layer in the configuration": (
        lambda: called(Holding(layers.Dense(2, name="inner"))),
        ["share ['inner'] with it"],
    ),
    "an unbuilt layer": (lambda: Holding(layers.Dense(2, name="inner")), ["share ['inner'] with it"]),
    "a class and an operation": (two_named_add, ["two classes that Keras knows as 'Add': ", "numpy.Add", "Decorate"]),
    "a partial function": (
        lambda: of_functions(functools.partial(keras.ops.leaky_relu, negative_slope=0.1)),
        ["it has no configuration: Cannot serialize object functools.partial", "build(generation)"],
    ),
    "two classes": (two_named_same, ["two classes that Keras knows as 'Add': ", ".Add and ", "elsewhere.Add"]),
    "int8": (lambda: quantized("int8"), ["'first' is quantized to 'int8'", "frozen layers"]),
    "int8, frozen as a whole": (lambda: changed(quantized("int8"), trainable=False), ["quantized to 'int8'"]),
    "a dtype in no configuration": (
        lambda: keras.Sequential([keras.Input((3,)), changed(Bare(2), dtype_policy=keras.DTypePolicy("bfloat16"))]),
        ["does not take its `dtype`"],
    ),
    "int4": (lambda: quantized("int4"), ["'first' is quantized to 'int4'"]),
    "seed in the code": (lambda: called(Seeded()), ["'kernel_initializer': 1", "stand in the code of its class"]),
    "generator in the code": (
        lambda: keras.Sequential([keras.Input((4,)), Noisy(), layers.Dense(2)]),
        ["'seed_generator': 1337", "stand in the code of its class"],
    ),
}


@pytest.mark.parametrize(("make", "reasons"), REFUSED.values(), ids=REFUSED.keys())
def test_a_model_that_would_come_back_as_another_is_refused(make, reasons):
    model = make()
    with pytest.raises(ValueError) as caught:
        keras_ban.reborn(model)
    message = str(caught.value)
    assert f"The model '{model.name}' (of type {type(model).__name__}) cannot be born again by cloning: " in message
    assert "`build(generation)`" in message
    assert [] == [reason for reason in reasons if reason not in message], message


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("arguments", [{"units": 7}, {"rate": 0.9}], ids=str)
def test_a_model_around_one_that_cannot_be_rebuilt_is_refused(arguments, built):
    inner = Defaulting(**arguments, name="defaulting")
    around = keras.Sequential([keras.Input((3,)), called(inner) if built else inner])
    with pytest.raises(ValueError, match="'defaulting'"):
        keras_ban.reborn(around)


@pytest.mark.parametrize("wrong", [None, "model", lambda generation: None, 3, layers.Dense(2), keras.Sequential])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(TypeError, match=re.escape("`model` must be a `keras.Model`, received: ")):
        keras_ban.reborn(wrong)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: of_functions(leaky_relu), "cannot be kept in a directory: the function 'leaky_relu' of its layer"),
        (lambda: of_functions(lambda x: 2 * x), r"Write functions with a name \(`def`\) in place of each `lambda`"),
        (lambda: keras.Sequential([keras.Input((3,)), Bare(2)]), r"Let `Bare.__init__` take `\*\*kwargs`, and pass"),
    ],
    ids=["a function of Keras's name", "a lambda", "a constructor without **kwargs"],
)
@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_what_a_file_does_not_hold_is_refused_with_a_directory(make, message, tmp_path):
    x, y = np.ones((4, 3), "float32"), np.zeros(4, "int32")
    sequence = keras_ban.BornAgainSequence(lambda generation: make(), directory=tmp_path)
    sequence.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(ValueError, match=message):
        sequence.fit(x, y, verbose=0)
