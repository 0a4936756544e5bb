"""Open a file only if it is a regular file. A folder may hold something else under its name, even by intent."""

import os
import stat


def check_regular(path):
    """Raise `ValueError` if there is something at `path` that is no regular file, or a link to one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        raise ValueError(f"{path} must be a regular file, but it is {_kind(mode)}. Move it away. Nothing was changed.")


def open_to_read(path):
    """Open a regular file to read bytes. A pipe, for instance, is not waited for: raise `ValueError`."""
    # Without O_NONBLOCK, to open a pipe waits for a writer. It changes nothing for regular files.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise ValueError(f"{path} must be a regular file, but it is {_kind(mode)}.")
    return os.fdopen(descriptor, "rb")


def open_to_change(path):
    """Open a file to read and change its text, or create it. No link is followed, so that no other file is changed.

    Raise `ValueError` if it is no regular file, or has another name, too.
    """
    if os.path.islink(path):
        raise ValueError(_is_link(path, "a symbolic link"))
    check_regular(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW
    descriptor = os.open(path, flags, 0o666)
    found = os.fstat(descriptor)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return os.fdopen(descriptor, "r+")
    os.close(descriptor)
    raise ValueError(_is_link(path, "a hard link to another file"))


def _is_link(path, kind):
    return f"{path} is {kind}, which would be overwritten. Move it away. Nothing was changed."


def _kind(mode):
    kinds = {
        stat.S_ISDIR: "a folder",
        stat.S_ISFIFO: "a pipe",
        stat.S_ISSOCK: "a socket",
        stat.S_ISCHR: "a device",
        stat.S_ISBLK: "a device",
    }
    return next((kind for is_kind, kind in kinds.items() if is_kind(mode)), "something else")
