"""The rows of soft targets and their keys, in memory or on disk."""

import itertools
import pathlib

import numpy as np

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
        path: the file or folder that holds exactly these rows; `None` if they are in memory.
        texts: the texts that the keys are hashes of, if they are in memory.
        unchecked: whether the content of the file was not checked yet.
    """

    def __init__(self, rows, keys, description, path=None, texts=None, unchecked=False):
        self.rows, self.description, self.path = rows, description, path
        self._keys, self._texts, self._index = keys, texts, None
        self._unchecked = unchecked

    @classmethod
    def open(cls, path, mmap=True):
        """Open a file, or a folder of shards, as `SoftTargets.load` describes."""
        path = pathlib.Path(path)
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
            return cls(rows, keys, description, path if mmap else None, unchecked=mmap and not row_file.is_small(rows))
        shards = shards or ShardRows([path])
        if mmap:
            stored = cls(shards, None, description, path, unchecked=shards.unchecked)
        else:
            if shards.unchecked:
                shards.check_content()
            stored = cls(shards[:], shards.keys(), description, texts=list(shards.texts()))
        stored.check_unique()
        return stored

    def __len__(self):
        return len(self.rows)

    @property
    def keys(self):
        return self.rows.keys() if self._keys is None else self._keys

    @property
    def by_key(self):
        """Whether rows are found by a key of the data, not by position."""
        return bool(self.description.get("keyed"))

    @property
    def nbytes(self):
        """The size of rows and keys in bytes."""
        return self.rows.nbytes + 8 * len(self)

    @property
    def in_memory(self):
        """Whether the rows are in memory. Otherwise they are read from the file when they are used."""
        return isinstance(self.rows, np.ndarray) and not isinstance(self.rows, np.memmap)

    def texts(self):
        """The texts that the keys are hashes of; `None` if the keys are no texts."""
        if self.description.get("keyed") != "texts":
            return None
        return self._texts if self.path is None else self.rows.texts()

    def part(self, index):
        """The rows of a slice or an index array."""
        texts = self.texts()
        if texts is not None:
            texts = np.fromiter(texts, "object", len(self))[index].tolist()
        return StoredRows(self.rows[index], self.keys[index], self.description, texts=texts)

    def index_keys(self):
        """The index by which rows are found. It is made once in each process."""
        if self._index is None:
            parts = self.rows.keys_in_parts if self._keys is None else lambda: [self._keys]
            self._index = key_index.KeyIndex(parts, len(self))
        return self._index

    def check_unique(self):
        """Raise `ValueError` if two rows have the same key."""
        index = self.index_keys()
        if index.twice is not None:
            self.check_content()  # A damaged file may show a key twice.
        index.check_unique(self.texts(), getattr(self.rows, "place", "row {}".format))

    def rows_of(self, keys):
        """See `SoftTargets.rows_of`."""
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

    def check_kind(self, kind):
        """See `SoftTargets.check_kind`."""
        if kind != self.description["keyed"]:
            raise ValueError(
                f"The soft targets are kept by keys that are {self.description['keyed']}, but the data brings {kind}."
            )

    @property
    def hashes(self):
        """The version of the examples' keys, see `fingerprints.example_keys`."""
        return HASHES_OF_FORMAT[self.description["format"]]

    def check(self, x, rows=None):
        """See `SoftTargets.check`."""
        if self.by_key:
            raise ValueError(
                "The soft targets are kept by key, and arrays have none: pass a dataset whose `y` is `{'labels': y, "
                "'key': key}`; or compute them of the arrays, by position."
            )
        form = example_form(x)
        if form != self.description["example_form"]:
            raise ValueError(
                "The soft targets are of other data: of arrays of [dtype, shape of an example] "
                f"{self.description['example_form']}, but `x` holds {form}. {COMPUTE_AGAIN}"
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

    def check_content(self):
        """Raise `ValueError` if the rows of a file are not what was written. They are read for this once."""
        if not self._unchecked:
            return
        if self._keys is None:
            self.rows.check_content()
        else:
            row_file.check_content(self.path, self.rows, self.keys, self.description)
        self._unchecked = False

    def save(self, path):
        """Write a file that `open` reads."""
        self.check_content()
        if self.by_key:
            self.check_unique()
        process_group.alone(lambda: self._write(path))  # Other workers do not take part.

    def _write(self, path):
        with row_file.RowWriter(path, self.rows.dtype, self.rows.shape[1:]) as writer:
            texts = self.texts()
            texts = None if texts is None else iter(texts)
            for start in range(0, len(self), ROWS_AT_ONCE):
                rows = self.rows[start : start + ROWS_AT_ONCE]
                writer.append(rows, None if texts is None else list(itertools.islice(texts, len(rows))))
            writer.commit(self.keys, self.description)

    def records(self):
        """The rows; or `(path, offset, footer, dtype, row_shape)` of the file that holds them."""
        if self.path is None:
            return np.asarray(self.rows)
        offset = row_file.rows_offset(self.path)
        footer = self.path.stat().st_size - offset - self.rows.nbytes
        return self.path, offset, footer, self.rows.dtype, self.rows.shape[1:]

    def __getstate__(self):
        # A worker process opens the file itself.
        state = {**self.__dict__, "_index": None}
        return {**state, "rows": None, "_keys": None} if self.path is not None and self._keys is not None else state

    def __setstate__(self, state):
        self.__dict__.update(state)
        if self.rows is None:
            self.rows, self._keys, _ = row_file.read_rows(self.path)
