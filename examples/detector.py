"""A detector with its own `compute_loss` learns from a larger one, on synthetic images with one bright shape each.

    python examples/detector.py --backend jax

The detector predicts a box and a class. Its loss needs the intersection over union of boxes, so it has its own
`compute_loss`, which a `Distiller` does not call. A subclass of `Distiller` calls it in `compute_label_loss`. The
distillation loss compares boxes by their mean squared error, and classes by `KnowledgeDistillation`.
"""

import argparse
import os

import numpy as np

SIZE = 16
SHAPES = ("square", "disk", "cross")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("jax", "tensorflow", "torch"), help="default: KERAS_BACKEND")
    parser.add_argument("--epochs", type=int, default=8, help="of teacher and students (default: 8)")
    parser.add_argument("--examples", type=int, default=1000, help="for training (default: 1000)")
    arguments = parser.parse_args()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import keras

    Detector, DetectorDistiller = classes()
    keras.utils.set_random_seed(0)
    x, y = images(arguments.examples, seed=0)
    test = images(500, seed=1)

    teacher = build(Detector, 32)
    teacher.compile(keras.optimizers.Adam(3e-3))
    teacher.fit(x, y, batch_size=50, epochs=arguments.epochs, verbose=0)
    report("teacher", teacher, *test)
    for name, label_weight in (("student on labels alone", 1), ("student of the teacher", 0.5)):
        keras.utils.set_random_seed(1)
        student = build(Detector, 8)
        distiller = DetectorDistiller(
            student=student, teacher=teacher, distillation_loss=distillation_losses(), label_weight=label_weight
        )
        distiller.compile(keras.optimizers.Adam(3e-3))
        distiller.fit(x, y, batch_size=50, epochs=arguments.epochs, verbose=0)
        report(name, student, *test)


def classes():
    """The model and its Distiller, defined after the backend is chosen."""
    import keras
    from keras import ops

    import keras_ban

    class Detector(keras.Model):
        """Boxes `(batch, 4)`: left, top, right, bottom in [0, 1]; classes `(batch, 3)`: logits."""

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            start = ops.maximum(y["box"][:, :2], y_pred["box"][:, :2])
            end = ops.minimum(y["box"][:, 2:], y_pred["box"][:, 2:])
            intersection = ops.prod(ops.relu(end - start), -1)
            areas = [ops.prod(ops.relu(box[:, 2:] - box[:, :2]), -1) for box in (y["box"], y_pred["box"])]
            iou = intersection / (areas[0] + areas[1] - intersection + 1e-6)
            distance = ops.mean(ops.abs(y["box"] - y_pred["box"]), -1)
            of_class = keras.losses.sparse_categorical_crossentropy(y["class"], y_pred["class"], from_logits=True)
            return ops.mean(1 - iou + 4 * distance + of_class)

    class DetectorDistiller(keras_ban.Distiller):
        """A Distiller whose label loss is that of the detector."""

        def compute_label_loss(self, x, y, y_pred, sample_weight, training):
            return self.student.compute_loss(x, y, y_pred, sample_weight, training)

    return Detector, DetectorDistiller


def build(cls, filters):
    """A small convolutional network with two heads."""
    import keras
    from keras import layers

    inputs = keras.Input((SIZE, SIZE, 1))
    x = inputs
    for factor in (1, 2):
        x = layers.Conv2D(factor * filters, 3, strides=2, padding="same", activation="relu")(x)
    x = layers.Dense(4 * filters, activation="relu")(layers.Flatten()(x))
    box = layers.Dense(4, activation="sigmoid", name="box")(x)
    return cls(inputs, {"box": box, "class": layers.Dense(len(SHAPES), name="class")(x)})


def distillation_losses():
    """One loss for each output."""
    import keras

    import keras_ban

    return {"box": keras.losses.MeanSquaredError(), "class": keras_ban.losses.KnowledgeDistillation()}


def images(count, seed):
    """`(x, y)`: noisy images `(count, 16, 16, 1)`, and the box and the class of the shape in each."""
    rng = np.random.default_rng(seed)
    half, kinds = rng.integers(3, 6, count), rng.integers(0, len(SHAPES), count)
    centers = np.stack([rng.integers(half, SIZE - half) for _ in range(2)], axis=-1)
    across, down = (np.abs(np.arange(SIZE) - centers[:, [axis]]) for axis in (0, 1))
    across, down, radius = across[:, None, :], down[:, :, None], half[:, None, None]
    inside = (across < radius) & (down < radius)
    parts = (inside, across**2 + down**2 < radius**2 - radius, inside & ((across == 0) | (down == 0)))
    shapes = np.select([(kinds == kind)[:, None, None] for kind in range(len(SHAPES))], parts)
    x = shapes + 0.2 * rng.standard_normal((count, SIZE, SIZE))
    # Pixel centers are whole numbers: a shape of radius r covers 2 * r - 1 pixels.
    box = np.concatenate([centers - half[:, None] + 1, centers + half[:, None]], axis=-1) / SIZE
    return x[..., None].astype("float32"), {"box": box.astype("float32"), "class": kinds.astype("int32")}


def iou(boxes, others):
    """The intersection over union of boxes `(count, 4)`, in NumPy."""
    shared = np.minimum(boxes[:, 2:], others[:, 2:]) - np.maximum(boxes[:, :2], others[:, :2])
    intersection = np.maximum(shared, 0).prod(-1)
    areas = [np.maximum(each[:, 2:] - each[:, :2], 0).prod(-1) for each in (boxes, others)]
    return intersection / (areas[0] + areas[1] - intersection)


def report(name, model, x, y):
    outputs = model.predict(x, verbose=0)
    accuracy = (outputs["class"].argmax(-1) == y["class"]).mean()
    print(f"{name}: {model.count_params()} weights, IoU {iou(outputs['box'], y['box']).mean():.3f}, ", end="")
    print(f"accuracy {accuracy:.3f}", flush=True)


if __name__ == "__main__":
    main()
