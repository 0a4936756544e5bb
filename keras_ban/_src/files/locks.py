"""Locks on files, which the operating system releases when a process ends for any reason."""

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


def locked(file):
    """Lock an open file until it is closed, and return whether that worked. On Windows, it never does."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
