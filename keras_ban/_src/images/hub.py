"""Architectures of KerasHub, small enough for small images, and its presets: tasks that preprocess their images."""

import os

from keras_ban._src.files.regular_file import open_to_read
from keras_ban._src.images.choices import BACKBONES, WrongOption

# Numbers of weights with ten classes and images of 32x32.


def densenet(models, image_shape):
    """DenseNet (Huang et al., 2017), 135,000 weights."""
    sizes = {"stackwise_num_repeats": [4, 4, 4], "growth_rate": 12, "compression_ratio": 0.5}
    return models.DenseNetBackbone(**sizes, image_shape=image_shape)


def vit(models, image_shape):
    """Vision transformer (Dosovitskiy et al., 2021) of patches of 4x4, 82,000 weights."""
    sizes = {"patch_size": 4, "num_layers": 4, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
    return models.ViTBackbone(image_shape=image_shape, **sizes)


def build(name, image_shape, classes, weights=None):
    """Return a classifier that takes images of 0 to 255 and returns probabilities.

    Args:
        name: `"densenet"` or `"vit"`.
        image_shape: `(height, width, 3)`.
        classes: how many.
        weights: a file that `backbone.save_weights` wrote, or `None`.

    Raises:
        ValueError: the file has no such weights.
    """
    hub = keras_hub()
    backbone = {"densenet": densenet, "vit": vit}[name](hub.models, image_shape)
    if weights is not None:
        try:
            open_to_read(weights).close()  # Keras would wait for a pipe.
            backbone.load_weights(weights)
        except Exception as error:  # h5py raises many types for damaged files.
            said = " ".join(str(error).split())[:200]
            raise ValueError(
                f"--weights {weights} must be weights of {name}, as its `backbone.save_weights` writes them: {said}"
            ) from error
    converter = hub.layers.ImageConverter(image_size=image_shape[:2], scale=1 / 255)
    preprocessor = hub.models.ImageClassifierPreprocessor(image_converter=converter)
    make = hub.models.ViTImageClassifier if name == "vit" else hub.models.ImageClassifier
    return make(backbone, classes, preprocessor, activation="softmax", head_dtype="float32")


def check_preset(preset):
    """Raise `WrongOption` unless it is the name of a preset, an address such as `hf://...`, or a folder."""
    known = sorted(keras_hub().models.ImageClassifier.presets)
    if preset not in known and "://" not in preset and not os.path.isdir(preset):
        raise WrongOption(f"--preset must be the folder of a preset, or one of {', '.join(known)}; received: {preset}")


def pretrained(preset, classes):
    """Return a classifier with KerasHub's pretrained backbone and preprocessor."""
    options = {"num_classes": classes, "activation": "softmax", "head_dtype": "float32"}
    return _fetched(keras_hub().models.ImageClassifier, preset, **options)


def preset_size(preset):
    """Return the height and width to which a preset scales images, or `None`."""
    size = _fetched(keras_hub().layers.ImageConverter, preset).image_size
    return None if size is None or None in size else tuple(size)


def _fetched(of_hub, preset, **options):
    try:
        return of_hub.from_preset(preset, **options)
    except Exception as error:  # Those of the network, and of whatever fetches presets.
        raise ValueError(
            f"--preset {preset}: it could not be fetched ({type(error).__name__}: {error}). Pass the folder of a "
            f"preset, or train a small model: --backbone {', '.join(BACKBONES['keras_hub'])}, with --weights FILE if "
            "you have them"
        ) from error


def keras_hub():
    # Optional.
    import keras_hub

    return keras_hub
