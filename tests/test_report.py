"""The report of a history: its sections for each kind of history, and its numbers, compared with NumPy and SciPy."""

import dataclasses
import functools
import importlib.util
import itertools
import math
import re
import sys

import keras
import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.models import classifier, crossentropy
from helpers.pages import Page, external
from helpers.runs import fit, interrupt_in, sequence
from scipy import stats

from keras_ban import BornAgainHistory, BornAgainSequence, GenerationRecord
from keras_ban._src.history import intervals
from keras_ban._src.history.loss_scores import LossScores, loss_scores
from keras_ban._src.history.report import classes, examples, figures, page
from keras_ban._src.history.scores import Scores, score

NAMES = ["cat", "dog & <wolf>", "a very long name of a third class, which needs several lines"]


@pytest.fixture
def drawn():
    """Tests that ask for it draw figures, which takes most of the time."""


@pytest.fixture(autouse=True)
def without_figures(request, monkeypatch):
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(figures, "svg", lambda figure: "<svg></svg>")


def report(history, tmp_path, **options):
    """Write a report, check that it is whole and loads nothing, and return it as `Page`."""
    path = tmp_path / "report.html"
    history.report(path, **options)
    text = path.read_text(encoding="utf-8")
    assert [] == external(text)
    return Page(text)


# All kinds of histories


@functools.cache
def trained(kind):
    """A sequence of two generations of a kind of model, its data, and its directory."""
    keras.utils.set_random_seed(0)
    x, y = make_blobs()
    inputs, dense = keras.Input((8,)), keras.layers.Dense
    if kind == "classes":
        model, loss, metrics = classifier(), crossentropy(), ["accuracy"]
    elif kind == "binary":
        model, y = keras.Sequential([inputs, dense(1, activation="sigmoid")]), (y == 1).astype("float32")
        loss, metrics = keras.losses.BinaryCrossentropy(), ["accuracy"]
    elif kind == "regression":
        model, y = keras.Sequential([inputs, dense(1)]), x[:, :1] * 2
        loss, metrics = "mse", ["mae"]
    elif kind == "tokens":
        x, y = np.resize(np.arange(96), (24, 4)) % 5, np.resize(np.arange(1, 97), (24, 4)) % 5
        model = keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(5, 4), dense(5)])
        loss, metrics = crossentropy(), ["accuracy"]
    else:
        hidden = dense(8, activation="relu")(inputs)
        model = keras.Model(inputs, {"kind": dense(3, name="kind")(hidden), "size": dense(1, name="size")(hidden)})
        y = {"kind": y, "size": x[:, :1]}
        loss, metrics = {"kind": crossentropy(), "size": "mse"}, {"kind": ["accuracy"], "size": ["mae"]}
    made = BornAgainSequence(model, generations=1, seed=0)
    made.compile("adam", loss, metrics=metrics)
    made.fit(x, y, epochs=2, verbose=0, validation_data=(x, y))
    return made, x, y


def of_fit(kind):
    return trained(kind)[0].history


def of_evaluate(kind):
    made, x, y = trained(kind)
    return made.evaluate(x, y)


def of_file(kind):
    return BornAgainHistory.from_json(of_fit(kind).to_json())


def without_validation():
    return BornAgainHistory([GenerationRecord(0, epochs=2, logs={"loss": [2.0, 1.0]})])


OVER, TRAINING, CALIBRATION = "From generation to generation", "While training", "Calibration, before and after"
EACH, CONFUSIONS, ERRORS = (
    "Results of each class",
    "Which classes are taken for each other",
    "The most confident errors",
)
LOSSES, MISSING, CODE = "The examples with the largest loss", "Results of each class and each example", "Use the models"
OF_ANSWERS = [CALIBRATION, EACH, CONFUSIONS, ERRORS]
SECTIONS = [
    (functools.partial(of_fit, "classes"), [OVER, TRAINING, *OF_ANSWERS, CODE]),
    (functools.partial(of_evaluate, "classes"), [OVER, TRAINING, *OF_ANSWERS, CODE]),
    (functools.partial(of_file, "classes"), [OVER, TRAINING, CALIBRATION, MISSING, CODE]),
    (functools.partial(of_fit, "binary"), [OVER, TRAINING, *OF_ANSWERS, CODE]),
    (functools.partial(of_fit, "regression"), [OVER, TRAINING, LOSSES, CODE]),
    (functools.partial(of_file, "regression"), [OVER, TRAINING, CODE]),
    (functools.partial(of_evaluate, "tokens"), [OVER, TRAINING, LOSSES, CODE]),
    (
        functools.partial(of_fit, "outputs"),
        [OVER, TRAINING, *(f"{name}: output 'kind'" for name in OF_ANSWERS), f"{LOSSES}: output 'size'", CODE],
    ),
    (without_validation, [TRAINING, CODE]),
    (lambda: BornAgainHistory([GenerationRecord(0)]), [CODE]),
]


@pytest.mark.parametrize("make, expected", SECTIONS)
def test_each_kind_of_history_has_the_sections_of_what_is_known(make, expected, tmp_path, drawn):
    history = make()

    found = report(history, tmp_path).texts["h2"]

    # Students may agree with their teachers on all examples.
    left_out = re.compile("Where (students differ|generations disagree)")
    assert [f"All models on the {history.data} data", *expected] == [name for name in found if not left_out.match(name)]


def test_the_answers_of_a_sequence_are_those_that_its_models_predict():
    made, x, y = trained("classes")

    history = made.evaluate(x, y)

    outputs = [np.asarray(model.predict(x, verbose=0), "float64") for model in made.models]
    probabilities = [np.exp(each) / np.exp(each).sum(axis=-1, keepdims=True) for each in outputs]
    probabilities.append(np.mean(probabilities, axis=0))
    for scores, expected in zip([*(r.scores for r in history.records), history.ensemble], probabilities, strict=True):
        answers = scores.answers
        assert 3 == answers.classes
        np.testing.assert_array_equal(y, answers.labels)
        np.testing.assert_array_equal(expected.argmax(axis=-1), answers.predicted)
        np.testing.assert_allclose(answers.confidence, expected.max(axis=-1), rtol=1e-5)
        np.testing.assert_allclose(answers.of_label, expected[np.arange(len(y)), y], rtol=1e-4)


def test_a_run_that_is_resumed_has_the_answers_of_the_generations_before(tmp_path):
    data = make_blobs()
    with pytest.raises(InterruptedError):
        fit(sequence(tmp_path / "run", generations=1), data, callbacks=interrupt_in(1))
    made = sequence(tmp_path / "run", generations=1)
    fit(made, data)

    assert all(record.scores.answers is not None for record in made.history.records)
    assert tmp_path / "run" == made.history.directory
    text = report(made.history, tmp_path).text
    assert f"BornAgainSequence.load('{tmp_path}/run')" in text
    best = made.history.best_generation
    assert f"load_model('{tmp_path}/run/generation-0{best}/model.keras')" in text
    evaluated = BornAgainSequence.load(tmp_path / "run").evaluate(*data)
    assert (tmp_path / "run", 96) == (evaluated.directory, evaluated.validation_examples)


# Numbers


def predictions(count=400, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, count)
    logits = rng.standard_normal((3, count, classes)) + 1.5 * np.eye(classes)[labels]
    return labels, np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def history_of(labels, probabilities, **options):
    """A history of the first models, with the average of all as the ensemble. Generation 1 is chosen."""
    found = [score(labels, probabilities[0])]
    found += [score(labels, now, was, place) for place, (was, now) in enumerate(itertools.pairwise(probabilities))]
    records = [
        GenerationRecord(
            place,
            epochs=3,
            metrics={"val_loss": abs(place - 1.0)},
            logs={"loss": [2.0, 1.5, 1.0], "val_loss": [2.0, 1.5, 1.2], "val_accuracy": [0.2, 0.5, scores.accuracy]},
            scores=scores,
        )
        for place, scores in enumerate(found)
    ]
    ensemble = score(labels, np.mean(probabilities, axis=0), probabilities[0], 0)
    return BornAgainHistory(records, ensemble=ensemble, **options)


@pytest.mark.one_backend
def test_results_of_classes_are_those_of_a_plain_loop(tmp_path):
    labels, probabilities = predictions()
    names = ["zero", "one", "two", "three"]

    rows = report(history_of(labels, probabilities), tmp_path, class_names=names).table("class", "examples")

    shares = []
    for name, count, first, chosen, ensemble, interval, precision, error in rows:
        place = names.index(name)
        mine = labels == place
        found = [np.mean(each[mine].argmax(-1) == place) for each in (*probabilities[:2], probabilities.mean(axis=0))]
        assert [f"{share:.1%}" for share in found] == [first, chosen, ensemble]
        assert str(mine.sum()) == count
        answers = probabilities[1].argmax(-1)
        assert f"{np.mean(labels[answers == place] == place):.1%}" == precision
        low, high = stats.binomtest(int((answers[mine] == place).sum()), int(mine.sum())).proportion_ci(method="wilson")
        assert f"{low:.0%} to {high:.0%}" == interval
        wrong = [sum(1 for i in np.flatnonzero(mine) if answers[i] == other and other != place) for other in range(4)]
        assert f"{names[int(np.argmax(wrong))]} ({max(wrong)})" == error
        shares.append(found[1])
    assert sorted(shares) == shares and 4 == len(shares)


@pytest.mark.one_backend
def test_the_confusions_are_those_of_a_plain_loop(tmp_path):
    labels, probabilities = predictions()
    shown = report(history_of(labels, probabilities), tmp_path, class_names=["a", "b", "c", "d"])

    answers = probabilities[1].argmax(-1)
    expected = [
        [sum(1 for pair in zip(labels, answers, strict=True) if pair == (i, j)) for j in range(4)] for i in range(4)
    ]
    rows = shown.table("label \\ answer")
    assert [["abcd"[i], *(str(n or "") for n in counts)] for i, counts in enumerate(expected)] == rows
    pairs = shown.table("label", "wrong answer")
    for label, answer, count, of_ensemble, share in pairs:
        i, j = "abcd".index(label), "abcd".index(answer)
        averaged = probabilities.mean(axis=0).argmax(-1)
        assert str(expected[i][j]) == count and i != j
        assert str(int(((labels == i) & (averaged == j)).sum())) == of_ensemble
        assert f"{expected[i][j] / sum(expected[i]):.1%}" == share
    counts = [int(row[2]) for row in pairs]
    assert (
        sorted((n for i, row in enumerate(expected) for j, n in enumerate(row) if i != j and n), reverse=True) == counts
    )


@pytest.mark.one_backend
def test_the_most_confident_errors_have_their_file_names_those_of_the_ensemble_too(tmp_path):
    labels, probabilities = predictions()
    files = [f"photos/{place:03d} & <1>.jpg" for place in range(len(labels))]
    shown = report(history_of(labels, probabilities), tmp_path, file_names=files)

    found = [rows for rows in shown.tables if rows[0][:3] == ["example", "label", "answer"]]
    for rows, expected in zip(found, (probabilities[1], probabilities.mean(axis=0)), strict=True):
        wrong = [place for place in range(len(labels)) if expected[place].argmax() != labels[place]]
        wrong.sort(key=lambda place: -expected[place].max())
        lines = [
            [files[i], f"class {labels[i]}", f"class {expected[i].argmax()}", f"{expected[i].max():.1%}"] for i in wrong
        ]
        assert lines[: examples.MOST] == rows[1:]
    assert f"of {len(wrong)}" in shown.text


@pytest.mark.one_backend
def test_examples_that_students_have_right_or_wrong_alone_are_counted(tmp_path):
    labels, probabilities = predictions()
    history = history_of(labels, probabilities)

    shown = report(history, tmp_path)

    for before, record in enumerate(history.records[1:]):
        scores = record.scores
        now = f"Generation {before + 1} is"
        assert f"{now} right, where generation {before} was wrong: {scores.positive_flips} examples" in shown.text
        assert f"{now} wrong, where generation {before} was right: {scores.negative_flips} examples" in shown.text
    different = sum(1 for column in probabilities.argmax(-1).T if len(set(column)) > 1)
    assert f"The generations give different answers on {different} of 400 examples." in shown.text


@pytest.mark.one_backend
@pytest.mark.parametrize("right, count", [(0, 1), (1, 1), (0, 40), (37, 40), (40, 40), (1197, 5000)])
def test_intervals_of_shares_are_wilsons(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")

    np.testing.assert_allclose(intervals.of_share(right / count, count), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.one_backend
def test_intervals_of_means_are_those_of_a_normal_distribution():
    values = np.random.default_rng(0).exponential(size=50)

    expected = stats.norm.interval(0.95, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(intervals.of_mean(values), expected, rtol=1e-12)
    assert (None, None) == (intervals.of_mean([1.0]), intervals.of_mean([1.0, math.inf]))
    assert (None, None) == (intervals.of_share(0.5, 0), intervals.of_nll(Scores(9, 0.5, 0.5, 0.1)))
    labels, probabilities = predictions()
    nll = -np.log(probabilities[0][np.arange(400), labels])
    expected = stats.norm.interval(0.95, loc=nll.mean(), scale=stats.sem(nll))
    np.testing.assert_allclose(intervals.of_nll(score(labels, probabilities[0])), expected, rtol=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_bins_of_the_reliability_diagram_are_those_of_a_plain_loop_and_give_the_calibration_error(calibrated):
    labels, probabilities = predictions()
    scores = score(labels, probabilities[0])
    confidence = scores.answers.calibrated_confidence if calibrated else probabilities[0].max(-1)
    right = probabilities[0].argmax(-1) == labels

    found = figures.reliability_bins(scores.answers, calibrated)

    expected, error = [], 0.0
    for number in range(15):
        inside = [i for i in range(400) if number / 15 < confidence[i] <= (number + 1) / 15]
        if inside:
            sure, share = np.mean(confidence[inside]), np.mean(right[inside])
            low, high = stats.binomtest(int(right[inside].sum()), len(inside)).proportion_ci(method="wilson")
            expected.append((sure, share, low, high))
            error += len(inside) / 400 * abs(sure - share)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-12)
    assert error == pytest.approx(scores.calibrated_ece if calibrated else scores.ece, rel=1e-4)


@pytest.mark.one_backend
def test_the_largest_losses_are_named_without_examples_of_weight_0(tmp_path):
    losses, weights = np.array([0.5, 9.0, 2.0, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])
    records = [GenerationRecord(0, metrics={"val_loss": 1.0}, scores=loss_scores(losses, weights))]

    shown = report(BornAgainHistory(records), tmp_path, file_names=["a.csv", "b.csv", "c.csv", "d.csv"])

    assert [["c.csv", "2"], ["d.csv", "1"], ["a.csv", "0.5"]] == shown.table("example")


# Many classes


@pytest.mark.one_backend
def test_of_a_hundred_classes_the_block_that_is_confused_most_is_shown_with_names(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 10)
    block = rng.choice(100, classes.BLOCK, replace=False)
    answers = labels.copy()
    # Each of these is taken for the next; the others for anything, once.
    for place, other in zip(block, np.roll(block, 1), strict=True):
        answers[np.flatnonzero(labels == place)[:5]] = other
    answers[::10] = rng.integers(0, 100, 100)
    probabilities = np.full((3, 1000, 100), 0.001)
    probabilities[:, np.arange(1000), answers] = 0.901
    names = [f"class number {place} with quite a long name" for place in range(100)]

    shown = report(history_of(labels, probabilities), tmp_path, class_names=names)

    rows = shown.table("label \\ answer")
    assert {names[place] for place in block} == {row[0] for row in rows}
    for name, *counts in rows:
        inside = [sum((labels == names.index(name)) & (answers == place)) for place in sorted(block)]
        assert [*inside, 10 - sum(inside)] == [int(count or 0) for count in counts]
    # A short table of the classes, and the whole one, which opens.
    assert [classes.MOST_CLASSES, 100] == [
        len(rows) - 1 for rows in shown.tables if rows[0][:2] == ["class", "examples"]
    ]


@pytest.mark.one_backend
@pytest.mark.parametrize("labels, fits", [(100, True), (10, True), (12, False), ([3] * 1200, False)])
def test_a_confusion_matrix_that_fits_into_a_phone_has_no_hint_to_swipe_it(labels, fits, tmp_path):
    labels = np.array(labels if isinstance(labels, list) else np.arange(labels).repeat(3))
    count = max(4, labels.max() + 1)
    probabilities = np.full((2, len(labels), count), 0.1 / count)
    probabilities[:, np.arange(len(labels)), labels] = 0.9

    report(history_of(labels, probabilities), tmp_path, class_names=[str(each) for each in range(count)])

    html = (tmp_path / "report.html").read_text()
    (before,) = re.findall(r"<h3>Answers of generation [^<]*</h3>(.*?)<div", html, re.DOTALL)
    assert ("" if fits else '<p class="hint">Swipe the table sideways for all columns.</p>') == before


@pytest.mark.one_backend
@pytest.mark.parametrize("seed", range(5))
def test_the_most_confused_classes_begin_with_the_worst_pair_and_are_joined_greedily(seed):
    matrix = np.random.default_rng(seed).integers(0, 20, (12, 12))
    wrong = {(i, j): matrix[i, j] + matrix[j, i] for i in range(12) for j in range(12) if i != j}

    block = list(max(wrong, key=wrong.get))
    while len(block) < 5:
        block.append(max(set(range(12)) - set(block), key=lambda new: sum(wrong[new, old] for old in block)))
    assert sorted(block) == classes.most_confused(matrix, 5)
    assert list(range(12)) == classes.most_confused(matrix, 20)
    # Without an error, any classes.
    assert 5 == len(set(classes.most_confused(np.diag(matrix.diagonal()), 5)))


# Texts, images, arguments


@pytest.mark.one_backend
def test_names_and_titles_are_shown_as_they_are(tmp_path):
    labels, probabilities = predictions(40, 3)
    history = history_of(labels, probabilities, data='"<b>"')
    for record in history.records:
        record.logs["val_</script><$x$>"] = [1.0]

    shown = report(history, tmp_path, title="<script>alert(1)</script> \udcff", class_names=NAMES)

    assert ["<script>alert(1)</script> \\udcff"] == shown.texts["h1"] == shown.texts["title"]
    assert NAMES[0] in shown.text and NAMES[1] in shown.text and NAMES[2] in shown.text
    assert 'All models on the "<b>" data' in shown.text
    assert history == BornAgainHistory.from_json(
        re.search(r'id="history">(.*?)</script>', (tmp_path / "report.html").read_text(), re.DOTALL)[1]
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "shape, kind, high",
    [((8, 8), "uint8", 255), ((8, 8, 3), "float32", 1.0), ((8, 8, 4), "int64", 255), ((300, 200, 1), "float64", 1e4)],
)
def test_images_of_any_range_stand_beside_the_answers(shape, kind, high, tmp_path):
    pytest.importorskip("PIL")
    labels, probabilities = predictions(40, 3)
    images = (np.random.default_rng(0).random((40, *shape)) * high).astype(kind)

    shown = report(history_of(labels, probabilities), tmp_path, images=images)

    sources = [value for name, value in shown.attributes if name == "src"]
    assert sources and all(re.match("data:image/(png|jpeg);base64,", source) for source in sources)
    assert shown.texts["h2"].count("The most confident errors") == 1


@pytest.mark.one_backend
def test_images_keep_their_colours():
    image = np.zeros((1, 2, 2, 3))
    image[0, 0, 0], image[0, 1, 1] = (1.0, 0.5, 0.0), (0.25, 0.0, 1.0)

    scaled = examples.as_images(image, 1)[0]
    centred = examples.as_images(2 * image - 1, 1)[0]

    np.testing.assert_array_equal([[255, 128, 0], [64, 0, 255]], [scaled[0, 0], scaled[1, 1]])
    np.testing.assert_array_equal(scaled, centred)
    np.testing.assert_array_equal(scaled, examples.as_images(255 * image, 1)[0])


WRONG = [
    ({"class_names": ["a", "b"]}, "`class_names` must have a name for each of the 3 classes, received 2 names"),
    ({"class_names": {"kind": NAMES}}, "`class_names` must be a list of the names of classes"),
    ({"file_names": ["a"]}, "`file_names` must hold one name for each of the 40 examples, received 1"),
    ({"images": np.zeros((39, 8, 8))}, "`images` must hold one image for each of the 40 examples, received 39"),
    ({"images": np.zeros((40, 8))}, r"`images` must hold numbers of the shape .* received the shape \(40, 8\)"),
    ({"images": np.zeros((40, 3, 8, 8))}, "`images` must hold numbers of the shape"),
    ({"images": np.full((40, 8, 8), "x")}, "`images` must hold numbers"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize("options, message", WRONG)
def test_names_and_images_that_do_not_fit_are_refused_before_anything_is_written(options, message, tmp_path):
    history = history_of(*predictions(40, 3))

    with pytest.raises(ValueError, match=message):
        history.report(tmp_path / "report.html", **options)

    assert [] == list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_names_need_examples_that_are_known_and_in_order(tmp_path):
    labels, probabilities = predictions(40, 3)
    stored = BornAgainHistory.from_json(history_of(labels, probabilities).to_json())
    shuffled = history_of(labels, probabilities)
    shuffled.records[1].scores = score(labels[::-1], probabilities[1, ::-1])

    for history, message in ((stored, "was read from a file"), (shuffled, "another order each time")):
        with pytest.raises(ValueError, match=f"`file_names` .*{message}"):
            history.report(tmp_path / "report.html", file_names=["x"] * 40)
    with pytest.raises(ValueError, match="`class_names` .*was read from a file"):
        stored.report(tmp_path / "report.html", class_names=NAMES)
    with pytest.raises(ValueError, match="`class_names` must be a list"):
        BornAgainHistory([GenerationRecord(0, scores=LossScores(9, 0.5))]).report(tmp_path / "a", class_names=NAMES)
    with pytest.raises(ValueError, match="nothing to report: no generation is recorded"):
        BornAgainHistory().report(tmp_path / "report.html")
    with pytest.raises(TypeError, match="`path` must be a path"):
        stored.report(7)
    assert "Where students differ" not in report(shuffled, tmp_path).text


def test_data_in_another_order_each_time_is_reported_without_comparisons(tmp_path):
    made, x, y = trained("classes")
    rng = np.random.default_rng(0)

    class Shuffled(Batches):
        def __getitem__(self, index):
            rows = rng.permutation(len(self.x))[:32]
            return self.x[rows], self.y[rows]

    history = made.evaluate(Shuffled(x, y))

    assert EACH in report(history, tmp_path).texts["h2"]
    with pytest.raises(ValueError, match="came in another order each time"):
        history.report(tmp_path / "report.html", file_names=["x"] * 96)


@pytest.mark.one_backend
def test_the_same_history_gives_the_same_report(tmp_path, drawn):
    history = history_of(*predictions(40, 3))

    history.report(tmp_path / "first.html")
    history.report(tmp_path / "second.html")

    text = (tmp_path / "first.html").read_text()
    assert text == (tmp_path / "second.html").read_text()
    # Three scores over the generations, two curves, calibration before and after.
    assert 7 == text.count("<svg")
    identities = re.findall(r' id="([^"]*)"', re.sub(r"(?s)<defs>.*?</defs>", "", text))
    assert len(set(identities)) == len(identities)


@pytest.mark.one_backend
def test_many_generations_and_metrics_of_any_form_are_drawn(tmp_path, drawn):
    rng = np.random.default_rng(0)
    logs = {"val_loss": [1.0, math.inf, math.nan], "val_each": [[0.5, 0.25]] * 3, "val_late": [0.5]}
    records = [GenerationRecord(n, metrics={"val_loss": rng.random()}, logs=logs) for n in range(30)]

    report(BornAgainHistory(records), tmp_path)

    axis = BornAgainHistory(records).plot()[-1]
    assert len([line for line in axis.lines if not line.get_label().startswith("_")]) <= 3
    # The monitored value, and the two metrics of one value for each epoch.
    assert 3 == (tmp_path / "report.html").read_text().count("<svg")


@pytest.mark.one_backend
def test_without_scipy_no_significance_is_claimed(tmp_path, monkeypatch):
    history = history_of(*predictions(40, 3))
    assert "McNemar's exact test" in report(history, tmp_path).text
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    text = report(history, tmp_path).text

    assert "McNemar" not in text and "95% interval" in text and "percentage points against generation 0." in text


@pytest.mark.one_backend
def test_without_matplotlib_the_extra_is_named_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)

    with pytest.raises(ImportError, match=r'report needs matplotlib: `pip install "keras-ban\[plot\]"`'):
        without_validation().report(tmp_path / "report.html")

    assert [] == list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_a_report_replaces_an_older_one_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    history = history_of(*predictions(40, 3))
    history.report(path, title="first")
    before = path.read_text()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, pytest.raises(OSError, match="No space left"):
        patched.setattr("os.replace", full)
        history.report(path, title="second")

    assert (before, ["report.html"]) == (path.read_text(), [each.name for each in tmp_path.iterdir()])
    history.report(path, title="second")
    assert "second" in path.read_text()


@pytest.mark.one_backend
def test_more_sections_are_shown_at_the_end(tmp_path):
    details = {"Data": ["7 files were <skipped>."], "Options": "epochs = 3\nname = '<x>'"}

    page.write(tmp_path / "report.html", without_validation(), details=details)

    shown = Page((tmp_path / "report.html").read_text())
    assert ["Data", "Options", CODE] == shown.texts["h2"][-3:]
    assert "7 files were <skipped>." in shown.texts["p"] and "epochs = 3\nname = '<x>'" in shown.texts["pre"]


@pytest.mark.one_backend
def test_answers_are_neither_stored_nor_compared():
    history = history_of(*predictions(40, 3))

    assert history == BornAgainHistory.from_json(history.to_json())
    assert "answers" not in history.to_json() and "answers" not in dataclasses.asdict(history.ensemble)
