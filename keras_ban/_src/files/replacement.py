"""Write files and folders so that they are complete or absent."""

import contextlib
import os
import pathlib
import tempfile

# A folder with this file is a SavedModel.
SAVED_MODEL = "saved_model.pb"


def check_may_replace(path, format, overwrite):
    """Raise `ValueError` if `path` exists and may not be replaced."""
    if not path.exists() and not path.is_symlink():
        return
    if not overwrite:
        raise ValueError(
            f"{path} exists. Choose another path, or replace it: `overwrite=True`, on the command line `--overwrite`."
        )
    if path.is_dir() != (format == "tf_saved_model") or (path.is_dir() and not (path / SAVED_MODEL).is_file()):
        kind = "a folder" if path.is_dir() else "a file"
        raise ValueError(f"{path} is {kind}, but no {format} model that `overwrite=True` could replace: remove it.")


@contextlib.contextmanager
def temporary_folder(path):
    """Return a context with a hidden folder on the file system of `path`. The folder is removed at the end."""
    beside = next(folder for folder in path.absolute().parents if folder.is_dir())
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", suffix=".partial", dir=beside) as folder:
        yield pathlib.Path(folder)


def put_in_place(finished, path, folder, format, overwrite):
    """Rename a file or folder to `path`. If it replaces a folder, that folder is moved to `folder`.

    Raise `ValueError` if `path` exists by now and may not be replaced.
    """
    check_may_replace(path, format, overwrite)
    for each in [finished, *finished.rglob("*")]:
        if each.is_file():
            with open(each, "rb+") as file:
                os.fsync(file.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_dir():
        os.replace(finished, path)
        return
    # A folder cannot be renamed over another. For an instant, `path` does not exist.
    previous = folder / "previous"
    try:
        os.rename(path, previous)
        os.rename(finished, path)
    except BaseException:
        if previous.exists() and not path.exists():
            os.rename(previous, path)
        raise
