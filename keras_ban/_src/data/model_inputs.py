"""The inputs that a model takes, and the preprocessor that makes them."""

import collections
import hashlib
import pathlib
import tempfile

import keras

from keras_ban._src import backend
from keras_ban._src.data.fingerprints import layer_fingerprint, model_fingerprint


def inputs_for(model, x):
    """The inputs that a model takes, of a dict that may hold more.

    Keras pairs a dict with more entries than the model has inputs by position, in the order of the names.

    Raises:
        ValueError: the dict lacks an input of the model.
    """
    names = input_names(model) if isinstance(x, dict) else None
    if names is None or set(x) == names:
        return x
    lacking = sorted(names - set(x))
    if lacking:
        raise ValueError(f"The model {model.name!r} takes the inputs {sorted(names)}, but the data lack {lacking}.")
    return {name: value for name, value in x.items() if name in names}


def innermost_models(model):
    """The models that get the inputs: those within a `Distiller` or an `EnsembleModel`, else the model itself."""
    if not hasattr(type(model), "models_within"):
        return [model]
    return [each for within in model.models_within() for each in innermost_models(within)]


def is_task(model):
    """Whether a model is a KerasHub task with a preprocessor, or works like one."""
    has_method = callable(getattr(model, "preprocess_samples", None))
    return has_method and getattr(model, "preprocessor", None) is not None


def own_layers(model):
    """Return a model and all layers within, without those of a preprocessor."""
    preprocessor = model.preprocessor if is_task(model) else None
    shared = backend.flat_layers(preprocessor) if isinstance(preprocessor, keras.layers.Layer) else []
    of_preprocessor = {id(layer) for layer in shared}
    return [layer for layer in backend.flat_layers(model) if id(layer) not in of_preprocessor]


def shared_layers(models):
    """Return the layers in several models, or in members of them, which Keras saves once and cannot load for all."""
    held = [layer for model in _without_ensembles(models) for layer in own_layers(model)]
    counts = collections.Counter(map(id, held))
    return [layer for layer in {id(each): each for each in held}.values() if counts[id(layer)] > 1 and _is_saved(layer)]


def _without_ensembles(models):
    """Return models, with the members of an ensemble in its place."""
    within = [model.models_within() if hasattr(type(model), "models_within") else None for model in models]
    pairs = zip(models, within, strict=True)
    return [each for model, inner in pairs for each in ([model] if inner is None else _without_ensembles(inner))]


def _is_saved(layer):
    """Whether a layer has weights, or assets such as a vocabulary."""
    if layer.variables or not hasattr(layer, "save_assets"):
        return bool(layer.variables)
    with tempfile.TemporaryDirectory() as folder:
        layer.save_assets(folder)
        return any(pathlib.Path(folder).iterdir())


def input_names(model):
    """The names of a model's inputs, if it is a functional model of a dict of inputs, or holds such models.

    What a preprocessor takes has no names that are known.
    """
    known = [names for names in map(_declared_names, innermost_models(model)) if names is not None]
    return set().union(*known) if known else None


def all_input_names(model):
    """The same, but `None` if it is not known of one of the models within."""
    names = [_declared_names(each) for each in innermost_models(model)]
    return None if None in names else set().union(*names)


def _declared_names(model):
    declared = model.input if _is_functional(model) and not is_task(model) else None
    return set(declared) if isinstance(declared, dict) else None


def names_of_inputs(model):
    """The names of all inputs of a model, as far as they are known."""
    functional = [each for each in innermost_models(model) if _is_functional(each)]
    return [*(tensor.name for each in functional for tensor in each.inputs), *(input_names(model) or ())]


def _is_functional(model):
    return bool(getattr(model, "inputs", None)) and not isinstance(model, keras.Sequential)


def declared_specs(model):
    """Return the `keras.InputSpec`s of a model's inputs, in their structure, with a free batch size.

    Those of an ensemble are of its first member that declares them. `None` if a model declares none, as subclassed
    models before they are called.
    """
    found = (_own_specs(each) for each in innermost_models(model))
    return next((specs for specs in found if specs is not None), None)


def _own_specs(model):
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


def task_within(model):
    """Return the task whose preprocessor makes the inputs of a model, or `None`.

    A `Distiller` has that of its student, an `EnsembleModel` that of its members.

    Raises:
        ValueError: the preprocessors of the members differ.
    """
    tasks = [each if is_task(each) else None for each in innermost_models(model)]
    if not all(are_alike(tasks[0], each) for each in tasks[1:]):
        raise ValueError(
            f"The members of {model.name!r} preprocess their inputs differently, so they cannot take the same data: "
            f"{[getattr(task, 'preprocessor', None) for task in tasks]}. Give all members one preprocessor; or pass "
            "preprocessed data, after `member.preprocessor = None` for each."
        )
    return tasks[0]


def are_alike(task, other):
    """Whether two tasks make the same inputs of the same data. `None` stands for a model without a preprocessor."""
    if task is None or other is None:
        return task is other
    if type(task).preprocess_samples is not type(other).preprocess_samples:
        return False
    return task.preprocessor is other.preprocessor or _fingerprint(task) == _fingerprint(other)


def preprocessor_fingerprint(model):
    """The SHA-256 of a model's preprocessor and its assets. `None` if it has none, or one that cannot be serialized."""
    task = task_within(model)
    found = None if task is None else _fingerprint(task)
    return found if isinstance(found, str) else None


def teacher_fingerprint(model):
    """The SHA-256 of a teacher's weights, followed by that of its preprocessor, if it has one."""
    return model_fingerprint(model) + (preprocessor_fingerprint(model) or "")


def is_fingerprint_of(fingerprint, model):
    """Whether a `teacher_fingerprint` is that of a model. Old files have that of the weights alone."""
    return fingerprint is not None and fingerprint in (model_fingerprint(model), teacher_fingerprint(model))


def _fingerprint(task):
    """The configuration of a preprocessor and its assets, such as a vocabulary, as text."""
    preprocessor = task.preprocessor
    if not isinstance(preprocessor, keras.layers.Layer):
        return id(preprocessor)
    try:
        digest = hashlib.sha256(layer_fingerprint(preprocessor).encode())
    except NotImplementedError:  # It has no `get_config`.
        return id(preprocessor)
    with tempfile.TemporaryDirectory() as folder:
        for number, layer in enumerate(backend.flat_layers(preprocessor)):
            if hasattr(layer, "save_assets"):
                own = pathlib.Path(folder, str(number))
                own.mkdir()
                layer.save_assets(str(own))
                for path in sorted(own.rglob("*")):
                    digest.update(path.name.encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()
