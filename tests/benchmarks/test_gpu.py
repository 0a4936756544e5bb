"""`benchmarks/gpu.py`, small and on a CPU."""

import argparse

import gpu
import keras
import pytest
from helpers.processes import ROOT, run_script

BACKEND = keras.config.backend()
SMALL = ["--models", "MLP", "--steps", "2", "--rounds", "1", "--long", "1", "--no-memory"]


def run(*options):
    # The processes that it starts import this checkout, too.
    path = {"PYTHONPATH": str(ROOT)}
    result = run_script(ROOT / "benchmarks" / "gpu.py", "--backends", BACKEND, *SMALL, *options, environment=path)
    assert 0 == result.returncode, result.stderr
    return result.stdout


@pytest.mark.new_process
def test_the_table_has_a_row_for_short_and_long_fits_of_each_batch_size():
    rows = [line.split(" | ") for line in run().splitlines() if "MLP, float32" in line]

    expected = [(f"| {BACKEND}, MLP, float32, {size}", fit) for size in (64, 1024) for fit in ("short", "long")]
    assert expected == [(row[0], row[2]) for row in rows]
    assert all(float(cell.rstrip(" |")) > 0 for row in rows for cell in (row[1], *row[3:]))


@pytest.mark.new_process
@pytest.mark.one_backend
def test_what_there_was_no_time_for_is_named():
    output = run("--minutes", "0")

    assert f"Left out after 0.0 minutes: {BACKEND} MLP float32 64; " in output


def test_peak_memory_is_a_number_of_mebibytes():
    arguments = argparse.Namespace(measure=["MLP", "float32", "8", "cached"], steps=2)
    result = gpu.measure(arguments)

    # Keras and a model of 3 million weights take more than 100 MiB, and less than all of a small machine.
    assert 100 < result["peak_mebibytes"] < 16_000
