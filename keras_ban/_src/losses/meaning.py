"""What a loss, or the last layer of a model, says of an output: logits or probabilities, and of what."""

import dataclasses

import keras


@dataclasses.dataclass(frozen=True)
class Meaning:
    """What is known of one output. `None` stands for what is not known.

    Attributes:
        from_logits: `True` for logits, `False` for probabilities. A layer without an activation counts as logits: it
            gives no probabilities.
        activation: `"softmax"`, one class out of many; or `"sigmoid"`, each number a yes or a no of its own.
        axis: the axis of a softmax.
    """

    from_logits: bool | None = None
    activation: str | None = None
    axis: int | None = None


@dataclasses.dataclass(frozen=True)
class LastLayer:
    """The layer, or operation, that gives one output of a model; `name` is `None` where it is not known."""

    name: str | None = None
    meaning: Meaning = Meaning()


_LOSSES = (
    (keras.losses.CategoricalCrossentropy, keras.losses.categorical_crossentropy, "softmax"),
    (keras.losses.SparseCategoricalCrossentropy, keras.losses.sparse_categorical_crossentropy, "softmax"),
    (keras.losses.CategoricalFocalCrossentropy, keras.losses.categorical_focal_crossentropy, "softmax"),
    (keras.losses.BinaryCrossentropy, keras.losses.binary_crossentropy, "sigmoid"),
    (keras.losses.BinaryFocalCrossentropy, keras.losses.binary_focal_crossentropy, "sigmoid"),
)


def of_label_loss(loss):
    """What a label loss, as `compile` takes it, says of the outputs.

    Args:
        loss: a `keras.losses.Loss`, a function, a name, or `None`.
    """
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        return Meaning(False)  # Keras chooses one of the three by the labels.
    loss = _resolved(loss)
    return _of_crossentropy(loss) or Meaning(_flag(loss))


def of_distillation_loss(loss):
    """What a distillation loss says of the soft targets and of the student's outputs, two `Meaning`s.

    A crossentropy of Keras takes probabilities as targets, whatever the student gives.
    """
    known = _of_crossentropy(loss)
    if known is not None:
        return dataclasses.replace(known, from_logits=False), known
    activation = getattr(loss, "activation", None)
    activation = activation if isinstance(activation, str) else None
    axis = getattr(loss, "axis", -1 if activation == "softmax" else None)
    said = Meaning(_flag(loss), activation, axis if isinstance(axis, int) else None)
    return said, said


def _of_crossentropy(loss):
    """What a crossentropy of Keras says; `None` of another loss."""
    for its_class, function, activation in _LOSSES:
        if isinstance(loss, its_class):
            return Meaning(loss.from_logits, activation, _axis(loss) if activation == "softmax" else None)
        if loss is function:
            return Meaning(False, activation, -1 if activation == "softmax" else None)
    return None


def crossentropy_name(loss):
    """The class of a crossentropy of Keras, which may be given as a function or by name; `None` of another loss."""
    loss = _resolved(loss)
    return next((each.__name__ for each, function, _ in _LOSSES if isinstance(loss, each) or loss is function), None)


def _flag(loss):
    from_logits = getattr(loss, "from_logits", None)
    return from_logits if isinstance(from_logits, bool) else None


def _resolved(loss):
    """What a name of a loss stands for."""
    if not isinstance(loss, str):
        return loss
    try:
        return keras.losses.get(loss)
    except ValueError:
        return None  # Keras says so where it trains.


def _axis(loss):
    axis = getattr(loss, "axis", None)
    if axis is None:
        # Keras (3.15) shows the `axis` of a sparse crossentropy in its `repr` alone.
        _, found, rest = repr(loss).partition("'axis': ")
        axis = int(rest.split("}")[0].split(",")[0]) if found else -1
    return axis if isinstance(axis, int) else None


def of_model(model):
    """The layers that give a model's outputs.

    Returns:
        `LastLayer`s in the structure of the outputs. One alone stands for a model of which no graph is known.
    """
    if getattr(model, "members", None) and isinstance(getattr(model, "from_logits", None), bool):
        return _of_ensemble(model)
    if not isinstance(model, keras.Model) or _has_own_call(model):
        return LastLayer()
    if isinstance(model, keras.Sequential):
        return _of_layers(model.layers)
    outputs = outputs_of(model)
    if outputs is None:
        return LastLayer()
    makers = {id(each): op for op in model.operations for each in keras.tree.flatten(getattr(op, "output", []))}
    return keras.tree.map_structure(lambda output: _of_tensor(output, makers), outputs)


def outputs_of(model):
    """A model's symbolic outputs in their structure; `None` where they are not known before it is called."""
    if model is None or not getattr(model, "outputs", None):
        return None
    if isinstance(model, keras.Sequential):
        return model.outputs[0] if len(model.outputs) == 1 else None
    output = model.output
    # Keras returns one tensor from a model that was made with a list of one.
    return output[0] if isinstance(output, (list, tuple)) and len(output) == 1 else output


def names_of(model):
    """The names of a model's flat outputs, by which values for them may be given; `None` where it has none."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name] if model.layers else None
    return getattr(model, "output_names", None)


def _of_ensemble(model):
    if getattr(model, "average", "outputs") == "outputs":
        return of_model(model.members[0])
    axis = -1 if model.activation == "softmax" else None
    return LastLayer(model.name, Meaning(model.from_logits, model.activation, axis))


def _has_own_call(model):
    """Whether the user's own code says what the model gives."""
    return any("call" in vars(each) for each in type(model).__mro__ if not each.__module__.startswith("keras."))


def _of_layers(layers):
    for layer in reversed(layers):
        if not _hands_on(layer):
            found = of_model(layer) if isinstance(layer, keras.Model) else LastLayer(layer.name, _of_operation(layer))
            return LastLayer() if keras.tree.is_nested(found) else found
    return LastLayer()


def _of_tensor(tensor, makers):
    operation = makers.get(id(tensor))
    if operation is None:
        return LastLayer()
    if _hands_on(operation):
        return LastLayer() if keras.tree.is_nested(operation.input) else _of_tensor(operation.input, makers)
    if not isinstance(operation, keras.Model):
        return LastLayer(operation.name, _of_operation(operation))
    inner, outputs = keras.tree.flatten(of_model(operation)), keras.tree.flatten(operation.output)
    place = next(i for i, output in enumerate(outputs) if output is tensor)
    return inner[place] if len(inner) == len(outputs) else LastLayer()


def _hands_on(operation):
    """Whether what comes out means what went in. A linear `Activation` in float32 often ends a float16 model."""
    if type(operation) is keras.layers.Activation:
        return operation.activation is keras.activations.linear
    return type(operation) in (keras.layers.Identity, keras.layers.Dropout)


_DENSE = (keras.layers.Activation, keras.layers.Dense, keras.layers.EinsumDense)
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
    # The layer, and the operations of `keras.ops` that a functional model is made of.
    kind, axis = type(operation).__name__, getattr(operation, "axis", None)
    if kind in ("Softmax", "LogSoftmax"):
        return Meaning(kind == "LogSoftmax", "softmax", axis if isinstance(axis, int) else None)
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
