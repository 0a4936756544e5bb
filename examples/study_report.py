"""What a study found: a table, a plot, the winner's test figures, and results.json."""

import io
import json
import os
import sys

import keras
import numpy as np
import user_files
from rich import box
from rich.console import Console
from rich.table import Table
from tuning import validation_loss

import keras_ban

CHOSEN, OTHERS = "#c55a11", "#1f4e79"


def report(lineages, options, load_test):
    """Print and write everything.

    Args:
        lineages: `tuning.Lineages`, whose search has ended.
        options: the command line's.
        load_test: a function that returns the test data; called for the winner, and once.
    """
    seeds, histories = lineages.seeds, lineages.histories
    finished = {
        setting: [histories[setting, seed] for seed in seeds]
        for setting in lineages.settings
        if all((setting, seed) in histories for seed in seeds)
    }
    failed = [setting for setting in lineages.settings if setting not in finished]
    if not finished:
        sys.exit("No setting has come to its end with every seed: there is no winner.")
    losses = {
        setting: [validation_loss(history, options.choose_by) for history in of_seeds]
        for setting, of_seeds in finished.items()
    }
    ranking = sorted(losses, key=lambda setting: np.mean(losses[setting]))
    winner = ranking[0]
    print_table(finished, ranking, len(seeds), options.choose_by)
    for setting in failed:
        print(f"{setting}: a lineage became NaN, so the setting cannot win")
    if len(ranking) > 1:
        print(compared(winner, ranking[1], np.subtract(losses[ranking[1]], losses[winner])))
    draw(finished, ranking, options.out / "study.png")

    path = options.out / "results.json"
    looks = read_looks(options.out)
    look = {"winner": winner, "seeds": seeds, "generations": options.generations, "choose_by": options.choose_by}
    if not looks or {name: looks[-1][name] for name in look} != look:
        if looks:
            print(
                f"The test data have been looked at {len(looks)} time(s) before, for {looks[-1]['winner']} last. The "
                "more often they are, the more they flatter."
            )
        x, y = load_test()
        sequences = [keras_ban.BornAgainSequence.load(lineages.lineage(winner, seed)) for seed in seeds]
        looks.append({**look, "histories": [sequence.evaluate(x, y).to_dict() for sequence in sequences]})
    print_test(looks[-1]["histories"])
    best = seeds[int(np.argmin(losses[winner]))]
    print(f"By its validation loss, the one to take: {lineages.lineage(winner, best)}")
    write(path, results(lineages, options, winner, looks))
    print(f"{options.out}/ holds study.png, results.json and lineages/")


def read_looks(out):
    """What was seen of the test data before, by `results.json`: one that is damaged would begin to count anew."""
    path = out / "results.json"
    look = {"winner": str, "seeds": [int], "generations": int, "choose_by": str, "histories": [dict]}
    wanted = "the results of a study: restore it from a copy, move it away, or choose another --out"

    def convert(file):
        looks = user_files.parse_json(file.read(), {"test_looks": [look]})["test_looks"]
        for each in looks:
            for history in map(keras_ban.BornAgainHistory.from_dict, each["histories"]):
                if not isinstance(history.ensemble, type(history.records[0].scores)) or history.ensemble is None:
                    raise ValueError("a history lacks scores")
        return looks

    return user_files.read(path, convert, wanted) if os.path.lexists(path) else []


def print_table(finished, ranking, count, choose_by):
    table = Table(title=f"Settings on the validation data: mean of {count} seeds (standard error)", box=box.SIMPLE_HEAD)
    table.add_column("\nsetting", overflow="fold")
    for name in ("best generation", "ensemble"):
        table.add_column(f"{name}\nloss", justify="right")
        table.add_column("\naccuracy", justify="right")
    table.add_column("\nminutes", justify="right")
    for setting in ranking:
        cells = [cell for part in (1, 2) for cell in figures(finished[setting], part)]
        seconds = sum(record.seconds for history in finished[setting] for record in history.records)
        table.add_row(setting + (" *" if setting == ranking[0] else ""), *cells, f"{seconds / 60:.1f}")
    table.add_section()
    table.add_row("generation 0 of the winner", *figures(finished[ranking[0]], 0), "", "", "")
    show(table)
    what = "best generation" if choose_by == "generation" else "ensemble"
    print(f"* the winner, by the loss of the {what}")


def figures(histories, part):
    """Loss and accuracy of one of `parts_of`, over the seeds, as text."""
    scores = [parts_of(history)[part] for history in histories]
    return with_error([each.nll for each in scores], ".4f"), f"{np.mean([each.accuracy for each in scores]):.2%}"


def show(table):
    """Print the same text on a terminal and into a file."""
    text = io.StringIO()
    Console(file=text, width=120, color_system=None, markup=False, emoji=False).print(table)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))


def print_test(histories):
    histories = [keras_ban.BornAgainHistory.from_dict(history) for history in histories]
    examples = histories[0].ensemble.examples
    table = Table(title=f"The winner on the test data ({examples} examples)", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in ("accuracy, %", "change, points", "loss"):
        table.add_column(name, justify="right")
    parts = [parts_of(history) for history in histories]
    accuracies = 100 * np.array([[scores.accuracy for scores in part] for part in parts])
    for column, name in enumerate(("generation 0", "best generation", "ensemble")):
        change = with_error(accuracies[:, column] - accuracies[:, 0], "+.2f") if column else ""
        losses = [part[column].nll for part in parts]
        table.add_row(name, with_error(accuracies[:, column], ".2f"), change, with_error(losses, ".4f"))
    show(table)
    print("best generation: by the validation loss. change: against generation 0 of the same seed")


def parts_of(history):
    """The `Scores` of generation 0, of the best generation and of the ensemble."""
    return history.records[0].scores, history.records[history.best_generation].scores, history.ensemble


def compared(winner, second, differences):
    """Whether the seeds tell the winner from the next, in words."""
    unsure = len(differences) == 1 or np.mean(differences) < 2 * np.std(differences, ddof=1) / len(differences) ** 0.5
    verdict = ": that may be chance" if unsure else ""
    return f"{winner}: lower than {second} by {with_error(differences, '.4f')}, seed by seed{verdict}"


def with_error(values, form):
    """The mean and, in brackets, its standard error."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{np.mean(values):{form}} ({np.std(values, ddof=1) / np.sqrt(len(values)):{form.lstrip('+')}})"


def draw(finished, ranking, path):
    """A line for each setting, a dot for each seed, a bar for the mean: best generations, and ensembles."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.6 + 0.5 * len(ranking)), layout="constrained")
    axis = figure.subplots()
    for row, setting in enumerate(ranking):
        colour = CHOSEN if row == 0 else OTHERS
        parts = [parts_of(history) for history in finished[setting]]
        for column, shift, face, name in ((1, -0.13, colour, "best generation"), (2, 0.13, "white", "ensemble")):
            losses = [part[column].nll for part in parts]
            label = f"{name} of a seed" if row == min(1, len(ranking) - 1) else None
            height = row + shift
            axis.scatter(losses, [height] * len(losses), s=30, color=colour, facecolor=face, zorder=3, label=label)
            axis.vlines(np.mean(losses), height - 0.12, height + 0.12, color=colour, linewidth=2, zorder=2)
    axis.set_yticks(range(len(ranking)), ranking)
    axis.get_yticklabels()[0].set(color=CHOSEN, fontweight="bold")
    axis.invert_yaxis()
    axis.set_xlabel("loss on the validation data (nats); bar: mean")
    axis.grid(axis="x", alpha=0.3)
    figure.legend(frameon=False, loc="outside upper right", ncols=2)
    figure.savefig(path, dpi=150)


def results(lineages, options, winner, looks):
    """Plain data: each lineage's figures on the validation data, and what was seen of the test data."""
    rows = []
    for (setting, seed), history in sorted(lineages.histories.items()):
        best = history.records[history.best_generation]
        rows.append(
            {
                "setting": setting,
                "seed": seed,
                "directory": str(lineages.lineage(setting, seed).relative_to(options.out)),
                "value": validation_loss(history, options.choose_by),
                "best_generation": history.best_generation,
                "val_loss": best.metrics["val_loss"],
                "val_accuracy": best.scores.accuracy,
                "ensemble_val_loss": history.ensemble.nll,
                "ensemble_val_accuracy": history.ensemble.accuracy,
                "seconds": sum(record.seconds for record in history.records),
            }
        )
    told = ("objectives", "temperatures", "label_weights", "seeds", "generations", "epochs", "choose_by")
    return {
        "options": {name: getattr(options, name) for name in told} | {"data": str(options.data or "digits")},
        "backend": keras.config.backend(),
        "versions": {module.__name__: module.__version__ for module in (keras, keras_ban, np)},
        "winner": winner,
        "lineages": rows,
        "test_looks": looks,
    }


def write(path, data):
    """Whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(data, indent=2) + "\n")
    os.replace(partial, path)
