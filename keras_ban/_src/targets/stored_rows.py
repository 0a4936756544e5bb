"""The rows of soft targets and their keys, in memory or on disk."""

import itertools
import pathlib
from typing import Any, Self

import numpy as np

from keras_ban._src import checks, hints
from keras_ban._src.backend import process_group
from keras_ban._src.data.fingerprints import example_form, example_keys
from keras_ban._src.files import row_file
from keras_ban._src.targets import key_index
from keras_ban._src.targets.shards import ShardRows, shards_of
from keras_ban._src.targets.teacher_rows import HASHES_OF_FORMAT

ROWS_AT_ONCE = 4096
COMPUTE_AGAIN = "Compute them again with `SoftTargets.from_teacher(teacher, x)`."


class StoredRows:
    """Rows, each with a key, and a description of them as plain data.

    Args:
        rows: an array `(examples, ...)`, or `ShardRows`.
        keys: uint64 `(examples,)`; `None`: `rows` has them.
        description: see `teacher_rows.describe`.
        texts: the texts that the keys are hashes of, if they are in memory.
        path: the file or folder that holds exactly these rows; `None` if they are in memory.
        unchecked: whether the content of the file was not checked yet.
    """

    def __init__(
        self,
        rows: Any,
        keys: np.ndarray | None = None,
        description: dict[str, Any] | None = None,
        texts: list[bytes] | None = None,
        path: pathlib.Path | None = None,
        unchecked: bool = False,
    ) -> None:
        if description is None:
            raise TypeError(
                "Soft targets are made by `SoftTargets.from_teacher(teacher, x)` and read by `SoftTargets.load(path)`. "
                "Pass outputs that you have already as `fit(x, {'labels': y, 'soft_targets': outputs})`."
            )
        self._rows, self._description, self._path = rows, description, path
        self._keys, self._texts, self._unchecked = keys, texts, unchecked
        self._index: key_index.KeyIndex | None = None

    @classmethod
    def load(cls, path: hints.Path, mmap: bool = True) -> Self:
        """Open a file of soft targets, or a folder of shards.

        With `mmap` this takes milliseconds and no memory. The content of files up to 64 MiB is checked at once, that of
        larger files when it is first used.

        Args:
            path: a file that `save` or `from_teacher` wrote; or a folder of shards by key, named like
                `targets-00000-of-00004.npy`.
            mmap: whether rows stay on disk until a batch needs them. Otherwise all are read.

        Raises:
            ValueError: a file is cut short, altered, or holds something else; a shard is missing, or from another
                teacher than the first; or a key is in two shards.
        """
        path = pathlib.Path(checks.check_path("path", path))
        shards = ShardRows(shards_of(path)) if path.is_dir() else None
        description = row_file.description_of(path) if shards is None else shards.description
        if shards is not None and not description.get("keyed"):
            raise ValueError(
                f"The shards in {path} are kept by position. Compute them of data with keys: datasets whose `y` is "
                "`{'labels': y, 'key': key}`."
            )
        if description.get("format") not in HASHES_OF_FORMAT:
            raise ValueError(
                f"{path} is of format {description.get('format')!r}, written by keras_ban {description['version']}: "
                f"this version reads the formats {list(HASHES_OF_FORMAT)}. Compute the soft targets again, or use that "
                "version."
            )
        if not description.get("keyed"):
            rows, keys, description = row_file.read_rows(path, mmap)
            unchecked = mmap and not row_file.is_small(rows)
            return cls(rows, keys, description, path=path if mmap else None, unchecked=unchecked)
        shards = shards or ShardRows([path])
        if mmap:
            stored = cls(shards, None, description, path=path, unchecked=shards.unchecked)
        else:
            if shards.unchecked:
                shards.check_content()
            stored = cls(shards[:], shards.keys(), description, list(shards.texts()))
        stored._check_unique()
        return stored

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def keys(self) -> np.ndarray:
        return self._rows.keys() if self._keys is None else self._keys

    @property
    def by_key(self) -> bool:
        return bool(self._description.get("keyed"))

    @property
    def nbytes(self) -> int:
        """The size of rows and keys in bytes."""
        return self._rows.nbytes + 8 * len(self)

    @property
    def in_memory(self) -> bool:
        """Whether the rows are in memory. Otherwise they are read from the file when they are used."""
        return isinstance(self._rows, np.ndarray) and not isinstance(self._rows, np.memmap)

    def _texts_of_keys(self):
        """The texts that the keys are hashes of; `None` if the keys are no texts."""
        if self._description.get("keyed") != "texts":
            return None
        return self._texts if self._path is None else self._rows.texts()

    def _part(self, index):
        """The rows of a slice or an index array."""
        texts = self._texts_of_keys()
        if texts is not None:
            texts = np.fromiter(texts, "object", len(self))[index].tolist()
        return type(self)(self._rows[index], self.keys[index], self._description, texts)

    def index_keys(self) -> key_index.KeyIndex:
        """The index by which rows are found. It is made once in each process."""
        if self._index is None:
            parts = self._rows.keys_in_parts if self._keys is None else lambda: [self._keys]
            self._index = key_index.KeyIndex(parts, len(self))
        return self._index

    def _check_unique(self):
        """Raise `ValueError` if two rows have the same key."""
        index = self.index_keys()
        if index.twice is not None:
            self.check_content()  # A damaged file may show a key twice.
        index.check_unique(self._texts_of_keys(), getattr(self._rows, "place", "row {}".format))

    def rows_of(self, keys: Any) -> np.ndarray:
        """The rows of keys of the data, int64 `(batch,)`; `ValueError` names a key without a row."""
        hashes, texts = key_index.hashed(keys)
        self.check_kind(key_index.kind_of(texts))
        rows, found = self.index_keys().rows_of(hashes)
        if not found.all():
            first = int(np.flatnonzero(~found)[0])
            key = hashes[first] if texts is None else texts[first]
            raise ValueError(
                f"The soft targets hold no row of the key {key_index.spoken(key)}, nor of "
                f"{np.count_nonzero(~found) - 1} others in its batch: they are of other data, or of a part. "
                "Compute them of all the data, `SoftTargets.from_teacher(teacher, dataset)`."
            )
        return rows

    def check_kind(self, kind: str) -> None:
        """Raise `ValueError` if keys of the data are of another kind than those of the rows."""
        if kind != self._description["keyed"]:
            raise ValueError(
                f"The soft targets are kept by keys that are {self._description['keyed']}, but the data brings {kind}."
            )

    @property
    def hashes(self) -> int:
        """The version of the examples' keys, see `fingerprints.example_keys`."""
        return HASHES_OF_FORMAT[self._description["format"]]

    def check(self, x: hints.Data, rows: Any = None) -> None:
        """Raise `ValueError` unless `x` are the examples of these soft targets, in the same order.

        Args:
            x: arrays, nested as in `from_teacher`.
            rows: the rows that `x` should be, a slice or an index array; `None`: all.
        """
        if self.by_key:
            raise ValueError(
                "The soft targets are kept by key, and arrays have none: pass a dataset whose `y` is `{'labels': y, "
                "'key': key}`; or compute them of the arrays, by position."
            )
        form = example_form(x)
        if form != self._description["example_form"]:
            raise ValueError(
                "The soft targets are of other data: of arrays of [dtype, shape of an example] "
                f"{self._description['example_form']}, but `x` holds {form}. {COMPUTE_AGAIN}"
            )
        wanted, keys = self.keys if rows is None else self.keys[rows], example_keys(x, self.hashes)
        if len(keys) != len(wanted):
            raise ValueError(
                f"`soft_targets` holds {len(wanted)} examples but `x` holds {len(keys)}: they must come from the same "
                f"data in the same order. {COMPUTE_AGAIN}"
            )
        different = np.flatnonzero(keys != wanted)
        if len(different):
            same = np.array_equal(np.sort(keys), np.sort(wanted))
            how = "the same examples in another order" if same else "other examples"
            raise ValueError(
                f"The soft targets do not belong to `x`: {len(different)} of {len(keys)} examples differ, the first at "
                f"index {different[0]}. `x` holds {how}. {COMPUTE_AGAIN}"
            )

    def check_content(self) -> None:
        """Raise `ValueError` if the rows of a file are not what was written. They are read for this once."""
        if not self._unchecked:
            return
        if self._keys is None:
            self._rows.check_content()
        else:
            row_file.check_content(self._path, self._rows, self.keys, self._description)
        self._unchecked = False

    def save(self, path: hints.Path) -> None:
        """Write a file that `load` reads. It is complete or absent. `numpy.load` reads its rows, too.

        Raises:
            ValueError: a file of that name holds something else, or there is no such folder; or a key occurs twice.
        """
        path = checks.check_path("path", path)
        self.check_content()
        if self.by_key:
            self._check_unique()
        process_group.alone(lambda: self._write(path))  # Other workers do not take part.

    def _write(self, path):
        with row_file.RowWriter(path, self._rows.dtype, self._rows.shape[1:]) as writer:
            texts = self._texts_of_keys()
            texts = None if texts is None else iter(texts)
            for start in range(0, len(self), ROWS_AT_ONCE):
                rows = self._rows[start : start + ROWS_AT_ONCE]
                writer.append(rows, None if texts is None else list(itertools.islice(texts, len(rows))))
            writer.commit(self.keys, self._description)

    def records(self) -> Any:
        """The rows; or `(path, offset, footer, dtype, row_shape)` of the file that holds them."""
        if self._path is None:
            return np.asarray(self._rows)
        offset = row_file.rows_offset(self._path)
        footer = self._path.stat().st_size - offset - self._rows.nbytes
        return self._path, offset, footer, self._rows.dtype, self._rows.shape[1:]

    def __getstate__(self):
        # A worker process opens the file itself.
        state = {**self.__dict__, "_index": None}
        return {**state, "_rows": None, "_keys": None} if self._path is not None and self._keys is not None else state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self._rows is None:
            self._rows, self._keys, _ = row_file.read_rows(self._path)
