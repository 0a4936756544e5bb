"""Keys that a dataset gives its examples, by which rows are found in any order: whole numbers or texts.

A dataset gives them beside the labels: its `y` is `{"labels": y, "key": key}`. A key is kept as 64 bits, a whole number
as itself and a text as its BLAKE2b hash. Two texts of one hash count as one key twice, which is an error: it is so for
ten million texts with a chance of 3 in a million.
"""

import hashlib
import itertools
import os
import sys
import tempfile
import weakref

import numpy as np

from keras_ban._src.data.leaves import as_array
from keras_ban._src.files.writing import writing

# An index of more rows lies in a temporary file. Threads and forked processes read it at once, which needs `pread`.
_MOST_IN_MEMORY = 2**20 if hasattr(os, "pread") else sys.maxsize
# Of a file, so many records are sorted at a time, and so many are read to find one.
_SORTED_AT_ONCE = 2**18
_BLOCK = 64
# An odd number, by which multiplication modulo 2**64 can be undone; of the golden ratio, so that counted keys spread.
_SPREAD = 0x9E3779B97F4A7C15


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
    keys = as_array(keys)
    if keys.ndim != 1:
        raise ValueError(f"The keys of a batch must be of shape (batch,), one an example, received shape {keys.shape}.")
    if keys.dtype.kind in "iu":
        return (keys.astype("int64") if keys.dtype.kind == "i" else keys.astype("uint64")).view("uint64"), None
    # Names of files that are no UTF-8 are texts with surrogates, for the bytes that they are.
    texts = [key.encode(errors="surrogateescape") if isinstance(key, str) else key for key in keys.tolist()]
    wrong = [text for text in texts if not isinstance(text, bytes)]
    if wrong:
        raise TypeError(
            f"A key must be a whole number or a text, received: {wrong[0]!r} (of type {type(wrong[0]).__name__}, in an "
            f"array of dtype {keys.dtype})."
        )
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype("uint64"), texts


def kind_of(texts):
    return "whole numbers" if texts is None else "texts"


def spoken(key):
    """A key as errors name it: of a whole number its 64 bits, of a text its bytes."""
    if isinstance(key, bytes):
        return repr(key.decode(errors="backslashreplace"))
    signed, unsigned = int(np.uint64(key).view("int64")), int(key)
    return str(signed) if signed == unsigned else f"{signed} ({unsigned} as uint64)"


class KeyIndex:
    """Finds rows by their keys; of more than a million rows it lies in a temporary file, of 12 bytes a row.

    It is a table of `(hash, row)`, sorted by the hash. To find a key in the file one block of the table is read, told
    by the hashes with which blocks begin, which are kept in memory: 0.12 bytes a row.

    Args:
        parts: a function that gives the keys, uint64 arrays one after the other, and the same when called again.
        rows: how many they are.

    Attributes:
        twice: two rows of the same key, the earlier first, and the key; `None` if there are none.
    """

    def __init__(self, parts, rows):
        self._rows = rows
        # Packed; with 4 bytes for the row where they are enough.
        self._dtype = np.dtype([("hash", "<u8"), ("row", "<u4" if self._rows <= 2**32 else "<u8")])
        self.twice = None
        if self._rows <= _MOST_IN_MEMORY:
            table = self._sorted(np.concatenate([np.empty(0, self._dtype), *self._records(parts)]))
            # Apart, so that a search need not copy them.
            self._table = table["hash"].copy(), table["row"].copy()
        else:
            with self._writing():
                file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the index is there
            weakref.finalize(self, file.close)
            self._file = file.fileno()
            self._write(parts)

    def _records(self, parts):
        begin = 0
        for keys in parts():
            for i in range(0, len(keys), _SORTED_AT_ONCE):
                part = np.asarray(keys[i : i + _SORTED_AT_ONCE])
                records = np.empty(len(part), self._dtype)
                records["hash"] = part * np.uint64(_SPREAD)
                records["row"] = np.arange(begin, begin + len(part))
                begin += len(part)
                yield records

    def _sorted(self, records):
        records = records[np.argsort(records["hash"], kind="stable")]
        same = np.flatnonzero(records["hash"][1:] == records["hash"][:-1])
        if len(same) and self.twice is None:
            first, second = records[same[0]], records[same[0] + 1]
            key = int(first["hash"]) * pow(_SPREAD, -1, 2**64) % 2**64
            self.twice = int(first["row"]), int(second["row"]), key
        return records

    def _write(self, parts):
        """Sort into the file: first by the hash's leading bits, then what has those in common."""
        bits = (self._rows // _SORTED_AT_ONCE).bit_length()
        starts = np.zeros(2**bits + 1, "int64")
        for records in self._records(parts):
            starts[1:] += np.bincount(_leading(records, bits), minlength=2**bits)
        starts = np.cumsum(starts)
        ends = starts[:-1].copy()
        for records in self._records(parts):
            leading = _leading(records, bits)
            records, counts = records[np.argsort(leading, kind="stable")], np.bincount(leading, minlength=2**bits)
            for i, part in enumerate(np.split(records, np.cumsum(counts)[:-1])):
                self._write_at(ends[i], part)
                ends[i] += len(part)
        begins = []
        for start, end in itertools.pairwise(starts):
            part = self._sorted(np.frombuffer(self._read(start, end - start), self._dtype))
            self._write_at(start, part)
            begins.append(part["hash"][-start % _BLOCK :: _BLOCK].copy())
        self._begins = np.concatenate(begins)

    def _write_at(self, place, records):
        data, offset = memoryview(records.tobytes()), int(place) * self._dtype.itemsize
        with self._writing():
            while data:
                written = os.pwrite(self._file, data, offset)
                data, offset = data[written:], offset + written

    def _writing(self):
        folder = f"{tempfile.gettempdir()} (TMPDIR, when Python starts, names another folder)"
        return writing(f"the index of the keys, in {folder}")

    def _read(self, place, count):
        """So many records, or those up to the end of the file."""
        size = self._dtype.itemsize
        offset, left, parts = int(place) * size, int(count) * size, []
        while left and (part := os.pread(self._file, left, offset)):
            parts.append(part)
            offset, left = offset + len(part), left - len(part)
        return b"".join(parts)

    def _table_for(self, hashes):
        """A part of the table, sorted, that holds those hashes if the whole does: hashes and rows."""
        if self._rows <= _MOST_IN_MEMORY:
            return self._table
        blocks = np.unique(np.maximum(np.searchsorted(self._begins, hashes, side="right") - 1, 0))
        data = b"".join(self._read(block * _BLOCK, _BLOCK) for block in blocks.tolist())
        table = np.frombuffer(data, self._dtype)
        return table["hash"], table["row"]

    def rows_of(self, keys):
        """`(rows, found)`: int64 and bool `(batch,)`."""
        if self._rows == 0 or len(keys) == 0:
            return np.zeros(len(keys), "int64"), np.zeros(len(keys), "bool")
        wanted = keys * np.uint64(_SPREAD)
        hashes, rows = self._table_for(wanted)
        places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        return rows[places].astype("int64"), hashes[places] == wanted

    def check_unique(self, texts, place):
        """Raise `ValueError` where two rows have one key.

        Args:
            texts: of all rows, those that the keys are hashes of; or `None`.
            place: a function from a row to words that say where it is.
        """
        if self.twice is None:
            return
        first, second, key = self.twice
        key = key if texts is None else next(itertools.islice(texts, first, None))
        raise ValueError(
            f"The key {spoken(key)} is there twice, in {place(first)} and in {place(second)}: each example must have a "
            "key of its own, and be in one part of the data alone."
        )


def _leading(records, bits):
    return (records["hash"] >> np.uint64(64 - bits)).astype("int64")
