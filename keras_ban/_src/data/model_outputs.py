"""The outputs of a model, and their names."""

import keras


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
