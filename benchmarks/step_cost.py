"""What distillation costs: epochs of several kinds, interleaved in one process, against a plain Keras epoch.

    python benchmarks/step_cost.py --backend jax

Ratios are medians over rounds, each round's epochs one after another in an order that rotates; CPU time is that of the
process (`time.process_time`), which other work on the machine disturbs less than wall time. The sequence of 1 + 3
generations is measured whole, soft targets, evaluation and compilation included, against four plain `fit` calls; what
compiling costs each generation is the CPU time of its first epoch beyond that of the others. `--memory` also trains
each kind in a process of its own, and reports its peak; `--imports` times `import keras_ban` after `import keras`.

`--host` measures a model of almost no weights alone, which shows the work of the host that a fast device would wait
for. A fit of three epochs costs two epochs more than one of one epoch: so much is the cost of steps. The rest is the
cost of a fit. Both are the smallest of all rounds, since other work on the machine only adds.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

KINDS = ("plain", "keras.distillation", "online", "cached", "cached top-k")


def main():
    arguments = parse_arguments()
    os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.peak_of:
        return print_peak(*arguments.peak_of, arguments.size)
    # First of all, since Linux counts the size of the process that starts another as that other's peak.
    notes = {name: [memory(name, arguments)] if arguments.memory else [] for name in arguments.models}
    import keras
    from rich.console import Console
    from rich.table import Table

    keras.utils.set_random_seed(0)
    if arguments.host:
        return print_host(arguments)
    table = Table(title=f"Ratio to a plain epoch on {arguments.backend}: CPU time (wall time)")
    table.add_column("")
    for name in arguments.models:
        table.add_column(name, justify="right")
    results = {}
    for name in arguments.models:
        build, x, y = setting(name, arguments.size)
        results[name] = epochs(build, x, y, arguments.rounds)
        if arguments.sequences:
            results[name]["sequence of 1 + 3"] = sequences(build, x, y, arguments.epochs, arguments.sequences)
            notes[name] += compiling(build, x, y, arguments.epochs)
    for kind in (*KINDS[1:], "sequence of 1 + 3"):
        cells = [results[name].get(kind) for name in arguments.models]
        if any(cells):
            table.add_row(kind, *(f"{cell[0]:.3f} ({cell[1]:.3f})" if cell else "" for cell in cells))
    seconds = [f"{results[name]['plain'][0]:.2f}" for name in arguments.models]
    table.add_row("plain epoch, CPU seconds", *seconds)
    Console(width=110).print(table)
    for name in arguments.models:
        for line in notes[name]:
            print(f"{name}: {line}")
    if arguments.imports:
        print(imports(arguments.imports))
    print_versions(arguments.backend)
    print(f"seed 0 | {arguments.rounds} rounds of {arguments.size} examples")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f} MiB")


def print_versions(backend):
    import keras

    import keras_ban

    versions = f"keras {keras.__version__} | {backend} {__import__(backend).__version__} | {platform.platform()}"
    threads = f"{os.cpu_count()} CPUs, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}"
    print(f"keras_ban {keras_ban.__version__} | {versions} | {threads}")


def print_host(arguments):
    """What a step and a fit cost on the host beyond those of plain Keras, in milliseconds of CPU time."""
    from rich.console import Console
    from rich.table import Table

    # Inputs of a few bytes show steps: copying larger ones takes most of a step. Few steps show fits.
    small, images = (16,), (32, 32, 3)
    of_steps, of_fits, of_images = (
        host_costs(shape, steps, arguments.rounds) for shape, steps in ((small, 60), (small, 4), (images, 4))
    )
    size = 4 * 256 * 4 * 32 * 32 * 3 / 1e6
    table = Table(title=f"CPU milliseconds of the host on {arguments.backend}, and beyond plain Keras")
    table.add_column("")
    for column in ("a step", "a fit", f"a fit of {size:.1f} MB", "the first fit"):
        table.add_column(column, justify="right")
    columns = (of_steps["step"], of_fits["fit"], of_images["fit"], of_images["first"])
    for kind in of_steps["step"]:
        costs = [(column[kind], column[kind] - column["plain"]) for column in columns]
        table.add_row(kind, *(f"{cost:.2f} ({more:+.2f})" for cost, more in costs))
    Console(width=110).print(table)
    print_versions(arguments.backend)
    print(f"seed 0 | {arguments.rounds} rounds | batches of 256 examples: 60 of shape {small} for a step, 4 for a fit")


def host_costs(shape, steps, rounds):
    """Milliseconds of CPU time by kind: of a `"step"`, a `"fit"`, and the `"first"` one, with what it compiles."""
    import keras
    import numpy as np

    layers, rng = keras.layers, np.random.default_rng(0)
    x, y = rng.random((steps * 256, *shape), "float32"), rng.integers(0, 10, steps * 256)
    flat = [layers.GlobalAveragePooling2D()] if len(shape) > 1 else []
    build = lambda: keras.Sequential([keras.Input(shape), *flat, layers.Dense(10)])  # noqa: E731
    teacher, fits, first = build(), {}, {}
    for kind in KINDS:
        if kind != "cached top-k" and (kind != "keras.distillation" or hasattr(keras, "distillation")):
            fits[kind] = fit_of(kind, build, teacher, x, y)
            first[kind] = 1000 * measured(lambda: fits[kind](batch_size=256))[0]  # noqa: B023
    spent = {(kind, epochs): [] for kind in fits for epochs in (1, 3)}
    for _ in range(rounds):
        for kind, epochs in spent:
            spent[kind, epochs].append(measured(lambda: fits[kind](batch_size=256, epochs=epochs))[0])  # noqa: B023
    least = {key: 1000 * min(times) for key, times in spent.items()}
    epoch = {kind: (least[kind, 3] - least[kind, 1]) / 2 for kind in fits}
    fit = {kind: least[kind, 1] - epoch[kind] for kind in fits}
    return {"step": {kind: epoch[kind] / steps for kind in fits}, "fit": fit, "first": first}


def setting(name, size):
    """`(build, x, y)`: a function that makes a model, and data of random numbers for it."""
    import keras
    import numpy as np

    layers, rng = keras.layers, np.random.default_rng(0)
    if name == "MLP":

        def build():
            stack = [layers.Dense(512, activation="relu") for _ in range(2)]
            return keras.Sequential([keras.Input((784,)), *stack, layers.Dense(100)])

        return build, rng.standard_normal((8 * size, 784)).astype("float32"), rng.integers(0, 100, 8 * size)
    if name == "ResNet":

        def build():
            inputs = x = keras.Input((32, 32, 3))
            x = layers.Conv2D(16, 3, padding="same")(x)
            for filters, strides in ((16, 1), (32, 2), (64, 2)):
                skip = layers.Conv2D(filters, 1, strides=strides)(x)
                for step in (strides, 1):
                    x = layers.ReLU()(layers.BatchNormalization()(x))
                    x = layers.Conv2D(filters, 3, strides=step, padding="same", use_bias=False)(x)
                x = layers.Add()([x, skip])
            x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
            return keras.Model(inputs, layers.Dense(100)(x))

        return build, rng.random((size, 32, 32, 3), "float32"), rng.integers(0, 100, size)

    def build():
        embedding = [keras.Input((32,), dtype="int32"), layers.Embedding(200, 64)]
        return keras.Sequential([*embedding, layers.LSTM(128, return_sequences=True), layers.Dense(200)])

    tokens = rng.integers(0, 200, (size, 33))
    return build, tokens[:, :-1], tokens[:, 1:]


def compile_arguments():
    import keras

    return {
        "optimizer": keras.optimizers.SGD(0.01, momentum=0.9),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }


def fit_of(kind, build, teacher, x, y):
    """A function that trains a new student for an epoch."""
    import keras

    import keras_ban

    student, options = build(), {}
    if kind == "plain":
        model = student
    elif kind == "keras.distillation":
        # With a loss object, since the default, a string, leaves the softmax out.
        loss = keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence(), temperature=1.0)
        model = keras.distillation.Distiller(teacher, student, loss, student_loss_weight=0.5)
    elif kind == "online":
        model = keras_ban.Distiller(student=student, teacher=teacher)
    else:
        top_k = 10 if kind == "cached top-k" else None
        model = keras_ban.Distiller(student=student)
        targets = keras_ban.SoftTargets.from_teacher(teacher, x, 64, top_k=top_k, verbose=0)
        options = {"soft_targets": targets}
    model.compile(**compile_arguments())
    return lambda batch_size=64, **more: model.fit(x, y, batch_size=batch_size, verbose=0, **options, **more)


def epochs(build, x, y, rounds):
    import keras

    teacher = build()
    fits = {}
    for kind in KINDS:
        if kind == "keras.distillation" and not hasattr(keras, "distillation"):
            continue
        fits[kind] = fit_of(kind, build, teacher, x, y)
        fits[kind]()  # compiles
    spent = {kind: [] for kind in fits}
    order = list(fits)
    for number in range(rounds):
        for kind in order[number % len(order) :] + order[: number % len(order)]:
            spent[kind].append(measured(fits[kind]))
    ratios = {kind: paired_ratio(times, spent["plain"]) for kind, times in spent.items() if kind != "plain"}
    return {"plain": (statistics.median(t[0] for t in spent["plain"]),), **ratios}


def sequences(build, x, y, number_of_epochs, rounds):
    import keras_ban

    split = len(x) // 8
    data = {"validation_data": (x[:split], y[:split]), "batch_size": 64, "epochs": number_of_epochs, "verbose": 0}

    def plain():
        for _ in range(4):
            model = build()
            model.compile(**compile_arguments())
            model.fit(x[split:], y[split:], **data)

    def born_again():
        sequence = keras_ban.BornAgainSequence(build(), generations=3, seed=0)
        sequence.compile(**compile_arguments())
        sequence.fit(x[split:], y[split:], **data)

    spent = {plain: [], born_again: []}
    for number in range(rounds):
        for run in (plain, born_again) if number % 2 else (born_again, plain):
            spent[run].append(measured(run))
    return paired_ratio(spent[born_again], spent[plain])


def compiling(build, x, y, number_of_epochs):
    """What the first epoch of each generation costs beyond the others: with the compiled step reused, and without."""
    import keras

    import keras_ban

    class Times(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.begin = time.process_time()

        def on_epoch_end(self, epoch, logs=None):
            self.times = [*getattr(self, "times", []), time.process_time() - self.begin]

    lines = []
    for how, model in (("one step for all students", build()), ("a new step for each", lambda generation: build())):
        callbacks = [Times() for _ in range(4)]
        sequence = keras_ban.BornAgainSequence(model, generations=3, seed=0)
        sequence.compile(**compile_arguments())
        of_generation = lambda generation, callbacks=callbacks: [callbacks[generation]]  # noqa: E731
        sequence.fit(x, y, batch_size=64, epochs=max(3, number_of_epochs), verbose=0, callbacks=of_generation)
        extra = [callback.times[0] - statistics.median(callback.times[1:]) for callback in callbacks]
        lines.append(f"compiling, CPU seconds by generation, {how}: {', '.join(f'{each:.2f}' for each in extra)}")
    return lines


def memory(name, arguments):
    peaks = []
    for kind in KINDS:
        command = [sys.executable, __file__, "--backend", arguments.backend, "--size", str(arguments.size)]
        result = subprocess.run([*command, "--peak-of", name, kind], capture_output=True, text=True, check=True)
        peaks.append(f"{kind} {result.stdout.strip()}")
    return f"peak memory of a process that trains three epochs, MiB: {', '.join(peaks)}"


def print_peak(name, kind, size):
    """Train one kind alone, and print the peak of memory that this process has taken."""
    import keras

    if kind == "keras.distillation" and not hasattr(keras, "distillation"):
        return print("-")
    build, x, y = setting(name, size)
    fit = fit_of(kind, build, build(), x, y)
    for _ in range(3):
        fit()
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10:.0f}")


def imports(rounds):
    code = "import time, keras; begin = time.perf_counter(); import keras_ban; print(time.perf_counter() - begin)"
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(rounds)
    ]
    times = [1000 * float(run.stdout) for run in runs]
    return (
        f"import keras_ban after keras: median {statistics.median(times):.1f} ms, largest {max(times):.1f}, of {rounds}"
    )


def measured(run):
    """`(CPU seconds, wall seconds)`."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def paired_ratio(times, plain):
    """The medians of the ratios of each round."""
    return tuple(statistics.median(t[i] / p[i] for t, p in zip(times, plain, strict=True)) for i in (0, 1))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="jax")
    parser.add_argument("--models", nargs="+", choices=["MLP", "ResNet", "LSTM"], default=["MLP", "ResNet", "LSTM"])
    parser.add_argument("--rounds", type=int, default=7, help="epochs of each kind")
    parser.add_argument("--sequences", type=int, default=3, help="how often whole sequences are measured; 0: not")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each generation of a sequence")
    parser.add_argument("--memory", action="store_true", help="peak memory of each kind, in processes of their own")
    parser.add_argument(
        "--host", action="store_true", help="only the work of the host, by a model of almost no weights"
    )
    parser.add_argument("--imports", type=int, default=0, help="how often to time the import (default: 0)")
    parser.add_argument("--peak-of", nargs=2, metavar=("MODEL", "KIND"), help=argparse.SUPPRESS)
    parser.add_argument("--size", type=int, default=1024, help="examples (the MLP has 8 times as many)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
