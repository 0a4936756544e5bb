"""Architectures of KerasCV, without weights, small enough for small images, and its presets.

Only the backbones are KerasCV's. The head has the layers of its `ImageClassifier` (pooling, dense layer, softmax), but
is always in float32, so that probabilities are not rounded to half precision. The models are plain functional ones, so
that files of ResNet and DenseNet can be loaded without KerasCV.
"""

import keras

from keras_ban._src.images.choices import BACKBONES, WrongOption


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
    """Return a copy of a layer with Keras's hard sigmoid. Keras can write KerasCV's to a file, but not read it."""
    config = layer.get_config()
    if "excite_activation" in config:
        config["excite_activation"] = "hard_sigmoid"
    return type(layer).from_config(config)


def backbone(name, input_shape):
    """Return a backbone that takes images of 0 to 255, by its name in `choices.BACKBONES`."""
    makers = {"resnet": resnet, "densenet": densenet, "efficientnetv2": efficientnetv2, "mobilenetv3": mobilenetv3}
    return makers[name](input_shape)


def with_head(backbone, classes, name):
    """Return a classifier that pools the feature maps of a backbone and returns probabilities."""
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool", dtype="float32")(backbone.outputs[0])
    x = keras.layers.Dense(classes, activation="softmax", name="predictions", dtype="float32")(x)
    return keras.Model(backbone.inputs[0], x, name=name)


def check_preset(preset):
    """Raise `WrongOption` unless KerasCV has pretrained weights of this name."""
    if preset not in _presets():
        raise WrongOption(f"--preset must be one of {', '.join(sorted(_presets()))}; received: {preset}")


def pretrained(preset):
    """Return a backbone of KerasCV's own size, with its pretrained weights. They are fetched once."""
    try:
        made = _presets()[preset].from_preset(preset)
    except OSError as error:  # Those of the network are.
        raise ValueError(
            f"--preset {preset}: its weights could not be fetched ({error}). Try again with a network, or train from "
            f"fresh weights: --backbone {', '.join(BACKBONES['keras_cv'])}"
        ) from error
    if not isinstance(made, keras_cv_models().MobileNetV3Backbone):
        return made
    readable = keras.models.clone_model(made, clone_function=with_readable_activation)
    readable.set_weights(made.get_weights())
    return readable


def _presets():
    """Return the class of each preset by name. Classes of one size have the same presets as the class of all sizes."""
    classes = [each for name, each in vars(keras_cv_models()).items() if name.endswith("Backbone")]
    # The class of all sizes comes last, and counts.
    ordered = sorted(classes, key=lambda each: len(each.presets))
    return {name: each for each in ordered for name in each.presets_with_weights}


def make_statistics_quick(model):
    """Let BatchNorm's moving statistics follow within tens of steps, not hundreds or thousands.

    KerasCV's momenta, up to 0.999, are for long training. After some hundred steps, the outputs of a teacher would
    still depend on the statistics that it began with.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9


def strides(stacks, input_shape, stem):
    """Return the stride of each stack: 1 for the first, then 2 as long as at least 4x4 positions are left."""
    size, result = min(input_shape[:2]) // stem, [1]
    while len(result) < stacks:
        result.append(2 if size // 2 >= 4 else 1)
        size //= result[-1]
    return result


def keras_cv_models():
    # Optional.
    import keras_cv

    return keras_cv.models
