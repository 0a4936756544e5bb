"""`~` at the start of a path is the home folder, wherever a path is taken."""

import os
import pathlib

import keras
import numpy as np
import pytest
from helpers.models import classifier, crossentropy

import keras_ban
from keras_ban import BornAgainSequence, EnsembleModel, SoftTargets
from keras_ban._src.command import command_line

pytestmark = pytest.mark.one_backend


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The home folder. The working directory must stay empty."""
    work = tmp_path / "work"
    work.mkdir()
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.chdir(work)
    yield tmp_path
    assert [] == os.listdir(work)


@pytest.fixture
def run(home, blobs):
    """A finished run in `~/run`."""
    sequence = BornAgainSequence(classifier(), generations=1, directory="~/run", seed=0)
    sequence.compile("sgd", crossentropy())
    sequence.fit(*blobs, verbose=0, validation_data=blobs)
    return sequence


def test_a_sequence(run, home):
    assert home / "run" == pathlib.Path(run.directory)
    assert (home / "run" / "run.json").is_file()
    assert 2 == len(BornAgainSequence.load("~/run").models)


@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_soft_targets(home, blobs, kind):
    teacher = classifier()
    made = SoftTargets.from_teacher(teacher, blobs[0], path=kind("~/made.npy"), verbose=0)
    made.save(kind("~/saved.npy"))

    for name in ("made", "saved"):
        assert (home / f"{name}.npy").is_file()
        np.testing.assert_array_equal(made.to_dense(), SoftTargets.load(kind(f"~/{name}.npy")).to_dense())


def test_plots_and_reports(run, home):
    pytest.importorskip("matplotlib")
    run.history.plot("~/plot.png")
    run.history.report("~/report.html")

    assert (home / "plot.png").is_file() and (home / "report.html").is_file()


def test_exports(home, blobs):
    pytest.importorskip("tensorflow")
    model = classifier()
    keras_ban.export(model, "~/served/1", verify=False, verbose=False)

    assert (home / "served" / "1" / "saved_model.pb").is_file()
    with pytest.raises(ValueError, match="exists. Choose another path"):
        keras_ban.export(model, "~/served/1")


def test_an_ensembles_own_export(home, monkeypatch):
    paths = []
    monkeypatch.setattr(keras.Model, "export", lambda self, filepath, **options: paths.append(filepath))
    EnsembleModel([classifier()]).export("~/ensemble")

    assert [home / "ensemble"] == paths


def test_the_command_line(run, home, capsys):
    pytest.importorskip("matplotlib")
    for command in (["check", "~/run"], ["summary", "~/run"], ["compare", "~/run"]):
        assert 0 == command_line.main(command)
    assert 0 == command_line.main(["report", "~/run", "--out=~/report.html"])
    assert (home / "report.html").is_file()
    assert home / "runs" == command_line.parse(["train", "digits", "--out=~/runs"]).out


def test_a_home_folder_that_is_not_there_is_told(home, capsys):
    with pytest.raises(ValueError, match="`directory` is '~nobody-at-all/run', .* no such home folder.* write './~no"):
        BornAgainSequence(classifier(), directory="~nobody-at-all/run")
    with pytest.raises(SystemExit):
        command_line.parse(["check", "~nobody-at-all/run"])
    assert "there is no home folder ~nobody-at-all/run; write ./~nobody-at-all/run" in capsys.readouterr().err


def test_only_the_start_of_a_path_is_replaced(home, blobs):
    SoftTargets.from_teacher(classifier(), blobs[0], path=home / "a~b.npy", verbose=0)
    assert (home / "a~b.npy").is_file()
    assert "plain" == BornAgainSequence(classifier(), directory="plain").directory
