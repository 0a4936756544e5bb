"""Errors of the operating system while a file is written."""

import contextlib
import shutil


@contextlib.contextmanager
def writing(path, partial=None):
    """A context in which `path` is written: an error of the operating system names it, and what to do.

    Args:
        path: what is named.
        partial: the file or folder that is written before it gets that name; after an error it is removed, for the
            room that it takes may be what is wanting.

    Raises:
        OSError: as it came, of the same kind and number.
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
            f"{error.strerror or error}. It was not written; what was finished before it stays. Make room, or mend "
            "what the operating system complains of, and start again",
            str(path),
        ) from error
