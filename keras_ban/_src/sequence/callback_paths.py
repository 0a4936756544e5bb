"""The paths of Keras's callbacks that write: one for each generation, so that none overwrites another's files.

`{generation}` in a path is replaced by the number of the generation, or `{generation:02d}` by its digits. Without it, a
folder gets a subfolder, `logs/generation-00`, and a file an ending, `log-generation-00.csv`. A control has its name in
place of `generation-00`. The path depends on nothing else, so an interrupted generation goes on with its own.
"""

import copy
import os
import re

import keras

# The attribute that holds the path, and whether it is a folder's.
_ATTRIBUTES = {
    keras.callbacks.BackupAndRestore: ("backup_dir", True),
    keras.callbacks.CSVLogger: ("filename", False),
    keras.callbacks.ModelCheckpoint: ("filepath", False),
    keras.callbacks.TensorBoard: ("log_dir", True),
}
_FIELD = re.compile(r"\{generation(?::([^{}]*))?\}")
# A file's name without and with its suffix, which is not part of a field such as `{val_loss:.2f}`.
_NAME = re.compile(r"(.*?)((?:\.weights)?\.\w+)?", re.DOTALL)


def check_paths(callbacks):
    """Raise `ValueError`, before training, if `{generation:...}` in a path is no format of a whole number."""
    for callback, _, path, is_folder in _paths(callbacks):
        try:
            _path_of(path, is_folder, 0, None)
        except ValueError as error:
            raise ValueError(
                f"The path {path!r} of the callback {type(callback).__name__} cannot be formatted with the number of a "
                f"generation: {error}. Write {{generation}} or {{generation:02d}}."
            ) from error


def with_paths(callbacks, generation, control=None):
    """Return callbacks with the paths of a generation, or of the control with this name.

    Callbacks with a path are copied. They must not be in use.
    """
    callbacks = [copy.copy(each) if isinstance(each, tuple(_ATTRIBUTES)) else each for each in callbacks]
    for callback, attribute, path, is_folder in _paths(callbacks):
        _set_path(callback, attribute, path, _path_of(path, is_folder, generation, control))
    return callbacks


def _paths(callbacks):
    """Yield `(callback, name of the attribute, path, whether it is a folder)`."""
    for callback in callbacks:
        for kind, (attribute, is_folder) in _ATTRIBUTES.items():
            if isinstance(callback, kind):
                yield callback, attribute, os.fspath(getattr(callback, attribute)), is_folder


def _path_of(path, is_folder, generation, control):
    name = f"generation-{generation:02d}" if control is None else f"control-{control}"
    if _FIELD.search(path):
        return _FIELD.sub(lambda field: format(generation, field[1] or "") if control is None else name, path)
    if is_folder:
        return os.path.join(path, name)
    folder, file = os.path.split(path)
    stem, suffix = _NAME.fullmatch(file).groups("")
    return os.path.join(folder, f"{stem}-{name}{suffix}")


def _set_path(callback, attribute, path, new_path):
    inside = os.path.join(path, "")
    for name, value in vars(callback).items():
        # `BackupAndRestore` also keeps the paths of its files.
        if isinstance(value, str) and value.startswith(inside):
            setattr(callback, name, os.path.join(new_path, value.removeprefix(inside)))
    setattr(callback, attribute, new_path)
    folder = os.path.dirname(new_path)
    if isinstance(callback, keras.callbacks.CSVLogger) and folder and "://" not in folder:
        os.makedirs(folder, exist_ok=True)  # The other callbacks make their folders.
