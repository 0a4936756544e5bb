"""`run.json`, the manifest of a run: read, checked and replaced.

It holds a checksum of its own content since format 2. The manifest before the last change stays as `run.previous.json`.
"""

import hashlib
import json
import os
import re
from typing import Any

from keras_ban._src.files.regular_file import open_to_read
from keras_ban._src.files.writing import replacing
from keras_ban._src.history.plain_data import check_entries

FORMAT = 2
MANIFEST, PREVIOUS = "run.json", "run.previous.json"
# The files of a generation, or of a control.
MODEL, RECORD = "model.keras", "record.json"
ELSEWHERE = "or begin another run in a new directory. Nothing was changed."
# The folders of generations and controls.
OF_MODEL = r"generation-\d+|control-[a-z]+(-\d+)?"
_CHECKSUM = "checksum"
# The types of a manifest's entries, of the settings in `begun_with`, and of what `fit` got. The first must be there.
_REQUIRED: dict[str, Any] = {"format": int, "versions": dict, "seed": int, "finished": bool, "generations": list}
_REQUIRED |= {"ensemble": dict | None, "begun_with": dict}
_OPTIONAL: dict[str, Any] = {"run": str, "controls": list, "independents": dict | None, "ensemble_metrics": dict}
_OPTIONAL |= {"independents_metrics": dict, "notes": list, _CHECKSUM: str}
_SETTINGS: dict[str, Any] = {"fit": dict, "generations": int, "compile": dict, "model": dict, "data": dict}
_SETTINGS |= {"soft_targets": str, "top_k": int | None, "teach_from": str, "distill_ensemble": bool}
_SETTINGS |= {"initial_weights": str, "controls": list, "soften_teachers": bool}
_FIT = {"monitor": str, "mode": str}


def read(folder):
    """Return the manifest in a folder, or `None` if there is none. Raise `ValueError` if it is damaged, or newer."""
    path = folder / MANIFEST
    try:
        with open_to_read(path) as file:
            text = file.read()
    except FileNotFoundError:
        return None
    try:
        manifest = json.loads(text)
        newer, written_by = manifest["format"] > FORMAT, manifest["versions"]["keras_ban"]
        if not newer:
            _check(manifest)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}). Restore it from a copy, {ELSEWHERE} ({PREVIOUS} is as it was before the "
            "last generation was added: if you take it, the folders of later generations are set aside.) The models in "
            f"{folder}/generation-*/model.keras can still be loaded with `keras.saving.load_model(...)`."
        ) from error
    if newer:
        raise ValueError(
            f"{path} is of format {manifest['format']}, written by keras_ban {written_by}. This version reads "
            f"formats up to {FORMAT}. Use that version or a newer one, {ELSEWHERE}"
        )
    return manifest


def write(folder, manifest):
    """Replace the manifest in a folder as a whole, and return what was written. Keep the one before."""
    manifest = {name: value for name, value in manifest.items() if name != _CHECKSUM} | {"format": FORMAT}
    manifest[_CHECKSUM] = _checksum(manifest)
    if (folder / MANIFEST).exists():
        with open_to_read(folder / MANIFEST) as file, replacing(folder / PREVIOUS) as previous:
            previous.write(file.read())
    with replacing(folder / MANIFEST) as file:
        file.write(_text(manifest).encode() + b"\n")
    return manifest


def _text(value, depth=0):
    """Return a manifest as JSON, with a line for each entry, and for each value of an entry that is a dict.

    The configuration of a model is deeply nested: with a line for each of its values, most of the file would be spaces.
    """
    if depth == 2 or not isinstance(value, dict):
        return json.dumps(value)
    spaces = "  " * depth
    lines = [f"{spaces}  {json.dumps(name)}: {_text(each, depth + 1)}" for name, each in value.items()]
    return "\n".join(["{", ",\n".join(lines), f"{spaces}}}"])


def _checksum(manifest):
    """Return the SHA-256 of a manifest's values. The layout of the text and the order of names do not count."""
    values = {name: value for name, value in manifest.items() if name != _CHECKSUM}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _check(manifest):
    """Raise `ValueError` if the values are not those that `RunDirectory` writes."""
    if manifest["format"] > 1 and manifest.get(_CHECKSUM) != _checksum(manifest):
        raise ValueError("its checksum is not that of its content")
    check_entries("the manifest", manifest, _REQUIRED | _OPTIONAL, _REQUIRED)
    check_entries("'begun_with'", manifest["begun_with"], _SETTINGS, ["fit"], takes_others=True)
    fit = manifest["begun_with"]["fit"]
    check_entries("'fit'", fit, _FIT, _FIT, takes_others=True)
    if fit["mode"] not in ("min", "max"):
        raise ValueError(f"mode must be 'min' or 'max', received: {fit['mode']!r}")
    for number, entry in enumerate(manifest["generations"]):
        _check_entry(entry, {"generation": number}, f"generation-{number:02d}")
    for entry in manifest.get("controls", []):
        _check_entry(entry, {"control": entry["control"]}, f"control-{entry['control']}")


def _check_entry(entry, of, folder):
    """Check the entry of a generation or a control. No folder but its own is named."""
    expected = {**of, "folder": folder, "files": entry["files"]}
    if entry != expected or not re.fullmatch(OF_MODEL, folder):
        raise ValueError(f"expected an entry {expected}, received: {entry}")
    missing = {MODEL, RECORD} - set(entry["files"])
    if missing:
        raise ValueError(f"the entry of {folder} lacks the files {sorted(missing)}")
    for name, file in entry["files"].items():
        if os.path.basename(name) != name or type(file["bytes"]) is not int or not is_sha256(file["sha256"]):
            raise ValueError(f"expected the size and checksum of a file in {folder}, received: {name!r}: {file}")


def is_sha256(value):
    """Whether a value is a SHA-256 as text."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


def described_file(path):
    """Return the size and the checksum of a file of a generation or a control, as the manifest holds them."""
    return {"bytes": path.stat().st_size, "sha256": _checksum_of_file(path)}


def fault_of_file(path, noted):
    """Return what is wrong with a file, by the size and the checksum that were `noted`. `None` if it is intact."""
    if not path.is_file():
        return "is not there any more"
    if path.stat().st_size != noted["bytes"]:
        return f"has {path.stat().st_size} bytes instead of {noted['bytes']}"
    if _checksum_of_file(path) != noted["sha256"]:
        return f"was altered: its checksum differs from the one in {MANIFEST}"
    return None


def _checksum_of_file(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
