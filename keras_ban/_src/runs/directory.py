"""A run on disk: what is finished stays finished, what is not is done again.

What a directory holds:

- `run.json`, the manifest: versions, seed, what the run was begun with, one entry a generation with the checksums of
  its files, and at the end the ensemble's scores;
- `generation-00/`, `generation-01/`, ...: `model.keras`, `history.csv` (a line for each epoch), `record.json` (a
  `GenerationRecord`);
- while it trains, `soft-targets-00.npy`: what the teacher of generation 1 says of the training data, and so on; and
  `epoch.npz`: the state after the last epoch of the generation that is being trained;
- `.lock`: the process id and host of who writes here, or wrote here last.

The rules of resume:

1. A folder holds a run if it holds `run.json`. A folder that is empty or not there becomes one; a folder that holds
   anything else is refused, and nothing is written to it.
2. One process writes at a time. It holds a lock that the operating system takes back when the process ends, however it
   ends; a second is refused. Reading needs no lock: files that have their final name are never changed, but for
   `run.json`, which is replaced as a whole.
3. A generation exists when `run.json` names it, and that is the last step: its files are written to a hidden folder and
   flushed to the disk, the folder is given its name, and then `run.json` is replaced by one that names it. At any
   instant before that the generation does not exist, and is trained again, from its own seed or from `epoch.npz`.
4. Who takes the lock first removes what a process that died has left: hidden `.partial` files and folders, and a
   generation's folder that `run.json` does not name. Nothing else is ever removed, and nothing is written over.
5. A run is continued with what it was begun with, or not at all: each difference is named. But there may be more
   generations, if no student of the ensemble of them all was asked for. One that has neither a generation nor an epoch
   to its name holds nothing, and is begun anew.
6. A file of a finished generation whose checksum is not the one noted is refused. It is never used, and not trained
   again either: the generations after it were taught by the true one.
7. A manifest of a newer format is refused.
8. Where the disk is full, or has another fault, the file is named, and what was being written is taken away again.
9. Where several workers train together, the first takes the lock and writes; the others wait for it, and read. All of
   them see the same folder, and go through the same steps; where one fails, no other goes on.
"""

import csv
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import socket

from keras_ban._src.backend import process_group
from keras_ban._src.files.writing import writing
from keras_ban._src.history.history import BornAgainHistory

FORMAT = 1
MANIFEST, MODEL, LOGS, RECORD, EPOCH, LOCK = (
    *("run.json", "model.keras", "history.csv", "record.json"),
    *("epoch.npz", ".lock"),
)
_PARTIAL = re.compile(r"\.(run\.json|epoch\.npz|generation-\d+|soft-targets-\d+\.npy\.[0-9a-f]+)\.partial")
_GENERATION = re.compile(r"generation-(\d+)")
_ELSEWHERE = "or begin another run in a new directory. Nothing was changed."


class RunDirectory:
    """A directory that holds a run, by the rules above.

    To read, `RunDirectory(path).read()`. To write, use it as a context manager, which holds the lock:

    ```python
    with RunDirectory(path) as run:
        run.begin(description, seed=seed, versions=versions)
        for generation in range(len(run.entries), 4):
            run.commit(record, model.save)
        run.finish(ensemble_scores)
    ```

    Args:
        path: the directory; it is made where there is none.

    Attributes:
        path: `pathlib.Path`.
        manifest: what `run.json` says; `None` where there is none yet.
    """

    def __init__(self, path):
        # Not to depend on the working directory, which may change while a run is trained.
        self.path = pathlib.Path(path).absolute()
        self.manifest = None
        self._lock = None

    def __enter__(self):
        try:
            self._by_chief("open the run directory", self._open)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _open(self):
        self._check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if not os.access(self.path, os.W_OK):
                raise PermissionError(errno.EACCES, "No permission to write")
            self._lock = _take_lock(self.path / LOCK)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}. No run can be kept here: choose another `directory`, one that you may write to. "
                "(One that is there already can be read, `BornAgainSequence.load`.) Nothing was trained",
                str(self.path),
            ) from error
        self._check_free()
        self._read()
        self._remove_leftovers()

    def __exit__(self, *_):
        _give_back_lock(self._lock)
        self._lock = None

    def read(self):
        """Read the manifest, without the lock; return the directory itself.

        Raises:
            FileNotFoundError: there is no run.
            ValueError: the manifest is of a newer format, or damaged.
        """
        self._read()
        if self.manifest is None:
            raise FileNotFoundError(f"{self.path} holds no run: there is no {MANIFEST} in it.")
        return self

    @property
    def entries(self):
        """The manifest's entries, one for each finished generation."""
        return [] if self.manifest is None else self.manifest["generations"]

    @property
    def holds_nothing(self):
        """Whether neither a generation nor an epoch is there (rule 5)."""
        return not self.entries and not self.epoch_file.exists()

    @property
    def finished(self):
        """Whether all generations are there."""
        return self.manifest is not None and self.manifest["finished"]

    def begin(self, description, seed, versions):
        """Write the manifest of a new run; or hold one that is there against what is to be continued now.

        Args:
            description: plain data; all that the result depends on, but for the seed.
            seed: of the run.
            versions: of the libraries; noted, and not compared.

        Raises:
            ValueError: the run was begun with something else.
        """
        description = json.loads(json.dumps(description))
        self._by_chief("begin the run", lambda: self._begin(description, seed, versions))
        with process_group.together("begin it with the same"):
            self._check_same(self.manifest["begun_with"], description, seed)

    def _begin(self, description, seed, versions):
        if self.holds_nothing:
            manifest = {"format": FORMAT, "versions": versions, "seed": seed, "finished": False}
            self._write_manifest({**manifest, "generations": [], "ensemble": None, "begun_with": description})
            return
        begun_with = self.manifest["begun_with"]
        more = description.get("generations", 0) > begun_with.get("generations", 0)
        if more:
            begun_with = self._with_more(begun_with, description)
        self._check_same(begun_with, description, seed)
        if more:
            self._write_manifest({**self.manifest, "begun_with": description, "finished": False, "ensemble": None})

    def _check_same(self, begun_with, description, seed):
        found = list(differences({"seed": self.manifest["seed"], **begun_with}, {"seed": seed, **description}))
        if found:
            raise ValueError(
                f"{self.path} holds a run that was begun with something else:\n"
                + "".join(f"- {line}\n" for line in found)
                + f"Continue it with what it was begun with, {_ELSEWHERE}"
            )

    def commit(self, record, write_model):
        """Put a generation on disk, by rule 3.

        Args:
            record: its `GenerationRecord`.
            write_model: a function that writes the model to the path that it is given.
        """
        self._by_chief(f"put generation {record.generation} on disk", lambda: self._commit(record, write_model))

    def _commit(self, record, write_model):
        name = f"generation-{record.generation:02d}"
        partial = self.path / f".{name}.partial"
        with writing(self.path / name, partial):
            partial.mkdir()
            write_model(partial / MODEL)
            _write_logs(partial / LOGS, record.logs)
            text = json.dumps(BornAgainHistory([record]).to_dict()["records"][0], indent=2)
            (partial / RECORD).write_text(text + "\n")
            files = {}
            for file in sorted(partial.iterdir()):
                _flush(file)
                files[file.name] = {"bytes": file.stat().st_size, "sha256": _checksum(file)}
            _flush(partial)
            os.rename(partial, self.path / name)
            _flush(self.path)
        entry = {"generation": record.generation, "folder": name, "files": files}
        self._write_manifest({**self.manifest, "generations": [*self.entries, entry]})
        self.epoch_file.unlink(missing_ok=True)

    def finish(self, ensemble):
        """Note that no generation is to come, and the ensemble's `Scores`, or `None`."""
        ensemble = BornAgainHistory(ensemble=ensemble).to_dict()["ensemble"]
        manifest = {**self.manifest, "finished": True, "ensemble": ensemble}
        self._by_chief("finish the run", lambda: self._write_manifest(manifest))

    def model_file(self, generation):
        """The path of a finished generation's model, whose checksum was looked at.

        Raises:
            ValueError: the file is not what was written.
        """
        return self._checked(generation, MODEL)

    def history(self):
        """The finished generations' `BornAgainHistory`."""
        records = [json.loads(self._checked(number, RECORD).read_text()) for number in range(len(self.entries))]
        fit = self.manifest["begun_with"]["fit"]
        history = {"monitor": fit["monitor"], "mode": fit["mode"], "data": "validation"}
        return BornAgainHistory.from_dict({**history, "records": records, "ensemble": self.manifest["ensemble"]})

    def soft_targets_file(self, generation):
        """Where the soft targets lie that teach the generation after this one."""
        return self.path / f"soft-targets-{generation:02d}.npy"

    @property
    def epoch_file(self):
        """Where the state lies that the generation being trained had after its last epoch."""
        return self.path / EPOCH

    def remove_soft_targets(self):
        """Remove the soft targets that played their part: the generation that they taught is on disk."""
        for generation in range(len(self.entries) - 1 if process_group.is_chief() else 0):
            self.soft_targets_file(generation).unlink(missing_ok=True)

    def _by_chief(self, what, write):
        """Rule 9."""
        with process_group.together(what):
            if process_group.is_chief():
                write()
        # The chief waits, so that all see the same.
        with process_group.together(f"{what}, and read it"):
            if not process_group.is_chief():
                if not (self.path / LOCK).exists():
                    raise ValueError(
                        f"Worker {process_group.index()} (counted from 0) sees nothing in {self.path}, where worker 0 "
                        "writes: `directory` must be a folder that all workers see, which their machines share."
                    )
                self._read()

    def _checked(self, generation, name):
        entry = self.entries[generation]
        path, noted = self.path / entry["folder"] / name, entry["files"][name]
        if not path.is_file():
            what = "is not there any more"
        elif path.stat().st_size != noted["bytes"]:
            what = f"has {path.stat().st_size} bytes, {noted['bytes']} were written"
        elif _checksum(path) != noted["sha256"]:
            what = "was altered: its checksum is not that of what was written"
        else:
            return path
        intact = f"Generations 0 to {generation - 1} are whole" if generation else "It is the first generation"
        raise ValueError(
            f"{path} {what}. It is not used. Put back a copy of the file, if there is one, {_ELSEWHERE} {intact}: a "
            "new run can go on from a model that is whole, `fit(teacher=keras.saving.load_model(...))`."
        )

    def _check_free(self):
        """Rule 1."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`directory` must be a folder, but {self.path} is a file.")
        if not self.path.exists() or (self.path / MANIFEST).exists():
            return
        others = sorted(p.name for p in self.path.iterdir() if p.name != LOCK and not _PARTIAL.fullmatch(p.name))
        if others:
            raise ValueError(
                f"{self.path} holds files but no run (there is no {MANIFEST}): {others[:5]}"
                f"{' and others' if len(others) > 5 else ''}. A run is kept in a folder of its own: choose one that is "
                "empty or not there yet. Nothing was changed."
            )

    def _read(self):
        path = self.path / MANIFEST
        if not path.exists():
            return
        try:
            manifest = json.loads(path.read_text())
            newer, written_by = manifest["format"] > FORMAT, manifest["versions"]["keras_ban"]
            newer or (manifest["generations"], manifest["finished"], manifest["begun_with"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error!r}). Put back a copy of it, if there is one, {_ELSEWHERE} The models in "
                f"{self.path}/generation-*/{MODEL} can still be loaded, `keras.saving.load_model(...)`."
            ) from error
        if newer:
            raise ValueError(
                f"{path} is of format {manifest['format']}, written by keras_ban {written_by}: this version reads "
                f"formats up to {FORMAT}. Use that version or a newer one, {_ELSEWHERE}"
            )
        self.manifest = manifest

    def _remove_leftovers(self):
        """Rule 4."""
        for path in self.path.iterdir():
            match = _GENERATION.fullmatch(path.name)
            if _PARTIAL.fullmatch(path.name) or (match and int(match[1]) >= len(self.entries)):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _with_more(self, begun_with, description):
        """What the run was begun with, had it been begun with as many generations as are wanted now."""
        before = begun_with["generations"]
        if begun_with["distill_ensemble"]:
            raise ValueError(
                f"{self.path} holds a run of {before} generations with `distill_ensemble`, whose student is taught by "
                f"just these: it cannot go on to {description['generations']}. Continue it with generations={before}, "
                f"{_ELSEWHERE}"
            )
        weights, now = begun_with["label_weight"], description["label_weight"]
        if isinstance(weights, list) and isinstance(now, list):
            weights = weights + now[len(weights) :]
        later = {number: model for number, model in description["model"].items() if int(number) > before}
        return {
            **begun_with,
            "generations": description["generations"],
            "label_weight": weights,
            "model": {**begun_with["model"], **later},
        }

    def _write_manifest(self, manifest):
        partial = self.path / f".{MANIFEST}.partial"
        with writing(self.path / MANIFEST, partial):
            partial.write_text(json.dumps(manifest, indent=2) + "\n")
            _flush(partial)
            os.replace(partial, self.path / MANIFEST)
            _flush(self.path)
        self.manifest = manifest


def differences(there, now, name=""):
    """A line for each value that differs between two pieces of plain data, with its name, and both values."""
    if isinstance(there, dict) and isinstance(now, dict):
        keys = [*there, *(key for key in now if key not in there)]
        registered = there.get("registered_name")
        if registered is not None and registered == now.get("registered_name"):
            # Keras finds a registered class by its name, wherever its code is.
            keys = [key for key in keys if key != "module"]
        for key in keys:
            yield from differences(there.get(key), now.get(key), f"{name}.{key}" if name else key)
    elif isinstance(there, list) and isinstance(now, list) and len(there) == len(now):
        for index, pair in enumerate(zip(there, now, strict=True)):
            yield from differences(*pair, f"{name}[{index}]")
    elif (
        there != now
        and not (there != there and now != now)
        and not (name.endswith(".name") and _unnumbered(there) == _unnumbered(now))
    ):
        yield f"{name}: {_short(there)} in the directory, {_short(now)} now"


def _unnumbered(name):
    """Keras numbers names by what was made before in the process: `adam_2`."""
    return re.sub(r"_\d+$", "", name) if isinstance(name, str) else name


def _short(value):
    if isinstance(value, (list, dict)) and len(json.dumps(value)) > 80:
        return f"{len(value)} entries"
    return json.dumps(value)


def _write_logs(path, logs):
    """A line for each epoch, in full precision; a name that was not measured in each epoch has gaps at the front."""
    epochs = max((len(values) for values in logs.values()), default=0)
    columns = [[""] * (epochs - len(values)) + [repr(value) for value in values] for values in logs.values()]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *logs])
        writer.writerows([epoch, *row] for epoch, row in enumerate(zip(*columns, strict=True)))


def _checksum(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path):
    """Have the operating system bring a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# A lock belongs to an open file, and a process that forks hands its open files on: a worker that outlives the run would
# keep the lock. So a child closes them, which leaves the parent's lock as it is.
_held = set()


def _close_in_child():
    while _held:
        _held.pop().close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


def _take_lock(path):
    try:
        import fcntl
    except ImportError as error:
        raise NotImplementedError(
            "A run directory is locked with `fcntl`, which Windows has not. Run in WSL, or leave out `directory`."
        ) from error
    file = open(path, "a+")  # noqa: SIM115 (closed by `_give_back_lock`)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        raise RuntimeError(
            f"{path.parent} is in use by {holder}: two runs in one directory would mix. Wait until it has ended (the "
            "lock ends with the process), or use another directory."
        ) from error
    file.truncate(0)
    file.write(f"process {os.getpid()} on host {socket.gethostname()}\n")
    file.flush()
    _held.add(file)
    return file


def _give_back_lock(file):
    if file is None:
        return
    import fcntl

    _held.discard(file)
    fcntl.flock(file, fcntl.LOCK_UN)
    file.close()
