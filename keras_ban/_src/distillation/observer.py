"""One forward pass of a model that returns its outputs and the features of its layers."""

import types
from typing import Any, NamedTuple

import keras

from keras_ban._src.data.model_outputs import outputs_of
from keras_ban._src.distillation.layer_paths import find, graph_of


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
        paths: names of its layers, or paths to layers of functional and Sequential models in it. Each must be called
            exactly once, and return one tensor.

    Attributes:
        features: the symbolic outputs of the named layers.
    """

    def __init__(self, role, model, paths):
        _check_graph(role, model)
        self._paths = list(paths)
        found = {path: find(role, model, path) for path in self._paths}
        self.features = [found[path][1] for path in self._paths]
        self._model = _ObservedModel(model, found)

    def __call__(self, x, training):
        observed = self._model(x, training=training)
        return Observed(observed["outputs"], [observed["features"][path] for path in self._paths])


class _ObservedModel(keras.Model):
    """A functional model with the layers of another that returns `{"outputs": ..., "features": {path: tensor}}`.

    Where a path goes through a model in it, an observed model of that one is called in its place.

    Args:
        model: a functional or built Sequential model.
        found: a dict from paths to `(models, tensor)`: the models to go through, and the symbolic output of the layer.
    """

    def __init__(self, model, found):
        graph = graph_of(model)
        own = {path: tensor for path, (through, tensor) in found.items() if not through}
        super().__init__(graph.input, {"outputs": outputs_of(graph), "features": list(own.values())}, name=model.name)
        within = {}
        for path, (through, tensor) in found.items():
            if through:
                _, inner = within.setdefault(id(through[0]), (through[0], {}))
                inner[path] = (through[1:], tensor)
        self.supports_masking = False  # As in Keras, unless a model in the place of which this one is called does.
        # In an object that Keras does not track.
        self._hidden = types.SimpleNamespace(own=list(own), all=list(found), within={}, compute_mask=None)
        for key, (inner, found_within) in within.items():
            self._hidden.within[key] = _ObservedModel(inner, found_within)._in_place_of(inner)

    def _in_place_of(self, model):
        """Set masks as another model does. (Layers themselves cast inputs and weights.)"""
        self._hidden.compute_mask, self.supports_masking = model.compute_mask, model.supports_masking
        return self

    def compute_mask(self, inputs, previous_mask):
        # Keras calls this only if the model supports masking, and then for outputs without a mask.
        outputs = self._hidden.compute_mask(inputs, previous_mask)
        return {"outputs": outputs, "features": dict.fromkeys(self._hidden.all)}

    # Private, because Keras has no public way to call a graph with another operation in the place of one.
    def _run_through_graph(self, inputs, operation_fn=None, call_fn=None):
        if operation_fn is None:
            return super()._run_through_graph(inputs, call_fn=call_fn)  # Keras checks a new graph.
        features = {}

        def observing(operation):
            inner = self._hidden.within.get(id(operation))
            if inner is None:
                return operation_fn(operation)

            def call(*args, **kwargs):
                observed = operation_fn(inner)(*args, **kwargs)
                features.update(observed["features"])
                return observed["outputs"]

            return call

        observed = super()._run_through_graph(inputs, operation_fn=observing)
        features.update(zip(self._hidden.own, observed["features"], strict=True))
        return {"outputs": observed["outputs"], "features": features}


def _check_graph(role, model):
    if graph_of(model) is not None:
        return
    if type(model).call is keras.Sequential.call:
        raise ValueError(
            f"`feature_matching` needs a built {role}, but the Sequential model {model.name!r} is not built. Begin it "
            "with `keras.Input(shape)`, or call its `build` before."
        )
    raise ValueError(
        f"`feature_matching` needs functional or Sequential models, but the {role} {model.name!r} is a "
        f"{type(model).__name__}, whose `call` is Python code. Build it by `keras.Model(inputs, outputs)`, or return "
        "the features as additional outputs with a `distillation_loss`, such as `keras.losses.MeanSquaredError()`."
    )
