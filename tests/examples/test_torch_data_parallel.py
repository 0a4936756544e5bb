"""`examples/distributed/torch_data_parallel.py`: several processes train what one trains."""

import keras
import numpy as np
import pytest
from helpers.processes import run_script

from keras_ban import BornAgainHistory


@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.skipif(keras.config.backend() != "torch", reason="torch.distributed is torch's")
def test_two_processes_on_torch_train_the_generations_that_one_trains(tmp_path):
    pytest.importorskip("sklearn")
    histories = []
    for workers in (1, 2):
        options = ["--workers", workers, "--generations", 1, "--epochs", 3, "--out", tmp_path / str(workers)]
        result = run_script("examples/distributed/torch_data_parallel.py", *options, forks=True)
        assert 0 == result.returncode, result.stderr
        assert f"Trained by {workers} workers" in result.stdout
        histories.append(BornAgainHistory.from_json((tmp_path / str(workers) / "history.json").read_text()))

    one, two = ([record.metrics["val_loss"] for record in history.records] for history in histories)
    np.testing.assert_allclose(two, one, rtol=1e-4)  # Sums in another order, through 30 steps of Adam.
