"""What `scale.py --calibrate` does: measure parts of a sequence, predict whole ones of other sizes, and run those.

The parts are measured warm, in one process, in interleaved rounds, of two sizes: a line through the medians gives what
an example costs, and what a call costs however few there are. What compiling and all that happens once costs is what a
small sequence takes beyond its parts. Whole sequences run in processes of their own, as a user's do; importing is not
counted. Sizes are whole batches, since another shape is compiled anew.
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

from scale import GENERATIONS, as_text, row_bytes
from step_cost import compile_arguments, measured, setting

BATCH = 64
CLOCKS = ("CPU", "wall")


def run(arguments):
    os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.one:
        return print(json.dumps(whole(arguments.model, *sizes_of(arguments.one))))
    import rich.box
    from rich.table import Table

    small = [sizes_of(f"{count}x1") for count in arguments.small]
    costs, first, passes = parts(arguments.model, [count for count, _ in small], arguments.rounds)
    made = Table("", "ms an example", "ms a call", "first call, s", box=rich.box.MARKDOWN)
    for name, (slope, intercept) in costs.items():
        made.add_row(
            name, *(f"{1000 * each[0]:.3f} ({1000 * each[1]:.3f})" for each in (slope, intercept)), first[name]
        )
    print(f"What was measured, CPU seconds (wall seconds)\n\n{as_text(made)}\n")
    for line in passes:
        print(line)

    wanted = [small[0], *(sizes_of(text) for text in arguments.sizes)]
    runs = [[apart(arguments, count, epochs) for count, epochs in wanted] for _ in range(arguments.repeats)]
    taken = [[statistics.median(each[i][clock] for each in runs) for clock in (0, 1)] for i in range(len(wanted))]
    length = {count: len(setting(arguments.model, count)[1]) for count, _ in wanted}
    once = [taken[0][clock] - of_parts(costs, length[small[0][0]], 1, clock) for clock in (0, 1)]
    print(f"\nonce in a sequence, compiling above all: {once[0]:.2f} CPU seconds ({once[1]:.2f} wall seconds)\n")
    columns = [f"{clock} s, {what}" for clock in CLOCKS for what in ("predicted", "measured", "error")]
    made = Table("examples", "epochs", *columns, box=rich.box.MARKDOWN)
    for (count, epochs), measured_seconds in list(zip(wanted, taken, strict=True))[1:]:
        cells = []
        for clock in (0, 1):
            predicted = once[clock] + of_parts(costs, length[count], epochs, clock)
            error = predicted / measured_seconds[clock] - 1
            cells += [f"{predicted:.1f}", f"{measured_seconds[clock]:.1f}", f"{error:+.1%}"]
        made.add_row(f"{length[count]:,}", str(epochs), *cells)
    print(f"Sequences of 1 + {GENERATIONS} generations, {arguments.model}\n\n{as_text(made)}\n")
    print(about(arguments))


def parts(model, counts, rounds):
    """`(costs, first calls, lines)`: of each part `((slope CPU, wall), (intercept CPU, wall))`."""
    import keras

    keras.utils.set_random_seed(0)
    calls, lengths, first = {}, [], {}
    for count in counts:
        build, x, y = setting(model, count)
        lengths.append(len(x))
        made = parts_of(build, x, y)
        for name, call in made.items():
            calls[name, len(x)] = call
            cpu, wall = measured(call)  # compiles
            first.setdefault(name, f"{cpu:.2f} ({wall:.2f})")
        lines = pipeline(build, x, made)
    spent = {key: [] for key in calls}
    order = list(calls)
    for number in range(rounds):
        for key in order[number % len(order) :] + order[: number % len(order)]:
            spent[key].append(measured(calls[key]))
    medians = {
        key: [statistics.median(each[clock] for each in times) for clock in (0, 1)] for key, times in spent.items()
    }
    return {name: line_through(*((n, medians[name, n]) for n in lengths)) for name in first}, first, lines


def parts_of(build, x, y):
    """The parts that a sequence is made of, by name: functions without arguments."""
    import keras_ban

    plain, student = build(), build()
    plain.compile(**compile_arguments())
    distiller = keras_ban.Distiller(student=student)
    distiller.compile(**compile_arguments())
    targets = keras_ban.SoftTargets.from_teacher(plain, x, BATCH, verbose=0)
    options = {"batch_size": BATCH, "verbose": 0}
    return {
        "step, plain": lambda: plain.fit(x, y, **options),
        "step, soft targets cached": lambda: distiller.fit(x, y, soft_targets=targets, **options),
        "teacher's pass": lambda: keras_ban.SoftTargets.from_teacher(plain, x, BATCH, verbose=0),
        "evaluation": lambda: plain.evaluate(x, y, **options),
        "prediction": lambda: plain.predict(x, **options),
    }


def line_through(first, second):
    """`(slope, intercept)`, each `(CPU, wall)`, of seconds at two numbers of examples."""
    (few, seconds_few), (many, seconds_many) = first, second
    slope = [(more - less) / (many - few) for less, more in zip(seconds_few, seconds_many, strict=True)]
    return slope, [less - each * few for less, each in zip(seconds_few, slope, strict=True)]


def of_parts(costs, examples, epochs, clock):
    """Seconds of a sequence but for what happens once; it validates on a quarter of as many examples."""

    def seconds(name, count):
        slope, intercept = costs[name]
        return slope[clock] * count + intercept[clock]

    plain, student = (seconds(f"step, {how}", examples) for how in ("plain", "soft targets cached"))
    validation, prediction = (seconds(name, examples // 4) for name in ("evaluation", "prediction"))
    each = (epochs + 1) * validation + prediction
    return (
        epochs * plain
        + GENERATIONS * (epochs * student + seconds("teacher's pass", examples))
        + each * (GENERATIONS + 1)
    )


def whole(model, count, epochs):
    """`(CPU seconds, wall seconds)` of a whole sequence."""
    import keras_ban

    build, x, y = setting(model, count)
    quarter = len(x) // 4
    data = {"validation_data": (x[:quarter], y[:quarter]), "batch_size": BATCH, "epochs": epochs, "verbose": 0}

    def train():
        sequence = keras_ban.BornAgainSequence(build(), generations=GENERATIONS, seed=0)
        sequence.compile(**compile_arguments())
        sequence.fit(x, y, **data)

    return measured(train)


def apart(arguments, count, epochs):
    """The same, in a process of its own."""
    command = [sys.executable, str(pathlib.Path(__file__).with_name("scale.py")), "--one", f"{count}x{epochs}"]
    command += ["--backend", arguments.backend, "--model", arguments.model]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def pipeline(build, x, made):
    """Lines on bytes an example, and on what reading them and picking the largest takes."""
    import keras
    import numpy as np

    import keras_ban

    targets = made["teacher's pass"]()
    classes, outputs = targets.shape[-1], int(np.prod(targets.shape[1:-1], dtype=int))
    lines = [
        f"bytes an example: {x.nbytes // len(x):,} of inputs, {targets.nbytes // len(x):,} of dense soft targets "
        f"(by formula {row_bytes(classes, outputs) + 8:,}); top_k=20 {row_bytes(classes, outputs, 20) + 8:,} by formula"
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "targets.npy")
        targets.save(path)
        mapped = keras_ban.SoftTargets.load(path)
        order = np.random.default_rng(0).permutation(len(x))

        def read():
            for start in range(0, len(x), BATCH):
                x[order[start : start + BATCH]], mapped.batch(order[start : start + BATCH])

        read()
        seconds = statistics.median(measured(read)[1] for _ in range(5))
    lines.append(
        f"inputs and soft targets read in a random order, from a file: {len(x) / seconds:,.0f} examples a second"
    )

    rows, classes = 256, 50_000
    inputs = keras.Input((1,), dtype="int32")
    embedding = keras.layers.Embedding(rows, classes)
    teacher = keras.Model(inputs, embedding(inputs)[:, 0])
    numbers = np.arange(rows, dtype="int32")[:, None]

    def say(top_k):
        return lambda: keras_ban.SoftTargets.from_teacher(teacher, numbers, BATCH, top_k=top_k, verbose=0)

    def median(call):
        call()
        return statistics.median(measured(call)[0] for _ in range(5))

    alone = median(
        lambda: [teacher.predict_on_batch(numbers[start : start + BATCH]) for start in range(0, rows, BATCH)]
    )
    for how, top_k in (("dense", None), ("top_k=20", 20)):
        rate = rows * classes / (median(say(top_k)) - alone)
        lines.append(
            f"rows made of outputs of {classes:,} classes, {how}: {rate / 1e6:,.0f} million outputs a second, CPU"
        )
    return lines


def sizes_of(text):
    """`(examples, epochs)` of `"768x3"`."""
    count, epochs = (int(part) for part in text.split("x"))
    if count % (4 * BATCH):
        raise SystemExit(f"{count} examples are no whole batches: choose multiples of {4 * BATCH}.")
    return count, epochs


def about(arguments):
    from _figures import versions

    named = " | ".join(f"{name} {version}" for name, version in versions(arguments.backend).items())
    return (
        f"{named} | {platform.platform()} | {os.cpu_count()} CPUs, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}, load {os.getloadavg()[0]:.1f} | seed 0 | parts of "
        f"{' and '.join(map(str, arguments.small))} examples, medians of {arguments.rounds} rounds; sequences, medians "
        f"of {arguments.repeats}"
    )
