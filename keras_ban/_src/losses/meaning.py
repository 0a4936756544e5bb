"""What a loss, or the last layer of a model, tells about an output: logits or probabilities, softmax or sigmoid."""

import dataclasses
import re

import keras

from keras_ban._src.data.model_outputs import outputs_of


@dataclasses.dataclass(frozen=True)
class Meaning:
    """The kind of one output. An attribute is `None` if it is not known.

    Attributes:
        from_logits: `True` for logits, `False` for probabilities. The output of a layer without an activation counts as
            logits.
        activation: `"softmax"` for one class of several, `"sigmoid"` for independent yes-or-no outputs, `"linear"` for
            the values of a regression.
        axis: the axis of a softmax.
    """

    from_logits: bool | None = None
    activation: str | None = None
    axis: int | None = None

    def completed_by(self, other):
        """Return the `Meaning` with what another one tells, where this one does not."""
        return Meaning(**{name: getattr(other, name) if own is None else own for name, own in vars(self).items()})


@dataclasses.dataclass(frozen=True)
class LastLayer:
    """The layer or operation that computes one output of a model. `name` is `None` if it is not known."""

    name: str | None = None
    meaning: Meaning = Meaning()


#: The activation of values that are not probabilities, and no logits of any.
LINEAR = "linear"

_LOSSES = (
    (keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy, "softmax"),
    (keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy, "softmax"),
    (keras.losses.CategoricalFocalCrossentropy, keras.losses.categorical_focal_crossentropy, "softmax"),
    (keras.losses.BinaryCrossentropy, keras.losses.binary_crossentropy, "sigmoid"),
    (keras.losses.BinaryFocalCrossentropy, keras.losses.binary_focal_crossentropy, "sigmoid"),
)

# The losses that Keras documents as those of regressions.
_REGRESSION = (
    (keras.losses.MeanSquaredError, keras.losses.mean_squared_error),
    (keras.losses.MeanAbsoluteError, keras.losses.mean_absolute_error),
    (keras.losses.MeanAbsolutePercentageError, keras.losses.mean_absolute_percentage_error),
    (keras.losses.MeanSquaredLogarithmicError, keras.losses.mean_squared_logarithmic_error),
    (keras.losses.CosineSimilarity, keras.losses.cosine_similarity),
    (keras.losses.Huber, keras.losses.huber),
    (keras.losses.LogCosh, keras.losses.log_cosh),
    (keras.losses.Poisson, keras.losses.poisson),
)


def of_label_loss(loss):
    """Return the `Meaning` of outputs that a label loss compares. `loss` is as in `compile`."""
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        return Meaning(False)  # Keras chooses one of three losses by the labels.
    loss = _resolved(loss)
    known = _of_crossentropy(loss)
    if known is not None:
        return known
    if any(isinstance(loss, each) or loss is function for each, function in _REGRESSION):
        return Meaning(None, LINEAR)
    activation = next((activation for each, _, activation in _LOSSES if isinstance(loss, each)), None)
    return Meaning(_attribute(loss, "from_logits", bool), activation)


def of_distillation_loss(loss):
    """Return the `Meaning`s of the soft targets and of the outputs that a distillation loss compares.

    A Keras crossentropy needs probabilities as targets, even if the student's outputs are logits.
    """
    known = _of_crossentropy(loss)
    if known is not None:
        return dataclasses.replace(known, from_logits=False), known
    activation = _attribute(loss, "activation", str)
    axis = _attribute(loss, "axis", int, -1 if activation == "softmax" else None)
    both = Meaning(_attribute(loss, "from_logits", bool), activation, axis)
    return both, both


def _of_crossentropy(loss):
    """Return the `Meaning` of outputs that a Keras crossentropy or divergence compares. `None` for another loss."""
    for its_class, function, activation in _LOSSES:
        if _is_of_keras(loss, its_class, function):
            axis = _axis(loss) if activation == "softmax" else None
            return Meaning(getattr(loss, "from_logits", False), activation, axis)
    return Meaning(False, "softmax", -1) if is_divergence(loss) else None


def is_divergence(loss):
    """Return whether a loss is the KL divergence of Keras, which takes probabilities."""
    return _is_of_keras(loss, keras.losses.KLDivergence, keras.losses.kl_divergence)


def _is_of_keras(loss, its_class, function):
    """Return whether a loss is Keras's function, or of its class and computes what the class does."""
    return loss is function or (isinstance(loss, its_class) and type(loss).call is its_class.call)


def crossentropy_name(loss):
    """Return the class name of a Keras crossentropy (also of its class, function or name). `None` for another loss."""
    loss = _resolved(loss)
    return next((each.__name__ for each, function, _ in _LOSSES if _is_of_keras(loss, each, function)), None)


def _attribute(value, name, expected_type, default=None):
    """Return an attribute if it has the expected type, else `None`."""
    found = getattr(value, name, default)
    return found if isinstance(found, expected_type) else None


def _resolved(loss):
    """Return the loss that a name or a class stands for. Of a class, Keras makes one with the default arguments."""
    if not isinstance(loss, (str, type)):
        return loss
    try:
        return keras.losses.get(loss)
    except (ValueError, TypeError):
        return None  # Keras raises an error when it trains.


def _axis(loss):
    if getattr(loss, "axis", None) is not None:
        return _attribute(loss, "axis", int)
    # In Keras 3.15, only the `repr` of a sparse crossentropy shows its `axis`.
    found = re.search(r"'axis': (-?\d+)", repr(loss))
    return int(found[1]) if found else -1


def of_model(model):
    """Return the `LastLayer`s of a model's outputs, in their structure. Without a known graph, return `LastLayer()`."""
    if hasattr(type(model), "models_within") and hasattr(model, "average"):  # An `EnsembleModel`
        return _of_ensemble(model)
    if not isinstance(model, keras.Model) or _has_own_call(model):
        return LastLayer()
    if isinstance(model, keras.Sequential):
        return _of_layers(model.layers)
    outputs = outputs_of(model)
    if outputs is None:
        return LastLayer()
    # The calls of layers. (A layer that is called by several models has one public `output`, that of the first call.)
    nodes = [node for level in getattr(model, "_nodes_by_depth", {}).values() for node in level]
    makers = {id(each): node for node in nodes for each in node.output_tensors}
    return keras.tree.map_structure(lambda output: _of_tensor(output, makers), outputs)


def _of_ensemble(model):
    if model.average == "outputs":
        return of_model(model.members[0])
    axis = -1 if model.activation == "softmax" else None
    return LastLayer(model.name, Meaning(model.from_logits, model.activation, axis))


def _has_own_call(model):
    """Return whether the user's own code computes the outputs."""
    return any("call" in vars(each) for each in type(model).__mro__ if not each.__module__.startswith("keras."))


def _of_layers(layers):
    for place, layer in reversed(list(enumerate(layers))):
        if _keeps_meaning(layer):
            continue
        if type(layer) in _MOVING:
            return _moved(layer, _of_layers(layers[:place]))
        found = of_model(layer) if isinstance(layer, keras.Model) else LastLayer(layer.name, _of_operation(layer))
        if keras.tree.is_nested(found):
            return LastLayer()
        return LastLayer(found.name) if _may_mix(found.meaning, _of_layers(layers[:place])) else found
    return LastLayer()


def _of_tensor(tensor, makers):
    node = makers.get(id(tensor))
    if node is None:
        return LastLayer()
    operation, inputs = node.operation, node.input_tensors
    if isinstance(operation, keras.Model):
        inner = keras.tree.flatten(of_model(operation))
        place = next(i for i, output in enumerate(node.output_tensors) if output is tensor)
        return inner[place] if len(inner) == len(node.output_tensors) else LastLayer()
    before = _of_tensor(inputs[0], makers) if len(inputs) == 1 else LastLayer()
    if _keeps_meaning(operation):
        return before
    if type(operation) in _MOVING:
        return _moved(operation, before)
    meaning = _of_operation(operation)
    return LastLayer(operation.name, Meaning() if _may_mix(meaning, before) else meaning)


def _may_mix(meaning, layer_before):
    """Return whether a layer is linear and follows a softmax or a sigmoid: it may mix probabilities."""
    return meaning == Meaning(True) and layer_before.meaning.from_logits is False


def _keeps_meaning(operation):
    """Return whether an output has the meaning of the input. A float16 model often ends in a linear `Activation`."""
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.linear
    return type(operation) in (keras.layers.Identity, keras.layers.Dropout)


# Layers that move numbers to other places, and leave them as they are.
_MOVING = (keras.layers.Permute, keras.layers.Reshape)


def _moved(operation, before):
    """Return the `LastLayer` before a layer of `_MOVING`, with the axis of its classes after it."""
    axis = before.meaning.axis
    if axis is None:
        return before
    axis = operation.dims.index(axis % (len(operation.dims) + 1)) + 1 if hasattr(operation, "dims") else None
    return LastLayer(before.name, dataclasses.replace(before.meaning, axis=axis))


# Layers with an `activation`.
_DENSE: tuple[type, ...] = (keras.layers.Activation, keras.layers.Dense, keras.layers.EinsumDense)
_DENSE += (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_DENSE += (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose)
_DENSE += (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def _of_operation(operation):
    if type(operation) is keras.layers.TimeDistributed:
        return _of_operation(operation.layer)
    if type(operation) in _DENSE:
        return _of_activation(operation.activation)
    if not type(operation).__module__.startswith("keras."):
        return Meaning()
    # A layer, or an operation of `keras.ops` in a functional model.
    kind = type(operation).__name__
    if kind in ("Softmax", "LogSoftmax"):
        return Meaning(kind == "LogSoftmax", "softmax", _attribute(operation, "axis", int))
    return Meaning(False, "sigmoid") if kind == "Sigmoid" else Meaning()


def _of_activation(activation):
    if isinstance(activation, keras.layers.Layer):
        return _of_operation(activation)
    known = {
        keras.activations.softmax: Meaning(False, "softmax", -1),
        keras.activations.log_softmax: Meaning(True, "softmax", -1),
        keras.activations.sigmoid: Meaning(False, "sigmoid"),
        keras.activations.linear: Meaning(True),
    }
    return next((meaning for function, meaning in known.items() if activation is function), Meaning())
