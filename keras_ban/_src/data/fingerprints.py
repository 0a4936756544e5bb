"""Fingerprints of examples and of models, by which soft targets are held to the data and the teacher they came from."""

import functools
import hashlib
import json

import keras
import numpy as np

from keras_ban._src import checks

# So many bytes are looked at in one go: arrays that are memory-mapped stay on disk.
_CHUNK_BYTES = 2**24
# What two serialized layers of the same kind may differ in.
INESSENTIAL = {"name", "seed", "build_config", "build_input_shape", "shared_object_id", "compile_config"}


def example_keys(x):
    """A 64-bit fingerprint of each example.

    Each example's bytes, taken as 64-bit words, are multiplied by fixed random odd numbers and added up modulo 2**64:
    two examples that differ in a single word never have the same key, and others with a chance of about 2**-64. Runs
    at the speed of memory, so that all examples can be looked at each time.

    Args:
        x: arrays `(examples, ...)`, or a nest of them, of numbers or strings.

    Returns:
        uint64 array `(examples,)`.
    """
    total = np.uint64(0)
    for position, leaf in enumerate(_leaves(x)):
        size = leaf.shape[0]
        step = max(1, _CHUNK_BYTES * size // max(1, getattr(leaf, "nbytes", _CHUNK_BYTES)))
        keys = [_keys_of_rows(checks.as_array(leaf[i : i + step]), position) for i in range(0, size, step)]
        total = total + (np.concatenate(keys) if keys else np.zeros(0, "uint64"))
    return total


def example_form(x):
    """`[[dtype, shape of an example], ...]` of the arrays in `x`: what a fingerprint is a fingerprint of."""
    form = []
    for leaf in _leaves(x):
        array = checks.as_array(leaf[:1])
        form.append([str(array.dtype), list(array.shape[1:])])
    return form


def model_fingerprint(model):
    """The SHA-256 of a model's (or layer's) weights, of their shapes and dtypes; the same on each backend."""
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight.value))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def layer_fingerprint(layer):
    """The SHA-256 of a layer's configuration and weights; names, seeds, and whether it is built play no part."""
    config = essence(keras.saving.serialize_keras_object(layer))
    text = json.dumps(config, sort_keys=True, default=repr) + model_fingerprint(layer)
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(form, keys):
    """The SHA-256 of the examples' form and keys, in their order."""
    return hashlib.sha256(json.dumps(form).encode() + np.ascontiguousarray(keys).tobytes()).hexdigest()


def essence(config, names=None, inessential=INESSENTIAL):
    """A serialized layer without what differs between two of the same kind.

    Args:
        config: plain data.
        names: those met so far.
        inessential: the keys that are left out.
    """
    names = {} if names is None else names
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):  # Told apart by the order in which they come.
            names.setdefault(config["name"], len(names))
        return {key: essence(value, names, inessential) for key, value in config.items() if key not in inessential}
    if isinstance(config, (list, tuple)):
        parts = [essence(each, names, inessential) for each in config]
        # A `Sequential` gets its input layer when it is built.
        return [each for each in parts if not (isinstance(each, dict) and each.get("class_name") == "InputLayer")]
    return names.get(config, config) if isinstance(config, str) else config


def _leaves(x):
    return [leaf for leaf in keras.tree.flatten(x) if leaf is not None]


def _keys_of_rows(array, position):
    if array.dtype.kind not in "biufcV":  # strings
        digests = [hashlib.sha256(repr(np.asarray(row).tolist()).encode()).digest()[:8] for row in np.asarray(array)]
        words = np.frombuffer(b"".join(digests), "uint64").reshape(len(array), 1)
    else:
        rows = np.ascontiguousarray(array).reshape(len(array), -1).view("uint8")
        missing = -rows.shape[1] % 8
        if missing:
            rows = np.pad(rows, ((0, 0), (0, missing)))
        words = rows.view("uint64")
    return words @ _multipliers(position, words.shape[1])


@functools.lru_cache(maxsize=16)
def _multipliers(position, size):
    # The raw stream of a bit generator is the one that NumPy keeps the same in all versions.
    return np.random.PCG64(position).random_raw(size) | np.uint64(1)
