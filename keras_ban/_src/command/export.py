"""`keras-ban export RUN_OR_MODEL OUT`."""

import importlib
import os
import sys

import keras
import numpy as np

from keras_ban._src.export.export import export
from keras_ban._src.files import model_file
from keras_ban._src.files.regular_file import open_to_read
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.sequence.sequence import BornAgainSequence


def run(arguments):
    """Export the run or the model that the arguments name."""
    if arguments.modules:
        # As with `python -m`: modules of the working directory are found.
        sys.path.insert(0, os.getcwd())
    for module in arguments.modules:
        importlib.import_module(module)
    options = {"choose": arguments.choose} if arguments.choose else {}
    if arguments.rescaling is not None:
        options["preprocessing"] = keras.layers.Rescaling(arguments.rescaling)
    if arguments.labels is not None:
        options["labels"] = read_labels(arguments.labels)
    if arguments.examples is not None:
        options["examples"] = read_examples(arguments.examples)
    for name in ("format", "members", "int8", "verify", "tolerance", "overwrite", "verbose"):
        options[name] = getattr(arguments, name)
    export(read_model(arguments.model), arguments.out, **options)


def read_model(path):
    """Load the `BornAgainSequence` of a run directory, or the model of a `.keras` file."""
    if path.is_dir():
        sequence = BornAgainSequence.load(path)
        if not RunDirectory(path).read().finished:
            print(
                f"note: the run in {path} is not finished, of its generations 0 to {sequence.generations} it has "
                f"{len(sequence.models)}",
                file=sys.stderr,
            )
        return sequence
    if not path.is_file():
        raise FileNotFoundError(f"{path} is neither the directory of a run nor a .keras file.")
    return model_file.load(path)


def read_examples(path):
    """Load inputs from a `.npy` file, or `x` or `(x, y)` from an `.npz` file."""
    # Opened here, because NumPy leaves a broken archive open.
    with open_to_read(path) as file:
        try:
            loaded = np.load(file)
            if isinstance(loaded, np.ndarray):
                return loaded
            arrays = {name: loaded[name] for name in ("x", "y") if name in loaded.files}
        except Exception as error:  # NumPy, zipfile and zlib raise many types for damaged files.
            raise ValueError(f"`--examples` {path} must be a .npy or .npz file of NumPy: {error}") from error
        if "x" not in arrays:
            raise ValueError(f"{path} must hold an array `x` (and may hold `y`), but it holds {loaded.files}.")
        return (arrays["x"], arrays["y"]) if "y" in arrays else arrays["x"]


def read_labels(path):
    """Load class names from a text file, one per line."""
    with open_to_read(path) as file:
        try:
            return file.read().decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise ValueError(f"`--labels` {path} must be a text file in UTF-8: {error}") from error
