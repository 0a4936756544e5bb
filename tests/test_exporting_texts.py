"""Export of models whose inputs are texts."""

import keras
import numpy as np
import pytest

import keras_ban

# Keras's layers that read texts need it on every backend.
pytest.importorskip("tensorflow")

TEXTS = np.array(["red green", "blue blau", "", "grün red"])
ON_TENSORFLOW = keras.config.backend() == "tensorflow"


def vectorization():
    layer = keras.layers.TextVectorization(max_tokens=8, output_sequence_length=3)
    layer.adapt(["red green blue", "red grün"])
    return layer


def reader_of_tokens():
    layers = [keras.layers.Embedding(8, 4), keras.layers.Flatten(), keras.layers.Dense(3)]
    return keras.Sequential([keras.Input((3,), dtype="int32"), *layers])


def reader_of_texts():
    color, size = keras.Input((1,), dtype="string", name="color"), keras.Input((2,), name="size")
    codes = keras.layers.StringLookup(vocabulary=["red", "green"], output_mode="one_hot")(color)
    outputs = keras.layers.Dense(2)(keras.layers.Concatenate()([codes, size]))
    return keras.Model({"color": color, "size": size}, outputs)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras calls models on texts under TensorFlow alone.")
@pytest.mark.parametrize("with_examples", [True, False])
def test_a_saved_model_takes_texts_and_numbers_by_their_names(tmp_path, with_examples):
    import tensorflow as tf

    model = reader_of_texts()
    examples = {"color": np.array([["red"], ["blue"]]), "size": np.ones((2, 2), "float32")}

    examples = examples if with_examples else None
    report = keras_ban.export(model, tmp_path / "model", examples=examples, verbose=False)

    assert report["difference"] <= 1e-5
    kernel, bias = model.get_weights()
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    actual = served(color=tf.constant([["red"], ["blue"]]), size=tf.ones((2, 2)))["output_0"].numpy()
    codes = np.array([[0, 1, 0, 1, 1], [1, 0, 0, 1, 1]])  # unknown, red, green, and the sizes
    np.testing.assert_allclose(codes @ kernel + bias, actual, atol=1e-6)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras calls models on texts under TensorFlow alone.")
@pytest.mark.parametrize("shape", [(), (1,)])
@pytest.mark.parametrize("with_examples", [True, False])
def test_a_saved_model_begins_with_text_vectorization(tmp_path, shape, with_examples):
    import tensorflow as tf

    members = [
        keras.Sequential([keras.Input(shape, dtype="string", name="text"), vectorization(), *reader_of_tokens().layers])
        for _ in range(2)
    ]
    texts = TEXTS.reshape(-1, *shape)

    report = keras_ban.export(
        keras_ban.EnsembleModel(members, average="outputs"),
        tmp_path / "model",
        examples=texts if with_examples else None,
        verbose=False,
    )

    assert report["difference"] <= 1e-5
    # The vocabulary: padding, unknown, red, and the others in the reverse order of the alphabet.
    tokens = np.array([[2, 4, 0], [5, 1, 0], [0, 0, 0], [3, 2, 0]])
    assert ["", "[UNK]", "red", "grün", "green", "blue"] == vectorization().get_vocabulary()
    expected = 0
    for member in members:
        embeddings, kernel, bias = member.get_weights()[-3:]
        expected = expected + (embeddings[tokens].reshape(4, -1) @ kernel + bias) / 2
    served = tf.saved_model.load(tmp_path / "model").signatures["serving_default"]
    actual = served(text=tf.constant(texts))["output_0"].numpy()
    np.testing.assert_allclose(expected, actual, atol=1e-6)
    assert (0, 3) == served(text=tf.zeros((0, *shape), tf.string))["output_0"].shape


def test_a_layer_that_reads_texts_goes_before_a_model_on_any_backend(tmp_path):
    report = keras_ban.export(
        reader_of_tokens(), tmp_path / "model", preprocessing=vectorization(), examples=TEXTS, verbose=False
    )

    assert report["difference"] <= 1e-5


@pytest.mark.parametrize("format", ["onnx", "litert"])
def test_formats_without_vocabularies_are_refused_with_a_way_out(tmp_path, format):
    with pytest.raises(ValueError, match=f"\\['color'\\] are texts, which {format} cannot look up"):
        keras_ban.export(reader_of_texts(), tmp_path / "model", format, verbose=False)


@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow calls models on texts.")
def test_a_backend_that_cannot_call_a_model_on_texts_is_named(tmp_path):
    with pytest.raises(ValueError, match="cannot call a model on texts. Export under TensorFlow"):
        keras_ban.export(reader_of_texts(), tmp_path / "model", verbose=False)
