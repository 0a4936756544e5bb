"""Fingerprints of examples and of models, by which soft targets are held to the data and the teacher they came from."""

import functools
import hashlib
import json

import keras
import numpy as np

from keras_ban._src.data.leaves import as_array, leaves_of

#: The version of the keys that new files are written with.
HASHES = 2
# This many bytes are read at a time: memory-mapped arrays stay on disk.
_CHUNK_BYTES = 2**20
# What two serialized layers of the same kind may differ in.
INESSENTIAL = {"name", "seed", "build_config", "build_input_shape", "shared_object_id", "compile_config"}


def example_keys(x, version=HASHES):
    """A 64-bit fingerprint of each example.

    Each example's bytes are taken as 64-bit words. The bits of a word are mixed, the words are multiplied by fixed
    random odd numbers, and the products are added modulo 2**64. Two examples that differ in a single word never have
    the same key.

    Args:
        x: arrays `(examples, ...)`, or a nest of them, of numbers or strings.
        version: 1 or 2. Version 1 did not mix the bits, so that rows of few different floats often had the same key.
            It is used for files that were written with it.

    Returns:
        uint64 array `(examples,)`.
    """
    total = np.uint64(0)
    for position, leaf in enumerate(leaves_of(x)):
        size = leaf.shape[0]
        step = max(1, _CHUNK_BYTES * size // max(1, _bytes_of(leaf)))
        keys = [_keys_of_rows(as_array(leaf[i : i + step]), position, version) for i in range(0, size, step)]
        total = total + (np.concatenate(keys) if keys else np.zeros(0, "uint64"))
    return total


def example_form(x):
    """`[[dtype, shape of an example], ...]` of the arrays in `x`: what a fingerprint is a fingerprint of."""
    form = []
    for leaf in leaves_of(x):
        array = as_array(leaf[:1])
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


def _bytes_of(leaf):
    """The bytes of an array if it were dense."""
    itemsize = getattr(leaf.dtype, "itemsize", 8)
    return int(np.prod([int(size) for size in leaf.shape], dtype="int64")) * itemsize


def _keys_of_rows(array, position, version):
    if array.dtype.kind not in "biufcV":  # strings
        digests = [hashlib.sha256(repr(np.asarray(row).tolist()).encode()).digest()[:8] for row in np.asarray(array)]
        words = np.frombuffer(b"".join(digests), "uint64").reshape(len(array), 1)
    else:
        rows = np.ascontiguousarray(array).reshape(len(array), -1).view("uint8")
        missing = -rows.shape[1] % 8
        if missing:
            rows = np.pad(rows, ((0, 0), (0, missing)))
        words = rows.view("uint64")
    return (words if version == 1 else _mixed(words)) @ _multipliers(position, words.shape[1])


def _mixed(words):
    """Words whose bits depend on all bits of the original: the finalizer of MurmurHash3 (Appleby, 2011), one to one."""
    words = words ^ (words >> np.uint64(33))
    words *= np.uint64(0xFF51AFD7ED558CCD)
    words ^= words >> np.uint64(33)
    words *= np.uint64(0xC4CEB9FE1A85EC53)
    words ^= words >> np.uint64(33)
    return words


@functools.lru_cache(maxsize=16)
def _multipliers(position, size):
    # The raw stream of a bit generator is the one that NumPy keeps the same in all versions.
    return np.random.PCG64(position).random_raw(size) | np.uint64(1)
