"""A file of a finished generation: its size and checksum, which the manifest holds, and what is wrong with it."""

import hashlib

from keras_ban._src.runs.manifest_file import MANIFEST


def described(path):
    """Return the size and the checksum of a file, for the manifest."""
    return {"bytes": path.stat().st_size, "sha256": _checksum(path)}


def fault(path, noted):
    """Return what is wrong with a file, by the size and the checksum that were `noted`. `None` if it is intact."""
    if not path.is_file():
        return "is not there any more"
    if path.stat().st_size != noted["bytes"]:
        return f"has {path.stat().st_size} bytes instead of {noted['bytes']}"
    if _checksum(path) != noted["sha256"]:
        return f"was altered: its checksum differs from the one in {MANIFEST}"
    return None


def _checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
