"""`EnsembleModel.fit_weights`: the convex weights that it finds, against SciPy's; what runs; what it refuses."""

import itertools
import re

import keras
import numpy as np
import oracles
import pytest
from helpers import ensembles, soft_targets
from helpers.ensembles import CLASSES, INPUTS, LABELS, SAMPLE_WEIGHT, YES, X, ensemble, linear, outputs_of
from helpers.models import crossentropy
from helpers.tables import cases
from keras import layers, losses
from scipy import optimize

import keras_ban
from keras_ban import EnsembleModel
from keras_ban._src.data.fingerprints import model_fingerprint
from keras_ban._src.ensemble import simplex

ONE_HOT = np.eye(CLASSES)[LABELS]


def best(function, count):
    """The smallest value of a function of convex weights that SLSQP finds, from several starts."""
    found = []
    for start in (np.full(count, 1 / count), *(0.9 * np.eye(count) + 0.1 / count)):
        limits = {"bounds": [(0, 1)] * count, "constraints": {"type": "eq", "fun": lambda w: w.sum() - 1}}
        end = optimize.minimize(function, start, method="SLSQP", options={"ftol": 1e-14, "maxiter": 500}, **limits).x
        found.append(function(np.maximum(end, 0) / np.maximum(end, 0).sum()))
    return min(found)


def weighted(arrays, weights):
    return sum(weight * np.asarray(array, "float64") for array, weight in zip(arrays, weights, strict=True))


def regression(weight):
    """A linear member, whose outputs are `X` times a column."""
    model = keras.Sequential([keras.Input((INPUTS,)), layers.Dense(1)])
    model.set_weights([np.reshape(weight, (INPUTS, 1)), np.zeros(1)])
    return model


COLUMNS = np.random.default_rng(3).standard_normal((4, INPUTS))
TARGETS = X @ COLUMNS[:2].mean(axis=0) + 0.3 * np.random.default_rng(4).standard_normal(len(X))


def regressions():
    return [regression(column) for column in COLUMNS]


def mean_squared_error(outputs, labels, weights):
    return np.average((np.asarray(outputs)[:, 0] - labels) ** 2, weights=weights)


def brier(outputs, labels, weights):
    return np.average(((np.asarray(outputs) - np.eye(CLASSES)[labels]) ** 2).mean(axis=-1), weights=weights)


def nll(logits, labels, weights):
    return ensembles.softmax_nll(logits, labels, weights)


# The ensemble, its loss, the labels, and the loss of weights by the members' outputs, in float64.
TABLE = {
    "averaged probabilities": (
        lambda: ensemble(4),
        crossentropy(),
        LABELS,
        lambda outputs, w: np.log(weighted(map(oracles.softmax, outputs), w)),
        nll,
    ),
    "uncompiled": (
        lambda: ensemble(4),
        None,
        LABELS,
        lambda outputs, w: np.log(weighted(map(oracles.softmax, outputs), w)),
        nll,
    ),
    "softmaxes": (
        lambda: ensemble(4, "softmax"),
        "sparse_categorical_crossentropy",
        LABELS,
        lambda outputs, w: np.log(weighted(outputs, w)),
        nll,
    ),
    "averaged logits": (lambda: ensemble(4, average="logits"), crossentropy(), LABELS, weighted, nll),
    "outputs of softmaxes": (
        lambda: ensemble(4, "softmax", average="outputs"),
        losses.SparseCategoricalCrossentropy(),
        LABELS,
        lambda outputs, w: np.log(weighted(outputs, w)),
        nll,
    ),
    "sigmoids": (
        lambda: EnsembleModel([linear(seed, scale=1) for seed in range(4)], activation="sigmoid"),
        losses.BinaryCrossentropy(from_logits=True),
        YES,
        lambda outputs, w: (
            np.log(weighted(map(oracles.sigmoid, outputs), w))
            - np.log(weighted([oracles.sigmoid(-x) for x in outputs], w))
        ),
        ensembles.sigmoid_nll,
    ),
    "mean squared error": (
        lambda: EnsembleModel(regressions(), average="outputs"),
        "mse",
        TARGETS,
        weighted,
        mean_squared_error,
    ),
    "Brier score": (lambda: ensemble(4, "softmax"), losses.MeanSquaredError(), LABELS, weighted, brier),
}


@cases("name", "averaged probabilities", "mean squared error", on_one_backend=[*TABLE])
@pytest.mark.parametrize("sample_weight", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
def test_no_convex_weights_have_a_smaller_loss(name, sample_weight):
    build, loss, labels, average, score = TABLE[name]
    made = build()
    if loss is not None:
        made.compile(loss=loss)
    outputs = [outputs_of(member) for member in made.members]

    found = made.fit_weights(X, np.eye(CLASSES)[labels] if name == "Brier score" else labels, None, sample_weight)

    def value(weights):
        return score(average(outputs, weights), labels, sample_weight)

    assert found == made.member_weights
    assert 1.0 == pytest.approx(sum(found))
    assert min(found) >= 0
    assert value(found) == pytest.approx(best(value, 4), abs=1e-6)
    expected = average(outputs, found)
    actual = outputs_of(made)
    if name in ("softmaxes", "outputs of softmaxes"):
        actual = np.log(actual)
    assert score(expected, labels, None) == pytest.approx(score(actual, labels, None), abs=1e-5)


@pytest.mark.one_backend
def test_many_members_and_few_examples_have_the_best_weights_too():
    rng = np.random.default_rng(0)
    for count, size in ((20, 30), (12, 300), (2, 5), (1, 5)):
        likelihoods = rng.beta(0.4, 0.4, (size, count)) * 0.999 + 5e-4

        def value(weights, likelihoods=likelihoods):
            return -np.log(likelihoods @ weights).mean()

        found = simplex.minimize(value, count)

        # The gradient certifies the minimum of a convex function: no member lowers it.
        gain = (likelihoods / (likelihoods @ found)[:, None]).mean(axis=0).max() - 1
        assert gain < 1e-5


@pytest.mark.one_backend
def test_equal_members_have_convex_weights_and_the_same_result_each_time():
    def fitted():
        made = EnsembleModel([linear(0), linear(0), linear(1)])
        return made.fit_weights(X, LABELS)

    assert fitted() == fitted()
    assert 1.0 == pytest.approx(sum(fitted()))
    assert 1.0 == pytest.approx(sum(EnsembleModel([linear(0), linear(0)]).fit_weights(X, LABELS)))
    assert [1.0] == EnsembleModel([linear(0)]).fit_weights(X, LABELS)


def subsets(count, size):
    return [list(each) for each in itertools.combinations(range(count), size)]


@pytest.mark.one_backend
@pytest.mark.parametrize("most", [1, 2, 3, 5])
def test_at_most_so_many_members_are_selected_and_one_is_the_best(most):
    members = [linear(seed, scale=1, noise=1.5) for seed in range(5)]
    made = EnsembleModel(members)
    probabilities = [oracles.softmax(outputs_of(member)) for member in members]

    def value(weights):
        return ensembles.softmax_nll(np.log(weighted(probabilities, weights)))

    found = made.fit_weights(X, LABELS, max_members=most)

    def of_best_subset(chosen):
        return best(lambda some: value(np.bincount(chosen, some, 5)), len(chosen))

    lowest = min(of_best_subset(chosen) for chosen in subsets(5, most))
    assert np.count_nonzero(found) <= most
    # Greedy selection may miss the best pair, but not by much.
    assert value(found) == pytest.approx(lowest, abs=1e-6 if most in (1, 5) else 2e-2)
    chosen = np.flatnonzero(found)
    assert value(found) == pytest.approx(of_best_subset(chosen), abs=1e-6)


def test_a_member_of_weight_zero_does_not_run():
    calls = []

    class Noting(keras.Model):
        def call(self, inputs):
            calls.append(self.name)
            return inputs[:, :1] * 0.0

    made = EnsembleModel([regression(COLUMNS[0]), Noting(name="noting")], average="outputs")
    made.compile(loss="mse")
    made.predict(X, verbose=0)
    made.fit_weights(X, X @ COLUMNS[0])
    assert [1.0, 0.0] == made.member_weights
    calls.clear()

    np.testing.assert_allclose(X @ COLUMNS[0], outputs_of(made)[:, 0], rtol=0, atol=1e-5)

    assert [] == calls


# --- Where the weights take effect.


def test_steps_that_were_compiled_before_use_the_new_weights():
    made = EnsembleModel(regressions()[:2], average="outputs")
    holders = [made, EnsembleModel([made], average="outputs")]
    for holder in holders:
        holder.compile(loss="mse")
        holder.predict(X, verbose=0)

    # Members lose their weight, and get it back.
    for target in (COLUMNS[0], COLUMNS[1], 0.25 * COLUMNS[0] + 0.75 * COLUMNS[1]):
        made.fit_weights(X, X @ target)
        for holder in holders:
            np.testing.assert_allclose(X @ target, outputs_of(holder)[:, 0], rtol=0, atol=1e-4)
            assert holder.evaluate(X, X @ target, verbose=0) < 1e-6


def test_a_compiled_step_of_another_model_gives_nan_where_it_lacks_a_member():
    made = EnsembleModel(regressions()[:2], average="outputs")
    made.compile(loss="mse")
    inputs = keras.Input((INPUTS,))
    holder = keras.Model(inputs, made(inputs))
    holder.predict(X, verbose=0)
    made.fit_weights(X, X @ COLUMNS[0])
    np.testing.assert_allclose(X @ COLUMNS[0], outputs_of(holder)[:, 0], rtol=0, atol=1e-4)
    holder.compile()
    holder.predict(X, verbose=0)

    made.fit_weights(X, X @ COLUMNS[1])

    if keras.config.backend() != "torch":  # It compiles no steps.
        assert np.isnan(outputs_of(holder)).all()
        holder.compile()
    np.testing.assert_allclose(X @ COLUMNS[1], outputs_of(holder)[:, 0], rtol=0, atol=1e-4)


def test_a_distiller_whose_step_is_compiled_hears_other_members():
    teacher = EnsembleModel(regressions()[:2], [1, 0], average="outputs")
    teacher.compile(loss="mse")
    distiller = keras_ban.Distiller(
        student=regression(COLUMNS[1]), teacher=teacher, distillation_loss=losses.MeanSquaredError(), label_weight=0
    )
    distiller.compile(keras.optimizers.SGD(0.0))
    options = {"batch_size": len(X), "verbose": 0}
    before = distiller.fit(X, **options).history["loss"][0]

    teacher.fit_weights(X, X @ COLUMNS[1])

    assert before > 0.5
    assert distiller.fit(X, **options).history["loss"][0] < 1e-6


def test_weights_are_in_the_file(tmp_path):
    made = ensemble(4)
    made.fit_weights(X, LABELS, max_members=2)
    made.save(tmp_path / "ensemble.keras")

    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")

    assert made.member_weights == pytest.approx(loaded.member_weights, rel=1e-15)
    assert model_fingerprint(made) == model_fingerprint(loaded)
    np.testing.assert_array_equal(outputs_of(made), outputs_of(loaded))


@pytest.mark.one_backend
def test_soft_targets_from_before_are_refused():
    made = ensemble()
    kept = soft_targets.make(made, X)
    made.fit_weights(X, LABELS)
    distiller = keras_ban.Distiller(student=linear(9), teacher=made, label_weight=0)
    distiller.compile("sgd")

    with pytest.raises(ValueError, match="teacher"):
        distiller.fit(X, soft_targets=kept, verbose=0)


@pytest.mark.one_backend
def test_a_loss_of_ones_own_is_minimized():
    def cubes(y_true, y_pred):
        return keras.ops.abs(y_true - y_pred) ** 3

    made = EnsembleModel(regressions(), average="outputs")
    made.compile(loss=cubes)
    outputs = [outputs_of(member)[:, 0] for member in made.members]

    found = made.fit_weights(X, TARGETS)

    def value(weights):
        return (np.abs(weighted(outputs, weights) - TARGETS) ** 3).mean()

    assert value(found) == pytest.approx(best(value, 4), abs=1e-6)


def test_kinks_of_a_loss_cost_little():
    made = EnsembleModel(regressions(), average="outputs")
    made.compile(loss=losses.MeanAbsoluteError())
    outputs = np.concatenate([outputs_of(member) for member in made.members], axis=1)

    found = made.fit_weights(X, TARGETS)

    # Linear programming: the weights, and an upper bound of each error.
    size, eye = len(X), np.eye(len(X))
    lowest = optimize.linprog(
        np.r_[np.zeros(4), np.ones(size) / size],
        np.block([[outputs, -eye], [-outputs, -eye]]),
        np.r_[TARGETS, -TARGETS],
        np.r_[np.ones(4), np.zeros(size)][None],
        [1],
    ).fun
    assert lowest - 1e-9 <= np.abs(outputs @ found - TARGETS).mean() <= lowest + 5e-3


def test_the_temperature_is_set_to_one():
    made = ensemble(temperature=3.0)

    assert ensemble().fit_weights(X, LABELS) == made.fit_weights(X, LABELS)
    assert 1.0 == made.temperature


# --- What is refused.

MIXED = {"a": "mse", "b": "mse"}


def compiled(loss, **arguments):
    made = ensemble(**arguments)
    made.compile(loss=loss)
    return made


REFUSED = [
    ("weights for regression without a loss", lambda: ensemble(average="outputs"), (X, LABELS)),
    ("one loss", lambda: compiled(MIXED), (X, LABELS)),
    ("by its own name", lambda: compiled("crossentropy"), (X, LABELS)),
    ("`max_members` must be a whole number of at least 1 and less than 4", ensemble, (X, LABELS, 4)),
    ("`max_members` must be a whole number of at least 1", ensemble, (X, LABELS, 0)),
    ("`max_members` must be a whole number of at least 1", ensemble, (X, LABELS, 1.5)),
    ("`max_members` must be a whole number of at least 1", ensemble, (X, LABELS, True)),
    ("no labels", ensemble, (X,)),
    ("labels must lie in [0, 2]", ensemble, (X, LABELS + 1)),
    ("The loss 'mean_squared_error' is nan", lambda: compiled("mse", average="outputs"), (X, np.nan * ONE_HOT)),
    ("`sample_weight` must be finite, non-negative", ensemble, (X, LABELS, None, -SAMPLE_WEIGHT)),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("message", "build", "arguments"), REFUSED, ids=range(len(REFUSED)))
def test_wrong_arguments_are_refused_and_the_weights_stay(message, build, arguments):
    made = build()

    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        made.fit_weights(*arguments)

    assert [1 / 3] * 3 == made.member_weights
