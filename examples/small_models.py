"""Small image models in plain Keras 3, for images of 32x32 pixels and the like; each ends in a linear head (logits).

`wide_resnet` and `densenet` are those of their papers, layer by layer; `resnet` is a smaller one for experiments on a
CPU. Copy what you need. Weight counts are of trainable weights, as papers count; the statistics of batch normalization
come on top.
"""

import keras
from keras import layers

INPUT_SHAPE = (32, 32, 3)


def wide_resnet(depth, width, input_shape=INPUT_SHAPE, classes=10, dropout=0.0):
    """A Wide-ResNet, "WRN-depth-width" (Zagoruyko & Komodakis, 2016): pre-activation blocks of two 3x3 convolutions.

    `width=1` is the pre-activation ResNet of that depth. Trainable weights (the Born-Again paper's figures are those of
    100 classes):

    | | 10 classes | 100 classes | Born-Again paper |
    | --- | --- | --- | --- |
    | WRN-28-1 | 369,498 | 375,348 | 0.38M |
    | WRN-28-2 | 1,467,610 | 1,479,220 | 1.48M |
    | WRN-28-5 | 9,132,634 | 9,161,524 | 9.16M |
    | WRN-28-10 | 36,479,194 | 36,536,884 | 36M |

    Args:
        depth: layers with weights, `6 * n + 4` for `n` blocks in each of three groups.
        width: the groups have `16 * width`, `32 * width` and `64 * width` filters.
        input_shape: `(height, width, channels)`.
        classes: the size of the output.
        dropout: the share of activations dropped between a block's convolutions.

    Raises:
        ValueError: `depth` is not `6 * n + 4`.
    """
    blocks, rest = divmod(depth - 4, 6)
    if rest or blocks < 1:
        raise ValueError(f"`depth` must be 6 * n + 4 (10, 16, 22, 28, ...), received: {depth}.")
    inputs = keras.Input(input_shape)
    x = _convolution(16, 3)(inputs)
    for group, filters in enumerate((16 * width, 32 * width, 64 * width)):
        for block in range(blocks):
            x = _wide_block(x, filters, strides=2 if group > 0 and block == 0 else 1, dropout=dropout)
    return _classifier(inputs, _normalized(x), classes, f"wrn_{depth}_{width}")


def _wide_block(x, filters, strides, dropout):
    """Where the shortcut is a convolution, it starts from the activations, else from what came in."""
    activations = _normalized(x)
    shortcut = x if x.shape[-1] == filters else _convolution(filters, 1, strides)(activations)
    y = _normalized(_convolution(filters, 3, strides)(activations))
    if dropout:
        y = layers.Dropout(dropout)(y)
    return layers.Add()([shortcut, _convolution(filters, 3)(y)])


def densenet(depth, growth, input_shape=INPUT_SHAPE, classes=10, compression=0.5):
    """A DenseNet-BC for small images, "DenseNet-depth-growth" (Huang et al., 2017): three blocks, with bottlenecks.

    The counts are those that Huang et al. state: 769,162 for 100-12 (0.8M) and 25,624,430 for 190-40 (25.6M). Those of
    the Born-Again paper they are not, and it does not say how its DenseNets differ. A depth that is not `6 * n + 4` is
    rounded down, as Huang et al.'s code does, so that 90 has the layers of 88, and 80 those of 76:

    | | 10 classes | 100 classes | Born-Again paper | difference (100 classes) |
    | --- | --- | --- | --- | --- |
    | DenseNet-112-33 | 6,892,786 | 6,987,916 | 6.3M | +10.9% |
    | DenseNet-90-60 | 15,054,010 | 15,189,100 | 16.1M | -5.7% |
    | DenseNet-80-80 | 20,949,290 | 21,104,180 | 22.4M | -5.8% |
    | DenseNet-80-120 | 47,045,530 | 47,277,820 | 50.4M | -6.2% |

    Args:
        depth: layers with weights, `6 * n + 4` for `n` bottleneck layers in each of three blocks, or up to 5 more.
        growth: the filters that each bottleneck layer adds.
        input_shape: `(height, width, channels)`.
        classes: the size of the output.
        compression: the share of filters that is left after each of the two transitions.

    Raises:
        ValueError: `depth` is less than 10.
    """
    bottlenecks = (depth - 4) // 6
    if bottlenecks < 1:
        raise ValueError(f"`depth` must be 10 or more, received: {depth}.")
    inputs = keras.Input(input_shape)
    x = _convolution(2 * growth, 3)(inputs)
    for block in range(3):
        if block > 0:
            x = _convolution(int(x.shape[-1] * compression), 1)(_normalized(x))
            x = layers.AveragePooling2D(2)(x)
        for _ in range(bottlenecks):
            y = _convolution(4 * growth, 1)(_normalized(x))
            y = _convolution(growth, 3)(_normalized(y))
            x = layers.Concatenate()([x, y])
    return _classifier(inputs, _normalized(x), classes, f"densenet_{depth}_{growth}")


def resnet(widths=(16, 32, 64), blocks=2, strides=(1, 2, 2), input_shape=INPUT_SHAPE, classes=10):
    """A ResNet with activations after the sum (He et al., 2016); shortcuts are 1x1 convolutions where shapes change.

    175,066 trainable weights as it stands. With `strides=(2, 2, 2)` it has 175,322 (176,250 with the statistics of
    batch normalization), and takes about a quarter of the time.

    Args:
        widths: the filters of each stack.
        blocks: how many blocks of two 3x3 convolutions each stack has.
        strides: of the first block of each stack.
        input_shape: `(height, width, channels)`.
        classes: the size of the output.

    Raises:
        ValueError: `widths` and `strides` are not of the same length.
    """
    if len(widths) != len(strides):
        raise ValueError(
            f"`widths` and `strides` must be of the same length, received: {len(widths)} and {len(strides)}."
        )
    inputs = keras.Input(input_shape)
    x = _normalized(_convolution(widths[0], 3)(inputs))
    for filters, first_stride in zip(widths, strides, strict=True):
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            y = _normalized(_convolution(filters, 3, stride)(x))
            y = layers.BatchNormalization()(_convolution(filters, 3)(y))
            shortcut = x if x.shape[1:] == y.shape[1:] else _convolution(filters, 1, stride)(x)
            x = layers.ReLU()(layers.Add()([y, shortcut]))
    return _classifier(inputs, x, classes, "resnet")


def _convolution(filters, size, strides=1):
    """Without a bias, which a normalization would take away again; initial weights as both papers have them."""
    # A new initializer for each layer: one that is shared gives layers of one shape the same weights.
    initializer = keras.initializers.VarianceScaling(2.0, mode="fan_out", distribution="untruncated_normal")
    return layers.Conv2D(filters, size, strides, padding="same", use_bias=False, kernel_initializer=initializer)


def _normalized(x):
    return layers.ReLU()(layers.BatchNormalization()(x))


def _classifier(inputs, features, classes, name):
    logits = layers.Dense(classes)(layers.GlobalAveragePooling2D()(features))
    return keras.Model(inputs, logits, name=name)
