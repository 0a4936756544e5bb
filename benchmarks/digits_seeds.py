"""Run `examples/digits.py` for several seeds, and report the mean change of each generation against its teacher.

    python benchmarks/digits_seeds.py --backend jax --seeds 0 1 2 3 4

Each seed is another split into training, validation and test images as well as other initial weights. Results of a
seed that are already in `--out` are read, not computed again.
"""

import argparse
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np
from _figures import mean, versions
from _user_files import read
from rich.console import Console
from rich.table import Table

DIGITS = pathlib.Path(__file__).resolve().parent.parent / "examples" / "digits.py"


def main():
    arguments, for_digits = parse_arguments()
    os.environ["KERAS_BACKEND"] = arguments.backend
    import keras_ban

    def read_history(file):
        return keras_ban.BornAgainHistory.from_json(file.read())

    histories = []
    for seed in arguments.seeds:
        out = pathlib.Path(arguments.out) / arguments.backend / f"seed-{seed}"
        if not (out / "history.json").exists():
            options = ["--backend", arguments.backend, "--seed", str(seed), "--out", str(out), *for_digits]
            subprocess.run([sys.executable, str(DIGITS), *options], check=True)
        wanted = f"a history: remove {out}, and the seed is run again"
        histories.append(read(out / "history.json", read_history, wanted))

    table = Table(title=f"{len(histories)} seeds on {arguments.backend}: mean (standard error)")
    for column in ("generation", "accuracy %", "NLL", "ECE %", "change against its teacher", "negative flips %"):
        table.add_column(column, justify="right")
    rows = list(zip(*[[record.scores for record in history.records] for history in histories], strict=True))
    names = [str(generation) for generation in range(len(rows))]
    for name, scores in zip([*names, "ensemble (against 0)"], [*rows, [h.ensemble for h in histories]], strict=True):
        table.add_row(name, *cells(scores))
    chosen = [history.records[history.best_generation].scores.accuracy for history in histories]
    first = [history.records[0].scores.accuracy for history in histories]
    Console(width=110).print(table)
    print("chosen by validation loss, against generation 0:", mean(100 * (np.array(chosen) - np.array(first)), "+.2f"))
    ran_on = [f"{name} {version}" for name, version in versions(arguments.backend).items()]
    print("seeds", arguments.seeds, "|", *ran_on, "|", platform.platform())


def cells(scores):
    changed = scores[0].compared_with is not None
    return [
        mean([100 * s.accuracy for s in scores], ".2f"),
        mean([s.nll for s in scores], ".3f"),
        mean([100 * s.ece for s in scores], ".2f"),
        mean([100 * s.change for s in scores], "+.2f") if changed else "",
        mean([100 * s.negative_flips / s.examples for s in scores], ".2f") if changed else "",
    ]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Other options go to examples/digits.py."
    )
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--out", default="runs/digits_seeds", help="default: runs/digits_seeds")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
