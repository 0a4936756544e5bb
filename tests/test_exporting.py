"""`export`: what is written says what the source model predicts, and it is complete or absent."""

import pathlib
import zipfile

import keras
import numpy as np
import oracles
import pytest
from helpers.interpreters import fork_interpreters
from helpers.models import classifier
from keras import layers, ops

import keras_ban
from keras_ban._src.export import export
from keras_ban._src.export.formats import check_importable, users_objects
from keras_ban._src.export.processes import run_python
from keras_ban._src.export.served import ServedModel, disagreement, input_specs, random_inputs
from keras_ban._src.export.verification import largest_difference

LABELS = ["zero", "one", "two"]


def cnn(**names):
    """8x8 images, three classes, with BatchNorm whose averages are not those it began with."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), **names),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    rng = np.random.default_rng(len(model.weights))
    for variable in model.non_trainable_variables:
        if "seed" not in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def masked_lstm(steps=None):
    """Tokens, of which 0 is padding; two outputs. LiteRT wants an LSTM unrolled, of a fixed number of steps."""
    tokens = keras.Input((steps,), dtype="int32", name="tokens")
    embedded = layers.Embedding(20, 4, mask_zero=True)(tokens)
    state = layers.LSTM(5, unroll=steps is not None)(embedded)
    return keras.Model(tokens, {"topic": layers.Dense(3)(state), "mood": layers.Dense(2)(state)})


def two_inputs():
    """A list of two inputs, of which one has a name, and a list of two outputs."""
    first, second = keras.Input((4,)), keras.Input((3,), name="side")
    joined = layers.Concatenate()([first, second])
    return keras.Model([first, second], [layers.Dense(3)(joined), layers.Dense(2)(joined)])


def kerascv_classifier():
    reason = "KerasCV, or the TensorFlow that it needs, is not installed"
    models = pytest.importorskip("keras_cv", reason=reason).models
    backbone = models.ResNetV2Backbone(
        stackwise_filters=[8, 16],
        stackwise_blocks=[2, 2],
        stackwise_strides=[1, 2],
        include_rescaling=False,
        input_shape=(16, 16, 3),
    )
    return models.ImageClassifier(backbone=backbone, num_classes=3)


def needs(*packages):
    for package in ("tensorflow", *packages):
        pytest.importorskip(package, reason=f"{package} is not installed, which writes or runs what is exported")


@pytest.fixture
def images():
    return np.random.default_rng(2).integers(0, 256, (5, 8, 8, 1), "uint8")


@keras.saving.register_keras_serializable("keras_ban_tests")
class MinusMean(layers.Layer):
    """What it says of an example depends on the others in the batch, so that no batch size gives what another does."""

    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=0, keepdims=True)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, inputs):
        return self.dense(inputs)


@pytest.fixture
def without_writing(monkeypatch):
    """Everything but the processes: `written` holds the models that were to be written."""
    written = []

    def write(served, specs, format, folder, representative=None):
        written.append(served.model)
        path = folder / "artefact"
        if format == "tf_saved_model":
            path.mkdir()
            path = path / "saved_model.pb"
        path.write_text(f"model {len(written)}")
        return folder / "artefact"

    monkeypatch.setattr(export, "write", write)
    monkeypatch.setattr(export, "_check_packages", lambda format: None)
    return written


# What is written, by a process and held against the source model by another.


@pytest.mark.new_process
def test_a_saved_model_of_an_ensemble_gives_average_members_and_disagreement_of_uint8_images(
    tmp_path, images, capsys, monkeypatch
):
    needs()
    fork_interpreters(monkeypatch)
    import tensorflow as tf

    members = [cnn(name="image"), cnn(), cnn()]
    ensemble = keras_ban.EnsembleModel(members, weights=[2, 1, 1])
    options = {"members": True, "preprocessing": layers.Rescaling(1 / 255), "labels": LABELS, "examples": images}

    report = keras_ban.export(ensemble, tmp_path / "serving" / "1", **options)

    assert f"difference {report['difference']:.3g}" in capsys.readouterr().out
    assert [tmp_path / "serving"] == list(tmp_path.iterdir())
    assert "zero\none\ntwo\n" == (tmp_path / "serving" / "1" / "assets" / "labels.txt").read_text()
    loaded = tf.saved_model.load(str(tmp_path / "serving" / "1"))
    signature = loaded.signatures["serving_default"]
    ((), inputs) = signature.structured_input_signature
    assert {"image": tf.TensorSpec((None, 8, 8, 1), tf.uint8, name="image")} == inputs
    served = {name: value.numpy() for name, value in signature(image=tf.constant(images)).items()}
    logits = np.stack([m.predict(images / np.float32(255), verbose=0) for m in members], axis=1).astype("float64")
    p = oracles.softmax(logits)
    mean = np.einsum("m,nmc->nc", [0.5, 0.25, 0.25], p)
    entropy = -(mean * np.log(mean)).sum(-1)
    expected_entropy = np.einsum("m,nm->n", [0.5, 0.25, 0.25], -(p * np.log(p)).sum(-1))
    # float32 against float64, of numbers up to 5.
    close = {"rtol": 0, "atol": 5e-6}
    assert {"output_0", "members", "predictive_entropy", "mutual_information"} == set(served)
    np.testing.assert_allclose(np.log(mean), served["output_0"], **close)
    np.testing.assert_allclose(logits, served["members"], **close)
    np.testing.assert_allclose(entropy, served["predictive_entropy"], **close)
    np.testing.assert_allclose(entropy - expected_entropy, served["mutual_information"], **close)
    np.testing.assert_array_equal(served["output_0"], loaded.serve(tf.constant(images))["output_0"])


@pytest.mark.one_backend
@pytest.mark.new_process
def test_onnx_of_a_masked_lstm_with_two_outputs_says_the_same_at_other_sizes_than_were_traced(tmp_path, monkeypatch):
    needs("tf2onnx", "onnxruntime")
    fork_interpreters(monkeypatch)
    import onnxruntime

    model = masked_lstm()
    tokens = np.array([[3, 4, 0, 0], [1, 0, 0, 0], [19, 5, 6, 7]], "int32")

    keras_ban.export(model, tmp_path / "model.onnx", format="onnx", labels=LABELS, verbose=False)

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert {"labels": "zero\none\ntwo\n"} == session.get_modelmeta().custom_metadata_map
    assert ["tokens"] == [each.name for each in session.get_inputs()]
    names = [each.name for each in session.get_outputs()]
    actual = dict(zip(names, session.run(names, {"tokens": tokens}), strict=True))
    expected = model.predict(tokens, verbose=0)
    assert set(expected) == set(actual)
    for name in expected:
        # What the issue of serving allows in float32.
        np.testing.assert_allclose(expected[name], actual[name], rtol=0, atol=1e-5)


BUILDERS = {
    "CNN with BatchNorm": cnn,
    "LSTM with masking": masked_lstm,
    "two inputs and outputs": two_inputs,
    "KerasCV classifier": kerascv_classifier,
    "ensemble of three": lambda: keras_ban.EnsembleModel([cnn(), cnn(), cnn()]),
}


@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.parametrize("format", export.FORMATS)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_format_of_every_kind_of_model_says_what_predict_says(tmp_path, name, format):
    needs("tf2onnx", "onnxruntime", "ai_edge_litert")
    steps = {"steps": 12} if (name, format) == ("LSTM with masking", "litert") else {}

    report = keras_ban.export(BUILDERS[name](**steps), tmp_path / "model", format=format)

    print(f"{keras.config.backend()}, {name}, {format}: {report['difference']:.1e}")
    assert report["difference"] <= 1e-5
    assert [tmp_path / "model"] == list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.new_process
def test_int8_is_measured_and_its_labels_are_an_associated_file(tmp_path, images, capsys):
    needs("ai_edge_litert")
    x = images / np.float32(255)
    small = [keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
    model = keras.Sequential(small)
    y = np.argmax(model.predict(x, verbose=0), axis=-1)
    y[0] = (y[0] + 1) % 3  # One that the source has wrong.

    whole = keras_ban.export(model, tmp_path / "whole.tflite", "litert", verbose=False)
    report = keras_ban.export(model, tmp_path / "model.tflite", "litert", int8=True, examples=(x, y), labels=LABELS)

    assert 0.8 == report["source_accuracy"]
    assert {"difference", "agreement", "source_accuracy", "accuracy"} == set(report)
    assert whole["difference"] <= 1e-5 < report["difference"]  # It was quantised.
    assert "source accuracy 0.8" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "model.tflite") as archive:
        assert "zero\none\ntwo\n" == archive.read("labels.txt").decode()


@pytest.mark.slow
@pytest.mark.new_process
def test_a_model_whose_outputs_depend_on_the_rest_of_the_batch_is_refused_and_not_left(tmp_path):
    needs()
    model = keras.Sequential([keras.Input((4,)), MinusMean()])

    with pytest.raises(RuntimeError, match="differs from 'sequential.*nothing was kept"):
        keras_ban.export(model, tmp_path / "serving" / "1")

    assert [] == list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.new_process
def test_what_the_process_that_writes_says_of_its_failure_is_passed_on(tmp_path):
    needs()
    model = masked_lstm()  # LiteRT has no loops of a free length.

    with pytest.raises(RuntimeError, match="(?s)writes litert under TensorFlow failed.*TensorListReserve"):
        keras_ban.export(model, tmp_path / "model.tflite", "litert")

    assert [] == list(tmp_path.iterdir())


@pytest.mark.one_backend
@pytest.mark.new_process
def test_an_interpreter_uses_the_cpu_and_imports_what_this_process_can(tmp_path, monkeypatch):
    (tmp_path / "in_no_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    code = "import os, sys, in_no_package; assert ('-1', 'b') == (os.environ['CUDA_VISIBLE_DEVICES'], os.environ['A'])"

    run_python(["-c", code], "imports", A="b")
    with pytest.raises(RuntimeError, match=r"(?s)The process that counts failed \(exit code 3\):\n6\n.*25$"):
        run_python(["-c", "print(*range(26), sep='\\n'); raise SystemExit(3)"], "counts")


# What becomes of the path.


@pytest.mark.one_backend
def test_a_mismatch_leaves_nothing_and_an_older_model_as_it_was(tmp_path, monkeypatch, without_writing):
    monkeypatch.setattr(export, "actual_outputs", lambda *_: {"output_0": np.full((10, 3), 9.0)})
    keras_ban.export(cnn(), tmp_path / "there", verify=False)

    for path, options in ((tmp_path / "new" / "1", {}), (tmp_path / "there", {"overwrite": True})):
        with pytest.raises(RuntimeError, match="differs from 'sequential"):
            keras_ban.export(cnn(), path, **options)

    assert [tmp_path / "there"] == list(tmp_path.iterdir())
    assert "model 1" == (tmp_path / "there" / "saved_model.pb").read_text()


@pytest.mark.one_backend
def test_a_difference_up_to_the_tolerance_is_accepted_and_reported(tmp_path, monkeypatch, without_writing, capsys):
    monkeypatch.setattr(export, "expected_outputs", lambda *_: {"output_0": np.zeros((10, 3))})
    monkeypatch.setattr(export, "actual_outputs", lambda *_: {"output_0": np.full((10, 3), 0.125)})

    report = keras_ban.export(cnn(), tmp_path / "model", tolerance=0.125)

    assert {"difference": 0.125} == report
    assert "difference 0.125" in capsys.readouterr().out


@pytest.mark.one_backend
@pytest.mark.parametrize("format", ["tf_saved_model", "onnx"])
def test_what_is_there_is_replaced_only_when_told_so(tmp_path, without_writing, format):
    path = tmp_path / "model"
    keras_ban.export(cnn(), path, format, verify=False)

    with pytest.raises(ValueError, match="model exists. Choose another path, or replace it: `overwrite=True`"):
        keras_ban.export(cnn(), path, format, verify=False)
    assert 1 == len(without_writing)
    keras_ban.export(cnn(), path, format, verify=False, overwrite=True)

    content = path / "saved_model.pb" if format == "tf_saved_model" else path
    assert "model 2" == content.read_text()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.one_backend
@pytest.mark.parametrize("format", ["tf_saved_model", "onnx"])
def test_overwrite_never_removes_what_is_no_exported_model(tmp_path, without_writing, format):
    path = tmp_path / "thesis"
    path.mkdir()
    (path / "chapter.txt").write_text("one")

    with pytest.raises(ValueError, match="thesis is a folder, but no .* model that `overwrite=True` could replace"):
        keras_ban.export(cnn(), path, format, verify=False, overwrite=True)

    assert "one" == (path / "chapter.txt").read_text()
    assert [] == without_writing


@pytest.mark.one_backend
def test_a_folder_that_cannot_get_its_name_leaves_the_older_one_under_it(tmp_path, monkeypatch, without_writing):
    path = tmp_path / "model"
    keras_ban.export(cnn(), path, verify=False)
    rename = export.put_in_place.__globals__["os"].rename

    def fail(source, target):
        if pathlib.Path(source).name == "artefact":
            raise OSError("by the test")
        rename(source, target)

    monkeypatch.setattr("os.rename", fail)
    with pytest.raises(OSError, match="by the test"):
        keras_ban.export(cnn(), path, verify=False, overwrite=True)

    assert "model 1" == (path / "saved_model.pb").read_text()
    assert [path] == list(tmp_path.iterdir())


# Which model, and which refusals.


@pytest.mark.one_backend
def test_a_sequence_is_its_ensemble_or_its_best_model_and_a_distiller_its_student(tmp_path, blobs, without_writing):
    sequence = keras_ban.BornAgainSequence(classifier(), generations=1)
    sequence.compile(loss="mse", run_eagerly=True)
    x = blobs[0]
    sequence.fit(x, x[:, :3], validation_data=(x, x[:, :3]), verbose=0)
    student = classifier()
    distiller = keras_ban.Distiller(student=student, teacher=classifier())

    keras_ban.export(sequence, tmp_path / "1", verify=False)
    keras_ban.export(sequence, tmp_path / "2", choose="best", verify=False)
    keras_ban.export(distiller, tmp_path / "3", verify=False)

    assert sequence.models == list(without_writing[0].members)
    assert sequence.best_model is without_writing[1]
    assert student is without_writing[2]


WRONG = [
    (TypeError, "`model` must be a `keras.Model`, .* received: 'model.keras'", {"model": "model.keras"}),
    (ValueError, "is not built, so nothing is known", {"model": keras.Sequential([layers.Dense(1)])}),
    (TypeError, "`path` must be a path, received: 3", {"path": 3}),
    (ValueError, "`format` must be one of .* received: 'pb'", {"format": "pb"}),
    (ValueError, "`choose` must be 'ensemble' or 'best', received: 'first'", {"choose": "first"}),
    (ValueError, "`choose` is for a `BornAgainSequence`, received one model of type Sequential", {"choose": "best"}),
    (ValueError, "`members=True` is for an `EnsembleModel`, received a Sequential: 'seq", {"members": True}),
    (TypeError, "`preprocessing` must be a `keras.layers.Layer`, or a list of them", {"preprocessing": abs}),
    (ValueError, "`labels` must be a list of strings", {"labels": "abc"}),
    (ValueError, "A label of `labels` holds a line break", {"labels": ["a", "b\n", "c"]}),
    (ValueError, "`labels` must name each of the 3 classes, received 2", {"labels": ["a", "b"]}),
    (ValueError, "`int8=True` needs `format='litert'`, and `examples`", {"int8": True}),
    (ValueError, "`examples` must be arrays .* at least one", {"examples": np.zeros((0, 8, 8, 1))}),
    (ValueError, "as many rows as each other", {"examples": (np.zeros((2, 8, 8, 1)), [1])}),
    (ValueError, "`examples` must have shape .*8, 8, 1.* received: .2, 8, 8.", {"examples": np.zeros((2, 8, 8))}),
    (ValueError, "`examples` must have the structure .* received 2", {"examples": [np.zeros((2, 8, 8, 1))] * 2}),
]


@pytest.mark.one_backend
@pytest.mark.parametrize("error, message, arguments", WRONG, ids=[message for _, message, _ in WRONG])
def test_wrong_arguments_are_refused_before_any_work(tmp_path, without_writing, error, message, arguments):
    with pytest.raises(error, match=message):
        keras_ban.export(**{"model": cnn(), "path": tmp_path / "model", "verbose": False, **arguments})

    assert [] == without_writing
    assert [] == list(tmp_path.iterdir())


@pytest.mark.one_backend
@pytest.mark.parametrize("format, package", [("tf_saved_model", "tensorflow"), ("onnx", "tf2onnx")])
def test_a_missing_package_is_named_with_the_extra_that_brings_it(tmp_path, monkeypatch, format, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else object())

    with pytest.raises(ImportError, match=f'{package} must be installed: .*"keras-ban.export."'):
        keras_ban.export(cnn(), tmp_path / "model", format)


@pytest.mark.one_backend
def test_a_class_that_another_process_cannot_import_is_refused_with_what_to_do():
    class Local(layers.Layer):
        pass

    check_importable(ServedModel(keras.Sequential([keras.Input((4,)), MinusMean()])))

    with pytest.raises(ValueError, match="cannot import .*Local' from 'test_exporting'. Move it"):
        check_importable(ServedModel(keras.Sequential([keras.Input((4,)), Local()])))


@keras.saving.register_keras_serializable(package="test_exporting")
def twice(x):
    return 2 * x


@pytest.mark.one_backend
def test_what_a_configuration_names_is_imported_by_the_process_that_writes_too():
    dense = layers.Dense(3, activation=twice, kernel_regularizer=HalfOfTheSquares())

    found = users_objects(ServedModel(keras.Sequential([keras.Input((4,)), dense])))
    assert {twice, HalfOfTheSquares} == set(found)


@keras.saving.register_keras_serializable(package="test_exporting")
class HalfOfTheSquares(keras.regularizers.Regularizer):
    def __call__(self, x):
        return 0.5 * keras.ops.sum(x * x)

    def get_config(self):
        return {}


@pytest.mark.one_backend
def test_what_comes_to_be_at_the_path_meanwhile_is_left_there(tmp_path, monkeypatch):
    def written_while_another_was(served, specs, format, folder, representative):
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "precious.txt").write_text("mine")
        (folder / "saved_model").mkdir()
        return folder / "saved_model"

    monkeypatch.setattr(export, "write", written_while_another_was)
    monkeypatch.setattr(export, "_check_packages", lambda format: None)
    with pytest.raises(ValueError, match="1 exists"):
        keras_ban.export(cnn(), tmp_path / "1", verify=False, verbose=False)

    assert "mine" == (tmp_path / "1" / "precious.txt").read_text()
    assert ["1"] == [path.name for path in tmp_path.iterdir()]


# Names, random inputs, and what is compared.


def specs_of(model, preprocessing=(), examples=None):
    specs = input_specs(model, preprocessing, examples)
    return keras.tree.map_structure(lambda spec: f"{spec.name} {spec.dtype} {spec.shape}", specs)


def named_inputs(first, second):
    inputs = [keras.Input((4,), name=first), keras.Input((3,), name=second)]
    return keras.Model(inputs, layers.Concatenate()(inputs))


@pytest.mark.one_backend
def test_inputs_are_named_as_the_user_named_them_whatever_was_built_before():
    dictionary = {"a": keras.Input((2,), name="a"), "b": keras.Input((1,), dtype="int32", name="b")}
    by_key = keras.Model(
        dictionary, layers.Concatenate()([dictionary["a"], layers.Embedding(3, 2)(dictionary["b"])[:, 0]])
    )
    ensemble = keras_ban.EnsembleModel([keras_ban.EnsembleModel([cnn(name="my image")])])
    subclassed = Subclassed()
    subclassed(np.zeros((5, 4), "float32"))

    for _ in range(2):
        assert "input_0 float32 (None, 8, 8, 1)" == specs_of(cnn())
    assert ["input_0 float32 (None, 4)", "side float32 (None, 3)"] == specs_of(two_inputs())
    assert ["input_2 float32 (None, 4)", "input_1 float32 (None, 3)"] == specs_of(named_inputs("input_2", "input_1"))
    assert ["gr__e float32 (None, 4)", "input_1x float32 (None, 3)"] == specs_of(named_inputs("größe", "1x"))
    with pytest.raises(ValueError, match=r"names that differ as identifiers: .*'a_b', 'a_b'"):
        specs_of(named_inputs("a b", "a_b"))
    assert {"a": "a float32 (None, 2)", "b": "b int32 (None, 1)"} == specs_of(by_key)
    assert "my_image float32 (None, 8, 8, 1)" == specs_of(ensemble)
    assert "input_0 float32 (None, 4)" == specs_of(subclassed)


@pytest.mark.one_backend
def test_with_preprocessing_the_inputs_are_as_the_examples_are_or_uint8(images):
    scale = [layers.Rescaling(1 / 255)]
    wide = keras.Sequential([keras.Input((None, None, 1)), layers.GlobalAveragePooling2D()])

    assert "input_0 uint8 (None, 8, 8, 1)" == specs_of(cnn(), scale)
    assert "input_0 float32 (None, 8, 8, 1)" == specs_of(cnn(), scale, images.astype("float32"))
    assert "input_0 uint8 (None, None, None, 1)" == specs_of(wide, scale, images)


@pytest.mark.one_backend
def test_random_inputs_are_such_as_the_model_takes(images):
    tokens, sizes = masked_lstm(), input_specs(masked_lstm(), [], None)
    drawn = random_inputs(sizes, 10, None, tokens)
    assert (10, 16) == drawn.shape
    assert "int32" == drawn.dtype
    assert set(range(20)) == set(drawn.ravel().tolist())  # 160 draws of 20 words: each is missed once in 3,600 times.

    spec = keras.InputSpec("uint8", (None, 8, 8, 1), name="input_0")
    from_examples = random_inputs(spec, 10, images, cnn())
    assert set(from_examples.ravel().tolist()) <= set(images.ravel().tolist())
    assert 250 < random_inputs(spec, 10, None, cnn()).max()


@pytest.mark.one_backend
def test_the_largest_difference_counts_equal_infinities_as_equal_and_nan_on_one_side_as_nan():
    expected = {"a": np.array([np.inf, np.nan, 1.0]), "b": np.array([[2.0]])}

    assert 0.5 == largest_difference(expected, {"a": np.array([np.inf, np.nan, 1.25]), "b": np.array([[1.5]])})
    assert np.isnan(largest_difference(expected, {**expected, "b": np.array([[np.nan]])}))
    with pytest.raises(RuntimeError, match="outputs are .*, where the source model's are"):
        largest_difference(expected, {"a": expected["a"]})


@pytest.mark.parametrize(
    "activation, from_logits",
    [
        *[("softmax", True), ("sigmoid", True)],
        *(pytest.param(activation, False, marks=pytest.mark.one_backend) for activation in ("softmax", "sigmoid")),
    ],
)
def test_disagreement_is_that_of_float64(activation, from_logits):
    weights = [0.5, 0.2, 0.3, 0.0]
    logits = np.random.default_rng(3).standard_normal((6, 4, 5)) * 4
    logits[:, 3] = np.nan  # Weighs nothing.
    p = oracles.softmax(logits) if activation == "softmax" else oracles.sigmoid(logits)
    outputs = (logits if from_logits else p).astype("float32")

    def entropy(p):
        if activation == "softmax":
            return -(p * np.log(p)).sum(-1)
        return -p * np.log(p) - (1 - p) * np.log1p(-p)

    mean = sum(w * p[:, i] for i, w in enumerate(weights[:3]))
    expected = entropy(mean) - sum(w * entropy(p[:, i]) for i, w in enumerate(weights[:3]))
    predictive, information = disagreement(ops.convert_to_tensor(outputs), weights, from_logits, activation)

    # float32: entropies of up to 1.6 are the sum of five such terms.
    np.testing.assert_allclose(entropy(mean), ops.convert_to_numpy(predictive), rtol=0, atol=2e-6)
    np.testing.assert_allclose(expected, ops.convert_to_numpy(information), rtol=0, atol=2e-6)


def test_sure_members_disagree_by_log_two_and_like_members_not_at_all():
    opposed = np.array([[[90.0, -90.0], [-90.0, 90.0]], [[-np.inf, 0.0], [-np.inf, 0.0]]], "float32")

    predictive, information = disagreement(ops.convert_to_tensor(opposed), [0.5, 0.5])

    np.testing.assert_allclose([np.log(2), 0], ops.convert_to_numpy(predictive), atol=1e-7)
    np.testing.assert_allclose([np.log(2), 0], ops.convert_to_numpy(information), atol=1e-7)


@pytest.mark.one_backend
def test_a_regressions_members_are_served_without_entropies():
    ensemble = keras_ban.EnsembleModel([classifier(), classifier()], average="outputs")

    served = ServedModel(ensemble, members=True)(np.ones((2, 8), "float32"))

    assert {"output_0": (2, 3), "members": (2, 2, 3)} == {name: tuple(value.shape) for name, value in served.items()}


@pytest.mark.one_backend
def test_members_of_several_outputs_are_refused():
    several = ServedModel(keras_ban.EnsembleModel([masked_lstm(), masked_lstm()]), members=True)

    with pytest.raises(ValueError, match="`members=True` is for ensembles of one output"):
        several(np.ones((2, 3), "int32"))
