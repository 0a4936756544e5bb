"""The order in which a sequence trains on the examples of arrays."""

import keras
import numpy as np
import pytest
from helpers.models import assert_same, crossentropy
from helpers.training import fit_in_order, interrupted_after

from keras_ban import BornAgainSequence
from keras_ban._src import backend
from keras_ban._src.distillation.shuffling import OrderOfEpoch


class Seen(keras.layers.Layer):
    """Passes examples on, and notes the first number of each; only where steps are not compiled."""

    def call(self, x, training=None):
        if training and not isinstance(x, keras.KerasTensor) and len(x) == 8:
            seen.append(keras.ops.convert_to_numpy(x)[:, 0].astype(int).tolist())
        return x


seen = []


def orders(directory=None, **arguments):
    """The orders in which 24 examples are seen, by generation and epoch."""
    x, y = np.arange(24, dtype="float32")[:, None], np.zeros(24, "int64")
    model = keras.Sequential([keras.Input((1,)), Seen(), keras.layers.Dense(3)])
    made = BornAgainSequence(model, generations=1, seed=0, directory=directory)
    made.compile("sgd", crossentropy(), run_eagerly=True)
    seen.clear()
    made.fit(x, y, batch_size=8, epochs=2, verbose=0, **arguments)
    return by_epoch()


def by_epoch():
    return [[each for batch in seen[i : i + 3] for each in batch] for i in range(0, len(seen), 3)]


@pytest.mark.filterwarnings("ignore::UserWarning")  # `Seen` is not registered with Keras.
def test_each_epoch_and_generation_has_its_own_order_from_the_seed_and_after_a_resume_too(tmp_path):
    expected = orders()

    assert [list(range(24))] * 4 == [sorted(order) for order in expected]
    assert 4 == len({tuple(order) for order in expected})
    with interrupted_after(0):
        orders(tmp_path)
    assert expected[:1] == by_epoch()
    assert expected[1:] == orders(tmp_path)
    assert [list(range(24))] * 4 == orders(shuffle=False)
    if not backend.shuffles_each_epoch_anew():
        within = orders(shuffle="batch")
        assert [[0] * 8 + [1] * 8 + [2] * 8] * 4 == [[each // 8 for each in order] for order in within]
        assert 4 == len({tuple(order) for order in within})


@pytest.mark.parametrize("case", ["plain", "weights", "class weights", "two outputs"])
def test_data_in_the_order_of_the_epoch_train_as_keras_trains_them(blobs, case):
    """Where nothing is shuffled apart: one batch of all, which TensorFlow alone is given in another way."""
    x, y = blobs
    x = x.astype("float64")
    inputs = keras.Input((8,))
    one, other = keras.layers.Dense(3, "linear"), keras.layers.Dense(3, "linear")
    nested = case == "two outputs"
    model = keras.Model(inputs, [one(inputs), other(inputs)] if nested else one(inputs))
    loss = [crossentropy(), crossentropy()] if nested else crossentropy()
    data = (x, [y, y[::-1].copy()]) if nested else (x, y)
    options = {"batch_size": 96, "epochs": 2, "verbose": 0}
    if case in ("weights", "two outputs"):
        options["sample_weight"] = np.linspace(0, 1, 96)
    if case == "class weights":
        options["class_weight"] = {0: 3.0, 2: 0.5}
    start, after = [weight.copy() for weight in model.get_weights()], []
    for way in ("keras", "ours"):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        if way == "keras":
            model.fit(*data, **options)
        else:
            fit_in_order(model, 1, *data, **options)
        after.append(model.get_weights())

    for expected, actual in zip(*after, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)  # float32 sums in another order


@pytest.mark.one_backend
def test_orders_follow_from_the_seed_and_the_epoch_alone():
    order, other = OrderOfEpoch(5, 10), OrderOfEpoch(6, 10)
    order.on_epoch_begin(3)

    assert_same([np.random.default_rng([5, 3]).permutation(10)] * 2, [order(), order()])
    other.on_epoch_begin(3)
    assert order().tolist() != other().tolist()
