"""Born again as another architecture: a teacher of one kind, students of another, of about 0.17M weights each.

    python examples/cross_architecture.py --teacher densenet --student resnet --backend jax
    python examples/cross_architecture.py --teacher resnet --student densenet --data cifar10.npz

`densenet` and `resnet` are KerasCV's (pip install ".[kerascv]"); `wide_resnet` and `small_resnet` are those of
small_models.py, and need Keras alone. The images are scikit-learn's handwritten digits, enlarged to 32x32 (300 train,
300 choose the best generation, 1,197 are looked at once, at the end), or those of a .npz file.

All of them normalize batches, at a momentum of 0.99: give each generation 500 steps or more. After fewer its statistics
are still half those that it began with, and what it teaches is vague.
"""

import argparse
import math
import os
import pathlib
import sys

import user_files


def main():
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import keras

    import keras_ban

    parts = read(arguments.data, arguments.seed) if arguments.data else load_digits(arguments.seed)
    train, validation, test = standardized(parts)
    classes, input_shape = int(max(y.max() for _, y in parts)) + 1, train[0].shape[1:]

    def build(generation):
        name = arguments.teacher if generation == 0 else arguments.student
        return ARCHITECTURES[name](input_shape, classes)

    print(f"keras {keras.__version__} on {keras.config.backend()}, keras_ban {keras_ban.__version__}")
    for role, name in (("teacher", arguments.teacher), ("students", arguments.student)):
        model = ARCHITECTURES[name](input_shape, classes)
        print(f"{role}: {name}, {model.count_params():,} weights")

    # Every model here ends in a softmax: `from_logits=False`, for the labels and for the teacher's probabilities, whose
    # logarithm takes the place of the logits. With `from_logits=True` a softmax would be taken of a softmax.
    sequence = keras_ban.BornAgainSequence(
        build,
        generations=arguments.generations,
        distillation_loss=keras_ban.losses.KnowledgeDistillation(arguments.temperature, from_logits=False),
        label_weight=arguments.label_weight,
        seed=arguments.seed,
    )
    steps = arguments.epochs * math.ceil(len(train[1]) / arguments.batch_size)
    sequence.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(3e-3, decay_steps=steps)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False),
        metrics=["accuracy"],
    )
    options = {"batch_size": arguments.batch_size, "epochs": arguments.epochs, "verbose": 2}
    sequence.fit(*train, validation_data=validation, **options)

    print(f"Generation 0: {arguments.teacher}; from generation 1 on: {arguments.student}.")
    print(sequence.evaluate(*test).summary())


def densenet(input_shape, classes):
    """KerasCV's DenseNet-BC; its stem makes the images four times smaller."""
    models = kerascv_models()
    backbone = models.DenseNetBackbone(
        stackwise_num_repeats=[2, 4, 4], growth_rate=16, include_rescaling=False, input_shape=input_shape
    )
    return models.ImageClassifier(backbone=backbone, num_classes=classes)


def resnet(input_shape, classes):
    """KerasCV's pre-activation ResNet, of bottleneck blocks; its stem makes the images four times smaller."""
    models = kerascv_models()
    backbone = models.ResNetV2Backbone(
        stackwise_filters=[16, 32, 48],
        # KerasCV gives two layers one name where a stack has a single block.
        stackwise_blocks=[2, 2, 2],
        stackwise_strides=[1, 2, 2],
        include_rescaling=False,
        input_shape=input_shape,
    )
    return models.ImageClassifier(backbone=backbone, num_classes=classes)


def wide_resnet(input_shape, classes):
    """WRN-16-1."""
    import small_models

    return with_softmax(small_models.wide_resnet(16, 1, input_shape, classes))


def small_resnet(input_shape, classes):
    """A post-activation ResNet, whose first block makes the images half as large."""
    import small_models

    return with_softmax(small_models.resnet(strides=(2, 2, 2), input_shape=input_shape, classes=classes))


ARCHITECTURES = {"densenet": densenet, "resnet": resnet, "wide_resnet": wide_resnet, "small_resnet": small_resnet}


def with_softmax(model):
    """The model with probabilities as outputs, so that it can be compared with those of KerasCV."""
    import keras

    return keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]), name=model.name)


def kerascv_models():
    try:
        import keras_cv
    except ModuleNotFoundError as error:
        sys.exit(
            f'densenet and resnet are built with KerasCV, and {error.name} is missing: pip install ".[kerascv]"'
            " (or keras-cv and tensorflow-cpu). wide_resnet and small_resnet do without."
        )
    return keras_cv.models


def load_digits(seed):
    """`(x, y)` for training, validation and test: images `(n, 32, 32, 3)`, 8x8 digits with each pixel as 4x4."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.repeat(digits.images.repeat(4, axis=1).repeat(4, axis=2)[..., None], 3, axis=-1)
    order = np.random.default_rng(seed).permutation(len(images))
    return [(images[part], digits.target[part]) for part in np.split(order, [300, 600])]


def read(path, seed):
    """The same of `x_train, y_train, x_test, y_test` in a .npz file; a tenth of the training images is held out."""
    import numpy as np

    (x, y), test = (user_files.read_images(path, *names) for names in (("x_train", "y_train"), ("x_test", "y_test")))
    if x.ndim != 4 or test[0].shape[1:] != x.shape[1:]:
        sys.exit(
            f"{path} must hold images (n, height, width, channels) of one size: x_train is {x.shape}, x_test "
            f"{test[0].shape}."
        )
    order = np.random.default_rng(seed).permutation(len(x))
    held_out, rest = np.split(order, [len(x) // 10])
    return [(x[rest], y[rest]), (x[held_out], y[held_out]), test]


def standardized(parts):
    """Images as float32, of mean 0 and standard deviation 1 over the training images, for each channel."""
    images = parts[0][0].astype("float32")
    mean, deviation = images.mean(axis=(0, 1, 2)), images.std(axis=(0, 1, 2))
    return [(((x - mean) / deviation).astype("float32"), y.astype("int32")) for x, y in parts]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", choices=ARCHITECTURES, default="densenet", help="default: densenet")
    parser.add_argument("--student", choices=ARCHITECTURES, default="resnet", help="default: resnet")
    parser.add_argument("--data", type=pathlib.Path, help=".npz file of x_train, y_train, x_test, y_test; else digits")
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], help="default: as Keras is configured")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of every generation (default: 0)")
    parser.add_argument("--generations", type=int, default=2, help="students after the teacher (default: 2)")
    parser.add_argument("--epochs", type=int, default=40, help="for each generation (default: 40)")
    parser.add_argument("--batch-size", type=int, default=16, help="default: 16")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the distillation loss (default: 1)")
    parser.add_argument("--label-weight", type=float, default=0.3, help="the label loss's share (default: 0.3)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
