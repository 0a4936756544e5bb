"""Each operation on each kind of data, against the closed form in NumPy.

A linear softmax classifier is trained by SGD, whose every step NumPy can do. The rows are such that any other order,
label, weight or pairing gives other numbers. A new kind of data is a line in `helpers.kinds`, and meets all operations.
"""

import functools
import itertools
import re

import keras
import numpy as np
import oracles
import pytest
from helpers.kinds import (
    BY_CLASS,
    CLASS_WEIGHT,
    CLASSES,
    EPOCHS,
    KINDS,
    RATE,
    SIZE,
    STUDENT,
    SWAPPED,
    TEACHER,
    W_VAL,
    X_VAL,
    Y_VAL,
    Trained,
    W,
    X,
    Y,
    assert_close,
    label_losses,
    logits_of,
    one_hot,
    reference,
)
from helpers.models import assert_same, values
from helpers.soft_targets import make
from helpers.tables import cases

from keras_ban import BornAgainSequence, Distiller, EnsembleModel, gradient_decomposition, reborn
from keras_ban.losses import KnowledgeDistillation, PermutedDarkKnowledge

# Keras says so at the end of each epoch of a dataset whose length it cannot know.
pytestmark = pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")


# --- The operations.


class Cell:
    """One kind, what is made of it, and what may not have been trained if it is refused."""

    def __init__(self, kind, folder):
        self.kind, self.folder, self.epochs = kind, folder, 1 if kind.once else EPOCHS
        self.students, self.sequences = [], []

    def student(self):
        self.students.append(self.kind.model(*STUDENT))
        return self.students[-1]

    def teacher(self):
        return self.kind.model(*TEACHER)

    def targets(self, x=X, **options):
        return make(self.teacher(), self.kind.arrays(x)[0], batch_size=SIZE, **{"dtype": "float32", **options})

    def arguments(self, x=X, y=Y, w=None):
        """Of `fit` and `evaluate`."""
        parts = dict(zip(("x", "y", "sample_weight"), self.kind.arrays(x, y, w), strict=True))
        parts = {name: part for name, part in parts.items() if part is not None}
        return {**parts, "batch_size": self.kind.batch_size, "verbose": 0}

    def train(self, data, options=None, **fit):
        """A Distiller's `fit`: the student's weights and the logs. Where soft targets are given it has no teacher."""
        teacher = self.teacher() if fit.get("soft_targets") is None else None
        dense = data[1] is not None and data[1].ndim > 1
        loss = keras.losses.CategoricalCrossentropy(from_logits=True) if dense else None
        distiller = compiled(loss, student=self.student(), teacher=teacher, **(options or {}))
        steps = len(X) // SIZE if self.kind.once else None
        fit = {"epochs": self.epochs, "steps_per_epoch": steps, "shuffle": False, **fit}
        history = distiller.fit(**self.arguments(*data), **fit)
        return Trained(distiller.student.get_weights(), history.history)

    def check(self, trained, **expected):
        expected = reference(**{"epochs": self.epochs, **expected})
        assert_close(expected.weights, trained.weights)
        assert expected.logs.keys() == trained.logs.keys()
        for name, log in expected.logs.items():
            np.testing.assert_allclose(trained.logs[name], log, rtol=1e-5, err_msg=name)

    def sequence(self, **options):
        own = {"generations": 1, "seed": 0, "initial_weights": "fresh", **options}
        made = BornAgainSequence(self.kind.model(*STUDENT), **own)
        made.compile(keras.optimizers.SGD(RATE), crossentropy())
        self.sequences.append(made)
        return made

    def check_untrained(self):
        for student in self.students:
            assert_same(STUDENT, student.get_weights())
        assert [] == [sequence.models for sequence in self.sequences if sequence.models]


def crossentropy():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(loss=None, **arguments):
    distiller = Distiller(**arguments)
    distiller.compile(keras.optimizers.SGD(RATE), loss or crossentropy())
    return distiller


class Halved(keras.layers.Layer):
    """An augmentation that draws random numbers, and does the same whatever they are."""

    def __init__(self):
        super().__init__()
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, inputs):
        factor = 0.5 + 0 * keras.random.uniform((), seed=self.seed_generator)
        return keras.tree.map_structure(lambda part: part * factor, inputs)


def plain_keras(cell):
    model = cell.student()
    model.compile(keras.optimizers.SGD(RATE), crossentropy())
    logs = model.fit(**cell.arguments(X, Y, W), epochs=cell.epochs, shuffle=False).history
    cell.check(Trained(model.get_weights(), {**logs, "label_loss": logs["loss"]}), w=W, label_weight=1)


ONE_HOT = one_hot(Y).astype("float32")
SMOOTHED = 0.75 * ONE_HOT + 0.25 / CLASSES
NO_LABELS = {"y": None, "label_weight": 0}
TRAINING = {
    "online": {},
    "online_weighted": {"w": W},
    "labels_alone": {"w": W, "label_weight": 1},
    "teacher_alone": NO_LABELS,
    "teacher_alone_weighted": {"w": W, **NO_LABELS},
    "cached": {"cached": {}},
    "cached_weighted": {"w": W, "cached": {}},
    "cached_without_labels": {"cached": {}, **NO_LABELS},
    "cached_without_labels_weighted": {"w": W, "cached": {}, **NO_LABELS},
    "in_a_file": {"w": W, "cached": {"path": "targets.npy"}},
    "top_k": {"cached": {"top_k": CLASSES}},
    "augmented_views": {"w": W, "cached": {"views": 2}},
    "class_weight": {"by_class": True},
    "cached_class_weight": {"by_class": True, "cached": {}},
    "class_weight_one_hot": {"y": ONE_HOT, "by_class": True},
    "cached_class_weight_one_hot": {"y": ONE_HOT, "by_class": True, "cached": {}},
    "class_weight_smoothed": {"y": SMOOTHED, "by_class": True},
    "cached_class_weight_smoothed": {"y": SMOOTHED, "by_class": True, "cached": {}},
    "validation_split": {"w": W, "split": True},
    "cached_validation_split": {"w": W, "split": True, "cached": {}},
}


def train(cell, y=Y, w=None, label_weight=0.5, cached=None, by_class=False, split=False):
    """A Distiller's `fit`, with the options of `SoftTargets` if they are cached, against the reference."""
    fit, options = {"class_weight": CLASS_WEIGHT} if by_class else {}, {"label_weight": label_weight}
    expected = {"y": Y if y is None else y, "w": BY_CLASS if by_class else w, "label_weight": label_weight}
    if cached is not None:
        cached = {name: cell.folder / value if name == "path" else value for name, value in cached.items()}
        if "views" in cached:
            cached["augmentation"] = options["augmentation"] = Halved()
            expected["x"] = X / 2
        fit["soft_targets"] = cell.targets(**cached)
    if split:
        fit["validation_split"] = 1 / 3
        expected |= {"x": X[:16], "y": Y[:16], "w": W[:16], "validation": (X[16:], Y[16:], W[16:])}
    cell.check(cell.train((X, y, w), options, **fit), **expected)


def validation_data(cell):
    x, y, w = cell.kind.arrays(X_VAL, Y_VAL, W_VAL)
    distiller = compiled(student=cell.student(), teacher=cell.teacher())
    x_train, options = cell.kind.numpy(X), {"epochs": EPOCHS, "batch_size": SIZE, "shuffle": False, "verbose": 0}
    logs = distiller.fit(x_train, Y, validation_data=x if y is None else (x, y, w), **options).history
    cell.check(Trained(distiller.student.get_weights(), logs), validation=(X_VAL, Y_VAL, W_VAL))


def evaluate(cell):
    distiller = Distiller(student=cell.student(), teacher=cell.teacher())
    distiller.compile("sgd", crossentropy(), metrics=["accuracy"], weighted_metrics=["accuracy"])
    found = distiller.evaluate(**cell.arguments(X, Y, W), return_dict=True)
    right = logits_of(STUDENT, X).argmax(-1) == Y
    expected = [(W * label_losses(STUDENT, X, Y)).mean(), right.mean(), (W * right).sum() / W.sum()]
    np.testing.assert_allclose([found[name] for name in ("loss", "accuracy", "weighted_accuracy")], expected, rtol=1e-5)


def predict(cell):
    distiller = compiled(student=cell.student(), teacher=cell.teacher())
    assert_close([logits_of(STUDENT, X)], [distiller.predict(cell.kind.arrays(X)[0], cell.kind.batch_size, verbose=0)])


def ensemble(cell):
    averaged = EnsembleModel([cell.student(), cell.teacher()])
    averaged.compile("sgd", crossentropy())
    mean = np.log(np.mean([oracles.softmax(logits_of(model, X)) for model in (STUDENT, TEACHER)], axis=0))
    loss = averaged.evaluate(**cell.arguments(X, Y, W))
    np.testing.assert_allclose(loss, -(W * mean[np.arange(24), Y]).mean(), rtol=1e-5)
    assert_close([mean], [averaged.predict(cell.kind.arrays(X)[0], cell.kind.batch_size, verbose=0)])


def soft_targets(cell):
    targets = cell.targets()
    assert_close([logits_of(TEACHER, X)], [np.asarray(targets)])
    assert targets.verify(cell.teacher(), cell.kind.arrays(X)[0], batch_size=SIZE) < 1e-5
    assert 24 == len(np.unique(targets.keys))


def another_order(cell):
    targets = cell.targets()
    with pytest.raises(ValueError, match="another order"):
        cell.train((X[SWAPPED], Y), soft_targets=targets)
    cell.check_untrained()


def decomposition(cell):
    x, y, _ = cell.kind.arrays(X, Y)
    for teacher in (cell.teacher(), make(cell.teacher(), cell.kind.arrays(X)[0])):
        parts = gradient_decomposition(cell.student(), teacher, x, Y if y is None else y)
        gradient = oracles.knowledge_distillation_gradient(logits_of(TEACHER, X), logits_of(STUDENT, X))
        np.testing.assert_allclose(parts.ground_truth, gradient[np.arange(24), Y], atol=1e-6)
        np.testing.assert_allclose(parts.dark_knowledge, gradient * (1 - one_hot(Y)), atol=1e-6)


def check_scores(history, models, x, y):
    probabilities = [oracles.softmax(logits_of(model.get_weights(), x)) for model in models]
    found = [*(record.scores for record in history.records), history.ensemble]
    for scores, each in zip(found, [*probabilities, np.mean(probabilities, axis=0)], strict=True):
        assert (len(y), (each.argmax(-1) == y).mean()) == (scores.examples, scores.accuracy)
        np.testing.assert_allclose(scores.nll, -np.log(each[np.arange(len(y)), y]).mean(), rtol=1e-5)


def sequence(cell):
    made = cell.sequence()
    x, y, _ = cell.kind.arrays(X_VAL, Y_VAL)
    fit = {"epochs": EPOCHS, "shuffle": False, "validation_data": x if y is None else (x, y)}
    history = made.fit(**cell.arguments(X, Y, W), **fit)

    teacher, validation = TEACHER, (X_VAL, Y_VAL, np.ones(16))
    for model, record in zip(made.models, history.records, strict=True):
        keras.utils.set_random_seed(record.seed)
        expected = {"w": W, "start": reborn(made.model).get_weights(), "teacher": teacher, "validation": validation}
        expected["label_weight"], logs = (0.5, {}) if record.generation else (1, {"label_loss": record.logs["loss"]})
        teacher = model.get_weights()
        cell.check(Trained(teacher, {**record.logs, **logs}), **expected)
        np.testing.assert_allclose(record.metrics["val_loss"], label_losses(teacher, X_VAL, Y_VAL).mean(), rtol=1e-5)
    check_scores(history, made.models, X_VAL, Y_VAL)


def sequence_evaluate(cell):
    made = cell.sequence()
    made.fit(cell.kind.numpy(X), Y, batch_size=SIZE, verbose=0)
    cell.sequences.clear()
    x, y, _ = cell.kind.arrays(X_VAL, Y_VAL)
    y = Y_VAL if y is None and cell.kind.batches is None else y
    check_scores(made.evaluate(x, y, cell.kind.batch_size), made.models, X_VAL, Y_VAL)


def resume(cell):
    def run(name, generations, x=X):
        made = cell.sequence(directory=cell.folder / name, generations=generations)
        made.fit(**cell.arguments(x, Y, W), shuffle=False)
        return [array for model in made.models for array in model.get_weights()]

    whole = run("whole", 2)
    assert_same(whole[:4], run("in parts", 1))
    assert_same(whole, run("in parts", 2))
    if cell.kind.batches is None:
        with pytest.raises(ValueError, match="x"):
            run("in parts", 2, X[SWAPPED])


OPERATIONS = {"plain_keras": plain_keras}
OPERATIONS |= {name: functools.partial(train, **options) for name, options in TRAINING.items()}
OPERATIONS |= {each.__name__: each for each in (validation_data, evaluate, predict, ensemble, soft_targets)}
OPERATIONS |= {each.__name__: each for each in (another_order, decomposition, sequence, sequence_evaluate, resume)}


# --- What cannot be done is refused before training, and the message says what to use instead.

DATASETS = [name for name, kind in KINDS.items() if kind.batches is not None]
GRAIN, ONCE = ["grain_map", "grain_iter"], ["generator"]
CACHED = [name for name, options in TRAINING.items() if "cached" in options]
AGAIN = [*CACHED, "soft_targets", "another_order", "validation_data", "sequence", "resume", "decomposition"]
CLASS_WEIGHTS = [name for name in CACHED if "class_weight" in name]
ONLINE_CLASS_WEIGHTS = [name for name in TRAINING if "class_weight" in name and name not in CACHED]
SPARSE = ["scipy_csr", "scipy_coo", "tf_sparse"]
BY_POSITION = [*(name for name in CACHED if name not in CLASS_WEIGHTS), "another_order"]
NOT_WEIGHTED = ["DataLoader", *GRAIN, *ONCE]
SPLITS = ["validation_split", "cached_validation_split"]
ONLY_WEIGHTS = ["teacher_alone_weighted", "cached_without_labels_weighted"]

# Of which kinds and operations, what the message names, and why. Of several rows the first counts.
MUST_REFUSE = {
    "what is read once cannot be read again": (ONCE, AGAIN, "generator|iterator"),
    "Keras splits arrays alone": (DATASETS, SPLITS, "array|generator"),
    "Grain's datasets are paired by key alone": (GRAIN, BY_POSITION, "PyDataset|key"),
    "they cannot be told the view, as documented": (["tf_data", "DataLoader"], ["augmented_views"], "PyDataset"),
    "Keras knows no class weights for them": (NOT_WEIGHTED, ONLINE_CLASS_WEIGHTS, "weight"),
    "the dataset is to give weights, as documented": (DATASETS, CLASS_WEIGHTS, "sample_weight"),
    "each generation reads the data, as documented": (ONCE, ["sequence_evaluate"], "array"),
}
# Either it is refused as well, or it is right: nobody promised it, and both serve.
MAY_REFUSE = {
    "soft targets by position that Grain cannot be paired with": (GRAIN, ["soft_targets"], "PyDataset|key"),
    "a decomposition is documented for arrays": (DATASETS, ["decomposition"], "array"),
    "a layer may want dense examples": (SPARSE, ["augmented_views"], "dense|toarray"),
    "`(x, None, weights)` may be no form for a dataset": (DATASETS, ONLY_WEIGHTS, "None|label"),
}
# What plain Keras cannot do with a kind: there it is no reference, and what is left to it alone is not asked for.
NOT_IN_KERAS = {
    ("plain_keras", "dict_with_another_for_dict"): "pairs arrays and inputs by position",
    ("plain_keras", "hugging_face"): "does not know it",
}
if keras.config.backend() == "tensorflow":
    LATER = "PyDataset_ordered_later"
    MAY_REFUSE["Keras reads two batches before an epoch begins"] = ([LATER], list(OPERATIONS), "on_epoch_begin")
    of_keras = ("plain_keras", "labels_alone", "evaluate", "predict", "ensemble", "validation_data")
    NOT_IN_KERAS |= {(operation, LATER): "reads two batches before `on_epoch_begin`" for operation in of_keras}


def refusals(table):
    found = {}
    for kinds, operations, message in table.values():
        for cell in ((operation, kind) for kind in kinds for operation in operations):
            found.setdefault(cell, message)
    return found


REFUSED, PERHAPS = refusals(MUST_REFUSE), refusals(MAY_REFUSE)
CELLS = [cell for cell in itertools.product(OPERATIONS, KINDS) if cell not in NOT_IN_KERAS]


# On each backend: every kind in two operations, and every operation with one kind. For the other cells the backend
# makes no difference: arrays become NumPy arrays first, and what is refused is refused in Python.
EVERYWHERE = ("online", "sequence")


def on_one_backend(operation, kind):
    if (operation, kind) in REFUSED or operation.endswith(("_one_hot", "_smoothed")):
        return True
    return operation not in EVERYWHERE and kind != "float32"


ON_ONE = {cell for cell in CELLS if on_one_backend(*cell)}


def rows_of(cells):
    marks = {cell: [pytest.mark.one_backend] if cell in ON_ONE else [] for cell in cells}
    rows = [pytest.param(*cell, id="-".join(cell), marks=marks[cell]) for cell in cells]
    return pytest.mark.parametrize(("operation", "kind"), rows)


@rows_of([cell for cell in CELLS if cell not in REFUSED])
def test_each_operation_gives_the_numbers_of_the_closed_form_for_each_kind_of_data(operation, kind, tmp_path):
    cell = Cell(KINDS[kind], tmp_path)
    try:
        OPERATIONS[operation](cell)
    except (ValueError, TypeError) as error:
        if (operation, kind) not in PERHAPS:
            raise
        assert_refused(cell, error, PERHAPS[operation, kind])


@rows_of([cell for cell in CELLS if cell in REFUSED])
def test_what_a_kind_of_data_cannot_do_is_refused_before_training(operation, kind, tmp_path):
    cell = Cell(KINDS[kind], tmp_path)
    with pytest.raises((ValueError, TypeError)) as caught:
        OPERATIONS[operation](cell)
    assert_refused(cell, caught.value, REFUSED[operation, kind])


def assert_refused(cell, error, message):
    cell.check_untrained()
    if not re.search(message, str(error)):
        raise AssertionError(f"The message does not name {message!r}: {error}") from error


# --- Single properties of data.


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "x",
    [
        np.eye(300, dtype="float32"),
        np.eye(300, dtype="int64"),
        np.array(list(itertools.product([0.0, 1.0], repeat=10))),
        np.array(list(itertools.product([0.0, 1.0], repeat=10)), "float32"),
        np.array(list(itertools.product([-1.0, 0.0, 2.0], repeat=6)), "float16"),
    ],
    ids=lambda x: f"{x.dtype}{x.shape}",
)
def test_different_examples_have_different_keys_and_another_order_is_refused(x):
    teacher, student = linear(x.shape[1], 2), linear(x.shape[1], 2)
    targets = make(teacher, x)
    assert len(x) == len(np.unique(targets.keys))
    distiller = compiled(student=student)
    for first in (0, len(x) // 2, len(x) - 2):
        order = np.arange(len(x))
        order[[first, first + 1]] = order[[first + 1, first]]
        with pytest.raises(ValueError, match="another order"):
            distiller.fit(x[order], np.zeros(len(x), int), soft_targets=targets, verbose=0)


def linear(inputs, outputs):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(outputs)])


@pytest.mark.one_backend
def test_a_seed_may_be_a_whole_number_of_numpy():
    logits = np.random.default_rng(0).standard_normal((2, 8, CLASSES)).astype("float32")
    drawn = [keras.ops.convert_to_numpy(PermutedDarkKnowledge(seed=seed)(*logits)) for seed in (3, np.int64(3))]
    assert drawn[0] == drawn[1]


@cases("cached, shape", (True, (24,)), on_one_backend=[(True, (24, 1)), (False, (24,)), (False, (24, 1))])
def test_class_weights_of_smoothed_binary_labels_are_those_of_the_nearest_class_as_in_keras(cached, shape):
    yes = (Y % 2).reshape(shape)
    smoothed = (0.9 * yes + 0.05).astype("float32")
    teacher, start = linear(4, 1), linear(4, 1).get_weights()
    ways = {"class_weight": {0: 0.5, 1: 3.0}}, {"sample_weight": np.array([0.5, 3.0])[Y % 2]}
    trained = []
    for way in ways:
        student = linear(4, 1)
        student.set_weights(start)
        sigmoid, loss = KnowledgeDistillation(activation="sigmoid"), keras.losses.BinaryCrossentropy(from_logits=True)
        distiller = compiled(loss, student=student, teacher=None if cached else teacher, distillation_loss=sigmoid)
        targets = make(teacher, X) if cached else None
        distiller.fit(X, smoothed, batch_size=SIZE, shuffle=False, verbose=0, soft_targets=targets, **way)
        trained.append(student.get_weights())
    assert_same(*trained)


@pytest.mark.parametrize("cached", [False, True])
def test_a_generator_that_ends_before_the_last_epoch_is_refused_before_training(cached):
    cell = Cell(KINDS["generator"], None)
    distiller = compiled(student=cell.student(), teacher=None if cached else cell.teacher())
    targets = make(cell.teacher(), X) if cached else None
    with pytest.raises((ValueError, TypeError), match="generator|iterator"):
        distiller.fit(cell.kind.arrays(X, Y)[0], epochs=2, shuffle=False, verbose=0, soft_targets=targets)
    cell.check_untrained()


class Padded(keras.utils.PyDataset):
    """Batches that are padded to the longest text in each: `(8, 5)`, then `(8, 3)`."""

    fixed = True

    def __len__(self):
        return 2

    def __getitem__(self, index):
        tokens = np.arange(8 * (5 - 2 * index)).reshape(8, -1) % 6
        return tokens, (tokens + 1) % 6


def language_model():
    layers = [keras.layers.Embedding(6, 3), keras.layers.Dense(6)]
    return keras.Sequential([keras.Input((None,), dtype="int32"), *layers])


@pytest.mark.parametrize("to_file", [False, True])
def test_soft_targets_of_rows_of_unequal_length_are_refused_by_their_shapes(to_file, tmp_path):
    path = tmp_path / "targets.npy" if to_file else None
    with pytest.raises(ValueError, match=r"(?s)(?=.*5, 6\))(?=.*3, 6\))"):
        make(language_model(), Padded(), path=path)
    assert [] == list(tmp_path.iterdir())


def test_a_sequence_hears_the_teacher_at_each_step_where_rows_are_of_unequal_length():
    trained = []
    for soft_targets in ("auto", "online"):
        made = BornAgainSequence(language_model(), generations=1, seed=0, soft_targets=soft_targets)
        made.compile(keras.optimizers.SGD(RATE), crossentropy())
        made.fit(Padded(), shuffle=False, verbose=0)
        trained.append([array for model in made.models for array in values(model)])
    assert_same(*trained)


def of_eight():
    """A model whose batches must hold 8 examples, and whose state passes on, but under torch: there Keras cannot."""
    lstm = keras.layers.LSTM(3, stateful=keras.config.backend() != "torch")
    return keras.Sequential([keras.Input(batch_shape=(SIZE, 2, 2)), lstm, keras.layers.Dense(CLASSES)])


FIXED = {"batch_size": SIZE, "shuffle": False, "verbose": 0}


@pytest.mark.parametrize("way", ["labels alone", "online", "cached"])
def test_a_model_of_a_fixed_batch_size_is_trained_by_a_distiller(way):
    student, teacher, plain = of_eight(), of_eight(), of_eight()
    plain.set_weights(student.get_weights())
    before, of_teacher, x = student.get_weights(), values(teacher), X.reshape(24, 2, 2)
    targets = make(teacher, x, batch_size=SIZE) if way == "cached" else None
    distiller = compiled(
        student=student, teacher=None if targets else teacher, label_weight=1 if way == "labels alone" else 0.5
    )

    distiller.fit(x, Y, soft_targets=targets, validation_data=(x[:16], Y[:16]), **FIXED)

    assert all((b != a).any() and np.isfinite(a).all() for b, a in zip(before, student.get_weights(), strict=True))
    assert_same(of_teacher, values(teacher))
    if way == "labels alone":
        plain.compile(keras.optimizers.SGD(RATE), crossentropy())
        plain.fit(x, Y, validation_data=(x[:16], Y[:16]), **FIXED)
        assert_same(plain.get_weights(), student.get_weights())


@pytest.mark.parametrize("soft_targets", ["online", "cached"])
def test_a_model_of_a_fixed_batch_size_is_born_again(soft_targets):
    made = BornAgainSequence(of_eight(), generations=1, seed=0, soft_targets=soft_targets)
    made.compile(keras.optimizers.SGD(RATE), crossentropy())
    x = X.reshape(24, 2, 2)

    history = made.fit(x, Y, validation_data=(x[:16], Y[:16]), **FIXED)

    assert [16, 16] == [record.scores.examples for record in history.records]
    assert 16 == history.ensemble.examples
