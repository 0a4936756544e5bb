"""Images and labels that are arrays already: scikit-learn's digits, and .npz files."""

import numpy as np

from keras_ban._src.files.regular_file import open_to_read

_WANTED = "a .npz file of the arrays x_train, y_train and, if there are, x_val, y_val, x_test, y_test"
_NAMES = {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")}


def digits():
    """300 train, 300 validate, 1,197 test (as in examples/digits.py), each pixel as 4x4: 32x32."""
    # Optional.
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = (loaded.images * 255 / 16).astype("uint8").repeat(4, axis=1).repeat(4, axis=2)
    order = np.random.default_rng(0).permutation(len(images))
    parts = zip(_NAMES, np.split(order, [300, 600]), strict=True)
    return {name: (images[part], loaded.target[part]) for name, part in parts}, [str(n) for n in range(10)]


def npz(path):
    """Return `({"train": (x, y), ...}, classes)` of a .npz file. It may have `classes`, a name for each.

    Raises:
        ValueError: the file cannot be used. It is named.
    """
    found = _arrays(path)
    parts = {}
    for part, (x, y) in _NAMES.items():
        if x in found:
            if y not in found:
                raise ValueError(f"{path} must be {_WANTED}: there is no {y}")
            parts[part] = (found[x], found[y].squeeze())
    if "train" not in parts:
        raise ValueError(f"{path} must be {_WANTED}: there is no x_train, but {', '.join(found) or 'nothing'}")
    classes = [str(name) for name in found["classes"].ravel()] if "classes" in found else None
    for part, (x, y) in parts.items():
        if x.ndim not in (3, 4) or y.ndim != 1 or len(x) != len(y) or not np.issubdtype(y.dtype, np.integer):
            raise ValueError(
                f"{path} must hold images (n, height, width) or (n, height, width, channels) and a whole number as "
                f"label of each. For {part} came: images {x.shape}, labels {y.shape} of {y.dtype}."
            )
    labels = np.concatenate([y for _, y in parts.values()])
    least, most = (labels.min(), labels.max()) if len(labels) else (0, -1)
    if least < 0 or (classes is not None and most >= len(classes)):
        raise ValueError(f"{path} must number its classes from 0, its labels run from {least} to {most}.")
    return parts, classes or [str(n) for n in range(most + 1)]


def _arrays(path):
    try:
        with open_to_read(path) as file:
            if file.read(4) != b"PK\x03\x04":
                raise ValueError("it is not in that format")
            file.seek(0)
            with np.load(file, allow_pickle=False) as stored:
                wanted = ["classes", *(name for pair in _NAMES.values() for name in pair)]
                return {name: stored[name] for name in wanted if name in stored.files}
    except Exception as error:  # NumPy, zipfile and zlib raise errors of many types for damaged files.
        said = " ".join(str(error).removeprefix(f"{path} ").split())[:200]
        raise ValueError(f"{path} must be {_WANTED}: {said or type(error).__name__}") from error
