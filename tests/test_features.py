"""Feature matching: layers within a student learn from layers within its teacher, in one forward pass of each."""

import itertools

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.tables import cases
from helpers.training import loss_and_gradient
from keras import ops

import keras_ban
from keras_ban._src.distillation.feature_matching import FeatureMatching

TO_HIDDEN = {"hidden": "hidden"}


def network(width=4, dtype=None, seed=None):
    """8 numbers in, a linear hidden layer of some width, three logits out; no biases."""
    if seed is not None:
        keras.utils.set_random_seed(seed)
    options = {"use_bias": False, "dtype": dtype, "kernel_initializer": "random_normal"}
    layers = [keras.layers.Dense(width, name="hidden", **options), keras.layers.Dense(CLASSES, **options)]
    return keras.Sequential([keras.Input((8,)), *layers])


# Where compilation is not the point, it would take all of the time; but JAX would compile each op of an eager step.
EAGER = keras.config.backend() != "jax"


def distiller(student, teacher, matching, optimizer=None, loss=None, eager=EAGER, **arguments):
    model = keras_ban.Distiller(student=student, teacher=teacher, feature_matching=matching, **arguments)
    model.compile(optimizer or keras.optimizers.SGD(0.1), loss or crossentropy(), run_eagerly=eager)
    return model


def logs_of(model, x, y, **arguments):
    model.reset_metrics()  # Older versions of Keras average over calls.
    return {name: float(value) for name, value in model.train_on_batch(x, y, return_dict=True, **arguments).items()}


@cases(
    "label_weight, width, weighted",
    (0.7, 6, True),
    on_one_backend=itertools.product([0.0, 0.3, 1.0], [4, 6], [False, True]),
)
def test_one_sgd_step_with_features_is_the_step_of_the_closed_form(blobs, label_weight, width, weighted):
    x, y = blobs
    student, teacher = network(), network(width)
    weights = np.random.default_rng(0).uniform(0, 2, len(x)).astype("float32") if weighted else None
    model = distiller(student, teacher, FeatureMatching(["hidden"], weight=3.0), label_weight=label_weight)
    first, last = (w.astype("float64") for w in student.get_weights())
    kernel = np.eye(4)
    if width != 4:
        kernel = ops.convert_to_numpy(model.projections["hidden"].kernel).astype("float64")

    logs = logs_of(model, x, y, sample_weight=weights)

    hidden = x.astype("float64") @ first
    hidden_of_teacher = x.astype("float64") @ teacher.get_weights()[0]
    per_example = (1.0 if weights is None else weights[:, None]) / len(x)
    of_labels = oracles.softmax(hidden @ last) - np.eye(CLASSES)[y]
    of_teacher = oracles.knowledge_distillation_gradient(hidden_of_teacher @ teacher.get_weights()[1], hidden @ last)
    of_outputs = per_example * (label_weight * of_labels + (1 - label_weight) * of_teacher)
    difference = hidden @ kernel - hidden_of_teacher
    of_features = 3.0 * per_example * 2 * difference / width
    expected = [
        first - 0.1 * x.T @ (of_outputs @ last.T + of_features @ kernel.T),
        last - 0.1 * hidden.T @ of_outputs,
    ]
    for wanted, actual in zip(expected, student.get_weights(), strict=True):
        np.testing.assert_allclose(wanted, actual, atol=2e-6)  # weights below 1 in float32
    if width != 4:
        actual = ops.convert_to_numpy(model.projections["hidden"].kernel)
        np.testing.assert_allclose(kernel - 0.1 * hidden.T @ of_features, actual, atol=2e-6)
    np.testing.assert_allclose((per_example * difference**2).sum() / width, logs["feature_loss"], rtol=1e-5)
    parts = {"label_loss": label_weight, "distillation_loss": 1 - label_weight, "feature_loss": 3.0}
    assert {name for name, weight in parts.items() if weight} == set(logs) - {"loss"}
    np.testing.assert_allclose(sum(parts[name] * logs[name] for name in set(logs) - {"loss"}), logs["loss"], rtol=1e-5)


def squared(difference):
    return (difference**2).mean(-1)


LOSSES = {
    "a name": ("mse", squared, "mean"),
    "an object": (keras.losses.MeanAbsoluteError(reduction="sum"), lambda d: np.abs(d).mean(-1), "sum"),
    "a function": (lambda t, s: ops.mean(ops.square(t - s) ** 2, axis=-1), lambda d: (d**4).mean(-1), "mean"),
    "a weighted mean": (keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"), squared, "weighted"),
}


@pytest.mark.parametrize("name", LOSSES)
@cases("weighted", "outputs", on_one_backend=[None, "examples", "positions"])
def test_value_and_gradient_are_the_oracles_whatever_the_loss(name, weighted):
    loss, per_position, reduction = LOSSES[name]
    rng = np.random.default_rng(0)
    teacher, student = (rng.standard_normal((3, 2, 3, 4)).astype("float32") for _ in range(2))
    of_examples = np.array([0.5, 2.0, 0.0], "float32")
    given = {
        None: None,
        "examples": of_examples[:, None],
        "positions": rng.uniform(0, 2, (3, 2, 3)).astype("float32"),
        "outputs": {"a": of_examples, "b": 3 * of_examples},
    }[weighted]
    weights = {None: np.ones(3), "examples": of_examples, "outputs": 2 * of_examples}.get(weighted, given)
    weights = np.broadcast_to(weights.reshape(3, *([1, 1] if weighted != "positions" else [2, 3])), (3, 2, 3))
    matching = FeatureMatching(["any"], loss)

    def oracle(features):
        total = (weights * per_position(features - teacher.astype("float64"))).sum()
        return total / {"mean": 18, "sum": 1, "weighted": weights.sum()}[reduction]

    def loss_of_two_pairs(teacher, student):
        return matching.compare([teacher] * 2, [student] * 2, given)

    value, gradient = loss_and_gradient(loss_of_two_pairs, ops.convert_to_tensor(teacher), student)

    np.testing.assert_allclose(2 * oracle(student), value, rtol=1e-5)
    np.testing.assert_allclose(2 * oracles.finite_difference(oracle, student), gradient, rtol=1e-4, atol=1e-6)


def test_features_and_outputs_come_of_one_pass(blobs):
    x, y = blobs
    norm = keras.layers.BatchNormalization(momentum=0.9, name="norm")
    # What drops out is the output itself: in one pass the two losses are one and the same number.
    student = keras.Sequential([keras.Input((8,)), norm, keras.layers.Dropout(0.5, name="dropped")])
    teacher = keras.Sequential([keras.Input((8,)), keras.layers.Identity(name="same")])
    loss = keras.losses.MeanSquaredError()
    matching = FeatureMatching({"dropped": "same"})
    model = distiller(student, teacher, matching, eager=False, distillation_loss=loss, label_weight=0)

    logs = logs_of(model, x, y)

    np.testing.assert_allclose(logs["distillation_loss"], logs["feature_loss"], rtol=1e-6)  # float32
    np.testing.assert_allclose(logs["distillation_loss"] + logs["feature_loss"], logs["loss"], rtol=1e-6)
    # float32 means of 96 numbers.
    np.testing.assert_allclose(0.1 * x.mean(axis=0), ops.convert_to_numpy(norm.moving_mean), atol=1e-6)


def test_a_student_with_dropout_draws_the_masks_that_it_would_draw_without_feature_matching(blobs):
    x, y = blobs
    matching = FeatureMatching({"drop": "hidden"}, weight=1e-30)

    def weights_after(matching):
        hidden = network(seed=3).layers[0]
        layers = [hidden, keras.layers.BatchNormalization(), keras.layers.Dropout(0.5, seed=1, name="drop")]
        student = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(CLASSES)])
        student.layers[-1].set_weights([np.eye(4, CLASSES), np.zeros(CLASSES)])
        distiller(student, network(seed=4), matching, eager=False).fit(x, y, batch_size=48, shuffle=False, verbose=0)
        return values(student)

    for expected, actual in zip(weights_after(None), weights_after(matching), strict=True):
        np.testing.assert_allclose(expected, actual, atol=1e-6)  # the compiler may order float32 sums in another way


def test_the_teacher_stays_as_it_is_and_the_projection_is_trained(blobs):
    x, y = blobs
    hidden = keras.layers.Dense(6, name="hidden")
    layers = [hidden, keras.layers.BatchNormalization(name="norm"), keras.layers.Dropout(0.5)]
    teacher = keras.Sequential([keras.Input((8,)), *layers, keras.layers.Dense(CLASSES)])
    before, flags = values(teacher), [layer.trainable for layer in teacher.layers]
    student = network()
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.1)
    model = distiller(student, teacher, FeatureMatching({"hidden": "norm"}), optimizer, eager=False)
    kernel = values(model.projections["hidden"])
    parameters, seen = student.count_params(), teacher.predict(x, verbose=0)

    logs = model.fit(x, y, epochs=5, validation_data=blobs, verbose=0).history

    assert_same(before, values(teacher))
    assert flags == [layer.trainable for layer in teacher.layers]
    np.testing.assert_array_equal(seen, teacher.predict(x, verbose=0))
    assert logs["feature_loss"][-1] < logs["feature_loss"][0]
    assert (kernel[0] != values(model.projections["hidden"])[0]).all()
    assert parameters == model.count_params() == student.count_params()
    assert {"loss", "label_loss", "distillation_loss", "feature_loss", "val_loss"} == set(logs)
    student.compile(loss=crossentropy())
    np.testing.assert_allclose(student.evaluate(x, y, verbose=0), logs["val_loss"][-1], rtol=1e-6)


@cases("policy", "mixed_bfloat16", on_one_backend=["mixed_float16"])
def test_features_in_half_precision_are_compared_in_float32(blobs, policy):
    x, y = blobs
    student, teacher = network(dtype=policy), network(6, dtype="float32")
    # Eagerly: a compiled step may leave out the rounding to half precision.
    model = distiller(student, teacher, FeatureMatching(TO_HIDDEN), keras.optimizers.SGD(0.0), eager=True)
    of_student = ops.convert_to_numpy(ops.cast(student.layers[0](x), "float32")).astype("float64")
    kernel = ops.convert_to_numpy(model.projections["hidden"].kernel)

    logs = logs_of(model, x, y)

    # float32 rounds at 1e-7, half precision at 1e-3 or 1e-2.
    expected = ((of_student @ kernel - ops.convert_to_numpy(teacher.layers[0](x))) ** 2).mean()
    np.testing.assert_allclose(expected, logs["feature_loss"], rtol=1e-5)


@cases("weighted", True, on_one_backend=[False])
def test_padding_counts_nothing_among_features(weighted):
    tokens = np.random.default_rng(0).integers(1, 12, (8, 6))
    tokens[:3, 4:] = 0

    def language_model():
        layers = [keras.layers.Embedding(12, 5, mask_zero=True), keras.layers.Dense(4, name="hidden")]
        return keras.Sequential([keras.Input((6,), dtype="int32"), *layers, keras.layers.Dense(12)])

    student, teacher = language_model(), language_model()
    model = distiller(student, teacher, FeatureMatching(TO_HIDDEN), keras.optimizers.SGD(0.0))
    weights = np.repeat(np.arange(8, dtype="float32")[:, None], 6, axis=1) if weighted else None

    logs = logs_of(model, tokens, tokens, sample_weight=weights)

    hidden = [keras.Model(m.inputs, m.layers[1].output).predict(tokens, verbose=0) for m in (student, teacher)]
    difference = ((hidden[0] - hidden[1]) ** 2).mean(-1) * (weights if weighted else 1.0)
    np.testing.assert_allclose(difference[tokens > 0].mean(), logs["feature_loss"], rtol=1e-5)


@cases("kind", dict, on_one_backend=[list, tuple])
def test_models_of_several_outputs_match_features_of_images_too(kind):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((6, 4, 4, 2)).astype("float32"), rng.integers(0, CLASSES, 6)

    def two_headed(filters):
        inputs = keras.Input((4, 4, 2))
        hidden = keras.layers.Conv2D(filters, 3, name="hidden")(inputs)
        flat = keras.layers.Flatten()(hidden)
        heads = {name: keras.layers.Dense(CLASSES, name=name)(flat) for name in ("a", "b")}
        return keras.Model(inputs, heads if kind is dict else kind(heads.values()))

    student, teacher = two_headed(3), two_headed(5)
    loss, labels = ({"a": each, "b": each} if kind is dict else [each, each] for each in (crossentropy(), y))
    model = distiller(student, teacher, FeatureMatching(TO_HIDDEN, "mae"), loss=loss)
    hidden = [keras.Model(m.inputs, m.get_layer("hidden").output).predict(x, verbose=0) for m in (student, teacher)]
    kernel = ops.convert_to_numpy(model.projections["hidden"].kernel)

    logs = logs_of(model, x, labels)

    np.testing.assert_allclose(np.abs(hidden[0] @ kernel - hidden[1]).mean(), logs["feature_loss"], rtol=1e-5)
    expected = 0.5 * logs["label_loss"] + 0.5 * logs["distillation_loss"] + logs["feature_loss"]
    np.testing.assert_allclose(expected, logs["loss"], rtol=1e-5)


def test_student_and_teacher_give_features_of_the_same_augmented_batch():
    def identity():
        layers = [keras.layers.Identity(name="hidden"), keras.layers.Dense(CLASSES)]
        return keras.Sequential([keras.Input((8,)), *layers])

    def noise_seen(teacher, student):
        # 1e6 times what the two do not have in common, and the size of what they have.
        return ops.mean(1e6 * ops.square(teacher - student) + ops.square(student), axis=-1)

    matching = FeatureMatching(TO_HIDDEN, noise_seen)
    model = distiller(identity(), identity(), matching, augmentation=keras.layers.GaussianNoise(1.0))

    logs = logs_of(model, np.zeros((500, 8), "float32"), np.zeros(500, "int32"))

    # 4,000 squares of a standard normal: a mean of 1, give or take 0.02.
    np.testing.assert_allclose(1.0, logs["feature_loss"], atol=0.15)


def test_compiled_and_eager_steps_train_alike(blobs):
    x, y = blobs
    weights = []
    # JAX compiles by itself. Torch's compiler takes half a minute: tests marked slow hold it for the step as a whole.
    xla = [{"jit_compile": True}] if keras.config.backend() == "tensorflow" else []
    for options in ({"run_eagerly": True}, {}, *xla):
        student = network(seed=3)
        model = keras_ban.Distiller(
            student=student, teacher=network(6, seed=4), feature_matching=FeatureMatching(TO_HIDDEN), name="distiller"
        )
        model.projections["hidden"].set_weights([np.eye(4, 6)])
        model.compile(keras.optimizers.SGD(0.1), crossentropy(), **options)
        model.fit(x, y, batch_size=48, shuffle=False, verbose=0)
        weights.append([*student.get_weights(), *model.projections["hidden"].get_weights()])

    for other in weights[1:]:
        for expected, actual in zip(weights[0], other, strict=True):
            np.testing.assert_allclose(expected, actual, atol=1e-6)  # float32, and sums in another order


def test_a_saved_distiller_goes_on_with_its_features_and_projections(blobs, tmp_path):
    x, y = blobs
    # Not Huber: Keras itself loses its `delta`.
    matching = FeatureMatching({"hidden": "wide"}, keras.losses.MeanAbsoluteError(reduction="sum"), weight=0.07)
    teacher = network(6)
    teacher.layers[0].name = "wide"
    model = distiller(network(), teacher, matching, keras.optimizers.Adam(0.01), eager=False)
    model.fit(x, y, verbose=0)

    model.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")

    expected = model.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    actual = restored.fit(x, y, epochs=2, shuffle=False, verbose=0).history
    assert expected == actual
    assert_same(values(model), values(restored))


def test_weight_files_hold_the_student_and_the_projections(blobs, tmp_path):
    x, y = blobs
    model, other = (distiller(network(), network(6), FeatureMatching(TO_HIDDEN)) for _ in range(2))
    model.train_on_batch(x, y)

    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")

    assert_same(values(model), values(other))
    assert 3 == len(values(model))


@pytest.mark.one_backend
def test_losses_by_name_and_registered_functions_come_back_from_a_configuration():
    for loss in ("mae", keras.losses.mean_absolute_error, keras.losses.MeanAbsoluteError()):
        matching = FeatureMatching({"a": "b"}, loss, weight=2.0)
        copy = FeatureMatching.from_config(matching.get_config())

        assert {"a": "b"} == copy.layers
        assert 2.0 == copy.weight
        value = copy.compare([np.zeros((2, 3))], [np.full((2, 3), 2.0, "float32")])
        assert 2.0 == float(value)


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


class FunctionalWithItsOwnCall(keras.Model):
    def call(self, inputs, training=None):
        return 2 * super().call(inputs, training=training)


INPUTS = keras.Input((8,))
HIDDEN = keras.layers.Dense(8, name="hidden")
OUT = keras.layers.Dense(CLASSES, name="out")


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "student, message",
    [
        (Subclassed, "the student 'subclassed.*' is a Subclassed, whose `call` is Python code. Build it by"),
        (
            lambda: FunctionalWithItsOwnCall(INPUTS, OUT(HIDDEN(INPUTS))),
            "the student 'functional.*' is a FunctionalWithItsOwnCall, whose `call` is Python code",
        ),
        (lambda: keras.Sequential([HIDDEN, OUT]), "Begin it with `keras.Input\\(shape\\)`"),
        (
            lambda: keras.Model(INPUTS, keras.Sequential([INPUTS, HIDDEN, OUT], name="inner")(INPUTS)),
            "no layer named 'hidden'.* There is such a layer inside another model: name it 'inner/hidden'",
        ),
        (lambda: keras.Model(INPUTS, OUT(HIDDEN(HIDDEN(INPUTS)))), "the student's layer 'hidden' is called 2 times"),
        (
            lambda: keras.Model(INPUTS, OUT(keras.layers.Lambda(lambda x: (x, x), name="hidden")(INPUTS)[0])),
            "layer 'hidden' gives 2 tensors, but features are one",
        ),
        (lambda: keras.Sequential([INPUTS, OUT]), "but \\['input.*', 'out'\\]"),
    ],
)
def test_features_that_cannot_be_read_off_a_graph_are_refused_with_a_way_out(student, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        keras_ban.Distiller(student=student(), teacher=network(CLASSES), feature_matching=FeatureMatching(TO_HIDDEN))


@pytest.mark.one_backend
def test_a_layer_that_was_called_elsewhere_too_is_no_matter(blobs):
    student = keras.Sequential()
    for layer in [keras.Input((8,)), *network().layers]:
        student.add(layer)  # Keras calls all layers again each time.
    model = distiller(student, network(), FeatureMatching(TO_HIDDEN))

    assert np.isfinite(logs_of(model, *blobs)["feature_loss"])


@pytest.mark.one_backend
def test_features_of_other_positions_are_refused_with_both_shapes():
    def convolution(size):
        inputs = keras.Input((8, 8, 1))
        x = keras.layers.Conv2D(4, size, name="hidden")(inputs)
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(keras.layers.Flatten()(x)))

    message = "shape \\(None, 6, 6, 4\\), the teacher's layer 'hidden' of shape \\(None, 4, 4, 4\\)"
    with pytest.raises(ValueError, match=message):
        keras_ban.Distiller(student=convolution(3), teacher=convolution(5), feature_matching=FeatureMatching(TO_HIDDEN))


@pytest.mark.one_backend
def test_soft_targets_cannot_stand_in_for_a_teacher_whose_features_are_wanted(blobs):
    x, y = blobs
    teacher = network()
    matching = FeatureMatching(TO_HIDDEN)
    model = distiller(network(), teacher, matching)
    soft_targets = keras_ban.SoftTargets.from_teacher(teacher, x, verbose=False)

    for arguments in (
        {"x": x, "y": y, "soft_targets": soft_targets},
        {"x": x, "y": {"labels": y, "soft_targets": np.zeros((96, CLASSES))}},
    ):
        with pytest.raises(ValueError, match="the teacher must run at each step"):
            model.fit(**arguments, verbose=0)
    with pytest.raises(ValueError, match="the teacher must run at each step"):
        model.train_on_batch(x, {"labels": y, "soft_targets": np.zeros((96, CLASSES))})
    with pytest.raises(ValueError, match="the teacher must run at each step"):
        keras_ban.Distiller(student=network(), feature_matching=matching)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"layers": []}, ValueError, "`layers` names none"),
        ({"layers": "hidden"}, TypeError, "`layers` must be a dict"),
        ({"layers": {"hidden": 1}}, TypeError, "`layers` must be a dict"),
        ({"layers": ["a"], "weight": 0}, ValueError, "`weight` must be a positive, finite number, received: 0"),
        ({"layers": ["a"], "weight": float("nan")}, ValueError, "`weight` must be a positive"),
        ({"layers": ["a"], "weight": True}, ValueError, "`weight` must be a positive"),
        ({"layers": ["a"], "loss": "no such loss"}, ValueError, "`loss` must be a loss of Keras"),
        ({"layers": ["a"], "loss": None}, TypeError, "`loss` must be a loss's name"),
        ({"layers": ["a"], "loss": keras.losses.MeanSquaredError(reduction=None)}, ValueError, "must reduce"),
    ],
)
def test_settings_that_make_no_sense_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        FeatureMatching(**arguments)


@pytest.mark.one_backend
def test_what_does_not_fit_feature_matching_is_refused(blobs):
    x, _ = blobs

    with pytest.raises(TypeError, match="`feature_matching` must be `keras_ban.FeatureMatching"):
        keras_ban.Distiller(student=network(), teacher=network(), feature_matching=TO_HIDDEN)
    with pytest.raises(ValueError, match="pass one weight for each example"):
        FeatureMatching(TO_HIDDEN).compare([x], [x], np.ones((96, 5), "float32"))


def test_a_sequence_matches_features_with_the_teacher_at_each_step(blobs, tmp_path):
    x, y = blobs
    matching = FeatureMatching(["hidden"], "mae", weight=0.3)
    sequence = keras_ban.BornAgainSequence(
        network(), generations=1, feature_matching=matching, directory=tmp_path / "run", seed=0
    )
    sequence.compile("sgd", crossentropy(), run_eagerly=EAGER)

    history = sequence.fit(x, y, batch_size=96, verbose=0)
    restored = keras_ban.BornAgainSequence.load(tmp_path / "run")

    logs = history.records[1].logs
    expected = 0.5 * logs["label_loss"][0] + 0.5 * logs["distillation_loss"][0] + 0.3 * logs["feature_loss"][0]
    np.testing.assert_allclose(expected, logs["loss"][0], rtol=1e-5)
    assert logs["feature_loss"][0] > 0
    assert ({"hidden": "hidden"}, "mae", 0.3) == tuple(
        getattr(restored.feature_matching, name) for name in ("layers", "loss", "weight")
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"soft_targets": "cached"}, "`feature_matching` needs the teacher at each step"),
        ({"views": 2, "augmentation": keras.layers.GaussianNoise(1)}, "`feature_matching` needs the teacher at each"),
        ({"teach_from": "ensemble"}, "an ensemble has none of its own"),
        ({"distill_ensemble": True}, "an ensemble has none of its own"),
    ],
)
def test_a_sequence_refuses_what_gives_no_features_at_each_step(arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_ban.BornAgainSequence(network(), feature_matching=FeatureMatching(TO_HIDDEN), **arguments)


@pytest.mark.one_backend
def test_a_sequence_tells_of_layers_that_are_not_there_before_it_trains(blobs):
    matching = FeatureMatching(["nowhere"])
    sequence = keras_ban.BornAgainSequence(classifier(), generations=1, feature_matching=matching)
    sequence.compile("sgd", crossentropy())
    with pytest.raises(ValueError, match="has no layer named 'nowhere'"):
        sequence.fit(*blobs, verbose=0)
    assert not sequence.models
