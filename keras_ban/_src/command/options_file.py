"""The options of a run as a TOML file, from which `--config` repeats it and `--resume` continues it."""

import json
import pathlib
import tomllib

from keras_ban._src.files.regular_file import open_to_read

OPTIONS_FILE = "options.toml"
# They say where and how, not what: a file that repeats a run does not hold them. `folder` is in `data`.
_NOT_WRITTEN = ("command", "folder", "out", "resume", "config")


def read(path):
    """Return the options of a file as a dict. Raise `ValueError` if it is no such file."""
    try:
        with open_to_read(path) as file:
            content = tomllib.loads(file.read().decode("utf-8"))
        for name, value in content.items():
            for each in value if isinstance(value, list) else [value]:
                if not isinstance(each, (str, int, float)):
                    raise ValueError(
                        f"{name} must be a number, a text, a boolean or a list, received: {str(each)[:99]}"
                    )
    except (OSError, ValueError, RecursionError) as error:
        said = error.strerror if isinstance(error, OSError) else " ".join(str(error).removeprefix(f"{path} ").split())
        said = "its values are nested too deeply" if isinstance(error, RecursionError) else said[:200]
        raise ValueError(f"{path} must be a TOML file of options, as {OPTIONS_FILE} in every run: {said}") from error
    return content


def as_argument(name, value):
    """Return an option as an argument of the command line."""
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={as_text(value)}"


def as_text(value):
    """Return the value of an option as on the command line."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def to_toml(options):
    """Return options as the text of a TOML file."""
    lines = []
    for name, value in vars(options).items():
        if value is None or name in _NOT_WRITTEN:
            continue
        value = as_text(value) if isinstance(value, (tuple, pathlib.Path)) else value
        # JSON's numbers, strings, lists and booleans are TOML's.
        lines.append(f"{name.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"
