"""Born-again image classifiers from the command line: your images in; a run directory, a report and a model out.

    python examples/kerascv_cli.py
    python examples/kerascv_cli.py --data folder:/photos --backbone densenet --generations 3 --out runs/photos

The same as `keras-ban train FOLDER`, with the data as an option (pip install ".[kerascv,examples]"). Without arguments
it takes scikit-learn's digits, and needs no network.
"""

import runpy
import sys


def main(arguments=None):
    """Run the command line. It ends with `SystemExit`, whose code is 0 if all went well."""
    arguments = sys.argv[1:] if arguments is None else [str(argument) for argument in arguments]
    names_data = any(each.partition("=")[0] in ("--data", "--config", "--resume") for each in arguments)
    # keras_ban reads the command line before it imports Keras.
    sys.argv = ["keras-ban", "train", *([] if names_data else ["--data", "digits"]), *arguments]
    runpy.run_module("keras_ban", run_name="__main__")


if __name__ == "__main__":
    main()
