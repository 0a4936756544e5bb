"""Dicts of labels, weights and losses name the outputs of the model, or training does not begin."""

import re

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import crossentropy

from keras_ban import BornAgainSequence, Distiller
from keras_ban.losses import KnowledgeDistillation

X = np.random.default_rng(0).normal(size=(24, 4)).astype("float32")
Y = np.arange(24) % 3
W = np.ones(24, "float32")
NAMES = {"one": ["a"], "list": ["a", "b"], "dict": ["a", "b"]}
PARTS = ("labels", "sample_weight", "loss", "loss_weights", "validation labels", "validation weights")
KEYS = ("wrong", "extra", "missing")
EVERYWHERE = [("one", "labels", "wrong"), ("list", "validation labels", "extra"), ("dict", "sample_weight", "missing")]
# What Keras takes: outputs without a loss, and a weight under any name for the only loss.
TAKEN = [("dict", "loss", "missing"), ("one", "loss_weights", "wrong")]


def model(kind):
    inputs = keras.Input((4,))
    a, b = (keras.layers.Dense(3, activation="linear", name=name)(inputs) for name in "ab")
    return keras.Model(inputs, {"one": a, "list": [a, b], "dict": {"a": a, "b": b}}[kind])


def distiller(kind, of=Distiller):
    return of(student=model(kind), teacher=model(kind), distillation_loss=KnowledgeDistillation())


def plain(kind, value):
    return {"one": value, "list": [value, value], "dict": {"a": value, "b": value}}[kind]


def with_keys(kind, keys, value):
    names = NAMES[kind]
    names = {"wrong": ["other", *names[1:]], "extra": [*names, "other"], "missing": names[:-1]}[keys]
    return dict.fromkeys(names, value)


def arguments_of(kind, part, keys):
    """`(arguments of compile, arguments of fit)`, in which one part is a dict with these keys."""
    labels = plain(kind, Y)
    compiled = {"optimizer": "sgd", "loss": plain(kind, crossentropy()), "loss_weights": None}
    fitted = {"y": labels, "sample_weight": None, "validation_data": (X, labels)}
    given = {"labels": Y, "sample_weight": W, "loss": crossentropy(), "loss_weights": 1.0}
    value = with_keys(kind, keys, given.get(part, W if part == "validation weights" else Y))
    if part in compiled:
        compiled[part] = value
    elif part == "labels":
        fitted["y"] = value
    elif part == "sample_weight":
        fitted["sample_weight"] = value
    else:
        fitted["validation_data"] = (X, value) if part == "validation labels" else (X, labels, value)
    return compiled, fitted


def cases():
    cases = [(kind, part, keys) for kind in NAMES for part in PARTS for keys in KEYS]
    cases = [case for case in cases if case not in TAKEN and (case[0], case[2]) != ("one", "missing")]
    return [pytest.param(*case, marks=[] if case in EVERYWHERE else [pytest.mark.one_backend]) for case in cases]


@pytest.mark.parametrize("of", ["Distiller", pytest.param("sequence", marks=pytest.mark.one_backend)])
@pytest.mark.parametrize("kind, part, keys", cases())
def test_wrong_keys_are_named_before_training(kind, part, keys, of):
    compiled, fitted = arguments_of(kind, part, keys)
    if of == "Distiller":
        made = distiller(kind)
    else:
        made = BornAgainSequence(model(kind), generations=1, distillation_loss=KnowledgeDistillation())
    begun = []
    note = keras.callbacks.LambdaCallback(on_train_begin=lambda logs: begun.append(True))
    with pytest.raises(ValueError) as error:
        made.compile(**compiled)
        made.fit(X, **fitted, callbacks=[note], verbose=0)

    message = str(error.value)
    assert not begun
    names = {"labels": "`y`", "validation labels": "`validation_data[1]`", "validation weights": "`validation_data[2]`"}
    assert names.get(part, f"`{part}`") in message
    if (kind, part) != ("one", "loss_weights"):
        assert all(repr(key) in message for key in with_keys(kind, keys, None))
        assert kind != "one" or "weight" in part or "one output, 'a'" in message or "Expected keys ['a']" in message
        assert kind == "one" or "['a', 'b']" in message or "a list of 2" in message


@pytest.mark.parametrize("kind", NAMES)
def test_right_keys_train(kind):
    made = distiller(kind)
    made.compile("sgd", plain(kind, crossentropy()))
    labels = {"a": Y, "b": Y} if kind != "one" else Y
    weights = {"one": W, "list": None, "dict": {"a": W, "b": W}}[kind]
    history = made.fit(X, labels, sample_weight=weights, validation_data=(X, labels, weights), verbose=0)

    assert np.isfinite(history.history["val_loss"]).all()


@pytest.mark.one_backend
@pytest.mark.parametrize("weights", [W, {"a": W, "b": W}])
def test_labels_by_name_do_not_go_with_weights_of_a_list_of_outputs(weights):
    made = distiller("list")
    made.compile("sgd", plain("list", crossentropy()))
    with pytest.raises(ValueError, match="With `sample_weight`, `y` cannot be a dict, .* Pass `y` as a list"):
        made.fit(X, {"a": Y, "b": Y}, sample_weight=weights, verbose=0)  # Keras raises KeyError(0).


@pytest.mark.one_backend
def test_labels_of_outputs_without_a_loss_may_be_left_out():
    made = distiller("dict")
    made.compile("sgd", {"b": crossentropy()})
    made.fit(X, {"b": Y}, verbose=0)
    with pytest.raises(ValueError, match=re.escape("['a']. Expected keys ['a', 'b']")):
        made.fit(X, {"a": Y}, verbose=0)  # Keras would take them for those of "b".


@pytest.mark.one_backend
def test_datasets_and_models_without_names_are_told_too():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(3, activation="linear")

        def call(self, x):
            return {"a": self.dense(x)}

    made = distiller("one")
    made.compile("sgd", crossentropy())

    class Named(Batches):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            return x, {"other": y}

    with pytest.raises(ValueError, match="keys \\['other'\\], but the model .* has one output, 'a'"):
        made.fit(Named(X, Y), verbose=0)
    with pytest.raises(ValueError, match=re.escape("keys ['other']. Expected keys ['a']")):
        student, teacher = Subclassed(), Subclassed()
        student(X), teacher(X)
        made = Distiller(student=student, teacher=teacher, distillation_loss=KnowledgeDistillation())
        made.compile("sgd", crossentropy())
        made.fit(X, {"other": Y}, verbose=0)


@pytest.mark.one_backend
def test_own_label_losses_may_take_labels_that_keras_does_not():
    class Own(Distiller):
        def compute_label_loss(self, x, y, y_pred, sample_weight, training):
            return keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y["a"], y_pred, from_logits=True))

    made = distiller("one", Own)
    made.compile("sgd")
    history = made.fit(X, {"a": Y}, verbose=0)

    assert np.isfinite(history.history["label_loss"]).all()
