"""A torch model teaches a Keras student, on any backend, on the handwritten digits that scikit-learn brings along.

    python examples/torch_teacher.py --backend jax

The teacher runs once over the training data, through a function of a NumPy batch. Its outputs become `SoftTargets`. A
model of Hugging Face's transformers or of timm teaches in the same way. Only the function differs:

    def teach(images):  # timm
        with torch.inference_mode():
            return model(torch.from_numpy(images).permute(0, 3, 1, 2))

    def teach(texts):  # transformers
        tokens = tokenizer(texts.tolist(), padding=True, truncation=True, return_tensors="pt")
        with torch.inference_mode():
            return model(**tokens).logits

The student's inputs may then differ from the teacher's: pass the student's data to `fit` with a key for each example
(see "By key" in docs/soft_targets.md).
"""

import argparse
import os

import numpy as np

CLASSES = 10


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=("jax", "tensorflow", "torch"), help="default: KERAS_BACKEND")
    parser.add_argument("--epochs", type=int, default=30, help="of teacher and student (default: 30)")
    arguments = parser.parse_args()
    if arguments.backend:
        os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

    import keras

    keras.utils.set_random_seed(0)
    (x, y), (x_test, y_test) = load_digits()
    teacher = train_teacher(x, y, arguments.epochs)
    student = train_student(teaching(teacher), x, y, arguments.epochs)

    teachers = (teaching(teacher)(x_test).numpy().argmax(axis=-1) == y_test).mean()
    students = (student.predict(x_test, verbose=0).argmax(axis=-1) == y_test).mean()
    print(f"Accuracy on {len(y_test)} test images: torch teacher {teachers:.3f}, ", end="")
    print(f"Keras student on {keras.config.backend()} {students:.3f}")


def load_digits():
    """`(x, y)` for training and test: images as 64 numbers in [0, 1], and 10 classes."""
    from sklearn import datasets

    x, y = datasets.load_digits(return_X_y=True)
    x, order = (x / 16).astype("float32"), np.random.default_rng(0).permutation(len(x))
    return [(x[rows], y[rows]) for rows in np.split(order, [1000])]


def train_teacher(x, y, epochs):
    """Train a torch model as torch users do."""
    import torch

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Dropout(0.3), torch.nn.Linear(128, CLASSES)
    )
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    data = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    for _ in range(epochs):
        for images, labels in torch.utils.data.DataLoader(data, batch_size=50, shuffle=True):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return model


def teaching(model):
    """Return a torch model as a function of a NumPy batch. It runs in inference mode, so without dropout."""
    import torch

    model.eval()
    device = next(model.parameters()).device

    def teach(images):
        with torch.inference_mode():
            return model(torch.from_numpy(images).to(device)).cpu()

    return teach


def train_student(teach, x, y, epochs):
    """Train a small Keras model on labels and on what the function says."""
    import keras

    import keras_ban

    targets = keras_ban.SoftTargets.from_teacher(teach, x, batch_size=100, verbose=0)
    student = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(CLASSES)]
    )
    distiller = keras_ban.Distiller(student=student, label_weight=0.5)
    distiller.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(x, y, soft_targets=targets, batch_size=50, epochs=epochs, verbose=0)
    return student


if __name__ == "__main__":
    main()
