"""Runs on disk: what a directory holds, how a run is continued and loaded, and what is refused."""

import contextlib
import csv
import hashlib
import importlib
import json
import random
import shutil
import types
import warnings

import keras
import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.runs import (
    COMPILED,
    assert_same_run,
    content,
    fit,
    interrupt_in,
    names,
    run,
    weights,
)
from helpers.training import interrupted_after

import keras_ban
from keras_ban import BornAgainSequence, FeatureMatching, SoftTargets
from keras_ban._src import backend
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.runs.epochs import KeepEpochs

COMPILED_RUN = {"generations": 1, "eager": False, "fitting": COMPILED}


@pytest.fixture(scope="module")
def blobs():
    return make_blobs()


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    """A run that was never interrupted, with compiled steps and several shuffled batches."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    made = run(directory, blobs, **COMPILED_RUN)
    return types.SimpleNamespace(directory=directory, sequence=made)


# What a directory holds


@pytest.mark.one_backend
def test_a_run_is_a_folder_that_a_person_can_read(finished):
    folders = ["generation-00", "generation-01"]
    assert [".lock", *folders, "run.json", "run.previous.json"] == names(finished.directory)
    manifest = json.loads((finished.directory / "run.json").read_text())
    assert (2, True, 3) == tuple(manifest[key] for key in ("format", "finished", "seed"))
    assert {"keras_ban": keras_ban.__version__, "keras": keras.__version__} == {
        key: manifest["versions"][key] for key in ("keras_ban", "keras")
    }
    assert keras.config.backend() == manifest["begun_with"]["backend"]
    for entry, record in zip(manifest["generations"], finished.sequence.history.records, strict=True):
        folder = finished.directory / f"generation-{record.generation:02d}"
        assert ["history.csv", "model.keras", "record.json"] == names(folder) == sorted(entry["files"])
        for name, noted in entry["files"].items():
            data = (folder / name).read_bytes()
            assert {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} == noted
        with open(folder / "history.csv") as file:
            rows = list(csv.DictReader(file))
        assert ["0", "1", "2"] == [row.pop("epoch") for row in rows]
        assert record.logs == {name: [float(row[name]) for row in rows] for name in rows[0]}
        assert record.seed == json.loads((folder / "record.json").read_text())["seed"]


def test_a_generations_file_is_a_plain_keras_model_without_an_optimizer(finished, blobs):
    for generation, model in enumerate(finished.sequence.models):
        path = finished.directory / f"generation-{generation:02d}" / "model.keras"
        again = keras.saving.load_model(path)
        assert_same(*([keras.ops.convert_to_numpy(each(blobs[0]))] for each in (model, again)))
        assert b"optimizer" not in path.read_bytes()
        # The sequence's own model is left as it was.
        assert model.compiled and isinstance(model.optimizer, keras.optimizers.Adam)
        assert "Adam" == model.get_compile_config()["optimizer"]["class_name"]


# How a run is continued


@pytest.mark.one_backend
def test_a_compiled_run_that_was_interrupted_ends_as_if_it_had_not_been(finished, blobs, tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, interrupt_in(1), **COMPILED_RUN)
    assert 1 == len(json.loads((tmp_path / "run.json").read_text())["generations"])
    keras.utils.set_random_seed(99)
    asked = []

    again = run(tmp_path, blobs, lambda now: asked.append(now) or [], **COMPILED_RUN)

    assert [1] == asked
    assert_same_run(finished.sequence, again)
    assert finished.sequence.history.best_generation == again.history.best_generation


@pytest.mark.parametrize(("generation", "epoch"), [pytest.param(0, 0, marks=pytest.mark.one_backend), (1, 0)])
def test_an_interrupted_generation_goes_on_after_its_last_epoch(
    finished, blobs, tmp_path, capsys, epochs_trained, generation, epoch
):
    with interrupted_after(generation, epoch):
        run(tmp_path, blobs, **COMPILED_RUN)
    keras.utils.set_random_seed(99)

    again = run(tmp_path, blobs, **{**COMPILED_RUN, "fitting": {**COMPILED, "verbose": 2}})

    assert [(g, e) for g in range(2) for e in range(3)] == epochs_trained
    assert f"Resuming at epoch {epoch + 2}/3" in capsys.readouterr().out
    assert_same_run(finished.sequence, again)
    assert names(finished.directory) == names(tmp_path)
    seconds = json.loads((tmp_path / f"generation-{generation:02d}" / "record.json").read_text())["seconds"]
    assert 0 < seconds == again.history.records[generation].seconds


def with_about(path, **changes):
    """Write the state as an old version did, without a checksum, with other entries."""
    with np.load(path) as file:
        arrays = dict(file)
    about = json.loads(str(arrays["about"])) | changes
    np.savez(path, **{**arrays, "about": np.array(json.dumps(about))})


def flip(path, place):
    data = bytearray(path.read_bytes())
    data[int(len(data) * place)] ^= 1
    path.write_bytes(data)


# What makes it so that the generation in training must begin again, and what the warning says.
WITHOUT_STATE = {
    "empty": (lambda path: path.write_bytes(b""), "is damaged"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-50]), "is damaged"),
    "flipped": (lambda path: flip(path, 0.33), "is damaged"),
    "flipped in a name": (lambda path: path.write_bytes(path.read_bytes().replace(b"about", b"abouu")), "is damaged"),
    "of another run": (lambda path: with_about(path, run="another"), "is of another run"),
    "of another generation": (lambda path: with_about(path, generation=1), None),
    "of another Keras": (lambda path: with_about(path, keras="3.0.0"), None),
}


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_state_that_is_not_whole_or_another_ones_is_not_used(blobs, tmp_path, epochs_trained):
    with interrupted_after(0, 0):
        run(tmp_path / "cut", blobs, generations=1)
    for way, (damage, warning) in WITHOUT_STATE.items():
        directory = shutil.copytree(tmp_path / "cut", tmp_path / way)
        damage(directory / "epoch.npz")
        epochs_trained.clear()

        warned = contextlib.nullcontext()
        if warning:
            warned = pytest.warns(UserWarning, match=f"epoch.npz is not used, because it {warning}.* starts again")
        with warned:
            run(directory, blobs, generations=1)

        assert [(0, 0), (1, 0)] == epochs_trained, way


@pytest.mark.one_backend
def test_each_flipped_bit_of_a_state_is_noticed_or_changes_nothing(blobs, tmp_path, monkeypatch):
    with interrupted_after(0, 0):
        run(tmp_path, blobs, generations=1)
    path, identity = tmp_path / "epoch.npz", RunDirectory(tmp_path).read().identity
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    places = [*rng.integers(0, len(whole), 150), *range(len(whole) - 40, len(whole)), *range(40)]
    state = {name: value.tobytes() for name, value in KeepEpochs(path, 0, run=identity)._kept.items()}

    for place in places:
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = KeepEpochs(path, 0, run=identity)._kept
        # Only a flip in the letters that announce the checksum goes unnoticed.
        assert caught if found is None else state == {name: value.tobytes() for name, value in found.items()}
        assert found is None or place >= len(whole) - 8


@pytest.mark.one_backend
def test_no_state_is_kept_where_it_would_not_be_all(blobs, tmp_path, epochs_trained):
    """Of callbacks, and of an iterator in the midst of the data."""
    run(tmp_path / "callbacks", blobs, [keras.callbacks.History()], generations=1)
    run(tmp_path / "steps", blobs, generations=1, fitting={"steps_per_epoch": 1})
    assert [] == epochs_trained


@pytest.mark.one_backend
@pytest.mark.parametrize("generation", [0, 1])
def test_a_generation_that_ended_in_nan_begins_again_and_leaves_the_earlier_ones_on_disk(
    blobs, tmp_path, epochs_trained, monkeypatch, generation
):
    original = KeepEpochs.on_epoch_end

    def spoil(self, epoch, logs=None):
        if generation == self.generation:
            self.model.variables[0].assign(self.model.variables[0] * float("nan"))
        original(self, epoch, logs)

    arguments = {"fitting": {"epochs": 2}, "generations": 1}
    with monkeypatch.context() as patch, pytest.raises(FloatingPointError, match=f"Generation {generation}"):
        patch.setattr(KeepEpochs, "on_epoch_end", spoil)
        run(tmp_path, blobs, **arguments)
    kept = [f"generation-{number:02d}" for number in range(generation)]
    left = [name for name in names(tmp_path) if not name.startswith("soft-targets")]
    assert [".lock", *kept, "run.json", *["run.previous.json"] * bool(kept)] == left
    epochs_trained.clear()

    again = run(tmp_path, blobs, **arguments)

    assert [(number, epoch) for number in range(generation, 2) for epoch in range(2)] == epochs_trained
    assert_same_run(run(None, blobs, **arguments), again)


def test_random_generators_go_on_from_a_state_that_was_put_back():
    def draw():
        drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
        return [*drawn, float(keras.ops.convert_to_numpy(torch.rand(()))) if torch else 0]

    torch = importlib.import_module("torch") if keras.config.backend() == "torch" else None
    draw()  # Both Gaussian generators draw in pairs: the second of each is part of the state.
    states = {name: np.array(array) for name, array in backend.random_states().items()}
    expected = [draw(), draw()]
    draw()
    backend.set_random_states(states)

    assert expected == [draw(), draw()]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "way", ["online", "views", "dataset", "top-k in a file", "build and augmentation", "unbuilt", "permuted"]
)
def test_a_run_ends_the_same_whatever_its_teachers_way(way, blobs, tmp_path, monkeypatch):
    arguments = {"fitting": {"epochs": 2}}
    data = blobs
    if way == "online":
        arguments["soft_targets"] = "online"
    elif way == "top-k in a file":
        monkeypatch.setattr("keras_ban._src.sequence.soft_target_choice._MOST_BYTES", 100)
        arguments |= {"soft_targets": "cached", "top_k": 2}
    elif way == "dataset":
        data = (Batches(*blobs, fixed=True),)
        arguments["fitting"] = {"validation_data": blobs, "batch_size": None, "epochs": 2}
    elif way == "build and augmentation":
        arguments["model"] = lambda generation: classifier(dropout=0.1 * generation)
        arguments["augmentation"] = keras.layers.GaussianNoise(0.5)
    elif way == "views":
        arguments |= {"augmentation": keras.layers.GaussianNoise(0.5), "views": 2}
    elif way == "unbuilt":
        layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dropout(0.3), keras.layers.Dense(3)]
        arguments["model"] = keras.Sequential(layers)

    def go(name, callbacks=None):
        keras.utils.set_random_seed(random.SystemRandom().getrandbits(31))
        if way == "permuted":
            arguments["distillation_loss"] = keras_ban.losses.PermutedDarkKnowledge()
        return run(tmp_path / name, data, callbacks, **arguments)

    whole = go("whole")
    with pytest.raises(InterruptedError):
        go("cut", interrupt_in(1, 1))
    if way != "unbuilt":
        with interrupted_after(2, 0):
            go("cut")

    assert_same_run(whole, go("cut"))
    assert arguments.get("top_k") == BornAgainSequence.load(tmp_path / "cut").top_k


@pytest.mark.one_backend
def test_a_finished_run_is_loaded_by_fit_which_says_so(finished, blobs, capsys):
    before = content(finished.directory)
    arguments = {**COMPILED_RUN, "fitting": {**COMPILED, "verbose": 2}}

    again = run(finished.directory, blobs, lambda _: pytest.fail("trained"), **arguments)

    assert f"Generation 1 of 1, already in {finished.directory}" in capsys.readouterr().out
    assert_same_run(finished.sequence, again)
    assert [model.optimizer.iterations for model in again.models] == [0, 0]
    assert before == content(finished.directory)


@pytest.mark.one_backend
def test_a_drawn_seed_is_kept(blobs, tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, interrupt_in(1), seed=None, generations=1)
    drawn = json.loads((tmp_path / "run.json").read_text())["seed"]

    again = run(tmp_path, blobs, seed=None, generations=1)

    assert_same_run(run(None, blobs, seed=drawn, generations=1), again)


@pytest.mark.one_backend
def test_a_given_teacher_is_generation_0_on_disk_too(blobs, tmp_path):
    teacher = classifier()
    teacher.compile("sgd", crossentropy())
    optimizer, before = teacher.optimizer, values(teacher)
    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, interrupt_in(2), fitting={"teacher": teacher})

    again = run(tmp_path, blobs, fitting={"teacher": teacher})

    assert again.models[0] is teacher and teacher.optimizer is optimizer
    assert_same(before, values(teacher))
    assert_same_run(run(None, blobs, fitting={"teacher": teacher}), again)
    loaded = BornAgainSequence.load(tmp_path)
    assert_same(weights(again.models), weights(loaded.models))
    with pytest.raises(ValueError, match=r"- teacher: .* in the directory, null now"):
        run(tmp_path, blobs)
    with pytest.raises(ValueError, match=r"- teacher\.weights: "):
        run(tmp_path, blobs, fitting={"teacher": classifier()})


@pytest.mark.one_backend
def test_patience_ends_a_run_for_good(blobs, tmp_path):
    arguments = {"optimizer": keras.optimizers.SGD(0.0), "fitting": {"patience": 1, "mode": "max"}, "generations": 5}
    short = run(tmp_path, blobs, **arguments)
    assert json.loads((tmp_path / "run.json").read_text())["finished"]
    before = content(tmp_path)

    assert_same_run(short, run(tmp_path, blobs, **arguments))
    assert before == content(tmp_path)
    assert len(short.models) < 6


@pytest.mark.one_backend
def test_resume_false_takes_a_new_directory_alone(finished, blobs, tmp_path):
    def refuse(generation):
        raise KeyError("at once")

    with pytest.raises(ValueError, match="holds a run, and `resume=False`.*choose a new directory"):
        run(finished.directory, blobs, **{**COMPILED_RUN, "fitting": {**COMPILED, "resume": False}})
    arguments = {"fitting": {"resume": False}, "generations": 1}
    with pytest.raises(KeyError, match="at once"):  # Trains nothing.
        run(tmp_path / "a" / "b", blobs, refuse, **arguments, seed=3)
    run(tmp_path / "a" / "b", blobs, **arguments, seed=4)
    assert 4 == RunDirectory(tmp_path / "a" / "b").read().manifest["seed"]


@pytest.mark.one_backend
def test_a_run_with_nothing_to_its_name_is_begun_anew_with_whatever_comes(blobs, tmp_path):
    def fails(generation):
        raise InterruptedError("by the test")

    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, callbacks=fails)
    assert [] == RunDirectory(tmp_path).read().entries

    x, y = blobs
    assert 3 == len(run(tmp_path, (x + 1, y)).models)


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


# Soft targets


@pytest.fixture
def computed(monkeypatch):
    """The files that soft targets were computed into."""
    calls, original = [], SoftTargets.from_teacher.__func__

    def counting(cls, *args, **kwargs):
        if kwargs["path"] is not None:
            calls.append(kwargs["path"].name)
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(SoftTargets, "from_teacher", classmethod(counting))
    return calls


@pytest.mark.one_backend
@pytest.mark.parametrize("keep", [False, True])
def test_soft_targets_go_with_the_next_generation_unless_they_are_kept(blobs, tmp_path, computed, keep):
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append([name for name in names(tmp_path) if name.startswith("soft")])

    run(tmp_path, blobs, [Look()], keep_soft_targets=keep)

    files = ["soft-targets-00.npy", "soft-targets-01.npy"]
    assert files == computed
    assert [[], files[:1], files if keep else files[1:]] == seen
    assert (files if keep else []) == [name for name in names(tmp_path) if name.startswith("soft")]
    if keep:
        assert 96 == len(SoftTargets.load(tmp_path / files[0]))


@pytest.mark.one_backend
def test_soft_targets_that_an_interrupted_run_left_are_used_if_they_are_its_own(blobs, tmp_path, computed):
    whole = run(None, blobs, generations=1)
    with pytest.raises(InterruptedError):
        run(tmp_path / "cut", blobs, interrupt_in(1), generations=1)
    right = BornAgainSequence.load(tmp_path / "cut").models[0]

    for damage in ("none", "flipped", "of another teacher", "of other data"):
        directory = shutil.copytree(tmp_path / "cut", tmp_path / damage)
        path = directory / "soft-targets-00.npy"
        if damage == "flipped":
            data = bytearray(path.read_bytes())
            data[200] ^= 1
            path.write_bytes(data)
        elif damage != "none":
            teacher = classifier() if damage == "of another teacher" else right
            x = blobs[0][::-1] if damage == "of other data" else blobs[0]
            SoftTargets.from_teacher(teacher, x, verbose=0, path=path)
        computed.clear()

        again = run(directory, blobs, generations=1)

        assert ([] if damage == "none" else ["soft-targets-00.npy"]) == computed
        assert_same_run(whole, again)
        assert not list(directory.glob("soft*"))


@pytest.mark.one_backend
def test_on_disk_soft_targets_may_be_as_large_as_the_inputs(blobs, tmp_path, computed, monkeypatch):
    size = 96 * 3 * 4
    monkeypatch.setattr("keras_ban._src.sequence.soft_target_choice._MOST_BYTES", 100)
    run(tmp_path / "wide", blobs, generations=1)  # 8 inputs, 3 outputs
    assert blobs[0].nbytes > size and 1 == len(computed)
    narrow = (blobs[0][:, :2], blobs[1])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    run(tmp_path / "narrow", narrow, model=model, generations=1)
    assert narrow[0].nbytes < size and 1 == len(computed)


# What is refused


@pytest.mark.one_backend
def test_directories_of_other_types_are_refused():
    with pytest.raises(TypeError, match="`directory` must be a path, received: 3"):
        BornAgainSequence(classifier(), directory=3)
    with pytest.raises(ValueError, match="`keep_soft_targets`"):
        BornAgainSequence(classifier(), keep_soft_targets=True)


@pytest.mark.one_backend
def test_a_model_that_no_file_can_hold_is_refused_before_training(blobs, tmp_path):
    class Secretive(keras.Model):
        def __init__(self, dense):
            super().__init__()
            self.dense = dense

        def call(self, x):
            return self.dense(x)

    def built_by_the_data(generation):
        return Secretive(keras.layers.Dense(3))  # Keras writes down plain arguments alone.

    def secretive(generation):
        model = built_by_the_data(generation)
        model(blobs[0][:1])
        return model

    def code(generation):
        return keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: x[:, :3])])

    for build in (secretive, built_by_the_data, code):
        with pytest.raises(ValueError, match="cannot be kept in a directory"):
            run(tmp_path, blobs, lambda _: pytest.fail("trained"), model=build)
    assert [".lock"] == names(tmp_path)


# Loading


def test_a_finished_run_is_loaded_without_data_and_without_compile(finished, blobs):
    loaded = BornAgainSequence.load(finished.directory)

    assert_same_run(finished.sequence, loaded)
    for e, a in zip(
        [*finished.sequence.models, finished.sequence.ensemble(), finished.sequence.best_model],
        [*loaded.models, loaded.ensemble(), loaded.best_model],
        strict=True,
    ):
        assert e.evaluate(*blobs, verbose=0, return_dict=True) == a.evaluate(*blobs, verbose=0, return_dict=True)
    assert finished.sequence.evaluate(*blobs).to_dict() == loaded.evaluate(*blobs).to_dict()
    assert all(float(model.optimizer.learning_rate) == pytest.approx(0.02) for model in loaded.models)  # float32


@pytest.mark.one_backend
def test_a_run_that_was_interrupted_is_loaded_as_far_as_it_came_and_goes_on(blobs, tmp_path):
    with interrupted_after(1, 0):
        run(tmp_path, blobs, generations=1, fitting={"epochs": 2})
    loaded = BornAgainSequence.load(tmp_path)
    assert 1 == len(loaded.models) == len(loaded.history.records)
    assert loaded.history.ensemble is None

    fit(loaded, blobs, epochs=2)

    assert_same_run(run(None, blobs, generations=1, fitting={"epochs": 2}), loaded)


@pytest.mark.one_backend
def test_what_the_loss_was_is_told_where_it_cannot_be_written_down(blobs, tmp_path):
    def loss():
        return lambda y, p: keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # As outside of the tests: Keras only warns of what it would write as code.
        made = run(tmp_path, blobs, loss=loss(), generations=1)
        run(tmp_path, blobs, loss=loss(), generations=1)
    assert "__lambda__" not in (tmp_path / "run.json").read_text()

    with pytest.warns(UserWarning, match=r"`loss` \(.*<lambda>\) could not be written down.*call `compile`"):
        loaded = BornAgainSequence.load(tmp_path)

    assert_same_run(made, loaded)
    assert not loaded.models[0].compiled and not loaded.ensemble().compiled
    assert made.history.ensemble.accuracy == loaded.evaluate(*blobs).ensemble.accuracy
    loaded.compile("sgd", crossentropy())
    assert all(isinstance(model.optimizer, keras.optimizers.SGD) for model in [*loaded.models, loaded.ensemble()])


class Doubling(keras.layers.Layer):
    """Not registered with Keras."""

    def call(self, x):
        return 2 * x


def own_accuracy(y_true, y_pred):
    return keras.metrics.sparse_categorical_accuracy(y_true, y_pred)


@pytest.mark.one_backend
def test_classes_that_keras_does_not_know_are_named_and_can_be_passed(blobs, tmp_path):
    model = keras.Sequential([keras.Input((8,)), Doubling(), keras.layers.Dense(3)])
    arguments = {"model": model, "metrics": [own_accuracy], "generations": 1}
    made = run(tmp_path, blobs, **arguments)
    run(tmp_path, blobs, **arguments)

    with pytest.raises(ValueError, match="(?s)model.keras cannot be loaded.*'Doubling'.*custom_objects"):
        BornAgainSequence.load(tmp_path)
    with pytest.warns(UserWarning, match="`metrics` is not known to Keras: .*own_accuracy"):
        BornAgainSequence.load(tmp_path, {"Doubling": Doubling})
    loaded = BornAgainSequence.load(tmp_path, {"Doubling": Doubling, "own_accuracy": own_accuracy})
    assert_same_run(made, loaded)
    assert "own_accuracy" in loaded.best_model.evaluate(*blobs, verbose=0, return_dict=True)


class Unregistered(keras.losses.Loss):
    """A distillation loss that Keras does not know."""

    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_true["soft_targets"] - y_pred), axis=-1)


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_a_sequence_that_was_loaded_without_what_it_needs_says_so_when_it_is_to_train(blobs, tmp_path):
    noise = keras.layers.GaussianNoise(0.1)
    run(tmp_path / "both", blobs, model=lambda _: classifier(), augmentation=noise, generations=1)
    loaded = BornAgainSequence.load(tmp_path / "both")
    with pytest.raises(ValueError, match="begun with a callable `model` and an `augmentation`, which no file holds"):
        fit(loaded, blobs)
