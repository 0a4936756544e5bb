"""The lock of a run directory: one process writes at a time."""

import os
import socket

from keras_ban._src.files import locks
from keras_ban._src.files.regular_file import open_to_change

# A lock belongs to an open file, and forked processes inherit open files: a worker process that outlives the run would
# keep the lock. So a child closes the files, which does not release the parent's lock.
_held: set = set()


def _close_in_child():
    while _held:
        _held.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def take_lock(path):
    if locks.fcntl is None:
        raise NotImplementedError(
            "A run directory is locked with `fcntl`, which Windows does not have. Run in WSL, or leave out `directory`."
        )
    file = open_to_change(path)  # Closed by `release_lock`.
    if not locks.locked(file):
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RuntimeError(
            f"{path.parent} is in use by {holder}. Wait until it has ended (the lock ends with the process), or use "
            "another directory."
        )
    file.seek(0)
    file.truncate()
    file.write(f"process {os.getpid()} on host {socket.gethostname()}\n")
    file.flush()
    _held.add(file)
    return file


def release_lock(file):
    if file is None:
        return
    _held.discard(file)
    locks.fcntl.flock(file, locks.fcntl.LOCK_UN)
    file.close()
