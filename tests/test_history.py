"""The history of a sequence: its figures, its table, its picture, and its plain data."""

import builtins
import dataclasses
import html.parser
import importlib.util
import json
import math
import re

import numpy as np
import oracles
import pandas as pd
import pytest
from scipy import optimize, stats

from keras_ban import BornAgainHistory, GenerationRecord
from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.scores import Scores, better, expected_calibration_error, score

pytestmark = pytest.mark.one_backend

# Five examples, three classes: most probable are the classes 0, 1, 2, 2, 0.
LABELS = np.array([0, 1, 2, 0, 1])
PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.25, 0.25, 0.5], [0.6, 0.3, 0.1]])
# Most probable are 0, 0, 2, 0, 0: the second is won, the fourth lost, the last wrong in both.
PROBABILITIES_BEFORE = np.array([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1], [0.0, 0.2, 0.8], [0.7, 0.2, 0.1], [0.4, 0.3, 0.3]])


def random_predictions(examples=500, classes=4, seed=0):
    """Labels, whether the most probable class is right, and that class's probability."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(classes, 0.4), examples)
    labels = rng.integers(0, classes, examples)
    return labels, probabilities


def scores_of(right=90, won=None, lost=None, examples=100, compared_with=0, **figures):
    figures = {"nll": 0.25, "ece": 0.03, **figures}
    if won is None:
        return Scores(examples=examples, accuracy=right / examples, **figures)
    compared = {"compared_with": compared_with, "positive_flips": won, "negative_flips": lost, "agreement": 0.8}
    return Scores(examples=examples, accuracy=right / examples, **figures, **compared)


def history_of(*scores, values=None, **arguments):
    """A history with a record for each of `scores`; `values` are those of `val_loss`."""
    values = values or [1.0 - 0.1 * i for i in range(len(scores))]
    records = [
        GenerationRecord(
            generation=i,
            seed=100 + i,
            epochs=2,
            seconds=1.5,
            metrics={"val_loss": value, "val_accuracy": getattr(each, "accuracy", 0.9)},
            logs={"loss": [2.0, 1.0], "val_loss": [value + 1, value]},
            scores=each,
        )
        for i, (each, value) in enumerate(zip(scores, values, strict=True))
    ]
    return BornAgainHistory(records, **arguments)


ALL = 200  # Columns of a text that holds every table.


def row_of(summary, label):
    return next(line for line in summary.splitlines() if line.strip().startswith(label))


def without(monkeypatch, package):
    """Let the package seem not installed, however it is looked for."""
    real_import, real_find_spec = builtins.__import__, importlib.util.find_spec

    def refusing_import(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real_import(name, *args, **kwargs)

    def blind_find_spec(name, *args):
        return None if name.split(".")[0] == package else real_find_spec(name, *args)

    monkeypatch.setattr(builtins, "__import__", refusing_import)
    monkeypatch.setattr(importlib.util, "find_spec", blind_find_spec)


# Figures


def test_a_tiny_example_is_scored_as_by_hand():
    scores = score(LABELS, PROBABILITIES, PROBABILITIES_BEFORE, compared_with=7)

    assert 5 == scores.examples
    assert 3 / 5 == scores.accuracy
    assert 7 == scores.compared_with
    assert 3 / 5 == scores.agreement
    assert 1 == scores.positive_flips
    assert 1 == scores.negative_flips
    assert 0.0 == scores.change
    # The labels' probabilities are 0.9, 0.7, 0.6, 0.25, 0.3; summed in another order than NumPy's, hence a last bit.
    expected = -sum(math.log(p) for p in (0.9, 0.7, 0.6, 0.25, 0.3)) / 5
    assert scores.nll == pytest.approx(expected, rel=1e-12)
    # 0.9, 0.7 and 0.5 are alone in their bins; the two of 0.6, one right and one wrong, share theirs.
    assert scores.ece == pytest.approx((0.1 + 0.3 + 2 * 0.1 + 0.5) / 5, rel=1e-12)


def test_the_first_model_is_compared_with_nothing():
    scores = score(LABELS, PROBABILITIES)

    names = ("compared_with", "agreement", "positive_flips", "negative_flips", "change", "p_value")
    assert [None] * 6 == [getattr(scores, name) for name in names]


def test_a_label_held_for_impossible_costs_much_but_not_infinity():
    scores = score(np.array([0]), np.array([[0.0, 1.0]]))

    assert scores.nll == pytest.approx(30 * math.log(10))  # 1e-30, the smallest probability that counts


def test_all_figures_are_python_numbers():
    scores = score(LABELS, PROBABILITIES.astype("float32"), PROBABILITIES_BEFORE, compared_with=0)

    assert {int, float} == {type(value) for value in dataclasses.asdict(scores).values()}


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
@pytest.mark.parametrize("seed", range(3))
def test_the_calibration_error_is_that_of_a_plain_loop_over_bins(seed, bins):
    labels, probabilities = random_predictions(seed=seed)
    right, confidence = probabilities.argmax(-1) == labels, probabilities.max(-1)

    expected = 0.0
    for number in range(bins):
        inside = [i for i, c in enumerate(confidence) if number / bins < c <= (number + 1) / bins]
        if inside:
            accuracy = sum(right[i] for i in inside) / len(inside)
            expected += len(inside) / len(labels) * abs(accuracy - sum(confidence[i] for i in inside) / len(inside))

    # float64 sums of 500 numbers, in another order.
    assert expected_calibration_error(right, confidence, bins) == pytest.approx(expected, rel=1e-10)


def test_a_perfectly_calibrated_model_has_no_calibration_error():
    right = np.array([True, True, True, False] * 10)

    assert expected_calibration_error(right, np.full(40, 0.75)) == pytest.approx(0.0, abs=1e-15)  # float64's rounding


def test_a_confidence_on_the_edge_of_two_bins_belongs_to_the_lower():
    # Both lie in (0.25, 0.5]: |(1 + 0) - (0.5 + 0.375)| / 2.
    assert 0.0625 == expected_calibration_error(np.array([True, False]), np.array([0.5, 0.375]), bins=4)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_confidences_at_the_ends_belong_to_a_bin(confidence):
    assert 1.0 == expected_calibration_error(np.full(4, confidence == 0.0), np.full(4, confidence))


def test_the_nll_is_the_crossentropy_of_a_plain_loop():
    labels, probabilities = random_predictions()

    expected = sum(-math.log(max(p[label], 1e-30)) for p, label in zip(probabilities, labels, strict=True)) / 500

    assert score(labels, probabilities).nll == pytest.approx(expected, rel=1e-10)  # summed in another order


def test_flips_and_agreement_are_those_of_a_plain_loop():
    labels, probabilities = random_predictions()
    _, before = random_predictions(seed=1)

    scores = score(labels, probabilities, before, compared_with=0)

    triples = list(zip(labels, probabilities.argmax(-1), before.argmax(-1), strict=True))
    won = sum(now == label and then != label for label, now, then in triples)
    lost = sum(now != label and then == label for label, now, then in triples)
    assert won == scores.positive_flips
    assert lost == scores.negative_flips
    assert sum(now == then for _, now, then in triples) / 500 == scores.agreement
    accuracy_before = sum(then == label for label, _, then in triples) / 500
    assert scores.change == pytest.approx(scores.accuracy - accuracy_before, abs=1e-12)


# McNemar's test


@pytest.mark.parametrize(
    ("won", "lost", "expected"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (5, 5, 1.0),
        (10, 2, 2 * (1 + 12 + 66) / 2**12),
        (6, 0, 2 / 2**6),
        (0, 5, 2 / 2**5),
        (3, 8, 2 * (1 + 11 + 55 + 165) / 2**11),
    ],
)
def test_the_p_value_is_the_two_tails_of_a_fair_coin(won, lost, expected):
    # SciPy's binomial sums are good to about 1e-12.
    assert scores_of(won=won, lost=lost).p_value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("won", "lost"), [(10, 2), (7, 0), (100, 130)])
def test_the_p_value_does_not_ask_which_of_the_two_is_better(won, lost):
    assert scores_of(won=won, lost=lost).p_value == pytest.approx(scores_of(won=lost, lost=won).p_value, rel=1e-9)


def test_the_p_value_without_scipy_names_the_extra(monkeypatch):
    without(monkeypatch, "scipy")

    with pytest.raises(ImportError, match=r"needs SciPy: `pip install \"keras-ban\[plot\]\"`"):
        _ = scores_of(won=10, lost=2).p_value


# The best generation


@pytest.mark.parametrize(
    ("values", "smallest", "largest"),
    [
        ([0.5, 0.9, 0.1], 2, 1),
        ([0.5, 0.5, 0.5], 0, 0),  # Of equals, the earliest.
        ([math.nan, 0.5], 1, 1),
        ([0.5, math.nan], 0, 0),
        ([math.inf, 3.0], 1, 0),
    ],
)
def test_the_best_generation_has_the_smallest_or_the_largest_number(values, smallest, largest):
    for mode, best in [("min", smallest), ("max", largest)]:
        assert best == history_of(*[None] * len(values), values=values, mode=mode).best_generation


def test_a_generation_that_was_not_measured_is_not_the_best():
    history = history_of(None, None, None)
    history.records[2].metrics = {}

    assert 1 == history.best_generation


def test_where_nothing_has_the_monitored_value_the_known_ones_are_named():
    history = history_of(None, None, monitor="val_f1")

    with pytest.raises(ValueError, match=r"'val_f1'.*known: \['val_accuracy', 'val_loss'\].*`validation_data`"):
        _ = history.best_generation


@pytest.mark.parametrize("history", [BornAgainHistory(), history_of(None, values=[math.nan])])
def test_there_is_no_best_generation_among_none_nor_among_nan(history):
    with pytest.raises(ValueError, match="There is no best generation"):
        _ = history.best_generation


@pytest.mark.parametrize(
    ("mode", "value", "best", "expected"),
    [
        ("min", 1.0, 2.0, True),
        ("min", 2.0, 2.0, False),
        ("max", 3.0, 2.0, True),
        ("max", 1.0, 2.0, False),
        ("min", math.nan, 2.0, False),
        ("max", math.nan, 2.0, False),
        ("min", 2.0, math.nan, True),
        ("max", 2.0, math.nan, True),
        ("min", math.nan, math.nan, False),
    ],
)
def test_better_is_strict_and_anything_is_better_than_nan(mode, value, best, expected):
    assert expected is better(mode, value, best)


# The table


def test_the_table_has_a_row_for_each_generation_and_one_for_the_ensemble():
    history = history_of(scores_of(90), scores_of(93, 5, 2), ensemble=scores_of(95, 6, 1))

    summary = history.summary(ALL)

    assert "Generations on validation data (100 examples)" in summary
    # val_loss, epochs and seconds are the last.
    assert ["90.00%", "0.2500", "3.00%", "1", "2", "1.5"] == row_of(summary, "0").split()[2:]
    # Two tails of 7 flips: 2 * (1 + 7 + 21) / 128 = 0.453.
    expected = ["93.00%", "0.2500", "3.00%", "+3.00", "vs", "0", "0.453", "better", "(chance?)", "80.0%", "2"]
    assert [*expected, "0.9", "2", "1.5"] == row_of(summary, "1").split()[2:]
    # 2 * (1 + 7) / 128 = 0.125; the epochs and seconds are those of all.
    expected = ["95.00%", "0.2500", "3.00%", "+5.00", "vs", "0", "0.125", "better", "(chance?)", "80.0%", "1"]
    assert [*expected, "4", "3.0"] == row_of(summary, "ensemble of 2").split()[3:]


def distilled(*scores, **arguments):
    """A history whose last record is that of the ensemble's student."""
    history = history_of(*scores, **arguments)
    history.records[-1].distilled = True
    return history


def test_the_ensembles_student_is_told_from_the_generations():
    student = scores_of(94, 1, 2, compared_with="ensemble")
    history = distilled(scores_of(90), scores_of(93, 5, 2), student, ensemble=scores_of(95, 6, 1))

    summary = history.summary(ALL)

    expected = ["2", "distilled", "*", "94.00%", "0.2500", "3.00%", "-1.00", "vs", "E", "1.000"]
    assert expected == row_of(summary, "2").split()[:10]
    # Two members, and the seconds of two.
    assert "3.0" == row_of(summary, "ensemble of 2").split()[-1]
    assert "\ndistilled: no generation, but a student of the ensemble of generations 0 to 1" in summary
    assert "\nthe distilled student did not beat its teacher, the ensemble of generations 0 to 1" in summary
    assert history.records[:2] == history.members
    axis, *_, curves = history.plot()
    assert [2] == list(axis.lines[2].get_xdata())
    assert ["single model", "ensemble of 2", "distilled from the ensemble"] == [line.get_label() for line in axis.lines]
    assert [0, 1] == list(axis.lines[0].get_xdata())
    assert ["generation 0", "generation 1", "distilled from the ensemble"] == [c.get_label() for c in curves.lines]


def test_a_generation_taught_by_the_ensemble_is_compared_with_it():
    history = history_of(scores_of(90), scores_of(93, 5, 2), scores_of(94, 1, 2, compared_with="ensemble"))

    summary = history.summary(ALL)

    assert ["-1.00", "vs", "E"] == row_of(summary, "2").split()[5:8]
    assert "\ngeneration 2 did not beat its teacher, the ensemble of generations 0 to 1" in summary
    assert "\nvs E: against the ensemble of all generations before it" in summary
    assert "distilled" not in summary


def test_the_best_generation_alone_has_a_star():
    history = history_of(scores_of(), scores_of(won=1, lost=0), scores_of(won=1, lost=0), values=[0.5, 0.3, 0.4])

    rows = {label: row_of(history.summary(), label).split() for label in "012"}

    assert "*" in rows["1"]
    assert "*" not in rows["0"] + rows["2"]
    assert "\n* best val_loss" in history.summary()


def test_the_star_is_said_to_come_from_the_validation_data_where_the_scores_do_not():
    history = history_of(scores_of(), scores_of(won=1, lost=0), data="test")

    assert "Generations on test data" in history.summary()
    assert "* best val_loss on the validation data" in history.summary()


@pytest.mark.parametrize(
    ("won", "lost", "verdict"),
    [
        (10, 1, "better"),
        (1, 10, "worse"),
        (3, 3, "no better"),
        (0, 0, "no better"),
        (5, 4, "better (chance?)"),
        (4, 5, "worse (chance?)"),
        (5, 0, "better (chance?)"),  # p = 0.0625
        (6, 0, "better"),  # p = 0.03125
    ],
)
def test_the_verdict_says_whether_a_generation_beat_its_teacher_and_whether_that_may_be_chance(won, lost, verdict):
    row = row_of(history_of(scores_of(), scores_of(won=won, lost=lost)).summary(ALL), "1")

    assert f" {verdict} " in row
    assert ("chance" in verdict) is ("chance" in row)


@pytest.mark.parametrize(("won", "lost", "told"), [(5, 2, False), (2, 2, True), (2, 5, True)])
def test_a_student_that_did_not_beat_its_teacher_is_told_plainly(won, lost, told):
    second = scores_of(won=won, lost=lost, compared_with=1)

    summary = history_of(scores_of(), scores_of(won=1, lost=0), second).summary()

    assert told is ("generation 2 did not beat its teacher, generation 1" in summary)
    assert "generation 1 did not beat" not in summary
    assert "generation 0 did not beat" not in summary


def test_the_table_of_other_models_has_their_metrics():
    history = history_of(None, None, values=[0.123456, 12345.6])
    history.records[1].metrics["val_mae"] = math.nan

    summary = history.summary()

    header = ["generation", "val_loss", "val_accuracy", "val_mae", "epochs", "seconds"]
    assert header == row_of(summary, "generation").split()
    assert ["0", "(teacher)", "*", "0.1235", "0.9", "2", "1.5"] == row_of(summary, "0").split()
    assert ["1", "1.235e+04", "0.9", "nan", "2", "1.5"] == row_of(summary, "1").split()
    assert "McNemar" not in summary


def test_there_is_a_table_without_any_validation_data():
    history = BornAgainHistory([GenerationRecord(0, seconds=2.0), GenerationRecord(1, seconds=3.0)])

    assert ["0", "(teacher)", "2.0"] == row_of(history.summary(), "0").split()
    assert "*" not in history.summary()
    assert "*" not in history_of(None, None, values=[math.nan, math.nan]).summary()


def test_there_is_a_table_without_any_generation():
    assert ["Generations", "on", "validation", "data"] == BornAgainHistory().summary().split()[:4]


def calibrated(scores):
    scores.calibrated_nll, scores.calibrated_ece, scores.temperature = 12.3456, 0.5, 3.0
    return scores


def long_history(compared_with="ensemble"):
    """A history of scores and names that need much room, and its last row without the label."""
    worst = {"nll": 69.0776, "ece": 1.0, "compared_with": compared_with}
    worst = calibrated(scores_of(9, 40_000, 50_000, examples=100_000, **worst))
    history = distilled(*[worst] * 12, scores_of(9, 4, 5, compared_with=compared_with), data="test", ensemble=worst)
    for record in history.records:
        record.seconds = 123_456.7
    row = ["0.01%", "69.0776", "12.3456", "100.00%", "50.00%", "-10.00", "vs", "E", "< 0.001", "worse", "80.0%"]
    return history, [*row, "50000", "-0.1", "2", "123456.7"]


@pytest.mark.parametrize("compared_with", [10, "ensemble"])
@pytest.mark.parametrize("width", [None, 40, 79, 120, 240])
def test_no_line_of_the_table_is_longer_than_its_width_and_nothing_is_cut_off(width, compared_with):
    history, _ = long_history(compared_with)
    history.records[3].metrics["val_a_metric_with_a_name_that_is_longer_than_many_a_terminal_is_wide"] = 0.5

    summary = history.summary(width)

    assert max(len(line) for line in summary.splitlines()) <= (width or 80)
    assert "…" not in summary
    # Names that are wider than the table are folded.
    for word in ("69.0776", "50000" if width == 240 else "left out", "terminal" if width != 40 else "val_a_me"):
        assert word in summary


def test_a_table_with_enough_room_holds_all_columns():
    history, expected = long_history()

    summary = history.summary(160)

    assert " ".join(expected) == " ".join(row_of(summary, "11").split()[-16:])
    assert ["9.00%", "0.2500", "3.00%", "-1.00"] == row_of(summary, "12 distilled").split()[3:7]
    assert "cal.: with a temperature, found on one half of the data and applied to the other" in summary
    assert "left out" not in summary


def test_80_columns_hold_what_a_reader_needs_most_and_the_last_line_names_the_rest():
    classifier = history_of(calibrated(scores_of(90)), calibrated(scores_of(93, 5, 2)))
    regression = history_of(loss_of(0.5), loss_of(0.25, -0.25, 0.0123))
    needed = ["generation", "accuracy", "NLL", "change", "p", "val_loss", "epochs", "seconds"]

    summary = classifier.summary()

    assert needed == row_of(summary, "generation").split()
    *_, sentence = " ".join(summary.split()).partition("left out at 80 columns: ")
    left_out = "verdict, ECE, cal. NLL, cal. ECE, agree, neg. flips"
    match = re.fullmatch(left_out + r". `summary\(width=(\d+)\)` and `to_dataframe\(\)` show them", sentence)
    assert match
    for width, whole in [(int(match[1]), True), (int(match[1]) - 1, False)]:
        assert whole is ("left out" not in classifier.summary(width))
    # What is not shown is not explained.
    assert "cal.: with a temperature" not in summary
    assert "cal.: with a temperature" in classifier.summary(ALL)
    # Short values leave room for a verdict.
    header = ["generation", "change", "p", "verdict", "val_loss", "val_accuracy", "epochs", "seconds"]
    assert header == row_of(regression.summary(), "generation").split()


def test_metrics_that_are_scores_under_another_name_are_not_shown_twice():
    history = history_of(scores_of(90, nll=0.5), scores_of(93, 5, 2, nll=0.25), values=[0.5, 0.2500001])
    for record in history.records:
        record.metrics["val_auc"] = 0.75

    summary = history.summary()

    expected = ["generation", "accuracy", "NLL", "change", "p", "val_auc", "epochs", "seconds"]
    assert expected == row_of(summary, "generation").split()
    assert "\n* best val_loss, which is the NLL\n" in summary
    # One with penalties, or with weights, is another number.
    history.records[0].metrics |= {"val_loss": 0.6, "val_accuracy": 0.8}
    header = row_of(history.summary(ALL), "generation").split()
    assert ["val_loss", "val_accuracy", "val_auc", "epochs", "seconds"] == header[-5:]
    assert "\n* best val_loss\n" in history.summary()


@pytest.mark.parametrize(
    ("p_value", "expected"),
    [(0.0, "< 0.001"), (0.000999, "< 0.001"), (0.001, "0.001"), (0.0499, "0.050"), (1.0, "1.000")],
)
def test_no_probability_is_written_as_zero(p_value, expected):
    assert f"  {expected}  " in row_of(history_of(loss_of(1.0), loss_of(0.5, -0.5, p_value)).summary(), "1")


@pytest.mark.parametrize("width", [0, 39, -80, 80.0, "80", True])
def test_a_width_that_holds_no_table_is_refused(width):
    with pytest.raises(ValueError, match="`width` must be .*at least"):
        history_of(None).summary(width)


def test_the_plot_shows_the_calibrated_nll_beside_the_raw_one():
    first, second, ensemble = scores_of(90, nll=0.5), scores_of(93, 5, 2, nll=0.4), scores_of(95, 6, 1, nll=0.3)
    for scores, value in ((first, 0.25), (second, 0.2), (ensemble, 0.1)):
        scores.calibrated_nll, scores.calibrated_ece, scores.temperature = value, 0.01, 2.0

    axis = history_of(first, second, ensemble=ensemble).plot()[1]

    drawn = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert [0.25, 0.2] == drawn["single model, calibrated"]
    assert [0.1, 0.1] == drawn["ensemble, calibrated"]


def test_calibrated_scores_are_those_of_temperatures_from_the_other_half():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((101, 4))
    labels = (logits / 3 + rng.gumbel(size=logits.shape)).argmax(axis=-1)
    probabilities = oracles.softmax(logits)

    def nll(log_temperature, which):
        scaled = oracles.log_softmax(np.log(probabilities[which]) / np.exp(log_temperature))
        return -scaled[np.arange(len(scaled)), labels[which]].mean()

    def best(which):
        found = optimize.minimize_scalar(nll, bounds=(-4, 4), args=(which,), method="bounded", options={"xatol": 1e-9})
        return np.exp(found.x)

    even, odd = np.arange(0, 101, 2), np.arange(1, 101, 2)
    calibrated = np.empty_like(probabilities)
    for own, other in ((even, odd), (odd, even)):
        calibrated[own] = oracles.softmax(np.log(probabilities[own]) / best(other))
    right, confidence = calibrated.argmax(axis=-1) == labels, calibrated.max(axis=-1)

    scores = score(labels, probabilities)

    expected = -np.log(calibrated[np.arange(101), labels]).mean()
    assert scores.calibrated_nll == pytest.approx(expected, rel=1e-6)
    assert scores.calibrated_ece == pytest.approx(expected_calibration_error(right, confidence), rel=1e-4)
    assert scores.temperature == pytest.approx(best(np.arange(101)), rel=1e-5)
    assert scores.calibrated_nll < scores.nll
    assert scores.accuracy == pytest.approx(right.mean())


def test_scores_of_too_few_examples_or_of_perfect_models_are_not_made_up():
    few = score([0, 1, 0], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    perfect = score([0, 1, 0, 1], [[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.4, 0.6]])

    assert (None, None, None) == (few.calibrated_nll, few.calibrated_ece, few.temperature)
    assert perfect.calibrated_nll == pytest.approx(perfect.nll, rel=1e-12)
    assert 1.0 == perfect.temperature


def loss_of(loss, change=None, p_value=None, compared_with=0):
    compared_with = None if change is None else compared_with
    return LossScores(100, loss, compared_with, change, p_value)


def test_losses_are_compared_beside_the_metrics():
    history = history_of(loss_of(0.5), loss_of(0.25, -0.25, 0.0123), ensemble=loss_of(0.6, 0.1, 0.5))
    history.ensemble_metrics, history.notes = {"val_loss": 0.6, "val_accuracy": 0.75}, ["no metric: it failed"]

    summary = history.summary(ALL)

    assert "Generations on validation data (100 examples)" in summary
    assert ["1", "0.9"] == row_of(summary, "0").split()[2:4]
    assert ["-0.25", "vs", "0", "0.012", "better", "0.9", "0.9", "2", "1.5"] == row_of(summary, "1 *").split()[2:]
    expected = ["+0.1", "vs", "0", "0.500", "worse", "(chance?)", "0.6", "0.75", "4", "3.0"]
    assert expected == row_of(summary, "ensemble of 2").split()[3:]
    assert "no metric: it failed" == summary.splitlines()[-1]
    assert "change: loss against its own teacher" in summary
    axis = history.plot()[0]
    assert [0.6, 0.6] == list(axis.lines[1].get_ydata())


def test_each_of_several_outputs_has_a_table_of_its_own():
    first = {"kind": scores_of(90), "size": loss_of(0.5)}
    second = {"kind": scores_of(93, 5, 2), "size": loss_of(0.75, 0.25, 0.01)}
    history = history_of(first, second, ensemble={"kind": scores_of(95, 6, 1), "size": loss_of(0.25, -0.25, 0.02)})

    tables = history.summary(ALL).split("Output ")

    assert ["'kind'", "'size'"] == [table.split()[0] for table in tables[1:]]
    assert ["1", "*", "0.9", "0.9", "2", "1.5"] == row_of(tables[0], "1").split()
    expected = ["93.00%", "0.2500", "3.00%", "+3.00", "vs", "0", "0.453", "better", "(chance?)", "80.0%", "2"]
    assert expected == row_of(tables[1], "1 *").split()[2:]
    assert ["0.75", "+0.25", "vs", "0", "0.010", "worse"] == row_of(tables[2], "1 *").split()[2:]
    assert ["0.25", "-0.25", "vs", "0", "0.020", "better"] == row_of(tables[2], "ensemble").split()[3:]
    assert "generation 1 did not beat its teacher, generation 0, in 'size'" in history.summary()
    assert vars(history) == vars(BornAgainHistory.from_json(history.to_json()))


@pytest.mark.parametrize(
    "scores", [(None, None), (scores_of(90), scores_of(93, 5, 2)), (loss_of(1), loss_of(2, 1, 0.1))]
)
def test_so_many_metrics_that_one_table_cannot_hold_them_have_several(scores):
    history = history_of(*scores)
    for record in history.records:
        record.metrics |= {f"val_metric_of_a_kind_{i}": 0.123456789 + i + record.generation for i in range(20)}

    lines = history.summary().splitlines()

    assert max(len(line) for line in lines) <= 80
    assert "…" not in history.summary()
    for i in range(20):
        (header,) = [place for place, line in enumerate(lines) if f"val_metric_of_a_kind_{i} " in f"{line} "]
        assert f"{1.123456789 + i:.4g}" in " ".join(lines[header : header + 4])
    assert "left out" not in history.summary() or scores[0] is not None


def test_the_metrics_of_evaluate_are_those_in_its_table():
    history = history_of(None, None, data="test")
    for record in history.records:
        record.evaluation = {"mae": 0.5 + record.generation}

    assert ["generation", "mae", "epochs", "seconds"] == row_of(history.summary(), "generation").split()
    assert ["1", "*", "1.5", "2", "1.5"] == row_of(history.summary(), "1").split()
    assert vars(history) == vars(BornAgainHistory.from_json(history.to_json()))
    assert {"evaluation", "ensemble_metrics", "notes"}.isdisjoint(history_of(None).to_json().split('"'))


def test_the_table_is_the_same_text_on_a_terminal(monkeypatch):
    history = history_of(scores_of(), scores_of(won=5, lost=2))
    expected = history.summary()

    monkeypatch.setenv("FORCE_COLOR", "1")

    assert expected == history.summary()
    assert "\x1b" not in expected


def test_names_with_brackets_and_colons_are_shown_as_they_are():
    history = history_of(None, data="fold [red] :car:")
    history.records[0].metrics["val_recall[0]"] = 0.5

    assert "Generations on fold [red] :car: data" in history.summary()
    assert "val_recall[0]" in history.summary()


def test_without_scipy_no_significance_is_claimed(monkeypatch):
    without(monkeypatch, "scipy")
    history = history_of(scores_of(90), scores_of(93, 5, 2))

    summary = history.summary(ALL)

    expected = ["93.00%", "0.2500", "3.00%", "+3.00", "vs", "0", "80.0%", "2", "0.9", "2", "1.5"]
    assert expected == [cell for cell in row_of(summary, "1").split()[2:] if cell != "*"]
    assert not {"p", "verdict"} & set(row_of(summary, "generation").split())
    assert (
        'no p-values, and no verdicts, of changes of accuracy: SciPy is not installed (`pip install "keras-ban[plot]"`)'
        in (summary)
    )
    assert "McNemar" not in summary
    # A permutation test needs none.
    assert "  0.012  " in row_of(history_of(loss_of(0.5), loss_of(0.25, -0.25, 0.0123)).summary(), "1")


# The picture


@pytest.mark.parametrize(
    ("ending", "begins", "history"),
    [
        ("png", b"\x89PNG", history_of(scores_of(90), scores_of(93, 5, 2), ensemble=scores_of(95, 6, 1))),
        ("svg", b"<?xml", history_of(scores_of())),
        ("pdf", b"%PDF", history_of(None)),
        ("svg", b"<?xml", history_of(None, None, None, values=[math.nan, math.inf, 1.0])),
        ("svg", b"<?xml", BornAgainHistory([GenerationRecord(0, logs={"loss": [1.0]})])),  # No validation data.
    ],
    ids=["ensemble", "single", "of another kind", "not finite", "not validated"],
)
def test_plot_writes_a_picture_of_any_history_by_the_paths_ending_and_leaves_pyplot_alone(
    tmp_path, ending, begins, history
):
    import matplotlib
    from matplotlib import pyplot

    backend, figures = matplotlib.get_backend(), pyplot.get_fignums()
    path = tmp_path / f"generations.{ending}"

    axes = history.plot(path)

    assert path.read_bytes().startswith(begins)
    assert all(isinstance(axis, matplotlib.axes.Axes) for axis in axes)
    assert axes == axes.figure.axes
    # A notebook shows it.
    assert axes._repr_png_().startswith(b"\x89PNG")
    assert (backend, figures) == (matplotlib.get_backend(), pyplot.get_fignums())


def test_plot_shows_each_figure_over_generations_and_the_curves():
    ensemble = scores_of(95, 6, 1, nll=0.125)
    history = history_of(scores_of(90, nll=0.5, ece=0.1), scores_of(93, 5, 2, nll=0.25, ece=0.05), ensemble=ensemble)

    axes = history.plot()

    titles = [axis.get_title() for axis in axes]
    expected = ["accuracy", "NLL", "calibration error"]
    assert [f"{name}, validation data" for name in expected] + ["val_loss while training"] == titles
    drawn = [axis.lines[0] for axis in axes]
    for line, values in zip(drawn, [[90, 93], [0.5, 0.25], [10, 5]], strict=False):
        assert [0, 1] == list(line.get_xdata())
        np.testing.assert_allclose(line.get_ydata(), values, rtol=1e-12)  # percent, times 100 in float64
    assert [95.0] * 2 == list(axes[0].lines[1].get_ydata())
    assert [0.125] * 2 == list(axes[1].lines[1].get_ydata())
    curves = axes[3].lines
    assert [[2.0, 1.0], [1.9, 0.9]] == [list(line.get_ydata()) for line in curves]
    assert [1, 2] == list(curves[0].get_xdata())
    assert ["generation 0", "generation 1"] == [line.get_label() for line in curves]


def test_plot_marks_the_best_generation_and_has_intervals_and_whole_epochs():
    first, second = scores_of(90), scores_of(93, 5, 2)
    history = history_of(first, second, None, values=[1.0, 0.5, 0.75])

    accuracy, *_, curves = history.plot()

    label = "95% interval"
    (band,) = [each for each in accuracy.collections if each.get_label() == label]
    corners = band.get_paths()[0].vertices
    for place, share in ((0, 0.90), (1, 0.93)):
        expected = stats.binomtest(round(100 * share), 100).proportion_ci(method="wilson")
        drawn = sorted({round(y, 6) for x, y in corners if x == place})
        np.testing.assert_allclose(drawn, 100 * np.array(expected), rtol=1e-5)
    (mark,) = [each for each in accuracy.collections if each.get_label() == "chosen generation"]
    assert [[1.0, 93.0]] == mark.get_offsets().tolist()
    (mark,) = [each for each in curves.collections if each.get_label() == "chosen"]
    assert [[2.0, 0.5]] == mark.get_offsets().tolist()
    assert all(tick == round(tick) for tick in curves.get_xticks())


def test_plot_without_a_path_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    history_of(scores_of(), scores_of(won=5, lost=2)).plot()

    assert [] == list(tmp_path.iterdir())


def test_plot_of_other_models_shows_the_monitored_metric():
    axes = history_of(None, None, values=[0.5, 0.25]).plot()

    assert ["val_loss, validation data", "val_loss while training"] == [axis.get_title() for axis in axes]
    assert [0.5, 0.25] == list(axes[0].lines[0].get_ydata())


def test_plot_draws_names_as_they_are(tmp_path):
    records = history_of(None, None, values=[0.5, 0.25]).records
    name = "val_a$\\frac$b_\udcff"
    for record in records:
        record.metrics = {name: 0.5}
        record.logs = {name: [1.0, 0.5]}
    history = BornAgainHistory(records, monitor=name, data="$x$")

    axes = history.plot(tmp_path / "plot.svg")

    shown = axes[0].get_title().replace("\\$", "$")
    assert "val_a$\\frac$b_\\udcff, $x$ data" == shown


def test_plot_of_nothing_says_that_there_is_nothing():
    with pytest.raises(ValueError, match="nothing to plot: no generation is recorded"):
        BornAgainHistory().plot()


def test_plot_without_matplotlib_names_the_extra(monkeypatch):
    without(monkeypatch, "matplotlib")

    with pytest.raises(ImportError, match=r"needs matplotlib: `pip install \"keras-ban\[plot\]\"`"):
        history_of(None).plot()


# Notebooks


class Parsed(html.parser.HTMLParser):
    """The texts of a page by the tags around them, and all attributes."""

    def __init__(self, text):
        super().__init__()
        self.texts, self.attributes, self.open = {}, [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert tag == self.open.pop()

    def handle_data(self, data):
        if data.strip():
            self.texts.setdefault(self.open[-1], []).append(data)


def test_a_notebook_shows_what_the_widest_summary_shows():
    first = {"kind": scores_of(90), "size": loss_of(0.5)}
    second = {"kind": calibrated(scores_of(93, 5, 2)), "size": loss_of(0.75, 0.25, 0.0001)}
    history = history_of(first, second, ensemble=first)

    page = Parsed(history._repr_html_())

    lines = history.summary(300).splitlines()
    shown = {word for line in lines if "─" not in line for word in line.split()}
    assert shown == {word for texts in page.texts.values() for text in texts for word in text.split()}
    captions = ["Generations on validation data (100 examples)", "Output 'kind'", "Output 'size'"]
    assert captions == page.texts["caption"]
    assert ["0 (teacher)", "1 *", "ensemble of 2"] * 3 == [
        text for text in page.texts["th"] if text in ("0 (teacher)", "1 *", "ensemble of 2")
    ]
    assert [] == page.open
    # Nothing is loaded from elsewhere.
    assert {"style", "class"} == {name for name, _ in page.attributes}
    assert not re.search("http|url|script", history._repr_html_())


def test_names_are_escaped_in_a_notebook():
    name = "<script>alert('$x$')</script> & \"co\" \udcff"
    history = history_of(None, data=name)
    history.records[0].metrics[name] = 0.5
    history.notes = [name]

    text = history._repr_html_()

    assert "<script" not in text and "\udcff" not in text
    expected = name.replace("\udcff", "\\udcff")
    texts = Parsed(text).texts
    assert expected in texts["th"] and expected in texts["li"]
    assert [f"Generations on {expected} data"] == texts["caption"]
    assert "mathjax_ignore" in text


def test_a_history_of_nothing_is_shown_too():
    page = Parsed(BornAgainHistory()._repr_html_())

    assert ["Generations on validation data"] == page.texts["caption"]
    assert [] == page.open


def test_a_data_frame_has_a_row_for_each_model_and_every_score():
    history = distilled(
        scores_of(90), scores_of(93, 5, 2), scores_of(94, 3, 2, compared_with="ensemble"), ensemble=scores_of(95, 6, 1)
    )
    history.ensemble_metrics = {"val_loss": 0.125}

    frame = history.to_dataframe()

    assert ["generation 0", "generation 1", "distilled", "ensemble"] == list(frame["name"])
    assert [0, 1, 2] == list(frame["generation"].dropna())
    assert [False, False, True, False] == list(frame["best"])
    assert [2, 2, 2, 4] == list(frame["epochs"])
    assert [100, 101, 102] == list(frame["seed"].dropna())
    assert [1.0, 0.9, 0.8, 0.125] == list(frame["val_loss"])
    assert [0.9, 0.93, 0.94, 0.95] == list(frame["accuracy"])
    for index, scores in enumerate([*(record.scores for record in history.records), history.ensemble]):
        for name in ("nll", "ece", "change", "p_value", "agreement", "positive_flips", "compared_with"):
            value, found = getattr(scores, name), frame[name][index]
            assert pd.isna(found) if value is None else value == found, name
    assert "Int64" == frame["negative_flips"].dtype


def test_a_data_frame_of_several_outputs_and_of_evaluate_keeps_names_apart():
    both = {"kind": scores_of(90), "size": loss_of(0.5)}
    history = history_of(both, {**both, "size": loss_of(0.75, 0.25, 0.25)}, data="test", ensemble=both)
    history.ensemble_metrics = {"loss": 4.0}
    for record in history.records:
        record.evaluation = {"loss": 2.0 + record.generation}

    frame = history.to_dataframe()

    assert [2.0, 3.0, 4.0] == list(frame["test_loss"])
    assert [0.5, 0.75, 0.5] == list(frame["size.loss"])
    assert [0.9] * 3 == list(frame["kind.accuracy"])
    assert 0.25 == frame["size.p_value"][1]
    assert "val_loss" not in frame


def test_a_data_frame_without_scipy_has_no_p_values_of_accuracies(monkeypatch):
    without(monkeypatch, "scipy")

    frame = history_of(scores_of(90), scores_of(93, 5, 2)).to_dataframe()

    assert "p_value" not in frame
    assert frame["change"][1] == pytest.approx(0.03)


def test_there_is_a_data_frame_without_any_generation():
    assert (0, ["name", "generation"]) == (
        len(BornAgainHistory().to_dataframe()),
        [*BornAgainHistory().to_dataframe()][:2],
    )


def test_a_data_frame_without_pandas_says_what_to_install(monkeypatch):
    without(monkeypatch, "pandas")

    with pytest.raises(ImportError, match="`to_dataframe` needs pandas: `pip install pandas`"):
        history_of(None).to_dataframe()


# Plain data


def plain(data):
    if isinstance(data, dict):
        return all(type(key) is str and plain(value) for key, value in data.items())
    if isinstance(data, list):
        return all(plain(value) for value in data)
    return data is None or type(data) in (str, int, float, bool)


def test_to_dict_gives_plain_data():
    history = history_of(scores_of(), scores_of(won=5, lost=2), ensemble=scores_of(won=6, lost=1))

    data = history.to_dict()

    assert plain(data)
    assert ["val_loss", "min", "validation"] == [data[name] for name in ("monitor", "mode", "data")]
    assert [100, 101] == [record["seed"] for record in data["records"]]
    assert [None, 5] == [record["scores"]["positive_flips"] for record in data["records"]]
    assert 6 == data["ensemble"]["positive_flips"]
    assert data == json.loads(json.dumps(data))


def test_the_dict_shares_nothing_with_the_history():
    history = history_of(scores_of())

    history.to_dict()["records"][0]["logs"]["loss"].append(7.0)

    assert [2.0, 1.0] == history.records[0].logs["loss"]


@pytest.mark.parametrize(
    "history",
    [
        history_of(scores_of(), scores_of(won=5, lost=2), ensemble=scores_of(won=6, lost=1), data="test", mode="max"),
        history_of(None, None, monitor="val_accuracy"),
        distilled(scores_of(), scores_of(won=5, lost=2, compared_with="ensemble")),
        history_of(None, values=[math.inf]),
        BornAgainHistory(),
    ],
)
def test_a_history_comes_back_from_dict_and_json_as_it_was(history):
    for again in (BornAgainHistory.from_dict(history.to_dict()), BornAgainHistory.from_json(history.to_json())):
        assert history == again
        assert history.summary() == again.summary()


def test_a_record_from_before_there_were_distilled_students_is_none():
    data = history_of(scores_of()).to_dict()
    del data["records"][0]["distilled"]

    assert [False] == [record.distilled for record in BornAgainHistory.from_dict(data).records]


def test_nan_and_infinities_come_back_from_json():
    history = history_of(None, None, None, values=[math.nan, math.inf, -math.inf])

    again = BornAgainHistory.from_json(history.to_json())

    first, second, third = (record.metrics["val_loss"] for record in again.records)
    assert math.isnan(first)
    assert [math.inf, -math.inf] == [second, third]
    assert repr(history) == repr(again)  # NaN is not equal to itself
