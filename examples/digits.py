"""A small CNN, born again three times, on the handwritten digits that scikit-learn brings along.

    python examples/digits.py --backend jax

Each generation has the same architecture. Generation 0 learns from labels; each later one from labels and from the
generation before. 300 images train them, 300 choose the best generation, and 1,197 are looked at once, at the end.
"""

import argparse
import math
import os
import pathlib
import sys

BATCH_SIZE = 32


def main():
    arguments = parse_arguments()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import keras

    import keras_ban

    train, validation, test = load_digits(arguments.seed)
    print(f"keras {keras.__version__} on {keras.config.backend()}, keras_ban {keras_ban.__version__}")

    sequence = keras_ban.BornAgainSequence(
        build_cnn(),
        generations=arguments.generations,
        distillation_loss=keras_ban.losses.KnowledgeDistillation(temperature=arguments.temperature),
        label_weight=arguments.label_weight,
        seed=arguments.seed,
    )
    sequence.compile(
        optimizer=keras.optimizers.Adam(schedule(len(train[1]), arguments.epochs)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    sequence.fit(*train, batch_size=BATCH_SIZE, epochs=arguments.epochs, validation_data=validation, verbose=2)

    history = sequence.evaluate(*test)
    print(history.summary())

    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    history.plot(out / "generations.png")
    sequence.best_model.save(out / "best.keras")
    (out / "history.json").write_text(history.to_json())
    print(f"Wrote generations.png, best.keras (generation {history.best_generation}) and history.json to {out}/")


def build_cnn():
    """Two convolutions and two dense layers, 13,706 weights; it returns logits."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10),
        ],
        name="digits_cnn",
    )


def schedule(examples, epochs):
    """A learning rate that falls along a cosine to 0 at the end of each generation."""
    import keras

    return keras.optimizers.schedules.CosineDecay(5e-3, decay_steps=epochs * math.ceil(examples / BATCH_SIZE))


def load_digits(seed):
    """`(x, y)` for training, validation and test: images `(n, 8, 8, 1)` in [0, 1], labels 0 to 9."""
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images[..., None] / 16.0).astype("float32")
    order = np.random.default_rng(seed).permutation(len(images))
    parts = np.split(order, [300, 600])
    return [(images[part], digits.target[part]) for part in parts]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], help="default: as Keras is configured")
    parser.add_argument("--seed", type=int, default=0, help="of the split and of every generation (default: 0)")
    parser.add_argument("--generations", type=int, default=3, help="students after the first teacher (default: 3)")
    parser.add_argument("--epochs", type=int, default=60, help="for each generation (default: 60)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the distillation loss (default: 1)")
    parser.add_argument("--label-weight", type=float, default=0.3, help="the label loss's share (default: 0.3)")
    parser.add_argument("--out", default="runs/digits_cnn", help="folder for the results (default: runs/digits_cnn)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
