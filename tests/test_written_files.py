"""Files that earlier versions wrote on each backend. This version reads them, and goes on with its backend's."""

import json
import shutil

import keras
import numpy as np
import pytest
from helpers import written
from helpers.keys import ORDER, TEXTS, arrays, keyed
from helpers.models import assert_same
from helpers.processes import ROOT

from keras_ban import BornAgainHistory, BornAgainSequence, SoftTargets

FOLDERS = sorted((ROOT / "tests" / "written").iterdir())
# A run goes on with the backend that it was begun with. Keras's optimizers, too, are not those of another backend.
OF_THIS_BACKEND = pytest.mark.parametrize(
    "folder",
    [each for each in FOLDERS if each.name.endswith(keras.config.backend())],
    indirect=True,
    ids=lambda folder: folder.name,
)


def keras_of(folder):
    """The version of Keras that wrote the folder."""
    return json.loads((folder / "run" / "run.json").read_text())["versions"]["keras"]


def version(text):
    return tuple(map(int, text.split(".")[:2]))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request, tmp_path):
    """A copy of what `helpers/written.py` wrote with an earlier version."""
    if version(keras.__version__) < version(keras_of(request.param)):
        pytest.skip(f"Keras {keras.__version__} reads no models of Keras {keras_of(request.param)}")
    return shutil.copytree(request.param, tmp_path / "written")


@pytest.fixture
def expected(folder):
    return dict(np.load(folder / "expected.npz"))


def predicts(expected, model, x):
    # float32 on another backend.
    np.testing.assert_allclose(expected, model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


def test_a_finished_run_is_loaded(folder, expected):
    loaded = BornAgainSequence.load(folder / "run")

    assert BornAgainHistory.from_json((folder / "history.json").read_text()) == loaded.history
    assert 2 == len(loaded.models)
    for number, model in enumerate(loaded.models):
        predicts(expected[f"generation {number}"], model, expected["x"])


@OF_THIS_BACKEND
def test_a_finished_run_is_known_again_by_fit(folder, expected, epochs_trained):
    x, y = expected["x"], expected["y"]
    sequence = written.sequence(folder / "run")

    sequence.fit(x, y, validation_data=(x, y), **written.FIT)

    assert [] == epochs_trained
    predicts(expected["generation 1"], sequence.models[1], x)


@OF_THIS_BACKEND
def test_an_interrupted_run_goes_on(folder, expected, epochs_trained):
    x, y = expected["x"], expected["y"]
    sequence = written.sequence(folder / "interrupted")

    sequence.fit(x, y, validation_data=(x, y), **written.FIT)

    # Another Keras begins the generation again.
    assert ([(1, 1)] if keras.__version__ == keras_of(folder) else [(1, 0), (1, 1)]) == epochs_trained
    assert 2 == len(sequence.models)
    predicts(expected["generation 0"], sequence.models[0], x)


@pytest.mark.parametrize("name", ["dense", "top-k", "views"])
def test_soft_targets_are_read(folder, expected, name):
    targets = SoftTargets.load(folder / f"{name}.npy")

    np.testing.assert_array_equal(expected[name], np.asarray(targets))
    targets.check(expected["x"])


def test_shards_by_key_are_read(folder, expected):
    targets = SoftTargets.load(folder / "shards")

    np.testing.assert_array_equal(expected["shards"], np.asarray(targets))
    x, y = targets.pair(keyed(TEXTS, ORDER))[0]
    assert_same([arrays()[0][ORDER[:16]], expected["shards"][ORDER[:16]]], [x, y["soft_targets"]])


def test_an_ensemble_and_a_distiller_are_loaded(folder, expected):
    predicts(expected["ensemble"], keras.saving.load_model(folder / "ensemble.keras"), expected["x"])
    predicts(expected["student"], keras.saving.load_model(folder / "distiller.keras").student, expected["x"])


@OF_THIS_BACKEND
def test_a_distiller_trains_on(folder, expected):
    distiller = keras.saving.load_model(folder / "distiller.keras")

    logs = distiller.fit(expected["x"], expected["y"], batch_size=96, verbose=0).history

    assert {"loss", "label_loss", "distillation_loss", "feature_loss", "label_weight", "accuracy"} == set(logs)
    assert 7 == int(distiller.optimizer.iterations)
    np.testing.assert_allclose(logs["label_weight"], [0.1], rtol=1e-6)  # float32. The schedule has ended.
