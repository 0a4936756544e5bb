"""Fingerprints of examples and models, which tie soft targets to their data and their teacher."""

import functools
import hashlib
import json

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.data.leaves import as_array, leaves_of

#: The version of the keys in new files.
HASHES = 2
# The number of bytes read at a time. Memory-mapped arrays stay on disk.
_CHUNK_BYTES = 2**20
# Keys in which two serialized layers of the same kind may differ.
INESSENTIAL = {"name", "seed", "build_config", "build_input_shape", "shared_object_id", "compile_config"}


def example_keys(x, version=HASHES):
    """A 64-bit fingerprint of each example in nested arrays of numbers or strings, as a uint64 array `(examples,)`.

    The bytes of an example are read as 64-bit words. The bits of a word are mixed, the words are multiplied by fixed
    random odd numbers, and the products are added modulo 2**64. Two examples that differ in one word never have the
    same key. `version=1`, for old files, does not mix the bits. Rows of few different floats then often have one key.
    """
    total = np.uint64(0)
    for position, leaf in enumerate(leaves_of(x)):
        size = leaf.shape[0]
        step = max(1, _CHUNK_BYTES * size // max(1, _bytes_of(leaf)))
        keys = [_keys_of_rows(as_array(leaf[i : i + step]), position, version) for i in range(0, size, step)]
        total = total + (np.concatenate(keys) if keys else np.zeros(0, "uint64"))
    return total


def example_form(x):
    """`[[dtype, shape of an example], ...]` of the arrays in `x`."""
    arrays = [as_array(leaf[:1]) for leaf in leaves_of(x)]
    return [[str(array.dtype), list(array.shape[1:])] for array in arrays]


def model_fingerprint(model):
    """The SHA-256 of a model's or layer's weights, their shapes and dtypes. It is the same on each backend.

    The unequal weights and the temperature of an ensemble within the model count, too.
    """
    digest = hashlib.sha256()
    for weight in model.weights:
        array = np.ascontiguousarray(keras.ops.convert_to_numpy(weight.value))
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.tobytes())
    for layer in backend.flat_layers(model):
        digest.update(getattr(layer, "fingerprint", "").encode())
    return digest.hexdigest()


def layer_fingerprint(layer):
    """The SHA-256 of a layer's configuration and weights, without names, seeds, and whether it is built."""
    config = essence(keras.saving.serialize_keras_object(layer))
    text = json.dumps(config, sort_keys=True, default=repr) + model_fingerprint(layer)
    return hashlib.sha256(text.encode()).hexdigest()


def data_fingerprint(form, keys):
    """The SHA-256 of the form and the keys of examples, in their order."""
    return hashlib.sha256(json.dumps(form).encode() + np.ascontiguousarray(keys).tobytes()).hexdigest()


def described(x, hashes):
    """Plain data of each array in `x`: its size, form and fingerprint. `hashes` is the version of the keys."""
    return [
        {
            "examples": leaf.shape[0],
            "dtype_and_shape": example_form(leaf)[0],
            "fingerprint": data_fingerprint(example_form(leaf), example_keys(leaf, hashes)),
        }
        for leaf in leaves_of(x)
    ]


def essence(config, names=None, inessential=INESSENTIAL):
    """A serialized layer, as plain data, without the keys in which two of the same kind may differ.

    Names of layers become numbers in their order, by the dict `names`.
    """
    names = {} if names is None else names
    if isinstance(config, dict):
        if isinstance(config.get("name"), str):
            names.setdefault(config["name"], len(names))
        return {key: essence(value, names, inessential) for key, value in config.items() if key not in inessential}
    if isinstance(config, (list, tuple)):
        parts = [essence(each, names, inessential) for each in config]
        # A `Sequential` gets its input layer when it is built.
        return [each for each in parts if not (isinstance(each, dict) and each.get("class_name") == "InputLayer")]
    return names.get(config, config) if isinstance(config, str) else config


def _bytes_of(leaf):
    """The size of an array in bytes, if it were dense."""
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
    """Mix the bits of each word, one to one: a product has its best bits at the top, which are copied to the bottom."""
    words = words * np.uint64(0xFF51AFD7ED558CCD)
    words ^= words >> np.uint64(32)
    return words


@functools.lru_cache(maxsize=16)
def _multipliers(position, size):
    # NumPy keeps the raw stream of a bit generator the same in all versions.
    return np.random.PCG64(position).random_raw(size) | np.uint64(1)
