"""Keys that a dataset gives its examples, by which rows are found in any order: whole numbers or texts.

A dataset gives them beside the labels: its `y` is `{"labels": y, "key": key}`. A key is kept as 64 bits, a whole number
as itself and a text as its BLAKE2b hash. Two texts of one hash count as one key twice, which is an error: it is so for
ten million texts with a chance of 3 in a million.
"""

import hashlib
import itertools

import numpy as np

from keras_ban import _checks


def key_of(y):
    """The keys in a batch's `y`, `None` where there are none."""
    return y["key"] if isinstance(y, dict) and "key" in y and set(y) <= {"labels", "key"} else None


def without_key(y):
    """The labels of a batch's `y`."""
    return y if key_of(y) is None else y.get("labels")


def hashed(keys):
    """`(uint64 (batch,), texts or None)` of a batch's keys.

    Args:
        keys: whole numbers or texts, `(batch,)`, as any framework batches them. A text may be `str` or UTF-8 `bytes`.

    Returns:
        The texts are a list of bytes.

    Raises:
        TypeError: they are neither.
        ValueError: they are not one for each example.
    """
    if isinstance(keys, (list, tuple)) and any(isinstance(key, (str, bytes)) for key in keys):
        keys = np.array(keys, "object")
    keys = _checks.as_array(keys)
    if keys.ndim != 1:
        raise ValueError(f"The keys of a batch must be of shape (batch,), one an example, received shape {keys.shape}.")
    if keys.dtype.kind in "iu":
        return (keys.astype("int64") if keys.dtype.kind == "i" else keys.astype("uint64")).view("uint64"), None
    texts = [key.encode() if isinstance(key, str) else key for key in keys.tolist()]
    wrong = next((text for text in texts if not isinstance(text, bytes)), None)
    if wrong is not None:
        raise TypeError(
            f"A key must be a whole number or a text, received: {wrong!r} (of type {type(wrong).__name__}, in an array "
            f"of dtype {keys.dtype})."
        )
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype("uint64"), texts


def kind_of(texts):
    return "whole numbers" if texts is None else "texts"


def spoken(key):
    """A key as errors name it: of a whole number its 64 bits, of a text its bytes."""
    if isinstance(key, bytes):
        return repr(key.decode(errors="backslashreplace"))
    return str(int(np.uint64(key).view("int64")))


class KeyIndex:
    """Finds rows by their keys, in 12 bytes a row (16 from 2**32 rows).

    Args:
        keys: uint64 `(rows,)`.

    Attributes:
        twice: two rows of the same key, the earlier first; `None` if there are none.
    """

    def __init__(self, keys):
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        same = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        self.twice = (int(order[same[0]]), int(order[same[0] + 1])) if len(same) else None
        self._order = order.astype("uint32" if len(keys) <= 2**32 else "uint64")

    def rows_of(self, keys):
        """`(rows, found)`: int64 and bool `(batch,)`."""
        if len(self._keys) == 0:
            return np.zeros(len(keys), "int64"), np.zeros(len(keys), "bool")
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return self._order[places].astype("int64"), self._keys[places] == keys

    def check_unique(self, keys, texts, place):
        """Raise `ValueError` where two rows have one key.

        Args:
            keys: as they were given.
            texts: of all rows, those that the keys are hashes of; or `None`.
            place: a function from a row to words that say where it is.
        """
        if self.twice is None:
            return
        first, second = self.twice
        key = keys[first] if texts is None else next(itertools.islice(texts, first, None))
        raise ValueError(
            f"The key {spoken(key)} is there twice, in {place(first)} and in {place(second)}: each example must have a "
            "key of its own, and be in one part of the data alone."
        )
