"""One forward pass of a model that returns its outputs and the features of its layers."""

from typing import Any, NamedTuple

import keras

from keras_ban._src import backend
from keras_ban._src.losses.meaning import outputs_of


class Observed(NamedTuple):
    """The outputs of a model, and a list of tensors, the outputs of its named layers."""

    outputs: Any
    features: list


def split_observed(outputs):
    """Return `(outputs, features)`. The features are `None` if `outputs` is not `Observed`."""
    return outputs if isinstance(outputs, Observed) else (outputs, None)


class Observer:
    """Calls a model and returns `Observed`.

    It shares the model's layers. It is not a Keras object, so that Keras does not track it.

    Args:
        role: the name of the model in messages: `"student"` or `"teacher"`.
        model: a `keras.Sequential` or a functional model.
        names: names of its layers. Each must be called exactly once, and return one tensor.

    Attributes:
        features: the symbolic outputs of the named layers.
    """

    def __init__(self, role, model, names):
        graph = _graph(role, model)
        self.features = [_feature(role, model, graph, name) for name in names]
        self._model = keras.Model(graph.input, {"outputs": outputs_of(graph), "features": self.features})
        if not isinstance(model, keras.Sequential) and type(model).call is not type(self._model).call:
            raise ValueError(_subclassed(role, model))

    def __call__(self, x, training):
        observed = self._model(x, training=training)
        return Observed(observed["outputs"], observed["features"])


def _graph(role, model):
    """Return the functional model that a model is, or contains."""
    # Keras has no public name for a model's graph.
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        if model._functional is None:
            raise ValueError(
                f"`feature_matching` needs a built {role}, but the Sequential model {model.name!r} is not built. Begin "
                "it with `keras.Input(shape)`, or call its `build` before."
            )
        return model._functional
    if isinstance(model, keras.Sequential) or not hasattr(model, "_nodes_by_depth"):
        raise ValueError(_subclassed(role, model))
    return model


def _subclassed(role, model):
    return (
        f"`feature_matching` needs functional or Sequential models, but the {role} {model.name!r} is a "
        f"{type(model).__name__}, whose `call` is Python code. Build it by `keras.Model(inputs, outputs)`, or return "
        "the features as additional outputs with a `distillation_loss`, such as `keras.losses.MeanSquaredError()`."
    )


def _feature(role, model, graph, name):
    layers = {layer.name: layer for layer in graph.layers}
    if name not in layers:
        hint = ""
        for layer in graph.layers:
            if isinstance(layer, keras.Model) and name in {inner.name for inner in backend.flat_layers(layer)}:
                hint = f" There is such a layer inside {layer.name!r}, a separate graph: match {layer.name!r} itself."
        raise ValueError(f"The {role} {model.name!r} has no layer named {name!r}, but {sorted(layers)}.{hint}")
    calls = [node for nodes in graph._nodes_by_depth.values() for node in nodes if node.operation is layers[name]]
    if len(calls) != 1:
        raise ValueError(
            f"The {role}'s layer {name!r} is called {len(calls)} times. Name a layer that is called once, for instance "
            "an additional `keras.layers.Identity(name=...)`."
        )
    (call,) = calls
    if len(call.outputs) != 1:
        raise ValueError(
            f"The {role}'s layer {name!r} gives {len(call.outputs)} tensors, but features are one. Name a layer that "
            "gives one, for instance an additional `keras.layers.Identity(name=...)`."
        )
    return call.outputs[0]
