"""Runs on disk: what a directory holds, how a run is continued, and what is refused."""

import contextlib
import csv
import hashlib
import importlib
import json
import os
import pathlib
import random
import re
import shutil
import signal
import time
import types
import warnings

import keras
import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.processes import Process
from helpers.processes import run as run_process
from helpers.runs import (
    COMPILED,
    assert_same_run,
    begun,
    content,
    fit,
    interrupt_in,
    names,
    record_of,
    run,
    sequence,
    weights,
    write_model,
)
from helpers.training import interrupted_after

import keras_ban
from keras_ban import BornAgainHistory, BornAgainSequence, GenerationRecord, SoftTargets, _backend, _fresh, runs
from keras_ban._epochs import KeepEpochs
from keras_ban.history import Scores
from keras_ban.losses import KnowledgeDistillation
from keras_ban.runs import RunDirectory


@pytest.fixture(scope="module")
def blobs():
    return make_blobs()


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    """A run that was never interrupted, with compiled steps and several shuffled batches."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    made = run(directory, blobs, eager=False, fitting=COMPILED)
    return types.SimpleNamespace(directory=directory, sequence=made)


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, to do damage to."""
    return shutil.copytree(finished.directory, tmp_path / "copied")


# What a directory holds


def test_a_run_is_a_folder_that_a_person_can_read(finished):
    assert [".lock", "generation-00", "generation-01", "generation-02", "run.json"] == names(finished.directory)
    manifest = json.loads((finished.directory / "run.json").read_text())
    assert (1, True, 3) == tuple(manifest[key] for key in ("format", "finished", "seed"))
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


def test_a_generations_file_is_a_plain_keras_model(finished, blobs):
    for generation, model in enumerate(finished.sequence.models):
        again = keras.saving.load_model(finished.directory / f"generation-{generation:02d}" / "model.keras")
        assert_same([model.predict(blobs[0], verbose=0)], [again.predict(blobs[0], verbose=0)])


def test_a_generations_file_holds_no_optimizer(finished):
    assert b"optimizer" not in (finished.directory / "generation-00" / "model.keras").read_bytes()


def test_writing_a_model_leaves_it_as_it_was(finished, blobs):
    for model in finished.sequence.models:
        assert model.compiled and isinstance(model.optimizer, keras.optimizers.Adam)
        assert model.get_compile_config()["optimizer"]["class_name"] == "Adam"


# How a run is continued


def test_a_compiled_run_that_was_interrupted_ends_as_if_it_had_not_been(finished, blobs, tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, interrupt_in(1), eager=False, fitting=COMPILED)
    assert 1 == len(json.loads((tmp_path / "run.json").read_text())["generations"])
    keras.utils.set_random_seed(99)
    asked = []

    again = run(tmp_path, blobs, lambda now: asked.append(now) or [], eager=False, fitting=COMPILED)

    assert [1, 2] == asked
    assert_same_run(finished.sequence, again)
    assert finished.sequence.history.best_generation == again.history.best_generation


@pytest.mark.parametrize(("generation", "epoch"), [pytest.param(0, 0, marks=pytest.mark.one_backend), (2, 0)])
def test_an_interrupted_generation_goes_on_after_its_last_epoch(
    finished, blobs, tmp_path, capsys, epochs_trained, generation, epoch
):
    with interrupted_after(generation, epoch):
        run(tmp_path, blobs, eager=False, fitting=COMPILED)
    keras.utils.set_random_seed(99)

    again = run(tmp_path, blobs, eager=False, fitting={**COMPILED, "verbose": 2})

    assert [(g, e) for g in range(3) for e in range(3)] == epochs_trained
    assert f"It goes on after epoch {epoch + 1} of 3" in capsys.readouterr().out
    assert_same_run(finished.sequence, again)
    assert names(finished.directory) == names(tmp_path)
    seconds = json.loads((tmp_path / f"generation-{generation:02d}" / "record.json").read_text())["seconds"]
    assert 0 < seconds == again.history.records[generation].seconds


def without_state(way, directory, blobs):
    """Make it so that the generation in training must begin again."""
    path = directory / "epoch.npz"
    if way == "truncated":
        path.write_bytes(path.read_bytes()[:-50])
    elif way == "flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 1
        path.write_bytes(data)
    else:
        with np.load(path) as file:
            arrays = dict(file)
        about = json.loads(str(arrays["about"]))
        about |= {"generation": 1} if way == "of another generation" else {"keras": "3.0.0"}
        np.savez(path, **{**arrays, "about": np.array(json.dumps(about))})


@pytest.mark.one_backend
def test_a_state_that_is_not_whole_or_another_ones_is_not_used(blobs, tmp_path, epochs_trained):
    with interrupted_after(0, 0):
        run(tmp_path / "cut", blobs, generations=1)
    for way in ("truncated", "flipped", "of another generation", "of another Keras"):
        directory = shutil.copytree(tmp_path / "cut", tmp_path / way)
        without_state(way, directory, blobs)
        epochs_trained.clear()

        run(directory, blobs, generations=1)

        assert [(0, 0), (1, 0)] == epochs_trained


@pytest.mark.one_backend
def test_no_state_is_kept_where_it_would_not_be_all(blobs, tmp_path, epochs_trained):
    """Of callbacks, and of an iterator in the midst of the data."""
    run(tmp_path / "callbacks", blobs, [keras.callbacks.History()], generations=1)
    run(tmp_path / "steps", blobs, generations=1, fitting={"steps_per_epoch": 1})
    assert [] == epochs_trained


@pytest.mark.one_backend
def test_a_generation_that_ended_in_nan_begins_again(blobs, tmp_path, epochs_trained, monkeypatch):
    original = KeepEpochs.on_epoch_end

    def once(self, epoch, logs=None):
        self.model.variables[0].assign(self.model.variables[0] * float("nan"))
        original(self, epoch, logs)

    with monkeypatch.context() as patch, pytest.raises(FloatingPointError):
        patch.setattr(KeepEpochs, "on_epoch_end", once)
        run(tmp_path, blobs, fitting={"epochs": 2}, generations=1)
    assert [".lock", "run.json"] == names(tmp_path)
    epochs_trained.clear()

    run(tmp_path, blobs, fitting={"epochs": 2}, generations=1)

    assert [(0, 0), (0, 1), (1, 0), (1, 1)] == epochs_trained


def test_random_generators_go_on_from_a_state_that_was_put_back():
    def draw():
        drawn = [random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn()]
        return [*drawn, float(keras.ops.convert_to_numpy(torch.rand(()))) if torch else 0]

    torch = importlib.import_module("torch") if keras.config.backend() == "torch" else None
    draw()  # Both Gaussian generators draw in pairs: the second of each is part of the state.
    states = {name: np.array(array) for name, array in _backend.random_states().items()}
    expected = [draw(), draw()]
    draw()
    _backend.set_random_states(states)

    assert expected == [draw(), draw()]


WAYS = [
    *("online", "views"),
    *(
        pytest.param(way, marks=pytest.mark.one_backend)
        for way in ("dataset", "memory-mapped", "build", "unbuilt", "augmented", "top-k", "permuted")
    ),
]


@pytest.mark.parametrize("way", WAYS)
def test_a_run_ends_the_same_whatever_its_teachers_way(way, blobs, tmp_path, monkeypatch):
    arguments = {"fitting": {"epochs": 2}}
    data = blobs
    if way == "online":
        arguments["soft_targets"] = "online"
    elif way == "memory-mapped":
        monkeypatch.setattr("keras_ban._soft_target_choice._MOST_BYTES", 100)
        arguments["soft_targets"] = "cached"
    elif way == "dataset":
        data = (Batches(*blobs, fixed=True),)
        arguments["fitting"] = {"validation_data": blobs, "batch_size": None, "epochs": 2}
    elif way == "build":
        arguments["model"] = lambda generation: classifier(dropout=0.1 * generation)
    elif way in ("augmented", "views"):
        arguments["augmentation"] = keras.layers.GaussianNoise(0.5)
        arguments["views"] = 2 if way == "views" else None
    elif way == "top-k":
        arguments["top_k"] = 2
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
    assert arguments.get("top_k") == keras_ban.BornAgainSequence.load(tmp_path / "cut").top_k


def test_a_finished_run_is_loaded_by_fit(finished, blobs, capsys):
    before = content(finished.directory)

    again = run(finished.directory, blobs, lambda _: pytest.fail("trained"), eager=False, fitting=COMPILED)

    assert_same_run(finished.sequence, again)
    assert [model.optimizer.iterations for model in again.models] == [0, 0, 0]
    assert before == content(finished.directory)


def test_fit_says_which_generations_it_loads(finished, blobs, capsys):
    run(finished.directory, blobs, eager=False, fitting={**COMPILED, "verbose": 2})
    assert f"Generation 1 of 2, already in {finished.directory}" in capsys.readouterr().out


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
def test_a_generation_that_ends_in_nan_leaves_the_earlier_ones_on_disk(blobs, tmp_path):
    class Spoil(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.variables[0].assign(self.model.variables[0] * float("nan"))

    def callbacks(generation):
        return [Spoil()] if generation == 1 else []

    with pytest.raises(FloatingPointError, match="Generation 1"):
        run(tmp_path, blobs, callbacks, generations=1)

    assert ["generation-00"] == [name for name in names(tmp_path) if name.startswith("gen")]
    assert_same_run(run(None, blobs, generations=1), run(tmp_path, blobs, generations=1))


def refuse(generation):
    raise KeyError("at once")


@pytest.mark.one_backend
@pytest.mark.parametrize("exists", [True, False])
def test_resume_false_takes_a_new_directory_alone(finished, blobs, tmp_path, exists):
    arguments = {"eager": False, "fitting": {**COMPILED, "resume": False}}
    if exists:
        with pytest.raises(ValueError, match="holds a run, and `resume=False`.*choose a new directory"):
            run(finished.directory, blobs, **arguments)
    else:
        for seed in (3, 4):  # The first trains nothing.
            with contextlib.nullcontext() if seed == 4 else pytest.raises(KeyError, match="at once"):
                callbacks = refuse if seed == 3 else None
                run(tmp_path / "a" / "b", blobs, callbacks, fitting={"resume": False}, generations=1, seed=seed)
        assert 4 == RunDirectory(tmp_path / "a" / "b").read().manifest["seed"]


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
    monkeypatch.setattr("keras_ban._soft_target_choice._MOST_BYTES", 100)
    run(tmp_path / "wide", blobs, generations=1)  # 8 inputs, 3 outputs
    assert blobs[0].nbytes > size and 1 == len(computed)
    narrow = (blobs[0][:, :2], blobs[1])
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    run(tmp_path / "narrow", narrow, model=model, generations=1)
    assert narrow[0].nbytes < size and 1 == len(computed)


# What is refused


def test_each_difference_is_named_with_what_was_and_what_came(finished, blobs):
    x, y = blobs
    before = content(finished.directory)
    model = classifier(dropout=0.3, batch_norm=True, units=17)
    changed = {"model": model, "optimizer": keras.optimizers.Adam(0.01), "seed": 4, "label_weight": 0.3}
    changed |= {"distillation_loss": KnowledgeDistillation(temperature=2.0), "eager": True, "generations": 1}
    changed |= {"augmentation": keras.layers.GaussianNoise(0.5), "views": 2, "top_k": 2}
    with pytest.raises(ValueError) as error:
        run(finished.directory, (x[::-1], y), **changed, fitting={**COMPILED, "batch_size": 16, "shuffle": False})

    lines = str(error.value).splitlines()
    found = {line[2:].split(":")[0]: line.split(": ", 1)[1] for line in lines if line.startswith("- ")}
    for name, (there, now) in {
        "seed": (3, 4),
        "generations": (2, 1),
        "label_weight": (0.5, 0.3),
        "views": ("null", 2),
        "top_k": ("null", 2),
        "distillation_loss.config.temperature": (1.0, 2.0),
        "fit.batch_size": (32, 16),
        "fit.shuffle": ("null", "false"),
        "compile.run_eagerly": ("false", "true"),
        "model.0.config.layers[0].config.units": (16, 17),
    }.items():
        assert f"{there} in the directory, {now} now" == found.pop(name)
    assert found.pop("augmentation").startswith("null in the directory, ")
    # The rate is kept as float32 or float64, by the backend; the data by fingerprints.
    assert re.match(
        r"0.0(2|1999999955296516\d*) in the directory, 0.0(1|0999999977648258\d*) now",
        found.pop("compile.optimizer.config.learning_rate"),
    )
    assert {
        "model.0.weights",
        "model.0.not_trained",
        "data.x[0].fingerprint",
        "data.validation_data[0].fingerprint",
    } == set(found)
    assert "or begin another run in a new directory" in lines[-1]
    assert before == content(finished.directory)


@pytest.mark.parametrize(
    ("key", "value"),
    [("y", np.zeros(96, "int64")), ("sample_weight", np.ones(96)), ("epochs", 2), ("monitor", "val_accuracy")],
)
def test_labels_weights_epochs_and_monitor_count_too(finished, blobs, key, value):
    data = {"x": blobs[0], "y": blobs[1], "validation_data": blobs, "verbose": 0, **COMPILED}
    where = "fit" if key in ("epochs", "monitor") else "data"

    with pytest.raises(ValueError, match=rf"- {where}\.{key}"):
        sequence(finished.directory, eager=False).fit(**{**data, key: value})


@pytest.mark.one_backend
def test_frozen_weights_are_part_of_the_model(blobs, tmp_path):
    def frozen(bias):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(3)])
        model.layers[0].trainable = False
        model.layers[0].kernel.assign(np.full((8, 4), bias))
        return model

    run(tmp_path, blobs, model=frozen(0.1), generations=1)
    run(tmp_path, blobs, model=frozen(0.1), generations=1)
    with pytest.raises(ValueError, match=r"- model\.0\.not_trained"):
        run(tmp_path, blobs, model=frozen(0.2), generations=1)


def functional(skip):
    inputs = keras.Input((8,))
    first = keras.layers.Dense(3)(inputs)
    second = keras.layers.Dense(3)(first)
    third = keras.layers.Dense(3)(second)
    return keras.Model(inputs, keras.layers.Add()([third, first if skip else second]))


@pytest.mark.one_backend
def test_names_that_keras_numbers_make_no_other_model_but_connections_do(blobs, tmp_path):
    metrics = [keras.metrics.MeanMetricWrapper(keras.metrics.sparse_categorical_accuracy)]
    run(tmp_path, blobs, model=functional(True), generations=1, metrics=metrics)
    model = functional(True)
    assert model.layers[1].name != functional(True).layers[1].name
    metrics = [keras.metrics.MeanMetricWrapper(keras.metrics.sparse_categorical_accuracy)]

    run(tmp_path, blobs, model=model, generations=1, metrics=metrics)

    with pytest.raises(ValueError, match=r"- model\.0\.config.*keras_history"):
        run(tmp_path, blobs, model=functional(False), generations=1, metrics=metrics)


def test_another_backend_is_refused_by_fit_and_taken_by_load(copied, blobs):
    manifest = json.loads((copied / "run.json").read_text())
    manifest["begun_with"]["backend"] = "theano"
    (copied / "run.json").write_text(json.dumps(manifest))

    with pytest.raises(ValueError, match='- backend: "theano" in the directory, "'):
        run(copied, blobs, eager=False, fitting=COMPILED)
    assert 3 == len(BornAgainSequence.load(copied).models)


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_another_version_is_warned_of_while_generations_are_to_come(copied, blobs):
    manifest = json.loads((copied / "run.json").read_text())
    manifest["versions"]["keras"] = "3.0.0"
    (copied / "run.json").write_text(json.dumps(manifest))
    run(copied, blobs, eager=False, fitting=COMPILED)
    (copied / "run.json").write_text(json.dumps({**manifest, "finished": False}))

    with pytest.warns(UserWarning, match="was begun with .*'keras': '3.0.0'"):
        run(copied, blobs, eager=False, fitting=COMPILED)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_a_damaged_model_is_never_used(copied, blobs, damage):
    path = copied / "generation-01" / "model.keras"
    data = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        data[len(data) // 2] ^= 1
        path.write_bytes(data[: -100 if damage == "truncated" else None])
    before = content(copied)
    what = {"truncated": "has .* bytes", "flipped": "was altered", "missing": "is not there"}[damage]

    for use in (BornAgainSequence.load, lambda path: run(path, blobs, eager=False, fitting=COMPILED)):
        with pytest.raises(ValueError, match=rf"(?s){path} {what}.*Generations 0 to 0 are whole.*teacher="):
            use(copied)

    assert before == content(copied)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 2, "versions": {"keras_ban": "9.9"}}', "is of format 2, written by keras_ban 9.9"),
        ('{"format": 1, "ver', "is damaged"),
        ("[]", "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_understood_is_refused(copied, blobs, text, message):
    (copied / "run.json").write_text(text)
    before = content(copied)

    for use in (BornAgainSequence.load, lambda path: run(path, blobs)):
        with pytest.raises(ValueError, match=f"{message}.*begin another run in a new directory"):
            use(copied)

    assert before == content(copied)


def test_a_folder_that_holds_something_else_is_left_alone(blobs, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds files but no run .*\['notes.txt'\].*empty or not there yet"):
        run(tmp_path, blobs)
    assert ["notes.txt"] == names(tmp_path)
    with pytest.raises(ValueError, match="must be a folder"):
        run(tmp_path / "notes.txt", blobs)
    with pytest.raises(FileNotFoundError, match="holds no run"):
        BornAgainSequence.load(tmp_path)


def test_a_run_of_which_nothing_is_finished_cannot_be_loaded(blobs, tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, interrupt_in(0))
    with pytest.raises(ValueError, match="no generation is finished yet"):
        BornAgainSequence.load(tmp_path)


def test_directories_of_other_types_are_refused():
    with pytest.raises(TypeError, match="`directory` must be a path, received: 3"):
        BornAgainSequence(classifier(), directory=3)
    with pytest.raises(ValueError, match="`keep_soft_targets`"):
        BornAgainSequence(classifier(), keep_soft_targets=True)


def built(model):
    model.build((None, 8))
    return model


class Doubling(keras.layers.Layer):
    """Not registered with Keras."""

    def call(self, x):
        return 2 * x


def test_a_model_that_no_file_can_hold_is_refused_before_training(blobs, tmp_path):
    class Secretive(keras.Model):
        def __init__(self, layers):
            super().__init__()
            self.chain = keras.Sequential([keras.Input((8,)), *layers])

        def build(self, shape):
            self.built = True

        def call(self, x):
            return self.chain(x)

    for build in (
        lambda generation: built(Secretive([keras.layers.Dense(3)])),
        lambda generation: keras.Sequential([keras.Input((8,)), keras.layers.Lambda(lambda x: x[:, :3])]),
    ):
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


# The directory itself: locks, commits


def test_records_and_scores_come_back_as_they_were(tmp_path):
    scores = Scores(3, 0.1 + 0.2, 1e-30, 0.5, 0, 1.0, 2, 1)
    with begun(tmp_path) as directory:
        directory.commit(GenerationRecord(0, None, 1, 0.5, {"val_loss": 1 / 3}, {"loss": [1 / 3]}, scores), write_model)
        directory.commit(GenerationRecord(1), write_model)
        directory.finish(scores)

    read = RunDirectory(tmp_path).read().history()

    records = [GenerationRecord(0, None, 1, 0.5, {"val_loss": 1 / 3}, {"loss": [1 / 3]}, scores), GenerationRecord(1)]
    assert BornAgainHistory(records, ensemble=scores) == read


def test_logs_that_begin_late_leave_gaps_in_front(tmp_path):
    with begun(tmp_path) as directory:
        directory.commit(record_of(0), write_model)

    assert ["epoch,loss,val_loss", "0,0.5,", "1,0.30000000000000004,nan"] == (
        (tmp_path / "generation-00" / "history.csv").read_text().split()
    )


class Killed(BaseException):
    """Stands in for a kill: nothing on the way up may clean up after it."""


STEPS = ["mkdir", "write", "flush", "flush", "flush", "flush", "rename", "flush", "flush", "replace", "flush"]


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
        patch.setattr(runs, "_flush", watched("flush", runs._flush))
        patch.setattr(runs.os, "rename", watched("rename", os.rename))
        patch.setattr(runs.os, "replace", watched("replace", os.replace))
        directory.commit(record_of(1), watched("write", write_model))
    assert STEPS[: instant + 1] == steps

    with RunDirectory(tmp_path) as again:
        exists = instant > STEPS.index("replace") or (instant == STEPS.index("replace") and after)
        assert (2 if exists else 1) == len(again.entries)
        expected = [".lock", *(f"generation-{i:02d}" for i in range(len(again.entries))), "run.json"]
        assert expected == names(tmp_path)
        for generation in range(len(again.entries)):
            assert b"model" == again.model_file(generation).read_bytes()
        again.commit(record_of(len(again.entries)), write_model)
    assert [0, 1, 2][: len(again.entries)] == [r.generation for r in RunDirectory(tmp_path).read().history().records]


def test_nothing_but_leftovers_is_removed(tmp_path):
    with begun(tmp_path) as directory:
        directory.commit(record_of(0), write_model)
    left = [
        ".epoch.npz.partial",
        ".generation-01.partial",
        ".run.json.partial",
        ".soft-targets-00.npy.0a1b2c3d.partial",
        "generation-01",
    ]
    kept = [
        "best.keras",
        "generation-00-copy",
        "generations.png",
        "generation",
        ".notes.partial",
        "soft-targets-00.npy",
    ]
    for name in [*left, *kept]:
        (tmp_path / name).mkdir()

    with RunDirectory(tmp_path):
        pass

    assert sorted([".lock", "generation-00", "run.json", *kept]) == names(tmp_path)


def hold(directory):
    RunDirectory(directory).__enter__()
    worker = os.fork()
    if worker == 0:
        time.sleep(60)
        os._exit(0)
    print(worker, flush=True)
    time.sleep(60)


@pytest.mark.one_backend
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
    with RunDirectory(finished.directory), pytest.raises(RuntimeError, match="is in use by process"):
        run(finished.directory, blobs, eager=False, fitting=COMPILED)


def run_and_be_killed(directory, data, moment, number):
    """Run a sequence. Kill the process at the end of a step, or between two steps of a commit."""
    count = 0

    def kill(*_, **__):
        nonlocal count
        count += 1
        if count == number:
            os.kill(os.getpid(), signal.SIGKILL)

    if moment == "replace":
        original = os.replace
        runs.os.replace = lambda *arguments: (kill(), original(*arguments))
    else:
        _fresh.StopOnNonFiniteLoss.on_train_batch_end = kill
    run(directory, data, eager=False, fitting=COMPILED)


def assert_killed(*arguments):
    assert -signal.SIGKILL == run_process(run_and_be_killed, *arguments).returncode


@pytest.mark.one_backend
def test_a_process_killed_in_the_midst_of_a_commit_trains_nothing_again(finished, blobs, tmp_path, epochs_trained):
    # What is replaced: the manifest; the states of three epochs; the manifest, for generation 0; the soft targets; the
    # states of three epochs; the manifest, for generation 1.
    assert_killed(tmp_path / "run", blobs, "replace", 10)
    assert ["generation-00", "generation-01"] == sorted(p.name for p in (tmp_path / "run").glob("generation-*"))
    assert 1 == len(BornAgainSequence.load(tmp_path / "run").models)

    again = run(tmp_path / "run", blobs, eager=False, fitting=COMPILED)

    assert [(2, 0), (2, 1), (2, 2)] == epochs_trained
    assert_same_run(finished.sequence, again)


# As above, to the end: the manifest is replaced a last time when the run is finished.
MOMENTS = [*(("batch", number) for number in range(1, 28)), *(("replace", number) for number in range(1, 17))]


@pytest.mark.slow
@pytest.mark.parametrize(("moment", "number"), MOMENTS)
def test_a_process_killed_at_any_moment_loses_an_epoch_at_most(
    finished, blobs, tmp_path, epochs_trained, moment, number
):
    assert_killed(tmp_path / "run", blobs, moment, number)

    again = run(tmp_path / "run", blobs, eager=False, fitting=COMPILED)

    everything = [(generation, epoch) for generation in range(3) for epoch in range(3)]
    if moment == "batch":  # three in each epoch
        assert everything[(number - 1) // 3 :] == epochs_trained
    assert everything[len(everything) - len(epochs_trained) :] == epochs_trained
    assert_same_run(finished.sequence, again)


def test_of_many_files_that_are_no_run_five_are_named_and_the_others_mentioned(blobs, tmp_path):
    for number in range(6):
        (tmp_path / f"note{number}").write_text("mine")
        named = [f"note{each}" for each in range(min(number + 1, 5))]
        others = " and others" if number == 5 else ""
        with pytest.raises(ValueError, match=re.escape(f"{named}{others}. A run is kept in a folder of its own")):
            run(tmp_path, blobs)


@pytest.mark.one_backend
def test_a_run_stays_where_it_is_when_the_working_directory_changes(blobs, tmp_path, monkeypatch):
    class Moves(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            os.chdir("/")

    monkeypatch.chdir(tmp_path)
    run("run", blobs, [Moves()], generations=1)

    assert ["generation-00", "generation-01"] == sorted(path.name for path in (tmp_path / "run").glob("generation-*"))


def test_names_differ_unless_it_is_by_the_number_that_keras_adds():
    there = {"optimizer": {"name": "adam_2"}, "size": 1}

    assert [] == list(runs.differences(there, {"optimizer": {"name": "adam_7"}, "size": 1}))
    assert ['optimizer.name: "adam_2" in the directory, "sgd" now'] == list(
        runs.differences(there, {"optimizer": {"name": "sgd"}, "size": 1})
    )
    nan = {"mask_value": float("nan")}
    assert [] == list(runs.differences(nan, json.loads(json.dumps(nan))))
    long, longer = list(range(30)), list(range(31))
    assert ["size: 30 entries in the directory, 31 entries now"] == list(
        runs.differences({"size": long}, {"size": longer})
    )


@pytest.mark.one_backend
def test_a_run_with_nothing_to_its_name_is_begun_anew_with_whatever_comes(blobs, tmp_path):
    def fails(generation):
        raise InterruptedError("by the test")

    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, callbacks=fails)
    assert [] == RunDirectory(tmp_path).read().entries

    x, y = blobs
    assert 3 == len(run(tmp_path, (x + 1, y)).models)
