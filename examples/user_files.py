"""Files and answers that users bring: read and checked, or refused in one line that says what they must be.

Every reader takes `wanted`, the words for what the file must be, and `end`, which ends the process with a message:
`sys.exit` (code 1), or `parser.error` (code 2, after the usage) for what the command line itself is made of.
"""

import json
import os
import stat
import sys

# The types of JSON, for `check`.
NAMES = {
    dict: "an object",
    list: "a list",
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    object: "a value",
}
KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
LONGEST = 200


def option(name, end=sys.exit):
    """Return `end` with the option that named the file before the message."""
    return lambda message: end(f"{name} {message}")


def read(path, convert, wanted, end=sys.exit):
    """Return what `convert` makes of the open file. If that fails, end the process with one line.

    Args:
        path: of a regular file. A pipe, for instance, is refused: to open it could take forever.
        convert: a function of the file, opened for bytes. Any error that it raises is a fault of the file.
        wanted: what the file must be, and what to do if it is not.
        end: a function that ends the process with a message.
    """
    try:
        with open_regular(path) as file:
            return convert(file)
    except Exception as error:  # NumPy, zipfile, zlib and h5py raise errors of many types for damaged files.
        message = f"{path} must be {wanted}: {reason(error)}"
    end(message)


def open_regular(path):
    """Open a regular file for bytes, without waiting. Raise `OSError` or `ValueError` if it is none."""
    # Without O_NONBLOCK, to open a pipe waits for a writer. Windows has none, and does not need it.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise ValueError(f"it is {KINDS.get(stat.S_IFMT(mode), 'a device')}, not a file")
    return os.fdopen(descriptor, "rb")


def read_text(path, wanted="a text file in UTF-8", end=sys.exit):
    """Return the text of a file in UTF-8, with or without a byte order mark."""
    return read(path, lambda file: file.read().decode("utf-8-sig"), wanted, end)


def read_json(path, shape, wanted, end=sys.exit):
    """Return the value of a JSON file, checked as `check` does."""
    return read(path, lambda file: parse_json(file.read(), shape), wanted, end)


def read_json_lines(path, shape, wanted, end=sys.exit):
    """Return the values of a file with one value in each line: none, if there is no file."""

    def convert(file):
        values = []
        for number, line in enumerate(file.read().decode("utf-8").splitlines(), 1):
            try:
                values.append(parse_json(line, shape))
            except (ValueError, RecursionError) as error:
                raise ValueError(f"line {number}: {reason(error)}") from None
        return values

    return read(path, convert, wanted, end) if os.path.lexists(path) else []


def parse_json(text, shape=object):
    """Return the value of JSON. Raise `ValueError` for text that is no JSON, has a name twice, or has another shape.

    NaN and infinity are read, as Python's `json` reads and writes them. `check` refuses them.
    """
    return check(json.loads(text, object_pairs_hook=_entries_once), shape)


def check(value, shape, where="it"):
    """Return a value of JSON. Raise `ValueError` if its shape is another.

    Args:
        value: the value.
        shape: `{"name": shape, ...}`, an object with these entries, and maybe more; `[shape]`, a list; or a type:
            `dict`, `list`, `str`, `bool`, `int`, `float` (any finite number), `object` (anything).
        where: the place of the value, in words.
    """
    kind = shape if isinstance(shape, type) else type(shape)
    is_kind = isinstance(value, (int, float) if kind is float else kind)
    if kind in (int, float):
        # Python compares exactly: a whole number may be larger than any float.
        largest = 2**63 - 1 if kind is int else sys.float_info.max
        is_kind = is_kind and not isinstance(value, bool) and abs(value) <= largest
    if not is_kind:
        raise ValueError(f"{where} must be {NAMES[kind]}, received: {short(repr(value))}")
    if isinstance(shape, dict):
        missing = [name for name in shape if name not in value]
        if missing:
            raise ValueError(f"{where} lacks {', '.join(map(repr, missing))}")
        for name, of_name in shape.items():
            check(value[name], of_name, f"{where}[{name!r}]")
    elif isinstance(shape, list):
        for place, each in enumerate(value):
            check(each, shape[0], f"{where}[{place}]")
    return value


def read_arrays(path, names, wanted=None, end=sys.exit, optional=()):
    """Return the arrays of a `.npz` file by name, those of `names` made of numbers.

    Args:
        path, wanted, end: as in `read`.
        names: the arrays that the file must have.
        optional: others that are returned if it has them.
    """

    def convert(file):
        with _opened_npz(file) as stored:
            missing = [name for name in names if name not in stored.files]
            if missing:
                raise ValueError(f"there is no {', '.join(missing)}")
            arrays = {name: stored[name] for name in [*names, *optional] if name in stored.files}
        for name in names:
            if arrays[name].dtype.kind not in "biuf":
                raise ValueError(f"{name} must be numbers, received: {arrays[name].dtype}")
        return arrays

    return read(path, convert, wanted or f"a .npz file of the arrays {', '.join([*names, *optional])}", end)


def names_of_arrays(path, end=sys.exit):
    """Return the names of the arrays of a `.npz` file, without reading one."""

    def convert(file):
        with _opened_npz(file) as stored:
            return stored.files

    return read(path, convert, "a .npz file", end)


def read_images(path, x, y, end=sys.exit):
    """Return two arrays of a `.npz` file: images as they are, and a class number of each, `(n,)`.

    Args:
        path, end: as in `read`.
        x, y: the names of the arrays.
    """
    import numpy as np

    arrays = read_arrays(path, (x, y), end=end)
    images, labels = arrays[x], arrays[y].ravel()
    if images.ndim not in (3, 4) or len(images) != len(labels) or not len(images):
        end(
            f"{path} must hold images (n, height, width) or (n, height, width, channels), and a label of each: {x} is "
            f"{images.shape}, {y} is {arrays[y].shape}."
        )
    if not np.isfinite(images).all() or not np.isfinite(labels).all() or (labels % 1 != 0).any() or labels.min() < 0:
        end(f"{path} must hold finite numbers in {x}, and whole numbers from 0 in {y}: other values are in there.")
    return images, labels.astype("int32")


def _opened_npz(file):
    import numpy as np

    if file.read(4) != b"PK\x03\x04":
        raise ValueError("it is not in that format")
    file.seek(0)
    return np.load(file, allow_pickle=False)


def reason(error):
    """Return what an error says, in one line."""
    if isinstance(error, RecursionError):
        return "its values are nested too deeply"
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return short(said) or type(error).__name__


def short(text):
    """Return a text in one line."""
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[:LONGEST] + " ..."


def _entries_once(pairs):
    entries = dict(pairs)
    if len(entries) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"there are two entries {short(repr(twice))}")
    return entries
