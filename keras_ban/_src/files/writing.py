"""Write files so that they are complete or absent."""

import contextlib
import errno
import os
import shutil


@contextlib.contextmanager
def writing(path, partial=None):
    """Return a context in which `path` is written. Errors of the operating system name it, and keep type and number.

    `partial` is the file or folder that is written first, and then renamed. It is removed after an error.
    """
    try:
        yield
    except OSError as error:
        if partial is not None and partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        elif partial is not None:
            partial.unlink(missing_ok=True)
        hint = "Make room, or fix what the operating system reports, and start again"
        if error.errno == errno.ENOENT:
            hint = "Make its folder, and start again"
        raise OSError(
            error.errno,
            f"{error.strerror or error}. It was not written. Everything that was finished before is kept. {hint}",
            str(path),
        ) from error


def write_text(path, text):
    """Write a text file whole, or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, partial):
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(partial, path)


@contextlib.contextmanager
def replacing(path):
    """Return a context that yields a new file, which replaces the one at `path` as a whole when it is on disk."""
    partial = path.with_name(f".{path.name}.partial")
    with writing(path, partial):
        with open(partial, "xb+") as file:
            yield file
        flush(partial)
        os.replace(partial, path)
        flush(path.parent)


def flush(path):
    """Flush a file's content, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
