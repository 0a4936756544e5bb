"""Sequences that are kept in a directory, and what is in it."""

import contextlib
import pathlib

import keras

from helpers.models import assert_same, classifier, crossentropy
from keras_ban import BornAgainSequence, GenerationRecord
from keras_ban._src.runs import manifest_file
from keras_ban._src.runs.directory import RunDirectory

# Compiled steps, several shuffled batches.
COMPILED = {"batch_size": 32, "epochs": 3}


class Interruption(keras.callbacks.Callback):
    """Stops a run as an error would, at the end of an epoch."""

    def __init__(self, epoch=0):
        super().__init__()
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.epoch:
            raise InterruptedError("by the test")


def interrupt_in(generation, epoch=0):
    return lambda now: [Interruption(epoch)] if now == generation else []


def sequence(directory=None, model=None, optimizer=None, eager=True, loss=None, metrics=("accuracy",), **arguments):
    """Dropout, BatchNorm and momentum, so that no part of the state may be lost without a trace."""
    model = classifier(dropout=0.3, batch_norm=True) if model is None else model
    made = BornAgainSequence(model, directory=directory, **{"generations": 2, "seed": 3, **arguments})
    optimizer = optimizer or keras.optimizers.Adam(0.02)
    made.compile(optimizer, loss or crossentropy(), metrics=list(metrics), run_eagerly=eager)
    return made


def fit(made, data, **arguments):
    """One step an epoch, unless told otherwise: what is not about shuffling need not take longer."""
    options = {"batch_size": 96, "epochs": 1, "verbose": 0, "validation_data": data}
    return made.fit(*data, **{**options, **arguments})


def run(directory, data, callbacks=None, fitting=None, **arguments):
    made = sequence(directory, **arguments)
    fit(made, data, callbacks=callbacks, **(fitting or {}))
    return made


def weights(models):
    """Without the states of random generators, which no file holds, and no later generation looks at."""
    return [keras.ops.convert_to_numpy(w.value) for model in models for w in model.weights]


def assert_same_run(expected, actual):
    assert_same(weights(expected.models), weights(actual.models))
    one, other = expected.history.to_dict(), actual.history.to_dict()
    for history in (one, other):
        for record in history["records"] + history.get("controls", {}).get("records", []):
            record.pop("seconds")
    assert one == other


def content(directory):
    """Every file's path and bytes, but for the lock's."""
    files = (path for path in pathlib.Path(directory).rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def names(directory):
    return sorted(path.name for path in pathlib.Path(directory).iterdir())


def record_of(generation):
    return GenerationRecord(generation, seed=7, epochs=2, logs={"loss": [0.5, 0.1 + 0.2], "val_loss": [float("nan")]})


@contextlib.contextmanager
def begun(path):
    with RunDirectory(path) as directory:
        directory.start({"fit": {"monitor": "val_loss", "mode": "min"}}, seed=1, versions={"keras_ban": "0"})
        yield directory


def write_model(path):
    path.write_bytes(b"model")


def change_manifest(directory, change):
    """Write the manifest as if the run had been of another kind: `change(manifest)` changes it in place."""
    manifest = manifest_file.read(directory)
    change(manifest)
    manifest_file.write(directory, manifest)
