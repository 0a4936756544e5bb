"""Members of an `EnsembleModel` get the same inputs."""

import re

import keras
import numpy as np
import pytest
from keras import layers

from keras_ban import EnsembleModel


def _one(shape, name=None, sequential=False):
    inputs = keras.Input(shape, name=name)
    rest = [layers.Flatten(), layers.Dense(3, activation="linear")]
    if sequential:
        return keras.Sequential([inputs, *rest])
    return keras.Model(inputs, rest[1](rest[0](inputs)))


def _images(shape, sequential=False):
    parts = [layers.Conv2D(2, 3), layers.GlobalAveragePooling2D(), layers.Dense(3, activation="linear")]
    if sequential:
        return keras.Sequential([keras.Input(shape), *parts])
    inputs = outputs = keras.Input(shape)
    for part in parts:
        outputs = part(outputs)
    return keras.Model(inputs, outputs)


def _of_dict(**shapes):
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    parts = [layers.Flatten()(each) for each in inputs.values()]
    parts = layers.Concatenate()(parts) if len(parts) > 1 else parts[0]
    return keras.Model(inputs, layers.Dense(3, activation="linear")(parts))


def _of_list(*shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, layers.Dense(3, activation="linear")(layers.Concatenate()(inputs)))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "members, data",
    [
        (lambda: [_one((4,)), _one((4,), sequential=True)], (4,)),
        (lambda: [_one((4,)), _one((4, 1))], (4,)),
        (lambda: [_images((None, None, 3)), _images((8, 8, 3))], (8, 8, 3)),
        (lambda: [_images((8, 8, 3)), _images((6, 6, 3), sequential=True)], (8, 8, 3)),
        (lambda: [_of_dict(a=(4,), b=(5,)), _of_dict(a=(4,))], {"a": (4,), "b": (5,)}),
        (lambda: [_of_list((4,), (5,)), _of_list((4,), (5,))], [(4,), (5,)]),
    ],
)
def test_members_whose_inputs_can_be_the_same_are_averaged(members, data):
    def ones(shapes):
        if isinstance(shapes, dict):
            return {name: ones(shape) for name, shape in shapes.items()}
        return [ones(shape) for shape in shapes] if isinstance(shapes, list) else np.ones((2, *shapes), "float32")

    assert (2, 3) == EnsembleModel(members())(ones(data)).shape


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "members, shapes",
    [
        (lambda: [_one((4,)), _one((5,))], "(None, 4)|(None, 5)"),
        (lambda: [_one((4,)), _one((4,)), _one((4, 2))], "(None, 4)|(None, 4, 2)"),
        (lambda: [_one((4,), sequential=True), _one((5,))], "(None, 4)|(None, 5)"),
        (lambda: [_one((4,), sequential=True), _one((5,), sequential=True)], "(None, 4)|(None, 5)"),
        (lambda: [_images((8, 8, 3)), _images((6, 6, 3))], "(None, 8, 8, 3)|(None, 6, 6, 3)"),
        (lambda: [_images((8, 8, 3)), _images((8, 8, 1), sequential=True)], "(None, 8, 8, 3)|(None, 8, 8, 1)"),
        (lambda: [_of_dict(a=(4,), b=(5,)), _of_dict(a=(6,))], "{'a': (None, 4), 'b': (None, 5)}|{'a': (None, 6)}"),
        (
            lambda: [_of_list((4,), (5,)), _of_list((4,), (5,), (6,))],
            "[(None, 4), (None, 5)]|[(None, 4), (None, 5), (None, 6)]",
        ),
    ],
)
def test_members_whose_inputs_differ_are_refused_with_names_and_shapes(members, shapes):
    members = members()
    first, other = (re.escape(each) for each in shapes.split("|"))
    names = f"'{members[0].name}' .*{first}, and '{members[-1].name}' .*{other}"
    with pytest.raises(ValueError, match=f"get the same inputs, but {names}"):
        EnsembleModel(members)
