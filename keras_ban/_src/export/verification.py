"""Compare an exported model with its source, by their outputs for the same inputs."""

import pathlib

import keras
import numpy as np
from keras import ops

from keras_ban._src import backend
from keras_ban._src.data.preprocessing import keras_method
from keras_ban._src.export.processes import run_python
from keras_ban._src.export.served import named_inputs, named_outputs

_SCRIPT = pathlib.Path(__file__).with_name("run_artefact.py")
BATCH_SIZES = (1, 2, 7)


def expected_outputs(served, inputs):
    """Return the outputs of the source model's `predict` by name, with bfloat16 as float32."""
    if served.preprocessing:
        inputs = keras.tree.map_structure(ops.convert_to_numpy, served.preprocess(inputs))
    outputs = named_outputs(keras.tree.map_structure(ops.convert_to_numpy, served.outputs_of(inputs, _predict)))
    return {name: value.astype("float32") if value.dtype.kind == "V" else value for name, value in outputs.items()}


def _predict(model, inputs):
    # Keras takes texts as tensors of TensorFlow only.
    inputs = keras.tree.map_structure(lambda x: ops.convert_to_tensor(x) if x.dtype.kind == "U" else x, inputs)
    # An exported graph takes what a preprocessor makes.
    with backend.keeping_values(model):
        return keras_method(model, "predict")(inputs, verbose=0)


def actual_outputs(artefact, format, specs, inputs, folder):
    """Return an exported model's outputs, for batches of 1, 2, then 7, from a process without keras_ban."""
    # Names in files have a prefix, because `savez` has arguments, too.
    np.savez(folder / "inputs.npz", **{f"in/{name}": rows for name, rows in named_inputs(specs, inputs).items()})
    # -P: do not import from the script's own folder.
    command = ["-P", _SCRIPT, artefact, format, folder / "inputs.npz", folder / "outputs.npz", *BATCH_SIZES]
    run_python(command, f"loads the exported {format}")
    with np.load(folder / "outputs.npz") as arrays:
        return {name.removeprefix("out/"): arrays[name] for name in arrays.files}


def largest_difference(expected, actual):
    """Return the largest absolute difference. Equal infinities do not differ, nor do two NaNs."""
    shapes = [{name: value.shape for name, value in outputs.items()} for outputs in (expected, actual)]
    if shapes[0] != shapes[1]:
        raise RuntimeError(f"The exported model's outputs are {shapes[1]}, where the source model's are {shapes[0]}.")
    differences = [0.0]
    for name in expected:
        e, a = expected[name].astype("float64"), actual[name].astype("float64")
        differs = (e != a) & ~(np.isnan(e) & np.isnan(a))
        differences.append(np.max(np.abs(e[differs] - a[differs]), initial=0.0))
    return float(np.max(differences))  # NaN if only one value is.
