"""Scores, the ensemble's row and `evaluate`, for all kinds of data and outputs."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import oracles
import pytest
from helpers.sequences import FIT, compiled
from helpers.tables import cases
from scipy import stats
from sklearn import metrics as sklearn_metrics

from keras_ban import BornAgainHistory, BornAgainSequence
from keras_ban._src.data.kinds import as_data
from keras_ban._src.history.loss_scores import LossScores, sign_flip_p_value
from keras_ban._src.history.scores import Scores
from keras_ban._src.losses.meaning import Meaning
from keras_ban._src.scoring.scorer import Scorer
from keras_ban._src.sequence.recipes import CompileArguments
from keras_ban.losses import KnowledgeDistillation

# So few examples that the permutation test tries all signs.
SIZE, COUNT = 5, 13
RNG = np.random.default_rng(0)
X = RNG.standard_normal((COUNT, 4)).astype("float32")
CLASSES = RNG.integers(0, 3, COUNT)
VALUES = RNG.standard_normal((COUNT, 2)).astype("float32")
WORDS = RNG.integers(1, 7, (COUNT, 5)) * (np.arange(5) < RNG.integers(1, 6, (COUNT, 1)))
TAGS = RNG.integers(0, 3, (COUNT, 5))
IMAGES = RNG.standard_normal((COUNT, 2, 3, 4)).astype("float32")
REGIONS = RNG.integers(0, 3, (COUNT, 2, 3))
WEIGHTS = RNG.integers(1, 5, COUNT).astype("float32")
LOGITS = {"from_logits": True}
SIGMOID = KnowledgeDistillation(activation="sigmoid")
MSE = keras.losses.MeanSquaredError()
SPARSE = keras.losses.SparseCategoricalCrossentropy(**LOGITS)


def dense(*units, activation=None, names=None):
    inputs = keras.Input((4,))
    outputs = [keras.layers.Dense(n, activation, name=f"out_{i}")(inputs) for i, n in enumerate(units)]
    if names:
        return keras.Model(inputs, dict(zip(names, outputs, strict=True)))
    return keras.Model(inputs, outputs if len(outputs) > 1 else outputs[0])


def tagger():
    embedding = keras.layers.Embedding(7, 4, mask_zero=True)
    return keras.Sequential([keras.Input((5,), dtype="int32"), embedding, keras.layers.Dense(3)])


def log_loss(labels, logits):
    return -np.take_along_axis(oracles.log_softmax(logits), labels[..., None], -1)[..., 0]


def top_2(labels, outputs):
    return np.mean([label in np.argsort(row)[-2:] for label, row in zip(labels, outputs, strict=True)])


def squares(labels, outputs):
    return ((outputs.astype("float64") - labels) ** 2).mean(-1)


def average_of_logits(members):
    return np.log(np.mean([oracles.softmax(each) for each in members], axis=0))


def average_of_binary_logits(members):
    yes = np.mean([oracles.sigmoid(each) for each in members], axis=0)
    return np.log(yes) - np.log1p(-yes)


def plain_average(members):
    return np.mean(members, axis=0)


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of a model.

    Attributes:
        labels: as the loss takes them.
        average: makes the ensemble's output of the members'.
        losses: of each example, by labels and output.
        right: whether each example is right, if the labels are classes.
        metrics: the values of metrics by name, functions of labels and output.
    """

    labels: np.ndarray
    average: Callable
    losses: Callable
    right: Callable | None = None
    metrics: dict = dataclasses.field(default_factory=dict)


def is_class(labels, outputs):
    return outputs.argmax(-1) == (labels.argmax(-1) if labels.shape == outputs.shape else labels)


KIND = Output(CLASSES, average_of_logits, log_loss, is_class, {"accuracy": lambda y, p: is_class(y, p).mean()})
AMOUNT = Output(VALUES, plain_average, squares, metrics={"mae": lambda y, p: np.abs(y - p).mean()})
NAMES, WITHOUT = ["kind", "amount"], dataclasses.replace
MASK = WORDS > 0


def tag_losses(counted):
    return lambda y, p: (log_loss(y, p) * counted).sum(-1) / counted.sum(-1)


@dataclasses.dataclass(frozen=True)
class Case:
    """A model with its data. `outputs` are by the names of scores, `None` for a single one."""

    model: Callable
    x: np.ndarray
    outputs: dict
    loss: object
    metrics: object = None
    distillation_loss: object = None
    weights: np.ndarray | None = None
    run_eagerly: bool = True

    @property
    def y(self):
        labels = [each.labels for each in self.outputs.values()]
        if None in self.outputs:
            return labels[0]
        return dict(zip(self.outputs, labels, strict=True)) if "kind" in self.outputs else tuple(labels)


ONE_HOT = np.eye(3, dtype="float32")[CLASSES]
YES = (CLASSES == 1).astype("float32")[:, None]
LABELS = RNG.integers(0, 2, (COUNT, 2)).astype("float32")
CASES = {
    "sparse": Case(
        lambda: dense(3),
        X,
        {None: WITHOUT(KIND, metrics={**KIND.metrics, "top_2": top_2})},
        SPARSE,
        ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top_2")],
    ),
    "one-hot": Case(
        lambda: dense(3),
        X,
        {None: WITHOUT(KIND, labels=ONE_HOT, losses=lambda y, p: log_loss(y.argmax(-1), p))},
        keras.losses.CategoricalCrossentropy(**LOGITS),
        ["accuracy"],
    ),
    "binary": Case(
        lambda: dense(1),
        X,
        {
            None: Output(
                YES,
                average_of_binary_logits,
                lambda y, p: np.logaddexp(0, -(2 * y - 1) * p.astype("float64"))[:, 0],
                lambda y, p: ((p > 0) == (y > 0))[:, 0],
                {"auc": lambda y, p: sklearn_metrics.roc_auc_score(y, p)},
            )
        },
        keras.losses.BinaryCrossentropy(**LOGITS),
        [keras.metrics.AUC(5_000, from_logits=True, name="auc")],
        SIGMOID,
    ),
    "multi-label": Case(
        lambda: dense(2),
        X,
        {
            None: Output(
                LABELS,
                average_of_binary_logits,
                lambda y, p: np.logaddexp(0, -(2 * y - 1) * p.astype("float64")).mean(-1),
                metrics={"auc": lambda y, p: sklearn_metrics.roc_auc_score(y, p)},
            )
        },
        keras.losses.BinaryCrossentropy(**LOGITS),
        [keras.metrics.AUC(5_000, multi_label=True, from_logits=True, name="auc")],
        SIGMOID,
    ),
    "regression": Case(lambda: dense(2), X, {None: AMOUNT}, MSE, ["mae"], MSE, WEIGHTS),
    "dict": Case(
        lambda: dense(3, 2, names=NAMES),
        X,
        # The meaning of several outputs may differ, so the ensemble averages them as they are.
        {"kind": WITHOUT(KIND, average=plain_average), "amount": AMOUNT},
        {"kind": SPARSE, "amount": MSE},
        {"kind": ["accuracy"], "amount": ["mae"]},
        {"kind": KnowledgeDistillation(), "amount": MSE},
    ),
    "list": Case(
        lambda: dense(3, 2),
        X,
        {"out_0": WITHOUT(KIND, average=plain_average), "out_1": AMOUNT},
        [SPARSE, MSE],
        [["accuracy"], ["mae"]],
        [KnowledgeDistillation(), MSE],
    ),
    "segmentation": Case(
        lambda: keras.Sequential([keras.Input((2, 3, 4)), keras.layers.Conv2D(3, 1)]),
        IMAGES,
        {None: Output(REGIONS, average_of_logits, lambda y, p: log_loss(y, p).mean((1, 2)), None, KIND.metrics)},
        SPARSE,
        ["accuracy"],
    ),
    "masked tokens": Case(
        tagger,
        WORDS,
        {
            None: Output(
                *(TAGS, average_of_logits, tag_losses(MASK)),
                metrics={"accuracy": lambda y, p: (is_class(y[MASK], p[MASK])).mean()},
            )
        },
        SPARSE,
        ["accuracy"],
        # Masks must reach the losses in compiled steps, too.
        run_eagerly=False,
    ),
    "weighted tokens": Case(
        lambda: keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(7, 3)]),
        WORDS,
        {None: Output(TAGS, average_of_logits, tag_losses(MASK + np.arange(5) * MASK))},
        SPARSE,
        weights=(MASK + np.arange(5) * MASK).astype("float32"),
    ),
    "ignored tokens": Case(
        lambda: keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(7, 3)]),
        WORDS,
        {None: Output(np.where(MASK, TAGS, -1), average_of_logits, lambda y, p: tag_losses(MASK)(np.abs(y), p))},
        keras.losses.SparseCategoricalCrossentropy(**LOGITS, ignore_class=-1),
    ),
}
_TRAINED = {}


def trained(name):
    """Generations of one step at rate 0, so that they differ by their initial weights. Each is made once."""
    if name not in _TRAINED:
        case = CASES[name]
        loss, optimizer = case.distillation_loss or KnowledgeDistillation(), keras.optimizers.SGD(0.0)
        arguments = {"optimizer": optimizer, "loss": case.loss, "metrics": case.metrics, "distillation_loss": loss}
        arguments["run_eagerly"] = case.run_eagerly
        sequence = compiled(case.model(), **arguments)
        data = (case.x, case.y) if case.weights is None else (case.x, case.y, case.weights)
        history = sequence.fit(case.x, case.y, **FIT, validation_data=data)
        _TRAINED[name] = sequence, history
    return _TRAINED[name]


# Kinds of data


class Rows(keras.utils.PyDataset):
    def __init__(self, *parts):
        super().__init__()
        self.parts = parts

    def __len__(self):
        return -(-COUNT // SIZE)

    def __getitem__(self, index):
        rows = slice(index * SIZE, (index + 1) * SIZE)
        return keras.tree.map_structure(lambda part: part[rows], self.parts)


class Examples:
    def __init__(self, *parts):
        self.parts = parts

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return keras.tree.map_structure(lambda part: part[index], self.parts)


def tf_data(*parts):
    return pytest.importorskip("tensorflow").data.Dataset.from_tensor_slices(parts).batch(SIZE)


def data_loader(*parts):
    return pytest.importorskip("torch").utils.data.DataLoader(Examples(*parts), batch_size=SIZE)


def grain(*parts):
    return pytest.importorskip("grain").MapDataset.source(Examples(*parts)).batch(SIZE)


def pandas(x, y, *weights):
    table = pytest.importorskip("pandas").DataFrame
    return table(x), y if y.ndim == 1 else table(y), *weights


def hugging_face(x, y, *weights):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"x": x.tolist(), "label": y.tolist()}), None, *weights


def arrays(*parts):
    return parts


KINDS = {each.__name__: each for each in (arrays, Rows, tf_data, data_loader, grain, pandas, hugging_face)}


def evaluated(sequence, kind, case):
    parts = (case.x, case.y) if case.weights is None else (case.x, case.y, case.weights)
    data = KINDS[kind](*parts)
    if not isinstance(data, tuple):
        return sequence.evaluate(data)
    x, y, weights = (*data, None)[:3]
    return sequence.evaluate(x, y, SIZE, sample_weight=weights)


# What is expected, in NumPy


def outputs_of(case, model):
    outputs = model.predict(case.x, verbose=0)
    if None in case.outputs:
        return {None: outputs}
    return outputs if isinstance(outputs, dict) else dict(zip(case.outputs, outputs, strict=True))


def assert_scored(case, scores, metrics, found, before, compared_with, prefix=""):
    """Whether scores and metrics of outputs, by name, are those of NumPy, SciPy and scikit-learn."""
    for name, output in case.outputs.items():
        one, y, p = scores if name is None else scores[name], output.labels, found[name]
        losses = output.losses(y, p)
        weights = WEIGHTS if case.weights is not None and case.weights.ndim == 1 else np.ones(COUNT)
        assert (COUNT, compared_with) == (one.examples, one.compared_with)
        assert (Scores if output.right else LossScores) is type(one)
        loss = losses.mean() if output.right else np.average(losses, weights=weights)
        assert (one.nll if output.right else one.loss) == pytest.approx(loss, rel=1e-5)  # float32
        if output.right:
            assert output.right(y, p).mean() == one.accuracy
        if before is not None and output.right:
            right, right_before = output.right(y, p), output.right(y, before[name])
            flips = (right & ~right_before).sum(), (right_before & ~right).sum()
            expected = stats.binomtest(int(flips[0]), int(sum(flips)), 0.5).pvalue if sum(flips) else 1.0
            assert (one.p_value, one.negative_flips) == (pytest.approx(expected), flips[1])
        elif before is not None:
            differences = weights * (losses - output.losses(y, before[name]))
            assert one.change == pytest.approx(differences.sum() / weights.sum(), rel=1e-4, abs=1e-6)  # float32
            assert one.p_value == pytest.approx(sign_flip_p_value(differences), abs=1e-3)
        if name is None and case.x is not WORDS and f"{prefix}loss" in metrics:
            assert metrics[f"{prefix}loss"] == pytest.approx((weights * losses).mean(), rel=1e-5)
        for metric, function in output.metrics.items():
            called = next(key for key in metrics if key in (f"{prefix}{metric}", f"{prefix}{name}_{metric}"))
            assert metrics[called] == pytest.approx(function(y, p), rel=1e-5, abs=2e-3 if metric == "auc" else 0)


def assert_history(case, history, models, prefix=""):
    found = [outputs_of(case, model) for model in models]
    average = {name: each.average([one[name] for one in found]) for name, each in case.outputs.items()}
    for generation, record in enumerate(history.records):
        compared = (found[generation - 1], generation - 1) if generation else (None, None)
        measured = record.metrics if prefix else record.evaluation
        assert_scored(case, record.scores, measured, found[generation], *compared, prefix)
    shows_all = type(history.ensemble) is Scores and prefix and case.metrics == ["accuracy"]
    if shows_all:
        assert {} == history.ensemble_metrics
        case = dataclasses.replace(case, outputs={None: dataclasses.replace(case.outputs[None], metrics={})})
    assert_scored(case, history.ensemble, history.ensemble_metrics, average, found[0], 0, prefix)
    assert [] == history.notes


EVERYWHERE = ["sparse", "dict", "masked tokens"]


@cases("name", *EVERYWHERE, on_one_backend=[name for name in CASES if name not in EVERYWHERE])
def test_fit_scores_every_kind_of_output(name):
    sequence, history = trained(name)

    assert_history(CASES[name], history, sequence.models, "val_")
    assert f"ensemble of {len(sequence.models)}" in history.summary()
    assert vars(BornAgainHistory.from_json(history.to_json())) == vars(history)


ON_ALL = [("sparse", "tf_data"), ("dict", "Rows")]
TABLE = [(name, kind) for name in CASES for kind in ("arrays", "Rows", "tf_data", "data_loader", "grain")]
TABLE += [(name, kind) for name in ("sparse", "regression") for kind in ("pandas", "hugging_face")][:-1]
TABLE += [("binary", "hugging_face")]
# Grain and torch stack lists of labels in their own ways.
TABLE = [pair for pair in TABLE if pair not in ON_ALL and pair != ("list", "grain")]


@cases("name, kind", *ON_ALL, on_one_backend=TABLE)
def test_evaluate_scores_every_kind_of_output_in_every_kind_of_data(name, kind):
    sequence, _ = trained(name)

    history = evaluated(sequence, kind, CASES[name])

    assert_history(CASES[name], history, sequence.models)
    columns = {key for record in history.records for key in record.evaluation}
    assert all(key in history.summary() for key in columns - {"loss", "accuracy"})
    assert set(history.ensemble_metrics) == columns


# What cannot be scored is told


class Shuffled(Rows):
    """Another order each time it is read."""

    def on_epoch_begin(self):
        order = RNG.permutation(COUNT)
        self.parts = keras.tree.map_structure(lambda part: part[order], self.parts)


class Augmented(Rows):
    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + RNG.standard_normal(x.shape).astype("float32") / 8, y


ORDER = "no test: examples cannot be paired, because they come in another order, or augmented, each time they are read"


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["sparse", "regression", "dict"])
def test_without_a_fixed_order_there_are_scores_and_an_ensemble_but_no_test(name):
    case, (sequence, _) = CASES[name], trained(name)
    history = sequence.evaluate(Shuffled(case.x, case.y))

    assert [ORDER] == history.notes
    assert ORDER in " ".join(history.summary().split())
    found = [outputs_of(case, model) for model in sequence.models]
    average = {key: each.average([one[key] for one in found]) for key, each in case.outputs.items()}
    case = dataclasses.replace(case, weights=None)
    rows = [(record.scores, record.evaluation, one) for record, one in zip(history.records, found, strict=True)]
    for scores, metrics, outputs in [*rows, (history.ensemble, history.ensemble_metrics, average)]:
        assert_scored(case, scores, metrics, outputs, None, None)


@pytest.mark.one_backend
def test_augmented_data_and_a_shuffled_loader_have_no_test_either():
    case, (sequence, _) = CASES["sparse"], trained("sparse")
    torch = pytest.importorskip("torch")
    loader = torch.utils.data.DataLoader(Examples(case.x, case.y), batch_size=SIZE, shuffle=True)

    for data in (Augmented(case.x, case.y), loader):
        history = sequence.evaluate(data)
        assert [ORDER] == history.notes
        assert history.ensemble.compared_with is history.records[1].scores.compared_with is None


@pytest.mark.one_backend
def test_a_loss_without_a_number_for_each_example_leaves_the_metrics_and_says_why():
    def whole(y, p):
        return keras.ops.mean(keras.ops.abs(y - p))

    sequence = compiled(dense(2), loss=whole, distillation_loss=MSE, metrics=["mae"])
    history = sequence.fit(X, VALUES, **FIT, validation_data=(X, VALUES))

    tested = sequence.evaluate(X, VALUES)

    average = plain_average([model.predict(X, verbose=0) for model in sequence.models])
    for each, name in ((history, "val_mae"), (tested, "mae")):
        assert [None, None, None] == [*(record.scores for record in each.records), each.ensemble]
        (note,) = each.notes
        assert note.startswith("no scores: the loss 'whole' gives values of shape ()")
        assert note[:60] in each.summary()
        assert each.ensemble_metrics[name] == pytest.approx(np.abs(VALUES - average).mean(), rel=1e-5)
        assert [name in record.measured for record in each.records] == [True, True]


@pytest.mark.one_backend
def test_a_metric_that_fails_on_the_ensemble_says_why():
    class Count(keras.metrics.Mean):
        made = 0

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            Count.made += 1
            self.number = Count.made

        def update_state(self, y_true, y_pred, sample_weight=None):
            if len(y_pred.shape) == 2 and y_pred.shape[0] == COUNT - 2 * SIZE:
                raise ValueError("not of three")
            super().update_state(keras.ops.mean(y_pred), sample_weight)

    sequence = compiled(dense(2), loss=MSE, distillation_loss=MSE, metrics=[Count(name="count")])
    sequence.fit(X[:10], VALUES[:10], batch_size=SIZE, verbose=0)
    history = sequence.evaluate(X, VALUES, SIZE)

    assert ["no metrics of averaged outputs or of these labels: not of three"] == history.notes
    assert {} == history.ensemble_metrics
    assert history.ensemble.loss == pytest.approx(
        squares(VALUES, plain_average([model.predict(X, verbose=0) for model in sequence.models])).mean(), rel=1e-5
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: iter([(X, CLASSES)]), "cannot be a generator or an iterator"),
        (lambda: tf_data(X, CLASSES).repeat(), "`x` has no end"),
        (lambda: tf_data(X), "The data bring no labels"),
    ],
)
def test_evaluate_refuses_data_that_it_cannot_read_for_each_generation(data, message):
    with pytest.raises(ValueError, match=message):
        trained("sparse")[0].evaluate(data())


# Teachers, penalties, files, controls


def test_a_generation_is_compared_with_the_ensemble_that_taught_it():
    sequence = compiled(
        *(dense(2), 2, keras.optimizers.SGD(0.0)), loss=MSE, distillation_loss=MSE, teach_from="ensemble"
    )
    history = sequence.fit(X, VALUES, **FIT, validation_data=Rows(X, VALUES))

    found = [model.predict(X, verbose=0) for model in sequence.models]
    differences = squares(VALUES, found[2]) - squares(VALUES, plain_average(found[:2]))
    scores = history.records[2].scores
    assert ("ensemble", pytest.approx(differences.mean(), rel=1e-4)) == (scores.compared_with, scores.change)
    assert scores.p_value == pytest.approx(sign_flip_p_value(differences), abs=1e-3)
    again = sequence.evaluate(X, VALUES).records[2].scores
    assert (again.compared_with, again.p_value) == (scores.compared_with, scores.p_value)
    assert again.loss == pytest.approx(scores.loss, rel=1e-6)
    assert "vs E" in history.summary()


@pytest.mark.one_backend
def test_the_ensembles_loss_has_no_penalties_which_a_note_says():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Dense(2, kernel_regularizer="l2")(inputs))
    sequence = compiled(model, loss=MSE, distillation_loss=MSE, metrics=["mae"])
    history = sequence.fit(X, VALUES, **FIT, validation_data=(X, VALUES))

    assert ["ensemble: its loss has no penalties of weights, which those of the generations contain"] == history.notes
    assert history.ensemble_metrics["val_loss"] == pytest.approx(history.ensemble.loss, rel=1e-5)
    assert history.records[0].metrics["val_loss"] > history.records[0].scores.loss


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["dict", "regression"])
def test_a_run_on_disk_keeps_the_scores_of_all_outputs(name, tmp_path):
    case, (_, expected) = CASES[name], trained(name)
    data = (case.x, case.y) if case.weights is None else (case.x, case.y, case.weights)
    arguments = {"loss": case.loss, "metrics": case.metrics, "distillation_loss": case.distillation_loss}

    def run(generations):
        sequence = compiled(case.model(), generations, keras.optimizers.SGD(0.0), directory=tmp_path, **arguments)
        return sequence.fit(case.x, case.y, **FIT, validation_data=data)

    first, again = run(1), run(1)
    loaded = BornAgainSequence.load(tmp_path)
    for history in (first, again, loaded.history):
        assert [record.scores for record in expected.records] == [record.scores for record in history.records]
        assert (expected.ensemble, expected.ensemble_metrics) == (history.ensemble, history.ensemble_metrics)
    # One generation more: the others are scored again, for the comparison.
    more = run(2)
    assert more.records[1].scores == expected.records[1].scores
    assert more.ensemble_metrics != expected.ensemble_metrics
    assert_history(case, loaded.evaluate(*data[:2], sample_weight=case.weights), loaded.models)


@pytest.mark.one_backend
def test_a_given_teacher_is_scored_under_the_names_of_its_outputs():
    case = CASES["list"]
    sequence = compiled(
        case.model(),
        loss={"out_0": SPARSE, "out_1": MSE},
        distillation_loss=case.distillation_loss,
        metrics=case.metrics,
    )
    history = sequence.fit(X, case.y, **FIT, validation_data=(X, case.y), teacher=case.model())

    assert set(history.records[0].metrics) == set(history.records[1].metrics) == set(history.ensemble_metrics)
    assert ["out_0", "out_1"] == list(history.records[0].scores)
    assert 0 == history.records[1].scores["out_0"].compared_with


@pytest.mark.one_backend
def test_controls_are_scored_too():
    sequence = compiled(dense(2), loss=MSE, distillation_loss=MSE, controls=["longer", "independent"], metrics=["mae"])
    history = sequence.fit(X, VALUES, **FIT, validation_data=Rows(X, VALUES))

    longer, independent = history.controls.records
    assert history.best_generation == longer.scores.compared_with
    assert longer.scores.loss == pytest.approx(longer.metrics["val_loss"], rel=1e-5)
    assert independent.scores.loss == pytest.approx(independent.metrics["val_loss"], rel=1e-5)
    theirs = history.controls.ensemble
    assert theirs.loss == pytest.approx(history.controls.ensemble_metrics["val_loss"], rel=1e-5)
    assert theirs.change == pytest.approx(theirs.loss - history.ensemble.loss, abs=1e-6)
    assert theirs.loss <= max(history.records[0].scores.loss, independent.scores.loss)  # The loss is convex.
    assert vars(BornAgainHistory.from_json(history.to_json())) == vars(history)


# Memory


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["segmentation", "masked tokens"])
def test_memory_holds_a_loss_for_each_example_but_no_outputs(name):
    case, (sequence, _) = CASES[name], trained(name)
    arguments = CompileArguments(optimizer="sgd", metrics=case.metrics, weighted_metrics=None, loss=case.loss)
    scorer = Scorer(as_data(Rows(case.x, case.y)), Meaning(True, "softmax", -1), SIZE, None, arguments)

    for place, model in enumerate(sequence.models):
        scorer.score(model, place - 1 if place else None)
    scorer.score_ensemble(sequence.models)

    held = [leaf for leaf in keras.tree.flatten(vars(scorer)) if isinstance(leaf, np.ndarray)]
    assert held
    assert all((COUNT,) == leaf.shape for leaf in held)
