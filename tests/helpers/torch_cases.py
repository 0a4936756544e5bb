"""What `test_torch_workers.py` trains: in the test's own process alone, and in each of two that train together."""

import datetime
import os
import pathlib
import pickle
import signal
import warnings

import keras
import numpy as np

import keras_ban

rng = np.random.default_rng(0)
# Two batches of 23, of which the workers have 12 and 11 examples, and one of 1.
X = rng.standard_normal((47, 8)).astype("float32")
Y = rng.integers(0, 3, 47)
WEIGHTS = rng.uniform(0.5, 2, 47).astype("float32")
WORDS = rng.integers(1, 9, (47, 6)) * (np.arange(6) < rng.integers(1, 7, 47)[:, None])
MIXED = X[:23].reshape(23, 2, 2, 2), np.eye(3, dtype="float32")[Y[:23]]
NEXT_WORDS = rng.integers(0, 3, (47, 6))


def classifier(seed, *layers, units=16):
    """A student whose weights, and what its layers add, count in the loss."""
    keras.utils.set_random_seed(seed)
    hidden = keras.layers.Dense(units, "relu", kernel_regularizer="l2", activity_regularizer="l2", name="hidden")
    return keras.Sequential([keras.Input((8,)), hidden, *layers, keras.layers.Dense(3, name="out")])


def tagger(seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((None,)), keras.layers.Embedding(9, 4, mask_zero=True), keras.layers.Dense(3)]
    return keras.Sequential(layers)


def two_headed(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((8,))
    return keras.Model(inputs, {"a": keras.layers.Dense(3)(inputs), "b": keras.layers.Dense(3)(inputs)})


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def fit(student, x, y, teacher=None, rank=0, optimizer="adam", loss=None, own=(), **options):
    """A Distiller's weights, those of the optimizer and the logs. Random numbers begin differently in each worker."""
    distiller = keras_ban.Distiller(student=student, teacher=teacher, **dict(own))
    distiller.compile(optimizer, loss or crossentropy(), metrics=options.pop("metrics", ["accuracy"]))
    keras.utils.set_random_seed(5 + rank)
    logs = distiller.fit(x, y, **{"batch_size": 23, "epochs": 2, "verbose": 0, **options}).history
    return {
        "weights": [*distiller.get_weights(), *(p.get_weights()[0] for p in distiller.projections.values())],
        "optimizer": [keras.ops.convert_to_numpy(v.value) for v in distiller.optimizer.variables],
        "logs": {name: [float(value) for value in values] for name, values in logs.items()},
    }


def losses(rank):
    """Every loss; the weights of the second worker's student are overwritten by the first's."""
    losses = keras_ban.losses
    cases = {
        "divergence": {"distillation_loss": losses.KnowledgeDistillation(temperature=2.0)},
        "confidence": {"distillation_loss": losses.ConfidenceWeighted(), "label_weight": 0},
        "correlation": {"distillation_loss": losses.DIST(), "label_weight": 0.3},
        "permuted": {"distillation_loss": losses.PermutedDarkKnowledge(seed=3), "label_weight": 0},
        "scheduled": {"label_weight": keras_ban.OverTraining(lambda done: 0.9 * done)},
        "plain": {"label_weight": 1},
        "unlabeled": {"distillation_loss": losses.KnowledgeDistillation(temperature=2.0), "label_weight": 0.3},
    }
    for name, own in cases.items():
        teacher = None if name == "plain" else classifier(1)
        options = {"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}} if name == "plain" else {"sample_weight": WEIGHTS}
        options |= {"unlabeled": X[::-1].copy()} if name == "unlabeled" else {}
        yield name, fit(classifier(2 + rank), X, Y, teacher, rank, own=own, validation_data=(X, Y), **options)


def forms(rank):
    """Masks, hidden layers, several outputs, stored soft targets."""
    own = {"distillation_loss": keras_ban.losses.ConfidenceWeighted()}
    yield (
        "masked",
        fit(
            tagger(2),
            WORDS,
            NEXT_WORDS,
            tagger(1),
            rank,
            own=own,
            sample_weight=WEIGHTS[:, None] * np.ones((47, 6), "float32"),
        ),
    )
    own = {"feature_matching": keras_ban.FeatureMatching(["hidden"]), "label_weight": 0.5}
    yield "features", fit(classifier(2), X, Y, classifier(1, units=5), rank, own=own, sample_weight=WEIGHTS)
    y = {"b": Y[::-1].copy(), "a": Y}  # Not in alphabetical order.
    loss = {"a": crossentropy(), "b": crossentropy()}
    yield "outputs", fit(two_headed(2), X, y, two_headed(1), rank, loss=loss, metrics=None)


def stored(rank, folder):
    """Soft targets in a file, read in an order that NumPy shuffles."""
    targets = keras_ban.SoftTargets.from_teacher(classifier(1), X, top_k=2, path=pathlib.Path(folder, "soft_targets"))
    yield "stored", fit(classifier(2), X, Y, rank=rank, soft_targets=targets, sample_weight=WEIGHTS)


def normalised(rank):
    """A BatchNorm, one step: its statistics are the mean over the workers, here of as many examples each."""
    layers = [keras.layers.BatchNormalization(name="normalised"), keras.layers.Rescaling(1.0)]
    student = classifier(2, *layers)
    fit(student, X[:46], Y[:46], classifier(1), rank, batch_size=46, epochs=1)
    layer = student.get_layer("normalised")
    yield (
        "normalised",
        {
            "mean": keras.ops.convert_to_numpy(layer.moving_mean),
            "variance": keras.ops.convert_to_numpy(layer.moving_variance),
            "weights": student.get_weights(),
        },
    )


def random(rank):
    """A dropout's draws, an example of ones for each worker."""
    seen = []

    def loss(labels, outputs):
        seen.append(keras.ops.convert_to_numpy(outputs))
        return keras.ops.mean(outputs, axis=-1)

    student = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5, seed=1), keras.layers.Dense(64)])
    student.layers[-1].set_weights([np.eye(64), np.zeros(64)])
    ones, options = np.ones((2, 64), "float32"), {"batch_size": 2, "epochs": 1, "metrics": None}
    fit(student, ones, np.zeros(2), None, rank, "sgd", loss, {"label_weight": 1}, **options)
    state = keras.ops.convert_to_numpy(student.layers[0].seed_generator.state)
    yield "random", {"drawn": seen[-1], "state": state}


@keras.saving.register_keras_serializable(package="torch_cases")
class Turned(keras.layers.MixUp.__base__):
    """Each image and label is averaged with the one before it, among those that the layer gets."""

    _USE_BASE_FACTOR = False

    def transform_images(self, images, transformation, training=True):
        return 0.5 * (images + keras.ops.roll(images, 1, axis=0)) if training else images

    def transform_labels(self, labels, transformation, training=True):
        return 0.5 * (labels + keras.ops.roll(labels, 1, axis=0))


def mixed(rank):
    """An augmentation that mixes labels: each worker mixes its own part of a batch of 23."""
    keras.utils.set_random_seed(2)
    layers = [keras.Input((2, 2, 2)), keras.layers.Flatten(), keras.layers.Dense(3, use_bias=False)]
    student = keras.Sequential(layers)
    own = {"label_weight": 1, "augmentation": Turned()}
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    options = {"optimizer": keras.optimizers.SGD(0.5), "loss": loss, "epochs": 1, "shuffle": False}
    before = student.get_weights()
    yield "mixed", {"before": before, **fit(student, *MIXED, None, rank, own=own, **options)}


def parts(rank, together):
    """Batches that each worker reads on its own: a DataLoader's sampler divides them."""
    import torch

    class Examples(torch.utils.data.Dataset):
        def __len__(self):
            return 44

        def __getitem__(self, index):
            return X[index], Y[index], WEIGHTS[index]

    if not together:
        yield "parts", fit(classifier(2), X[:44], Y[:44], classifier(1), batch_size=16, shuffle=False,
                           sample_weight=WEIGHTS[:44])  # fmt: skip
        return
    sampler = torch.utils.data.DistributedSampler(Examples(), shuffle=False)
    loader = torch.utils.data.DataLoader(Examples(), batch_size=8, sampler=sampler)
    result = fit(classifier(2 + rank), loader, None, classifier(1), rank, batch_size=None, shuffle=False)
    yield "parts", {**result, "epoch": sampler.epoch}
    shuffled = torch.utils.data.DataLoader(Examples(), batch_size=8, shuffle=True)
    yield from refused(rank, "undivided", shuffled, None, shuffle=False)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self._x, self._y = x, y

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self._x[index::2], self._y[index::2]


def refused(rank, name, x, y, student=None, jit_compile=False, **options):
    """What is said of data that would train, or measure, something else than one model."""
    distiller = keras_ban.Distiller(student=student or classifier(2), label_weight=1)
    distiller.compile("sgd", crossentropy(), jit_compile=jit_compile)
    try:
        distiller.fit(x, y, verbose=0, **options)
    except ValueError as error:
        yield name, str(error)


def all_refused(rank):
    yield from refused(rank, "same parts", Batches(X, Y), None)
    yield from refused(rank, "without a length", ((X, Y) for _ in range(3)), None)
    yield from refused(
        rank, "other lengths of sequences", Batches(WORDS[:, rank:], NEXT_WORDS[:, rank:]), None, tagger(2)
    )
    yield from refused(rank, "other batches", X, Y, batch_size=4 + rank)
    yield from refused(rank, "another order", X, np.roll(Y, rank), shuffle=False)
    yield from refused(rank, "other validation", X, Y, validation_data=(X[rank * 20 :], Y[rank * 20 :]))
    yield from refused(rank, "compiled", X, Y, jit_compile=True)
    distiller = keras_ban.Distiller(student=classifier(2, units=4 + rank), label_weight=1)
    distiller.compile("sgd", crossentropy())
    for name, call in {"other models": distiller.fit, "one batch": distiller.train_on_batch}.items():
        try:
            call(X, Y)
        except ValueError as error:
            yield name, str(error)


def sequence(directory):
    """Two generations in a run directory: their weights, and what was logged of each."""
    sequence = keras_ban.BornAgainSequence(classifier(0), generations=1, directory=directory, seed=7)
    sequence.compile("adam", crossentropy(), metrics=["accuracy"])
    sequence.fit(X, Y, batch_size=23, epochs=3, verbose=0, validation_data=(X, Y))
    # What plain Keras logs, too, which trains generation 0 where there are no other workers.
    names = ("loss", "accuracy", "val_loss", "val_accuracy")
    return {
        "weights": [weight for model in sequence.models for weight in model.get_weights()],
        "logs": [{name: record.logs[name] for name in names} for record in sequence.history.records],
    }


def every(rank, folder, together):
    yield from losses(rank)
    yield from forms(rank)
    yield from stored(rank, folder)
    yield from normalised(rank)
    yield from random(rank)
    yield from mixed(rank)
    yield from parts(rank, together)


def worker(rank, folder):
    """One of two workers that train together. The second one is killed in the end."""
    import torch.distributed as dist

    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
    # Far longer than anything here takes: what is waited for is the closed connection.
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=120))
    results = dict(every(rank, folder, together=True)) | dict(all_refused(rank))
    pathlib.Path(folder, f"worker_{rank}").write_bytes(pickle.dumps(results))
    # One of them is killed in the second epoch of the first student.
    original = keras_ban.Distiller.train_step

    def train_step(self, *args):
        if rank == 1 and pathlib.Path(folder, "run", "generation-00").exists() and self.optimizer.iterations == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args)

    keras_ban.Distiller.train_step = train_step
    sequence(pathlib.Path(folder, "run"))
