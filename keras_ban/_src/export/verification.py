"""Holds an exported model against its source: what both say of the same inputs."""

import pathlib

import keras
import numpy as np
from keras import ops

from keras_ban._src import backend
from keras_ban._src.export.processes import run_python
from keras_ban._src.export.served import named_inputs, named_outputs

_SCRIPT = pathlib.Path(__file__).with_name("_run_artefact.py")
BATCH_SIZES = (1, 2, 7)


def expected_outputs(served, inputs):
    """What the source model says by its `predict`, by the names that clients see, float32 at least.

    Args:
        served: `ServedModel`.
        inputs: arrays, in the structure of the inputs.
    """
    if served.preprocessing:
        inputs = keras.tree.map_structure(ops.convert_to_numpy, served.preprocess(inputs))
    outputs = served.outputs_of(inputs, _predict)
    outputs = named_outputs(keras.tree.map_structure(ops.convert_to_numpy, outputs))
    return {name: _as_numpy(value) for name, value in outputs.items()}


def _predict(model, inputs):
    with backend.keeping_values(model):
        return model.predict(inputs, verbose=0)


def actual_outputs(artefact, format, specs, inputs, folder):
    """What an exported model says of inputs, in batches of 1, 2, and then 7, in a process without keras_ban.

    Raises:
        RuntimeError: it cannot be loaded, or fails.
    """
    count, start, batches = len(keras.tree.flatten(inputs)[0]), 0, []
    while start < count:
        stop = min(count, start + BATCH_SIZES[min(len(batches), len(BATCH_SIZES) - 1)])
        batches.append(slice(start, stop))
        start = stop
    named = named_inputs(specs, inputs)
    rows = {f"{i}/{name}": value[batch] for i, batch in enumerate(batches) for name, value in named.items()}
    np.savez(folder / "inputs.npz", **rows)
    # -P: the script's own folder is no place to import from.
    command = ["-P", _SCRIPT, artefact, format, folder / "inputs.npz", folder / "outputs.npz"]
    run_python(command, f"loads the exported {format}")
    with np.load(folder / "outputs.npz") as arrays:
        names = {key.split("/", 1)[1] for key in arrays.files}
        return {name: np.concatenate([arrays[f"{i}/{name}"] for i in range(len(batches))]) for name in names}


def largest_difference(expected, actual):
    """The largest absolute difference of any number; 0 where both are the same infinity, or both NaN.

    Raises:
        RuntimeError: the names or shapes differ.
    """
    shapes = [{name: value.shape for name, value in outputs.items()} for outputs in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"The exported model's outputs are {shapes[1]}, where the source model's are {shapes[0]}.")
    differences = [0.0]
    for name in expected:
        e, a = expected[name].astype("float64"), actual[name].astype("float64")
        same = (e == a) | (np.isnan(e) & np.isnan(a))
        difference = np.where(same, 0.0, np.abs(np.where(same, 0.0, e) - np.where(same, 0.0, a)))
        differences.append(np.max(difference, initial=0.0))
    return float(np.max(differences))  # NaN, where one side alone is.


def _as_numpy(value):
    return value.astype("float32") if value.dtype.kind == "V" else value
