"""The outputs of a model, and the labels, weights and losses that are paired with them by name.

Keras pairs a dict that does not fit the outputs by its keys as if they were labels, or by position.
"""

import keras

from keras_ban._src.data.batch import split_targets


def outputs_of(model):
    """Return a model's symbolic outputs in their structure. `None` if they are not known before it is called."""
    if model is None or not getattr(model, "outputs", None):
        return None
    if isinstance(model, keras.Sequential):
        return model.outputs[0] if len(model.outputs) == 1 else None
    output = model.output
    # A model that was created with a list of one output returns a tensor.
    return output[0] if isinstance(output, (list, tuple)) and len(output) == 1 else output


def names_of(model):
    """Return the names of a model's flat outputs. `None` if they have no names."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name] if model.layers else None
    return getattr(model, "output_names", None)


def check_names(labels, sample_weight, loss, model, names, outputs=None):
    """Raise `ValueError` if dicts of labels, weights or losses do not name the outputs of a model.

    Nothing is raised if the outputs are not known, or if the user's own code computes the loss.

    Args:
        labels, sample_weight: as passed to `keras.Model.fit`; `None`: there are none.
        loss: the label loss, as in `keras.Model.compile`.
        model: the `keras.Model` that has the outputs.
        names: what messages call `labels` and `sample_weight`.
        outputs: what the model returned, if it was called.
    """
    outputs = outputs_of(model) if outputs is None else outputs
    known = known_names(model, outputs)
    if any(each is None for each in (loss, outputs, known)) or type(model).compute_loss is not keras.Model.compute_loss:
        return
    if isinstance(loss, dict) and (set(loss) - set(known) or (set(loss) != set(known) and type(outputs) is not dict)):
        raise ValueError(_differ("loss", loss, known))
    if isinstance(labels, dict):
        if not keras.tree.is_nested(outputs):
            raise ValueError(
                f"`{names[0]}` is a dict with the keys {list(labels)}, but the model {model.name!r} has one output, "
                f"{known[0]!r}, whose labels are an array. Pass that array alone."
            )
        unknown = set(labels) - set(known)
        if unknown or set(names_with_loss(loss, known)) - set(labels):
            raise ValueError(_differ(names[0], labels, known))
    weights = split_targets(sample_weight)[0]
    if labels is not None and _is_other(weights, labels):
        raise ValueError(
            f"`{names[1]}` must be one array, or arrays in the form of `{names[0]}`, {_form(labels)}. Received: "
            f"{_form(weights)}."
        )
    if weights is not None and isinstance(labels, dict) and isinstance(outputs, (list, tuple)):
        raise ValueError(
            f"With `{names[1]}`, `{names[0]}` cannot be a dict, because the model returns a list of outputs, {known}. "
            f"Pass `{names[0]}` as a list in that order."
        )


def known_names(model, outputs):
    """The names of the outputs, as far as they are known."""
    return list(outputs) if isinstance(outputs, dict) else names_of(model)


def names_with_loss(loss, known):
    """The names of the outputs that have a loss."""
    if isinstance(loss, dict):
        return [name for name in known if loss.get(name) is not None]
    if isinstance(loss, (list, tuple)) and len(loss) == len(known):
        return [name for name, each in zip(known, loss, strict=True) if each is not None]
    return known


def _is_other(weights, labels):
    """Whether weights are nested in another way than labels."""
    if isinstance(weights, dict) or (isinstance(weights, (list, tuple)) and keras.tree.is_nested(labels)):
        return _form(weights) != _form(labels)
    return False


def _form(part):
    if isinstance(part, dict):
        return f"a dict with the keys {sorted(part)}"
    return f"a list of {len(part)}" if isinstance(part, (list, tuple)) else "an array"


def _differ(name, values, known):
    received = f"`{name}` is a dict with the keys {list(values)}"
    return f"{received}. Expected keys {list(known)}, the names of the model's outputs."  # As Keras says it.
