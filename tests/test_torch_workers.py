"""Data parallelism on torch: two processes on the loopback interface train as one does.

What they train is in `torch_cases.py`; both are started once for all tests.
"""

import contextlib
import pickle
import re
import signal
import socket

import keras
import numpy as np
import oracles
import pytest

if keras.config.backend() != "torch":
    pytest.skip("torch.distributed is torch's", allow_module_level=True)

from helpers import torch_cases
from helpers.processes import Process

pytestmark = pytest.mark.new_process
# Sums in another order, through two epochs of Adam.
ROUNDING = {"rtol": 1e-5, "atol": 1e-6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where two workers have left what they saw, and what they said; the second was killed at the end."""
    folder = tmp_path_factory.mktemp("workers")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    with contextlib.ExitStack() as running:
        workers = [
            running.enter_context(
                Process(torch_cases.worker, rank, str(folder), environment={**environment, "RANK": str(rank)})
            )
            for rank in (0, 1)
        ]
        results = [worker.result(seconds=240) for worker in workers]
    assert [1, -signal.SIGKILL] == [result.returncode for result in results], results
    (folder / "said").write_text(results[0].stderr)
    return folder


@pytest.fixture(scope="module")
def together(folder):
    return [pickle.loads((folder / f"worker_{rank}").read_bytes()) for rank in (0, 1)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return dict(torch_cases.every(0, tmp_path_factory.mktemp("alone"), together=False))


def assert_close(expected, actual, case="", **tolerance):
    keras.tree.assert_same_structure(expected, actual)
    for e, a in zip(keras.tree.flatten(expected), keras.tree.flatten(actual), strict=True):
        np.testing.assert_allclose(a, e, err_msg=case, **(tolerance or ROUNDING))


# Tables within tests: both processes of pytest-xdist would start the workers for a table of tests.
def test_two_workers_train_as_one_does(together, alone):
    cases = ["divergence", "confidence", "correlation", "permuted", "scheduled", "plain", "unlabeled"]
    for case in [*cases, "masked", "features", "outputs", "stored", "parts"]:
        first, second = (results[case] for results in together)

        assert_close(second, first, case, rtol=0, atol=0)
        assert_close(alone[case], {name: first[name] for name in alone[case]}, case)
    # The epoch, which a DistributedSampler is told.
    assert [1, 1] == [results["parts"]["epoch"] for results in together]


def test_statistics_of_a_batchnorm_are_the_mean_over_the_workers(together, alone):
    first, second = (results["normalised"] for results in together)

    keras.tree.map_structure(np.testing.assert_array_equal, first, second)
    np.testing.assert_allclose(first["mean"], alone["normalised"]["mean"], **ROUNDING)
    # Each normalises by what it saw itself, so that the workers together are not the same as one.
    assert np.abs(first["variance"] - alone["normalised"]["variance"]).max() > 1e-4


def test_workers_draw_random_numbers_of_their_own_and_hold_the_same_state(together, alone):
    first, second = (results["random"] for results in together)

    keras.tree.map_structure(np.testing.assert_array_equal, first, second)
    assert (first["drawn"][0] != first["drawn"][1]).any()
    np.testing.assert_array_equal(alone["random"]["state"], first["state"])


def test_each_worker_mixes_its_own_part_and_the_labels_go_with_it(together):
    first, second = (results["mixed"] for results in together)

    keras.tree.map_structure(np.testing.assert_array_equal, first, second)
    parts = [np.split(whole.reshape(23, -1).astype("float64"), [12]) for whole in torch_cases.MIXED]
    seen, labels = (np.concatenate([(part + np.roll(part, 1, 0)) / 2 for part in each]) for each in parts)
    (kernel,) = first["before"]
    gradient = seen.T @ (oracles.softmax(seen @ kernel) - labels) / 23
    np.testing.assert_allclose(first["weights"][0], kernel - 0.5 * gradient, **ROUNDING)


def test_what_would_train_something_else_is_refused_by_all_workers(together):
    for case, message in {
        "undivided": "DistributedSampler.*Received a `DataLoader` with a RandomSampler",
        "same parts": "read the same first batch",
        "without a length": "pass `steps_per_epoch`",
        "other lengths of sequences": "differ in shape or dtype",
        "other batches": "given different data or arguments.*'batch_size': 4.*'batch_size': 5",
        "another order": "the same in another order",
        "other validation": "validation gave different numbers",
        "other models": "hold different models",
        "compiled": "leave `jit_compile=True` out",
        "one batch": "`train_on_batch` knows of no other workers",
    }.items():
        for results in together:
            assert re.search(message, results[case], re.DOTALL), (case, results[case])


def test_a_worker_that_is_killed_ends_the_others_and_the_run_goes_on(folder, tmp_path):
    said = (folder / "said").read_text()

    assert "Worker 0 of 2 (counted from 0) waited for another in vain" in said
    assert "keeps generation 0, and the next one up to the end of epoch 1" in said
    assert_close(torch_cases.sequence(tmp_path / "run"), torch_cases.sequence(folder / "run"))
