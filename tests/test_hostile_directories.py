"""Run directories with something in the place of a file, and manifests that say what no run has written."""

import copy
import json
import os
import subprocess
import sys
import threading
import zipfile

import h5py
import keras
import numpy as np
import pytest
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.runs import begun, content, record_of, write_model

import keras_ban
from keras_ban import SoftTargets
from keras_ban._src.files import locks, model_file, row_file
from keras_ban._src.runs import manifest_file
from keras_ban._src.runs.directory import RunDirectory

pytestmark = [pytest.mark.one_backend, pytest.mark.skipif(os.name != "posix", reason="is about POSIX files")]


@pytest.fixture
def directory(tmp_path):
    with begun(tmp_path / "run") as directory:
        directory.commit(record_of(0), write_model)
        directory.commit(record_of(1), write_model)
    return tmp_path / "run"


def use(directory):
    with RunDirectory(directory) as run:
        run.start({"fit": {"monitor": "val_loss", "mode": "min"}}, seed=1, versions={"keras_ban": "0"})
        run.history()
        run.commit(record_of(2), write_model)


@pytest.mark.parametrize("name", [".lock", "run.json", "epoch.npz", "generation-00/model.keras"])
@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "pipe", "folder", "dangling link"])
def test_what_is_in_the_place_of_a_file_changes_no_other_file_and_is_not_waited_for(directory, tmp_path, name, kind):
    path, other = directory / name, tmp_path / "other"
    other.write_bytes(path.read_bytes() if path.exists() else b"precious")
    before = other.read_bytes()
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "hard link":
        os.link(other, path)
    else:
        path.symlink_to(other if kind == "symbolic link" else tmp_path / "nowhere")

    try:
        use(directory)
    except (ValueError, OSError) as error:
        assert path.name in str(error)
        refused = True
    else:
        refused = False

    assert before == other.read_bytes()
    assert not (tmp_path / "nowhere").exists()
    if name == ".lock" or (kind in ("pipe", "folder") and name != "generation-00/model.keras"):
        assert refused


def test_a_pipe_in_the_place_of_soft_targets_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "targets.npy")
    with pytest.raises(ValueError, match="targets.npy must be a regular file, but it is a pipe"):
        SoftTargets.load(tmp_path / "targets.npy")
    with pytest.raises(ValueError, match="exists and does not hold soft targets"):
        row_file.check_may_replace(tmp_path / "targets.npy")


def test_soft_targets_that_a_dead_process_left_unfinished_are_removed_with_the_next_of_their_name(tmp_path):
    dead, alive, other = (
        tmp_path / f".{name}.partial" for name in ("a.npy.0a1b2c3d", "a.npy.ffffffff", "b.npy.0a1b2c3d")
    )
    for path in (dead, alive, other):
        path.write_bytes(b"unfinished")
    teacher = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
    with open(alive, "rb") as file:
        assert locks.locked(file)  # As the process that writes it does.
        SoftTargets.from_teacher(teacher, np.zeros((4, 2), "float32"), path=tmp_path / "a.npy")

    assert [alive.name, other.name, "a.npy"] == sorted(path.name for path in tmp_path.iterdir())
    with row_file.RowWriter(tmp_path / "c.npy", "float32", (1,)):
        (writing,) = tmp_path.glob(".c.npy.*.partial")
        row_file.RowWriter(tmp_path / "c.npy", "float32", (1,)).__exit__(None)
        assert writing.exists()


IN_ASCII = r"""
import pathlib, sys
import keras
from keras_ban import GenerationRecord
from keras_ban._src.runs.directory import RunDirectory
assert open(sys.argv[1] + ".txt", "w").encoding.lower() not in ("utf-8", "utf8")
with RunDirectory(sys.argv[1]) as run:
    run.start({"fit": {"monitor": "val_loss", "mode": "min"}}, seed=1, versions={"keras_ban": "0"})
    logs = {"pr\u00e9cision": [0.5], "\udcff": [1.0]}
    run.commit(GenerationRecord(0, logs=logs), lambda path: path.write_bytes(b"model"))
assert logs == run.history().records[0].logs
"""


@pytest.mark.new_process
def test_names_of_metrics_may_be_any_text_in_any_locale(tmp_path):
    env = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    subprocess.run([sys.executable, "-c", IN_ASCII, str(tmp_path / "run")], env=env, check=True)

    text = (tmp_path / "run" / "generation-00" / "history.csv").read_text(encoding="utf-8")
    assert ["epoch,précision,\\udcff", "0,0.5,1.0"] == text.split()


def test_links_in_the_place_of_what_is_written_first_are_removed_not_followed(directory, tmp_path):
    other = tmp_path / "other"
    other.write_bytes(b"precious")
    for name in (".run.json.partial", ".run.previous.json.partial", ".epoch.npz.partial", ".generation-02.partial"):
        (directory / name).symlink_to(other)

    use(directory)

    assert b"precious" == other.read_bytes()
    assert 3 == len(RunDirectory(directory).read().entries)


def test_each_flipped_bit_of_a_manifest_is_noticed_or_changes_nothing(directory):
    path = directory / "run.json"
    whole, manifest = path.read_bytes(), manifest_file.read(directory)
    rng, accepted = np.random.default_rng(0), 0

    for place in range(0, len(whole), 3):
        data = bytearray(whole)
        data[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            found = manifest_file.read(directory)
        except ValueError as error:
            assert "run.json" in str(error)
        else:
            accepted += 1
            assert manifest == found

    assert accepted < len(whole) / 30  # White space.


def of_old_version(manifest):
    return {name: value for name, value in manifest.items() if name not in ("checksum", "run")} | {"format": 1}


# Changes of a manifest of an old version, which has no checksum.
DAMAGES = {
    "lacks ['seed']": lambda m: m.pop("seed"),
    "unknown entries ['sead']": lambda m: m.update(sead=m["seed"]),
    "'seed' of another type": lambda m: m.update(seed="1"),
    "'finished' of another type": lambda m: m.update(finished=1),
    "'generations' of another type": lambda m: m.update(generations={}),
    "'ensemble' of another type": lambda m: m.update(ensemble=[]),
    "lacks ['fit']": lambda m: m["begun_with"].pop("fit"),
    "lacks ['monitor']": lambda m: m["begun_with"]["fit"].pop("monitor"),
    "must be 'min' or 'max', received: 'mio'": lambda m: m["begun_with"]["fit"].update(mode="mio"),
    "expected an entry {'generation': 1": lambda m: m["generations"][1].update(generation=2),
    "expected an entry {'generation': 0": lambda m: m["generations"][0].update(folder="../elsewhere"),
    "expected an entry {'control'": lambda m: m.update(
        controls=[{"control": "../x", "folder": "control-../x", "files": {}}]
    ),
    "'model.keras': {'bytes': '5'": lambda m: m["generations"][0]["files"]["model.keras"].update(bytes="5"),
    "'sha256': '0'": lambda m: m["generations"][0]["files"]["model.keras"].update(sha256="0"),
    "'../model.keras'": lambda m: m["generations"][0]["files"].update(
        {"../model.keras": m["generations"][0]["files"]["model.keras"]}
    ),
    "KeyError('files')": lambda m: m["generations"][0].pop("files"),
}


def test_values_that_no_run_has_written_are_refused_in_manifests_without_a_checksum_too(directory):
    path = directory / "run.json"
    old = of_old_version(json.loads(path.read_text()))
    path.write_text(json.dumps(old))
    assert 2 == len(RunDirectory(directory).read().entries)
    for message, change in DAMAGES.items():
        manifest = copy.deepcopy(old)
        change(manifest)
        path.write_text(json.dumps(manifest))
        before = content(directory)
        for read in (lambda: RunDirectory(directory).read(), lambda: use(directory)):
            with pytest.raises(ValueError, match="run.json is damaged") as error:
                read()
            assert message in str(error.value)
        assert before == content(directory)


def test_a_manifest_of_an_old_version_goes_on_with_a_checksum(directory):
    path = directory / "run.json"
    path.write_text(json.dumps(of_old_version(json.loads(path.read_text()))))

    use(directory)

    manifest = json.loads(path.read_text())
    assert (2, 3) == (manifest["format"], len(manifest["generations"]))
    assert 64 == len(manifest["checksum"])


def test_a_model_file_that_reads_from_another_file_is_refused(tmp_path):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    (tmp_path / "secret").write_bytes(b"precious and secret")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (tmp_path / "weights.h5").write_bytes(files["model.weights.h5"])
    with h5py.File(tmp_path / "weights.h5", "r+") as weights:
        del weights["layers/dense/vars/0"]
        external = [(str(tmp_path / "secret"), 0, 16)]
        weights["layers/dense/vars"].create_dataset("0", (2, 2), "float32", external=external)
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        for name, data in {**files, "model.weights.h5": (tmp_path / "weights.h5").read_bytes()}.items():
            archive.writestr(name, data)

    with pytest.raises(ValueError, match="cannot be loaded"):
        model_file.load(tmp_path / "model.keras")


def test_without_its_manifest_a_run_is_not_begun_anew(directory):
    (directory / "run.json").unlink()
    before = content(directory)
    with pytest.raises(ValueError, match="holds a run, but its run.json is missing.*run.previous.json is as it was"):
        use(directory)
    assert before == content(directory)

    # The previous manifest lacks the last generation, which is set aside.
    (directory / "run.previous.json").rename(directory / "run.json")
    with pytest.warns(UserWarning, match=r"renamed to \['generation-01.set-aside'\]"), RunDirectory(directory) as run:
        assert 1 == len(run.entries)
    assert before["generation-01/model.keras"] == content(directory)["generation-01.set-aside/model.keras"]


def test_a_second_thread_is_refused_until_the_first_has_ended(tmp_path):
    errors = []

    def second():
        try:
            with begun(tmp_path / "run"):
                pass
        except RuntimeError as error:
            errors.append(str(error))

    with begun(tmp_path / "run"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    second()

    (refused,) = errors
    assert f"is in use by process {os.getpid()}" in refused


def test_a_directory_whose_name_is_no_text_holds_a_whole_run(tmp_path, blobs):
    x, y = blobs
    directory = os.path.join(tmp_path, os.fsdecode(b"run-\xff"))
    sequence = keras_ban.BornAgainSequence(classifier(), generations=1, directory=directory, seed=0)
    sequence.compile("sgd", crossentropy(), metrics=["accuracy"])

    history = sequence.fit(x, y, epochs=1, validation_data=(x, y), verbose=0)

    history.plot(os.path.join(directory, "plot.png"))
    loaded = keras_ban.BornAgainSequence.load(directory)
    assert history.summary() == loaded.history.summary()
    assert_same(values(sequence.models[1]), values(loaded.models[1]))
    assert os.path.exists(os.path.join(directory, "generation-01", "history.csv"))
    with pytest.raises(ValueError, match="holds a run with other settings"):
        sequence.fit(x, y, epochs=2, validation_data=(x, y), verbose=0)
