"""Unlabeled inputs beside labeled examples: the loss of a batch, the order of batches, and what is refused."""

import itertools
import re

import keras
import numpy as np
import oracles
import pytest
from helpers.data import make_blobs
from helpers.kinds import by_name
from helpers.models import assert_same, classifier, crossentropy
from helpers.runs import assert_same_run, sequence
from helpers.training import interrupted_after
from keras import layers, ops

import keras_ban
from keras_ban import Distiller, SoftTargets, losses

RNG = np.random.default_rng(4)
LABELED, UNLABELED, CLASSES, TEMPERATURE = 24, 40, 3, 2.0
X = RNG.standard_normal((LABELED, 4)).astype("float32")
U = RNG.standard_normal((UNLABELED, 4)).astype("float32")
Y = RNG.integers(0, CLASSES, LABELED)
W = RNG.uniform(0.5, 2, LABELED).astype("float32")
CLASS_WEIGHT = {0: 2.0, 1: 0.5}
BATCH = LABELED + UNLABELED


def linear(seed, build=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)]) if build is None else build()


STUDENT, TEACHER = ([w.astype("float64") for w in linear(seed).get_weights()] for seed in (1, 2))


def outputs(weights, x):
    return x.astype("float64") @ weights[0] + weights[1]


def terms(x=X, y=Y, u=U):
    """Label and distillation losses of the labeled examples, and distillation losses of the unlabeled."""
    student = outputs(STUDENT, x)
    label_losses = -np.take_along_axis(oracles.log_softmax(student), y[:, None], axis=-1)[:, 0]
    of_rows = (
        oracles.knowledge_distillation(outputs(TEACHER, part), outputs(STUDENT, part), TEMPERATURE) for part in (x, u)
    )
    return label_losses, *of_rows


def expected_logs(label_weight=0.3, weights=None):
    label, distillation, of_unlabeled = terms()
    weights = np.ones(LABELED) if weights is None else weights
    right = outputs(STUDENT, X).argmax(-1) == Y
    loss = label_weight * (weights * label).sum() + (1 - label_weight) * (weights * distillation).sum()
    return {
        "loss": (loss + of_unlabeled.sum()) / BATCH,
        "label_loss": (weights * label).mean(),
        "distillation_loss": ((weights * distillation).sum() + of_unlabeled.sum()) / BATCH,
        "accuracy": right.mean(),
        "weighted": (weights * right).sum() / weights.sum(),
    }


def compiled(student=None, learning_rate=0.0, **arguments):
    own = {"teacher": linear(2), "label_weight": 0.3} | arguments
    own.setdefault("distillation_loss", losses.KnowledgeDistillation(temperature=TEMPERATURE))
    distiller = Distiller(student=student or linear(1), **own)
    weighted = [keras.metrics.SparseCategoricalAccuracy(name="weighted")]
    distiller.compile(
        keras.optimizers.SGD(learning_rate), crossentropy(), metrics=["accuracy"], weighted_metrics=weighted
    )
    return distiller


def logs(distiller, *args, **options):
    history = distiller.fit(*args, **{"batch_size": BATCH, "verbose": 0, **options}).history
    return {name: values[-1] for name, values in history.items()}


class Batches(keras.utils.PyDataset):
    """Batches of equal size of arrays; it counts the calls of its hooks."""

    def __init__(self, *arrays, size):
        super().__init__()
        self.arrays, self.size = arrays, size
        self.begun = self.ended = 0

    def __len__(self):
        return -(-len(self.arrays[0]) // self.size)

    def __getitem__(self, index):
        parts = tuple(each[index * self.size : (index + 1) * self.size] for each in self.arrays)
        return parts if len(parts) > 1 else parts[0]

    def on_epoch_begin(self):
        self.begun += 1

    def on_epoch_end(self):
        self.ended += 1


def cases(combinations, on_each):
    """All combinations on torch, a few of them on each backend."""
    marks = {True: [], False: [pytest.mark.one_backend]}
    return [pytest.param(*case, marks=marks[case in on_each]) for case in combinations]


def in_memory(tmp_path, **options):
    return SoftTargets.from_teacher(linear(2), np.concatenate([X, U]), verbose=0, **options)


def on_disk(tmp_path):
    in_memory(tmp_path, path=tmp_path / "targets.npy")
    return SoftTargets.load(tmp_path / "targets.npy")


@pytest.mark.parametrize(
    "weights, stored, size",
    cases(
        itertools.product([None, "sample", "class"], [None, in_memory, on_disk], [BATCH, 30]),
        on_each=[(None, None, BATCH), ("sample", in_memory, 30), ("class", on_disk, 30)],
    ),
)
def test_the_loss_is_the_mean_over_all_examples_of_the_batch(tmp_path, weights, stored, size):
    given = {"sample": {"sample_weight": W}, "class": {"class_weight": CLASS_WEIGHT}}.get(weights, {})
    if stored is not None:
        given["soft_targets"] = stored(tmp_path)
    by_class = np.array([CLASS_WEIGHT.get(each, 1.0) for each in Y])

    # With a learning rate of 0, the mean over an epoch does not depend on how it is divided into batches.
    actual = logs(compiled(), X, Y, unlabeled=U, batch_size=size, **given)

    expected = expected_logs(weights={"sample": W, "class": by_class}.get(weights))
    assert expected == pytest.approx(actual, rel=1e-5)


def schedule(step):
    return 0.1 * ops.cast(step + 1, "float32")


def test_a_scheduled_label_weight_counts_for_labeled_examples_alone():
    actual = logs(compiled(label_weight=schedule), X, Y, unlabeled=U, epochs=3)

    assert 0.3 == pytest.approx(actual.pop("label_weight"), rel=1e-6)
    assert expected_logs() == pytest.approx(actual, rel=1e-5)


def test_without_label_weight_all_examples_count_alike():
    divergence = losses.KnowledgeDistillation()
    distiller = Distiller(student=linear(1), teacher=linear(2), distillation_loss=divergence, label_weight=0)
    distiller.compile(keras.optimizers.SGD(0.0), None)

    actual = logs(distiller, X, sample_weight=W, unlabeled=U)

    teacher, student = (outputs(weights, np.concatenate([X, U])) for weights in (TEACHER, STUDENT))
    divergence = oracles.knowledge_distillation(teacher, student)
    expected = (divergence * np.concatenate([W, np.ones(UNLABELED)])).mean()
    assert {"loss": expected, "distillation_loss": expected} == pytest.approx(actual, rel=1e-5)


def test_a_step_follows_the_gradient_of_that_loss():
    distiller = compiled(learning_rate=0.5)

    logs(distiller, X, Y, sample_weight=W, unlabeled=U)

    x, weights = np.concatenate([X, U]).astype("float64"), np.concatenate([W, np.ones(UNLABELED)])
    student = outputs(STUDENT, x)
    of_labels = oracles.softmax(student[:LABELED]) - np.eye(CLASSES)[Y]
    gradient = oracles.knowledge_distillation_gradient(outputs(TEACHER, x), student, TEMPERATURE)
    gradient[:LABELED] = 0.3 * of_labels + 0.7 * gradient[:LABELED]
    kernel = STUDENT[0] - 0.5 * x.T @ (weights[:, None] * gradient) / BATCH
    np.testing.assert_allclose(kernel, distiller.student.get_weights()[0], rtol=1e-5, atol=1e-6)


def data_loader(*arrays, size):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.from_numpy, arrays)), size)


def tf_dataset(*arrays, size):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(arrays if len(arrays) > 1 else arrays[0]).batch(size)


DATASETS = {"PyDataset": Batches, "tf.data": tf_dataset, "DataLoader": data_loader}


def generator(*arrays, size):
    yield arrays


@pytest.mark.parametrize(
    "labeled, unlabeled",
    cases(
        itertools.product(["arrays", "generator", *DATASETS], ["arrays", *DATASETS]),
        on_each=[("PyDataset", "arrays"), ("tf.data", "tf.data"), ("DataLoader", "DataLoader")],
    ),
)
def test_datasets_give_one_batch_each_per_step(labeled, unlabeled):
    make = {**DATASETS, "generator": generator}
    options = {"batch_size": None}
    if labeled == "arrays":
        data, options = (X, Y), {"sample_weight": W, "batch_size": LABELED if unlabeled != "arrays" else BATCH}
    else:
        data = (make[labeled](X, Y, W, size=LABELED),)
        options["steps_per_epoch"] = 1 if labeled == "generator" else None
    u = U if unlabeled == "arrays" else make[unlabeled](U, size=UNLABELED)
    # Arrays beside a dataset come in batches of its size.
    expected = expected_logs(weights=W)
    if unlabeled == "arrays" and labeled != "arrays":
        u = np.concatenate([X, U])[:LABELED]
        label, distillation, of_unlabeled = terms(u=u)
        total = (W * (0.3 * label + 0.7 * distillation)).sum() + of_unlabeled.sum()
        expected = {**expected, "loss": total / (2 * LABELED)}
        expected["distillation_loss"] = ((W * distillation).sum() + of_unlabeled.sum()) / (2 * LABELED)

    # Keras warns that it cannot shuffle a generator.
    actual = logs(compiled(), *data, unlabeled=u, shuffle=False, **options)

    assert expected == pytest.approx(actual, rel=1e-5)


class Seen(keras.layers.Layer):
    """Passes its inputs on, and keeps them. The student runs eagerly."""

    def __init__(self):
        super().__init__()
        self.rows = []

    def call(self, x, training=None):
        if training:
            self.rows.append(ops.convert_to_numpy(x)[:, 0].astype(int).tolist())
        return x


NUMBERS = np.arange(100, 110, dtype="float32")[:, None]


@pytest.mark.parametrize("unlabeled", cases([("arrays",), *zip(DATASETS)], on_each=[("PyDataset",), ("tf.data",)]))
def test_unlabeled_batches_continue_from_epoch_to_epoch_and_restart_at_their_end(unlabeled):
    seen = Seen()
    student = keras.Sequential([keras.Input((1,)), seen, layers.Dense(CLASSES)])
    distiller = Distiller(student=student, teacher=keras.Sequential([keras.Input((1,)), layers.Dense(CLASSES)]))
    distiller.compile("sgd", crossentropy(), run_eagerly=True)
    x = np.arange(4, dtype="float32")[:, None]
    u = NUMBERS[:6] if unlabeled == "arrays" else DATASETS[unlabeled](NUMBERS[:6], size=2)
    seen.rows.clear()

    labeled = Batches(x, np.zeros(4), size=2)
    distiller.fit(labeled, unlabeled=u, epochs=4, initial_epoch=1, shuffle=False, verbose=0)

    expected = [[0, 1, 104, 105], [2, 3, 100, 101], [0, 1, 102, 103], [2, 3, 104, 105]]
    expected += [[0, 1, 100, 101], [2, 3, 102, 103]]
    assert expected == seen.rows[-6:]
    if unlabeled == "PyDataset":
        # The batches before the fourth are of the first pass, those after the sixth of the third.
        assert 2 == u.ended


@pytest.mark.one_backend
def test_shuffled_unlabeled_arrays_cover_all_rows_in_each_pass():
    rows = keras_ban._src.data.endless.ShuffledRows(NUMBERS, 4, shuffle=True, seed=3)

    drawn = np.concatenate([rows.batch(number) for number in range(5)])[:, 0]

    first, second = drawn[:10], drawn[10:]
    assert sorted(NUMBERS[:, 0]) == sorted(first) == sorted(second)
    assert list(first) != list(second) != list(NUMBERS[:, 0])
    np.testing.assert_array_equal(rows.batch(1), drawn[4:8, None])


@pytest.mark.one_backend
def test_labeled_batches_are_shuffled_unless_the_user_says_otherwise():
    def order(shuffle):
        keras.utils.set_random_seed(0)
        taken = []

        class Recorded(Batches):
            def __getitem__(self, index):
                taken.append(index)
                return super().__getitem__(index)

        distiller = compiled()
        distiller.fit(Recorded(X, Y, size=2), unlabeled=U, verbose=0, shuffle=shuffle)
        return taken[-12:]

    assert list(range(12)) == order(False)
    assert list(range(12)) == sorted(order(True)) != order(True)


@pytest.mark.parametrize("dtype", ["float64", "int64"])
def test_weights_of_a_dataset_may_have_any_dtype(dtype):
    weights = np.ceil(W).astype(dtype)

    actual = logs(
        compiled(), Batches(X, Y, weights, size=LABELED), unlabeled=Batches(U, size=UNLABELED), batch_size=None
    )

    assert expected_logs(weights=np.ceil(W)) == pytest.approx(actual, rel=1e-5)


def test_steps_per_epoch_ends_an_epoch_early():
    labeled = Batches(X, Y, size=4)

    history = compiled().fit(
        labeled, unlabeled=Batches(U, size=4), steps_per_epoch=2, epochs=3, verbose=0, shuffle=False
    )

    label = terms()[0].reshape(3, 2 * 4)
    np.testing.assert_allclose(label.mean(axis=1), history.history["label_loss"], rtol=1e-5)


def tagger(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((5,)), layers.Embedding(7, 4, mask_zero=True), layers.Dense(CLASSES)])


def segmenter(seed):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((2, 3, 2)), layers.Dense(CLASSES)])


def two_headed(seed):
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((4,))
    return keras.Model(inputs, {"a": layers.Dense(CLASSES)(inputs), "b": layers.Dense(CLASSES)(inputs)})


FORMS = {
    "tokens": (tagger, lambda n: RNG.integers(0, 7, (n, 5)), lambda n: RNG.integers(0, CLASSES, (n, 5))),
    "pixels": (
        segmenter,
        lambda n: RNG.standard_normal((n, 2, 3, 2)).astype("float32"),
        lambda n: RNG.integers(0, CLASSES, (n, 2, 3)),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_all_positions_of_an_unlabeled_example_count(form):
    build, inputs, labels = FORMS[form]
    x, u, y = inputs(3), inputs(5), labels(3)
    student, teacher = build(1), build(2)
    both = np.concatenate([x, u])
    mine, other = (np.asarray(model.predict(both, verbose=0), "float64") for model in (student, teacher))
    divergence = oracles.knowledge_distillation(other, mine)
    label = -np.take_along_axis(oracles.log_softmax(mine[:3]), y[..., None], axis=-1)[..., 0]
    counts = both != 0 if form == "tokens" else np.ones_like(divergence)
    total = 0.3 * (counts[:3] * label).sum() + 0.7 * (counts * divergence)[:3].sum() + (counts * divergence)[3:].sum()
    plain = build(1)
    plain.compile(keras.optimizers.SGD(0.0), crossentropy(), metrics=["accuracy"])
    accuracy = plain.fit(x, y, verbose=0).history["accuracy"][0]
    distiller = Distiller(student=student, teacher=teacher, label_weight=0.3)
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy(), metrics=["accuracy"])

    actual = logs(distiller, x, y, unlabeled=u)

    assert total / counts.sum() == pytest.approx(actual["loss"], rel=1e-5)
    assert accuracy == pytest.approx(actual["accuracy"], rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_each_of_several_outputs_counts_by_the_same_rule(weighted):
    student, teacher = two_headed(1), two_headed(2)
    y = {"a": Y, "b": Y[::-1].copy()}
    mine, other = (model.predict(np.concatenate([X, U]), verbose=0) for model in (student, teacher))
    weights = {"a": W, "b": np.ones(LABELED)} if weighted else {"a": np.ones(LABELED), "b": np.ones(LABELED)}
    total = 0
    for name, labels in y.items():
        logits = mine[name].astype("float64")
        divergence = oracles.knowledge_distillation(other[name].astype("float64"), logits)
        label = -oracles.log_softmax(logits)[np.arange(LABELED), labels]
        of_labeled = weights[name] * (0.3 * label + 0.7 * divergence[:LABELED])
        total += of_labeled.sum() + divergence[LABELED:].sum()
    distiller = Distiller(student=student, teacher=teacher, label_weight=0.3)
    distiller.compile(keras.optimizers.SGD(0.0), {"a": crossentropy(), "b": crossentropy()}, metrics={"a": "accuracy"})
    given = {"sample_weight": {name: each.astype("float32") for name, each in weights.items()}} if weighted else {}

    actual = logs(distiller, X, y, unlabeled=U, **given)

    assert total / BATCH == pytest.approx(actual["loss"], rel=1e-5)
    assert (mine["a"][:LABELED].argmax(-1) == Y).mean() == pytest.approx(actual["a_accuracy"])


def csr(array):
    return pytest.importorskip("scipy.sparse").csr_array(array)


@pytest.mark.parametrize("form", [by_name, csr], ids=["dict", "csr"])
def test_inputs_of_every_form_are_joined(form):
    def build():
        if form is csr:
            return keras.Sequential([keras.Input((4,)), layers.Dense(CLASSES)])
        inputs = {name: keras.Input((2,), name=name) for name in ("wide", "deep")}
        return keras.Model(inputs, layers.Dense(CLASSES)(layers.Concatenate()(list(inputs.values()))))

    distiller = compiled(linear(1, build), teacher=linear(2, build))

    assert expected_logs() == pytest.approx(logs(distiller, form(X), Y, unlabeled=form(U)), rel=1e-5)


def test_entries_of_a_dict_may_come_in_any_order():
    def build():
        inputs = {name: keras.Input((2,), name=name) for name in ("wide", "deep")}
        return keras.Model(inputs, layers.Dense(CLASSES)(layers.Concatenate()(list(inputs.values()))))

    distiller = compiled(linear(1, build), teacher=linear(2, build))
    x, u = by_name(X), dict(reversed(by_name(U).items()))

    assert list(x) != list(u)
    assert expected_logs() == pytest.approx(logs(distiller, x, Y, unlabeled=u), rel=1e-5)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float16", "float32")])
def test_floats_of_two_dtypes_become_the_wider_as_in_a_concatenation(dtypes, stored):
    # Numbers of float16 that are exact, and some that are too large for it.
    x, u = (X.astype("float16").astype(dtypes[0]), (U * 1e5).astype(dtypes[1]))
    given = {}
    if stored:
        given["soft_targets"] = SoftTargets.from_teacher(linear(2), np.concatenate([x, u]), verbose=0)

    actual = logs(compiled(), x, Y, unlabeled=u, **given)

    label, distillation, of_unlabeled = terms(x, Y, u.astype("float32"))
    expected = (distillation.sum() + of_unlabeled.sum()) / BATCH
    assert expected == pytest.approx(actual["distillation_loss"], rel=1e-4)
    assert label.mean() == pytest.approx(actual["label_loss"], rel=1e-5)


def test_texts_may_differ_in_length():
    if keras.config.backend() != "tensorflow":
        pytest.skip("Keras takes texts under TensorFlow alone.")

    def build():
        words = layers.TextVectorization(output_mode="multi_hot", vocabulary=["a", "b"])
        return keras.Sequential([keras.Input((1,), dtype="string"), words, layers.Dense(CLASSES)])

    x, u = np.array([["a"], ["b"]] * 12), np.array([["a b a b"], ["other words"]])

    actual = logs(compiled(linear(1, build), teacher=linear(2, build)), x, Y, unlabeled=u)

    assert np.isfinite(list(actual.values())).all()


def test_validation_data_and_evaluation_are_those_of_the_labels():
    distiller = compiled()

    actual = logs(distiller, X, Y, unlabeled=U, validation_data=(X, Y))

    plain = linear(1)
    plain.compile(None, crossentropy(), metrics=["accuracy"])
    expected = plain.evaluate(X, Y, verbose=0, return_dict=True)
    assert expected["loss"] == pytest.approx(actual["val_loss"], rel=1e-6)
    assert expected["accuracy"] == pytest.approx(actual["val_accuracy"])


def test_validation_split_takes_labeled_rows_alone():
    actual = logs(compiled(), X, Y, unlabeled=U, validation_split=0.25, batch_size=LABELED * 3 // 4 + UNLABELED)

    label = terms()[0]
    assert label[:18].mean() == pytest.approx(actual["label_loss"], rel=1e-5)
    assert label[18:].mean() == pytest.approx(actual["val_loss"], rel=1e-5)


# Sequences


def blobs(seed=0):
    x, y = make_blobs(seed)
    return (x[:32], y[:32]), x[32:]


FIT = {"batch_size": 32, "epochs": 3, "verbose": 0}


@pytest.mark.parametrize("soft_targets", ["online", "cached"])
def test_a_generation_learns_from_unlabeled_inputs_as_a_distiller_does(soft_targets):
    (x, y), u = blobs()
    made = sequence(generations=1, soft_targets=soft_targets, eager=False)

    made.fit(x, y, unlabeled=u, **{**FIT, "shuffle": False})

    first, second = made.models
    plain = sequence(generations=1, soft_targets=soft_targets, eager=False)
    plain.fit(x, y, **{**FIT, "shuffle": False})
    # Generation 0 uses labels alone.
    assert_same(first.get_weights(), plain.models[0].get_weights())
    keras.utils.set_random_seed(made.history.records[1].seed)
    student = keras_ban.reborn(made.model)
    distiller = Distiller(student=student, teacher=first)
    distiller.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"])
    history = distiller.fit(x, y, unlabeled=u, **{**FIT, "shuffle": False}).history
    np.testing.assert_allclose(made.history.records[1].logs["loss"], history["loss"], rtol=1e-5)
    for expected, actual in zip(student.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_allclose(expected, actual, atol=1e-5)


UNLABELED_KINDS = {
    "cached": lambda x, y, u: (((x, y), u), {"soft_targets": "cached"}),
    "online": lambda x, y, u: (((x, y), u), {"soft_targets": "online"}),
    "PyDataset": lambda x, y, u: (((Batches(x, y, size=16),), u), {}),
    "tf.data": lambda x, y, u: (((tf_dataset(x, y, size=16),), Batches(u, size=16)), {}),
}


# `Batches` counts its epochs, so that it might shuffle.
@pytest.mark.filterwarnings("ignore:`(x|unlabeled)` may come in another order:UserWarning")
@pytest.mark.parametrize("kind", cases(zip(UNLABELED_KINDS), on_each=[("cached",), ("PyDataset",)]))
def test_a_resumed_run_ends_as_an_undisturbed_one(tmp_path, kind):
    (x, y), u = blobs()
    (data, unlabeled), options = UNLABELED_KINDS[kind](x, y, u)
    fit = {"epochs": 3, "verbose": 0, "unlabeled": unlabeled, "shuffle": kind != "tf.data"}
    fit |= {"batch_size": 32} if kind in ("cached", "online") else {}

    def made(directory):
        return sequence(directory, eager=False, generations=1, metrics=(), **options)

    whole, interrupted, resumed = (made(tmp_path / name) for name in ("whole", "other", "other"))
    whole.fit(*data, **fit)
    with interrupted_after(1, 1):
        interrupted.fit(*data, **fit)
    resumed.fit(*data, **fit)

    assert_same_run(whole, resumed)


def test_a_run_with_other_unlabeled_inputs_is_not_continued(tmp_path):
    (x, y), u = blobs()
    sequence(tmp_path, generations=1).fit(x, y, unlabeled=u, **{**FIT, "epochs": 1})

    for other in ({"unlabeled": u[::-1].copy()}, {}):
        with pytest.raises(ValueError, match="unlabeled"):
            sequence(tmp_path, generations=1).fit(x, y, **{**FIT, "epochs": 1}, **other)


# Refused, before training


def unlike(**options):
    return {"data": (X, Y), "unlabeled": U, **options}


class OfLabels(keras.losses.Loss):
    labels_as = "class"

    def call(self, y_true, y_pred):
        return ops.sum(y_pred, axis=-1)


OTHER_REDUCTION = losses.KnowledgeDistillation(reduction="mean_with_sample_weight")
DECOUPLED = losses.DecoupledKnowledgeDistillation()
REFUSED = {
    "other shape": (unlike(unlabeled=U[:, :3]), "`unlabeled` must hold inputs like those of `x`"),
    "other dtype": (unlike(unlabeled=U.astype("int64")), "`unlabeled` must hold inputs like those of `x`"),
    "other structure": (unlike(unlabeled={"a": U}), "`unlabeled` must hold inputs like those of `x`"),
    "nothing": (unlike(unlabeled=U[:0]), "`unlabeled` holds no examples"),
    "a list": (unlike(unlabeled=U.tolist()), "`unlabeled` must be arrays"),
    "a number": (unlike(unlabeled=3), "`unlabeled` must be arrays"),
    "an iterator": (unlike(unlabeled=iter([U])), "`unlabeled` is a generator or an iterator"),
    "no teacher": (unlike(own={"teacher": None}), "teacher"),
    "label weight 1": (unlike(own={"label_weight": 1}), "`label_weight=1`"),
    "loss of labels": (unlike(own={"distillation_loss": losses.ConfidenceWeighted()}), "needs the label of each"),
    "own loss of labels": (unlike(own={"distillation_loss": OfLabels()}), "`OfLabels` needs the label of each"),
    "decoupled": (
        unlike(own={"distillation_loss": DECOUPLED}),
        "needs the label of each",
    ),
    "mean of weights": (unlike(own={"distillation_loss": OTHER_REDUCTION}), "has reduction='mean_with_sample_weight'"),
    "keras": (
        unlike(own={"distillation_loss": keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence())}),
        "one number for a whole batch",
    ),
    "soft targets of x alone": (
        unlike(fit={"soft_targets": lambda: SoftTargets.from_teacher(linear(2), X, verbose=0)}),
        "24 examples but `x`|holds 24",
    ),
    "soft targets in y": (unlike(data=(X, {"labels": Y, "soft_targets": X[:, :3]})), "`y` brings soft targets"),
    "split": (
        unlike(fit={"validation_split": 0.2, "soft_targets": lambda: in_memory(None)}),
        "pass `validation_data` in place",
    ),
    "class weights": (unlike(data=(Batches(X, Y, size=8),), fit={"class_weight": {0: 2.0}}), "`sample_weight`"),
    "no labels": (unlike(data=(Batches(X, size=8),)), "brings no labels"),
    "empty dataset": (unlike(unlabeled=Batches(U[:0], size=8)), "`unlabeled` holds no examples"),
    "cached dataset": (
        unlike(data=(Batches(X, Y, size=8),), fit={"soft_targets": lambda: in_memory(None)}),
        "if `x` and `unlabeled` are arrays",
    ),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_right_is_refused_before_training(case):
    given, message = REFUSED[case]
    options = {name: value() if callable(value) else value for name, value in given.get("fit", {}).items()}
    distiller = compiled(**given.get("own", {}))
    before = [each.copy() for each in distiller.student.get_weights()]

    with pytest.raises((ValueError, TypeError), match=re.compile(message)):
        distiller.fit(*given["data"], unlabeled=given["unlabeled"], verbose=0, **options)
    assert_same(before, distiller.student.get_weights())


REFUSED_BY_SEQUENCE = {
    "label weight 1": ({"label_weight": [0.5, 1]}, {}, "`label_weight=1`"),
    "loss of labels": ({"distillation_loss": losses.ConfidenceWeighted()}, {}, "needs the label of each"),
    "other shape": ({}, {"unlabeled": U}, "`unlabeled` must hold inputs like those of `x`"),
    "cached dataset": ({"soft_targets": "cached"}, {"unlabeled": "dataset"}, "cached for arrays only"),
    "class weights": ({}, {"unlabeled": "dataset", "class_weight": {0: 2.0}}, "`class_weight` if `x` and `unlabeled`"),
    "mixing": ({"augmentation": keras.layers.MixUp()}, {}, "mixes examples, and a mix of a labeled and an unlabeled"),
    "no data": ({}, {"unlabeled": []}, "`unlabeled` is \\[\\]"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", REFUSED_BY_SEQUENCE)
def test_a_sequence_refuses_it_before_generation_0(case):
    arguments, options, message = REFUSED_BY_SEQUENCE[case]
    (x, y), u = blobs()
    unlabeled = options.get("unlabeled", u)
    unlabeled = Batches(u, size=8) if isinstance(unlabeled, str) else unlabeled
    made = sequence(model=classifier(), **arguments)

    with pytest.raises(ValueError, match=message):
        made.fit(x, y, **{**FIT, **options, "unlabeled": unlabeled})
    assert [] == made.models
