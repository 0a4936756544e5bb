"""A run's directory: its commits and locks, and what it keeps when a process is killed or a file is damaged."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import time

import keras
import pytest
from helpers.data import make_blobs
from helpers.processes import Process
from helpers.processes import run as run_process
from helpers.runs import (
    assert_same_run,
    begun,
    content,
    interrupt_in,
    names,
    record_of,
    run,
    write_model,
)

from keras_ban import BornAgainHistory, BornAgainSequence, GenerationRecord
from keras_ban._src.files import writing
from keras_ban._src.history.scores import Scores
from keras_ban._src.runs import directory as run_directory
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.sequence import recipes

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def blobs():
    return make_blobs()


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    """The directory of a finished run of one student."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    run(directory, blobs, generations=1)
    return directory


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to do damage to."""
    return shutil.copytree(finished, tmp_path / "copied")


# Commits


def test_records_and_scores_come_back_as_they_were(tmp_path):
    scores = Scores(3, 0.1 + 0.2, 1e-30, 0.5, 0, 1.0, 2, 1)
    records = [GenerationRecord(0, None, 1, 0.5, {"val_loss": 1 / 3}, {"loss": [1 / 3]}, scores), GenerationRecord(1)]
    with begun(tmp_path) as directory:
        for record in records:
            directory.commit(record, write_model)
        directory.finish(BornAgainHistory(ensemble=scores))

    assert BornAgainHistory(records, ensemble=scores) == RunDirectory(tmp_path).read().history()


def test_logs_that_begin_late_leave_gaps_in_front(tmp_path):
    with begun(tmp_path) as directory:
        directory.commit(record_of(0), write_model)

    assert ["epoch,loss,val_loss", "0,0.5,", "1,0.30000000000000004,nan"] == (
        (tmp_path / "generation-00" / "history.csv").read_text().split()
    )


class Killed(BaseException):
    """Stands in for a kill: nothing on the way up may clean up after it."""


STEPS = ["mkdir", "write", "flush", "flush", "flush", "flush", "rename", "flush"]
REPLACE = ["flush", "replace", "flush"]
STEPS += [*REPLACE, *REPLACE]  # The previous manifest, and the new one.
NAMED = len(STEPS) - 2  # The step from which the manifest names the generation.


@pytest.mark.parametrize("instant", range(len(STEPS)))
@pytest.mark.parametrize("after", [False, True])
def test_a_generation_exists_from_the_moment_that_the_manifest_names_it(tmp_path, monkeypatch, instant, after):
    steps = []

    def watched(name, original):
        def step(*args, **kwargs):
            steps.append(name)
            if len(steps) - 1 == instant and not after:
                raise Killed
            result = original(*args, **kwargs)
            if len(steps) - 1 == instant:
                raise Killed
            return result

        return step

    with pytest.raises(Killed), begun(tmp_path) as directory, monkeypatch.context() as patch:
        directory.commit(record_of(0), write_model)
        patch.setattr(pathlib.Path, "mkdir", watched("mkdir", pathlib.Path.mkdir))
        for module in (run_directory, writing):
            patch.setattr(module, "flush", watched("flush", module.flush))
        patch.setattr(run_directory.os, "rename", watched("rename", os.rename))
        patch.setattr(run_directory.os, "replace", watched("replace", os.replace))
        directory.commit(record_of(1), watched("write", write_model))
    assert STEPS[: instant + 1] == steps

    exists = instant > NAMED or (instant == NAMED and after)
    renamed = (instant, after) >= (STEPS.index("rename"), True) and not exists
    aside = ["generation-01.set-aside"] if renamed else []
    warned = pytest.warns(UserWarning, match=re.escape(f"renamed to {aside}")) if aside else contextlib.nullcontext()
    with contextlib.ExitStack() as stack:
        with warned:
            again = stack.enter_context(RunDirectory(tmp_path))
        assert (2 if exists else 1) == len(again.entries)
        generations = [f"generation-{i:02d}" for i in range(len(again.entries))]
        assert [".lock", *generations, *aside, "run.json", "run.previous.json"] == names(tmp_path)
        for generation in range(len(again.entries)):
            assert b"model" == again.model_file(generation).read_bytes()
        again.commit(record_of(len(again.entries)), write_model)
    assert [0, 1, 2][: len(again.entries)] == [r.generation for r in RunDirectory(tmp_path).read().history().records]


def test_nothing_but_leftovers_is_removed(tmp_path):
    with begun(tmp_path) as directory:
        directory.commit(record_of(0), write_model)
    left = [".epoch.npz", ".generation-01", ".run.json", ".run.previous.json", ".soft-targets-00.npy.0a1b2c3d"]
    kept = [
        "best.keras",
        "generation-00-copy",
        "generations.png",
        "generation",
        ".notes.partial",
        "soft-targets-00.npy",
    ]
    for name in [*(f"{name}.partial" for name in left), *kept]:
        (tmp_path / name).mkdir()
    (tmp_path / ".generation-02.partial").symlink_to(tmp_path / "generation-00")

    with RunDirectory(tmp_path):
        pass

    assert sorted([".lock", "generation-00", "run.json", "run.previous.json", *kept]) == names(tmp_path)
    assert b"model" == (tmp_path / "generation-00" / "model.keras").read_bytes()


def test_an_older_manifest_loses_no_finished_generation(tmp_path):
    with begun(tmp_path) as directory:
        directory.commit(record_of(0), write_model)
        older = (tmp_path / "run.json").read_bytes()
        directory.commit(record_of(1), write_model)
        directory.commit(record_of(2), write_model)
    (tmp_path / "generation-02.set-aside").write_text("mine")
    newest = content(tmp_path)
    (tmp_path / "run.json").write_bytes(older)
    aside = ["generation-01.set-aside", "generation-02.set-aside-2"]

    with pytest.warns(UserWarning, match=re.escape(f"does not name. They were renamed to {aside}")):
        opened = RunDirectory(tmp_path).__enter__()
    opened.commit(record_of(1), lambda path: path.write_bytes(b"another"))
    opened.__exit__()

    now = content(tmp_path)
    for name, folder in {"generation-01": aside[0], "generation-02": aside[1]}.items():
        for file in ("model.keras", "record.json", "history.csv"):
            assert newest[f"{name}/{file}"] == now[f"{folder}/{file}"]
    assert b"another" == now["generation-01/model.keras"]
    # As the message says, the newer manifest with the old names is the run as it was.
    shutil.rmtree(tmp_path / "generation-01")
    for name, folder in {"generation-01": aside[0], "generation-02": aside[1]}.items():
        (tmp_path / folder).rename(tmp_path / name)
    (tmp_path / "run.json").write_bytes(newest["run.json"])
    with RunDirectory(tmp_path) as again:
        assert [b"model"] * 3 == [again.model_file(generation).read_bytes() for generation in range(3)]


def test_what_a_callback_writes_into_the_folder_of_its_generation_stays(tmp_path):
    with begun(tmp_path) as directory:
        (tmp_path / "generation-00" / "logs").mkdir(parents=True)
        (tmp_path / "generation-00" / "logs" / "events").write_text("mine")
        (tmp_path / "generation-00" / "model.keras").write_text("mine, too")
        directory.commit(record_of(0), write_model)
        (tmp_path / "generation-01").write_text("a file")
        directory.commit(record_of(1), write_model)

        found = content(tmp_path)
    assert b"model" == found["generation-00/model.keras"] == found["generation-01/model.keras"]
    assert b"mine" == found["generation-00/logs/events"]
    assert b"mine, too" == found["generation-00.set-aside/model.keras"]
    assert b"a file" == found["generation-01.set-aside"]


# Locks


def hold(directory):
    RunDirectory(directory).__enter__()
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    print(worker, flush=True)
    time.sleep(60)


@pytest.mark.new_process
def test_a_second_process_is_refused_and_a_dead_one_keeps_nothing(tmp_path):
    with Process(hold, tmp_path) as process:
        worker = int(process.line())
        try:
            with pytest.raises(RuntimeError, match=rf"in use by process {process.pid} on host {os.uname().nodename}"):
                RunDirectory(tmp_path).__enter__()
            process.kill()
            process.result()
            # Its worker lives on, and does not keep the lock.
            os.kill(worker, 0)
            in_use = pytest.raises(RuntimeError, match=f"in use by process {os.getpid()}")
            with RunDirectory(tmp_path), in_use:
                RunDirectory(tmp_path).__enter__()
        finally:
            process.kill()
            os.kill(worker, signal.SIGKILL)
    with RunDirectory(tmp_path):
        pass


def test_two_fits_at_once_are_refused(finished, blobs):
    with RunDirectory(finished), pytest.raises(RuntimeError, match="is in use by process"):
        run(finished, blobs, generations=1)


# Processes that are killed


def at_each_moment(do, patch):
    """Call `do(moment)` at the end of each step of training, and before a file is replaced."""

    def replace(*arguments):
        do("replace")
        original(*arguments)

    original = os.replace
    patch.setattr(run_directory.os, "replace", replace)
    patch.setattr(recipes.StopOnNonFiniteLoss, "on_train_batch_end", lambda *_, **__: do("step"))


def run_and_be_killed(directory, data, fitting, moment, number):
    """Run a sequence. Kill the process at the moment of that name and number."""
    moments = []

    def kill(now):
        moments.append(now)
        if now == moment and number == moments.count(now):
            os.kill(os.getpid(), signal.SIGKILL)

    at_each_moment(kill, pytest.MonkeyPatch())
    run(directory, data, generations=1, eager=False, fitting=fitting)


# Two epochs of two steps. What is replaced: the manifest; the states of two epochs; the previous and the new manifest,
# for generation 0; the soft targets; the states of two epochs; both manifests, for generation 1, and at the end.
FITTING = {"epochs": 2, "batch_size": 48}


@pytest.mark.new_process
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("moment", "number", "kept", "left"),
    [
        ("replace", 10, 1, []),
        pytest.param("step", 3, 0, [(0, 1), (1, 0), (1, 1)], marks=pytest.mark.slow),
        pytest.param("replace", 6, 1, [(1, 0), (1, 1)], marks=pytest.mark.slow),
        pytest.param("replace", 8, 1, [(1, 1)], marks=pytest.mark.slow),
    ],
)
def test_a_process_that_is_killed_loses_an_epoch_at_most(blobs, tmp_path, epochs_trained, moment, number, kept, left):
    killed = run_process(run_and_be_killed, tmp_path / "run", blobs, FITTING, moment, number)
    assert -signal.SIGKILL == killed.returncode
    assert kept == len(RunDirectory(tmp_path / "run").read().entries)

    unnamed = moment == "replace" and number == 10
    with pytest.warns(UserWarning, match="generation-01.set-aside") if unnamed else contextlib.nullcontext():
        again = run(tmp_path / "run", blobs, generations=1, eager=False, fitting=FITTING)

    assert left == epochs_trained
    assert_same_run(run(None, blobs, generations=1, eager=False, fitting=FITTING), again)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(("generations", "epochs", "steps"), [(1, 2, 2), pytest.param(2, 3, 3, marks=pytest.mark.slow)])
def test_a_run_that_stops_at_any_moment_loses_an_epoch_at_most(
    blobs, tmp_path, epochs_trained, generations, epochs, steps
):
    """A kill leaves the files as they are: a copy of them, at each moment, is what a killed process would leave."""
    moments, copies = [], []

    def copy(moment):
        moments.append(moment)
        files = content(tmp_path / "run")
        if not copies or copies[-1][-1] != files:
            folder = shutil.copytree(tmp_path / "run", tmp_path / str(len(copies)))
            copies.append((folder, moment, moments.count("step"), files))

    arguments = {"generations": generations, "fitting": {"epochs": epochs, "batch_size": 96 // steps}}
    with pytest.MonkeyPatch.context() as patch:
        at_each_moment(copy, patch)
        whole = run(tmp_path / "run", blobs, **arguments)
    everything = [(generation, epoch) for generation in range(generations + 1) for epoch in range(epochs)]
    assert len(everything) * steps == moments.count("step")
    # The manifest, begun; each epoch; both manifests for each generation and at the end; soft targets for each student.
    replaced = 1 + len(everything) + 2 * (generations + 2) + generations
    assert replaced == moments.count("replace")
    assert replaced + len(everything) == len(copies)  # The steps of one epoch change no file.

    for folder, moment, ended, _ in copies:
        epochs_trained.clear()
        begun = (folder / "run.json").exists()
        unnamed = begun and len(list(folder.glob("generation-*"))) > len(RunDirectory(folder).read().entries)

        with pytest.warns(UserWarning, match="set-aside") if unnamed else contextlib.nullcontext():
            again = run(folder, blobs, **arguments)

        kept = ended // steps
        # Before the state of an epoch has its name, that epoch is not kept.
        may_be_left = [everything[kept:]] if moment == "step" else [everything[kept:], everything[max(kept - 1, 0) :]]
        assert epochs_trained in may_be_left, folder
        assert_same_run(whole, again)


# Damage


@pytest.mark.parametrize("name", ["model.keras", "record.json"])
def test_a_damaged_file_is_never_used(finished, copied, blobs, name):
    path = copied / "generation-01" / name
    data = path.read_bytes()
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    damages = {"has .* bytes": data[:-100], "was altered": bytes(flipped), "is not there": None}
    for what, damaged in damages.items():
        path.unlink() if damaged is None else path.write_bytes(damaged)
        before = content(copied)

        for use in (BornAgainSequence.load, lambda path: run(path, blobs, generations=1)):
            with pytest.raises(ValueError, match=rf"(?s){path} {what}.*Generation 0 is whole.*teacher="):
                use(copied)

        assert before == content(copied)


@pytest.mark.one_backend
def test_the_manifest_has_a_line_for_each_entry_and_any_layout_is_read(copied):
    text = (copied / "run.json").read_text()
    manifest = json.loads(text)

    parts = [value for value in manifest.values() if isinstance(value, dict)]
    assert 2 + len(manifest) + sum(len(part) + 1 for part in parts) == len(text.splitlines())
    for layout in ({"indent": 2}, {"sort_keys": True}, {"separators": (",", ":")}):
        (copied / "run.json").write_text(json.dumps(manifest, **layout))
        assert manifest == RunDirectory(copied).read().manifest


def test_a_manifest_that_cannot_be_understood_is_refused(copied, blobs):
    for text, message in {
        '{"format": 3, "versions": {"keras_ban": "9.9"}}': "is of format 3, written by keras_ban 9.9",
        '{"format": 1, "ver': "is damaged",
        "[]": "is damaged",
        "[" * 100_000: "is damaged",
    }.items():
        (copied / "run.json").write_text(text)
        before = content(copied)

        for use in (BornAgainSequence.load, lambda path: run(path, blobs)):
            with pytest.raises(ValueError, match=f"{message}.*begin another run in a new directory"):
                use(copied)

        assert before == content(copied)


# Other folders


def test_a_folder_that_holds_something_else_is_left_alone(blobs, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files but no run .*\['notes.txt'\].*empty or not there yet"):
        run(tmp_path, blobs)
    assert ["notes.txt"] == names(tmp_path)
    with pytest.raises(ValueError, match="must be a folder"):
        run(tmp_path / "notes.txt", blobs)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        BornAgainSequence.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"notes.txt is a file. Pass the directory of a run"):
        BornAgainSequence.load(tmp_path / "notes.txt")


def test_of_many_files_that_are_no_run_five_are_named_and_the_others_mentioned(tmp_path):
    for number in range(6):
        (tmp_path / f"note{number}").write_text("mine")
        named = [f"note{each}" for each in range(min(number + 1, 5))]
        others = " and others" if number == 5 else ""
        with pytest.raises(ValueError, match=re.escape(f"{named}{others}. A run is kept in a folder of its own")):
            RunDirectory(tmp_path).__enter__()


def test_a_run_of_which_nothing_is_finished_cannot_be_loaded(blobs, tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, interrupt_in(0))
    with pytest.raises(ValueError, match="no generation is finished yet"):
        BornAgainSequence.load(tmp_path)


def test_a_run_stays_where_it_is_when_the_working_directory_changes(blobs, tmp_path, monkeypatch):
    class Moves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            os.chdir("/")

    monkeypatch.chdir(tmp_path)
    run("run", blobs, [Moves()], generations=1)

    assert ["generation-00", "generation-01"] == sorted(path.name for path in (tmp_path / "run").glob("generation-*"))
