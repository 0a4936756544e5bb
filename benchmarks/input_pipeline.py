"""Images per second: read once by the command line, fed in each epoch, and taken by the training step.

    python benchmarks/input_pipeline.py --data cifar10.npz --backend jax

The images are written as JPEG files and as sets of TFDS into a temporary folder, which is removed at the end.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time

import numpy as np
from _user_files import read_images  # Which adds the folder of the examples to `sys.path`.


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help=".npz file with x_train (uint8, n x 32 x 32 x 3) and y_train")
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--images", type=int, default=2048, help="default: 2048")
    parser.add_argument("--batch-size", type=int, default=32, help="default: 32")
    options = parser.parse_args()
    os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from _figures import versions

    print(versions(options.backend))
    x, y = (each[: options.images] for each in read_images(options.data, "x_train", "y_train"))
    with tempfile.TemporaryDirectory() as folder:
        read_once(pathlib.Path(folder), x, y)
    feed(x, y, options)
    train(x, y, options)


def rate(what, images, run):
    """Print the better of two runs."""
    seconds = []
    for _ in range(2):
        begin = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begin)
    print(f"{what:58s} {images / min(seconds):9,.0f} images/s", flush=True)


def read_once(place, x, y):
    """What loading costs: a folder, and TFDS by `tf.data` and by `data_source`."""
    import tensorflow_datasets as tfds
    from PIL import Image

    from keras_ban._src.images import folder, pictures
    from keras_ban._src.images import tfds as images_of_tfds

    tfds.disable_progress_bar()
    for label in np.unique(y):
        (place / "files" / str(label)).mkdir(parents=True)
    for i, (image, label) in enumerate(zip(x, y, strict=True)):
        Image.fromarray(image).save(place / "files" / str(label) / f"{i}.jpg", quality=95)
    rate(
        "read: JPEG files, with Pillow", len(x), lambda: folder.Folder(place / "files").read((32, 32), pictures.Notes())
    )

    features = {"image": tfds.features.Image(shape=x.shape[1:]), "label": tfds.features.ClassLabel(num_classes=10)}
    for name in ("tfrecord", "array_record"):
        tfds.dataset_builders.store_as_tfds_dataset(
            name=f"images_{name}",
            version="1.0.0",
            features=tfds.features.FeaturesDict(features),
            split_datasets={"train": [(i, {"image": x[i], "label": y[i]}) for i in range(len(x))]},
            data_dir=place,
            file_format=name,
        )
        how = "tf.data" if name == "tfrecord" else "data_source"
        rate(f"read: TFDS, {name}, by {how}", len(x), lambda name=name: images_of_tfds.read(f"images_{name}", place))


def feed(x, y, options):
    """What an epoch of batches costs, without a model."""
    from keras_ban._src.images import augmentation

    labels, size = np.eye(10, dtype="float32")[y], options.batch_size

    def of_arrays():
        order = np.random.default_rng(0).permutation(len(x))
        for begin in range(0, len(x), size):
            rows = order[begin : begin + size]
            x[rows].astype("float32"), labels[rows]

    rate("fed: arrays in memory", len(x), of_arrays)
    for names in (["randaugment"], ["mixup"], ["cutmix"], ["mixup", "cutmix"]):
        chosen = argparse.Namespace(augmentation=names, seed=0, batch_size=size)
        batches, _ = augmentation.in_batches(chosen, x, labels)
        rate(f"fed: arrays with {' and '.join(names)}", len(x), lambda b=batches: [len(batch) for batch in b])


def train(x, y, options):
    """What the training step takes: the command line's ResNet, with and without flips and crops."""
    import keras

    import keras_ban
    from keras_ban._src.images import augmentation, models

    labels = np.eye(10, dtype="float32")[y]
    for names in ([], ["flip", "crop"]):
        model = models.build("resnet", x.shape[1:], 10)
        if names:
            model = keras_ban.Distiller(student=model, label_weight=1, augmentation=augmentation.in_step(names))
        model.compile("adam", keras.losses.CategoricalCrossentropy())
        model.fit(x[: options.batch_size], labels[: options.batch_size], batch_size=options.batch_size, verbose=0)
        rate(
            f"trained: ResNet, {' and '.join(names) or 'no'} augmentation, {options.backend}",
            len(x),
            lambda m=model: m.fit(x, labels, batch_size=options.batch_size, verbose=0),
        )


if __name__ == "__main__":
    sys.exit(main())
