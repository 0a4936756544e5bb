"""The inputs that a model declares."""

import keras


def declared_specs(model):
    """Return the `keras.InputSpec`s of a model's inputs, in their structure, with a free batch size.

    Those of an ensemble are of its first member that declares them. `None` if a model declares none, as subclassed
    models before they are called.
    """
    if hasattr(type(model), "models_within"):
        found = (declared_specs(each) for each in model.models_within())
        return next((specs for specs in found if specs is not None), None)
    if getattr(model, "inputs", None):
        declared = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
        return keras.tree.map_structure(lambda x: keras.InputSpec(x.dtype, (None, *x.shape[1:]), name=x.name), declared)
    shapes = (model.get_build_config() or {}).get("input_shape")
    return None if shapes is None else _specs_of_shapes(shapes, model.input_dtype)


def _specs_of_shapes(shapes, dtype):
    if isinstance(shapes, dict):
        return {name: _specs_of_shapes(shape, dtype) for name, shape in shapes.items()}
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.InputSpec(dtype, (None, *shapes[1:]))
    return [_specs_of_shapes(shape, dtype) for shape in shapes]
