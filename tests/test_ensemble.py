"""`EnsembleModel`: what it says of its members' outputs, what it does as a model, and what it refuses."""

import copy
import re
from unittest import mock

import keras
import numpy as np
import oracles
import pytest
from helpers import data, models
from keras import layers

import keras_ban
from keras_ban import EnsembleModel

RNG = np.random.default_rng(5)
X = RNG.standard_normal((16, 8)).astype("float32")
WEIGHTS = [1.0, 3.0, 0.5]
ONE_BACKEND = pytest.mark.one_backend
SHARES = np.array(WEIGHTS) / 4.5


@keras.saving.register_keras_serializable(package="test_ensemble")
class Echo(keras.Model):
    """Subclassed; says `scale` times its inputs, which so are its outputs, and has no `training` argument."""

    def __init__(self, scale=1.0, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale

    def build(self, input_shape):
        self.factor = self.add_weight(initializer=keras.initializers.Constant(self.scale), name="factor")

    def call(self, inputs):
        return inputs * self.factor

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


@keras.saving.register_keras_serializable(package="test_ensemble")
class Subclassed(keras.Model):
    def __init__(self, classes=data.CLASSES, **kwargs):
        super().__init__(**kwargs)
        self.classes = classes
        self.top = layers.Dense(classes)

    def call(self, inputs, training=None):
        return self.top(inputs)

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}


class Given(keras.Model):
    """Says what it was given, whatever its inputs."""

    def __init__(self, outputs):
        super().__init__()
        self.given = np.asarray(outputs, "float32")

    def call(self, inputs):
        return keras.ops.convert_to_tensor(self.given)


def functional(activation=None):
    inputs = keras.Input((8,))
    x = layers.Dense(6, activation="tanh")(inputs)
    return keras.Model(inputs, layers.Dense(data.CLASSES, activation=activation)(layers.Concatenate()([x, inputs])))


def two_outputs(kind=dict):
    inputs = keras.Input((8,))
    outputs = {"kind": layers.Dense(3, name="kind")(inputs), "size": layers.Dense(2, name="size")(inputs)}
    return keras.Model(inputs, outputs if kind is dict else list(outputs.values()))


def called_on(model, x=X, **kwargs):
    return keras.tree.map_structure(keras.ops.convert_to_numpy, model(x, **kwargs))


def average_of(outputs, **kwargs):
    """What an ensemble makes of its members' outputs."""
    members = [Given(output) for output in outputs]
    return called_on(EnsembleModel(members, **{"from_logits": True, **kwargs}), np.zeros((1, 1), "float32"))


def weighted(arrays, shares=SHARES):
    return sum(share * np.asarray(array, "float64") for share, array in zip(shares, arrays, strict=True))


def logit(p):
    return np.log(p) - np.log1p(-p)


def centered(logits):
    """Logits of a softmax, but for a constant that every class shares."""
    return logits - logits.mean(axis=-1, keepdims=True)


def log_mean_softmax(logits, shares):
    """The logarithm of the average of softmaxes, in float64, which no logit up to 1e4 overflows or underflows."""
    logs = np.stack([oracles.log_softmax(x) + np.log(share) for x, share in zip(logits, shares, strict=True)])
    top = logs.max(axis=0)
    return top + np.log(np.exp(logs - top).sum(axis=0))


# The table: every cell against NumPy in float64.

# Three members; logits of scale 2, whose float32 has errors of 1e-7.
LOGITS = RNG.normal(0, 2, (3, 10, 4))
# The float32 numbers themselves, so that the oracle sees what the members say.
LOGITS = LOGITS.astype("float32").astype("float64")
SOFTMAXES = oracles.softmax(LOGITS).astype("float32").astype("float64")
SIGMOIDS = oracles.sigmoid(LOGITS).astype("float32").astype("float64")

# float32 rounds to 6e-8 of the largest number at hand, of up to 10 here, so 1e-6 is a few roundings.
TOLERANCE = 1e-6

# What is averaged, what the members say, the activation: their outputs, the average of them.
TABLE = {
    ("probabilities", "logits", "softmax"): (LOGITS, np.log(weighted(oracles.softmax(LOGITS)))),
    ("probabilities", "logits", "sigmoid"): (LOGITS, logit(weighted(oracles.sigmoid(LOGITS)))),
    ("probabilities", "probabilities", "softmax"): (SOFTMAXES, weighted(SOFTMAXES)),
    ("probabilities", "probabilities", "sigmoid"): (SIGMOIDS, weighted(SIGMOIDS)),
    ("logits", "logits", "softmax"): (LOGITS, weighted(LOGITS)),
    ("logits", "logits", "sigmoid"): (LOGITS, weighted(LOGITS)),
    ("logits", "probabilities", "softmax"): (SOFTMAXES, oracles.softmax(weighted(np.log(SOFTMAXES)))),
    ("logits", "probabilities", "sigmoid"): (SIGMOIDS, oracles.sigmoid(weighted(logit(SIGMOIDS)))),
    ("outputs", "logits", "softmax"): (LOGITS, weighted(LOGITS)),
    ("outputs", "probabilities", "softmax"): (SOFTMAXES, weighted(SOFTMAXES)),
}
# These use most of the operations.
ON_ALL_BACKENDS = [("probabilities", "logits", "softmax"), ("probabilities", "logits", "sigmoid")]
ON_ALL_BACKENDS += [("logits", "probabilities", "softmax")]


@pytest.mark.parametrize(
    "cell",
    [pytest.param(cell, marks=[] if cell in ON_ALL_BACKENDS else ONE_BACKEND, id=", ".join(cell)) for cell in TABLE],
)
def test_every_cell_of_the_table_is_the_average_that_numpy_takes(cell):
    average, say, activation = cell
    outputs, expected = TABLE[cell]
    arguments = {"average": average, "from_logits": say == "logits", "activation": activation}
    actual = average_of(outputs, weights=WEIGHTS, **arguments)
    assert expected.shape == actual.shape
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
def test_the_defaults_average_probabilities_of_logits_with_equal_weights():
    expected = np.log(oracles.softmax(LOGITS).mean(axis=0))
    np.testing.assert_allclose(average_of(LOGITS), expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
@pytest.mark.parametrize("count", [1, 2, 5, 17])
def test_any_number_of_members_is_averaged(count):
    logits = RNG.normal(0, 2, (count, 6, 3)).astype("float32")
    expected = np.log(oracles.softmax(logits).mean(axis=0))
    np.testing.assert_allclose(average_of(logits), expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
@pytest.mark.parametrize("shape", [(5, 3), (5, 7, 3), (2, 4, 5, 3), (5, 1)])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_outputs_of_any_rank_are_averaged(shape, activation):
    logits = RNG.normal(0, 2, (3, *shape)).astype("float32")
    if activation == "softmax":
        expected = np.log(weighted(oracles.softmax(logits)))
    else:
        expected = logit(weighted(oracles.sigmoid(logits)))
    actual = average_of(logits, weights=WEIGHTS, activation=activation)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
def test_weights_are_divided_by_their_sum():
    expected = average_of(LOGITS, weights=[0.125, 0.25, 0.625])
    for weights in ([1, 2, 5], (1.0, 2.0, 5.0), np.array([1, 2, 5]), np.array([0.5, 1, 2.5], "float32")):
        models.assert_same([expected], [average_of(LOGITS, weights=weights)])
    assert (
        pytest.approx([0.125, 0.25, 0.625], rel=1e-15)
        == EnsembleModel([Echo(), Echo(), Echo()], [1, 2, 5], from_logits=True).member_weights
    )


@ONE_BACKEND
@pytest.mark.parametrize("average", ["probabilities", "logits", "outputs"])
@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_member_of_weight_zero_counts_as_absent_even_if_it_says_nan(average, from_logits, activation):
    outputs = LOGITS if from_logits else SOFTMAXES
    arguments = {"average": average, "from_logits": from_logits, "activation": activation}
    expected = average_of(outputs[:2], weights=[1, 3], **arguments)
    broken = [outputs[0], np.full_like(outputs[0], np.nan), outputs[1]]
    models.assert_same([expected], [average_of(broken, weights=[1, 0, 3], **arguments)])


EXTREME = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4 - 1, -1e4], [0.0, 0.0, 0.0]])


@pytest.mark.parametrize("factor", [-1, *(pytest.param(factor, marks=ONE_BACKEND) for factor in (1, 0))])
def test_extreme_logits_give_the_average_and_nothing_infinite(factor):
    logits = np.stack([EXTREME, factor * EXTREME])

    actual = average_of(logits)
    assert np.isfinite(actual).all()
    expected = log_mean_softmax(logits, [0.5, 0.5])
    # 1e4 in float32 is known to 5e-4.
    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(oracles.softmax(actual), np.exp(expected), atol=1e-3)

    actual = average_of(logits, activation="sigmoid")
    assert np.isfinite(actual).all()
    pairs = np.stack([logits, np.zeros_like(logits)], axis=-1)
    log_yes_no = log_mean_softmax(pairs, [0.5, 0.5])
    np.testing.assert_allclose(actual, log_yes_no[..., 0] - log_yes_no[..., 1], rtol=1e-6, atol=1e-3)

    np.testing.assert_allclose(average_of(logits, average="logits"), logits.mean(axis=0), rtol=1e-6)


def test_probabilities_of_exactly_zero_and_one_have_finite_averages():
    sure = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    other = np.array([[0.0, 1.0, 0.0], [0.5, 0.25, 0.25]])
    for average in ("probabilities", "logits"):
        for activation in ("softmax", "sigmoid"):
            actual = average_of([sure, other], average=average, from_logits=False, activation=activation)
            assert np.isfinite(actual).all()
            assert ((actual >= 0) & (actual <= 1)).all()
    # The geometric mean of (1, 0, 0) and (0, 1, 0): a tie of the two, and next to nothing for the third.
    actual = average_of([sure, other], average="logits", from_logits=False)
    np.testing.assert_allclose(actual[0], [0.5, 0.5, 0.0], atol=1e-6)


def test_a_class_that_every_member_masks_with_minus_infinity_stays_masked():
    logits = np.array([[[1.0, -np.inf, 0.0]], [[0.0, -np.inf, 2.0]]])
    expected = [[*np.log(oracles.softmax(logits[:, 0, [0, 2]]).mean(axis=0))]]
    actual = average_of(logits)
    assert -np.inf == actual[0, 1]
    np.testing.assert_allclose(actual[:, [0, 2]], expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
def test_an_ensemble_of_one_says_what_its_member_says():
    models.assert_same([LOGITS[0]], [average_of(LOGITS[:1], average="logits")])
    models.assert_same([LOGITS[0]], [average_of(LOGITS[:1], average="outputs")])
    models.assert_same([SOFTMAXES[0]], [average_of(SOFTMAXES[:1], from_logits=False)])
    np.testing.assert_allclose(
        oracles.softmax(average_of(LOGITS[:1])), oracles.softmax(LOGITS[0]), rtol=TOLERANCE, atol=TOLERANCE
    )
    np.testing.assert_allclose(average_of(LOGITS[:1]), oracles.log_softmax(LOGITS[0]), rtol=TOLERANCE, atol=TOLERANCE)
    actual = average_of(LOGITS[:1], activation="sigmoid")
    np.testing.assert_allclose(actual, LOGITS[0], rtol=TOLERANCE, atol=TOLERANCE)
    actual = average_of(SOFTMAXES[:1], average="logits", from_logits=False)
    np.testing.assert_allclose(actual, SOFTMAXES[0], rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
def test_averaged_logits_are_those_of_the_members_with_a_softmax_of_their_own():
    from_logits = average_of(LOGITS, weights=WEIGHTS, average="logits")
    probabilities = average_of(SOFTMAXES, weights=WEIGHTS, average="logits", from_logits=False)
    # Logits of the float32 probabilities are known to 1e-7 / p, and p goes down to 1e-4 here.
    np.testing.assert_allclose(centered(np.log(probabilities)), centered(from_logits), atol=1e-4)


# Members.


@ONE_BACKEND
@pytest.mark.parametrize("kind", [dict, list])
def test_every_output_of_members_with_several_is_averaged(kind):
    members = [two_outputs(kind), two_outputs(kind)]
    ensemble = EnsembleModel(members, weights=[1, 3])
    actual = ensemble.predict(X, verbose=0)
    outputs = [called_on(member) for member in members]
    assert isinstance(actual, kind)
    for key in ("kind", "size") if kind is dict else (0, 1):
        expected = np.log(weighted([oracles.softmax(output[key]) for output in outputs], [0.25, 0.75]))
        np.testing.assert_allclose(actual[key], expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_sequential_functional_and_subclassed_members_of_other_architectures_go_together():
    members = [models.classifier(dropout=0.5, batch_norm=True), functional(), Subclassed()]
    actual = called_on(EnsembleModel(members, weights=WEIGHTS))
    expected = np.log(weighted([oracles.softmax(called_on(member)) for member in members]))
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
def test_members_may_take_several_inputs():
    def siamese():
        inputs = {"left": keras.Input((3,), name="left"), "right": keras.Input((3,), name="right")}
        return keras.Model(inputs, layers.Dense(2)(layers.Concatenate()(list(inputs.values()))))

    members = [siamese(), siamese()]
    x = {"left": X[:, :3], "right": X[:, 3:6]}
    actual = EnsembleModel(members, average="outputs").predict(x, verbose=0)
    expected = weighted([called_on(member, x) for member in members], [0.5, 0.5])
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
def test_an_ensemble_is_a_member_of_another():
    inner = EnsembleModel([functional(), functional()])
    outer = EnsembleModel([inner, functional()], weights=[2, 1])
    alone = EnsembleModel([*inner.members, outer.members[1]])
    actual = called_on(outer)
    np.testing.assert_allclose(actual, called_on(alone), rtol=TOLERANCE, atol=TOLERANCE)
    expected = np.log(weighted([oracles.softmax(called_on(member)) for member in alone.members], [1 / 3] * 3))
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


@ONE_BACKEND
def test_an_ensemble_is_a_layer_of_a_functional_model():
    ensemble = EnsembleModel([functional(), models.classifier()])
    inputs = keras.Input((8,))
    model = keras.Model(inputs, layers.Softmax()(ensemble(inputs)))
    expected = oracles.softmax(called_on(ensemble))
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("average, from_logits", [("outputs", True), ("probabilities", True), ("probabilities", False)])
def test_whole_numbers_are_averaged_as_floats(average, from_logits):
    given = np.random.default_rng(2).integers(0, 2 if not from_logits else 9, (2, 4, 3))
    inputs = keras.Input((2, 3), dtype="int32")
    members = [keras.Model(inputs, inputs[:, i]) for i in range(2)]
    ensemble = EnsembleModel(members, average=average, from_logits=from_logits, activation="softmax")

    actual = ensemble.predict(np.stack(given, 1).astype("int32"), verbose=0)

    of_logits = (average, from_logits) == ("probabilities", True)
    expected = np.log(oracles.softmax(given.astype("float64")).mean(0)) if of_logits else given.mean(0)
    assert "float32" == actual.dtype
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_what_a_compiled_ensemble_would_not_notice_cannot_be_replaced():
    ensemble = EnsembleModel([functional(), functional()], average="logits", from_logits=True)
    expected = ensemble.predict(X, verbose=0)
    new = {"members": [functional()], "average": "outputs", "from_logits": False, "activation": "sigmoid"}

    for name, value in new.items():
        before = getattr(ensemble, name)
        with pytest.raises(AttributeError, match=f"`{name}` cannot be replaced in `EnsembleModel`"):
            setattr(ensemble, name, value)
        setattr(ensemble, name, before)
        assert before is getattr(ensemble, name)
    np.testing.assert_array_equal(expected, ensemble.predict(X, verbose=0))


CHANGES = {
    "append": lambda members, new: members.append(new),
    "extend": lambda members, new: members.extend([new]),
    "insert": lambda members, new: members.insert(0, new),
    "+=": lambda members, new: members.__iadd__([new]),
    "set an item": lambda members, new: members.__setitem__(0, new),
    "set a slice": lambda members, new: members.__setitem__(slice(1), [new]),
    "del": lambda members, new: members.__delitem__(0),
    "pop": lambda members, new: members.pop(),
    "remove": lambda members, new: members.remove(members[0]),
    "clear": lambda members, new: members.clear(),
    "sort": lambda members, new: members.sort(key=id),
    "reverse": lambda members, new: members.reverse(),
    "*=": lambda members, new: members.__imul__(2),
}


def test_the_list_of_members_cannot_be_changed_but_is_a_list(tmp_path):
    before = [functional(), functional()]
    ensemble = EnsembleModel(before, average="logits", from_logits=True)
    expected = ensemble.predict(X, verbose=0)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")

    for each in (ensemble, loaded, copy.deepcopy(ensemble)):
        members = [*each.members]
        for change in CHANGES.values():
            with pytest.raises(TypeError, match=r"This list cannot be changed.*of `\[\*model.members, another\]`"):
                change(each.members, functional())
        assert members == each.members
        np.testing.assert_array_equal(expected, each.predict(X, verbose=0))
    assert before == ensemble.members and isinstance(ensemble.members, list)
    more = ensemble.members[:1]
    more.append(functional())
    assert 2 == len(EnsembleModel(more, from_logits=True).members)


@ONE_BACKEND
def test_the_members_are_held_and_not_copied():
    members = [functional(), functional()]
    ensemble = EnsembleModel(members)
    assert all(a is b for a, b in zip(members, ensemble.members, strict=True))
    assert {id(v) for member in members for v in member.trainable_variables} == {
        id(v) for v in ensemble.trainable_variables
    }
    before = called_on(ensemble)
    members[0].set_weights([w + 1 for w in members[0].get_weights()])
    assert (before != called_on(ensemble)).any()


@ONE_BACKEND
def test_predict_and_evaluate_leave_the_members_as_they_were(blobs):
    x, y = blobs
    members = [models.classifier(dropout=0.5, batch_norm=True), models.classifier(batch_norm=True)]
    before = [models.values(member) for member in members]
    ensemble = EnsembleModel(members)
    ensemble.compile(loss=models.crossentropy())
    ensemble.predict(x, verbose=0)
    ensemble.evaluate(x, y, verbose=0)
    for expected, member in zip(before, members, strict=True):
        models.assert_same(expected, models.values(member))


@pytest.mark.parametrize("method", ["predict", "evaluate"])
@pytest.mark.parametrize("kind", [EnsembleModel, keras_ban.Distiller], ids=["ensemble", "distiller"])
def test_who_interrupts_predict_or_evaluate_keeps_the_weights(kind, method, blobs):
    """Keras on JAX takes them out of the model meanwhile."""

    def stop(batch, logs):
        raise KeyboardInterrupt

    first, second = models.classifier(), models.classifier()
    model = EnsembleModel([first, second]) if kind is EnsembleModel else kind(student=first, teacher=second)
    model.compile("sgd", models.crossentropy(), metrics=["accuracy"])
    model.fit(*blobs, verbose=0)
    before = models.values(first)
    name = {"predict": "on_predict_batch_end", "evaluate": "on_test_batch_end"}[method]

    callback = keras.callbacks.Callback()
    setattr(callback, name, stop)
    with pytest.raises(KeyboardInterrupt):
        getattr(model, method)(*blobs[: 1 + (method == "evaluate")], callbacks=[callback], verbose=0)

    models.assert_same(before, models.values(first))
    model.evaluate(*blobs, verbose=0)


class Counting(Subclassed):
    """Counts how often Python runs its `call`."""

    calls = 0

    def call(self, inputs, training=None):
        self.calls += 1
        return super().call(inputs, training=training)


@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras makes no graph of torch's predict unless told `jit_compile=True`"
)
def test_predict_on_tensorflow_and_jax_is_one_graph_that_traces_each_member_once_for_all_batches():
    members = [Counting() for _ in range(3)]
    for member in members:
        member(X)
        member.calls = 0
    ensemble = EnsembleModel(members, from_logits=True)

    actual = ensemble.predict(X, batch_size=4, verbose=0)

    assert [1, 1, 1] == [member.calls for member in members]
    # No member has a graph of its own beside the ensemble's.
    assert [None, None, None] == [member.predict_function for member in members]
    ensemble.predict(X, batch_size=4, verbose=0)
    assert [1, 1, 1] == [member.calls for member in members]
    # The graph reads the members' weights, and does not hold those it was traced with.
    np.testing.assert_allclose(actual, called_on(ensemble), rtol=TOLERANCE, atol=TOLERANCE)
    for member in members:
        member.set_weights([2 * w for w in member.get_weights()])
    changed = ensemble.predict(X, batch_size=4, verbose=0)
    assert (actual != changed).all()
    expected = np.log(np.mean([oracles.softmax(called_on(member)) for member in members], axis=0))
    np.testing.assert_allclose(changed, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_training_reaches_the_members():
    ensemble = EnsembleModel([models.classifier(dropout=0.5), functional()])
    draws = [called_on(ensemble, training=True) for _ in range(2)]
    assert (draws[0] != draws[1]).any()
    models.assert_same([called_on(ensemble)], [called_on(ensemble, training=False)])


@ONE_BACKEND
def test_evaluate_reports_the_loss_and_accuracy_of_the_average(blobs):
    x, y = blobs
    members = [functional(), models.classifier(), Subclassed()]
    ensemble = EnsembleModel(members)
    ensemble.compile(loss=models.crossentropy(), metrics=["accuracy"])
    loss, accuracy = ensemble.evaluate(x, y, batch_size=32, verbose=0)
    mean = np.mean([oracles.softmax(called_on(member, x)) for member in members], axis=0)
    assert pytest.approx(-np.log(mean[np.arange(len(y)), y]).mean(), rel=1e-5) == loss  # a mean of 96 float32 terms
    assert pytest.approx((mean.argmax(axis=-1) == y).mean()) == accuracy


def test_fit_trains_all_members_together(blobs):
    x, y = blobs
    members = [functional(), models.classifier(batch_norm=True)]
    before = [member.get_weights()[0] for member in members]
    ensemble = EnsembleModel(members)
    ensemble.compile(keras.optimizers.Adam(0.01), models.crossentropy())
    losses = ensemble.fit(x, y, epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    for expected, member in zip(before, members, strict=True):
        assert (expected != member.get_weights()[0]).any()


def test_mixed_precision_members_are_averaged_in_float32():
    keras.config.set_dtype_policy("mixed_float16")
    members = [functional(), functional()]
    keras.config.set_dtype_policy("float32")
    outputs = [called_on(member) for member in members]
    assert all(output.dtype == "float16" for output in outputs)

    actual = called_on(EnsembleModel(members))
    assert "float32" == actual.dtype
    expected = np.log(weighted([oracles.softmax(output) for output in outputs], [0.5, 0.5]))
    # The members' outputs are the same float16 numbers on both sides.
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_an_ensemble_made_under_mixed_precision_averages_float32_members_in_float32():
    members = [functional(), functional()]
    outputs = [called_on(member) for member in members]
    keras.config.set_dtype_policy("mixed_bfloat16")
    actual = called_on(EnsembleModel(members))
    assert "float32" == actual.dtype
    expected = np.log(weighted([oracles.softmax(output) for output in outputs], [0.5, 0.5]))
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


# Masks.

TOKENS = np.array([[1, 2, 3, 0, 0], [4, 1, 0, 0, 0], [2, 2, 2, 2, 2], [3, 0, 0, 0, 0]])
NEXT = np.array([[2, 3, 4, 0, 0], [1, 2, 0, 0, 0], [2, 2, 2, 2, 1], [1, 0, 0, 0, 0]])


def language_model(mask_zero=True):
    return keras.Sequential(
        [
            keras.Input((5,), dtype="int32"),
            layers.Embedding(5, 4, mask_zero=mask_zero),
            layers.LSTM(3, return_sequences=True),
            # Sure enough of itself that it matters which tokens count.
            layers.Dense(5, kernel_initializer=keras.initializers.RandomNormal(stddev=5.0)),
        ]
    )


def masked_loss(probabilities):
    """The mean over the tokens that are there, in float64."""
    likelihood = np.take_along_axis(probabilities, NEXT[..., None], axis=-1)[..., 0]
    return -np.log(likelihood)[TOKENS != 0].mean()


def evaluate_tokens(model):
    model.compile(loss=models.crossentropy())
    return model.evaluate(TOKENS, NEXT, verbose=0)


@ONE_BACKEND
def test_the_mask_of_a_member_is_kept():
    member = language_model()
    expected = evaluate_tokens(member)
    actual = evaluate_tokens(EnsembleModel([member]))
    assert pytest.approx(expected, rel=1e-6) == actual  # a few float32 roundings
    probabilities = oracles.softmax(called_on(member, TOKENS))
    assert pytest.approx(masked_loss(probabilities), rel=1e-6) == actual
    unmasked = -np.log(np.take_along_axis(probabilities, NEXT[..., None], axis=-1)).mean()
    assert abs(unmasked - actual) > 1e-3, "the mask makes no difference here, so this test shows nothing"


@pytest.mark.parametrize(
    "masking",
    [(True, False), *(pytest.param(each, marks=ONE_BACKEND) for each in ((True, True), (False, True)))],
    ids=str,
)
def test_a_mask_is_kept_whichever_member_carries_it(masking):
    members = [language_model(mask_zero) for mask_zero in masking]
    probabilities = np.mean([oracles.softmax(called_on(member, TOKENS)) for member in members], axis=0)
    assert pytest.approx(masked_loss(probabilities), rel=1e-6) == evaluate_tokens(EnsembleModel(members))


# On disk.


SAVED = [
    {"weights": [0.1, 0.2, 0.6], "average": "logits"},
    {"weights": [1.0, 2.0, 4.0]},
    {"weights": [0.3, 0.0, 0.4], "average": "outputs", "from_logits": False},
    {"activation": "sigmoid"},
    {"average": "logits", "from_logits": False, "activation": "sigmoid"},
]


@pytest.mark.parametrize(
    "arguments", [SAVED[0], *(pytest.param(arguments, marks=ONE_BACKEND) for arguments in SAVED[1:])], ids=str
)
def test_a_saved_ensemble_comes_back_with_the_same_outputs(arguments, tmp_path):
    activation = "sigmoid" if arguments.get("from_logits") is False else None
    members = [
        functional(activation),
        models.classifier(activation=activation),
        keras_ban.reborn(functional(activation)),
    ]
    ensemble = EnsembleModel(members, name="together", **arguments)
    expected = called_on(ensemble)

    ensemble.save(tmp_path / "ensemble.keras")
    restored = keras.saving.load_model(tmp_path / "ensemble.keras")

    assert type(ensemble) is type(restored)
    assert "together" == restored.name
    models.assert_same([expected], [called_on(restored)])
    # What was saved makes a difference, or the line above shows nothing.
    assert (expected != called_on(EnsembleModel(members, average="outputs"))).any()
    # It is used further as the original is.
    again = EnsembleModel.from_config(restored.get_config())
    again.set_weights(restored.get_weights())
    models.assert_same([expected], [called_on(again)])


@ONE_BACKEND
def test_members_that_share_their_names_come_back_each_with_its_own_weights(tmp_path):
    first = models.classifier(batch_norm=True)
    ensemble = EnsembleModel([first, keras_ban.reborn(first), keras_ban.reborn(first)])
    ensemble.save(tmp_path / "ensemble.keras")
    restored = keras.saving.load_model(tmp_path / "ensemble.keras")
    for old, new in zip(ensemble.members, restored.members, strict=True):
        models.assert_same(models.values(old), models.values(new))


@ONE_BACKEND
def test_subclassed_members_and_nested_ensembles_come_back(tmp_path):
    inner = EnsembleModel([Subclassed(), functional()], weights=[1, 5])
    ensemble = EnsembleModel([inner, Subclassed()])
    expected = called_on(ensemble)
    ensemble.save(tmp_path / "ensemble.keras")
    models.assert_same([expected], [called_on(keras.saving.load_model(tmp_path / "ensemble.keras"))])


def test_a_compiled_ensemble_comes_back_compiled(blobs, tmp_path):
    x, y = blobs
    ensemble = EnsembleModel([functional(), models.classifier()])
    ensemble.compile(keras.optimizers.Adam(0.01), models.crossentropy(), metrics=["accuracy"])
    ensemble.fit(x, y, verbose=0)
    expected = ensemble.evaluate(x, y, verbose=0)
    ensemble.save(tmp_path / "ensemble.keras")
    restored = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert expected == restored.evaluate(x, y, verbose=0)
    models.assert_same(
        [v.numpy() for v in ensemble.optimizer.variables], [v.numpy() for v in restored.optimizer.variables]
    )
    restored.fit(x, y, verbose=0)


@ONE_BACKEND
def test_weights_are_saved_and_loaded(tmp_path):
    first, second = (EnsembleModel([functional(), models.classifier()]) for _ in range(2))
    first.save_weights(tmp_path / "ensemble.weights.h5")
    second.load_weights(tmp_path / "ensemble.weights.h5")
    models.assert_same([called_on(first)], [called_on(second)])


def test_an_ensemble_is_reborn():
    ensemble = EnsembleModel([functional(), models.classifier()], weights=[1, 3], average="logits")
    before = models.values(ensemble)
    clone = keras_ban.reborn(ensemble)
    assert type(ensemble) is type(clone)
    models.assert_same(before, models.values(ensemble))
    assert (called_on(ensemble) != called_on(clone)).all()
    clone.set_weights(ensemble.get_weights())
    models.assert_same([called_on(ensemble)], [called_on(clone)])


def two_inputs():
    inputs = {"wide": keras.Input((8,), name="wide"), "narrow": keras.Input((2,), name="narrow")}
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()(list(inputs.values()))))


def called():
    member = Subclassed()
    member(X)
    return member


EXPORTED = [(functional, {"": (None, 8)}), (models.classifier, {"": (None, 8)}), (called, {"": (None, 8)})]
EXPORTED += [(two_inputs, {"wide": (None, 8), "narrow": (None, 2)})]


@pytest.mark.parametrize(("member", "shapes"), EXPORTED, ids=["functional", "sequential", "subclassed", "dict"])
def test_an_ensemble_is_exported_with_the_inputs_of_its_members(member, shapes, tmp_path):
    ensemble = EnsembleModel([EnsembleModel([member(), member()], from_logits=True), member()], from_logits=True)
    with mock.patch.object(keras.Model, "export", autospec=True) as of_keras:
        ensemble.export(tmp_path / "served", "tf_saved_model", verbose=False)
        ensemble.export(tmp_path / "served", input_signature="mine")

    first, second = (call.kwargs for call in of_keras.call_args_list)
    assert (tmp_path / "served", "tf_saved_model", False) == (first["filepath"], first["format"], first["verbose"])
    assert second["input_signature"] == "mine"
    (specs,) = first["input_signature"]
    specs = specs if isinstance(specs, dict) else {"": specs}
    assert shapes == {name: tuple(spec.shape) for name, spec in specs.items()}


def test_what_an_ensemble_exports_gives_its_outputs(tmp_path):
    if keras.config.backend() != "tensorflow":
        pytest.skip("what Keras itself exports elsewhere is not this package's")
    tf = pytest.importorskip("tensorflow")
    ensemble = EnsembleModel([functional(), models.classifier()], weights=[1, 3])

    ensemble.export(tmp_path / "served", verbose=False)

    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(ensemble.predict(X, verbose=0), served.serve(X), atol=1e-6)


# What is refused.


def refused():
    """The error, its message, the members and the other arguments."""
    no_list = "`members` must be a list of `keras.Model`s, received: "
    for wrong in (None, 3, "members", {}, functional(), (member for member in [])):
        yield TypeError, no_list, wrong, {}
    yield ValueError, "`members` must hold at least one `keras.Model`, received an empty list", [], {}
    no_model = "Each of `members` must be a `keras.Model`, received at index 1: "
    for wrong in (None, "model", layers.Dense(3), lambda x: x, Subclassed):
        yield TypeError, no_model, [Echo(), wrong], {}
    member = functional()
    twice = "`members` holds the same model twice. To let a model count more, use"
    yield ValueError, twice, [member, functional(), member], {}
    two = [Echo(), Echo()]
    for weights in ([], [1.0], [1.0, 2.0, 3.0]):
        other_number = f"`weights` must hold one number for each of the 2 members, received: {weights}"
        yield ValueError, other_number, two, {"weights": weights}
    no_weights = "`weights` must be finite, non-negative and not all 0 (they are divided by their sum), received: "
    for wrong in (-1.0, float("nan"), float("inf"), "1", None, 1j, [1.0]):
        yield ValueError, no_weights, two, {"weights": [1.0, wrong]}
    for weights in ([0.0, 0.0], [True, False]):
        yield ValueError, no_weights, two, {"weights": weights}
    for average in ("mean", None, "Logits", 1):
        no_average = f"`average` must be one of ('probabilities', 'logits', 'outputs'), received: {average!r}"
        yield ValueError, no_average, two, {"average": average}
    no_activation = "`activation` must be one of ('softmax', 'sigmoid'), received: "
    for activation in ("relu", None, keras.activations.softmax):
        yield ValueError, no_activation, two, {"activation": activation}


@ONE_BACKEND
def test_wrong_arguments_are_refused_each_with_its_reason():
    for error, message, members, arguments in refused():
        with pytest.raises(error, match=re.escape(message)):
            EnsembleModel(members, **arguments)
            pytest.fail(f"accepted: {members}, {arguments}")


@ONE_BACKEND
def test_members_whose_outputs_are_known_to_differ_are_refused_at_once():
    two = keras.Sequential([keras.Input((8,)), layers.Dense(2)])
    message = r"Members of an ensemble must give outputs of equal shapes, but one gives .*3.* and another .*2"
    with pytest.raises(ValueError, match=message):
        EnsembleModel([functional(), two])
    with pytest.raises(ValueError, match=message):
        EnsembleModel([functional(), Subclassed(), two])
    with pytest.raises(ValueError, match="must give outputs of equal shapes"):
        EnsembleModel([functional(), two_outputs()])


def test_members_whose_outputs_differ_are_refused_when_called():
    message = r"Members of an ensemble must give outputs of equal shapes, but one gives \(16, 3\) and another \(16, 1\)"
    ensemble = EnsembleModel([functional(), Subclassed(classes=1)])
    with pytest.raises(ValueError, match=message):
        ensemble(X)


@ONE_BACKEND
def test_members_with_other_output_names_are_refused():
    inputs = keras.Input((8,))
    renamed = keras.Model(inputs, {"kind": layers.Dense(3)(inputs), "length": layers.Dense(2)(inputs)})
    with pytest.raises(ValueError, match=r"(?s)must give outputs of equal shapes.*size.*length"):
        EnsembleModel([two_outputs(), renamed])(X)
    with pytest.raises(ValueError, match="must give outputs of equal shapes"):
        EnsembleModel([two_outputs(dict), two_outputs(list)])(X)


@ONE_BACKEND
def test_members_of_a_known_and_of_a_free_length_go_together():
    def tagger(length):
        return keras.Sequential([keras.Input((length, 4)), layers.Dense(3)])

    x = X.reshape(4, 8, 4)
    members = [tagger(8), tagger(None)]
    expected = weighted([called_on(member, x) for member in members], [0.5, 0.5])
    actual = called_on(EnsembleModel(members, average="logits"), x)
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE, atol=TOLERANCE)


def test_losses_and_metrics_are_paired_with_outputs_by_name_as_in_a_member():
    def member():
        inputs = keras.Input((8,))
        return keras.Model(inputs, [layers.Dense(1, name="one")(inputs), layers.Dense(2, name="two")(inputs)])

    y = [RNG.standard_normal((16, size)).astype("float32") for size in (1, 2)]
    members = [member(), member()]
    ensemble = EnsembleModel(members, average="outputs")
    ensemble.compile("sgd", {"two": "mse", "one": "mae"}, metrics={"two": ["mae"]})
    scores = ensemble.evaluate(X, y, verbose=0, return_dict=True)
    one, two = (
        np.mean(each, axis=0, dtype="float64") for each in zip(*(m.predict(X, verbose=0) for m in members), strict=True)
    )
    np.testing.assert_allclose(np.mean((two - y[1]) ** 2), scores["two_loss"], rtol=1e-5)
    np.testing.assert_allclose(np.abs(one - y[0]).mean(), scores["one_loss"], rtol=1e-5)
    np.testing.assert_allclose(np.abs(two - y[1]).mean(), scores["two_mae"], rtol=1e-5)
