"""The models of a run that was loaded are read when they are used."""

import shutil

import keras
import pytest
from helpers.models import assert_same
from helpers.runs import assert_same_run, fit, interrupt_in, run, weights

from keras_ban import BornAgainSequence, EnsembleModel
from keras_ban._src.files import model_file
from keras_ban._src.sequence.stored_run import StoredModels


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of three generations."""
    from helpers.data import make_blobs

    data = make_blobs()
    return run(tmp_path_factory.mktemp("runs") / "run", data)


@pytest.fixture
def reads(monkeypatch):
    """The folders of the models that were read."""
    seen, original = [], model_file.load

    def load(path, custom_objects=None):
        seen.append(path.parent.name)
        return original(path, custom_objects)

    monkeypatch.setattr(model_file, "load", load)
    return seen


# What is done with a sequence that was loaded, and the generations that are read for it.
USES = {
    "nothing": (lambda loaded, data: loaded.history.summary(), []),
    "the number of models": (lambda loaded, data: (len(loaded.models), bool(loaded.models), repr(loaded)), []),
    "how the list looks": (lambda loaded, data: repr(loaded.models), []),
    "one": (lambda loaded, data: loaded.models[1].predict(data[0], verbose=0), [1]),
    "one, from the end": (lambda loaded, data: loaded.models[-1], [2]),
    "one, twice": (lambda loaded, data: loaded.models[1] is loaded.models[1], [1]),
    "the best": (lambda loaded, data: loaded.best_model.evaluate(*data, verbose=0), None),
    "a slice": (lambda loaded, data: loaded.models[1:], [1, 2]),
    "the model": (lambda loaded, data: loaded.model is loaded.models[0], [0]),
    "the ensemble of the last": (lambda loaded, data: loaded.ensemble(last=1), [2]),
    "the ensemble": (lambda loaded, data: loaded.ensemble().evaluate(*data, verbose=0), [2, 0, 1]),
    "an ensemble of all": (lambda loaded, data: EnsembleModel(loaded.models), [0, 1, 2]),
    "scores of all": (lambda loaded, data: loaded.evaluate(*data), [2, 0, 1]),
    "all": (lambda loaded, data: list(loaded.models), [0, 1, 2]),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.one_backend
def test_a_model_is_read_when_it_is_first_used_and_then_kept(name, finished, reads, blobs):
    use, expected = USES[name]
    loaded = BornAgainSequence.load(finished.directory)
    assert [] == reads

    first, second = use(loaded, blobs), use(loaded, blobs)

    expected = [loaded.history.best_generation] if expected is None else expected
    assert [f"generation-{generation:02d}" for generation in expected] == reads
    assert (first is None) == (second is None)


def test_models_that_are_read_are_those_of_the_run_and_compiled_as_they_were(finished, blobs):
    loaded = BornAgainSequence.load(finished.directory)
    for expected, actual in zip(finished.models, loaded.models, strict=True):
        assert expected.evaluate(*blobs, verbose=0) == actual.evaluate(*blobs, verbose=0)
        assert expected.optimizer.get_config() == actual.optimizer.get_config() | {
            "name": expected.optimizer.get_config()["name"]
        }
    assert_same_run(finished, loaded)


@pytest.mark.one_backend
def test_models_are_a_list():
    names, read = ["a", "b", "c"], []
    models = StoredModels([lambda name=name: read.append(name) or name for name in names])
    assert 3 == len(models) and [] == read
    assert "StoredModels([not read yet, not read yet, not read yet])" == repr(models)
    assert "b" == models[1] == models[-2] and ["b"] == read
    assert "StoredModels([not read yet, 'b', not read yet])" == repr(models)
    assert ["b", "c"] == models[1:] and ["c", "b"] == models[:0:-1] and "a" in models and 2 == models.index("c")
    assert names == models and models == names and models != ["a"] and models != "abc"
    assert models == StoredModels([lambda name=name: name for name in names])
    others = [1]
    assert [*names, 1] == models + others and [1, *names] == others + models and names * 2 == models + models
    assert names == list(models) and names[::-1] == list(reversed(models)) and ["b", "c", "a"] == read
    for wrong in (3, -4):
        with pytest.raises(IndexError):
            models[wrong]
    for wrong in ("a", (1,)):
        with pytest.raises(TypeError):
            models + wrong
        with pytest.raises(TypeError):
            wrong + models


class Doubling(keras.layers.Layer):
    """Not registered with Keras."""

    def call(self, x):
        return 2 * x


@pytest.mark.one_backend
def test_a_class_of_any_generation_that_keras_does_not_know_is_named_before_it_is_used(blobs, tmp_path, reads):
    def build(generation):
        layers = [Doubling()] if generation == 1 else []
        return keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(3)])

    run(tmp_path, blobs, model=build)
    with pytest.raises(ValueError, match="(?s)generation-01/model.keras cannot be loaded.*'Doubling'.*custom_objects"):
        BornAgainSequence.load(tmp_path)
    reads.clear()
    loaded = BornAgainSequence.load(tmp_path, {"Doubling": Doubling})
    assert [] == reads
    loaded.models[1].predict(blobs[0], verbose=0)


@pytest.mark.one_backend
def test_a_model_that_could_not_be_read_is_read_when_its_file_is_back(finished, tmp_path, blobs):
    directory = shutil.copytree(finished.directory, tmp_path / "run")
    loaded = BornAgainSequence.load(directory)
    path = directory / "generation-01" / "model.keras"
    path.rename(tmp_path / "model.keras")

    with pytest.raises(ValueError, match=f"{path} is not there any more. Restore the file from a copy"):
        loaded.ensemble()
    loaded.models[0].predict(blobs[0], verbose=0)
    data = bytearray((tmp_path / "model.keras").read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{path} was altered"):
        loaded.models[1]

    (tmp_path / "model.keras").rename(path)
    assert_same(weights(finished.models), weights(loaded.models))


@pytest.mark.one_backend
def test_the_first_compile_arguments_are_those_of_all_models(finished, reads):
    loaded = BornAgainSequence.load(finished.directory)
    before = loaded.models[0]
    loaded.compile("sgd", "mse")
    assert all(isinstance(model.optimizer, keras.optimizers.Adam) for model in (before, *loaded.models))
    assert isinstance(loaded.ensemble().optimizer, keras.optimizers.SGD)


def test_a_run_goes_on_after_loading_bit_for_bit_whatever_was_used_before(finished, blobs, tmp_path):
    with pytest.raises(InterruptedError):
        run(tmp_path, blobs, interrupt_in(2))
    loaded = BornAgainSequence.load(tmp_path)
    loaded.models[1].fit(*blobs, verbose=0)  # A model in memory. The run has its file.

    fit(loaded, blobs)

    assert_same_run(finished, loaded)
