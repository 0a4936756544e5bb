"""`EnsembleModel.calibrate`: the temperature that it finds, where it takes effect, and what it refuses."""

import hashlib
import re
import warnings

import keras
import numpy as np
import oracles
import pytest
from helpers import ensembles, soft_targets
from helpers.data import Batches
from helpers.ensembles import CLASSES, LABELS, SAMPLE_WEIGHT, SOFTMAXES, YES, X, ensemble, linear, outputs_of
from helpers.tables import cases
from keras import layers, ops
from scipy import optimize

import keras_ban
from keras_ban import EnsembleModel
from keras_ban._src.data.fingerprints import model_fingerprint
from keras_ban._src.losses import temperature

ONE_HOT = np.eye(CLASSES)[LABELS]
# float32 rounds logits of up to 30 by 1e-6.
TOLERANCE = 5e-6


def best(nll):
    """The smallest value of a function of the temperature."""
    found = optimize.minimize_scalar(lambda log: nll(np.exp(log)), bounds=(-5, 5), method="bounded")
    return found.fun


def logits_of(model, activation=None):
    """The logits that the outputs of an ensemble stand for, in float64."""
    outputs = outputs_of(model)
    if activation == "softmax":
        return np.log(outputs)
    return np.log(outputs) - np.log1p(-outputs) if activation == "sigmoid" else outputs


@cases(
    "name",
    *["logits", "probabilities"],
    on_one_backend=[name for name in SOFTMAXES if name not in ("logits", "probabilities")],
)
@pytest.mark.parametrize("weights", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
def test_no_temperature_has_a_smaller_nll_and_accuracy_does_not_change(name, weights):
    made = ensemble(**SOFTMAXES[name])
    before, logits = outputs_of(made), logits_of(made, SOFTMAXES[name].get("activation"))

    found = made.calibrate(X, LABELS, weights)

    after = logits_of(made, SOFTMAXES[name].get("activation"))
    lowest = best(lambda t: ensembles.softmax_nll(logits / t, LABELS, weights))
    assert found == made.temperature > 1.5
    assert ensembles.softmax_nll(after, LABELS, weights) == pytest.approx(lowest, abs=TOLERANCE)
    np.testing.assert_array_equal(before.argmax(axis=-1), outputs_of(made).argmax(axis=-1))
    expected = oracles.log_softmax(logits / found)
    np.testing.assert_allclose(expected, oracles.log_softmax(after), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
@pytest.mark.parametrize("average", ["probabilities", pytest.param("logits", marks=pytest.mark.one_backend)])
@pytest.mark.parametrize("outputs", [1, CLASSES])
def test_sigmoids_are_calibrated(activation, average, outputs):
    # Small logits, because float32 rounds sigmoids of large ones to 1.
    members = [linear(seed, activation, outputs, scale=1) for seed in range(3)]
    made = EnsembleModel(members, None, average, activation is None, "sigmoid")
    labels, logits = YES[:, :outputs], logits_of(made, activation)

    made.calibrate(X, labels[:, 0] if outputs == 1 else labels, SAMPLE_WEIGHT)

    lowest = best(lambda t: ensembles.sigmoid_nll(logits / t, labels, SAMPLE_WEIGHT))
    assert ensembles.sigmoid_nll(logits_of(made, activation), labels, SAMPLE_WEIGHT) == pytest.approx(lowest, abs=1e-5)
    np.testing.assert_allclose(logits / made.temperature, logits_of(made, activation), rtol=0, atol=1e-4)


def test_labels_of_every_form_and_datasets_give_the_same_temperature():
    made = ensemble()
    expected = made.calibrate(X, LABELS)
    tensors = ops.convert_to_tensor(X), ops.convert_to_tensor(LABELS)
    forms = {
        "list": (X, LABELS.tolist()),
        "column": (X, LABELS[:, None]),
        "floats": (X, LABELS.astype("float32")),
        "one-hot": (X, ONE_HOT),
        "tensors": tensors,
        "PyDataset": (Batches(X, LABELS, 50),),
        "generator": (iter([(X[:70], LABELS[:70]), (X[70:], LABELS[70:])]),),
        "weighted batches": (iter([(X[:70], LABELS[:70], np.ones(70)), (X[70:], LABELS[70:], np.ones(50))]),),
    }

    found = {name: made.calibrate(*form) for name, form in forms.items()}

    # Batches of another size differ in the last bits of float32.
    assert found == pytest.approx(dict.fromkeys(forms, expected), rel=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", ["tf.data", "DataLoader"])
def test_batches_of_other_libraries_bring_their_labels(kind):
    made = ensemble()
    expected = made.calibrate(X, LABELS)

    assert made.calibrate(soft_targets.DATASETS[kind](X, LABELS)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.one_backend
def test_all_leading_axes_count_and_padding_does_not():
    inputs = keras.Input((None, 8))
    members = [keras.Model(inputs, linear(seed).layers[-1](inputs)) for seed in range(2)]
    made, x, labels = EnsembleModel(members), X.reshape(30, 4, 8), LABELS.reshape(30, 4)
    logits = outputs_of(made, x)

    made.calibrate(x, labels)
    lowest = best(lambda t: ensembles.softmax_nll(logits / t, labels))
    assert ensembles.softmax_nll(outputs_of(made, x), labels) == pytest.approx(lowest, abs=TOLERANCE)

    whole = made.calibrate(x[:, :2], labels[:, :2])
    padded, counts = np.where(np.arange(4) < 2, labels, 0), np.tile([1.0, 1, 0, 0], (30, 1))
    ignored = np.where(np.arange(4) < 2, labels, -1)
    assert made.calibrate(x, padded, counts) == pytest.approx(whole, rel=1e-5)
    made.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1))
    assert made.calibrate(x, ignored) == pytest.approx(whole, rel=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("scale", [1e-2, 1, 30])
def test_labels_that_are_distributions_are_matched_exactly_whatever_the_scale_of_logits(scale):
    logits = np.random.default_rng(0).standard_normal((200, 4)) * scale
    labels = oracles.softmax(logits / (2.5 * scale))

    assert temperature.best_temperature(logits, labels) == pytest.approx(2.5 * scale, rel=1e-6)


@pytest.mark.one_backend
def test_a_masked_class_stays_masked():
    logits = np.random.default_rng(0).standard_normal((200, 4)) * 3
    labels = np.random.default_rng(1).integers(0, 4, 200)
    masked = np.concatenate([logits, np.full((200, 1), -np.inf)], axis=1)

    assert temperature.best_temperature(logits, labels) == temperature.best_temperature(masked, labels)


@pytest.mark.one_backend
def test_without_a_best_temperature_there_is_a_warning():
    made = ensemble(count=1)
    predicted = outputs_of(made).argmax(axis=-1)
    for labels, bound in ((predicted, 1e-3), (outputs_of(made).argmin(axis=-1), 1e3)):
        # `pytest.warns` would repeat the warnings that are ignored.
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert bound == made.calibrate(X, labels)
        assert any("There is no best temperature" in str(each.message) for each in caught)


@pytest.mark.one_backend
def test_equal_logits_have_the_temperature_one():
    assert 1.0 == temperature.best_temperature(np.zeros((5, 3)), np.array([0, 1, 2, 0, 1]))


@pytest.mark.parametrize("activation", [None, "softmax"])
def test_at_temperature_one_outputs_are_those_of_a_plain_average_bit_for_bit(activation):
    made = EnsembleModel([linear(0, activation)], from_logits=activation is None)
    expected = linear(0, activation).predict(X, verbose=0)
    if activation is None:
        expected = ops.convert_to_numpy(ops.logsumexp(ops.stack([ops.log_softmax(expected)]), axis=0))

    np.testing.assert_array_equal(expected, made.predict(X, verbose=0))


# --- Where it takes effect.


def holders(made):
    """Models that hold an ensemble, each of which gives its logits."""
    inputs = keras.Input((8,))
    yield "itself", made
    yield "ensemble of ensembles", EnsembleModel([made], average="logits")
    yield "functional", keras.Model(inputs, made(inputs))
    yield "sequential", keras.Sequential([keras.Input((8,)), made, layers.Identity()])


def test_steps_that_were_compiled_before_use_the_new_temperature():
    made = ensemble()
    compiled = list(holders(made))
    for _, model in compiled:
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = [(outputs_of(model), model.evaluate(X, LABELS, verbose=0)) for _, model in compiled]

    found = made.calibrate(X, LABELS)

    for (name, model), (logits, loss) in zip(compiled, before, strict=True):
        np.testing.assert_allclose(logits / found, outputs_of(model), rtol=0, atol=TOLERANCE, err_msg=name)
        calibrated = model.evaluate(X, LABELS, verbose=0)
        assert calibrated == pytest.approx(ensembles.softmax_nll(logits / found), abs=1e-5)
        assert calibrated < loss - 0.1


def test_a_distiller_whose_step_is_compiled_hears_the_calibrated_teacher():
    teacher, learns = ensemble(), {"epochs": 1, "batch_size": 120, "shuffle": False, "verbose": 0}

    def distiller():
        made = keras_ban.Distiller(student=linear(9), teacher=teacher, label_weight=0)
        made.compile(keras.optimizers.SGD(0.1))
        return made

    old = distiller()
    before = old.fit(X, **learns).history["loss"][0]
    teacher.calibrate(X, LABELS)
    old.student.set_weights(linear(9).get_weights())

    after, new = (each.fit(X, **learns).history["loss"][0] for each in (old, distiller()))

    assert after == pytest.approx(new, rel=1e-6)
    assert after != pytest.approx(before, rel=0.05)


def test_the_temperature_is_in_the_file_and_old_files_have_temperature_one(tmp_path):
    made = ensemble()
    made.calibrate(X, LABELS)
    made.save(tmp_path / "ensemble.keras")

    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    old = {name: value for name, value in made.get_config().items() if name != "temperature"}

    assert made.temperature == loaded.temperature
    np.testing.assert_array_equal(outputs_of(made), outputs_of(loaded))
    assert 1.0 == EnsembleModel.from_config(old).temperature


def test_settings_are_no_weights_of_the_model():
    made = ensemble()

    assert 6 == len(made.weights)
    assert sum(member.count_params() for member in made.members) == made.count_params()
    assert [] == made.trainable_variables[6:]


@pytest.mark.one_backend
def test_soft_targets_from_before_are_refused():
    made = ensemble()
    plain = model_fingerprint(made)
    kept = soft_targets.make(made, X)
    made.calibrate(X, LABELS)
    calibrated = model_fingerprint(made)
    distiller = keras_ban.Distiller(student=linear(9), teacher=made, label_weight=0)
    distiller.compile("sgd")

    with pytest.raises(ValueError, match="teacher"):
        distiller.fit(X, soft_targets=kept, verbose=0)
    distiller.fit(X, soft_targets=soft_targets.make(made, X), verbose=0)
    wrapped = keras.Sequential([keras.Input((8,)), made])
    assert 3 == len({plain, calibrated, model_fingerprint(ensemble(weights=[1, 2, 3]))})
    assert calibrated == model_fingerprint(wrapped) == model_fingerprint(ensemble(temperature=made.temperature))
    # An ensemble without settings has the fingerprint of its weights alone, as in old files.
    digest = hashlib.sha256()
    for weight in made.get_weights():
        digest.update(f"{weight.dtype}{weight.shape}".encode() + weight.tobytes())
    assert digest.hexdigest() == plain


# --- What is refused.


def several_outputs():
    inputs = keras.Input((8,))
    return keras.Model(inputs, {"a": layers.Dense(3)(inputs), "b": layers.Dense(2)(inputs)})


def spoilt():
    model = linear(0)
    model.set_weights([np.full((8, 3), np.nan), np.zeros(3)])
    return model


REFUSED = [
    ("average='outputs'", lambda: ensemble(average="outputs"), (X, LABELS)),
    ("several outputs", lambda: EnsembleModel([several_outputs()]), (X, LABELS)),
    ("member 1 hold NaN", lambda: EnsembleModel([linear(0), spoilt()]), (X, LABELS)),
    ("no labels", ensemble, (X,)),
    ("no labels", ensemble, (iter([(X,)]),)),
    ("must be arrays, or a dataset", ensemble, ("x", LABELS)),
    ("same number of examples", ensemble, (X, LABELS[:5])),
    ("labels must lie in [0, 2], but `y` holds 7", ensemble, (X, np.where(LABELS == 1, 7, LABELS))),
    ("labels must lie in [0, 2], but `y` holds -1", ensemble, (X, LABELS - 1)),
    ("whole numbers", ensemble, (X, LABELS + 0.5)),
    ("received the shape (120, 2)", ensemble, (X, ONE_HOT[:, :2])),
    ("sum to 1", ensemble, (X, 2 * ONE_HOT)),
    ("must hold numbers", ensemble, (X, np.array(list("abc"))[LABELS])),
    ("NaN or inf", ensemble, (X, np.where(ONE_HOT > 0, np.nan, 0))),
    ("one array", ensemble, (X, {"a": LABELS, "b": LABELS})),
    ("numbers in [0, 1]", lambda: ensemble(activation="sigmoid"), (X, 2 * YES)),
    ("shape of the outputs", lambda: ensemble(activation="sigmoid"), (X, LABELS)),
    ("no softmax over classes", lambda: EnsembleModel([linear(0, outputs=1)], activation="softmax"), (X, LABELS)),
    ("`sample_weight` must be finite, non-negative", ensemble, (X, LABELS, -SAMPLE_WEIGHT)),
    ("`sample_weight` must be finite, non-negative", ensemble, (X, LABELS, 0 * SAMPLE_WEIGHT)),
    ("`sample_weight` must have the shape", ensemble, (X, LABELS, np.ones((120, 3)))),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("message", "build", "arguments"), REFUSED, ids=range(len(REFUSED)))
def test_wrong_data_are_refused_and_the_temperature_stays(message, build, arguments):
    made = build()

    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        made.calibrate(*arguments)

    assert 1.0 == made.temperature


@pytest.mark.one_backend
@pytest.mark.parametrize("wrong", [0, -1.0, float("nan"), float("inf"), "1", None, True, [1.0]])
def test_a_temperature_is_a_positive_number(wrong):
    with pytest.raises(ValueError, match="`temperature` must be a positive, finite number"):
        ensemble(temperature=wrong)
    with pytest.raises(ValueError, match="average='outputs'"):
        ensemble(temperature=2.0, average="outputs")


def test_what_compiled_steps_read_cannot_be_set_past_them():
    made = ensemble()
    for name in ("temperature", "member_weights"):
        with pytest.raises(AttributeError):
            setattr(made, name, 2.0)


@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.parametrize("format", ["tf_saved_model", "onnx", "litert"])
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_exports_give_the_calibrated_outputs(tmp_path, format, activation):
    for package in ("tensorflow", "tf2onnx", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    made = ensemble(activation=activation, weights=[1, 0, 2])
    made.calibrate(X, LABELS)

    report = keras_ban.export(made, tmp_path / "model", format, examples=X, verbose=False)

    assert report["difference"] <= 1e-5


# --- Data that trained the members.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A sequence, trained with the first 80 examples."""
    folder = tmp_path_factory.mktemp("run") / "run"
    sequence = keras_ban.BornAgainSequence(linear(0, scale=0.3), generations=1, seed=0, directory=folder)
    sequence.compile(
        keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True
    )
    sequence.fit(X, LABELS, batch_size=80, epochs=8, verbose=0, validation_split=1 / 3)
    return sequence


TRAINED_ON = {
    "training data": (X[:80], LABELS[:80]),
    "with validation data": (X, LABELS),
    "a subset": (X[10:20], LABELS[10:20]),
    "shuffled": (X[79::-1], LABELS[79::-1]),
    "partly": (X[70:100], LABELS[70:100]),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", TRAINED_ON)
@pytest.mark.parametrize("method", ["calibrate", "fit_weights"])
def test_examples_that_trained_the_members_are_refused(trained, name, method):
    x, labels = TRAINED_ON[name]
    made = trained.ensemble()

    for form in ((x, labels), (Batches(x, labels, 10),)):
        with pytest.raises(ValueError, match="These examples trained the members: they .*Pass validation data"):
            getattr(made, method)(*form)
    loaded = keras_ban.BornAgainSequence.load(trained.directory).ensemble()
    if name in ("training data", "with validation data"):
        with pytest.raises(ValueError, match="they are the training data"):
            getattr(loaded, method)(x, labels)
    else:  # The files know the arrays as a whole.
        getattr(loaded, method)(x, labels)


@pytest.mark.one_backend
def test_validation_data_are_taken_even_if_few_examples_equal_those_of_training(trained):
    made = trained.ensemble()
    assert made.calibrate(X[80:], LABELS[80:]) > 0
    assert 2 == len(made.fit_weights(X[78:], LABELS[78:]))
    # Of another form: other examples.
    assert made.calibrate(X[:40].astype("float64"), LABELS[:40]) > 0


@pytest.mark.one_backend
def test_equal_inputs_are_no_sign_where_training_has_few_different_ones():
    x = np.round(X[:, :1].clip(-1, 1)) * np.ones((1, 8), "float32")
    sequence = keras_ban.BornAgainSequence(linear(0, scale=0.3), generations=1, seed=0)
    sequence.compile(
        keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True
    )
    sequence.fit(x[:80], LABELS[:80], batch_size=80, epochs=8, verbose=0)

    assert sequence.ensemble().calibrate(x[80:], LABELS[80:]) > 0
    with pytest.raises(ValueError, match="they are the training data"):
        sequence.ensemble().calibrate(x[:80], LABELS[:80])
