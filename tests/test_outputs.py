"""The meaning of outputs: which belong together, what they are, and what cannot be meant."""

import collections

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.tables import cases

import keras_ban
from keras_ban._src.losses.meaning import Meaning, of_label_loss, of_model
from keras_ban._src.losses.precision import add_up
from keras_ban.losses import DIST, KnowledgeDistillation

X, Y = make_blobs()
CCE, SCE = keras.losses.CategoricalCrossentropy, keras.losses.SparseCategoricalCrossentropy
BCE = keras.losses.BinaryCrossentropy
OD = collections.OrderedDict
MSE = keras.losses.MeanSquaredError()
KD, KL = KnowledgeDistillation, keras.losses.KLDivergence
LOGITS = keras.distillation.LogitsDistillation(loss=KL())


def heads(classes):
    """A model whose outputs are nested as the numbers of their classes are."""
    inputs = keras.Input((8,))
    layers = {path: keras.layers.Dense(n)(inputs) for path, n in leaves(classes).items()}
    return keras.Model(inputs, nested(layers, classes))


def leaves(structure, path=()):
    """What is in a structure, by its path. Independent of the order in which Keras flattens."""
    if isinstance(structure, dict):
        items = structure.items()
    elif isinstance(structure, (list, tuple)):
        items = enumerate(structure)
    else:
        return {path: structure}
    return {key: leaf for name, part in items for key, leaf in leaves(part, (*path, name)).items()}


def nested(by_path, like, path=()):
    if isinstance(like, dict):
        return type(like)((name, nested(by_path, part, (*path, name))) for name, part in like.items())
    if isinstance(like, (list, tuple)):
        return type(like)(nested(by_path, part, (*path, i)) for i, part in enumerate(like))
    return by_path[path]


def distilled(student, teacher, loss, y=Y, *, epochs=1, rate=0.0, loss_weights=None, x=X, **arguments):
    """The logs of a `Distiller`, of which nothing moves unless it has a learning rate."""
    distiller = keras_ban.Distiller(student=student, teacher=teacher, **arguments)
    distiller.compile(keras.optimizers.SGD(rate), loss, loss_weights=loss_weights)
    return distiller.fit(x, y, batch_size=len(x), epochs=epochs, verbose=0).history


# Which outputs belong together


NESTED, BA = {"d": 4, "a": (3, 2)}, {"b": 3, "a": 3}
STRUCTURES = [
    # student, teacher, distillation losses, weights: each by its name and place
    (NESTED, NESTED, {"a": (KD(2.0), None), "d": KD(4.0)}, {"d": 3.0, "a": (0.5, 2.0)}),
    (NESTED, {**NESTED, "more": 7}, KD(), None),
    (NESTED, NESTED, {"a": KD(2.0), "d": MSE}, None),
    (OD(BA), OD(BA), {"a": MSE, "b": None}, None),
    (OD(BA), {"a": 3, "b": 3}, {"a": MSE, "b": KD()}, {"a": 2.0, "b": 0.5}),
    (BA, OD(BA), {"a": MSE, "b": None}, None),
    (BA, BA, {"a": None, "b": MSE}, {"a": 2.0, "b": 0.5}),
    ((3, (2, 4)), [3, [2, 4]], (KD(2.0), (None, MSE)), (1.0, (2.0, 3.0))),
]
MORE = STRUCTURES[1:3] + STRUCTURES[4:]


@cases("student, teacher, losses, weights", STRUCTURES[0], STRUCTURES[3], on_one_backend=MORE)
def test_outputs_losses_weights_and_soft_targets_are_paired_by_name_and_place(student, teacher, losses, weights):
    models = heads(student), heads(teacher)
    said, targets = (leaves(model.predict(X, verbose=0)) for model in models)
    label_losses = nested({path: crossentropy() for path in leaves(student)}, student)
    y = nested({path: Y % classes for path, classes in leaves(student).items()}, student)

    logs = distilled(*models, label_losses, y, distillation_loss=losses, loss_weights=weights)

    expected = 0.0
    for path, output in said.items():
        loss, weight = at(losses, path), 1.0 if weights is None else at(weights, path)
        if loss is MSE:
            expected += weight * ((output.astype("float64") - targets[path]) ** 2).mean()
        elif loss is not None:
            expected += weight * oracles.knowledge_distillation(targets[path], output, loss.temperature).mean()
    np.testing.assert_allclose(logs["distillation_loss"], [expected], rtol=1e-5)


def at(values, path):
    """What stands at a path, or for all that is below."""
    for name in path:
        values = values[name] if isinstance(values, (dict, list, tuple)) else values
    return values


@pytest.mark.filterwarnings("ignore:Gradients do not exist")  # for the other output
def test_a_teachers_gradient_reaches_the_output_that_the_loss_is_named_for():
    student, teacher = heads(OD(BA)), heads(OD(BA))
    before = student.predict(X, verbose=0)
    losses = {"a": MSE, "b": None}
    distilled(student, teacher, None, None, rate=0.1, distillation_loss=losses, label_weight=0)
    after = student.predict(X, verbose=0)

    assert_same([before["b"]], [after["b"]])
    assert (before["a"] != after["a"]).any()


@pytest.mark.one_backend
def test_a_weight_by_any_name_is_that_of_the_only_output():
    student, teacher = classifier(), classifier()
    plain = distilled(student, teacher, crossentropy())
    weighted = distilled(student, teacher, crossentropy(), loss_weights={"out": 2.0})

    np.testing.assert_allclose(2 * plain["distillation_loss"][0], weighted["distillation_loss"][0], rtol=1e-6)
    np.testing.assert_allclose(2 * plain["loss"][0], weighted["loss"][0], rtol=1e-6)


# What they are


def dense(units=CLASSES, activation=None, *more):
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(units, activation), *more])


def functional(*last):
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(CLASSES)(inputs)
    for each in last:
        outputs = each(outputs)
    return keras.Model(inputs, outputs)


def channels_last_to_first():
    layers = [keras.layers.Dense(CLASSES, "softmax"), keras.layers.Permute((2, 1))]
    return keras.Sequential([keras.Input((4, 8)), *layers])


# A layer of two models.
TWICE = keras.layers.Dense(CLASSES, "softmax", name="twice")
TWICE(keras.Input((CLASSES,)))


class OwnCall(keras.Sequential):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


SOFTMAX, SIGMOID, LINEAR = Meaning(False, "softmax", -1), Meaning(False, "sigmoid"), Meaning(True)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (dense, LINEAR),
        (lambda: dense(CLASSES, "softmax"), SOFTMAX),
        (lambda: dense(1, "sigmoid"), SIGMOID),
        (lambda: dense(CLASSES, "log_softmax"), Meaning(True, "softmax", -1)),
        (lambda: dense(CLASSES, "tanh"), Meaning()),
        (lambda: dense(CLASSES, None, keras.layers.Softmax(axis=1)), Meaning(False, "softmax", 1)),
        (lambda: dense(CLASSES, "softmax", keras.layers.Activation("linear", dtype="float32")), SOFTMAX),
        (lambda: dense(CLASSES, None, keras.layers.BatchNormalization()), Meaning()),
        (lambda: keras.Sequential([keras.layers.Dense(2, "softmax")]), SOFTMAX),  # not built
        (lambda: keras.Sequential([keras.Input((8,)), functional(keras.layers.Activation("softmax"))]), SOFTMAX),
        (lambda: OwnCall([keras.Input((8,)), keras.layers.Dense(2, "softmax")]), Meaning()),
        (functional, LINEAR),
        (lambda: functional(keras.ops.softmax), SOFTMAX),
        (lambda: functional(keras.layers.Reshape((CLASSES, 1))), LINEAR),
        (lambda: functional(keras.layers.Softmax(), keras.layers.Reshape((CLASSES, 1))), Meaning(False, "softmax")),
        (lambda: functional(TWICE), SOFTMAX),
        (lambda: channels_last_to_first(), Meaning(False, "softmax", 1)),
        (lambda: functional(keras.ops.sigmoid), SIGMOID),
        (lambda: functional(dense_of_three("softmax")), SOFTMAX),
        (lambda: functional(keras.layers.Reshape((CLASSES, 1)), keras.layers.Softmax()), SOFTMAX),
        (lambda: keras_ban.EnsembleModel([dense(), dense()]), Meaning(True, "softmax", -1)),
        (lambda: keras_ban.EnsembleModel([dense(), dense()], average="outputs"), LINEAR),
    ],
)
def test_the_last_layer_says_what_a_model_gives(model, expected):
    assert expected == of_model(model()).meaning


def dense_of_three(activation):
    return keras.Sequential([keras.Input((CLASSES,)), keras.layers.Dense(CLASSES, activation)])


@pytest.mark.one_backend
def test_each_output_has_its_own_last_layer():
    inputs = keras.Input((8,))
    outputs = {"b": keras.layers.Dense(3, "softmax")(inputs), "a": (keras.layers.Dense(1, "sigmoid")(inputs), inputs)}
    found = of_model(keras.Model(inputs, outputs))

    assert (SOFTMAX, SIGMOID, Meaning()) == (found["b"].meaning, *(each.meaning for each in found["a"]))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (SCE(from_logits=True, axis=1), Meaning(True, "softmax", 1)),
        (CCE(axis=2), Meaning(False, "softmax", 2)),
        ("sparse_categorical_crossentropy", SOFTMAX),
        ("CategoricalCrossentropy", SOFTMAX),
        (keras.losses.binary_crossentropy, SIGMOID),
        (keras.losses.BinaryFocalCrossentropy(from_logits=True), Meaning(True, "sigmoid")),
        ("crossentropy", Meaning(False)),
        ("mse", Meaning(None, "linear")),
        (keras.losses.Huber(), Meaning(None, "linear")),
        (keras.losses.KLDivergence(), SOFTMAX),
        ("no such loss", Meaning()),
        (None, Meaning()),
        (lambda y, p: p, Meaning()),
    ],
)
def test_a_label_loss_says_what_outputs_are(loss, expected):
    assert expected == of_label_loss(loss)


# What cannot be meant


CONTRADICTIONS = [
    # student, teacher, label loss, distillation loss, message
    ("softmax", "softmax", SCE(), KD(from_logits=True), r"contradicts the student: .* Use `KnowledgeDistillation\(\)`"),
    (None, "softmax", SCE(True), KD(from_logits=True), "contradicts the teacher: .* or a teacher without the softmax"),
    (None, None, SCE(True), KD(from_logits=False), "`distillation_loss` contradicts the student: .* no probabilities"),
    ("softmax", "softmax", SCE(True), KD(from_logits=False), r"`loss` contradicts .* Use `Sparse.*\(from_logits=False"),
    (None, None, "sparse_categorical_crossentropy", KD(), r"`SparseCategoricalCrossentropy\(from_logits=True\)`"),
    ("sigmoid", "sigmoid", BCE(), KD(from_logits=False), r"Distillation\(activation='sigmoid', from_logits=False\)"),
    ("sigmoid", "sigmoid", BCE(), DIST(from_logits=False), r"Distillation\(activation='sigmoid', from_logits=False\)"),
    (None, None, SCE(True), CCE(), r"contradicts the student: .* Use `CategoricalCrossentropy\(from_logits=True\)`"),
    (None, None, SCE(True), KL(), r"contradicts the student: .* Use `keras_ban.losses.KnowledgeDistillation\(\)`"),
    (None, None, KL(), None, r"`loss` contradicts the student: .* Use `CategoricalCrossentropy\(from_logits=True\)`"),
    ("softmax", None, SCE(), MSE, "compares outputs as they are, but the student gives probabilities and the teacher"),
    ("softmax", "softmax", SCE(), LOGITS, "contradicts the student: `LogitsDistillation` takes logits"),
    ("softmax", "sigmoid", SCE(), None, "No `distillation_loss` can be chosen: .* a softmax, the teacher of a sigmoid"),
    ("tanh", "tanh", SCE(True), KD(from_logits=False), "`loss` contradicts `distillation_loss`: .* pass the same"),
]


@cases("student, teacher, label, loss, message", CONTRADICTIONS[0], on_one_backend=CONTRADICTIONS[1:])
def test_what_contradicts_itself_is_refused_before_training(student, teacher, label, loss, message):
    student, teacher = dense(CLASSES, student), dense(CLASSES, teacher)
    before = values(student)
    y = np.eye(CLASSES)[Y] if isinstance(label, (BCE, CCE, KL)) else Y
    with pytest.raises(ValueError, match=message):
        distilled(student, teacher, label, y, rate=0.1, distillation_loss=loss)
    assert_same(before, values(student))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "label, loss", [(SCE(True), KD(from_logits=False)), ("sparse_categorical_crossentropy", None), (SCE(True), KL())]
)
def test_what_contradicts_itself_is_refused_before_generation_0(label, loss):
    sequence = keras_ban.BornAgainSequence(classifier(), generations=1, distillation_loss=loss)
    sequence.compile("sgd", label)
    with pytest.raises(ValueError, match="contradicts the student"):
        sequence.fit(X, Y, verbose=0)
    assert [] == sequence.models


@pytest.mark.one_backend
def test_models_that_hear_no_teacher_are_scored_and_averaged_by_their_label_loss():
    sequence = keras_ban.BornAgainSequence(classifier(activation="softmax"), generations=1, label_weight=1, seed=0)
    sequence.compile("sgd", SCE())
    history = sequence.fit(X, Y, validation_data=(X, Y), verbose=0)

    said = [model.predict(X, verbose=0).astype("float64") for model in sequence.models]
    picked = np.take_along_axis(said[0], Y[:, None], axis=1)
    np.testing.assert_allclose(history.records[0].scores.nll, -np.log(picked).mean(), rtol=1e-6)
    np.testing.assert_allclose(sequence.ensemble().predict(X, verbose=0), np.mean(said, axis=0), rtol=1e-5)


@pytest.mark.one_backend
def test_what_plays_no_part_contradicts_nothing():
    """A distillation loss at `label_weight=1`, and a label loss at `label_weight=0`."""
    assert np.isfinite(distilled(dense(CLASSES, "softmax"), dense(), SCE(), label_weight=1)["loss"][0])
    assert np.isfinite(distilled(dense(), dense(), SCE(), label_weight=0)["loss"][0])
    with pytest.raises(ValueError, match="takes the numbers of classes"):
        keras_ban.Distiller(student=dense(), teacher=dense(), distillation_loss=SCE())


# `pytest.warns` raises Keras's own again, without the module that the exception in pyproject.toml asks for.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.one_backend
def test_classes_of_several_yes_and_no_are_warned_of():
    with pytest.warns(UserWarning, match="takes each output for a yes or a no of its own"):
        distilled(dense(), dense(), BCE(from_logits=True), np.eye(CLASSES)[Y], distillation_loss=KD())


@pytest.mark.one_backend
def test_an_ensemble_and_a_decomposition_ask_the_last_layer_too():
    members = [dense(CLASSES, "sigmoid"), dense(CLASSES, "sigmoid")]
    with pytest.warns(UserWarning, match=r"Pass `from_logits=False, activation='sigmoid'`"):
        keras_ban.EnsembleModel(members, from_logits=True)
    with pytest.raises(ValueError, match="`distillation_loss` contradicts the student"):
        keras_ban.gradient_decomposition(dense(CLASSES, "softmax"), dense(), X, Y, from_logits=True)


# Losses of Keras as distillation losses: soft targets are probabilities


def test_binary_crossentropy_distils_sigmoids():
    student, teacher = dense(4, "sigmoid"), dense(4, "sigmoid")
    q, p = (model.predict(X, verbose=0).astype("float64") for model in (student, teacher))

    logs = distilled(student, teacher, BCE(), np.eye(4)[Y], distillation_loss=BCE())

    np.testing.assert_allclose(
        logs["distillation_loss"], [-(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()], rtol=1e-5
    )


def test_a_softmax_teaches_logits_by_categorical_crossentropy_without_a_warning():
    student, teacher = dense(), dense(CLASSES, "softmax")
    q, p = oracles.log_softmax(student.predict(X, verbose=0)), teacher.predict(X, verbose=0).astype("float64")

    logs = distilled(student, teacher, crossentropy(), distillation_loss=CCE(from_logits=True))

    np.testing.assert_allclose(logs["distillation_loss"], [-(p * q).sum(-1).mean()], rtol=1e-5)


def channels_first(*last):
    """`(n, 4, 8)` in, `(n, 8, 4)` out: 8 classes at 4 places."""
    permute = keras.layers.Permute((2, 1))
    return keras.Sequential([keras.Input((4, 8)), keras.layers.Dense(8), permute, *last])


PLACES, AT_PLACES = X.reshape(24, 4, 8), Y.reshape(24, 4)


def test_classes_along_another_axis_are_trained():
    student, teacher = (channels_first(keras.layers.Softmax(axis=1)) for _ in range(2))
    q, p = (model.predict(PLACES, verbose=0).astype("float64") for model in (student, teacher))
    # Keras's sparse one takes no `axis` under JAX and TensorFlow.
    is_sparse = keras.config.backend() == "torch"
    loss, y = (SCE(axis=1), AT_PLACES) if is_sparse else (CCE(axis=1), np.eye(8)[AT_PLACES].transpose(0, 2, 1))

    logs = distilled(student, teacher, loss, y, x=PLACES, distillation_loss=CCE(axis=1))

    expected = [-(p * np.log(q)).sum(axis=1).mean()]
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=1e-4)
    picked = np.take_along_axis(q, AT_PLACES[:, None], axis=1)
    np.testing.assert_allclose(logs["label_loss"], [-np.log(picked).mean()], rtol=1e-4)


@pytest.mark.one_backend
def test_classes_along_two_axes_are_refused_by_name():
    along_the_last = KD(from_logits=True)
    for loss in (SCE(True, axis=1), CCE(True, axis=1)):
        with pytest.raises(ValueError, match="takes classes along axis=1, but `KnowledgeDistillation` along axis=-1"):
            models = channels_first(), channels_first()
            distilled(*models, loss, AT_PLACES, x=PLACES, distillation_loss=along_the_last)
    with pytest.raises(ValueError, match="takes classes along axis=1"):  # of models that show no outputs before
        models = (OwnCall(channels_first().layers) for _ in range(2))
        distilled(*models, SCE(True, axis=1), AT_PLACES, x=PLACES, distillation_loss=along_the_last)
    softmax = keras.layers.Softmax(axis=1)
    with pytest.raises(ValueError, match="contradicts the student: .* is a softmax along axis=1"):
        models = channels_first(softmax), channels_first(softmax)
        distilled(*models, CCE(axis=1), AT_PLACES, x=PLACES, distillation_loss=KD(from_logits=False))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 7\]"):
        distilled(channels_first(), channels_first(), SCE(True, axis=1), AT_PLACES + 6, x=PLACES, distillation_loss=MSE)


# Terms of several dtypes


@pytest.fixture
def floatx(request):
    before = keras.config.floatx()
    keras.config.set_floatx(request.param)
    yield request.param
    keras.config.set_floatx(before)


def half(step):
    return 0.5 + 0.0 * keras.ops.cast(step, "float32")


def twice(step):
    return 2.0 + 0.0 * keras.ops.cast(step, "float32")


DTYPES = [
    # floatx, dtypes of the label loss and of a mean squared error (else `KnowledgeDistillation`), schedules
    ("float16", None, None, True),
    ("float64", None, None, True),
    ("float32", "float64", None, True),
    ("float32", None, "float64", False),
    ("float64", "float32", "float16", False),
]


@pytest.mark.parametrize(("floatx", "label", "distillation", "scheduled"), DTYPES, indirect=["floatx"])
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype")  # of JAX, which has no float64 unless it is told to
def test_terms_of_any_dtypes_are_mixed_in_the_widest(floatx, label, distillation, scheduled):
    student, teacher = dense(), dense()
    outputs, targets = (model.predict(X.astype(floatx), verbose=0).astype("float64") for model in (student, teacher))
    arguments = {"label_weight": half if scheduled else 0.5}
    if distillation is None:
        arguments["distillation_loss"] = KD(twice if scheduled else 2.0)
        expected = oracles.knowledge_distillation(targets, outputs, 2.0).mean()
    else:
        arguments["distillation_loss"] = keras.losses.MeanSquaredError(dtype=distillation)
        expected = ((outputs - targets) ** 2).mean()
    picked = np.take_along_axis(oracles.log_softmax(outputs), Y[:, None], axis=-1)

    logs = distilled(student, teacher, SCE(True, dtype=label), x=X.astype(floatx), **arguments)

    loose = "float16" in (floatx, label, distillation)
    np.testing.assert_allclose(logs["loss"], [0.5 * -picked.mean() + 0.5 * expected], rtol=5e-3 if loose else 1e-5)


def test_float32_and_float64_are_added_up_in_float64():
    if keras.config.backend() == "jax":
        pytest.skip("JAX has no float64 unless it is told to.")
    terms = [keras.ops.convert_to_tensor(value, dtype) for value, dtype in [(1.0, "float32"), (1e-12, "float64")]]

    assert 1.0 + 1e-12 == float(add_up(terms))
    assert 1.0 + 1e-12 == float(add_up(terms[::-1]))


@pytest.mark.one_backend
def test_a_seed_may_be_a_whole_number_of_numpy():
    loss, same = (keras_ban.losses.PermutedDarkKnowledge(seed=seed) for seed in (np.int64(3), 3))
    targets, outputs = (np.random.default_rng(i).standard_normal((8, 6)).astype("float32") for i in (0, 1))

    assert float(same(targets, outputs)) == float(loss(targets, outputs))


class Softened(keras.losses.CategoricalCrossentropy):
    """A crossentropy that makes probabilities of the teacher's logits itself."""

    def call(self, y_true, y_pred):
        return super().call(keras.ops.softmax(y_true["soft_targets"]), y_pred)


def mixed(softmax):
    """A model whose last layer mixes the classes of a softmax."""
    mixing = keras.layers.Dense(3, use_bias=False, kernel_initializer="identity")
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, activation=softmax), mixing])


@pytest.mark.one_backend
@pytest.mark.parametrize("case", ["a loss of one's own", "a layer that mixes probabilities"])
def test_what_only_looks_like_a_contradiction_is_trained(case, blobs):
    if case == "a loss of one's own":
        models, loss, from_logits = (classifier(), classifier()), Softened(from_logits=True), True
    else:
        models, loss = (mixed("softmax"), mixed("softmax")), KnowledgeDistillation(from_logits=False)
        from_logits = False
    distiller = keras_ban.Distiller(student=models[0], teacher=models[1], distillation_loss=loss)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits))

    distiller.fit(*blobs, verbose=0)
