"""The settings of a run as plain data: a run is continued with the same settings, and loaded from them."""

import functools
import hashlib
import itertools
import warnings

import keras
import numpy as np

import keras_ban
from keras_ban._src.data.fingerprints import HASHES, INESSENTIAL, essence, model_fingerprint
from keras_ban._src.data.model_inputs import preprocessor_fingerprint
from keras_ban._src.files import model_file
from keras_ban._src.sequence import initial_weights
from keras_ban._src.sequence.output_checks import resolved_loss
from keras_ban._src.sequence.recipes import as_config

# For models. The module may depend on how a script was started (`__main__`). A seed from `build` is compared.
_NOT_COMPARED = {"module", *INESSENTIAL} - {"seed"}


def start_run(training, chosen):
    """Start a run, or check that the run in the directory has the same settings.

    `chosen` are the arguments of `BornAgainSequence.fit` that choose the best generation. Raise `ValueError` if the run
    has other settings, or a model cannot be saved.
    """
    run = training.run
    versions = {"keras_ban": keras_ban.__version__, "keras": keras.__version__, "numpy": np.__version__}
    if run.manifest is None:
        for model in training.starts.values():
            # Of a copy that the data build, the original tells more.
            original = training.sequence.model if not model.built else None
            model_file.check_can_be_kept(original if getattr(original, "built", False) else model)
    elif run.manifest["versions"] != versions and not run.finished:
        warnings.warn(
            f"The run in {run.path} was begun with {run.manifest['versions']}, and is continued with {versions}: the "
            "next generations may differ from those of the old versions.",
            stacklevel=3,
        )
    if not run.finished:
        for part in (training.data, training.unlabeled):
            _warn_of_order(run, part)
    begun_with = None if run.manifest is None or run.holds_nothing else run.manifest["begun_with"]
    hashes = HASHES if begun_with is None else begun_with.get("hashes", 1)
    description = _describe(training, chosen, hashes)
    _leave_out_unknown(description, begun_with)
    run.start(description | ({} if hashes == 1 else {"hashes": hashes}), training.entropy, versions)


def _warn_of_order(run, data):
    if data is None or not data.order_changes():
        return
    warnings.warn(
        f"`{data.name}` may come in another order, or augmented, each time it is read. If the run in {run.path} is "
        "interrupted and resumed, it will end in other weights than without the interruption. To avoid this, let it "
        "come in the same order in each epoch (`tf.data`: `shuffle(n, seed=..., reshuffle_each_iteration=False)`), or "
        "pass arrays, which `fit` shuffles. A `PyDataset` whose batch `i` is always the same says so with an attribute "
        "`fixed = True`.",
        stacklevel=4,
    )


def _describe(training, chosen, hashes):
    """Return everything that the generations depend on, except the seed and the callbacks."""
    sequence, compile_arguments, data = training.sequence, training.compile_arguments, training.data
    validation_data = training.options["validation_data"]
    described = {**data.description(hashes), "validation_data": None}
    if training.unlabeled is not None:
        described["unlabeled"] = training.unlabeled.description(hashes)["x"]
    if validation_data is not None:
        parts = [part for part in validation_data.description(hashes).values() if part is not None]
        described["validation_data"] = parts[0] if validation_data.yields_batches else list(itertools.chain(*parts))
    shuffle = {} if data.shuffle is None else {"shuffle": data.shuffle}
    others = {name: value for name, value in training.options.items() if name != "validation_data"}
    # Older versions did not write these.
    added = {"controls": list(sequence.controls)} if sequence.controls else {}
    added |= {"soften_teachers": True} if sequence.soften_teachers else {}
    if sequence.initial_weights != initial_weights.FRESH:
        added["initial_weights"] = sequence.initial_weights
    found = initial_weights.fingerprints(training)
    weights = {number: {"starting_weights": fingerprint} for number, fingerprint in found.items()}
    models, teacher = training.trained_starts, training.teacher
    return {
        **added,
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
        "distillation_loss": as_config(resolved_loss(sequence, compile_arguments, training.example)),
        "feature_matching": as_config(sequence.feature_matching),
        "compile": compile_arguments.to_config(),
        "fit": _plain({"batch_size": data.batch_size, **others, **chosen, **shuffle}),
        "data": _plain(described),
        "teacher": None if teacher is None else {"weights": model_fingerprint(teacher), **_preprocessor_of(teacher)},
        "model": {str(number): _describe_model(each) | weights.get(number, {}) for number, each in models.items()},
    }


def _leave_out_unknown(description, begun_with):
    """Leave out what the run that is continued, of an older version, does not say of models and datasets."""
    places = {("data", "x"): "made_of", ("data", "unlabeled"): "made_of", ("teacher",): "preprocessor"}
    places |= {("model", number): "preprocessor" for number in description["model"]}
    for place, name in places.items():
        entry, stored_entry = (functools.reduce(_entry, place, each) for each in (description, begun_with))
        if isinstance(entry, dict) and isinstance(stored_entry, dict) and name not in stored_entry:
            entry.pop(name, None)


def _entry(part, name):
    return part.get(name) if isinstance(part, dict) else None


def _preprocessor_of(model):
    """Return the fingerprint of a model's preprocessor, with its vocabulary, as an entry. Most models have none."""
    fingerprint = preprocessor_fingerprint(model)
    return {} if fingerprint is None else {"preprocessor": fingerprint}


def _describe_model(model):
    """Return a model's architecture, and the SHA-256 of its weights that are not trained."""
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
        **_preprocessor_of(model),
    }


def _plain(value):
    """Return a value as JSON represents it."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return f"{type(value).__module__}.{type(value).__qualname__}"
