"""Run `examples/language_model.py` for several seeds, and report perplexities and what each generation gains.

    python benchmarks/language_model_seeds.py --backend jax --seeds 0 1 2 --text book.txt --epochs 6

Each seed has other initial weights, dropout and order of the sequences, on the same text. Results of a seed that are
already in `--out` are read, not computed again; all of them are in `results.jsonl` there, a line for each seed.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys

import numpy as np
from _figures import mean, versions
from _user_files import read_json

EXAMPLE = pathlib.Path(__file__).resolve().parent.parent / "examples" / "language_model.py"
RESULTS = {"settings": dict, "best_generation": int, "validation": [float], "test": [float], "seconds": [float]}


def main():
    arguments, for_example = parse_arguments()
    out = pathlib.Path(arguments.out)
    results = []
    for seed in arguments.seeds:
        folder = out / f"seed-{seed}"
        if not (folder / "perplexity.json").exists():
            options = ["--backend", arguments.backend, "--seed", str(seed), "--out", str(folder), *for_example]
            subprocess.run([sys.executable, str(EXAMPLE), *options], check=True)
        wanted = f"results of examples/language_model.py: remove {folder}, and the seed is run again"
        results.append(read_json(folder / "perplexity.json", RESULTS, wanted))
    (out / "results.jsonl").write_text("".join(json.dumps(result) + "\n" for result in results))

    validation, test = (np.array([result[part] for result in results]) for part in ("validation", "test"))
    gains = 100 * (1 - test / test[:, :1])
    print(f"{len(results)} seeds on {arguments.backend}: mean (standard error)\n")
    print("| | validation perplexity | test perplexity | lower than generation 0's, % |")
    print("| --- | --- | --- | --- |")
    last = test.shape[1] - 1
    for i in range(last + 1):
        name = f"ensemble of all {last}" if i == last else f"generation {i}"
        gain = mean(gains[:, i], "+.2f") if i else ""
        print(f"| {name} | {mean(validation[:, i], '.2f')} | {mean(test[:, i], '.2f')} | {gain} |")
    best = [result["best_generation"] for result in results]
    chosen = gains[np.arange(len(best)), best]
    print(f"\nchosen by validation perplexity, generations {best}: {mean(chosen, '+.2f')} % lower than generation 0's")
    os.environ["KERAS_BACKEND"] = arguments.backend
    ran_on = [f"{name} {version}" for name, version in versions(arguments.backend).items()]
    print("seeds", arguments.seeds, "| settings", results[0]["settings"], "|", *ran_on, "|", platform.platform())


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Other options go to examples/language_model.py."
    )
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--out", default="runs/language_model_seeds", help="default: runs/language_model_seeds")
    return parser.parse_known_args()


if __name__ == "__main__":
    main()
