"""A run is continued with what it was begun with, or not at all: each difference is named."""

import json
import re
import shutil

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import classifier
from helpers.runs import COMPILED, change_manifest, content, run, sequence

from keras_ban import BornAgainSequence
from keras_ban._src.runs.differences import differences
from keras_ban.losses import KnowledgeDistillation

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def blobs():
    return make_blobs()


@pytest.fixture(scope="module")
def finished(blobs, tmp_path_factory):
    """The directory of a finished run."""
    directory = tmp_path_factory.mktemp("runs") / "finished"
    run(directory, blobs, eager=False, fitting=COMPILED)
    return directory


@pytest.fixture
def copied(finished, tmp_path):
    """A copy of the finished run, whose manifest is changed."""
    return shutil.copytree(finished, tmp_path / "copied")


def test_each_difference_is_named_with_what_was_and_what_came(finished, blobs):
    x, y = blobs
    before = content(finished)
    model = classifier(dropout=0.3, batch_norm=True, units=17)
    changed = {"model": model, "optimizer": keras.optimizers.Adam(0.01), "seed": 4, "label_weight": 0.3}
    changed |= {"distillation_loss": KnowledgeDistillation(temperature=2.0), "eager": True, "generations": 1}
    changed |= {"augmentation": keras.layers.GaussianNoise(0.5), "views": 2, "top_k": 2}
    with pytest.raises(ValueError) as error:
        run(finished, (x[::-1], y), **changed, fitting={**COMPILED, "batch_size": 16, "shuffle": False})

    lines = str(error.value).splitlines()
    found = {line[2:].split(":")[0]: line.split(": ", 1)[1] for line in lines if line.startswith("- ")}
    for name, (there, now) in {
        "seed": (3, 4),
        "generations": (2, 1),
        "label_weight": (0.5, 0.3),
        "views": ("null", 2),
        "top_k": ("null", 2),
        "distillation_loss.config.temperature": (1.0, 2.0),
        "fit.batch_size": (32, 16),
        "fit.shuffle": ("null", "false"),
        "compile.run_eagerly": ("false", "true"),
        "model.0.config.layers[0].config.units": (16, 17),
    }.items():
        assert f"{there} in the directory, {now} now" == found.pop(name)
    assert found.pop("augmentation").startswith("null in the directory, ")
    # The rate is kept as float32 or float64, by the backend; the data by fingerprints.
    assert re.match(
        r"0.0(2|1999999955296516\d*) in the directory, 0.0(1|0999999977648258\d*) now",
        found.pop("compile.optimizer.config.learning_rate"),
    )
    assert {
        "model.0.weights",
        "model.0.not_trained",
        "data.x[0].fingerprint",
        "data.validation_data[0].fingerprint",
    } == set(found)
    assert "or begin another run in a new directory" in lines[-1]
    assert before == content(finished)


def test_labels_weights_epochs_and_monitor_count_too(finished, blobs):
    data = {"x": blobs[0], "y": blobs[1], "validation_data": blobs, "verbose": 0, **COMPILED}
    for name, value in {
        "data.y": np.zeros(96, "int64"),
        "data.sample_weight": np.ones(96),
        "fit.epochs": 2,
        "fit.monitor": "val_accuracy",
    }.items():
        with pytest.raises(ValueError, match=f"- {re.escape(name)}"):
            sequence(finished, eager=False).fit(**{**data, name.split(".")[1]: value})


def test_frozen_weights_are_part_of_the_model(blobs, tmp_path):
    def frozen(bias):
        model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dense(3)])
        model.layers[0].trainable = False
        model.layers[0].kernel.assign(np.full((8, 4), bias))
        return model

    run(tmp_path, blobs, model=frozen(0.1), generations=1)
    run(tmp_path, blobs, model=frozen(0.1), generations=1)
    with pytest.raises(ValueError, match=r"- model\.0\.not_trained"):
        run(tmp_path, blobs, model=frozen(0.2), generations=1)


def functional(skip):
    inputs = keras.Input((8,))
    first = keras.layers.Dense(3)(inputs)
    second = keras.layers.Dense(3)(first)
    third = keras.layers.Dense(3)(second)
    return keras.Model(inputs, keras.layers.Add()([third, first if skip else second]))


def test_names_that_keras_numbers_make_no_other_model_but_connections_do(blobs, tmp_path):
    metrics = [keras.metrics.MeanMetricWrapper(keras.metrics.sparse_categorical_accuracy)]
    run(tmp_path, blobs, model=functional(True), generations=1, metrics=metrics)
    model = functional(True)
    assert model.layers[1].name != functional(True).layers[1].name
    metrics = [keras.metrics.MeanMetricWrapper(keras.metrics.sparse_categorical_accuracy)]

    run(tmp_path, blobs, model=model, generations=1, metrics=metrics)

    with pytest.raises(ValueError, match=r"- model\.0\.config.*keras_history"):
        run(tmp_path, blobs, model=functional(False), generations=1, metrics=metrics)


def test_another_backend_is_refused_by_fit_and_taken_by_load(copied, blobs):
    change_manifest(copied, lambda manifest: manifest["begun_with"].update(backend="theano"))

    with pytest.raises(ValueError, match='- backend: "theano" in the directory, "'):
        run(copied, blobs, eager=False, fitting=COMPILED)
    assert 3 == len(BornAgainSequence.load(copied).models)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_another_version_is_warned_of_while_generations_are_to_come(copied, blobs):
    change_manifest(copied, lambda manifest: manifest["versions"].update(keras="3.0.0"))
    run(copied, blobs, eager=False, fitting=COMPILED)
    change_manifest(copied, lambda manifest: manifest.update(finished=False))

    with pytest.warns(UserWarning, match="was begun with .*'keras': '3.0.0'"):
        run(copied, blobs, eager=False, fitting=COMPILED)


def test_names_differ_unless_it_is_by_the_number_that_keras_adds():
    nan = {"mask_value": float("nan")}
    for there, now, expected in [
        ({"optimizer": {"name": "adam_2"}, "size": 1}, {"optimizer": {"name": "adam_7"}, "size": 1}, []),
        (
            {"optimizer": {"name": "adam_2"}, "size": 1},
            {"optimizer": {"name": "sgd"}, "size": 1},
            ['optimizer.name: "adam_2" in the directory, "sgd" now'],
        ),
        (nan, json.loads(json.dumps(nan)), []),
        ({"size": [*range(30)]}, {"size": [*range(31)]}, ["size: 30 entries in the directory, 31 entries now"]),
    ]:
        assert expected == list(differences(there, now))
