"""A run on disk. Finished generations are kept, and an interrupted run can be continued.

Contents of a run directory:

- `run.json`, the manifest: versions, seed, the run's settings, an entry for each generation with the checksums of its
  files, at the end the ensemble's scores, and a checksum of all of it. `run.previous.json` is the one before.
- `generation-00/`, ...: `model.keras`, `history.csv` (a line for each epoch), `record.json` (a `GenerationRecord`).
- `control-longer/`, `control-independent-02/`, ...: the same of each control (with a `ControlRecord`).
- During training, `soft-targets-00.npy` (the soft targets of generation 1), and so on; and `epoch.npz` (the state of
  the current generation after its last finished epoch).
- `.lock`: process id and host of the process that writes, or wrote last.

Rules of resume:

1. A folder holds a run if it contains `run.json`. A new or empty folder becomes a run directory. A folder with other
   contents is refused, and nothing is written to it.
2. One process writes at a time. It holds a lock, which the operating system releases when the process ends for any
   reason. A second writer is refused. Reading needs no lock: under its final name a file never changes, except
   `run.json`, which is replaced as a whole.
3. A generation exists once `run.json` names it. This is the last step: its files are written to a hidden folder and
   flushed to disk, the folder is renamed, and `run.json` is replaced. A generation that is interrupted before this
   step is trained again, from its own seed or from `epoch.npz`.
4. A process that takes the lock first removes what a dead process left: hidden `.partial` files and folders. What has
   the name of a generation or control, but is not named by `run.json`, gets another name, with `.set-aside` at its
   end, and a warning says so: it may hold a finished generation. Nothing else is removed, and nothing is overwritten.
   What a callback wrote into the folder of its own generation stays there.
5. A run is only continued with the same settings. Otherwise an error lists the differences. The number of generations
   may grow, except with `distill_ensemble` or controls. A run without a finished epoch or generation is started anew.
6. A file of a finished generation is refused if its checksum is wrong. It is neither used nor trained again, because
   the original model taught the generations after it.
7. A manifest that is damaged, or of a newer format, is refused. So is anything but a regular file in the place of a
   file, and a lock file that is a link: no file outside the folder is changed.
8. If the disk is full or has another fault, the error names the file, and the incomplete file is removed.
9. With several workers, the chief takes the lock and writes. The others wait for it, and read. All of them see the same
   folder and take the same steps. If one worker fails, all of them stop.
"""

import csv
import errno
import itertools
import json
import os
import pathlib
import re
import shutil
import uuid
import warnings

from keras_ban._src.backend import process_group
from keras_ban._src.files.regular_file import check_regular
from keras_ban._src.files.writing import flush, writing
from keras_ban._src.history.controls import ControlRecord
from keras_ban._src.history.history import BornAgainHistory
from keras_ban._src.runs import manifest_file
from keras_ban._src.runs.differences import OtherSettings, differences
from keras_ban._src.runs.lock import release_lock, take_lock
from keras_ban._src.runs.manifest_file import ELSEWHERE, MANIFEST, MODEL, OF_MODEL, PREVIOUS, RECORD

LOGS = "history.csv"
EPOCH, LOCK = "epoch.npz", ".lock"
_FOLDER = re.compile(OF_MODEL)
_FILES = r"run\.json|run\.previous\.json|epoch\.npz|soft-targets-\d+\.npy\.[0-9a-f]+"
_PARTIAL = re.compile(rf"\.({_FILES}|{OF_MODEL})\.partial")
# Entries of `run.json` that it has only if there are such results.
_OF_ENSEMBLE = ("ensemble_metrics", "notes")


class RunDirectory:
    """Reads and writes a run directory by the rules above.

    `RunDirectory(path).read()` reads. As a context manager, it creates the directory and holds the lock. To write, call
    `begin`, then `commit` for each generation, then `finish`.

    Attributes:
        path: `pathlib.Path`.
        manifest: the contents of `run.json`, or `None` if it does not exist yet.
    """

    def __init__(self, path):
        # Absolute, because the working directory may change during training.
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
            self._lock = take_lock(self.path / LOCK)
        except OSError as error:
            raise OSError(
                error.errno,
                f"{error.strerror}: choose another `directory` that you can write to. (To read an existing run, call "
                "`BornAgainSequence.load`.) Nothing was trained",
                str(self.path),
            ) from error
        self._check_free()
        self._read()
        check_regular(self.epoch_file)
        self._remove_leftovers()

    def __exit__(self, *_):
        release_lock(self._lock)
        self._lock = None

    def read(self):
        """Read the manifest without the lock, and return `self`. Raise `FileNotFoundError` if there is no run."""
        if self.path.is_file():
            raise FileNotFoundError(f"{self.path} is a file. Pass the directory of a run, which contains {MANIFEST}.")
        self._read()
        if self.manifest is None:
            runs = sorted(manifest.parent.name for manifest in self.path.glob(f"*/{MANIFEST}"))
            hint = f" Name a run in it: {', '.join(runs[:5])}{', ...' if len(runs) > 5 else ''}." if runs else ""
            raise FileNotFoundError(f"{self.path} holds no run: it does not contain {MANIFEST}.{hint}")
        return self

    @property
    def entries(self):
        """The entries of the finished generations in the manifest."""
        return [] if self.manifest is None else self.manifest["generations"]

    @property
    def controls(self):
        """The entries of the finished controls in the manifest."""
        return [] if self.manifest is None else self.manifest.get("controls", [])

    @property
    def holds_nothing(self):
        """Whether no generation and no epoch is finished (rule 5)."""
        return not self.entries and not self.epoch_file.exists()

    @property
    def finished(self):
        return self.manifest is not None and self.manifest["finished"]

    def start(self, description, seed, versions):
        """Write the manifest of a new run. Raise `ValueError` if there is a run with other settings.

        `description` is plain data: everything that the result depends on, except the seed. `versions` may differ.
        """
        description = json.loads(json.dumps(description))
        self._by_chief("start the run", lambda: self._start(description, seed, versions))
        with process_group.together("compare the run's settings"):
            self._check_same(self.manifest["begun_with"], description, seed)

    def _start(self, description, seed, versions):
        if self.holds_nothing:
            manifest = {"run": uuid.uuid4().hex, "versions": versions, "seed": seed, "finished": False}
            self._write_manifest({**manifest, "generations": [], "ensemble": None, "begun_with": description})
            return
        begun_with = self.manifest["begun_with"]
        if description.get("generations", 0) > begun_with.get("generations", 0):
            self._check_same(self._with_more(begun_with, description), description, seed)
            manifest = {name: value for name, value in self.manifest.items() if name not in _OF_ENSEMBLE}
            self._write_manifest({**manifest, "begun_with": description, "finished": False, "ensemble": None})

    def _check_same(self, begun_with, description, seed):
        stored, given = {"seed": self.manifest["seed"], **begun_with}, {"seed": seed, **description}
        found = list(differences(stored, given))
        if found:
            raise OtherSettings(
                f"{self.path} holds a run with other settings:\n"
                + "".join(f"- {line}\n" for line in found)
                + f"Continue it with the same settings, {ELSEWHERE}",
                stored,
                given,
            )

    def commit(self, record, write_model):
        """Save a generation or a control (rule 3). `write_model` is a function that writes its model to a path."""
        if isinstance(record, ControlRecord):
            entry = {"control": record.name, "folder": f"control-{record.name}"}
        else:
            entry = {"generation": record.generation, "folder": f"generation-{record.generation:02d}"}
        self._by_chief(f"save {entry['folder']}", lambda: self._commit(entry, record, write_model))

    def _commit(self, entry, record, write_model):
        name = entry["folder"]
        partial, files = self.path / f".{name}.partial", {}
        with writing(self.path / name, partial):
            partial.mkdir()
            write_model(partial / MODEL)
            _write_logs(partial / LOGS, record.logs)
            text = json.dumps(record.to_dict(), indent=2)
            (partial / RECORD).write_text(text + "\n")
            for file in sorted(partial.iterdir()):
                flush(file)
                files[file.name] = manifest_file.described_file(file)
            flush(partial)
            foreign = self._set_aside(name)
            os.rename(partial, self.path / name)
            flush(self.path)
        kind, others = ("controls", self.controls) if "control" in entry else ("generations", self.entries)
        self._write_manifest({**self.manifest, kind: [*others, {**entry, "files": files}]})
        self.epoch_file.unlink(missing_ok=True)
        if foreign is not None and foreign.is_dir() and not foreign.is_symlink():
            _move_files(foreign, self.path / name)

    def finish(self, history):
        """Mark the run as finished, and save what its `BornAgainHistory` has beside the records."""
        found = history.to_dict()
        manifest = {**self.manifest, "finished": True, "ensemble": found["ensemble"]}
        if "controls" in found:
            manifest["independents"] = found["controls"]["ensemble"]
        manifest |= {name: found[name] for name in _OF_ENSEMBLE if name in found}
        if "ensemble_metrics" in found.get("controls", {}):
            manifest["independents_metrics"] = found["controls"]["ensemble_metrics"]
        self._by_chief("finish the run", lambda: self._write_manifest(manifest))

    def model_file(self, generation):
        """Return the path of a generation's model. Raise `ValueError` if the file was altered or is missing."""
        return self._checked(self.entries[generation], MODEL)

    def control_file(self, name):
        """Return the path of a control's model. Raise `ValueError` if the file was altered or is missing."""
        return self._checked(next(entry for entry in self.controls if entry["control"] == name), MODEL)

    def history(self):
        """Return the `BornAgainHistory` of the finished generations and controls."""
        records, controls = (
            [json.loads(self._checked(entry, RECORD).read_text()) for entry in entries]
            for entries in (self.entries, self.controls)
        )
        fit = self.manifest["begun_with"]["fit"]
        history = {"monitor": fit["monitor"], "mode": fit["mode"], "data": "validation"}
        if controls:
            history["controls"] = {"records": controls, "ensemble": self.manifest.get("independents")}
            history["controls"]["ensemble_metrics"] = self.manifest.get("independents_metrics", {})
        history |= {name: self.manifest[name] for name in _OF_ENSEMBLE if name in self.manifest}
        found = BornAgainHistory.from_dict({**history, "records": records, "ensemble": self.manifest["ensemble"]})
        found.directory = self.path
        return found

    def soft_targets_file(self, generation):
        """Return the path of the soft targets that teach the generation after this one."""
        return self.path / f"soft-targets-{generation:02d}.npy"

    @property
    def identity(self):
        """A text that no other run has. `None` in runs of old versions."""
        return self.manifest.get("run")

    @property
    def epoch_file(self):
        """The path of the state of the current generation after its last finished epoch."""
        return self.path / EPOCH

    @property
    def unnamed_folders(self):
        """The folders of generations and controls that the manifest does not name (rule 4), as sorted paths."""
        named = {entry["folder"] for entry in [*self.entries, *self.controls]}
        return [path for path in sorted(self.path.iterdir()) if _FOLDER.fullmatch(path.name) and path.name not in named]

    def remove_soft_targets(self):
        """Remove soft targets whose student is saved."""
        for generation in range(len(self.entries) - 1 if process_group.is_chief() else 0):
            self.soft_targets_file(generation).unlink(missing_ok=True)

    def _by_chief(self, task, write):
        """Run `write` on the chief. Then read the manifest on the other workers (rule 9)."""
        with process_group.together(task):
            if process_group.is_chief():
                write()
        # The chief waits, so that all workers see the same files.
        with process_group.together(f"{task}, and read it"):
            if not process_group.is_chief():
                if not (self.path / LOCK).exists():
                    raise ValueError(
                        f"Worker {process_group.index()} (counted from 0) does not see the files that worker 0 writes "
                        f"to {self.path}. `directory` must be a folder that the machines of all workers share."
                    )
                self._read()

    def _checked(self, entry, name):
        path = self.path / entry["folder"] / name
        fault = manifest_file.fault_of_file(path, entry["files"][name])
        if fault is None:
            return path
        generation = entry.get("generation", len(self.entries))
        intact = f"Generations 0 to {generation - 1} are whole" if generation > 1 else "Generation 0 is whole"
        intact = intact if generation else "It is the first generation"
        raise ValueError(
            f"{path} {fault}. Restore the file from a copy, {ELSEWHERE} {intact}: a new run can start from a whole "
            "model, with `fit(teacher=keras.saving.load_model(...))`."
        )

    def _check_free(self):
        """Raise `ValueError` if the folder has other contents than a run (rule 1)."""
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"`directory` must be a folder, but {self.path} is a file.")
        if not self.path.exists() or (self.path / MANIFEST).exists():
            return
        if (self.path / PREVIOUS).exists():
            raise ValueError(
                f"{self.path} holds a run, but its {MANIFEST} is missing. Restore it from a copy, {ELSEWHERE} "
                f"({PREVIOUS} is as it was before its last change.)"
            )
        others = sorted(p.name for p in self.path.iterdir() if p.name != LOCK and not _PARTIAL.fullmatch(p.name))
        if others:
            more = " and others" if len(others) > 5 else ""
            raise ValueError(
                f"{self.path} holds files but no run (there is no {MANIFEST}): {others[:5]}{more}. A run is kept in a "
                "folder of its own: choose one that is empty or not there yet. Nothing was changed."
            )

    def _read(self):
        self.manifest = manifest_file.read(self.path)

    def _remove_leftovers(self):
        """Remove what a dead process left, and set aside what may hold a finished generation (rule 4)."""
        for path in sorted(self.path.iterdir()):
            if _PARTIAL.fullmatch(path.name):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        aside = [self._set_aside(path.name).name for path in self.unnamed_folders]
        if aside:
            warnings.warn(
                f"{self.path} held folders that {MANIFEST} does not name. They were renamed to {aside}, and are not "
                f"used. If {MANIFEST} is an older copy, put back the newer one and the folders' names.",
                stacklevel=6,
            )

    def _set_aside(self, name):
        """Rename what is at `name`, and return its new path. Return `None` if there is nothing."""
        path = self.path / name
        if not path.exists() and not path.is_symlink():
            return None
        names = (f"{name}.set-aside{'' if number == 1 else f'-{number}'}" for number in itertools.count(1))
        aside = next(each for each in map(self.path.joinpath, names) if not each.exists() and not each.is_symlink())
        os.rename(path, aside)
        return aside

    def _with_more(self, begun_with, description):
        """Return the settings that the run would have with the new number of generations."""
        before = begun_with["generations"]
        last = "distill_ensemble" if begun_with["distill_ensemble"] else "controls"
        if begun_with.get(last):
            raise ValueError(
                f"{self.path} holds a run of {before} generations with `{last}`, so that it "
                f"cannot go on to {description['generations']}. Continue it with generations={before}, {ELSEWHERE}"
            )
        added = description["generations"] - before
        weights = _longer(begun_with["label_weight"], description["label_weight"], added)
        fit = {**begun_with["fit"], "epochs": _longer(begun_with["fit"]["epochs"], description["fit"]["epochs"], added)}
        later = {number: model for number, model in description["model"].items() if int(number) > before}
        more = {"generations": description["generations"], "label_weight": weights, "fit": fit}
        return {**begun_with, **more, "model": {**begun_with["model"], **later}}

    def _write_manifest(self, manifest):
        self.manifest = manifest_file.write(self.path, manifest)


def _move_files(folder, to):
    """Move files to another folder that lacks their names. An empty folder is removed."""
    for path in sorted(folder.iterdir()):
        if not (to / path.name).exists():
            os.rename(path, to / path.name)
    if not any(folder.iterdir()):
        folder.rmdir()


def _longer(before, given, added):
    """Return a setting of each generation with the values that `now`, if it is a list, has for those `added`."""
    if not isinstance(given, list):
        return before
    return [*(before if isinstance(before, list) else [before] * (len(given) - added)), *given[len(given) - added :]]


def _write_logs(path, logs):
    """Write a line for each epoch, in full precision. Names with fewer values than epochs have gaps at the start."""
    epochs = max((len(values) for values in logs.values()), default=0)
    columns = [[""] * (epochs - len(values)) + [repr(value) for value in values] for values in logs.values()]
    with open(path, "w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *logs])
        writer.writerows([epoch, *row] for epoch, row in enumerate(zip(*columns, strict=True)))
