"""`benchmarks/equal_cost.py`: what a result holds, what it cost, that it resumes, and what the report makes of it."""

import json

import equal_cost
import keras
import numpy as np
import pytest
import scipy.special
from equal_cost_tasks import border_report, methods, report, training
from equal_cost_tasks.cells import cells_of
from equal_cost_tasks.member import Member, MixedMember, cost_of
from equal_cost_tasks.methods import COSTS, RECIPES, members_of
from equal_cost_tasks.scores import Scorer, best_temperature, temperature_of
from equal_cost_tasks.series import TimeShift
from equal_cost_tasks.task import of_largest_classes, split
from equal_cost_tasks.toy import toy

import keras_ban

pytestmark = pytest.mark.one_backend

KEYS = {"task", "method", "cost", "seed", "averaged", "members", "error", "nll", "nll_calibrated", "command"}
METHODS = {"plain", "longer", "independent", "snapshots", "ours", "ours unlabeled"}


def run(folder, *options):
    paths = ["--results", folder / "results.jsonl", "--members", folder / "members", "--tasks", "toy", "--seeds", 0]
    equal_cost.run(equal_cost.parse_arguments([str(option) for option in [*paths, *options]]))
    return equal_cost.read(folder / "results.jsonl")


def test_each_line_has_its_keys_and_no_result_is_computed_twice(tmp_path, monkeypatch):
    options = ["--costs", 1, 2, "--recipes", "plain", "longer", "independent", "chain"]
    first = run(tmp_path, *options)
    monkeypatch.setattr(training.Trainer, "outputs", lambda *arguments: pytest.fail("A result was computed again."))

    assert first == run(tmp_path, *options)
    assert all(set(each) >= KEYS | {"recipe", "validation_error", "temperature", "versions"} for each in first)
    # Plain, longer; independent and ours as an average with equal and with fitted weights, ours as one model, too.
    assert [1, 2, 2, 2, 2, 2, 2] == [each["cost"] for each in first]
    assert [1, 1, 2, 1, 2] == [each["members"] for each in first if not each["recipe"].endswith("fitted weights")]


def test_a_run_continues_after_the_last_line_with_the_same_results(tmp_path):
    options = ["--costs", 2, "--recipes", "snapshots", "unlabeled chain"]
    whole = run(tmp_path / "whole", *options)
    cut = tmp_path / "cut"
    cut.mkdir()
    (cut / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in whole[:2]))

    resumed = run(cut, *options)

    assert 6 == len(resumed)
    # Not the seconds, and not the last digits, which differ with the order of additions.
    for line, other in zip(whole, resumed, strict=True):
        assert (line["recipe"], line["averaged"]) == (other["recipe"], other["averaged"])
        assert line["nll_calibrated"] == pytest.approx(other["nll_calibrated"], rel=1e-4)


def test_models_may_compute_in_half_precision_and_their_logits_are_of_single_precision(tmp_path):
    policy = keras.config.dtype_policy()
    recipes = ["plain", "honest students", "unlabeled students"]
    try:
        lines = run(tmp_path, "--dtype", "mixed_bfloat16", "--costs", 1, 2, "--recipes", *recipes)
    finally:
        keras.config.set_dtype_policy(policy)

    files = list((tmp_path / "members").rglob("*.npz"))
    assert 3 == len(lines) == len(files)
    for file in files:
        outputs = np.load(file)["outputs"]
        assert "float32" == outputs.dtype
        # Values of bfloat16 have 16 bits.
        assert (outputs.view("uint32") % 2**16).any()


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_recipe_costs_what_its_line_says(method, cost):
    assert METHODS == set(RECIPES)
    for recipe in RECIPES[method]:
        members = members_of(method, recipe, cost)
        if members:
            assert cost == cost_of(members)
            assert len(members) == len(set(members))


def test_teachers_and_starts_count_once_in_the_cost():
    teacher = Member(length=4)
    students = [Member(teachers=(teacher,), number=0), Member(teachers=(teacher, Member()), number=1)]

    assert 4 + 1 + 1 + 1 == cost_of(students)
    assert 2 + 4 == cost_of([Member(length=2, start=teacher)])


@pytest.mark.parametrize(
    "member",
    [
        Member(length=3),
        members_of("ours", "chain", 2)[-1],
        members_of("ours", "cross-fitted, one student", 4)[-1],
        members_of("ours unlabeled", "unlabeled chain", 2)[-1],
        members_of("ours unlabeled", "unlabeled several teachers", 4)[-1],
        members_of("ours unlabeled", "unlabeled students", 4)[-1],
    ],
)
def test_no_more_examples_pass_through_a_training_than_are_counted(tmp_path, member):
    if keras.config.backend() != "torch":
        pytest.skip("Python counts, so the step must not be compiled.")
    task, seen = toy(0), []

    class Counted(keras.layers.Layer):
        def call(self, inputs, training=None):
            if training:
                seen.append(len(inputs))
            return inputs

    plain = task.build
    task.build = lambda: keras.Sequential([keras.Input((6,)), Counted(), plain()])
    trainer = training.Trainer(task, 0, tmp_path)
    for each in member.needs:
        trainer.outputs(each)
    seen.clear()

    trainer.outputs(member)

    assert task.examples == 8 * 32
    assert member.length * task.examples >= trainer.examples(member) > (member.length - 1) * task.examples
    assert trainer.examples(member) == sum(seen)


def test_each_model_of_a_fold_is_trained_on_the_other_folds_alone(tmp_path):
    task, seen = toy(0), []
    trainer = training.Trainer(task, 0, tmp_path)
    fit = keras_ban.Distiller.fit

    def spy(distiller, x, y, **options):
        seen.append(x)
        return fit(distiller, x, y, **options)

    folds = methods.fold_members(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras_ban.Distiller, "fit", spy)
        for each in folds:
            trainer.outputs(each)

    x = task.train[0]
    times = sum((x[:, None] == rows[None]).all(axis=-1).sum(axis=1) for rows in seen)
    assert (times == 2).all() and [2 * len(x)] == [sum(map(len, seen))]
    assert 2 * task.examples == sum(trainer.examples(each) for each in folds)
    assert 2 == cost_of(folds)


@pytest.mark.parametrize("augmented", [False, True])
def test_a_cross_fitted_teacher_has_the_likelihood_of_its_models_on_examples_that_they_have_not_seen(
    tmp_path, augmented
):
    task = toy(0)
    if augmented:
        task.augmentation = lambda: [keras.layers.GaussianNoise(0.3, seed=0)]
    trainer = training.Trainer(task, 0, tmp_path)
    student = members_of("ours", "cross-fitted students", 2)[-1]
    folds, models = trainer._folds(2), []
    for each in student.teachers:
        trainer.outputs(each)
        models.append(task.build())
        models[-1].set_weights(trainer._weights(each))

    temperature = float(keras.ops.convert_to_numpy(trainer._teacher(student).layers[-1].temperature))

    x, y = task.train
    x, y, folds = (np.concatenate([each] * 4) if augmented else each for each in (x, y, folds))
    if augmented:
        x = keras.ops.convert_to_numpy(task.augmentation()[0](x, training=True))
    logits = np.stack([model.predict(x, verbose=0) for model in models]).astype("float64")
    unseen = logits[folds, np.arange(len(x))]
    mean = np.log(scipy.special.softmax(logits, axis=-1).mean(axis=0))
    expected = _nll(unseen, y, best_temperature(unseen, y))
    assert 1 < temperature and _nll(mean, y, temperature / 1.03) < expected <= _nll(mean, y, temperature) + 1e-6


def test_images_are_mixed_for_mixed_members_alone(tmp_path):
    task, made = toy(0), []
    task.train = task.train[0].reshape(-1, 3, 2, 1), task.train[1]
    task.weights_data, task.temperature_data, task.test = (
        (part[0].reshape(-1, 3, 2, 1), part[1]) for part in (task.weights_data, task.temperature_data, task.test)
    )
    task.build = lambda: keras.Sequential([keras.Input((3, 2, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
    task.augmentation, task.mixing = list, lambda: made.append(1) or [keras.layers.CutMix()]
    trainer = training.Trainer(task, 0, tmp_path)

    plain = trainer.outputs(Member())
    assert [] == made

    mixed = trainer.outputs(MixedMember())
    assert made and plain.shape == mixed.shape and not np.allclose(plain, mixed)
    student = members_of("ours", "mixed students", 4)[-1]
    assert isinstance(student, MixedMember) and trainer.examples(student) == task.examples


def test_tasks_without_images_have_no_results_of_mixed_members(tmp_path):
    assert [] == run(tmp_path, "--costs", 2, "--recipes", "mixed longer")


def test_a_recipe_with_fewer_seeds_than_others_is_not_chosen():
    lines = [line(method="ours", recipe="chain", cost=2, averaged=True, seed=seed) for seed in (0, 1)]
    lines.append(line(method="ours", recipe="hot chain", cost=2, averaged=True, validation_nll_calibrated=0.1))

    assert "chain" == report.Results(lines).chosen("a", "ours", 2, True)


def test_scores_are_those_of_the_average_of_probabilities_after_one_temperature():
    task, rng = toy(0), np.random.default_rng(0)
    labels = np.concatenate([part[1] for part in (task.weights_data, task.temperature_data, task.test)])
    outputs = [(np.eye(3)[labels] + rng.normal(size=(len(labels), 3))).astype("float32") for _ in range(2)]

    scores = Scorer(task).score(outputs)

    shares = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    average = np.log(shares.mean(axis=0).astype("float64"))
    middle, test = average[40:80], average[80:]
    assert scores["error"] == np.mean(test.argmax(axis=-1) != task.test[1])
    assert scores["nll"] == pytest.approx(_nll(test, task.test[1], 1.0), rel=1e-5)
    assert scores["nll_calibrated"] == pytest.approx(_nll(test, task.test[1], scores["temperature"]), rel=1e-5)
    at = [_nll(middle, task.temperature_data[1], scores["temperature"] * factor) for factor in (0.9, 1, 1.1)]
    assert min(at) == at[1] == pytest.approx(scores["validation_nll_calibrated"], rel=1e-5)


def test_an_honest_temperature_gives_the_training_examples_the_likelihood_of_others():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 300)
    held_out = 3 * (np.eye(4)[labels] + rng.normal(size=(300, 4)))
    training_examples = 9 * np.eye(4)[labels] + rng.normal(size=(300, 4))

    best = best_temperature(held_out, labels)
    honest = temperature_of(_nll(held_out, labels, best), training_examples, labels)

    assert all(_nll(held_out, labels, best) <= _nll(held_out, labels, best * factor) for factor in (0.9, 1.1))
    # Temperatures are 3% apart.
    assert 1 < honest and _nll(training_examples, labels, honest / 1.03) < _nll(held_out, labels, best)
    assert _nll(training_examples, labels, honest) >= _nll(held_out, labels, best)
    assert 1 == temperature_of(0.0, training_examples, labels)


def _nll(logits, labels, temperature):
    scaled = logits / temperature
    return np.mean(np.log(np.exp(scaled).sum(axis=-1)) - scaled[np.arange(len(labels)), labels])


def line(**values):
    base = {"task": "a", "method": "plain", "recipe": "plain", "cost": 1, "seed": 0, "averaged": False, "members": 1}
    scores = dict.fromkeys(("error", "nll", "nll_calibrated", "validation_nll_calibrated"), 1.0)
    return {**base, **scores, **values}


def independents(task="a"):
    """Plain models: the calibrated NLL of `m` of them is `1 + 1 / m`."""
    lines = [line(task=task, nll_calibrated=2.0, error=0.4)]
    for cost in COSTS[1:]:
        values = {"cost": cost, "averaged": True, "nll_calibrated": 1 + 1 / cost, "error": 0.3}
        lines.append(line(task=task, method="independent", recipe="independent", **values))
    return lines


@pytest.mark.parametrize(
    "nll, expected",
    [(2.0, 1), (1.5, 2), (1 + 1 / 3, 3), (1 + 1 / 6, 6), (1.125, 8), (2.01, np.nan), (1.12, np.inf)],
)
def test_the_deep_ensemble_equivalent_is_the_number_of_models_of_that_likelihood(nll, expected):
    of_counts = report.Results(independents()).independents("a", [0])

    assert {1: 2.0, 2: 1.5, 4: 1.25, 8: 1.125} == of_counts
    np.testing.assert_allclose(report.deep_ensemble_equivalent(nll, of_counts), expected)


def test_the_limit_of_independent_models_is_that_of_a_line_in_one_over_their_number():
    results = report.Results(independents())

    np.testing.assert_allclose(report.limit_of_independents(results.independents("a", [0])), 1.0)
    assert "| a | 2.0000 | 1.5000 | 1.2500 | 1.1250 | 1.0000 | -20.0 |" in report.limits_table(results)


def test_the_plot_compares_a_method_of_fewer_seeds_with_the_plain_models_of_these():
    plain = {seed: line(error=error) for seed, error in enumerate((0.3, 0.5))}

    np.testing.assert_allclose(report.comparable_error({1: line(error=0.4)}, plain), 0.3)
    np.testing.assert_allclose(report.comparable_error(plain, plain), 0.4)


def test_the_table_divides_the_equivalent_by_the_cost(tmp_path):
    ours = {
        "method": "ours",
        "recipe": "chain",
        "cost": 4,
        "averaged": True,
        "nll_calibrated": 1 + 1 / 6,
        "error": 0.27,
    }
    path = tmp_path / "results.jsonl"
    single = {**ours, "averaged": False, "nll_calibrated": 1.0, "error": 0.24, "nll": 0.9}
    path.write_text("".join(json.dumps(each) + "\n" for each in [*independents(), line(**ours), line(**single)]))

    text = report.write_report(path)

    row = next(row for row in text.splitlines() if "averaged (chain)" in row)
    assert ["6.00", "1.50"] == [cell.strip() for cell in row.split("|")][8:10]
    assert "| a | 4 | ours averaged - independent | -3.00 | -10.0 | -6.7 | 1 |" in text
    assert "| a | 4 | ours single - independent averaged | -6.00 | -20.0 | -20.0 | 1 |" in text
    assert "| -20.0 | -20.0 | 1 | -10.0 |" in text
    assert (tmp_path / "results.png").exists() and (tmp_path / "results.md").read_text().startswith(text)


def test_a_recipe_is_chosen_by_the_validation_data_of_other_tasks():
    lines = []
    for task, chain, hot in (("a", 9.0, 1.0), ("b", 1.0, 1.1)):
        for recipe, value in (("chain", chain), ("hot chain", hot)):
            values = {"method": "ours", "recipe": recipe, "cost": 2, "averaged": True}
            lines.append(line(task=task, validation_nll_calibrated=value, nll_calibrated=-value, **values))
    results = report.Results(lines)

    # Each has the recipe that is the worse one on its own validation data.
    assert "chain" == results.chosen("a", "ours", 2, True)
    assert "hot chain" == results.chosen("b", "ours", 2, True)


def border_lines(task, seed, plain, longer, chain, twice):
    """The results of a task of `--border`. NLLs on validation data are twice those on test data."""
    values = {("plain", "plain", 1, False): plain, ("longer", "longer", 2, False): twice}
    values |= {("longer", "longer", 4, False): longer, ("independent", "independent", 4, True): 1.0}
    values |= {("ours", "chain", 4, averaged): chain for averaged in (False, True)}
    values |= {("ours", "honest teachers, one student", 4, False): 0.5}
    for (method, recipe, cost, averaged), nll in values.items():
        found = {"method": method, "recipe": recipe, "cost": cost, "averaged": averaged, "error": 0.25}
        yield line(task=task, seed=seed, nll_calibrated=nll, validation_nll_calibrated=2 * nll, **found)


def test_the_report_of_the_border_tells_where_longer_training_is_better(tmp_path):
    path = tmp_path / "border.jsonl"
    # Longer training helps `a`; at one seed of `b` the model of twice the length misleads.
    found = [*border_lines("a", 0, 2.0, 1.0, 1.5, twice=1.9), *border_lines("a", 1, 2.0, 1.0, 1.7, twice=1.9)]
    found += [*border_lines("b", 0, 2.0, 2.2, 1.1, twice=2.1), *border_lines("b", 1, 2.0, 2.2, 1.1, twice=1.9)]
    path.write_text("".join(json.dumps(each) + "\n" for each in found))

    text = border_report.write_report(path)

    half = 10 * np.tan(0.475 * np.pi)  # One degree of freedom: of 50% and 70%.
    assert f"| `a` | 2 | 25.0 | +0.0, -50.0 ± 0.0 | +0.0, +60.0 ± {half:.1f} | +0.0, -50.0 ± 0.0 |" in text
    assert "| `b` | 2 | 25.0 | +0.0, +10.0 ± 0.0 | +0.0, -50.0 ± 0.0 |" in text
    assert "It chooses the better one in 3 of 4 runs." in text
    # Of four runs, 0, 0, 100% and 100%; 50%, 70%, 0 and 0; the last one alone.
    assert "always longer 50.0%, always `chain` 30.0%, as the validation data tell 25.0%" in text
    assert (tmp_path / "border.png").exists() and (tmp_path / "border.md").read_text().startswith(text)


def test_the_largest_classes_are_numbered_anew():
    x, y = of_largest_classes(np.arange(7), np.array([5, 2, 5, 0, 2, 7, 5]), 2)

    assert [0, 1, 2, 4, 6] == x.tolist() and [1, 0, 1, 0, 1] == y.tolist()


def test_paired_differences_have_intervals_of_the_t_distribution():
    ours, others = {0: {"error": 2.0}, 1: {"error": 5.0}, 7: {"error": 0.0}}, {0: {"error": 1.0}, 1: {"error": 2.0}}

    mean, half, seeds = report.paired(ours, others, "error")

    # Differences 1 and 3: the standard error is 1, and the quantile for one degree of freedom tan(0.475 * pi).
    assert (2.0, 2) == (mean, seeds)
    assert half == pytest.approx(np.tan(0.475 * np.pi))


def test_parts_of_a_task_are_disjoint_and_have_all_classes():
    y = np.repeat(np.arange(5), [10, 20, 30, 40, 100])
    parts = split(np.arange(200), y, 3, [20, 100, 40, None])

    rows = np.concatenate([part[0] for part in parts])
    assert sorted(rows) == list(range(200))
    assert [20, 100, 40, 40] == [len(part[0]) for part in parts]
    for _, labels in parts:
        np.testing.assert_allclose(np.bincount(labels) / len(labels), [0.05, 0.1, 0.15, 0.2, 0.5], atol=0.051)


def test_a_time_shift_moves_series_and_changes_nothing_else():
    series = np.arange(24, dtype="float32").reshape(2, 6, 2)

    shifted = keras.ops.convert_to_numpy(TimeShift(2, seed=0)(series, training=True))

    for before, after in zip(series, shifted, strict=True):
        assert any(np.array_equal(np.roll(before, steps, axis=0), after) for steps in (-2, -1, 0, 1, 2))
    np.testing.assert_array_equal(series, keras.ops.convert_to_numpy(TimeShift(2)(series)))


@pytest.mark.parametrize("options, name", [(["--costs", "3"], "--costs"), (["--methods", "best"], "--methods")])
def test_unknown_costs_and_methods_are_refused(options, name):
    with pytest.raises(ValueError, match=name):
        cells_of(equal_cost.parse_arguments(options), "toy", 0)
