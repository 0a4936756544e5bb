"""Studies of several lineages: who runs them, who wins, and who sees the test data."""

import json
import os
import pathlib
import signal
import sys
import time
import types
import unittest.mock

import keras
import numpy as np
import pytest
import study
from helpers.processes import ROOT, start_script

from keras_ban import BornAgainSequence

keras_tuner = pytest.importorskip("keras_tuner", reason="keras-tuner is not installed")
tuning = pytest.importorskip("tuning")
pytestmark = [
    pytest.mark.one_backend,
    # KerasTuner asks for a thread's name in a way that Python has deprecated.
    pytest.mark.filterwarnings("ignore:.*is deprecated:DeprecationWarning:keras_tuner\\."),
]


@pytest.fixture(autouse=True)
def no_clearing(monkeypatch):
    """It takes time, and there is nothing to clear. Studies in processes of their own do it."""
    monkeypatch.setattr(keras.utils, "clear_session", lambda free_memory=True: None)


@pytest.fixture
def data(tmp_path):
    """A .npz file of 4x4 images of three classes, and 12 of them to test on."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 72)
    x = rng.random((72, 4, 4)) + 0.7 * np.eye(3, 16).reshape(3, 4, 4)[y]
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    return path


def dense(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(classes)])


def losses_in(directory, seeds, which):
    """The best of the generations' validation losses, or the ensemble's, of a setting's runs, from their files."""
    for seed in seeds:
        run = pathlib.Path(f"{directory},seed={seed}")
        if which == "ensemble":
            yield json.loads((run / "run.json").read_text())["ensemble"]["nll"]
        else:
            records = [json.loads(path.read_text()) for path in run.glob("generation-*/record.json")]
            yield min(record["metrics"]["val_loss"] for record in records)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--seeds", "-1"], "--seeds: must be a whole number, at least 0, received: -1"),
        (["--seeds", "1.5"], "must be a whole number, at least 0, received: 1.5"),
        (["--temperatures", "1", "0"], "must be a positive number, received: 0"),
        (["--temperatures", "nan"], "must be a positive number, received: nan"),
        (["--label-weights", "1.2"], "must be between 0 and 1, received: 1.2"),
        (["--objectives", "cwtm", "--temperatures", "2"], "--temperatures: cwtm has none"),
        (["--workers", "0"], "must be a whole number, at least 1, received: 0"),
        (["--objectives", "hinton"], "invalid choice: 'hinton'"),
        (["--data", "nowhere.npz"], "--data nowhere.npz must be a .npz file: No such file"),
        (["--data", "text.npz"], "--data text.npz must be a .npz file"),
        (["--data", "half.npz"], "there is no x_test, y_test"),
        (["--out", "text.npz"], "--out text.npz is a file"),
        (["--out", "."], "--out . holds files, but no study"),
    ],
)
def test_wrong_options_end_with_a_message_and_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.npz").write_text("no arrays")
    np.savez("half.npz", x_train=np.zeros(1), y_train=np.zeros(1))

    with pytest.raises(SystemExit) as ended:
        study.main(arguments)

    assert 2 == ended.value.code
    assert message in capsys.readouterr().err


def test_training_and_validation_data_are_read_without_the_test_data(data):
    with np.load(data) as file:
        arrays = dict(file)
    # An array of objects cannot be read without leave, so whoever reads it fails.
    np.savez(data, **{**arrays, "x_test": np.array([{}]), "y_test": np.array([{}])})
    options = study.parse(["--data", str(data)])

    (x, y), (x_val, y_val) = study.load(options)

    assert [(54, 4, 4, 1), (6, 4, 4, 1)] == [x.shape, x_val.shape]
    assert sorted(arrays["y_train"]) == sorted([*y, *y_val])
    with pytest.raises(SystemExit, match="allow_pickle"):
        study.load_test(options)


def test_the_winner_has_the_best_mean_in_the_run_directories_and_alone_sees_the_test_data(
    data, tmp_path, monkeypatch, capsys
):
    seen, loaded = [], []
    evaluate, load_test = BornAgainSequence.evaluate, study.load_test
    monkeypatch.setattr(study, "build_cnn", dense)
    monkeypatch.setattr(study, "load_test", lambda options: loaded.append(1) or load_test(options))
    monkeypatch.setattr(
        BornAgainSequence, "evaluate", lambda self, x, y: seen.append((self.directory, len(x))) or evaluate(self, x, y)
    )
    arguments = ["--data", data, "--out", tmp_path / "out", "--temperatures", 4, "--epochs", 3]
    arguments += ["--label-weights", 0.5, 1, "--generations", 1]
    settings = ["kd,temperature=4,label_weight=0.5", "plain"]

    def run(seeds, choose_by):
        assert 0 == study.main([*arguments, "--seeds", *seeds, "--choose-by", choose_by])
        means = {
            name: np.mean(list(losses_in(tmp_path / "out" / "lineages" / name, seeds, choose_by))) for name in settings
        }
        results = json.loads((tmp_path / "out" / "results.json").read_text())
        best = min(means, key=means.get)
        printed = capsys.readouterr().out
        assert best == results["winner"]
        assert f"{best} *" in printed
        for name, mean in means.items():
            of_seeds = [row["value"] for row in results["lineages"] if row["setting"] == name]
            np.testing.assert_allclose(mean, np.mean(of_seeds), rtol=1e-12)  # The order of a sum.
        return [tmp_path / "out" / "lineages" / f"{best},seed={seed}" for seed in seeds], results, printed

    winners, first, printed = run([3, 5], "generation")
    assert ([1], [(winner, 12) for winner in winners]) == (loaded, seen)
    assert [3, 5] == first["test_looks"][0]["seeds"]
    assert "The winner on the test data (12 examples)" in printed
    assert (tmp_path / "out" / "study.png").stat().st_size > 10_000

    # The same again: nothing is trained, and the test data are not looked at.
    _, second, again = run([3, 5], "generation")
    assert ([1], 2) == (loaded, len(seen))
    assert first == second
    assert printed == again

    # Another way to choose is another look, and it says so.
    winners, third, printed = run([3], "ensemble")
    assert ([1, 1], 2, [(winner, 12) for winner in winners]) == (loaded, len(third["test_looks"]), seen[2:])
    assert "The test data have been looked at 1 time(s) before" in printed


def fitting_to(result):
    """In the place of a sequence: it fits at once, to a history or an error."""
    return types.SimpleNamespace(fit=unittest.mock.Mock(side_effect=[result]))


def tuner_of(settings, seeds, make, directory):
    lineages = tuning.Lineages(settings, seeds, make, directory, verbose=False)
    oracle = tuning.EveryCombination("val_loss")
    return lineages, tuning.LineageTuner(oracle, lineages, directory=directory / "tuner")


def test_every_combination_is_handed_out_once_and_no_worker_waits_for_another(tmp_path):
    _, tuner = tuner_of({"a": {}, "b": {}, "c": {}}, (0, 1), lambda **_: None, tmp_path)

    trials = [tuner.oracle.create_trial(f"worker{number}") for number in range(7)]

    assert ["RUNNING"] * 6 + ["STOPPED"] == [trial.status for trial in trials]
    expected = [{"seed": seed, "setting": setting} for seed in (0, 1) for setting in "abc"]
    assert expected == [trial.hyperparameters.values for trial in trials[:6]]


def test_lineages_that_become_nan_are_left_out_and_the_others_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tuning, "validation_loss", lambda history, choose_by: history)
    # As many as KerasTuner would give up after.
    settings = {name: {"result": FloatingPointError("NaN")} for name in ("one", "two", "three")}
    settings |= {"good": {"result": 0.5}, "better": {"result": 0.4}}
    lineages, tuner = tuner_of(settings, [7], lambda result, **_: fitting_to(result), tmp_path)

    tuner.search()

    assert {("good", 7): 0.5, ("better", 7): 0.4} == lineages.histories
    assert 0.4 == tuner.oracle.get_best_trials()[0].score


def test_any_other_error_of_a_lineage_ends_the_search(tmp_path):
    _, tuner = tuner_of({"a": {}}, (0, 1), lambda **_: fitting_to(ValueError("another run is in there")), tmp_path)

    with pytest.raises(keras_tuner.errors.FatalError, match="another run is in there"):
        tuner.search()


def start(*arguments):
    options = ["--backend", keras.config.backend(), "--epochs", 2, "--generations", 1, "--seeds", 0, 1]
    # Once JAX or TensorFlow has computed something, a fork may wait for ever.
    forks = keras.config.backend() == "torch"
    options += ["--temperatures", 4, *arguments]
    return start_script("examples/study.py", *options, forks=forks, environment={"PYTHONPATH": str(ROOT)})


def finish(*arguments):
    with start(*arguments) as process:
        result = process.result(900)
    assert 0 == result.returncode, result.stderr
    return result.stdout


def wait_for(path, process, workers=0):
    """Wait until the study has written a file and has so many workers. Return their process ids."""
    while not path.exists() or len(workers_of(process) if workers else []) < workers:
        assert process.poll() is None, process.result_so_far()
        time.sleep(0.01)
    return workers_of(process) if workers else []


def outcome(out):
    """All that does not depend on time."""
    results = json.loads((out / "results.json").read_text())
    for histories in [look["histories"] for look in results["test_looks"]]:
        for record in [record for history in histories for record in history["records"]]:
            del record["seconds"]
    for row in results["lineages"]:
        del row["seconds"]
    return results


def workers_of(process):
    """The process ids of the study's workers; the chief is the first child, so the last is a worker."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(child) for child in children.split()][1:]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The outcome of a study in one process."""
    pytest.importorskip("sklearn")
    out = tmp_path_factory.mktemp("study") / "out"
    finish("--out", out)
    return outcome(out)


@pytest.mark.slow
@pytest.mark.new_process
def test_a_study_that_was_killed_ends_as_one_that_was_not(uninterrupted, tmp_path):
    with start("--out", tmp_path / "out") as killed:
        # In the midst of the third of four lineages.
        wait_for(tmp_path / "out/lineages/kd,temperature=4,label_weight=0.3,seed=1/epoch.npz", killed)
        killed.kill()
        killed.result()
    assert not (tmp_path / "out" / "results.json").exists()

    finish("--out", tmp_path / "out")

    assert uninterrupted == outcome(tmp_path / "out")


@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it looks for the workers in /proc")
def test_workers_end_together_when_one_is_killed_and_the_study_goes_on_to_what_one_process_gets(
    uninterrupted, tmp_path
):
    options = ["--out", tmp_path / "out", "--workers", 2]
    lineage = "lineages/kd,temperature=4,label_weight=0.3,seed={}/epoch.npz"
    with start(*options) as process:
        workers = wait_for(tmp_path / "out" / lineage.format(0), process, workers=2)
        os.kill(workers[0], signal.SIGKILL)
        result = process.result()
    assert 1 == result.returncode
    assert "(code -9) ended before its time" in result.stderr
    assert "the same command goes on" in result.stderr
    assert not any(runs(worker) for worker in workers)

    # Their parent killed, workers end by themselves.
    with start(*options) as process:
        workers = wait_for(tmp_path / "out" / lineage.format(1), process, workers=2)
        process.kill()
        finish_by = time.monotonic() + 300
        while any(runs(worker) for worker in workers):
            assert time.monotonic() < finish_by
            time.sleep(0.1)

    printed = finish(*options)

    assert "plain, seed 1: validation loss" in printed
    assert uninterrupted == outcome(tmp_path / "out")


def runs(process_id):
    """Whether there is such a process, other than as a zombie that nobody has waited for."""
    try:
        return pathlib.Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
