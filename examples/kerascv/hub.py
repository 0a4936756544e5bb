"""Architectures of KerasHub, small enough for small images, and its presets: tasks that preprocess their images."""

import sys

import user_files

# Numbers of weights with ten classes and images of 32x32.


def densenet(models, image_shape):
    """DenseNet (Huang et al., 2017), 135,000 weights."""
    sizes = {"stackwise_num_repeats": [4, 4, 4], "growth_rate": 12, "compression_ratio": 0.5}
    return models.DenseNetBackbone(**sizes, image_shape=image_shape)


def vit(models, image_shape):
    """Vision transformer (Dosovitskiy et al., 2021) of patches of 4x4, 82,000 weights."""
    sizes = {"patch_size": 4, "num_layers": 4, "num_heads": 3, "hidden_dim": 48, "mlp_dim": 96}
    return models.ViTBackbone(image_shape=image_shape, **sizes)


BACKBONES = {"densenet": densenet, "vit": vit}


def build(name, image_shape, classes, weights=None):
    """A classifier that takes images of 0 to 255 and returns probabilities.

    Args:
        name: one of `BACKBONES`.
        image_shape: `(height, width, 3)`.
        classes: how many.
        weights: a file that `backbone.save_weights` wrote, or `None`.
    """
    hub = keras_hub()
    backbone = BACKBONES[name](hub.models, image_shape)
    if weights is not None:
        wanted = f"weights of {name}, as its `backbone.save_weights` writes them"
        # Keras wants the path: its ending says the format.
        user_files.read(weights, lambda _: backbone.load_weights(weights), wanted, user_files.option("--weights"))
    converter = hub.layers.ImageConverter(image_size=image_shape[:2], scale=1 / 255)
    preprocessor = hub.models.ImageClassifierPreprocessor(image_converter=converter)
    make = hub.models.ViTImageClassifier if name == "vit" else hub.models.ImageClassifier
    return make(backbone, classes, preprocessor, activation="softmax", head_dtype="float32")


def pretrained(preset, classes):
    """A classifier with KerasHub's pretrained backbone and preprocessor: a name, or the folder of a preset."""
    hub = keras_hub()
    try:
        return hub.models.ImageClassifier.from_preset(
            preset, num_classes=classes, activation="softmax", head_dtype="float32"
        )
    except Exception as error:  # Those of the network, and of whatever fetches presets.
        sys.exit(
            f"--preset {preset}: it could not be fetched ({type(error).__name__}: {error}). Pass the folder of a "
            f"preset, or train a small model: --backbone {', '.join(BACKBONES)}, with --weights FILE if you have them"
        )


def keras_hub():
    try:
        import keras_hub
    except ModuleNotFoundError as error:
        sys.exit(f"--library keras_hub: {error.name} is missing: pip install keras-hub")
    return keras_hub
