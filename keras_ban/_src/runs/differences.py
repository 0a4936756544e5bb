"""The differences between two pieces of plain data."""

import json
import re

from keras_ban._src.runs.manifest_file import is_sha256


class OtherSettings(ValueError):
    """A run was begun with other settings than those of now.

    Attributes:
        stored, given: plain data, the settings in the directory and those of this call.
    """

    def __init__(self, message, stored, given):
        super().__init__(message)
        self.stored, self.given = stored, given


def differences(stored, given, name=""):
    """Yield a line with the name and both values for each value that differs."""
    if isinstance(stored, dict) and isinstance(given, dict):
        keys = [*stored, *(key for key in given if key not in stored)]
        registered = stored.get("registered_name")
        if registered is not None and registered == given.get("registered_name"):
            # Keras finds a registered class by its name, in any module.
            keys = [key for key in keys if key != "module"]
        for key in keys:
            yield from differences(stored.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif isinstance(stored, list) and isinstance(given, list) and len(stored) == len(given):
        for index, pair in enumerate(zip(stored, given, strict=True)):
            yield from differences(*pair, f"{name}[{index}]")
    elif (
        stored != given
        and not (stored != stored and given != given)
        and not (name.endswith(".name") and _unnumbered(stored) == _unnumbered(given))
    ):
        if is_sha256(stored) and is_sha256(given):
            yield f"{name}: other values than in the directory"
        else:
            yield f"{name}: {_short(stored)} in the directory, {_short(given)} now"


def _unnumbered(name):
    """Remove the number that Keras adds to names, as in `adam_2`. It depends on what the process created before."""
    return re.sub(r"_\d+$", "", name) if isinstance(name, str) else name


def _short(value):
    if isinstance(value, (list, dict)) and len(json.dumps(value)) > 80:
        return f"{len(value)} entries"
    return json.dumps(value)
