"""`benchmarks/digits_seeds.py`: the digits example, run once for each seed."""

import keras
import pytest
from helpers.processes import run_script


@pytest.mark.slow
@pytest.mark.new_process
def test_the_benchmark_over_seeds_reports_each_generation(tmp_path):
    pytest.importorskip("sklearn")
    options = ["--seeds", 0, 1, "--backend", keras.config.backend(), "--epochs", 1, "--generations", 1]

    result = run_script("benchmarks/digits_seeds.py", *options, "--out", tmp_path, forks=True)

    assert 0 == result.returncode, result.stderr
    assert "ensemble (against 0)" in result.stdout
