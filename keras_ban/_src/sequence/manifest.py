"""What a run is begun with, as plain data: what it must be continued with, and from which it can be loaded."""

import hashlib
import itertools
import warnings

import keras
import numpy as np

import keras_ban
from keras_ban._src.data.fingerprints import (
    HASHES,
    INESSENTIAL,
    essence,
    model_fingerprint,
)
from keras_ban._src.files import model_file
from keras_ban._src.sequence.recipes import as_config

# Of models: the module is noted by how a file was run (`__main__`), and a seed that `build` gives counts.
_NOT_COMPARED = {"module", *INESSENTIAL} - {"seed"}


def begin(run, entropy, sequence, compile_arguments, data, options, teacher, starts):
    """Begin a run, whose models a file can hold; or hold one that is there against what came now.

    Args:
        run: the `RunDirectory`.
        entropy: from which each generation's seed is derived.
        sequence: the `BornAgainSequence`.
        compile_arguments: its `CompileArguments`.
        data: the training data.
        options: the other arguments of `fit` that count, by name.
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
    fresh = run.manifest is None or run.holds_nothing
    hashes = HASHES if fresh else run.manifest["begun_with"].get("hashes", 1)
    description = _describe(sequence, compile_arguments, data, options, teacher, starts, hashes)
    run.begin(description | ({} if hashes == 1 else {"hashes": hashes}), entropy, versions)


def _describe(sequence, compile_arguments, data, options, teacher, starts, hashes):
    """All that the generations depend on, but for the seed and the callbacks."""
    validation_data = options["validation_data"]
    described = {**data.description(hashes), "validation_data": None}
    if validation_data is not None:
        parts = [part for part in validation_data.description(hashes).values() if part is not None]
        described["validation_data"] = parts[0] if validation_data.yields_batches else list(itertools.chain(*parts))
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
        "fit": _plain({"batch_size": data.batch_size, **_arguments(data, options)}),
        "data": _plain(described),
        "teacher": None if teacher is None else {"weights": model_fingerprint(teacher)},
        "model": {
            str(generation): _describe_model(model) for generation, model in starts.items() if model is not teacher
        },
    }


def _arguments(data, options):
    shuffle = {} if data.shuffle is None else {"shuffle": data.shuffle}
    return {**{name: value for name, value in options.items() if name != "validation_data"}, **shuffle}


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
