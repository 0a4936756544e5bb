"""The table and the plot, from the results alone."""

import pathlib
import sys

import numpy as np
from _user_files import read_json_lines

from equal_cost_tasks.cells import FITTED
from equal_cost_tasks.methods import COSTS, INDEPENDENT, LONGER, OURS, PLAIN, RECIPES, UNLABELED

# Recipes of these methods are chosen on the validation data of other tasks. The others have one.
CHOSEN = (OURS, UNLABELED)
# The recipe of ours whose last model is compared with that of `chain`.
ONE_STUDENT = "honest teachers, one student"
LINE = {"task": str, "method": str, "recipe": str, "cost": int, "seed": int, "averaged": bool, "members": int}
LINE |= {"error": float, "nll": float, "nll_calibrated": float, "validation_nll_calibrated": float}


class Results:
    """Results by task, method, recipe, cost and whether members are averaged: a line for each seed.

    Args:
        lines: dicts, as in the file.
    """

    def __init__(self, lines):
        self._lines = {}
        for line in lines:
            key = tuple(line[name] for name in ("task", "method", "recipe", "cost", "averaged"))
            self._lines.setdefault(key, {})[line["seed"]] = line
        self.tasks = list(dict.fromkeys(line["task"] for line in lines))

    def of(self, task, method, recipe, cost, averaged):
        """Return the lines of a result by seed."""
        return self._lines.get((task, method, recipe, cost, averaged), {})

    def recipes(self, method, cost, averaged):
        """Return the recipes with results, in the order of the code."""
        names = list(RECIPES[method])
        names += [name + FITTED for name in names]
        found = {key[2] for key in self._lines if (key[1], key[3], key[4]) == (method, cost, averaged)}
        return [name for name in names if name in found]

    def chosen(self, task, method, cost, averaged):
        """Return the recipe to report for a task: the best on the other tasks' validation data, by its mean rank.

        It is one of those with the most seeds for this task. A rank is among the recipes with results for a task, as a
        fraction. Without other tasks it is the first.
        """
        recipes = self.recipes(method, cost, averaged)
        if method not in CHOSEN:
            return method if method in recipes else None
        seeds = {recipe: len(self.of(task, method, recipe, cost, averaged)) for recipe in recipes}
        recipes = [recipe for recipe in recipes if seeds[recipe] == max(seeds.values()) > 0]
        ranks = {recipe: [] for recipe in recipes}
        for other in self.tasks:
            values = {recipe: self.of(other, method, recipe, cost, averaged) for recipe in recipes}
            values = {recipe: lines for recipe, lines in values.items() if lines}
            if other == task or len(values) < 2:
                continue
            seeds = set.intersection(*(set(lines) for lines in values.values()))
            if not seeds:
                continue
            means = {
                recipe: np.mean([lines[seed]["validation_nll_calibrated"] for seed in seeds])
                for recipe, lines in values.items()
            }
            for place, recipe in enumerate(sorted(means, key=means.get)):
                ranks[recipe].append(place / (len(means) - 1))
        ranked = [recipe for recipe in recipes if ranks[recipe]]
        if not ranked:
            return recipes[0] if recipes else None
        return min(ranked, key=lambda recipe: np.mean(ranks[recipe]))

    def lines(self, task, method, cost, averaged):
        """Return the recipe that is reported, and its lines by seed."""
        recipe = self.chosen(task, method, cost, averaged)
        return recipe, {} if recipe is None else self.of(task, method, recipe, cost, averaged)

    def independents(self, task, seeds):
        """Return the mean calibrated NLL of independent models by their number, for those with results at all seeds."""
        by_count = {1: self.of(task, PLAIN, "plain", 1, False)}
        by_count |= {cost: self.of(task, INDEPENDENT, INDEPENDENT, cost, True) for cost in COSTS[1:]}
        return {
            count: float(np.mean([lines[seed]["nll_calibrated"] for seed in seeds]))
            for count, lines in by_count.items()
            if seeds and set(seeds) <= set(lines)
        }


def deep_ensemble_equivalent(nll, independents):
    """Return how many independent models have this calibrated NLL on average (Ashukha et al., 2020).

    The NLL of `m` models is nearly linear in `1 / m`, so it is interpolated in `1 / m`. NaN if it is worse than that
    of one model; infinity if it is better than that of the most models.

    Args:
        nll: a calibrated NLL.
        independents: a dict from the number of models to their calibrated NLL.
    """
    counts = sorted(independents)
    # More models may be worse by chance.
    nlls = np.minimum.accumulate([independents[count] for count in counts])
    if not counts or nll > nlls[0]:
        return float("nan")
    if nll < nlls[-1]:
        return float("inf")
    return float(1 / np.interp(nll, nlls[::-1], [1 / count for count in counts[::-1]]))


def limit_of_independents(independents):
    """Return the calibrated NLL of ever more independent models: that of a line in `1 / m`, at 0.

    Args:
        independents: a dict from the number of models to their calibrated NLL, of two numbers or more.
    """
    counts = np.array(sorted(independents))
    return float(np.polyfit(1 / counts, [independents[count] for count in counts], 1)[1])


def interval(values):
    """Return the mean and the half width of its 95% interval (t distribution)."""
    from scipy import stats

    values = np.asarray(values)
    if len(values) < 2:
        return float(np.mean(values)), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def paired(lines, others, key):
    """Return the mean of the differences at equal seeds, its half width, and the number of seeds."""
    seeds = sorted(set(lines) & set(others))
    if not seeds:
        return None
    return (*interval([lines[seed][key] - others[seed][key] for seed in seeds]), len(seeds))


def write_report(path):
    """Write the table and the plot beside the results. Return the table, in Markdown."""
    path = pathlib.Path(path)
    lines = read_json_lines(path, LINE, "results of this benchmark: remove that line, or choose other --results")
    if not lines:
        sys.exit(f"There are no results in {path} yet: run without --report first.")
    results = Results(lines)
    text = "\n\n".join([table(results), comparisons(results), limits_table(results), recipes_table(results)])
    path.with_suffix(".md").write_text(text + "\n")
    plot(results, path.with_suffix(".png"))
    return text


def rows_of(results, task):
    """Yield `(method, cost, averaged)` of what is reported of a task."""
    yield PLAIN, 1, False
    for cost in COSTS[1:]:
        for method in list(RECIPES)[1:]:
            for averaged in (False, True):
                if results.lines(task, method, cost, averaged)[1]:
                    yield method, cost, averaged


def table(results):
    lines = [
        "| task | cost | method | models | error % | NLL | calibrated | equivalent | / cost | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for task in results.tasks:
        for method, cost, averaged in rows_of(results, task):
            recipe, found = results.lines(task, method, cost, averaged)
            if not found:
                continue
            name = method if recipe == method else f"{method}, {'averaged' if averaged else 'single'} ({recipe})"
            if method == "snapshots":
                name = f"{method}, {'averaged' if averaged else 'last'}"
            errors = [100 * line["error"] for line in found.values()]
            calibrated = _mean(found, "nll_calibrated")
            independents = results.independents(task, found)
            equivalent = deep_ensemble_equivalent(calibrated, independents)
            models = _mean(found, "members")
            lines.append(
                f"| {task} | {cost} | {name} | {models:.3g} | {_with_error(errors)} | {_mean(found, 'nll'):.4f} | "
                f"{calibrated:.4f} | {_count(equivalent, independents)} | {_count(equivalent, independents, cost)} | "
                f"{len(found)} |"
            )
    return "\n".join(lines)


def _mean(lines, key):
    return float(np.mean([line[key] for line in lines.values()]))


def _with_error(values):
    if len(values) < 2:
        return f"{np.mean(values):.2f}"
    return f"{np.mean(values):.2f} ({np.std(values, ddof=1) / np.sqrt(len(values)):.2f})"


def _count(equivalent, independents, cost=1):
    if not independents:
        return ""
    if np.isnan(equivalent):
        return f"< {1 / cost:.2f}"
    if np.isinf(equivalent):
        return f"> {max(independents) / cost:.2f}"
    return f"{equivalent / cost:.2f}"


def comparisons(results):
    """Paired differences: ours averaged against independents, ours single against one longer model and against them.

    And one student of softened teachers against the last of as many generations.
    """
    lines = [
        "| task | cost | compared | error, points | error, relative % | calibrated NLL, relative % | seeds | NLL |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    pairs = [
        ("ours averaged - independent", (OURS, True), (INDEPENDENT, True)),
        ("ours single - longer", (OURS, False), (LONGER, False)),
        ("ours single - independent averaged", (OURS, False), (INDEPENDENT, True)),
        ("ours unlabeled averaged - independent", (UNLABELED, True), (INDEPENDENT, True)),
        ("ours unlabeled single - longer", (UNLABELED, False), (LONGER, False)),
        ("ours unlabeled single - independent averaged", (UNLABELED, False), (INDEPENDENT, True)),
    ]
    for task in results.tasks:
        plain = results.of(task, PLAIN, "plain", 1, False)
        for cost in COSTS[1:]:
            for name, (method, averaged), (other, other_averaged) in pairs:
                found = results.lines(task, method, cost, averaged)[1]
                lines += _comparison(task, cost, name, found, results.lines(task, other, cost, other_averaged)[1])
            unlabeled = results.lines(task, UNLABELED, cost, False)[1]
            lines += _comparison(task, cost, "ours unlabeled single - plain", unlabeled, plain)
            student, last = (results.of(task, OURS, name, cost, False) for name in (ONE_STUDENT, "chain"))
            lines += _comparison(task, cost, f"{ONE_STUDENT} - chain, single", student, last)
    return "\n".join(lines)


def _comparison(task, cost, name, found, others):
    keys = ("error", "nll_calibrated", "nll")
    differences = [paired(found, others, key) for key in keys]
    if differences[0] is None:
        return []
    bases = [np.mean([line[key] for line in others.values()]) for key in keys]
    points, seeds = _with_interval(*differences[0][:2], 1, 2), differences[0][2]
    pairs = zip(differences, bases, strict=True)
    error, calibrated, nll = (_with_interval(mean, half, base, 1) for (mean, half, _), base in pairs)
    return [f"| {task} | {cost} | {name} | {points} | {error} | {calibrated} | {seeds} | {nll} |"]


def _with_interval(mean, half, base, digits):
    """Return a difference in hundredths of a base, with its interval if there is one: one seed has none."""
    text = f"{100 * mean / base:+.{digits}f}"
    return text if np.isnan(half) else f"{text} ± {100 * half / base:.{digits}f}"


def limits_table(results):
    """What more independent models would gain: their calibrated NLL by their number, and its limit."""
    numbers = " | ".join(map(str, COSTS))
    lines = [f"| task | {numbers} | limit | limit - 4, relative % |", "| --- " * (len(COSTS) + 3) + "|"]
    for task in results.tasks:
        found = results.independents(task, results.of(task, INDEPENDENT, INDEPENDENT, 4, True))
        if len(found) < 2:
            continue
        limit = limit_of_independents(found)
        cells = [f"{found[count]:.4f}" if count in found else "" for count in COSTS]
        lines.append(f"| {task} | {' | '.join(cells)} | {limit:.4f} | {100 * (limit / found[4] - 1):+.1f} |")
    explained = "Calibrated NLL of independent models, averaged, by their number. Limit: of a line in 1 / number, at 0."
    return explained + "\n\n" + "\n".join(lines)


def recipes_table(results):
    """All recipes of ours: error and calibrated NLL against the baseline of the same cost, in percent."""
    lines = ["| recipe | cost | model | " + " | ".join(results.tasks) + " |", "| --- " * (3 + len(results.tasks)) + "|"]
    for method in CHOSEN:
        for averaged in (True, False):
            for cost in COSTS[1:]:
                for recipe in results.recipes(method, cost, averaged):
                    cells = [_against_baseline(results, task, method, recipe, cost, averaged) for task in results.tasks]
                    model = "averaged" if averaged else "single"
                    lines.append(f"| {recipe} | {cost} | {model} | " + " | ".join(cells) + " |")
    explained = "Error and calibrated NLL, in percent of those of as many independent models (averaged), or of one \
model trained as long (single). Negative is better."
    return explained + "\n\n" + "\n".join(lines)


def _against_baseline(results, task, method, recipe, cost, averaged):
    base = INDEPENDENT if averaged else LONGER
    found, others = results.of(task, method, recipe, cost, averaged), results.of(task, base, base, cost, averaged)
    seeds = set(found) & set(others)
    if not seeds:
        return ""
    changes = []
    for key in ("error", "nll_calibrated"):
        ours, theirs = (np.mean([lines[seed][key] for seed in seeds]) for lines in (found, others))
        changes.append(f"{100 * (ours / theirs - 1):+.1f}")
    return ", ".join(changes)


def comparable_error(lines, plain):
    """Return the mean error of a plain model, plus the mean difference at the seeds that both have.

    It is the mean error itself if both have the same seeds.
    """
    differences = [lines[seed]["error"] - plain[seed]["error"] for seed in set(lines) & set(plain)]
    return _mean(plain, "error") + float(np.mean(differences))


def plot(results, path):
    """Draw the error against the cost, one line for each method, one panel for each task."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [
        ("longer", LONGER, False, "C0", "-"),
        ("independent, averaged", INDEPENDENT, True, "C1", "-"),
        ("snapshots, averaged", "snapshots", True, "C2", "-"),
        ("ours, single", OURS, False, "C3", "--"),
        ("ours, averaged", OURS, True, "C3", "-"),
        ("ours with unlabeled data, single", UNLABELED, False, "C4", "--"),
        ("ours with unlabeled data, averaged", UNLABELED, True, "C4", "-"),
    ]
    columns = min(len(results.tasks), min(4, 3, key=lambda number: -len(results.tasks) % number))  # The fewest gaps.
    rows = -(-len(results.tasks) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(3.6 * columns, 3.2 * rows + 0.5), squeeze=False, layout="constrained"
    )
    for axis, task in zip(axes.flat, results.tasks, strict=False):
        plain = results.of(task, PLAIN, "plain", 1, False)
        for label, method, averaged, color, style in shown:
            points = {1: plain, **{cost: results.lines(task, method, cost, averaged)[1] for cost in COSTS[1:]}}
            points = {cost: 100 * comparable_error(lines, plain) for cost, lines in points.items() if lines}
            if set(points) - {1}:
                axis.plot(list(points), list(points.values()), style, color=color, marker="o", ms=3, label=label)
        axis.set(title=task, xscale="log", xlabel="cost (plain trainings)", ylabel="test error (%)")
        axis.set_xticks(COSTS, [str(cost) for cost in COSTS])
        axis.minorticks_off()
    for axis in list(axes.flat)[len(results.tasks) :]:
        axis.remove()
    handles = {handle.get_label(): handle for axis in figure.axes for handle in axis.get_lines()}
    figure.legend(handles=list(handles.values()), loc="outside lower center", ncols=4, fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
