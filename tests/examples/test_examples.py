"""The examples as a user runs them: as processes."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_ban import BornAgainHistory

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def table_without_seconds(text):
    lines = text[text.index("Generations on test data") :].splitlines()
    return [line.rsplit(maxsplit=1)[0] if line[:4].strip(" e").isdigit() else line for line in lines[:7]]


@pytest.mark.one_backend
def test_digits_trains_prints_its_table_and_writes_its_files(tmp_path):
    pytest.importorskip("sklearn")
    options = ["--backend", keras.config.backend(), "--epochs", 2, "--generations", 1]

    first = run("examples/digits.py", *options, "--out", tmp_path / "first")
    second = run("examples/digits.py", *options, "--out", tmp_path / "second")

    assert 0 == first.returncode, first.stderr
    for word in ("Generation 1 of 1", "accuracy", "NLL", "ECE", "change", "agreement", "neg. flips", "ensemble of 2"):
        assert word in first.stdout
    assert {"best.keras", "generations.png", "history.json"} == {path.name for path in (tmp_path / "first").iterdir()}
    histories = [
        BornAgainHistory.from_json((tmp_path / name / "history.json").read_text()) for name in ("first", "second")
    ]
    assert 1197 == histories[0].ensemble.examples
    assert [record.scores for record in histories[0].records] == [record.scores for record in histories[1].records]
    assert table_without_seconds(first.stdout)[:3] == table_without_seconds(second.stdout)[:3]
    assert (8, 8, 1) == keras.saving.load_model(tmp_path / "first" / "best.keras").input_shape[1:]


def test_digits_explains_its_options():
    result = run("examples/digits.py", "--help")

    assert 0 == result.returncode
    for option in ("--seed", "--generations", "--epochs", "--out", "--backend"):
        assert option in result.stdout


@pytest.mark.slow
@pytest.mark.skipif(keras.config.backend() != "torch", reason="torch.distributed is torch's")
def test_two_processes_on_torch_train_the_generations_that_one_trains(tmp_path):
    pytest.importorskip("sklearn")
    histories = []
    for workers in (1, 2):
        options = ["--workers", workers, "--generations", 1, "--epochs", 3, "--out", tmp_path / str(workers)]
        result = run("examples/distributed/torch_data_parallel.py", *options)
        assert 0 == result.returncode, result.stderr
        assert f"Trained by {workers} workers" in result.stdout
        histories.append(BornAgainHistory.from_json((tmp_path / str(workers) / "history.json").read_text()))

    one, two = ([record.metrics["val_loss"] for record in history.records] for history in histories)
    np.testing.assert_allclose(two, one, rtol=1e-4)  # Sums in another order, through 30 steps of Adam.


@pytest.mark.slow
def test_the_benchmark_over_seeds_reports_each_generation(tmp_path):
    pytest.importorskip("sklearn")
    options = ["--seeds", 0, 1, "--backend", keras.config.backend(), "--epochs", 1, "--generations", 1]

    result = run("benchmarks/digits_seeds.py", *options, "--out", tmp_path)

    assert 0 == result.returncode, result.stderr
    assert "ensemble (against 0)" in result.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "teacher, student", [("densenet", "resnet"), ("resnet", "densenet"), ("wide_resnet", "small_resnet")]
)
def test_born_again_as_another_architecture_prints_its_table(teacher, student):
    pytest.importorskip("sklearn")
    if "densenet" in (teacher, student):
        pytest.importorskip("keras_cv", reason="KerasCV, or the TensorFlow that it needs, is not installed")
    options = ["--backend", keras.config.backend(), "--epochs", 1, "--generations", 1]

    result = run("examples/cross_architecture.py", "--teacher", teacher, "--student", student, *options)

    assert 0 == result.returncode, result.stderr
    for words in (f"teacher: {teacher}", f"students: {student}", "test data (1197 examples)", "ensemble of 2"):
        assert words in result.stdout
