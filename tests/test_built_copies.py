"""Copies of subclassed models that were built: built as well, whatever their inputs and the arguments of `call`."""

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, crossentropy
from keras import layers

from keras_ban import BornAgainSequence, reborn
from keras_ban._src.files import model_file

X, Y = make_blobs()


@keras.saving.register_keras_serializable(package="test_built_copies")
class Sums(keras.Model):
    """A classifier of the sum of all inputs, in whatever containers they come."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.normalization, self.top = layers.BatchNormalization(), layers.Dense(CLASSES)

    def call(self, inputs, training=None):
        return self.top(self.normalization(sum(keras.tree.flatten(inputs)), training=training))


@keras.saving.register_keras_serializable(package="test_built_copies")
class MustKnowTraining(Sums):
    def call(self, inputs, training):
        return super().call(inputs, training)


@keras.saving.register_keras_serializable(package="test_built_copies")
class MustSeeValues(Sums):
    """Keras has symbols of 32-bit floats only, when it builds a model from shapes."""

    def call(self, inputs, training=None):
        if keras.backend.standardize_dtype(inputs.dtype) != "int32":
            raise TypeError("takes whole numbers")
        return super().call(keras.ops.cast(inputs, "float32"), training)


def built(cls, inputs):
    model = cls()
    model(keras.tree.map_structure(lambda leaf: leaf[:4], inputs), training=False)
    return model


def trainable(model):
    return [keras.ops.convert_to_numpy(weight.value).copy() for weight in model.trainable_weights]


def trained(model, inputs, **arguments):
    sequence = BornAgainSequence(model, generations=1, seed=0, **arguments)
    # Nothing moves, so the weights of the generations are those that they start with.
    sequence.compile(keras.optimizers.SGD(0.0), crossentropy())
    sequence.fit(inputs, Y, epochs=1, verbose=0)
    return sequence


MODELS = {
    "one": (Sums, X),
    "list": (Sums, [X, X]),
    "tuple": (Sums, (X, X)),
    "dict": (Sums, {"a": X, "b": X}),
    "nested": (Sums, {"a": [X, X], "b": X}),
    "one, `training` required": (MustKnowTraining, X),
    "dict, `training` required": (MustKnowTraining, {"a": X, "b": X}),
}


@pytest.mark.parametrize("cls, inputs", MODELS.values(), ids=list(MODELS))
def test_the_copy_of_a_model_that_is_built_is_built_and_starts_anew(cls, inputs):
    model = built(cls, inputs)
    copy = reborn(model)
    assert copy.built and [weight.shape for weight in model.weights] == [weight.shape for weight in copy.weights]
    assert not np.allclose(model.top.get_weights()[0], copy.top.get_weights()[0])


@pytest.mark.parametrize("cls, inputs", MODELS.values(), ids=list(MODELS))
def test_generations_start_from_the_weights_of_such_a_model_or_from_fresh_ones(cls, inputs):
    model = built(cls, inputs)
    for generation in trained(model, inputs, initial_weights="model").models:
        assert_same(trainable(model), trainable(generation))
    kernels = [trainable(each)[-2] for each in (model, *trained(model, inputs).models)]
    assert not any(np.allclose(kernels[i], kernels[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


def test_a_copy_that_shapes_do_not_build_is_built_by_the_data():
    whole = (10 * X).astype("int32")
    model = built(MustSeeValues, whole)
    assert not reborn(model).built
    sequence = trained(model, whole)
    assert [[(8,), (8,), (8, CLASSES), (CLASSES,)]] * 2 == [
        [weight.shape for weight in trainable(each)] for each in sequence.models
    ]
    assert not np.allclose(*(trainable(each)[-2] for each in sequence.models))
    with pytest.raises(ValueError, match=r"copies weights, but the shapes .* a callable `build\(generation\)`"):
        trained(model, whole, initial_weights="model")


@pytest.mark.filterwarnings("ignore:Model .* had a build config")
@pytest.mark.parametrize("cls, inputs", [(MustKnowTraining, X), (MustSeeValues, (10 * X).astype("int32"))])
def test_a_model_whose_file_keras_reads_without_its_weights_is_not_kept_in_a_directory(cls, inputs, tmp_path):
    message = rf"cannot be kept in a directory: .*leaves out their weights.* {cls.__name__}'s `call`"
    with pytest.raises(ValueError, match=message):
        trained(built(cls, inputs), inputs, directory=tmp_path)


@keras.saving.register_keras_serializable(package="test_built_copies")
class WithUnusedLayer(Sums):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.unused = layers.Dense(2)


@pytest.mark.filterwarnings("ignore:.* was called on layer .*unbuilt state")
def test_a_file_with_a_layer_that_was_never_used_and_an_optimizer_is_read(tmp_path):
    model = built(WithUnusedLayer, X)
    model.compile("adam", crossentropy())
    model.fit(X, Y, verbose=0)
    model.save(tmp_path / "model.keras")

    loaded = model_file.load(tmp_path / "model.keras")

    assert not loaded.unused.built
    np.testing.assert_array_equal(model.predict(X, verbose=0), loaded.predict(X, verbose=0))


@pytest.mark.filterwarnings("ignore:Model .* had a build config")
def test_a_run_whose_models_keras_reads_without_their_weights_is_not_loaded_with_others(tmp_path):
    # Not built, so that no file can be tried before training.
    trained(MustKnowTraining(), X, directory=tmp_path)
    with pytest.raises(ValueError, match="cannot be loaded: Keras cannot build the layers"):
        print(BornAgainSequence.load(tmp_path).models[0])
