"""Rows by key in one or several files, which are opened as one array and read in constant memory."""

import itertools
import pathlib
import re

import numpy as np

from keras_ban._src.files import row_file

_NAME = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.npy")
# A mapped file holds a file descriptor, and its rows in memory once they are read. After this many rows or files, all
# files are closed.
_MOST_ROWS_MAPPED = 2**13
_MOST_FILES_OPEN = 64
_KEYS_AT_ONCE = 2**20
# The entries in which shards of the same soft targets may differ.
_OF_A_SHARD = {"rows", "rows_checksum", "keys_checksum", "texts_bytes", "texts_checksum", "version", "teacher_name"}


def shards_of(folder):
    """Return the files `targets-00000-of-00004.npy`, ... of a folder. Raise `ValueError` unless it has one full set."""
    found = [(match, path) for path in sorted(folder.iterdir()) if (match := _NAME.fullmatch(path.name))]
    sets = {(match["prefix"], match["count"]) for match, _ in found}
    if len(sets) != 1:
        finding = (
            "holds no shards of soft targets" if not found else f"holds shards of {len(sets)} sets: {sorted(sets)}"
        )
        raise ValueError(f"{folder} {finding}. One set is named like 'targets-00000-of-00004.npy', counted from 0.")
    ((prefix, count),) = sets
    paths = [folder / f"{prefix}-{number:05d}-of-{count}.npy" for number in range(int(count))]
    missing = [path.name for path in paths if not path.exists()]
    if missing or len(found) != len(paths):
        raise ValueError(
            f"{folder} holds {len(found)} shards of {int(count)}; missing: {', '.join(missing[:5]) or 'none'}"
            f"{', ...' if len(missing) > 5 else ''}. Compute them with `SoftTargets.from_teacher(..., path=...)`."
        )
    return paths


class ShardRows:
    """The rows of several files that `row_file.RowWriter` wrote, as an array `(rows, ...)`. Small files are checked.

    Attributes:
        description: the description of the first file.
        unchecked: whether there are larger files, which `check_content` reads.

    Raises:
        ValueError: a file is damaged, or holds other soft targets than the first.
    """

    def __init__(self, paths):
        # Absolute, because files are opened again later, when the working directory may be another.
        self._paths = [pathlib.Path(path).absolute() for path in paths]
        self._offsets, self._states, counts = [], [], []
        self.description, self.unchecked = None, False
        for path in self._paths:
            self._states.append(_state(path))
            rows, _, description = row_file.read_rows(path)
            if self.description is None:
                self.description, self.dtype = description, rows.dtype
            names = {*self.description, *description} - _OF_A_SHARD
            differing = sorted(name for name in names if self.description.get(name) != description.get(name))
            if differing:
                raise ValueError(
                    f"{path} and {self._paths[0].name} are not shards of the same soft targets: they differ in "
                    f"{', '.join(differing)}. Compute them with one teacher and the same arguments."
                )
            self.unchecked |= not row_file.is_small(rows)
            self._offsets.append(row_file.rows_offset(path))
            counts.append(len(rows))
        self._starts = np.cumsum([0, *counts])
        self.shape = (int(self._starts[-1]), *rows.shape[1:])
        self._open, self._rows_mapped = {}, 0

    def __len__(self):
        return self.shape[0]

    @property
    def nbytes(self):
        return int(np.prod(self.shape, dtype="int64")) * self.dtype.itemsize

    def __getitem__(self, index):
        if isinstance(index, slice):
            index = np.arange(*index.indices(len(self)))
        index = np.asarray(index)
        index = np.flatnonzero(index) if index.dtype == bool else np.where(index < 0, index + len(self), index)
        shards = np.searchsorted(self._starts, index, side="right") - 1
        rows = np.empty((len(index), *self.shape[1:]), self.dtype)
        for shard in np.unique(shards):
            here = shards == shard
            rows[here] = self._mapped(shard, np.count_nonzero(here))[index[here] - self._starts[shard]]
        return rows

    def _mapped(self, shard, wanted):
        self._rows_mapped += wanted
        if self._rows_mapped > _MOST_ROWS_MAPPED or len(self._open) >= _MOST_FILES_OPEN:
            self._open, self._rows_mapped = {}, wanted
        opened = self._open  # Other threads may replace it.
        if shard not in opened:
            self._check_same(shard)
            shape = (int(self._starts[shard + 1] - self._starts[shard]), *self.shape[1:])
            opened[shard] = np.memmap(self._paths[shard], self.dtype, "r", self._offsets[shard], shape)
        return opened[shard]

    def _check_same(self, shard):
        if _state(self._paths[shard]) != self._states[shard]:
            raise ValueError(f"{self._paths[shard]} was replaced or altered since it was opened: load it again.")

    def __getstate__(self):
        return {**self.__dict__, "_open": {}, "_rows_mapped": 0}

    def keys(self):
        """Return the keys, uint64 `(rows,)`, in memory."""
        return np.concatenate([np.empty(0, "uint64"), *self.keys_in_parts()])

    def keys_in_parts(self):
        """Yield the keys as uint64 arrays, in the order of the rows."""
        for i, path in enumerate(self._paths):
            self._check_same(i)
            count = int(self._starts[i + 1] - self._starts[i])
            keys_at = self._offsets[i] + count * self.dtype.itemsize * int(np.prod(self.shape[1:], dtype="int64"))
            for start in range(0, count, _KEYS_AT_ONCE):
                yield np.fromfile(path, "<u8", min(_KEYS_AT_ONCE, count - start), offset=keys_at + 8 * start)

    def texts(self):
        """Iterate over the texts of the keys, in the order of the rows. Whole numbers have none."""
        return itertools.chain.from_iterable(row_file.read_texts(path) for path in self._paths)

    def place(self, row):
        """Return the place of a row, as text for errors."""
        shard = int(np.searchsorted(self._starts, row, side="right")) - 1
        return f"row {row - self._starts[shard]} of {self._paths[shard].name}"

    def check_content(self):
        """Read all files once. Raise `ValueError` if one is not what was written."""
        for path in self._paths:
            rows, keys, description = row_file.read_rows(path, check=False)
            row_file.check_content(path, rows, keys, description)
        self.unchecked = False


def _state(path):
    """Return values by which an altered file is recognized."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
