"""The command line: `python -m keras_ban export RUN_OR_MODEL OUT`."""

import argparse
import fractions
import importlib
import pathlib
import sys

import keras
import numpy as np

from keras_ban._src.export.export import FORMATS, export
from keras_ban._src.files import model_file
from keras_ban._src.files.regular_file import open_to_read
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.sequence.sequence import BornAgainSequence

DESCRIPTION = """\
Export a model as one graph for serving, load it in a process without keras_ban, and compare its outputs with the
model's. Exit codes: 0, exported and verified; 1, not exported, nothing was written; 2, wrong command line.
KERAS_BACKEND selects the backend that loads the model. TensorFlow must be installed with any backend."""


def main(arguments=None):
    arguments = parse(arguments)
    try:
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
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


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


def factor(text):
    """Convert a number or a fraction. `argparse` reports the `ValueError`."""
    try:
        return float(fractions.Fraction(text))
    except ZeroDivisionError:
        raise ValueError(text) from None


def parse(arguments):
    parser = argparse.ArgumentParser("python -m keras_ban", description="Born-Again Neural Networks for Keras 3.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("export", help="export a model for serving, and verify it", description=DESCRIPTION)
    command.add_argument(
        "model",
        metavar="RUN_OR_MODEL",
        type=pathlib.Path,
        help="a BornAgainSequence's directory, or a .keras file",
    )
    command.add_argument("out", metavar="OUT", type=pathlib.Path, help="path; for TensorFlow Serving .../NAME/1")
    command.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s")
    command.add_argument("--choose", choices=["ensemble", "best"], help="what to export of a run (default: ensemble)")
    command.add_argument("--members", action="store_true", help="also output each member, and their disagreement")
    command.add_argument(
        "--rescaling",
        metavar="FACTOR",
        type=factor,
        help="multiply the inputs by this in the graph, for instance 1/255; inputs are uint8, or as the examples",
    )
    command.add_argument("--labels", metavar="FILE", type=pathlib.Path, help="class names, one per line")
    command.add_argument(
        "--examples", metavar="FILE", type=pathlib.Path, help="more inputs to verify: .npy, or .npz with x (and y)"
    )
    command.add_argument("--int8", action="store_true", help="quantise LiteRT to int8; needs --examples")
    command.add_argument("--no-verify", dest="verify", action="store_false", help="do not compare with the model")
    command.add_argument("--tolerance", type=float, default=1e-5, help="largest difference (default: %(default)s)")
    command.add_argument("--overwrite", action="store_true", help="replace an existing model")
    command.add_argument("--quiet", dest="verbose", action="store_false", help="print nothing but errors")
    command.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module that registers your own classes; may be repeated",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
