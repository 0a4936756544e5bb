"""Where being born again pays: the table and the plot of `equal_cost.py --border`, from the results alone."""

import pathlib
import sys

import numpy as np
from _user_files import read_json_lines

from equal_cost_tasks.methods import INDEPENDENT, LONGER, OURS, PLAIN
from equal_cost_tasks.report import LINE, Results, interval

_PLAIN, _LONGER = (PLAIN, "plain", 1, False), (LONGER, "longer", 4, False)
_TWICE, _INDEPENDENT = (LONGER, "longer", 2, False), (INDEPENDENT, "independent", 4, True)
_CHAIN, _AVERAGED = (OURS, "chain", 4, False), (OURS, "chain", 4, True)
_HONEST = (OURS, "honest teachers, one student", 4, False)
# By the heading: what is compared with what.
COLUMNS = {
    "longer - plain": (_LONGER, _PLAIN),
    "last of `chain` - longer": (_CHAIN, _LONGER),
    "`honest ...` - longer": (_HONEST, _LONGER),
    "`chain` averaged - independent": (_AVERAGED, _INDEPENDENT),
}


def write_report(path):
    """Write the table and the plot beside the results. Return the table, in Markdown."""
    path = pathlib.Path(path)
    lines = read_json_lines(path, LINE, "results of this benchmark: remove that line, or choose other --results")
    results = Results(lines)
    tasks = [task for task in results.tasks if seeds_of(results, task)]
    if not tasks:
        sys.exit(f"No task has all results in {path} yet: run without --report first.")
    text = "\n\n".join([table(results, tasks), summary(results, tasks)])
    path.with_suffix(".md").write_text(text + "\n")
    plot(results, tasks, path.with_suffix(".png"))
    return text


def seeds_of(results, task):
    """Return the seeds at which a task has all results."""
    needed = {_TWICE, *(each for pair in COLUMNS.values() for each in pair)}
    return sorted(set.intersection(*(set(results.of(task, *each)) for each in needed)))


def changes(results, task, one, other, key="nll_calibrated", seeds=None):
    """Return, for each seed, by how many percent a result is above another one."""
    seeds = seeds_of(results, task) if seeds is None else seeds
    pairs = [(results.of(task, *one)[seed][key], results.of(task, *other)[seed][key]) for seed in seeds]
    return [100 * (value / base - 1) for value, base in pairs]


def table(results, tasks):
    heads = ["task", "seeds", "error of plain, %", *COLUMNS]
    lines = ["| " + " | ".join(heads) + " |", "| --- " * len(heads) + "|"]
    for task in tasks:
        seeds = seeds_of(results, task)
        plain = 100 * np.mean([results.of(task, *_PLAIN)[seed]["error"] for seed in seeds])
        cells = []
        for one, other in COLUMNS.values():
            error = np.mean(changes(results, task, one, other, "error"))
            nll, half = interval(changes(results, task, one, other))
            cells.append(f"{error:+.1f}, {nll:+.1f}" + ("" if np.isnan(half) else f" ± {half:.1f}"))
        lines.append(f"| `{task}` | {len(seeds)} | {plain:.1f} | " + " | ".join(cells) + " |")
    explained = "Error, and calibrated NLL with its 95% interval, in percent of the other's, at a cost of 4."
    return explained + "\n\n" + "\n".join(lines)


def summary(results, tasks):
    """Whether the validation data tell, after one plain training and one of twice the length, what to do next."""
    right, cost, pairs = 0, {"always longer": [], "always `chain`": [], "as the validation data tell": []}, 0
    key = "validation_nll_calibrated"
    for task in tasks:
        for seed in seeds_of(results, task):
            plain, twice, longer, chain = (results.of(task, *each)[seed] for each in (_PLAIN, _TWICE, _LONGER, _CHAIN))
            best = min(longer["nll_calibrated"], chain["nll_calibrated"])
            chosen = longer if twice[key] < plain[key] else chain
            right += chosen["nll_calibrated"] == best
            pairs += 1
            for name, each in zip(cost, (longer, chain, chosen), strict=True):
                cost[name].append(100 * (each["nll_calibrated"] / best - 1))
    lost = ", ".join(f"{name} {np.mean(values):.1f}%" for name, values in cost.items())
    rule = "Rule: if a model that is trained twice as long has a lower calibrated NLL on the validation data, train \
longer; else `chain`."
    return f"{rule} It chooses the better one in {right} of {pairs} runs. NLL above that of the better one: {lost}."


def plot(results, tasks, path):
    """Draw what `chain` gains over longer training against what longer training gains.

    The two axes are of different seeds. Otherwise the errors of `longer`, which is in both, would draw a line.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from scipy import stats

    figure, axis = pyplot.subplots(figsize=(5.6, 4.4), layout="constrained")
    shown = [task for task in tasks if len(seeds_of(results, task)) > 1]
    kinds = dict.fromkeys(task.split("_")[0] for task in shown)
    points = []
    for color, kind in enumerate(kinds):
        for marker, short in (("o", False), ("^", True)):
            own = [task for task in shown if task.split("_")[0] == kind and task.endswith("_short") == short]
            both = []
            for task in own:
                seeds = seeds_of(results, task)
                x = np.mean(changes(results, task, _LONGER, _PLAIN, seeds=seeds[::2]))
                both.append((x, np.mean(changes(results, task, _CHAIN, _LONGER, seeds=seeds[1::2]))))
            if both:
                label = f"{kind}{', short training' if short else ''}"
                axis.plot(*zip(*both, strict=True), marker, color=f"C{color}", ms=5, label=label)
            points += both
    if len(points) > 2:
        correlation = stats.spearmanr(*zip(*points, strict=True))[0]
        axis.set_title(f"{len(points)} tasks, rank correlation {correlation:.2f}", fontsize="medium")
    axis.axhline(0, color="0.7", lw=1, zorder=0)
    axis.axvline(0, color="0.7", lw=1, zorder=0)
    axis.set(xlabel="NLL of four times as long - plain (%)", ylabel="NLL of generation 3 - four times as long (%)")
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
