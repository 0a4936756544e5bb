"""Rows of one NumPy dtype in one file: a `.npy` file with a description at its end.

The parts of the file, in order: a regular `.npy` (NumPy can read it, also memory-mapped), the examples' keys (uint64),
the texts that the keys are hashes of, if any (a line of JSON each), a description (JSON), and a footer of 48 bytes: the
SHA-256 of the description, its length, and eight letters. The description holds the sizes and checksums of the parts
before it. Nothing is pickled.
"""

import contextlib
import glob
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import uuid
import zlib

import numpy as np

from keras_ban._src.backend import process_group
from keras_ban._src.files.locks import locked
from keras_ban._src.files.regular_file import open_to_read
from keras_ban._src.files.writing import writing

_LETTERS = b"KERASBAN"
_FOOTER_BYTES = hashlib.sha256().digest_size + 8 + len(_LETTERS)
_CHUNK_BYTES = 2**24
# Files up to this size are checked completely when opened, in about 15 ms. Larger files are checked at first use.
_SMALL_BYTES = 2**26
_WRITE = "write their soft targets"


class RowWriter:
    """Writes rows as they come, in constant memory, to a file that is complete or absent.

    Use it as a context manager. The file gets its name in `commit`. Without `commit`, no file is left.

    Several workers write one file. The chief creates and commits it. Each worker writes its own rows, and skips the
    rows of the others. All of them call the same methods, except `append` and `skip`. A worker that has all rows writes
    in `process_group.alone`.
    """

    def __init__(self, path, dtype, row_shape):
        self.path = pathlib.Path(path)
        if _differs_between_workers(self.path.name.encode(), "compare file names"):
            raise ValueError(
                "The file name of soft targets differs between the workers that train together. In this worker it is "
                f"{self.path.name!r}. Pass the same path to all workers, or compute shards before they are joined."
            )
        check_may_replace(self.path)
        if process_group.is_chief():
            _remove_leftovers(self.path)
        self._dtype, self._row_shape = np.dtype(dtype), tuple(row_shape)
        self._count, self._checksum, self._committing = 0, 0, False
        self._texts, self._texts_checksum = None, 0
        number = process_group.chiefs(uuid.uuid4().int % 2**32, "name a file of soft targets")
        self._temporary = self.path.with_name(f".{self.path.name}.{number:08x}.partial")
        header = _header((self._count, *self._row_shape), self._dtype)
        with process_group.together("create a file of soft targets"), writing(self.path):
            if process_group.is_chief():
                self._file = open(self._temporary, "xb+")  # noqa: SIM115 (closed by __exit__)
                locked(self._file)
                self._file.write(header)
        with process_group.together("open a file of soft targets"), writing(self.path):
            if not process_group.is_chief():
                self._file = open(self._temporary, "rb+")  # noqa: SIM115 (closed by __exit__)
                self._file.seek(len(header))

    def __enter__(self):
        return self

    def skip(self, count, texts=None):
        """Leave room for rows that another worker writes. `texts` are as in `append`."""
        with writing(self.path):
            self._file.seek(count * self._dtype.itemsize * int(np.prod(self._row_shape, dtype="int64")), os.SEEK_CUR)
            self._write_texts(texts)
        self._count += count

    def append(self, rows, texts=None):
        """Write rows, and the texts (bytes) that their keys are hashes of."""
        data = np.ascontiguousarray(rows, self._dtype).tobytes()
        self._checksum = zlib.crc32(data, self._checksum)
        with writing(self.path):
            self._file.write(data)
            self._write_texts(texts)
        self._count += len(rows)

    def _write_texts(self, texts):
        if texts is None:
            return
        # They come after the keys, which are known at the end. Until then they are in a file without a name.
        if self._texts is None:
            self._texts = tempfile.TemporaryFile(dir=self.path.parent)  # noqa: SIM115 (closed by __exit__)
        lines = b"".join(json.dumps(text.decode("latin-1")).encode() + b"\n" for text in texts)
        self._texts_checksum = zlib.crc32(lines, self._texts_checksum)
        self._texts.write(lines)

    def texts(self):
        self._texts.seek(0)
        return map(_text, self._texts)

    def commit(self, keys, description):
        keys = np.ascontiguousarray(keys, "<u8").tobytes()
        self._committing = True
        if process_group.count() == 1:
            return self._commit(keys, description)
        with process_group.together(_WRITE), writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
        if _differs_between_workers(keys, "compare their data"):
            raise ValueError(
                "The workers that train together received different data, or data in another order. Pass all of the "
                "data to each worker, in the same order."
            )
        with process_group.together("finish a file of soft targets"):
            if process_group.is_chief():
                self._commit(keys, description)

    def _commit(self, keys, description):
        if process_group.count() > 1:
            shape, offset = (self._count, *self._row_shape), rows_offset(self._temporary)
            self._checksum = _checksum(np.memmap(self._temporary, self._dtype, "r", offset, shape))
        description = {
            **description,
            "rows": self._count,
            "row_shape": list(self._row_shape),
            "rows_dtype": np.lib.format.dtype_to_descr(self._dtype),
            "rows_checksum": self._checksum,
            "keys_checksum": zlib.crc32(keys),
            "texts_bytes": 0 if self._texts is None else self._texts.seek(0, os.SEEK_END),
            "texts_checksum": self._texts_checksum,
        }
        text = json.dumps(description).encode()
        with writing(self.path):
            self._file.write(keys)
            if self._texts is not None:
                self._texts.seek(0)
                shutil.copyfileobj(self._texts, self._file)
            self._file.write(text + hashlib.sha256(text).digest() + len(text).to_bytes(8, "little") + _LETTERS)
            self._file.seek(0)
            self._file.write(_header((self._count, *self._row_shape), self._dtype))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._temporary, self.path)

    def __exit__(self, kind, *_):
        if kind is not None and issubclass(kind, Exception) and not self._committing:
            with contextlib.suppress(RuntimeError):
                process_group.gather(True, _WRITE)  # The other workers wait for it.
        # If the disk is full, `close` closes the file, but raises the error of writing again.
        with contextlib.suppress(OSError):
            self._file.close()
            if self._texts is not None:
                self._texts.close()
        if process_group.is_chief():
            self._temporary.unlink(missing_ok=True)


def _remove_leftovers(path):
    """Remove the unfinished files of the same name that dead processes left."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.{8 * '[0-9a-f]'}.partial"):
        # Something else, or the file of another user.
        with contextlib.suppress(OSError, ValueError), open_to_read(leftover) as file:
            if locked(file):
                leftover.unlink(missing_ok=True)


def _differs_between_workers(data, task):
    return len(set(process_group.gather(zlib.crc32(data), task).tolist())) > 1


def check_may_replace(path):
    """Raise `ValueError` if the folder of `path` does not exist, or `path` does not hold soft targets."""
    if not path.parent.is_dir():
        raise ValueError(f"Soft targets cannot be written to {path}: there is no folder {path.parent}. Make it first.")
    if not path.exists():
        return
    try:
        _read_description(path)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{path} exists and does not hold soft targets: it is not overwritten. Choose another path, or delete it."
        ) from error


def read_rows(path, mmap=True, check=True):
    """Open a file that `RowWriter` wrote. Raise `ValueError` if it is not whole, or of another kind.

    Return `(rows, keys, description)`. With `mmap`, the arrays are memory-mapped and read-only. With `check`, small
    files are checked completely.
    """
    path = pathlib.Path(path)
    description, keys_at = _read_description(path)
    offset = rows_offset(path)
    with open(path, "rb") as file:
        header = file.read(offset)
    shape = (description["rows"], *description["row_shape"])
    dtype = np.lib.format.descr_to_dtype(description["rows_dtype"])
    rows_bytes = int(np.prod(shape, dtype="int64")) * dtype.itemsize
    if header != _header(shape, dtype) or offset + rows_bytes != keys_at:
        raise _damaged(path, "its header differs from its description")
    rows = np.memmap(path, dtype, "r", offset, shape) if rows_bytes else np.zeros(shape, dtype)
    keys = np.memmap(path, "<u8", "r", keys_at, shape[:1]) if shape[0] else np.zeros(0, "<u8")
    if check and (not mmap or is_small(rows)):
        check_content(path, rows, keys, description)
    if not mmap:
        rows, keys = np.array(rows), np.array(keys)
    return rows, keys, description


def is_small(rows):
    return rows.nbytes <= _SMALL_BYTES


def description_of(path):
    return _read_description(pathlib.Path(path))[0]


def check_content(path, rows, keys, description):
    """Read the content once. Raise `ValueError` if it is not what was written."""
    found = {"rows_checksum": _checksum(rows), "keys_checksum": _checksum(keys)}
    if description.get("texts_bytes"):
        texts_at = rows_offset(path) + rows.nbytes + keys.nbytes
        found["texts_checksum"] = _checksum(np.memmap(path, "u1", "r", texts_at, (description["texts_bytes"],)))
    if any(description[name] != checksum for name, checksum in found.items()):
        raise _damaged(path, "its content is not what was written")


def read_texts(path):
    """Yield the texts (bytes) that a file's keys are hashes of, in the order of the rows."""
    path = pathlib.Path(path)
    description, keys_at = _read_description(path)
    with open(path, "rb") as file:
        file.seek(keys_at + 8 * description["rows"])
        for _ in range(description["rows"] if description.get("texts_bytes") else 0):
            yield _text(file.readline())


def _text(line):
    return json.loads(line).encode("latin-1")


def rows_offset(path):
    with open(path, "rb") as file:
        return 10 + int.from_bytes(file.read(10)[8:10], "little")


def _checksum(array):
    data = memoryview(np.ascontiguousarray(array)).cast("B") if array.size else b""
    checksum = 0
    for i in range(0, len(data), _CHUNK_BYTES):
        checksum = zlib.crc32(data[i : i + _CHUNK_BYTES], checksum)
    return checksum


def _read_description(path):
    """Return `(description, offset of the keys)`, after a check of the description's checksum and the file's size."""
    with open_to_read(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _FOOTER_BYTES))
        footer = file.read()
        if not footer.endswith(_LETTERS):
            file.seek(0)
            raise _damaged(path, "it ends too early" if file.read(6) == b"\x93NUMPY" else "it is not a `.npy` file")
        length = int.from_bytes(footer[-len(_LETTERS) - 8 : -len(_LETTERS)], "little")
        start = size - _FOOTER_BYTES - length
        if start < 0:
            raise _damaged(path, "it ends too early")
        file.seek(start)
        text = file.read(length)
    if hashlib.sha256(text).digest() != footer[:32]:
        raise _damaged(path, "its description is not what was written")
    description = json.loads(text)
    return description, start - description.get("texts_bytes", 0) - 8 * description["rows"]


def _header(shape, dtype):
    """Return the `.npy` header. Its length does not depend on the number of rows."""
    descr = np.lib.format.dtype_to_descr(dtype)
    text = repr({"descr": descr, "fortran_order": False, "shape": shape})
    length = 10 + len(text) - len(str(shape[0])) + 20
    length += -length % 64
    return b"\x93NUMPY\x01\x00" + (length - 10).to_bytes(2, "little") + text.ljust(length - 11).encode() + b"\n"


def _damaged(path, fault):
    return ValueError(
        f"{path} does not hold soft targets as keras_ban writes them: {fault}. Compute them again with "
        "`SoftTargets.from_teacher(teacher, x, path=...)`."
    )
