"""Paths to layers through a model's graph and those of the models in it, such as `"backbone/block_3"`."""

import difflib
import functools

import keras

from keras_ban._src import backend

# A message lists all paths of a small model, and of a large one those that are most like the wanted path.
_LISTED = 20


def graph_of(model):
    """Return the functional model that a layer is, or contains. `None` if it has none, because `call` is Python code.

    It is also `None` for a Sequential model that is not built.
    """
    # Keras has no public name for a model's graph.
    if isinstance(model, keras.Sequential):
        return model._functional if type(model).call is keras.Sequential.call else None
    is_graph = hasattr(model, "_nodes_by_depth") and type(model).call is _call_of_functional_models()
    return model if is_graph else None


@functools.cache
def _call_of_functional_models():
    inputs = keras.Input((), name="inputs")
    # Keras 3.12 refuses a model whose output is its input.
    return type(keras.Model(inputs, keras.layers.Identity(name="output")(inputs), name="model")).call


def find(role, model, path):
    """Return a list of the models that a path goes through, and the symbolic output of the layer at its end.

    Each must be called exactly once. `role` is the name of the model in messages: `"student"` or `"teacher"`.
    """
    graph, through = graph_of(model), []
    *outer, last = path.split("/")
    for i, name in enumerate(outer):
        within = "/".join(outer[: i + 1])
        layer = _call_of(role, model, graph, name, within, path).operation
        through.append(layer)
        graph = graph_of(layer)
        if graph is None:
            raise ValueError(
                f"The {role}'s layer {path!r} cannot be read: {within!r} is a {type(layer).__name__}, whose `call` is "
                "Python code. Only layers in functional and built Sequential models have paths. "
                f"Name one of {_listed(model, path)}."
            )
    call = _call_of(role, model, graph, last, path, path)
    if len(call.outputs) != 1:
        raise ValueError(
            f"The {role}'s layer {path!r} gives {len(call.outputs)} tensors, but features are one. Name a layer that "
            "gives one, for instance an additional `keras.layers.Identity(name=...)`."
        )
    return through, call.outputs[0]


def _call_of(role, model, graph, name, within, path):
    """Return the one call of a layer of a graph. `within` is its path, the whole `path` or its beginning."""
    layers = {layer.name: layer for layer in graph.layers}
    if name not in layers:
        raise ValueError(
            f"The {role} {model.name!r} has no layer named {within!r}, but {_listed(model, path)}."
            f"{_hint(model, path) if within == path else ''}"
        )
    calls = _calls(graph, layers[name])
    if len(calls) != 1 and within != path:
        raise ValueError(
            f"The {role}'s layer {path!r} cannot be read: the model {within!r} is called {len(calls)} times, and gives "
            f"features each time. Name one of {_listed(model, path)}."
        )
    if len(calls) != 1:
        raise ValueError(
            f"The {role}'s layer {path!r} is called {len(calls)} times. Name a layer that is called once, for instance "
            "an additional `keras.layers.Identity(name=...)`."
        )
    return calls[0]


def _calls(graph, layer):
    return [node for nodes in graph._nodes_by_depth.values() for node in nodes if node.operation is layer]


def _paths(graph, before=""):
    """Yield the paths of all layers that are called once."""
    for layer in graph.layers:
        if len(_calls(graph, layer)) == 1:
            yield before + layer.name
            inner = graph_of(layer)
            if inner is not None:
                yield from _paths(inner, f"{before}{layer.name}/")


def _listed(model, path):
    paths = sorted(_paths(graph_of(model)))
    if len(paths) <= _LISTED:
        return str(paths)
    return f"{difflib.get_close_matches(path, paths, n=_LISTED, cutoff=0)} and others, {len(paths)} in all"


def _hint(model, path):
    """Say where there is a layer whose name is the end of `path`, if it is inside another model."""
    name = path.split("/")[-1]
    inside = [each for each in _paths(graph_of(model)) if each.endswith(f"/{name}")]
    if inside:
        return f" There is such a layer inside another model: name it {inside[0]!r}."
    graph = graph_of(model)
    for layer in graph.layers if len(path) == len(name) else []:
        is_called_once = isinstance(layer, keras.Model) and len(_calls(graph, layer)) == 1
        if is_called_once and name in {inner.name for inner in backend.flat_layers(layer)}:
            return f" There is such a layer inside {layer.name!r}, which cannot be read: match {layer.name!r} itself."
    return ""
