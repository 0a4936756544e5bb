"""What a run is begun with, as plain data: what it must be continued with, and from which it can be loaded."""

import hashlib
import warnings

import keras
import numpy as np

import keras_ban
from keras_ban._src import checks
from keras_ban._src.data.fingerprints import (
    INESSENTIAL,
    data_fingerprint,
    essence,
    example_form,
    example_keys,
    model_fingerprint,
)
from keras_ban._src.files import model_file
from keras_ban._src.sequence.recipes import as_config

# Of models: the module is noted by how a file was run (`__main__`), and a seed that `build` gives counts.
_NOT_COMPARED = {"module", *INESSENTIAL} - {"seed"}
_DATA = ("x", "y", "sample_weight", "validation_data")


def begin(run, entropy, sequence, compile_arguments, arguments, teacher, starts):
    """Begin a run, whose models a file can hold; or hold one that is there against what came now.

    Args:
        run: the `RunDirectory`.
        entropy: from which each generation's seed is derived.
        sequence: the `BornAgainSequence`.
        compile_arguments: its `CompileArguments`.
        arguments: those of `fit` that count, by name.
        teacher: what was given as generation 0, or `None`.
        starts: the models that generations start from, those that are made before training, by generation.

    Raises:
        ValueError: the run was begun with something else, or a model cannot be kept.
    """
    versions = {"keras_ban": keras_ban.__version__, "keras": keras.__version__, "numpy": np.__version__}
    if run.manifest is None:
        for model in starts.values():
            if model.built:
                model_file.check_can_be_kept(model)
    elif run.manifest["versions"] != versions and not run.finished:
        warnings.warn(
            f"The run in {run.path} was begun with {run.manifest['versions']}, and is continued with {versions}: its "
            "generations to come may differ from what those versions would have trained.",
            stacklevel=3,
        )
    run.begin(_describe(sequence, compile_arguments, arguments, teacher, starts), entropy, versions)


def _describe(sequence, compile_arguments, arguments, teacher, starts):
    """All that the generations depend on, but for the seed and the callbacks."""
    data = {name: arguments[name] for name in _DATA}
    return {
        "backend": keras.config.backend(),
        "generations": sequence.generations,
        "label_weight": as_config(sequence.label_weight),
        "teach_from": sequence.teach_from,
        "distill_ensemble": sequence.distill_ensemble,
        "shared_layers": sequence.shared_layers,
        "soft_targets": sequence.soft_targets,
        "views": sequence.views,
        "top_k": sequence.top_k,
        "augmentation": essence(as_config(sequence.augmentation)),
        "distillation_loss": as_config(sequence.distillation_loss),
        "feature_matching": as_config(sequence.feature_matching),
        "compile": compile_arguments.to_config(),
        "fit": _plain({name: value for name, value in arguments.items() if name not in _DATA}),
        "data": {name: None if value is None else _describe_data(value) for name, value in data.items()},
        "teacher": None if teacher is None else {"weights": model_fingerprint(teacher)},
        "model": {
            str(generation): _describe_model(model) for generation, model in starts.items() if model is not teacher
        },
    }


def _describe_data(data):
    """Of arrays their fingerprint; of a dataset, which may shuffle and has no order to hold to, its first batch's form.

    Args:
        data: arrays or a dataset, in lists, tuples and dicts.
    """
    if checks.is_dataset(data) and not isinstance(data, (list, tuple, dict)):
        batch = checks.first_examples(data)[1:]
        form = [example_form(part) for part in batch if part is not None]
        return {"dataset": type(data).__name__, "first_batch": _plain(form)}
    leaves = [leaf for leaf in keras.tree.flatten(data) if getattr(leaf, "shape", ())]
    return [
        {
            "examples": leaf.shape[0],
            "dtype_and_shape": example_form(leaf)[0],
            "fingerprint": data_fingerprint(example_form(leaf), example_keys(leaf)),
        }
        for leaf in leaves
    ]


def _describe_model(model):
    """A model's architecture, and the fingerprint of what it begins with beside what training gives it."""
    try:
        config = keras.saving.serialize_keras_object(model.get_config())
    except NotImplementedError:
        config = [[list(weight.shape), weight.dtype] for weight in model.weights]
    frozen = hashlib.sha256()
    for weight in model.non_trainable_weights:
        frozen.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight.value)).tobytes())
    return {
        "class": type(model).__name__,
        "weights": sum(int(np.prod(weight.shape)) for weight in model.weights),
        "not_trained": frozen.hexdigest(),
        "config": essence(_plain(config), inessential=_NOT_COMPARED),
    }


def _plain(value):
    """As JSON holds it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return f"{type(value).__module__}.{type(value).__qualname__}"
