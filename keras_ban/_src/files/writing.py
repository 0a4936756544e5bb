"""Errors of the operating system while a file is written."""

import contextlib
import shutil


@contextlib.contextmanager
def writing(path, partial=None):
    """Return a context in which `path` is written. Errors of the operating system name `path`, and what to do.

    They keep their type and number. `partial` is the file or folder that is written before it is renamed. It is removed
    after an error, because the disk may be full.
    """
    try:
        yield
    except OSError as error:
        if partial is not None and partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        elif partial is not None:
            partial.unlink(missing_ok=True)
        raise OSError(
            error.errno,
            f"{error.strerror or error}. It was not written. Everything that was finished before is kept. "
            "Make room, or fix what the operating system reports, and start again",
            str(path),
        ) from error
