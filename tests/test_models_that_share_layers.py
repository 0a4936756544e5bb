"""Models that share layers, as builders give that use one pretrained base, one `Normalization` or one preprocessor."""

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, crossentropy
from helpers.sequences import FIT
from helpers.tasks import text_task, texts_of_words

from keras_ban import BornAgainSequence, Distiller, EnsembleModel, reborn
from keras_ban._src.ensemble.member_copies import separated
from keras_ban._src.export.served import ServedModel
from keras_ban._src.files import model_file


def with_a_frozen_base():
    base = keras.Sequential([keras.Input((8,)), keras.layers.Dense(6), keras.layers.BatchNormalization()])
    base.trainable = False

    def build(generation):
        inputs = keras.Input((8,))
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(base(inputs)))

    return build, make_blobs()


def with_a_normalization():
    x, y = make_blobs()
    normalization = keras.layers.Normalization()
    normalization.adapt(x)
    return lambda generation: keras.Sequential([keras.Input((8,)), normalization, keras.layers.Dense(CLASSES)]), (x, y)


def with_a_preprocessor():
    task = text_task()
    return lambda generation: reborn(task), texts_of_words()


BUILDERS = [with_a_frozen_base, with_a_normalization, with_a_preprocessor]


@pytest.mark.parametrize("make", BUILDERS)
def test_a_sequence_trains_them_and_its_ensemble_is_loaded_as_it_was_saved(tmp_path, make):
    build, (x, y) = make()
    sequence = BornAgainSequence(build, generations=1, seed=0)
    sequence.compile("adam", crossentropy(), metrics=["accuracy"])
    sequence.fit(x, y, **FIT)
    ensemble = sequence.ensemble()
    ensemble.compile(loss=crossentropy(), metrics=["accuracy"])
    nested = EnsembleModel([ensemble, build(2)], weights=[2, 1], name="nested")
    for model in (ensemble, nested):
        model.save(tmp_path / "ensemble.keras")
        loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
        assert (model.name, model.member_weights) == (loaded.name, loaded.member_weights)
        np.testing.assert_array_equal(model.predict(x, verbose=0), loaded.predict(x, verbose=0))
        if model is ensemble:
            assert_same(model.evaluate(x, y, verbose=0), loaded.evaluate(x, y, verbose=0))


@pytest.mark.parametrize("make", BUILDERS[:2])
def test_another_process_can_load_the_graph_that_it_exports(tmp_path, make):
    build, (x, _) = make()
    ensemble = EnsembleModel([build(0), build(1)])
    model_file.save(ServedModel(separated(ensemble)), tmp_path / "served.keras")
    loaded = model_file.load(tmp_path / "served.keras")
    np.testing.assert_array_equal(ensemble.predict(x, verbose=0), loaded.model.predict(x, verbose=0))


def test_a_distiller_of_one_preprocessor_is_loaded_as_it_was_saved(tmp_path):
    build, (x, y) = with_a_preprocessor()
    distiller = Distiller(student=build(0), teacher=EnsembleModel([build(1), build(2)]))
    distiller.compile("adam", crossentropy())
    distiller.fit(x, y, **FIT)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    for model, other in ((distiller, loaded), (distiller.teacher, loaded.teacher)):
        np.testing.assert_array_equal(model.predict(x, verbose=0), other.predict(x, verbose=0))


def test_a_distiller_whose_teacher_has_a_layer_twice_is_not_saved(tmp_path):
    build, _ = with_a_frozen_base()
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(CLASSES)])
    distiller = Distiller(student=other, teacher=EnsembleModel([build(0), build(1)]))
    with pytest.raises(ValueError, match="or in two members of the teacher"):
        distiller.save(tmp_path / "distiller.keras")
    assert not list(tmp_path.iterdir())


def test_members_share_an_adapted_vocabulary(tmp_path):
    pytest.importorskip("tensorflow")  # `TextVectorization` needs it, on each backend.
    vectorize = keras.layers.TextVectorization(output_sequence_length=4)
    vectorize.adapt(["some words of a text"])
    members = [keras.Sequential([keras.Input((), dtype="string"), vectorize]) for _ in range(2)]
    EnsembleModel(members, average="outputs").save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert [vectorize.get_vocabulary()] * 2 == [each.layers[0].get_vocabulary() for each in loaded.members]
