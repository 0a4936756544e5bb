"""Architectures of KerasCV, without weights, small enough for small images.

Of each the backbone alone is KerasCV's. The head is that of its `ImageClassifier` (pooling, dense layer, softmax), but
always in float32, so that probabilities are not rounded to half precision; and the whole is a plain functional model,
so that the files of ResNet and DenseNet can be loaded without KerasCV.
"""

import importlib
import os
import sys

import numpy as np

from kerascv import hub


def resnet(input_shape):
    """Pre-activation ResNet of bottleneck blocks (He et al., 2016), 171,018 weights with ten classes."""
    return keras_cv_models().ResNetV2Backbone(
        stackwise_filters=[16, 32, 48],
        # KerasCV gives two layers one name where a stack has a single block.
        stackwise_blocks=[2, 2, 2],
        stackwise_strides=strides(3, input_shape, stem=4),
        include_rescaling=True,
        input_shape=input_shape,
    )


def densenet(input_shape):
    """DenseNet-BC (Huang et al., 2017), 168,922 weights; its transitions always halve the images."""
    return keras_cv_models().DenseNetBackbone(
        stackwise_num_repeats=[2, 4, 4], growth_rate=16, include_rescaling=True, input_shape=input_shape
    )


def efficientnetv2(input_shape):
    """EfficientNetV2 (Tan and Le, 2021) of half the width, 139,740 weights."""
    return keras_cv_models().EfficientNetV2Backbone(
        width_coefficient=0.5,
        depth_coefficient=1.0,
        stackwise_kernel_sizes=[3, 3, 3, 3],
        stackwise_num_repeats=[1, 2, 2, 2],
        stackwise_input_filters=[24, 24, 48, 64],
        stackwise_output_filters=[24, 48, 64, 96],
        stackwise_expansion_ratios=[1, 4, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0, 0, 0.25, 0.25],
        stackwise_strides=strides(4, input_shape, stem=2),
        stackwise_conv_types=["fused", "fused", "unfused", "unfused"],
        include_rescaling=True,
        input_shape=input_shape,
    )


def mobilenetv3(input_shape):
    """MobileNetV3 (Howard et al., 2019), 194,962 weights."""
    import keras

    first, second, third, fourth = strides(4, input_shape, stem=2)
    backbone = keras_cv_models().MobileNetV3Backbone(
        stackwise_expansion=[1, 4, 3, 4, 4, 4, 4],
        stackwise_filters=[16, 24, 24, 40, 40, 64, 64],
        stackwise_kernel_size=[3, 3, 3, 5, 5, 5, 5],
        stackwise_stride=[first, second, 1, third, 1, fourth, 1],
        stackwise_se_ratio=[0.25, None, None, 0.25, 0.25, 0.25, 0.25],
        stackwise_activation=["relu"] * 3 + ["hard_swish"] * 4,
        include_rescaling=True,
        input_shape=input_shape,
    )
    return keras.models.clone_model(backbone, clone_function=with_readable_activation)


def with_readable_activation(layer):
    """A copy of a layer; KerasCV's own hard sigmoid is one that Keras writes to a file, and cannot read again."""
    config = layer.get_config()
    if "excite_activation" in config:
        config["excite_activation"] = "hard_sigmoid"
    return type(layer).from_config(config)


BACKBONES = {
    "resnet": resnet,
    "densenet": densenet,
    "efficientnetv2": efficientnetv2,
    "mobilenetv3": mobilenetv3,
}
# In front of the name of pretrained weights.
PRESET = "preset:"
# The names of each library. The first is the default.
NAMES = {"keras_cv": list(BACKBONES), "keras_hub": list(hub.BACKBONES)}


def build(name, input_shape, classes, library="keras_cv", weights=None):
    """A classifier that takes images of 0 to 255 and returns probabilities.

    Args:
        name: one of `BACKBONES`; `preset:` and the name of a backbone that KerasCV has pretrained weights for; or
            `module:function`: a function `(input_shape, classes)` that returns a
            `keras.Model` whose outputs are feature maps, `(batch, height, width, channels)`, which get a head, or
            probabilities, `(batch, classes)`.
        input_shape: `(height, width, 3)`.
        classes: how many.
        library: `"keras_cv"`, or `"keras_hub"`, with its own backbones and presets.
        weights: of a backbone of KerasHub, a file.
    """
    import keras

    if library == "keras_hub" and name in hub.BACKBONES:
        return hub.build(name, input_shape, classes, weights)
    if library == "keras_hub" and name.startswith(PRESET):
        return hub.pretrained(name.removeprefix(PRESET), classes)
    own = name not in BACKBONES
    if name.startswith(PRESET):
        model = pretrained(name.removeprefix(PRESET))
    else:
        model = function_named(name)(input_shape, classes) if own else BACKBONES[name](input_shape)
    if own and not isinstance(model, keras.Model):
        sys.exit(f"{name} must return a keras.Model, it returned: {model!r}")
    if len(model.output_shape) == 4:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32")(model.outputs[0])
        x = keras.layers.Dense(classes, activation="softmax", name="predictions", dtype="float32")(x)
        model = keras.Model(model.inputs[0], x, name=name.rpartition(":")[2])
        if not own:
            make_statistics_quick(model)
        return model
    if tuple(model.output_shape[1:]) != (classes,):
        sys.exit(
            f"{name} must return feature maps (batch, height, width, channels), or probabilities of {classes} classes, "
            f"its outputs are of shape {model.output_shape}"
        )
    return model


def pretrained(preset):
    """A backbone of KerasCV's own size, with the weights that it offers by that name; they are fetched once."""
    import keras

    models = keras_cv_models()
    classes = [each for name, each in vars(models).items() if name.endswith("Backbone")]
    # The class of all sizes, not that of one, which has the same names: it comes last, and counts.
    found = {name: each for each in sorted(classes, key=lambda c: len(c.presets)) for name in each.presets_with_weights}
    if preset not in found:
        sys.exit(f"--preset must be one of {', '.join(sorted(found))}; received: {preset}")
    try:
        backbone = found[preset].from_preset(preset)
    except OSError as error:  # Those of the network are.
        sys.exit(
            f"--preset {preset}: its weights could not be fetched ({error}). Try again with a network, or train from "
            f"fresh weights: --backbone {', '.join(BACKBONES)}"
        )
    if isinstance(backbone, models.MobileNetV3Backbone):
        readable = keras.models.clone_model(backbone, clone_function=with_readable_activation)
        readable.set_weights(backbone.get_weights())
        return readable
    return backbone


def make_statistics_quick(model):
    """Let BatchNorm's moving statistics follow within tens of steps, not hundreds or thousands.

    KerasCV's momenta, up to 0.999, are those of long training: in a run of some hundred steps what a teacher says would
    still rest on the statistics that it began with.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def check_probabilities(name, model, input_shape):
    """End where outputs are none: the losses take their logarithm, and logits would be taken for them."""
    images = np.random.default_rng(0).integers(0, 256, (2, *input_shape)).astype("float32")
    outputs = np.asarray(model.predict(images, verbose=0), "float64")
    # Half precision at worst.
    if (outputs < 0).any() or np.abs(outputs.sum(axis=-1) - 1).max() > 1e-2:
        sys.exit(
            f"{name} must return probabilities, but on noise its outputs do not sum to 1 (they are {outputs[0]}): let "
            'it end in keras.layers.Softmax(dtype="float32")'
        )


def function_named(name):
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())  # As `python -m` does it.
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ModuleNotFoundError, AttributeError) as error:
        sys.exit(f"{name}: {error} (looked for in {os.getcwd()} and on PYTHONPATH)")
    finally:
        sys.path.remove(os.getcwd())


def strides(stacks, input_shape, stem):
    """1 for the first stack, then 2 for as long as at least 4x4 positions are left."""
    size, result = min(input_shape[:2]) // stem, [1]
    while len(result) < stacks:
        result.append(2 if size // 2 >= 4 else 1)
        size //= result[-1]
    return result


def keras_cv_models():
    try:
        import keras_cv
    except ModuleNotFoundError as error:
        sys.exit(
            f'These backbones are KerasCV\'s, and {error.name} is missing: pip install ".[kerascv]" (or keras-cv and '
            "tensorflow-cpu). --backbone module:function does without."
        )
    return keras_cv.models
