"""The models of `keras-ban train`: those of KerasCV and KerasHub, their presets, and functions of one's own."""

import re

import keras
import numpy as np
import pytest

import keras_ban
from keras_ban._src.command import command_line
from keras_ban._src.images import choices, cv, hub, models

pytestmark = pytest.mark.one_backend


@pytest.fixture
def keras_cv():
    return pytest.importorskip("keras_cv", reason="KerasCV, or the TensorFlow that it needs, is not installed")


def test_models_that_give_no_probabilities_are_refused():
    with pytest.raises(ValueError, match=r"must return probabilities, but on noise its outputs do not sum to 1"):
        models.check_probabilities("own:logits", tiny_logits((8, 8, 3), 3), (8, 8, 3))
    with pytest.raises(ValueError, match=r"must return feature maps .* its outputs are of shape \(None, 3\)"):
        models.build("test_image_models:tiny_logits", (8, 8, 3), 4)
    with pytest.raises(ValueError, match="no attribute 'none'"):
        models.build("test_image_models:none", (8, 8, 3), 3)


def tiny_logits(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(3)])


# Its sublayers are built when Keras calls it, which is next.
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'squeeze_and_excite2d:UserWarning")
@pytest.mark.parametrize("name", list(choices.BACKBONES["keras_cv"]))
def test_kerascvs_architectures_give_probabilities_and_come_back_from_their_configuration(name, keras_cv):
    keras.config.set_dtype_policy("mixed_bfloat16")
    with keras.StatelessScope(initialize_variables=False):  # which draws no weights
        model = models.build(name, (32, 32, 3), 10)
        again = keras.models.model_from_json(model.to_json())

    assert model.count_params() == again.count_params()
    weights = re.search("([0-9,]+) weights", getattr(cv, name).__doc__)[1]
    assert int(weights.replace(",", "")) == model.count_params()
    softmaxes = [layer for layer in model.layers if getattr(layer, "activation", None) is keras.activations.softmax]
    assert [model.layers[-1]] == softmaxes
    assert "float32" == model.layers[-1].compute_dtype


# As above.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'squeeze_and_excite2d:UserWarning")
def test_mobilenetv3_with_its_operations_named_like_layers_is_reborn(keras_cv):
    model = models.build("mobilenetv3", (32, 32, 3), 10)
    clone = keras_ban.reborn(model)
    clone.set_weights(model.get_weights())
    images = np.random.default_rng(0).random((2, 32, 32, 3), "float32") * 255
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(each(images)) for each in (model, clone)))


def test_a_preset_is_the_backbone_that_kerascv_fetches_with_its_weights(keras_cv, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(keras.models, "clone_model", lambda model, **_: model)
        fetched = cv.mobilenetv3((32, 32, 3))  # As KerasCV makes it.
    assert type(fetched) is keras_cv.models.MobileNetV3Backbone
    images = np.random.default_rng(0).random((2, 32, 32, 3), "float32") * 255
    monkeypatch.setattr(keras_cv.models.MobileNetV3Backbone, "from_preset", lambda name: {name: fetched}[name])
    chosen = command_line.parse(["train", "digits", "--preset", "mobilenet_v3_small_imagenet", "--out", "not-there"])
    model = models.build(chosen.backbone, (32, 32, 3), classes=5)

    features = fetched.predict(images, verbose=0).mean(axis=(1, 2))
    pooled = keras.Model(model.inputs, model.get_layer("avg_pool").output).predict(images, verbose=0)
    # Fresh weights of so many layers give features of 1e-7; the two differ by float32 rounding at most.
    np.testing.assert_allclose(features, pooled, rtol=0, atol=1e-3 * np.abs(features).max())
    assert (None, 5) == model.output_shape


def test_a_preset_that_is_unknown_or_cannot_be_fetched_ends_with_a_message(keras_cv, monkeypatch):
    with pytest.raises(ValueError, match="--preset must be one of .*resnet50_v2_imagenet.*; received: resnet51"):
        cv.check_preset("resnet51")

    def no_network(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(keras_cv.models.ResNetV2Backbone, "from_preset", no_network)
    with pytest.raises(ValueError, match="--preset resnet50_v2_imagenet: its weights could not be fetched .no route"):
        models.build("preset:resnet50_v2_imagenet", (32, 32, 3), classes=5)


@pytest.fixture
def keras_hub():
    return pytest.importorskip("keras_hub")


@pytest.mark.parametrize("name", list(choices.BACKBONES["keras_hub"]))
def test_kerashubs_architectures_give_probabilities_and_start_from_a_weights_file(name, keras_hub, tmp_path):
    first = models.build(name, (16, 16, 3), 3, "keras_hub")
    first.backbone.save_weights(tmp_path / "backbone.weights.h5")
    again = models.build(name, (16, 16, 3), 3, "keras_hub", tmp_path / "backbone.weights.h5")
    images = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3)).astype("uint8")
    np.testing.assert_allclose(1.0, first.predict(images, verbose=0).sum(axis=-1), rtol=1e-5)
    for one, other in zip(first.backbone.get_weights(), again.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(ValueError, match="--weights .*none.weights.h5"):
        models.build(name, (16, 16, 3), 3, "keras_hub", tmp_path / "none.weights.h5")


def failing(input_shape, classes):
    return {}["key"]


def of_one_argument(input_shape):
    raise AssertionError


@pytest.mark.parametrize(
    "name, said",
    [
        ("failing", r"KeyError: 'key' \(.*test_image_models.py, line \d+\)"),
        ("of_one_argument", r"TypeError: of_one_argument\(\) takes 1 positional argument but 2 were given"),
    ],
)
def test_a_function_of_the_user_that_fails_is_named_with_its_line_and_what_it_must_be(name, said):
    asked = f"^{__name__}:{name}\\(\\(8, 8, 3\\), 3\\) failed: {said}. It must be a function of the shape of the images"
    with pytest.raises(ValueError, match=asked):
        models.build(f"{__name__}:{name}", (8, 8, 3), 3)


def test_a_preset_of_kerashub_may_be_a_folder(keras_hub, tmp_path):
    model = models.build("vit", (16, 16, 3), 3, "keras_hub")
    model.save_to_preset(str(tmp_path / "preset"))
    again = models.build(f"preset:{tmp_path / 'preset'}", (16, 16, 3), 5, "keras_hub")
    assert (None, 5) == again.output_shape
    np.testing.assert_array_equal(model.backbone.get_weights()[0], again.backbone.get_weights()[0])
    with pytest.raises(ValueError, match="--preset nowhere: it could not be fetched"):
        models.build("preset:nowhere", (16, 16, 3), 5, "keras_hub")
    with pytest.raises(choices.WrongOption, match="--preset must be the folder of a preset, or one of .*vit_base"):
        hub.check_preset("nowhere")
    hub.check_preset(str(tmp_path / "preset"))


def test_images_are_scaled_to_what_a_preset_of_kerashub_takes(keras_hub, tmp_path):
    models.build("vit", (16, 24, 3), 3, "keras_hub").save_to_preset(str(tmp_path / "preset"))
    chosen = command_line.parse(["train", "digits", "--library", "keras_hub", "--preset", str(tmp_path / "preset")])
    assert (16, 24) == models.size_of_preset(chosen)
