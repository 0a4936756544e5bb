"""Break the code in one place at a time, and see whether the tests notice.

    pip install cosmic-ray
    python benchmarks/mutants.py --backend torch --mutants 100

The mutants are those of cosmic-ray (https://cosmic-ray.readthedocs.io): another operator, another number, a condition
reversed, a decorator or a loop left out. A sample is drawn from all that a part of the package has, by `--seed`; each
is written into a copy of the repository, and the tests of that part are run on it until the first that fails, in a
process forked from one that has imported the backend already. A mutant that no test notices survives. It is printed as
a diff: it is a test that is missing, or code that does nothing. Needs `fork`, so no Windows.
"""

import argparse
import collections
import difflib
import os
import pathlib
import random
import shutil
import signal
import sys
import tempfile
import time

PARTS = {
    "losses": (["losses"], ["knowledge_distillation", "losses", "permuted", "schedules"]),
    "targets": (
        ["targets", "files/row_file"],
        ["targets", "keyed_targets", "paired_targets", "shards", "soft_target_choice", "augmentation"],
    ),
    "ensemble": (["sequence/ensemble"], ["ensemble"]),
    "runs": (["runs"], ["run_directory", "run_differences", "runs", "faults", "shuffling"]),
}
ROOT = pathlib.Path(__file__).resolve().parent.parent
# Of its 213 operators those that change what is computed; the others swap each arithmetic operator by each.
SWAPS = {
    "Add_Sub",
    "Sub_Add",
    "Mul_Div",
    "Div_Mul",
    "Pow_Mul",
    "Mod_Mul",
    "FloorDiv_Mul",
    "BitOr_BitAnd",
    "BitAnd_BitOr",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="torch", help="default: torch")
    parser.add_argument("--parts", choices=PARTS, nargs="+", default=list(PARTS), help="default: all")
    parser.add_argument("--mutants", type=int, default=100, help="of each part at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=120, help="a mutant that takes longer is found (default: 120)")
    options = parser.parse_args()
    os.environ |= {"KERAS_BACKEND": options.backend, "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, "repository")
        shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "runs"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        import_what_is_not_mutated()
        for part in options.parts:
            run_part(copy, part, options)


def import_what_is_not_mutated():
    import keras
    import numpy as np
    import pytest  # noqa: F401

    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).predict(np.zeros((1, 2)), verbose=0)


def run_part(copy, part, options):
    names, tests = PARTS[part]
    files = [
        file
        for name in names
        for file in sorted([*copy.glob(f"keras_ban/_src/{name}.py"), *copy.glob(f"keras_ban/_src/{name}/*.py")])
    ]
    tests = [str(copy / "tests" / f"test_{name}.py") for name in tests]
    if outcome(copy, tests, 10 * options.seconds) != "survived":
        sys.exit(f"The tests of {part} fail without any mutant.")
    every = [mutant for file in files for mutant in mutants_of(file)]
    sample = random.Random(options.seed).sample(every, min(options.mutants, len(every)))
    counts = collections.Counter()
    for file, operator, occurrence in sample:
        code = file.read_text()
        mutated = mutate(code, operator, occurrence)
        file.write_text(mutated)
        try:
            what = outcome(copy, tests, options.seconds)
        finally:
            file.write_text(code)
        counts[what] += 1
        if what == "survived":
            diff = difflib.unified_diff(code.splitlines(), mutated.splitlines(), file.name, operator, n=0, lineterm="")
            print("\n".join(diff), flush=True)
    found = len(sample) - counts["survived"]
    print(
        f"{part}: {found} of {len(sample)} found ({found / len(sample):.1%}), of {len(every)}: {dict(counts)}",
        flush=True,
    )


def mutants_of(file):
    """`(file, operator, occurrence)` of each mutant that is not the code itself."""
    from cosmic_ray import plugins

    code = file.read_text()
    for operator in plugins.operator_names():
        name = operator.split("/")[-1]
        if name.startswith("ReplaceBinaryOperator_") and name.removeprefix("ReplaceBinaryOperator_") not in SWAPS:
            continue
        if plugins.get_operator(operator).arguments():
            continue  # It wants to be told which variable.
        if name.endswith(("_Is", "_IsNot")) and name.split("_")[1] not in ("Is", "IsNot"):
            continue  # Of small numbers the same as what it replaces.
        occurrence = 0
        while (mutated := mutate(code, operator, occurrence)) is not None:
            if mutated != code:
                yield file, operator, occurrence
            occurrence += 1


def mutate(code, operator, occurrence):
    """The mutated code; `None` where there are fewer occurrences."""
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    mutated = mutate_code(code.encode(), plugins.get_operator(operator)(), occurrence)
    return mutated if mutated is None or isinstance(mutated, str) else mutated.decode()


def outcome(copy, tests, seconds):
    """`survived`, `failed`, or `too long`, of the tests in a forked process."""
    process = os.fork()
    if process == 0:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ["PYTHONPATH"] = str(copy)
        import pytest

        # Tests that start processes wait for ever in a fork.
        marked = "not slow and not new_process"
        os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", marked, *tests])))
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return "failed" if status else "survived"
        time.sleep(0.02)
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return "too long"


if __name__ == "__main__":
    main()
