"""Fixtures and options that all tests share. Every test runs on the backend that `KERAS_BACKEND` names.

Keras is imported inside the fixtures: pytest-xdist's controller reads this file too, and importing Keras takes seconds.
"""

import os
import signal

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Shells let their background jobs ignore Ctrl-C. Tests send it to this process, and to those that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Begin with the tests that start processes. They take longest, and one of pytest-xdist's workers gets them all."""
    items.sort(key=lambda item: item.get_closest_marker("new_process") is None)


@pytest.fixture(autouse=True)
def reset_keras():
    """Start each test with the same random numbers. Restore Keras's global state after it."""
    import keras

    keras.utils.set_random_seed(0)
    yield
    keras.config.set_dtype_policy("float32")
    keras.utils.clear_session(free_memory=False)


@pytest.fixture
def blobs():
    from helpers.data import make_blobs

    return make_blobs()


@pytest.fixture
def epochs_trained(monkeypatch):
    """`(generation, epoch)` of each epoch that is trained without the user's callbacks."""
    from keras_ban._src.runs.epochs import KeepEpochs

    seen, original = [], KeepEpochs.on_epoch_begin

    def note(self, epoch, logs=None):
        seen.append((self.generation, epoch))
        original(self, epoch, logs)

    monkeypatch.setattr(KeepEpochs, "on_epoch_begin", note)
    return seen
