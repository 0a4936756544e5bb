"""What outputs mean is read from losses and last layers: each form of teacher and student, and each right value."""

import warnings

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, classifier, values
from helpers.tables import cases

from keras_ban import BornAgainSequence, Distiller, EnsembleModel, SoftTargets
from keras_ban._src.losses.meaning import Meaning
from keras_ban._src.losses.outputs import Outputs
from keras_ban.losses import DIST, ConfidenceWeighted, DecoupledKnowledgeDistillation, KnowledgeDistillation

X, Y = make_blobs()
LABELS = {"classes": Y, "one-hot": np.eye(CLASSES)[Y], "yes": Y[:, None] % 2, "numbers": X[:, :2], "tokens": Y[:, None]}
LABELS["tokens"] = np.stack([Y, Y[::-1]], axis=1)
CCE, SCE = keras.losses.CategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy
BCE, MSE = keras.losses.BinaryCrossentropy, keras.losses.MeanSquaredError
KD = KnowledgeDistillation


class Subclassed(keras.Model):
    """Nobody knows which layer is the last."""

    def __init__(self, units, activation=None):
        super().__init__()
        self.dense = keras.layers.Dense(units, activation=activation)

    def build(self, input_shape):
        self.dense.build(input_shape)

    def call(self, inputs):
        return self.dense(inputs)


def head(kind):
    """A model of 8 numbers, by what it gives: `"<units> <activation>"`."""
    units, activation = kind.split()
    activation = None if activation == "linear" else activation
    units = {"tokens": CLASSES, "channels": CLASSES}.get(units) or int(units)
    if kind.startswith("tokens"):  # (n, 2, classes)
        layers = [keras.layers.Reshape((2, 4)), keras.layers.Dense(units, activation=activation)]
    elif kind.startswith("channels"):  # (n, classes, 2)
        layers = [keras.layers.Reshape((2, 4)), keras.layers.Dense(units), keras.layers.Permute((2, 1))]
        layers += [] if activation is None else [keras.layers.Softmax(axis=1)]
    elif activation == "Softmax":
        layers = [keras.layers.Dense(units), keras.layers.Softmax()]
    elif activation == "subclassed":
        model = Subclassed(units)
        model.build((None, 8))
        return model
    else:
        layers = [keras.layers.Dense(units, activation=activation)]
    return keras.Sequential([keras.Input((8,)), *layers])


def outputs_of(model, x=X):
    return keras.tree.map_structure(lambda each: each.astype("float64"), model.predict(x, verbose=0))


def of_softmax(teacher, student, kinds, temperature=1.0):
    """The divergence of softmaxes, of logits or probabilities."""
    if kinds[1].startswith("channels"):
        teacher, student = np.moveaxis(teacher, 1, -1), np.moveaxis(student, 1, -1)
    are_probabilities = [kind.split()[1].lower() == "softmax" for kind in kinds]
    pair = [
        np.log(each) if is_one else each for each, is_one in zip((teacher, student), are_probabilities, strict=True)
    ]
    return oracles.knowledge_distillation(*pair, temperature).mean()


def of_sigmoid(teacher, student, kinds):
    pair = zip((teacher, student), kinds, strict=True)
    return oracles.bernoulli_divergence(
        *[x if kind.endswith("sigmoid") else oracles.sigmoid(x) for x, kind in pair]
    ).mean()


def squared(teacher, student, kinds):
    return ((teacher - student) ** 2).mean()


def crossentropy(teacher, student, kinds):
    teacher = teacher if kinds[0].endswith("softmax") else oracles.softmax(teacher)
    student = np.log(student) if kinds[1].endswith("softmax") else oracles.log_softmax(student)
    return -(teacher * student).sum(axis=-1).mean()


def softened(teacher, student, kinds):
    return of_softmax(teacher, student, kinds, 3.0)


# Teacher and student, label loss, labels, distillation loss, what it gives
EVERYWHERE = [
    ("3 softmax", "3 softmax", SCE(), "classes", None, of_softmax),
    ("3 softmax", "3 linear", SCE(from_logits=True), "classes", None, of_softmax),
    ("3 linear", "3 softmax", SCE(), "classes", KD(3.0), softened),
    ("4 linear", "4 sigmoid", BCE(), "one-hot", None, of_sigmoid),
    ("2 linear", "2 linear", "mse", "numbers", None, squared),
]
MORE = [
    ("3 linear", "3 linear", SCE(from_logits=True), "classes", None, of_softmax),
    ("3 Softmax", "3 linear", SCE(from_logits=True), "classes", KD(3.0), softened),
    ("3 softmax", "3 Softmax", "sparse_categorical_crossentropy", "classes", None, of_softmax),
    ("3 linear", "3 Softmax", "crossentropy", "classes", None, of_softmax),
    ("3 linear", "3 subclassed", SCE(from_logits=True), "classes", None, of_softmax),
    ("3 softmax", "3 subclassed", SCE(from_logits=True), "classes", None, of_softmax),
    ("3 linear", "3 log_softmax", SCE(from_logits=True), "classes", None, of_softmax),
    ("3 softmax", "3 softmax", "mse", "one-hot", None, of_softmax),
    ("3 softmax", "3 softmax", keras.losses.KLDivergence(), "one-hot", None, of_softmax),
    ("1 linear", "1 linear", BCE(from_logits=True), "yes", None, of_sigmoid),
    ("1 sigmoid", "1 sigmoid", "binary_crossentropy", "yes", None, of_sigmoid),
    ("1 sigmoid", "1 linear", BCE(from_logits=True), "yes", None, of_sigmoid),
    ("1 sigmoid", "1 sigmoid", "crossentropy", "yes", KD(activation="sigmoid"), of_sigmoid),
    ("4 sigmoid", "4 linear", BCE(from_logits=True), "one-hot", None, of_sigmoid),
    ("1 linear", "1 linear", "mae", "yes", None, squared),
    ("1 linear", "1 linear", MSE, "yes", None, squared),
    ("3 linear", "3 softmax", SCE, "classes", None, of_softmax),
    ("2 linear", "2 linear", keras.losses.Huber(), "numbers", None, squared),
    ("2 linear", "2 subclassed", "mse", "numbers", None, squared),
    ("2 sigmoid", "2 sigmoid", "mse", "numbers", None, squared),
    ("3 linear", "3 softmax", SCE(), "classes", keras.losses.CategoricalCrossentropy(), crossentropy),
    ("3 linear", "3 linear", SCE(True), "classes", keras.losses.CategoricalCrossentropy(True), crossentropy),
    ("tokens softmax", "tokens linear", SCE(from_logits=True), "tokens", None, of_softmax),
    ("channels softmax", "channels softmax", CCE(axis=1), "channels", None, of_softmax),
    ("channels linear", "channels softmax", CCE(axis=1), "channels", KD(3.0), softened),
    ("channels softmax", "channels linear", CCE(from_logits=True, axis=1), "channels", None, of_softmax),
]
LABELS["one-hot"] = np.eye(4)[Y]
LABELS["channels"] = np.moveaxis(np.eye(CLASSES)[LABELS["tokens"]], -1, 1)


def labels_for(name, kind):
    return LABELS[name][:, :3] if name == "one-hot" and kind.startswith("3") else LABELS[name]


def distilled(student, teacher, label_loss, y, loss=None, x=X, stored=None, label_weight=0.5, eager=True, **fit):
    """The distillation loss on one batch. Nothing moves."""
    distiller = Distiller(student=student, teacher=teacher, distillation_loss=loss, label_weight=label_weight)
    distiller.compile(keras.optimizers.SGD(0.0), label_loss, run_eagerly=eager)
    logs = distiller.fit(x, y, soft_targets=stored, verbose=0, **{"batch_size": len(x), **fit}).history
    return logs["distillation_loss"][0]


@cases("teacher, student, label_loss, y, loss, expected", *EVERYWHERE, on_one_backend=MORE)
def test_each_side_is_taken_for_what_it_gives(teacher, student, label_loss, y, loss, expected):
    kinds = teacher, student
    teacher, student = map(head, kinds)
    said = outputs_of(teacher), outputs_of(student)
    y = labels_for(y, kinds[1])

    online = distilled(student, teacher, label_loss, y, loss)
    stored = distilled(student, None, label_loss, y, loss, stored=SoftTargets.from_teacher(teacher, X, verbose=0))

    np.testing.assert_allclose([online, stored], expected(*said, kinds), rtol=2e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("loss", [ConfidenceWeighted, DecoupledKnowledgeDistillation])
def test_losses_of_labels_are_converted_alike(loss):
    student, teacher, logits = head("3 linear"), head("3 softmax"), head("3 linear")
    logits.set_weights(teacher.get_weights())

    expected = distilled(student, logits, SCE(True), Y, loss(from_logits=True))
    np.testing.assert_allclose(distilled(student, teacher, SCE(True), Y, loss()), expected, rtol=1e-5)


def test_a_compiled_step_does_not_outlive_the_form_of_its_soft_targets():
    student = head("3 linear")
    distiller = Distiller(student=student)
    distiller.compile(keras.optimizers.SGD(0.0), SCE(from_logits=True))
    for kind in ("3 softmax", "3 linear"):
        teacher = head(kind)
        targets = SoftTargets.from_teacher(teacher, X, verbose=0)
        logs = distiller.fit(X, Y, soft_targets=targets, batch_size=len(X), verbose=0).history
        expected = of_softmax(outputs_of(teacher), outputs_of(student), (kind, "3 linear"))
        np.testing.assert_allclose(logs["distillation_loss"], [expected], rtol=1e-5)


def two_heads(size):
    """A softmax, a sigmoid and numbers, by name."""
    inputs = keras.Input((8,))
    kinds = keras.layers.Dense(3, "softmax", name="kind")(inputs)
    tags, size = keras.layers.Dense(4, name="tags")(inputs), keras.layers.Dense(size, name="size")(inputs)
    return keras.Model(inputs, {"size": size, "kind": kinds, "tags": tags})


def test_each_of_several_outputs_gets_a_loss_of_its_own():
    teacher, student = two_heads(2), two_heads(2)
    losses = {"kind": SCE(), "tags": BCE(from_logits=True), "size": "mse"}
    y = {"kind": Y, "tags": np.eye(4)[Y], "size": X[:, :2]}
    said, given = outputs_of(student), outputs_of(teacher)

    loss = distilled(student, teacher, losses, y)

    expected = of_softmax(given["kind"], said["kind"], ("3 softmax",) * 2)
    expected += of_sigmoid(given["tags"], said["tags"], ("4 linear",) * 2) + squared(given["size"], said["size"], None)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.one_backend
def test_the_meaning_of_each_output_is_known_by_itself():
    losses = {"kind": SCE(), "tags": BCE(from_logits=True), "size": "mse"}
    outputs = Outputs(None, losses, two_heads(2), two_heads(2))

    kind, size, tags = Meaning(False, "softmax", -1), Meaning(None, "linear"), Meaning(True, "sigmoid")
    assert [kind, size, tags] == outputs.meanings  # in the order of the names
    assert outputs.meaning is None
    assert Meaning(False, "softmax", -1) == Outputs(None, SCE(), head("3 softmax")).meaning


@pytest.mark.one_backend
def test_what_was_chosen_is_seen_after_compile_and_chosen_again_when_loaded(tmp_path):
    distiller = Distiller(student=head("3 softmax"), teacher=head("3 linear"))
    assert distiller.distillation_loss is None
    distiller.compile("sgd", SCE())
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")

    for each in (distiller, loaded):
        assert (KD, False, "softmax") == (
            type(each.distillation_loss),
            each.distillation_loss.from_logits,
            each.distillation_loss.activation,
        )
    loaded.compile("sgd", "mse")
    assert loaded.get_config()["distillation_loss"] is None


@pytest.mark.one_backend
def test_a_loss_without_a_distiller_takes_logits():
    targets, outputs = np.random.default_rng(0).standard_normal((2, 6, 4))
    expected = oracles.knowledge_distillation(targets, outputs).mean()

    assert "auto" == KD().from_logits
    np.testing.assert_allclose(float(KD()(targets, outputs)), expected, rtol=1e-5)
    assert True is KD.from_config({**KD().get_config(), "from_logits": True}).from_logits
    with pytest.raises(ValueError, match="`from_logits` must be True, False or 'auto', received: 'yes'"):
        KD(from_logits="yes")


# What is not known is said once


def my_loss(y_true, y_pred):
    return keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)


UNKNOWN = [
    # student, teacher, label loss, distillation loss, what is said
    (
        "3 linear",
        "3 linear",
        my_loss,
        None,
        "`distillation_loss=None` takes the student's outputs for those of a softmax",
    ),
    (
        "3 subclassed",
        "3 subclassed",
        my_loss,
        KD(),
        "`from_logits='auto'`: the student is assumed to give logits, since",
    ),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("student", "teacher", "label_loss", "loss", "message"), UNKNOWN)
def test_what_is_assumed_is_said_once(student, teacher, label_loss, loss, message):
    sequence = BornAgainSequence(head(student), 2, loss) if student != "3 subclassed" else None
    sequence = sequence or BornAgainSequence(lambda generation: head(student), 2, loss)
    sequence.compile("sgd", label_loss)
    for fit in (
        lambda: distilled(head(student), head(teacher), label_loss, LABELS["one-hot"][:, :3], loss),
        lambda: sequence.fit(X, LABELS["one-hot"][:, :3], verbose=0),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit()
        said = [each for each in caught if issubclass(each.category, UserWarning)]
        assert [True] == [message in str(each.message) for each in said], said
        assert __file__ == said[0].filename


@pytest.mark.one_backend
def test_what_one_number_means_must_be_said():
    with pytest.raises(ValueError, match=r"No `distillation_loss` can be chosen .* shape \(None, 1\)"):
        distilled(head("1 linear"), head("1 linear"), my_loss, LABELS["yes"])
    assert np.isfinite(distilled(head("1 linear"), head("1 linear"), my_loss, LABELS["yes"], MSE()))


# Sequences


def sequence_of(kind, label_loss, **arguments):
    sequence = BornAgainSequence(head(kind), seed=3, **{"generations": 1, **arguments})
    sequence.compile(keras.optimizers.SGD(0.1), label_loss, run_eagerly=True)
    return sequence


SEQUENCES = [
    # what the models give, label loss, labels, the same distillation loss by name
    ("3 softmax", SCE(), "classes", KD(from_logits=False)),
    ("4 sigmoid", BCE(), "one-hot", KD(activation="sigmoid", from_logits=False)),
    ("1 linear", BCE(from_logits=True), "yes", KD(activation="sigmoid", from_logits=True)),
    ("2 linear", "mse", "numbers", MSE()),
    ("3 linear", SCE(from_logits=True), "classes", KD(from_logits=True)),
]


@cases("kind, label_loss, y, loss", SEQUENCES[0], SEQUENCES[3], on_one_backend=[*SEQUENCES[1:3], SEQUENCES[4]])
def test_a_sequence_trains_as_with_the_loss_by_its_name(kind, label_loss, y, loss, tmp_path):
    """Bit for bit. Each continues the run directory of the other."""
    chosen, named = (sequence_of(kind, label_loss, distillation_loss=each) for each in (None, loss))
    for sequence, folder in ((chosen, "chosen"), (named, "named")):
        sequence.directory = tmp_path / folder
        sequence.fit(X, LABELS[y], verbose=0)
    for generation in (0, 1):
        assert_same(values(chosen.models[generation]), values(named.models[generation]))
    expected = chosen.ensemble()
    assert_same([expected.predict(X, verbose=0)], [named.ensemble().predict(X, verbose=0)])

    chosen.directory, named.directory = named.directory, chosen.directory
    for sequence in (chosen, named):
        sequence.fit(X, LABELS[y], verbose=0)
    assert_same([expected.predict(X, verbose=0)], [BornAgainSequence.load(tmp_path / "chosen").ensemble().predict(X)])


@pytest.mark.one_backend
def test_a_softmax_sequence_averages_and_scores_probabilities():
    sequence = sequence_of("3 softmax", SCE())
    history = sequence.fit(X, Y, validation_data=(X, Y), verbose=0)

    said = [outputs_of(model) for model in sequence.models]
    picked = np.take_along_axis(said[1], Y[:, None], axis=1)
    np.testing.assert_allclose(history.records[1].scores.nll, -np.log(picked).mean(), rtol=1e-6)
    np.testing.assert_allclose(sequence.ensemble().predict(X, verbose=0), np.mean(said, axis=0), rtol=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("kind", "label_loss", "arguments", "fit", "message"),
    [
        ("3 linear", SCE(), {}, {}, "`loss` contradicts the student"),
        ("3 linear", SCE, {}, {}, "`loss` contradicts the student: `SparseCategoricalCrossentropy` takes"),
        ("3 softmax", SCE(from_logits=True), {}, {}, "`loss` contradicts the student"),
        ("3 softmax", SCE(), {"distillation_loss": KD(from_logits=True)}, {}, "`distillation_loss` contradicts"),
        ("3 linear", SCE(from_logits=True), {"distillation_loss": CCE()}, {}, "`distillation_loss` contradicts"),
        (
            "3 linear",
            SCE(from_logits=True),
            {},
            {"teacher": "3 softmax"},
            "The teacher of generation 1, .* probabilities",
        ),
    ],
)
def test_after_a_contradiction_the_run_is_corrected_in_its_directory(
    kind, label_loss, arguments, fit, message, tmp_path
):
    fit = {name: head(each) for name, each in fit.items()}
    with pytest.raises(ValueError, match=message):
        sequence_of(kind, label_loss, **arguments, directory=tmp_path).fit(X, Y, verbose=0, **fit)
    corrected = sequence_of(kind, SCE(from_logits=kind == "3 linear"), directory=tmp_path)

    corrected.fit(X, Y, verbose=0)

    assert 2 == len(corrected.models)


# Keras's warning on TensorFlow, which sees that outputs come from a softmax.
@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`, but the `output` argument:UserWarning")
@cases("label_loss", SCE(), on_one_backend=[SCE(from_logits=True)])
def test_the_values_of_a_subclassed_model_are_looked_at_before_generation_0(label_loss):
    activation = "softmax" if label_loss.get_config()["from_logits"] else None

    def build(generation):
        model = Subclassed(3, activation)
        model.build((None, 8))
        return model

    sequence = BornAgainSequence(build, 1)
    sequence.compile("sgd", label_loss)
    error, message = (ValueError, "takes probabilities") if activation is None else (UserWarning, "look like probab")
    with pytest.raises(error, match=message):
        sequence.fit(X, Y, verbose=0)
    assert [] == sequence.models


@pytest.mark.one_backend
def test_generations_that_end_differently_are_refused():
    sequence = BornAgainSequence(lambda generation: head(["3 linear", "3 softmax"][generation > 1]), 2, KD())
    sequence.compile("sgd", my_loss)
    with pytest.raises(ValueError, match="The teacher of generation 2, .* gives logits, and the student probabilities"):
        sequence.fit(X, LABELS["one-hot"][:, :3], verbose=0)


# Ensembles


MEMBERS = [
    # members, the loss they are compiled with, what the ensemble takes them for
    ("3 softmax", None, (False, "softmax")),
    ("3 linear", None, (True, "softmax")),
    ("4 sigmoid", None, (False, "sigmoid")),
    ("1 linear", BCE(from_logits=True), (True, "sigmoid")),
    ("3 subclassed", SCE(from_logits=True), (True, "softmax")),
    ("3 subclassed", SCE(), (False, "softmax")),
]


@cases("kind, loss, expected", MEMBERS[0], MEMBERS[3], on_one_backend=[*MEMBERS[1:3], *MEMBERS[4:]])
def test_an_ensemble_takes_its_members_for_what_they_give(kind, loss, expected):
    members = [head(kind), head(kind)]
    for member in members if loss is not None else []:
        member.compile("sgd", loss)

    ensemble = EnsembleModel(members)

    assert expected == (ensemble.from_logits, ensemble.activation)
    said, (from_logits, activation) = [outputs_of(member) for member in members], expected
    if from_logits and activation == "softmax":
        average = np.log(np.mean([oracles.softmax(each) for each in said], axis=0))
    elif from_logits:
        mean = np.mean([oracles.sigmoid(each) for each in said], axis=0)
        average = np.log(mean / (1 - mean))
    else:
        average = np.mean(said, axis=0)
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), average, rtol=1e-4, atol=1e-5)
    if "subclassed" not in kind:
        again = EnsembleModel.from_config(ensemble.get_config())
        assert expected == (again.from_logits, again.activation)


@pytest.mark.one_backend
def test_members_that_cannot_be_averaged_are_refused():
    with pytest.raises(ValueError, match="Some members, or outputs, give logits and others probabilities"):
        EnsembleModel([head("3 linear"), head("3 softmax")])
    with pytest.raises(ValueError, match="Members give one number"):
        EnsembleModel([head("1 linear"), head("1 linear")])
    member = head("2 linear")
    member.compile("sgd", "mse")
    with pytest.raises(ValueError, match="a loss of a regression.* Use `average='outputs'`"):
        EnsembleModel([member, head("2 linear")])
    assert EnsembleModel([member, head("2 linear")], average="outputs").from_logits
    with pytest.warns(UserWarning, match="`from_logits='auto'`: .* assumed to give logits"):
        EnsembleModel([head("3 subclassed"), head("3 subclassed")])


# Labels that do not count


def token_model(mask):
    """(n, 4) numbers of words, of which 0 is padding if there is a mask; logits (n, 4, 3)."""
    layers = [keras.Input((4,)), keras.layers.Embedding(9, 5, mask_zero=mask), keras.layers.Dense(CLASSES)]
    return keras.Sequential(layers)


TOKENS = np.random.default_rng(1).integers(0, 9, (6, 4))
IGNORED = [
    # loss, mask, sample weights
    (KD(2.0), False, False),
    (KD(2.0), True, True),
    (KD(2.0), True, False),
    (KD(2.0), False, True),
    (MSE(), True, True),
    (ConfidenceWeighted(), True, False),
    (KD(2.0, reduction="sum"), False, True),
]


@cases("loss, mask, weighted", *IGNORED[:2], on_one_backend=IGNORED[2:])
def test_labels_that_the_label_loss_ignores_do_not_count_in_the_distillation_loss(loss, mask, weighted):
    rng = np.random.default_rng(1)
    words, labels = rng.integers(0, 9, (6, 4)), rng.integers(-1, CLASSES, (6, 4))
    weights = rng.uniform(0.5, 2.0, (6, 4)) if weighted else None
    student, teacher = token_model(mask), token_model(mask)
    said, given = outputs_of(student, words), outputs_of(teacher, words)

    label_loss = SCE(from_logits=True, ignore_class=-1)
    value = distilled(student, teacher, label_loss, labels, loss, words, eager=False, sample_weight=weights)

    counted = (labels != -1) & ((words != 0) | (not mask))
    if isinstance(loss, ConfidenceWeighted):
        each = oracles.confidence_weighted(given[counted], said[counted], labels[counted])
    elif isinstance(loss, MSE):
        each = ((said - given) ** 2).mean(axis=-1)[counted]
    else:
        each = oracles.knowledge_distillation(given[counted], said[counted], 2.0)
    each = each if weights is None else weights[counted] * each
    np.testing.assert_allclose(value, each.sum() if loss.reduction == "sum" else each.mean(), rtol=1e-5)


@pytest.mark.parametrize("model, x, shape", [("classes", X, (96, 1)), ("tokens", TOKENS, (6, 4, 1))])
def test_weights_with_a_last_axis_count_alike_where_a_class_is_ignored(model, x, shape):
    rng = np.random.default_rng(2)
    weights = rng.uniform(0.5, 2.0, shape)
    labels = rng.integers(-1, CLASSES, x.shape if model == "tokens" else len(x))
    student, teacher = (token_model(False) if model == "tokens" else classifier() for _ in range(2))
    each = oracles.knowledge_distillation(outputs_of(teacher, x), outputs_of(student, x), 2.0)

    value = distilled(
        student, teacher, SCE(from_logits=True, ignore_class=-1), labels, KD(2.0), x, sample_weight=weights
    )

    weighted = each * weights.reshape(shape[: labels.ndim])
    np.testing.assert_allclose(value, weighted[labels != -1].mean(), rtol=1e-5)


@pytest.mark.one_backend
def test_ignored_pixels_beyond_the_classes_and_unlabeled_inputs():
    """255 marks what is ignored. Unlabeled inputs count in full."""
    rng = np.random.default_rng(1)
    words, more = rng.integers(0, 9, (6, 4)), rng.integers(0, 9, (3, 4))
    labels = rng.integers(0, CLASSES, (6, 4))
    labels[::2, 1] = 255
    student, teacher = token_model(False), token_model(False)
    label_loss = SCE(from_logits=True, ignore_class=255)

    assert np.isfinite(distilled(student, teacher, label_loss, labels, DecoupledKnowledgeDistillation(), words))
    with pytest.raises(ValueError, match="`loss` is not a mean over examples"):
        distilled(student, teacher, label_loss, labels, KD(), words, unlabeled=more)
    options = {"label_weight": 0, "batch_size": 9}
    value = distilled(student, teacher, label_loss, labels, KD(), words, unlabeled=more, **options)

    every = np.concatenate([words, more])
    divergence = oracles.knowledge_distillation(outputs_of(teacher, every), outputs_of(student, every))
    counted = np.concatenate([labels != 255, np.full(more.shape, True)])
    assert divergence[counted].mean() != pytest.approx(divergence.mean(), rel=1e-3)
    np.testing.assert_allclose(value, divergence[counted].mean(), rtol=1e-5)


@pytest.mark.one_backend
def test_a_loss_of_the_whole_batch_cannot_ignore_a_class():
    loss = keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence())
    with pytest.raises(ValueError, match="the `ignore_class` of the label loss cannot act on it"):
        distilled(classifier(), classifier(), SCE(from_logits=True, ignore_class=-1), Y, loss)


@pytest.mark.one_backend
@pytest.mark.parametrize("loss", ["mse", keras.losses.Huber()])
@pytest.mark.parametrize("distillation_loss", [KD(), DIST()])
def test_the_hint_for_a_regression_does_not_mention_sigmoids(loss, distillation_loss, blobs):
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)])
    sequence = BornAgainSequence(model, distillation_loss=distillation_loss)
    sequence.compile("adam", loss)

    with pytest.raises(ValueError, match=r"For a regression use `keras.losses.MeanSquaredError\(\)`") as raised:
        sequence.fit(*blobs, verbose=0)
    assert "sigmoid" not in str(raised.value)
