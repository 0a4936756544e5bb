"""`examples/digits.py` as a user runs it."""

import os
import subprocess
import sys

import keras
import pytest
from helpers.processes import ROOT, run_script

from keras_ban import BornAgainHistory

pytestmark = [pytest.mark.one_backend, pytest.mark.new_process]


def table_without_seconds(text):
    lines = text[text.index("Generations on test data") :].splitlines()
    return [line.rsplit(maxsplit=1)[0] if line[:4].strip(" e").isdigit() else line for line in lines[:7]]


def test_digits_trains_prints_its_table_and_writes_its_files(tmp_path):
    pytest.importorskip("sklearn")
    options = ["--backend", keras.config.backend(), "--epochs", 2, "--generations", 1, "--out"]

    first, second = (run_script("examples/digits.py", *options, tmp_path / name) for name in ("first", "second"))

    assert 0 == first.returncode, first.stderr
    for word in ("Generation 1 of 1", "accuracy", "NLL", "ECE", "cal.", "change", "agree", "flips", "ensemble of 2"):
        assert word in first.stdout
    assert {"best.keras", "generations.png", "history.json"} == {path.name for path in (tmp_path / "first").iterdir()}
    histories = [
        BornAgainHistory.from_json((tmp_path / name / "history.json").read_text()) for name in ("first", "second")
    ]
    assert 1197 == histories[0].ensemble.examples
    assert [record.scores for record in histories[0].records] == [record.scores for record in histories[1].records]
    assert table_without_seconds(first.stdout)[:3] == table_without_seconds(second.stdout)[:3]
    assert (8, 8, 1) == keras.saving.load_model(tmp_path / "first" / "best.keras").input_shape[1:]


@pytest.mark.slow
def test_digits_runs_in_a_new_interpreter_on_the_backend_of_its_option(tmp_path):
    pytest.importorskip("sklearn")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "numpy"}
    command = [sys.executable, ROOT / "examples" / "digits.py", "--backend", keras.config.backend(), "--epochs", "1"]

    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    assert 0 == result.returncode, result.stderr
    assert f"on {keras.config.backend()}" in result.stdout


def test_digits_explains_its_options():
    result = run_script("examples/digits.py", "--help")

    assert 0 == result.returncode
    for option in ("--seed", "--generations", "--epochs", "--out", "--backend"):
        assert option in result.stdout
