"""The differences between two pieces of plain data."""

import json
import re


class OtherSettings(ValueError):
    """A run was begun with other settings than those of now.

    Attributes:
        there, now: plain data, the settings in the directory and those of now.
    """

    def __init__(self, message, there, now):
        super().__init__(message)
        self.there, self.now = there, now


def differences(there, now, name=""):
    """Yield a line with the name and both values for each value that differs."""
    if isinstance(there, dict) and isinstance(now, dict):
        keys = [*there, *(key for key in now if key not in there)]
        registered = there.get("registered_name")
        if registered is not None and registered == now.get("registered_name"):
            # Keras finds a registered class by its name, in any module.
            keys = [key for key in keys if key != "module"]
        for key in keys:
            yield from differences(there.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        for index, pair in enumerate(zip(there, now, strict=True)):
            yield from differences(*pair, f"{name}[{index}]")
    elif (
        there != now
        and not (there != there and now != now)
        and not (name.endswith(".name") and _unnumbered(there) == _unnumbered(now))
    ):
        if _is_hash(there) and _is_hash(now):
            yield f"{name}: other values than in the directory"
        else:
            yield f"{name}: {_short(there)} in the directory, {_short(now)} now"


def _is_hash(value):
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def _unnumbered(name):
    """Remove the number that Keras adds to names, as in `adam_2`. It depends on what the process created before."""
    return re.sub(r"_\d+$", "", name) if isinstance(name, str) else name


def _short(value):
    if isinstance(value, (list, dict)) and len(json.dumps(value)) > 80:
        return f"{len(value)} entries"
    return json.dumps(value)
