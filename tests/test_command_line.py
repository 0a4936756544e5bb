"""`keras-ban`, and `python -m keras_ban`: what the command line asks of `export`, and its exit codes."""

import copy
import functools
import hashlib
import io
import itertools
import json
import math
import os
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import classifier
from helpers.runs import change_manifest

import keras_ban
from keras_ban._src.command import command_line
from keras_ban._src.command import export as export_command
from keras_ban._src.export.export import FORMATS
from keras_ban._src.runs import manifest_file

pytestmark = pytest.mark.one_backend


@pytest.fixture
def asked(monkeypatch):
    """What `export` was called with, in place of what it does."""
    calls = []
    monkeypatch.setattr(export_command, "export", lambda model, out, **options: calls.append((model, out, options)))
    return calls


@pytest.fixture
def model_file(tmp_path):
    model = classifier()
    model.save(tmp_path / "model.keras")
    return model, str(tmp_path / "model.keras")


def test_a_model_file_is_exported_as_export_does_by_itself(tmp_path, asked, model_file, blobs):
    model, file = model_file

    assert 0 == command_line.main(["export", file, str(tmp_path / "out")])

    ((loaded, out, options),) = asked
    np.testing.assert_array_equal(model.predict(blobs[0], verbose=0), loaded.predict(blobs[0], verbose=0))
    defaults = {name: keras_ban.export.__kwdefaults__.get(name, "tf_saved_model") for name in options}
    assert (tmp_path / "out", defaults) == (out, options)


def test_every_option_reaches_export(tmp_path, asked, model_file):
    (tmp_path / "labels.txt").write_text("zero\none\ntwo\n")
    np.savez(tmp_path / "examples.npz", x=np.ones((2, 8)), y=[0, 1])
    options = ["--format", "litert", "--int8", "--members", "--no-verify", "--overwrite", "--quiet"]
    options += ["--tolerance", "0.5", "--rescaling", "1/255", "--labels", str(tmp_path / "labels.txt")]
    options += ["--examples", str(tmp_path / "examples.npz"), "--choose", "best", "--import", "keras_ban.losses"]

    assert 0 == command_line.main(["export", model_file[1], "out", *options])

    ((_, _, received),) = asked
    x, y = received.pop("examples")
    assert ((2, 8), [0, 1]) == (x.shape, y.tolist())
    assert 1 / 255 == received.pop("preprocessing").scale
    assert received == {
        **{"format": "litert", "int8": True, "members": True, "verify": False, "overwrite": True, "verbose": False},
        **{"tolerance": 0.5, "labels": ["zero", "one", "two"], "choose": "best"},
    }


def test_a_runs_directory_is_exported_as_its_sequence(tmp_path, asked, blobs, capsys):
    x = blobs[0]
    sequence = keras_ban.BornAgainSequence(classifier(), generations=1, directory=tmp_path / "run")
    sequence.compile(loss="mse", run_eagerly=True)
    sequence.fit(x, x[:, :3], validation_data=(x, x[:, :3]), verbose=0)

    assert 0 == command_line.main(["export", str(tmp_path / "run"), "out"])

    ((loaded, _, _),) = asked
    assert isinstance(loaded, keras_ban.BornAgainSequence)
    assert 2 == len(loaded.models)
    assert "" == capsys.readouterr().err

    change_manifest(tmp_path / "run", lambda manifest: manifest.update(finished=False))
    assert 0 == command_line.main(["export", str(tmp_path / "run"), "out"])
    assert "is not finished, of its generations 0 to 1 it has 2" in capsys.readouterr().err


def test_what_cannot_be_exported_is_said_on_standard_error_with_exit_code_1(tmp_path, model_file, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.keras").write_text("no model")
    (tmp_path / "broken.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(tmp_path / "examples.npz", images=np.ones((2, 8)))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "objects.npy").write_bytes(pickled_objects())
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9\n")
    wrong = [
        ([model_file[1], "out", "--examples", str(tmp_path / "pipe")], "pipe must be a regular file, but it is a pipe"),
        ([model_file[1], "out", "--examples", str(tmp_path / "objects.npy")], "must be a .npy or .npz file of NumPy"),
        ([model_file[1], "out", "--examples", str(tmp_path / "latin.txt")], "must be a .npy or .npz file of NumPy"),
        ([model_file[1], "out", "--labels", str(tmp_path / "latin.txt")], "latin.txt must be a text file in UTF-8"),
        ([model_file[1], "out", "--labels", str(tmp_path / "pipe")], "pipe must be a regular file, but it is a pipe"),
        ([model_file[1], "out", "--labels", str(tmp_path)], "must be a regular file, but it is a folder"),
        ([model_file[1], "out", "--labels", str(tmp_path / "none")], "No such file or directory"),
        ([str(tmp_path / "pipe"), "out"], "pipe is neither the directory of a run nor a .keras file"),
        ([str(tmp_path / "missing.keras"), "out"], "missing.keras is neither the directory of a run nor a .keras file"),
        ([str(tmp_path / "empty"), "out"], "empty holds no run"),
        ([str(tmp_path / "broken.keras"), "out"], "broken.keras cannot be loaded"),
        ([model_file[1], str(tmp_path / "empty")], "empty exists"),
        ([model_file[1], "out", "--examples", str(tmp_path / "examples.npz")], "must hold an array `x`"),
        ([model_file[1], "out", "--examples", str(tmp_path / "broken.npz")], "not a zip file"),
        ([model_file[1], "out", "--import", "no_such_module"], "No module named 'no_such_module'"),
    ]

    for arguments, message in wrong:
        assert 1 == command_line.main(["export", *arguments])
        assert message in capsys.readouterr().err


def pickled_objects():
    file = io.BytesIO()
    np.save(file, np.array([{}], object), allow_pickle=True)
    return file.getvalue()


VALUES = [None, [], {}, "x", -1, math.nan, [[[]]], 10**30, True]
GENERATIONS, COMPILE, MODEL = ("generations", 0, "files"), ("begun_with", "compile"), ("begun_with", "model", "0")
# Places in `run.json` where a value that is missing (`KeyError`), or of another type, ended in a traceback once.
CHANGES = [(GENERATIONS, None), (GENERATIONS, []), (GENERATIONS, {}), ((*GENERATIONS, "model.keras"), KeyError)]
CHANGES += [((*COMPILE, "optimizer"), value) for value in (None, {}, KeyError)] + [(COMPILE, KeyError)]
CHANGES += [(MODEL, value) for value in VALUES]
CHANGES += [(("begun_with", name), KeyError) for name in ("generations", "augmentation", "data", "model")]
CHANGES += [(("begun_with", "data", "x"), KeyError)]


def changed(data, place, value):
    data = copy.deepcopy(data)
    inner = functools.reduce(lambda part, name: part[name], place[:-1], data)
    if value is KeyError:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return data


def places_of(data):
    """Return the places of values in plain data, down to the second level."""
    inner = [(name, each) for name, part in data.items() if isinstance(part, dict) for each in part]
    return [(name,) for name in data] + inner


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    keras.utils.set_random_seed(0)
    x, y = make_blobs()
    folder = tmp_path_factory.mktemp("runs") / "run"
    sequence = keras_ban.BornAgainSequence(classifier(), generations=1, directory=folder)
    sequence.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
    sequence.fit(x, y, validation_data=(x, y), verbose=0)
    return folder


@pytest.mark.filterwarnings("ignore:[\\s\\S]*Nothing is compiled")
@pytest.mark.parametrize("changes", [CHANGES, "the manifest", "a record"], ids=["known", "manifest", "record"])
def test_a_run_of_values_that_no_run_has_written_is_refused_or_loaded(
    changes, finished_run, tmp_path, asked, capsys, monkeypatch
):
    run = shutil.copytree(finished_run, tmp_path / "run")
    manifest = manifest_file.read(run)
    record_path = run / "generation-00" / "record.json"
    record = json.loads(record_path.read_text())
    # Damaged models are another test's.
    models = [classifier(), classifier()]
    monkeypatch.setattr(export_command.model_file, "load", lambda path, custom_objects=None: models["01" in str(path)])
    if isinstance(changes, str):
        places = places_of(record if changes == "a record" else manifest)
        changes = [(place, each) for place, each in zip(places, itertools.cycle([KeyError, *VALUES]), strict=False)]
    codes = []

    for place, value in changes:
        if place[0] in record:
            content = json.dumps(changed(record, place, value)).encode()
            record_path.write_bytes(content)
            noted = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            manifest_file.write(run, changed(manifest, (*GENERATIONS, "record.json"), noted))
        else:
            manifest_file.write(run, changed(manifest, place, value))
        codes.append(command_line.main(["export", str(run), "out"]))
        assert (codes[-1] == 1) == capsys.readouterr().err.startswith("error: "), (place, value)
        for command in ("check", "compare", "summary"):
            code, shown = command_line.main([command, str(run)]), capsys.readouterr()
            lines = [*shown.err.splitlines(), *(line for line in shown.out.splitlines() if "not intact" in line)]
            assert code == len(lines) <= 1 and "Traceback" not in shown.err, (command, place, value, shown)

    assert {0, 1} == set(codes)


def test_the_formats_are_those_of_export():
    assert FORMATS == command_line.FORMATS


def test_a_wrong_command_line_ends_with_exit_code_2_and_help_with_0(capsys):
    options = (["--format", "pb"], ["--rescaling", "x"], ["--rescaling", "1/0"])
    for arguments in ([], ["export"], *(["export", "a", "b", *each] for each in options)):
        with pytest.raises(SystemExit) as end:
            command_line.main(arguments)
        assert 2 == end.value.code
    with pytest.raises(SystemExit) as end:
        command_line.main(["export", "--help"])
    assert 0 == end.value.code
    shown = capsys.readouterr().out
    assert [] == [
        words for words in ("RUN_OR_MODEL", "OUT", "--format", "--overwrite", "Exit codes") if words not in shown
    ]


@pytest.mark.slow
@pytest.mark.new_process
def test_the_command_exports_a_run_as_a_process(tmp_path, blobs):
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed, which writes what is exported")
    x, y = blobs
    sequence = keras_ban.BornAgainSequence(classifier(), generations=1, directory=tmp_path / "run")
    sequence.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sequence.fit(x, y, validation_data=(x, y), verbose=0)
    command = [sys.executable, "-m", "keras_ban", "export", tmp_path / "run", tmp_path / "serving" / "1", "--members"]

    result = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == result.returncode, result.stderr
    assert "difference" in result.stdout
    assert (tmp_path / "serving" / "1" / "saved_model.pb").is_file()
