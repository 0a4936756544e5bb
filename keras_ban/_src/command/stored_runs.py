"""Runs on disk, as the commands read them."""

import shutil

from keras_ban._src.history.text import LEAST_WIDTH
from keras_ban._src.runs.directory import RunDirectory


def read(path):
    """Return the `RunDirectory` at a path. Raise an error that names the path if it is none, or damaged."""
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    if not path.is_dir():
        raise NotADirectoryError(f"{path} is not a directory. A run is the `directory` of a BornAgainSequence.")
    return RunDirectory(path).read()


def history_of(run):
    """Return the history of a `RunDirectory`. Raise `ValueError` if no generation is finished."""
    if not run.entries:
        raise ValueError(f"{run.path} holds a run of which no generation is finished yet: continue it by `fit`.")
    return run.history()


def terminal_width():
    """Return the number of columns of the terminal, 80 without one."""
    return max(LEAST_WIDTH, shutil.get_terminal_size().columns)
