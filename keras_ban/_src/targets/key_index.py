"""Keys of examples, whole numbers or texts, by which rows are found in any order.

The `y` of a dataset with keys is `{"labels": y, "key": key}`. A key is stored as 64 bits: a whole number as itself, a
text as its BLAKE2b hash. If two texts have the same hash, an error says that a key occurs twice. For ten million texts,
the probability is 3 in a million.
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

# An index of more rows is a temporary file. Threads and forked processes read it at the same time, with `pread`.
_MOST_IN_MEMORY = 2**20 if hasattr(os, "pread") else sys.maxsize
# The number of records of a file that are sorted at a time, and that are read to find one.
_SORTED_AT_ONCE = 2**18
_BLOCK = 64
# The golden ratio, which spreads consecutive keys. It is odd, so multiplication modulo 2**64 is invertible.
_SPREAD = 0x9E3779B97F4A7C15


def hashed(keys):
    """Return `(uint64 (batch,), texts as bytes or None)` for the keys of a batch, `(batch,)`, of any framework.

    Keys are whole numbers, `str` or UTF-8 `bytes`. Raise `TypeError` for other values, `ValueError` for other shapes.
    """
    if isinstance(keys, (list, tuple)) and any(isinstance(key, (str, bytes)) for key in keys):
        keys = np.array(keys, "object")
    keys = as_array(keys)
    if keys.ndim != 1:
        raise ValueError(f"The keys of a batch must be of shape (batch,), one an example, received shape {keys.shape}.")
    if keys.dtype.kind in "iu":
        return (keys.astype("int64") if keys.dtype.kind == "i" else keys.astype("uint64")).view("uint64"), None
    # Python reads names of files that are not UTF-8 as texts with surrogates.
    texts = [key.encode(errors="surrogateescape") if isinstance(key, str) else key for key in keys.tolist()]
    wrong = [text for text in texts if not isinstance(text, bytes)]
    if wrong:
        raise TypeError(f"A key must be a whole number or a text, received: {wrong[0]!r} in dtype {keys.dtype}.")
    digests = b"".join(hashlib.blake2b(text, digest_size=8).digest() for text in texts)
    return np.frombuffer(digests, "<u8").astype("uint64"), texts


def kind_of(texts):
    return "whole numbers" if texts is None else "texts"


def spoken(key):
    """Return a key as text for errors, from the 64 bits of a whole number or the bytes of a text."""
    if isinstance(key, bytes):
        return repr(key.decode(errors="backslashreplace"))
    signed, unsigned = int(np.uint64(key).view("int64")), int(key)
    return str(signed) if signed == unsigned else f"{signed} ({unsigned} as uint64)"


class KeyIndex:
    """Finds rows by their keys. With more than a million rows, it is a temporary file with 12 bytes per row.

    The index is a table of `(hash, row)`, sorted by hash. To find a key in the file, one block of the table is read.
    The first hashes of the blocks are in memory, 0.12 bytes per row. `parts` is a function that returns an iterable of
    uint64 arrays, the keys in order. It may be called again. `rows` is their number.

    Attributes:
        twice: two rows with the same key, the earlier first, and the key. `None` if keys are unique.
    """

    def __init__(self, parts, rows):
        self._rows = rows
        self._dtype = np.dtype([("hash", "<u8"), ("row", "<u4" if rows <= 2**32 else "<u8")])
        self.twice = None
        if rows <= _MOST_IN_MEMORY:
            table = self._sorted(np.concatenate([np.empty(0, self._dtype), *self._records(parts)]))
            # Separate, so that a search does not copy them.
            self._table = table["hash"].copy(), table["row"].copy()
        else:
            with self._writing():
                file = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the index)
            weakref.finalize(self, file.close)
            self._file = file.fileno()
            self._write(parts)

    def _records(self, parts):
        start = 0
        for keys in parts():
            for i in range(0, len(keys), _SORTED_AT_ONCE):
                part = np.asarray(keys[i : i + _SORTED_AT_ONCE])
                records = np.empty(len(part), self._dtype)
                records["hash"] = part * np.uint64(_SPREAD)
                records["row"] = np.arange(start, start + len(part))
                start += len(part)
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
        """Sort the records into the file: first by the leading bits of the hash, then those with equal leading bits."""
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
        block_starts = []
        for start, end in itertools.pairwise(starts):
            part = self._sorted(np.frombuffer(self._read(start, end - start), self._dtype))
            self._write_at(start, part)
            block_starts.append(part["hash"][-start % _BLOCK :: _BLOCK].copy())
        self._block_starts = np.concatenate(block_starts)

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
        """Return the bytes of `count` records, or of those up to the end of the file."""
        size = self._dtype.itemsize
        offset, left, parts = int(place) * size, int(count) * size, []
        while left and (part := os.pread(self._file, left, offset)):
            parts.append(part)
            offset, left = offset + len(part), left - len(part)
        return b"".join(parts)

    def _table_for(self, hashes):
        """Return the hashes and rows of a sorted part of the table that holds these hashes, if the table does."""
        if self._rows <= _MOST_IN_MEMORY:
            return self._table
        blocks = np.unique(np.maximum(np.searchsorted(self._block_starts, hashes, side="right") - 1, 0))
        data = b"".join(self._read(block * _BLOCK, _BLOCK) for block in blocks.tolist())
        table = np.frombuffer(data, self._dtype)
        return table["hash"], table["row"]

    def rows_of(self, keys):
        """Return `(rows, found)`, int64 and bool `(batch,)`."""
        if self._rows == 0 or len(keys) == 0:
            return np.zeros(len(keys), "int64"), np.zeros(len(keys), "bool")
        wanted = keys * np.uint64(_SPREAD)
        hashes, rows = self._table_for(wanted)
        places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
        return rows[places].astype("int64"), hashes[places] == wanted

    def check_unique(self, texts, place):
        """Raise `ValueError` if two rows have the same key.

        `texts` are those of all rows, or `None`. `place` is a function from a row to a text about its place.
        """
        if self.twice is None:
            return
        first, second, key = self.twice
        key = key if texts is None else next(itertools.islice(texts, first, None))
        rows = f"{place(first)} and in {place(second)}"
        raise ValueError(f"The key {spoken(key)} is there twice, in {rows}: each example must have its own key.")


def _leading(records, bits):
    return (records["hash"] >> np.uint64(64 - bits)).astype("int64")
