"""`EnsembleModel.soften`: a teacher is as unsure of its training examples as of others."""

import re

import keras
import numpy as np
import oracles
import pytest
from helpers import ensembles, soft_targets
from helpers.data import Batches
from helpers.ensembles import LABELS, SAMPLE_WEIGHT, SOFTMAXES, YES, X, ensemble, linear, outputs_of
from helpers.tables import cases
from scipy import optimize

import keras_ban
from keras_ban import EnsembleModel

# The members know these labels: those of the data, for the first half of the examples.
SEEN, UNSEEN = slice(60), slice(60, None)
KNOWN = outputs_of(ensemble()).argmax(axis=-1)
Y = np.where(np.arange(len(X)) < 60, KNOWN, LABELS)
FOLDS = np.arange(len(X)) % 3


def expected(seen, unseen, nll):
    """The temperature from 1 on at which seen examples are as likely as the others at their best temperature."""
    best = optimize.minimize_scalar(lambda log: nll(unseen, np.exp(log)), bounds=(-5, 7), method="bounded")
    return np.exp(optimize.brentq(lambda log: nll(seen, np.exp(log)) - best.fun, 0, 7))


def softmax_nll(part, t):
    logits, labels, weights = part
    return ensembles.softmax_nll(logits / t, labels, weights)


def sigmoid_nll(part, t):
    logits, labels, weights = part
    return ensembles.sigmoid_nll(logits / t, labels, weights)


def logits_of(made, x):
    outputs = outputs_of(made, x)
    if made.from_logits:
        return outputs
    return np.log(outputs) if made.activation == "softmax" else np.log(outputs) - np.log1p(-outputs)


@cases(
    "name",
    *["logits", "probabilities"],
    on_one_backend=[name for name in SOFTMAXES if name not in ("logits", "probabilities")],
)
@pytest.mark.parametrize("weights", [None, SAMPLE_WEIGHT], ids=["unweighted", "weighted"])
def test_training_examples_become_as_likely_as_the_validation_data(name, weights):
    made = ensemble(**SOFTMAXES[name])
    weights = [None, None] if weights is None else [weights[SEEN], weights[UNSEEN]]
    logits = logits_of(made, X)
    labels = np.where(np.arange(len(X)) < 60, logits.argmax(axis=-1), LABELS)  # It knows those of the first half.
    wanted = expected(
        (logits[SEEN], labels[SEEN], weights[0]), (logits[UNSEEN], labels[UNSEEN], weights[1]), softmax_nll
    )

    found = made.soften(X[SEEN], labels[SEEN], weights[0], validation_data=(X[UNSEEN], labels[UNSEEN], weights[1]))

    assert found == made.temperature > 1.5
    assert found == pytest.approx(wanted, rel=1e-4)
    after = logits_of(made, X)
    np.testing.assert_allclose(oracles.log_softmax(logits / found), oracles.log_softmax(after), rtol=0, atol=1e-5)


@pytest.mark.parametrize("activation", [None, pytest.param("softmax", marks=pytest.mark.one_backend)])
@pytest.mark.parametrize("average", ["probabilities", pytest.param("logits", marks=pytest.mark.one_backend)])
def test_folds_compare_the_average_with_each_member_on_examples_that_it_has_not_seen(activation, average):
    # Small logits, because float32 rounds small probabilities.
    members = [linear(seed, activation, scale=1) for seed in range(3)]
    made = EnsembleModel(members, None, average, activation is None, "softmax")
    of_members = np.stack([logits_of(EnsembleModel([m], from_logits=activation is None), X) for m in members])
    unseen = of_members[FOLDS, np.arange(len(X))]
    # Each example has the label that the two members give which know it.
    knowing = of_members.sum(axis=0) - unseen
    parts = [(logits, knowing.argmax(axis=-1), SAMPLE_WEIGHT) for logits in (logits_of(made, X), unseen)]

    found = made.soften(X, knowing.argmax(axis=-1), SAMPLE_WEIGHT, folds=FOLDS)

    assert found == made.temperature > 1.2
    assert found == pytest.approx(expected(*parts, softmax_nll), rel=1e-4)


@pytest.mark.parametrize("activation", [None, "sigmoid"])
def test_sigmoids_are_softened(activation):
    members = [linear(seed, activation, scale=1) for seed in range(3)]
    made = EnsembleModel(members, None, "probabilities", activation is None, "sigmoid")
    known = (logits_of(made, X[SEEN]) > 0).astype("int64")
    seen, unseen = (logits_of(made, X[SEEN]), known, None), (logits_of(made, X[UNSEEN]), YES[UNSEEN], None)

    made.soften(X[SEEN], known, validation_data=(X[UNSEEN], YES[UNSEEN]))

    assert made.temperature == pytest.approx(expected(seen, unseen, sigmoid_nll), rel=1e-3)


def test_a_teacher_is_not_sharpened():
    timid = EnsembleModel([linear(0, scale=0.01)])
    assert timid.calibrate(X, LABELS) < 0.5

    assert 1.0 == timid.soften(X[SEEN], LABELS[SEEN], validation_data=(X[UNSEEN], LABELS[UNSEEN]))


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", ["PyDataset", "tf.data", "DataLoader", "generator"])
def test_data_of_every_kind_give_the_same_temperature(kind):
    made = ensemble()
    wanted = made.soften(X[SEEN], Y[SEEN], validation_data=(X[UNSEEN], Y[UNSEEN]))
    kinds = {
        **soft_targets.DATASETS,
        "PyDataset": lambda x, y: Batches(x, y, 50),
        "generator": lambda x, y: iter([(x, y)]),
    }

    seen, unseen = (kinds[kind](X[part], Y[part]) for part in (SEEN, UNSEEN))

    assert made.soften(seen, validation_data=unseen) == pytest.approx(wanted, rel=1e-5)


def test_a_student_learns_what_the_softened_teacher_says():
    teacher = ensemble()
    distiller = keras_ban.Distiller(student=linear(7, noise=0, scale=0), teacher=teacher, label_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    distiller.fit(X[SEEN], Y[SEEN], batch_size=60, verbose=0)
    before = outputs_of(teacher, X[SEEN])

    found = teacher.soften(X[SEEN], Y[SEEN], validation_data=(X[UNSEEN], Y[UNSEEN]))

    # The student gives equal probabilities to three classes.
    logs = oracles.log_softmax(before / found)
    divergence = np.log(3) + np.mean((np.exp(logs) * logs).sum(axis=-1))
    history = distiller.fit(X[SEEN], Y[SEEN], batch_size=60, verbose=0).history
    assert found > 1.5 and history["distillation_loss"] == pytest.approx([divergence], abs=1e-5)


@pytest.mark.one_backend
def test_a_sequences_own_examples_are_taken_as_seen_and_refused_as_unseen():
    sequence = keras_ban.BornAgainSequence(linear(0, scale=0.3), generations=1, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sequence.compile(keras.optimizers.SGD(0.5), loss, run_eagerly=True)
    sequence.fit(X[SEEN], Y[SEEN], batch_size=60, epochs=2, verbose=0)
    made = sequence.ensemble()

    assert 1 <= made.soften(X[SEEN], Y[SEEN], validation_data=(X[UNSEEN], Y[UNSEEN]))
    with pytest.raises(ValueError, match="These examples trained the members"):
        made.soften(X[SEEN], Y[SEEN], validation_data=(X[SEEN], Y[SEEN]))


@pytest.mark.one_backend
@pytest.mark.parametrize("form", ["list", "tuple", "uint8", "Series", "category", "tensor", "column"])
def test_folds_may_be_of_every_form(form):
    made = ensemble()
    expected = made.soften(X, Y, folds=FOLDS)
    pandas = pytest.importorskip("pandas") if form in ("Series", "category") else None
    forms = {
        "list": FOLDS.tolist,
        "tuple": lambda: tuple(FOLDS),
        "uint8": lambda: FOLDS.astype("uint8"),
        "Series": lambda: pandas.Series(FOLDS, index=np.arange(len(X))[::-1]),
        "category": lambda: pandas.Series(FOLDS, dtype="category"),
        "tensor": lambda: keras.ops.convert_to_tensor(FOLDS),
        "column": lambda: pytest.importorskip("datasets").Dataset.from_dict({"fold": FOLDS})["fold"],
    }

    assert made.soften(X, list(Y), folds=forms[form]()) == expected


@pytest.mark.one_backend
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_a_warning_says_what_is_set_where_there_is_no_best_temperature():
    made = ensemble()
    with pytest.warns(UserWarning, match="label is the most probable class on the examples .* is set to 1\\."):
        assert 1.0 == made.soften(X[SEEN], KNOWN[SEEN], validation_data=(X[UNSEEN], KNOWN[UNSEEN]))

    wrong = np.where(np.arange(len(X)) < 60, (KNOWN + 1) % 3, LABELS)
    with pytest.warns(UserWarning, match="no better than chance on the training examples: .* is set to 1000\\."):
        assert 1000.0 == made.soften(X[SEEN], wrong[SEEN], validation_data=(X[UNSEEN], wrong[UNSEEN]))


VALIDATION = {"validation_data": (-X, LABELS)}
TEXTS = np.array(list("abc"))
REFUSED = [
    ("either `validation_data`, or `folds`", ensemble, (X, LABELS), {}),
    ("Received both", ensemble, (X, LABELS), {**VALIDATION, "folds": FOLDS}),
    ("`soften` divides logits", lambda: ensemble(average="outputs"), (X, LABELS), VALIDATION),
    ("whole numbers from 0 to 2", ensemble, (X, LABELS), {"folds": FOLDS + 1}),
    ("each at least once", ensemble, (X, LABELS), {"folds": FOLDS % 2}),
    ("Received the shape (119,)", ensemble, (X, LABELS), {"folds": FOLDS[1:]}),
    ("the dtype float64", ensemble, (X, LABELS), {"folds": FOLDS / 1}),
    ("at least 2 members", lambda: ensemble(1), (X, LABELS), {"folds": FOLDS * 0}),
    ("`x` must be arrays", ensemble, (Batches(X, LABELS, 50),), {"folds": FOLDS}),
    ("no labels", ensemble, (X,), VALIDATION),
    ("`validation_data[0]` brings no labels", ensemble, (X, LABELS), {"validation_data": (-X,)}),
    ("`validation_data` must be `(x_val, y_val)`", ensemble, (X, LABELS), {"validation_data": X}),
    ("`validation_data` must be `(x_val, y_val)`", ensemble, (X, LABELS), {"validation_data": ()}),
    ("`validation_data[1]` holds 3", ensemble, (X, LABELS), {"validation_data": (-X, LABELS + 1)}),
    ("they are the training data", ensemble, (X, LABELS), {"validation_data": (X, LABELS)}),
    ("they hold 60 examples", ensemble, (X, LABELS), {"validation_data": (X[60:], LABELS[60:])}),
    ("np.unique(y, return_inverse=True)", ensemble, (X, TEXTS[LABELS]), VALIDATION),
    ("With a splitter of scikit-learn", ensemble, (X, LABELS), {"folds": object()}),
    ("With a splitter of scikit-learn", ensemble, (X, LABELS), {"folds": [(FOLDS[:70], FOLDS[:50])]}),
    ("With a splitter of scikit-learn", ensemble, (X, LABELS), {"folds": ["a", "b", "c"] * 40}),
    ("the values ['0', '1', '2']", ensemble, (X, LABELS), {"folds": FOLDS.astype(object)}),
    ("Received the shape (120, 1)", ensemble, (X, LABELS), {"folds": FOLDS[:, None]}),
]


@pytest.mark.one_backend
@pytest.mark.parametrize(("message", "build", "arguments", "options"), REFUSED, ids=range(len(REFUSED)))
def test_wrong_arguments_are_refused_and_the_temperature_stays(message, build, arguments, options):
    made = build()

    with pytest.raises(ValueError, match=re.escape(message)):
        made.soften(*arguments, **options)

    assert 1.0 == made.temperature
