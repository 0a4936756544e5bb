"""Faults that a run survives: signals, full disks, data and callbacks that fail; and what is kept of it."""

import contextlib
import errno
import os
import pathlib
import resource
import signal
import tempfile
import threading
import time

import keras
import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.models import assert_same, classifier, crossentropy
from helpers.processes import Process
from helpers.runs import assert_same_run, begun, fit, names, record_of, run, sequence

from keras_ban import BornAgainSequence, FeatureMatching, _backend, _fresh, _interruptions
from keras_ban._epochs import KeepEpochs
from keras_ban._shuffling import OrderOfEpoch, in_order_of_epoch
from keras_ban.runs import RunDirectory

TWO = {"epochs": 2, "batch_size": 48}


@pytest.fixture(scope="module")
def blobs():
    return make_blobs()


@pytest.fixture(scope="module")
def whole(blobs):
    """One student, two epochs each of two batches, undisturbed, and without a directory."""
    return run(None, blobs, generations=1, fitting=TWO)


@contextlib.contextmanager
def at_epoch_end(do, generation=1, epoch=0):
    """Calls `do` after the state of that epoch is on disk; no callback of the user's, with which none would be kept."""
    original = KeepEpochs.on_epoch_end

    def and_do(self, now, logs=None):
        original(self, now, logs)
        if (self.generation, now) == (generation, epoch):
            do()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeepEpochs, "on_epoch_end", and_do)
        yield


# Signals


def interrupt():
    raise KeyboardInterrupt


KEPT = "keeps generation 0, and the next one up to the end of epoch 1. Call `fit` as before, in this process or another"


@pytest.mark.parametrize("how", [pytest.param("Ctrl-C", marks=pytest.mark.one_backend), "SIGTERM"])
def test_who_stops_a_run_is_told_what_is_kept_and_goes_on(whole, blobs, tmp_path, capsys, how):
    stop = interrupt if how == "Ctrl-C" else lambda: os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped, at_epoch_end(stop):
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

    _fresh.StopOnNonFiniteLoss.on_train_batch_end = wait
    run(directory, data, generations=1, fitting=TWO)


@pytest.mark.one_backend
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
        with _interruptions.told(str):
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
    with _interruptions.told(str):
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


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("module", "name", "file"),
    [
        ("keras_ban.runs", "_write_logs", "generation-01"),
        ("keras_ban._model_files", "save", "generation-01"),
        ("keras_ban.runs", "RunDirectory._write_manifest", "run.json"),
        ("keras_ban._epochs", "_write_npz", "epoch.npz"),
        ("keras_ban.targets", "SoftTargets.from_teacher", "soft-targets-00.npy"),
    ],
)
def test_a_full_disk_is_named_and_the_run_goes_on_when_there_is_room(whole, blobs, tmp_path, module, name, file):
    """Wherever it is met: in a commit, the manifest, the state of an epoch or the soft targets."""
    import importlib

    owner = importlib.import_module(module)
    *classes, name = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    original = getattr(owner, name)

    def refused(*args, **kwargs):
        if not (tmp_path / "generation-00").exists():
            return original(*args, **kwargs)
        with no_file_may_grow():
            return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError) as error:
        patch.setattr(owner, name, refused)
        run(tmp_path, blobs, generations=1, fitting=TWO)

    # The manifest that is refused first is the one that names generation 0.
    first = file == "run.json"
    assert (errno.EFBIG, str(tmp_path / file)) == (error.value.errno, error.value.filename)
    assert "Make room" in str(error.value)
    kept = "no finished generation" if first else "generation 0"
    assert error.value.__notes__[0].startswith(f"{tmp_path} keeps {kept}")
    assert "Mend what it says, then call `fit` as before" in error.value.__notes__[0]
    assert not [left for left in names(tmp_path) if left.endswith(".partial")]
    assert (0 if first else 1) == len(RunDirectory(tmp_path).read().entries)
    assert_same_run(whole, run(tmp_path, blobs, generations=1, fitting=TWO))


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


@pytest.mark.one_backend
def test_data_that_fail_in_the_midst_of_an_epoch_lose_that_epoch_alone(blobs, tmp_path):
    def train(directory, fails_at=None, expected=None):
        # TensorFlow hands errors of data on as its own.
        data, made = Faulty(*blobs, fails_at=fails_at), sequence(directory, generations=1)
        made.soft_targets = "online"
        with contextlib.nullcontext() if fails_at is None else pytest.raises(Exception, match="file server is away"):
            made.fit(data, epochs=2, verbose=0, validation_data=blobs)
        return made, data.asked

    undisturbed, asked = train(None)
    stopped, _ = train(tmp_path, asked - 1)  # The last epoch of the last generation
    assert 1 == len(stopped.models)
    with np.load(tmp_path / "epoch.npz") as state:
        assert '"epochs": 1' in str(state["about"])

    again, asked_again = train(tmp_path)

    assert_same_run(undisturbed, again)
    assert asked_again < asked


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX, of each process that is forked
# torch, when it takes leave of a worker that is dead already
@pytest.mark.filterwarnings("ignore:.*_MultiProcessingDataLoaderIter.__del__:pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_dies_ends_the_run_with_an_error_and_no_more(blobs, tmp_path):
    torch = pytest.importorskip("torch")
    dies = [True]

    class Mortal(torch.utils.data.Dataset):
        def __len__(self):
            return 96

        def __getitem__(self, index):
            if dies[0] and index == 70 and torch.utils.data.get_worker_info() is not None:
                os._exit(1)
            return blobs[0][index], blobs[1][index]

    def train(directory):
        data = torch.utils.data.DataLoader(Mortal(), batch_size=32, num_workers=1)
        made = sequence(directory, generations=1, soft_targets="online")
        made.fit(data, epochs=1, verbose=0, validation_data=blobs, shuffle=False)
        return made

    with pytest.raises(Exception, match="(?s)DataLoader worker.*exited unexpectedly"):
        train(tmp_path)
    assert [".lock", "run.json"] == names(tmp_path)
    dies[0] = False
    assert_same_run(train(None), train(tmp_path))


@pytest.mark.one_backend
def test_a_clock_that_jumps_changes_nothing(whole, blobs, tmp_path, monkeypatch):
    original, jumps = time.time, [0.0]

    def jumping():
        jumps.append(-jumps[-1] + 86400 * (-1) ** len(jumps))
        return original() + jumps[-1]

    monkeypatch.setattr(time, "time", jumping)
    with pytest.raises(KeyboardInterrupt), at_epoch_end(interrupt):
        run(tmp_path, blobs, generations=1, fitting=TWO)

    again = run(tmp_path, blobs, generations=1, fitting=TWO)

    assert_same_run(whole, again)
    assert len(jumps) > 2 and all(0 < record.seconds < 3600 for record in again.history.records)


class SaysSo(keras.callbacks.Callback):
    stateless = True


@pytest.mark.one_backend
def test_callbacks_that_count_nothing_lose_no_epoch(blobs, tmp_path):
    def halve(epoch, rate):
        trained.append(epoch)
        return rate / 2

    trained = []
    callbacks = [keras.callbacks.LearningRateScheduler(halve), SaysSo()]
    arguments = {"callbacks": callbacks, "generations": 1, "fitting": TWO}
    expected = run(None, blobs, **arguments)
    trained.clear()
    with pytest.raises(KeyboardInterrupt), at_epoch_end(interrupt):
        run(tmp_path, blobs, **arguments)

    again = run(tmp_path, blobs, **arguments)

    assert [0, 1, 0, 1] == trained
    assert_same_run(expected, again)
    assert [0.01, 0.005] == pytest.approx(again.history.records[1].logs["learning_rate"])  # float32


# More generations


@pytest.mark.one_backend
def test_generations_can_be_added_to_a_run(blobs, tmp_path):
    def widths(generation):
        return classifier(dropout=0.2, units=8 + generation)

    def train(directory, weights, callbacks=None):
        return run(directory, blobs, callbacks, model=widths, label_weight=weights, generations=len(weights))

    train(tmp_path, [0.3])
    seen = []

    again = train(tmp_path, [0.3, 0.4], lambda generation: seen.append(generation) or [])

    assert [2] == seen
    assert_same_run(train(None, [0.3, 0.4]), again)
    assert 3 == len(BornAgainSequence.load(tmp_path).models)
    with pytest.raises(ValueError, match="- generations: 2 in the directory, 1 now"):
        train(tmp_path, [0.3])
    with pytest.raises(ValueError, match=r"- label_weight\[1\]: 0.4 in the directory, 0.7 now"):
        train(tmp_path, [0.3, 0.7, 0.5])


@pytest.mark.one_backend
def test_no_generations_are_added_where_the_ensemble_of_all_has_taught(blobs, tmp_path):
    run(tmp_path, blobs, generations=1, distill_ensemble=True)
    with pytest.raises(ValueError, match="`distill_ensemble`.*cannot go on to 2"):
        run(tmp_path, blobs, generations=2, distill_ensemble=True)


# The order of the examples


class Seen(keras.layers.Layer):
    """Passes examples on, and notes the first number of each; only where steps are not compiled."""

    def call(self, x, training=None):
        if training and not isinstance(x, keras.KerasTensor) and len(x) == 8:
            seen.append(keras.ops.convert_to_numpy(x)[:, 0].astype(int).tolist())
        return x


seen = []


def orders(directory=None, **arguments):
    """The orders in which 24 examples are seen, by generation and epoch."""
    x, y = np.arange(24, dtype="float32")[:, None], np.zeros(24, "int64")
    model = keras.Sequential([keras.Input((1,)), Seen(), keras.layers.Dense(3)])
    made = BornAgainSequence(model, generations=1, seed=0, directory=directory)
    made.compile("sgd", crossentropy(), run_eagerly=True)
    seen.clear()
    try:
        made.fit(x, y, batch_size=8, epochs=2, verbose=0, **arguments)
    finally:
        by_epoch = [[each for batch in seen[i : i + 3] for each in batch] for i in range(0, len(seen), 3)]
    return by_epoch


@pytest.mark.filterwarnings("ignore::UserWarning")  # `Seen` is not registered with Keras.
def test_each_epoch_and_generation_has_its_own_order_from_the_seed_and_after_a_resume_too(tmp_path):
    expected = orders()

    assert [list(range(24))] * 4 == [sorted(order) for order in expected]
    assert 4 == len({tuple(order) for order in expected})
    assert expected == orders()
    with pytest.raises(KeyboardInterrupt), at_epoch_end(interrupt, generation=0):
        orders(tmp_path)
    assert expected[1:] == orders(tmp_path)
    assert [list(range(24))] * 4 == orders(shuffle=False)
    if not _backend.shuffles_each_epoch_anew():
        within = orders(shuffle="batch")
        assert [[0] * 8 + [1] * 8 + [2] * 8] * 4 == [[each // 8 for each in order] for order in within]
        assert 4 == len({tuple(order) for order in within})


@pytest.mark.parametrize("case", ["plain", "weights", "class weights", "two outputs"])
def test_data_in_the_order_of_the_epoch_train_as_keras_trains_them(blobs, case):
    """Where nothing is shuffled apart: one batch of all, which TensorFlow alone is given in another way."""
    x, y = blobs
    x = x.astype("float64")
    inputs = keras.Input((8,))
    one, other = keras.layers.Dense(3, "linear"), keras.layers.Dense(3, "linear")
    nested = case == "two outputs"
    model = keras.Model(inputs, [one(inputs), other(inputs)] if nested else one(inputs))
    loss = [crossentropy(), crossentropy()] if nested else crossentropy()
    data = (x, [y, y[::-1].copy()]) if nested else (x, y)
    options = {"batch_size": 96, "callbacks": [], "epochs": 2, "verbose": 0}
    if case in ("weights", "two outputs"):
        options["sample_weight"] = np.linspace(0, 1, 96)
    if case == "class weights":
        options["class_weight"] = {0: 3.0, 2: 0.5}
    start, after = [weight.copy() for weight in model.get_weights()], []
    for way in ("keras", "ours"):
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
        arguments = (*data, options) if way == "keras" else in_order_of_epoch(model, *data, options, seed=1)
        model.fit(*arguments[:2], **arguments[2])
        after.append(model.get_weights())

    for expected, actual in zip(*after, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)  # float32 sums in another order


def test_orders_follow_from_the_seed_and_the_epoch_alone():
    order, other = OrderOfEpoch(5, 10), OrderOfEpoch(6, 10)
    order.on_epoch_begin(3)

    assert_same([np.random.default_rng([5, 3]).permutation(10)] * 2, [order(), order()])
    other.on_epoch_begin(3)
    assert order().tolist() != other().tolist()


# What cannot be read back


class Unregistered(keras.losses.Loss):
    """A distillation loss that Keras does not know."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true["soft_targets"] - y_pred), axis=-1)


def test_a_loss_that_keras_does_not_know_is_named_and_can_be_passed(blobs, tmp_path):
    made = run(tmp_path, blobs, distillation_loss=Unregistered(), generations=1)

    message = "(?s)`distillation_loss` is not known to Keras: .*Unregistered.*custom_objects.*load_model"
    with pytest.raises(ValueError, match=message):
        BornAgainSequence.load(tmp_path)
    assert_same_run(made, BornAgainSequence.load(tmp_path, {"Unregistered": Unregistered}))
    keras.saving.load_model(tmp_path / "generation-00" / "model.keras")


@pytest.mark.one_backend
def test_a_feature_matching_that_could_not_be_written_down_is_named(blobs, tmp_path):
    def matching():
        return FeatureMatching({"first": "first"}, loss=lambda y, p: keras.ops.mean((y - p) ** 2, axis=-1))

    layers = [keras.layers.Dense(4, name="first"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((8,)), *layers])
    made = run(tmp_path, blobs, model=model, feature_matching=matching(), generations=1)

    with pytest.raises(
        ValueError, match=r"`feature_matching` \(FeatureMatching\) could not be written down.*load_model"
    ):
        BornAgainSequence.load(tmp_path)
    # As the message says: the sequence made anew loads what is finished.
    again = run(
        tmp_path, blobs, lambda _: pytest.fail("trained"), model=model, feature_matching=matching(), generations=1
    )
    assert_same_run(made, again)


def test_a_sequence_that_was_loaded_without_what_it_needs_says_so_when_it_is_to_train(blobs, tmp_path):
    noise = keras.layers.GaussianNoise(0.1)
    run(tmp_path / "both", blobs, model=lambda _: classifier(), augmentation=noise, generations=1)
    loaded = BornAgainSequence.load(tmp_path / "both")
    with pytest.raises(ValueError, match="begun with a callable `model` and an `augmentation`, which no file holds"):
        fit(loaded, blobs)
