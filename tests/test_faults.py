"""Faults that a run survives: signals, full disks, data and callbacks that fail; and what is kept of it."""

import contextlib
import errno
import os
import pathlib
import pkgutil
import resource
import signal
import tempfile
import threading
import time

import keras
import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.processes import FORKS, Process
from helpers.runs import assert_same_run, begun, fit, names, record_of, run, sequence
from helpers.training import interrupted_after

from keras_ban._src.runs import interruptions
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.runs.epochs import KeepEpochs
from keras_ban._src.sequence import recipes

pytestmark = pytest.mark.one_backend

TWO = {"epochs": 2, "batch_size": 48}


@pytest.fixture(scope="module")
def blobs():
    return make_blobs()


@pytest.fixture(scope="module")
def whole(blobs):
    """One student, two epochs each of two batches, undisturbed, and without a directory."""
    return run(None, blobs, generations=1, fitting=TWO)


# Signals


def interrupt():
    raise KeyboardInterrupt


KEPT = "keeps generation 0, and the next one up to the end of epoch 1. Call `fit` as before, in this process or another"


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM"])
def test_who_stops_a_run_is_told_what_is_kept_and_goes_on(whole, blobs, tmp_path, capsys, monkeypatch, how):
    stop = interrupt if how == "Ctrl-C" else lambda: os.kill(os.getpid(), signal.SIGTERM)
    original = KeepEpochs.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        original(self, epoch, logs)
        if (1, 0) == (self.generation, epoch):
            stop()

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        patch.setattr(KeepEpochs, "on_epoch_end", on_epoch_end)
        run(tmp_path, blobs, generations=1, fitting=TWO)

    assert f"{tmp_path} {KEPT}" in stopped.value.__notes__[0]
    assert (how == "SIGTERM") == (f"Training was stopped. {tmp_path} {KEPT}" in capsys.readouterr().err)
    if how == "SIGTERM":
        assert 143 == stopped.value.code
    assert signal.SIG_DFL is signal.getsignal(signal.SIGTERM)
    assert_same_run(whole, run(tmp_path, blobs, generations=1, fitting=TWO))


def run_and_wait(directory, data):
    def wait(*_, **__):
        print("training", flush=True)
        while True:
            pass

    recipes.StopOnNonFiniteLoss.on_train_batch_end = wait
    run(directory, data, generations=1, fitting=TWO)


@pytest.mark.new_process
def test_a_process_that_is_terminated_ends_at_once_and_says_how_to_go_on(blobs, tmp_path):
    with Process(run_and_wait, tmp_path / "run", blobs) as process:
        assert "training" == process.line()
        process.terminate()
        assert 143 == process.result().returncode
    with RunDirectory(tmp_path / "run") as left:  # Neither its lock nor a file in the midst of being written.
        assert [".lock", "run.json"] == names(tmp_path / "run") and [] == left.entries


def test_signals_are_left_to_who_handles_them_already_to_workers_and_to_the_main_thread():
    def handler(*_):
        pass

    def inside():
        with interruptions.noting_what_is_kept(str):
            return signal.getsignal(signal.SIGTERM)

    assert inside() not in (signal.SIG_DFL, handler)
    signal.signal(signal.SIGTERM, handler)
    try:
        assert handler is inside()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    seen = []
    thread = threading.Thread(target=lambda: seen.append(inside()))
    thread.start()
    thread.join()
    assert [signal.SIG_DFL] == seen


def test_a_worker_that_was_forked_ends_by_sigterm_as_ever(monkeypatch):
    killed = []
    with interruptions.noting_what_is_kept(str):
        stop = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(os, "getpid", lambda: 1)
        monkeypatch.setattr(os, "kill", lambda *args: killed.append(args))
        stop(signal.SIGTERM, None)  # Raises nothing: nobody would catch it in a worker.
        monkeypatch.undo()

    assert [(1, signal.SIGTERM)] == killed
    assert signal.SIG_DFL is signal.getsignal(signal.SIGTERM)


# Disks


@contextlib.contextmanager
def no_file_may_grow():
    """As on a full disk: the operating system refuses each byte (but says that the file is too large)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("_src.runs.directory._write_logs", "generation-01"),
        ("_src.files.model_file.save", "generation-01"),
        ("_src.runs.directory.RunDirectory._write_manifest", "run.previous.json"),
        ("_src.runs.epochs._write_npz", "epoch.npz"),
        ("_src.targets.soft_targets.SoftTargets.from_teacher", "soft-targets-00.npy"),
    ],
)
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(whole, blobs, tmp_path, name, file):
    """Wherever it is met: in a commit, the manifest, the state of an epoch or the soft targets."""
    original = pkgutil.resolve_name(f"keras_ban.{name}")

    def refused(*args, **kwargs):
        if not (tmp_path / "generation-00").exists():
            return original(*args, **kwargs)
        with no_file_may_grow():
            return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError) as error:
        patch.setattr(f"keras_ban.{name}", refused)
        run(tmp_path, blobs, generations=1, fitting=TWO)

    # The manifest that is refused first is the one that names generation 0.
    first = file == "run.previous.json"
    assert (errno.EFBIG, str(tmp_path / file)) == (error.value.errno, error.value.filename)
    assert "Make room" in str(error.value)
    kept = "no finished generation" if first else "generation 0"
    assert error.value.__notes__[0].startswith(f"{tmp_path} keeps {kept}")
    assert "Fix the cause, then call `fit` as before" in error.value.__notes__[0]
    assert not [left for left in names(tmp_path) if left.endswith(".partial")]
    assert (0 if first else 1) == len(RunDirectory(tmp_path).read().entries)
    # Its folder has its name already.
    with pytest.warns(UserWarning, match="generation-00.set-aside") if first else contextlib.nullcontext():
        again = run(tmp_path, blobs, generations=1, fitting=TWO)
    assert_same_run(whole, again)


@pytest.mark.skipif(os.name != "posix", reason="is about the rights of POSIX")
def test_a_directory_that_may_not_be_written_to_is_refused_and_can_be_read(blobs, tmp_path):
    """Root may write anywhere: where the test is run by root, it does this as nobody."""
    made = sequence(generations=1)
    with tempfile.TemporaryDirectory() as folder:
        kept = pathlib.Path(folder, "kept")
        with begun(kept) as directory:
            directory.commit(record_of(0), lambda path: path.write_bytes(b"model"))
        for path in (pathlib.Path(folder), *pathlib.Path(folder).rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            for directory in (kept, pathlib.Path(folder, "new")):
                made.directory = directory
                with pytest.raises(PermissionError, match="choose another `directory`.*Nothing was trained") as error:
                    fit(made, blobs, callbacks=lambda _: pytest.fail("trained"))
                assert str(directory) == error.value.filename
            assert 1 == len(RunDirectory(kept).read().history().records)
        finally:
            os.seteuid(user)
            for path in (pathlib.Path(folder), *pathlib.Path(folder).rglob("*")):
                path.chmod(0o755)


# Data, callbacks and clocks


class Faulty(Batches):
    """Fails when a batch is asked for so many times; goes on as if nothing had been when it is asked again."""

    def __init__(self, *args, fails_at=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.asked, self.fails_at = 0, fails_at

    def __getitem__(self, index):
        self.asked += 1
        if self.asked == self.fails_at:
            raise LookupError("the file server is away")
        return super().__getitem__(index)


def test_data_that_fail_in_the_midst_of_an_epoch_lose_that_epoch_alone(blobs, tmp_path):
    def train(directory, fails_at=None, expected=None):
        # TensorFlow hands errors of data on as its own.
        data, made = Faulty(*blobs, fails_at=fails_at), sequence(directory, generations=1)
        made.soft_targets = "online"
        with contextlib.nullcontext() if fails_at is None else pytest.raises(Exception, match="file server is away"):
            made.fit(data, epochs=2, verbose=0, validation_data=blobs)
        return made, data.asked

    undisturbed, asked = train(tmp_path / "undisturbed")
    stopped, _ = train(tmp_path / "stopped", asked - 1)  # The last epoch of the last generation
    assert 1 == len(stopped.models)
    with np.load(tmp_path / "stopped" / "epoch.npz") as state:
        assert '"epochs": 1' in str(state["about"])

    again, asked_again = train(tmp_path / "stopped")

    assert_same_run(undisturbed, again)
    assert asked_again < asked


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_data_that_end_early_are_warned_of_and_the_run_goes_on(blobs, tmp_path):
    torch = pytest.importorskip("torch")
    lengths = []

    class Short(torch.utils.data.IterableDataset):
        """Ends early each second time that it is read."""

        def __iter__(self):
            lengths.append(50 if len(lengths) % 2 else 96)
            return iter(zip(blobs[0][: lengths[-1]], blobs[1][: lengths[-1]], strict=True))

    data = torch.utils.data.DataLoader(Short(), batch_size=32)
    made = sequence(tmp_path, generations=1, soft_targets="online")
    with pytest.warns(UserWarning, match="ran out of data"):
        made.fit(data, epochs=2, verbose=0, validation_data=blobs, shuffle=False)
    assert 50 in lengths
    assert [2, 2] == [record.epochs for record in RunDirectory(tmp_path).read().history().records]


class Mortal:
    """A map-style dataset of torch. The worker that asks for example 70 dies, if `dies`."""

    def __init__(self, x, y, dies):
        self.x, self.y, self.dies = x, y, dies

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        import torch

        if self.dies and index == 70 and torch.utils.data.get_worker_info() is not None:
            os._exit(1)
        return self.x[index], self.y[index]


@pytest.mark.new_process
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# torch, when it takes leave of a worker that is dead already
@pytest.mark.filterwarnings("ignore:.*_MultiProcessingDataLoaderIter.__del__:pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_dies_ends_the_run_with_an_error_and_no_more(blobs, tmp_path):
    torch = pytest.importorskip("torch")

    def train(directory, dies=False):
        # One batch at a time: when the worker dies, no other batch is on its way.
        workers = {"num_workers": 1, "prefetch_factor": 1, "multiprocessing_context": FORKS} if dies else {}
        data = torch.utils.data.DataLoader(Mortal(*blobs, dies), batch_size=32, **workers)
        made = sequence(directory, generations=1, soft_targets="online")
        made.fit(data, epochs=1, verbose=0, validation_data=blobs, shuffle=False)
        return made

    with pytest.raises(Exception, match="(?s)DataLoader worker.*exited unexpectedly"):
        train(tmp_path, dies=True)
    assert [".lock", "run.json"] == names(tmp_path)
    assert_same_run(train(None), train(tmp_path))


def test_a_clock_that_jumps_changes_nothing(whole, blobs, tmp_path, monkeypatch):
    original, jumps = time.time, [0.0]

    def jumping():
        jumps.append(-jumps[-1] + 86400 * (-1) ** len(jumps))
        return original() + jumps[-1]

    monkeypatch.setattr(time, "time", jumping)
    with interrupted_after(1):
        run(tmp_path, blobs, generations=1, fitting=TWO)

    again = run(tmp_path, blobs, generations=1, fitting=TWO)

    assert_same_run(whole, again)
    assert len(jumps) > 2 and all(0 < record.seconds < 3600 for record in again.history.records)


class SaysSo(keras.callbacks.Callback):
    stateless = True


def test_callbacks_that_count_nothing_lose_no_epoch(blobs, tmp_path):
    def halve(epoch, rate):
        trained.append(epoch)
        return rate / 2

    trained = []
    callbacks = [keras.callbacks.LearningRateScheduler(halve), SaysSo()]
    arguments = {"callbacks": callbacks, "generations": 1, "fitting": TWO}
    expected = run(None, blobs, **arguments)
    trained.clear()
    with interrupted_after(1):
        run(tmp_path, blobs, **arguments)

    again = run(tmp_path, blobs, **arguments)

    assert [0, 1, 0, 1] == trained
    assert_same_run(expected, again)
    assert [0.01, 0.005] == pytest.approx(again.history.records[1].logs["learning_rate"])  # float32
