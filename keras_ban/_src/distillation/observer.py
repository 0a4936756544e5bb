"""One forward pass of a model that gives its outputs and, beside them, what layers within gave on the way."""

from typing import Any, NamedTuple

import keras

from keras_ban._src import backend


class Observed(NamedTuple):
    """What one forward pass gave.

    Attributes:
        outputs: as the model gives them.
        features: a list of tensors, those of the layers that were named.
    """

    outputs: Any
    features: list


def split_observed(outputs):
    """`(outputs, features)`; the features are `None` where none were observed."""
    return outputs if isinstance(outputs, Observed) else (outputs, None)


class Observer:
    """Calls a model as the model itself would be called, and gives `Observed`.

    It shares the model's layers and copies nothing. Held as a plain object, so that Keras does not track it.

    Args:
        role: what messages call the model: `"student"` or `"teacher"`.
        model: a `keras.Sequential` or a functional model.
        names: of its layers.

    Attributes:
        features: of each layer named, its symbolic output.

    Raises:
        ValueError: the model is subclassed or not built, or a layer is not there, is called more than once or not at
            all, or gives more than one tensor.
    """

    def __init__(self, role, model, names):
        graph = _graph(role, model)
        self.features = [_feature(role, model, graph, name) for name in names]
        output = graph.output
        if isinstance(output, (list, tuple)) and len(output) == 1:
            (output,) = output  # As Keras gives it.
        self._model = keras.Model(graph.input, {"outputs": output, "features": self.features})
        if not isinstance(model, keras.Sequential) and type(model).call is not type(self._model).call:
            raise ValueError(_subclassed(role, model))

    def __call__(self, x, training):
        observed = self._model(x, training=training)
        return Observed(observed["outputs"], observed["features"])


def _graph(role, model):
    """The functional model that a model is, or holds."""
    if isinstance(model, keras.Sequential) and type(model).call is keras.Sequential.call:
        if model._functional is None:
            raise ValueError(
                f"`feature_matching` needs the shapes of the {role}'s layers, but the Sequential model {model.name!r} "
                "is not built. Begin it with `keras.Input(shape)`, or call its `build` before."
            )
        return model._functional
    if isinstance(model, keras.Sequential) or not hasattr(model, "_nodes_by_depth"):
        raise ValueError(_subclassed(role, model))
    return model


def _subclassed(role, model):
    return (
        f"`feature_matching` reads features off the graph of a functional or Sequential model, but the {role} "
        f"{model.name!r} is a {type(model).__name__}, whose `call` is Python code. Build it by "
        "`keras.Model(inputs, outputs)`; or let it give its features as outputs of their own, each with its own "
        "`distillation_loss`, `keras.losses.MeanSquaredError()` for instance."
    )


def _feature(role, model, graph, name):
    layers = {layer.name: layer for layer in graph.layers}
    if name not in layers:
        hint = ""
        for layer in graph.layers:
            if isinstance(layer, keras.Model) and name in {inner.name for inner in backend.flat_layers(layer)}:
                hint = (
                    f" There is such a layer inside {layer.name!r}, whose graph is its own: match {layer.name!r} "
                    "itself, or build the outer model from the inner one's layers."
                )
        raise ValueError(f"The {role} {model.name!r} has no layer named {name!r}, but {sorted(layers)}.{hint}")
    calls = [node for nodes in graph._nodes_by_depth.values() for node in nodes if node.operation is layers[name]]
    if len(calls) != 1:
        raise ValueError(
            f"The {role}'s layer {name!r} is called {len(calls)} times, so that it is not clear which of its outputs "
            "are meant. Name a layer that is called once; `keras.layers.Identity(name=...)` marks a place."
        )
    (call,) = calls
    if len(call.outputs) != 1:
        raise ValueError(
            f"The {role}'s layer {name!r} gives {len(call.outputs)} tensors, but features are one: name a layer that "
            "gives one; `keras.layers.Identity(name=...)` marks a place."
        )
    return call.outputs[0]
