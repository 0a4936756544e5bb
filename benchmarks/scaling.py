"""Data parallelism over 1, 2 and 4 virtual devices, in ratios: plain `fit`, and a Distiller with or without teacher.

    python benchmarks/scaling.py --backend jax           # keras.distribution.DataParallel
    python benchmarks/scaling.py --backend tensorflow    # tf.distribute.MirroredStrategy

Weak scaling: each device has a batch and a number of examples of its own, so that all together have more. Strong
scaling: one batch and one number of examples, shared. Each number of devices runs in a process of its own, because
frameworks ask for it when they start; all of them wait while one trains an epoch, in rounds whose order rotates.
Figures are medians of the ratios of each round.

Virtual devices share the machine's cores, so this shows no speed-up, and none is looked for. It shows what splitting a
step costs: cutting up the batch, a program for each device, adding up gradients; and whether a Distiller pays more for
it than plain `fit` does. An engine that cost nothing would have 1.00 in strong scaling where one device keeps all cores
busy, and in weak scaling less, since larger batches spread what a step costs whatever its size; devices with cores of
their own would have 1/2 and 1/4.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

KINDS = ("plain", "cached", "online")
WORDS = {"plain": "plain fit", "cached": "Distiller, soft targets cached", "online": "Distiller, teacher at each step"}


def main():
    arguments = parse_arguments()
    os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if arguments.serve:
        return serve(arguments, arguments.serve)
    if arguments.batch % max(arguments.devices) or arguments.examples % arguments.batch:
        raise SystemExit("The batch must divide by the devices, and the examples by the batch.")
    workers = {devices: start(devices) for devices in arguments.devices}
    try:
        for worker in workers.values():
            answer(worker)
        report(arguments, spent_of(workers, arguments))
    finally:
        for worker in workers.values():
            worker.stdin.close()
            worker.wait()


def start(devices):
    """A process with so many devices, which compiles everything, says so, and waits for work."""
    command = [sys.executable, str(pathlib.Path(__file__)), *sys.argv[1:], "--serve", str(devices)]
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "XLA_FLAGS": flags.strip()}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def answer(worker):
    """The next line of a worker's that is meant for us."""
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    raise SystemExit(f"A process ended with code {worker.wait()}: see above.")


def spent_of(workers, arguments):
    """`{(scaling, kind, devices): [(CPU seconds, wall seconds) of an example, ...]}`, a round after the other."""
    order = [(scaling, kind, devices) for scaling in ("weak", "strong") for kind in KINDS for devices in workers]
    spent = {key: [] for key in order}
    for number in range(arguments.rounds):
        for key in order[number % len(order) :] + order[: number % len(order)]:
            scaling, kind, devices = key
            workers[devices].stdin.write(f"{scaling} {kind}\n")
            workers[devices].stdin.flush()
            told = answer(workers[devices])
            spent[key].append((told["cpu"], told["wall"]))
    return spent


def serve(arguments, devices):
    """Compile all, say so, and train an epoch of what standard input asks for, until it ends."""
    import contextlib

    import keras
    from step_cost import measured

    scope = contextlib.nullcontext()
    if arguments.backend == "tensorflow":
        import tensorflow as tf

        (cpu,) = tf.config.list_physical_devices("CPU")
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
        scope = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)]).scope()
    else:
        distribution = keras.distribution.DataParallel(devices=keras.distribution.list_devices("cpu"))
        keras.distribution.set_distribution(distribution)
        if distribution.device_mesh.shape != (devices,):
            raise SystemExit(f"There are {distribution.device_mesh.shape} devices, and not {devices}.")
    keras.utils.set_random_seed(0)
    settings = {"weak": (arguments.examples * devices, arguments.batch * devices)}
    settings["strong"] = arguments.examples, arguments.batch
    # Outside of the strategy, whose models pass a single batch through each of their replicas.
    made = {scaling: data_of(arguments.model, *settings[scaling]) for scaling in settings}
    fits = {}
    with scope:
        for scaling, (build, x, y, targets) in made.items():
            for kind in KINDS:
                fit = fit_of(kind, build, x, y, targets, settings[scaling][1])
                fit()
                fits[scaling, kind] = fit, len(x)
        print("{}", flush=True)
        for line in sys.stdin:
            fit, examples = fits[tuple(line.split())]
            cpu, wall = measured(fit)
            print(json.dumps({"cpu": cpu / examples, "wall": wall / examples}), flush=True)


def data_of(model, examples, batch):
    """`(build, x, y, soft targets)`."""
    from step_cost import setting

    import keras_ban

    build, x, y = setting(model, examples)
    return build, x, y, keras_ban.SoftTargets.from_teacher(build(), x, batch, verbose=0)


def fit_of(kind, build, x, y, targets, batch):
    """A function that trains an epoch."""
    from step_cost import compile_arguments

    import keras_ban

    student = build()
    if kind == "plain":
        model = student
    else:
        model = keras_ban.Distiller(student=student, teacher=build() if kind == "online" else None)
    options = {"soft_targets": targets} if kind == "cached" else {}
    model.compile(**compile_arguments())
    return lambda: model.fit(x, y, batch_size=batch, verbose=0, **options)


def report(arguments, spent):
    import rich.box
    from _figures import versions
    from rich.table import Table
    from scale import as_text

    def cell(numerator, denominator):
        pairs = list(zip(spent[numerator], spent[denominator], strict=True))
        cpu, wall = (statistics.median(a[clock] / b[clock] for a, b in pairs) for clock in (0, 1))
        return f"{wall:.2f} ({cpu:.2f})"

    for scaling in ("weak", "strong"):
        made = Table(
            "", *(f"{devices} device{'s' * (devices > 1)}" for devices in arguments.devices), box=rich.box.MARKDOWN
        )
        for kind in KINDS:
            one = (scaling, kind, arguments.devices[0])
            made.add_row(WORDS[kind], *(cell((scaling, kind, devices), one) for devices in arguments.devices))
        for kind in KINDS[1:]:
            cells = (cell((scaling, kind, devices), (scaling, "plain", devices)) for devices in arguments.devices)
            made.add_row(f"{WORDS[kind]}, against plain fit", *cells)
        against = f"against {arguments.devices[0]} device"
        print(f"{scaling.capitalize()} scaling: time of an example {against}, wall (CPU)\n\n{as_text(made)}\n")
    plain = statistics.median(wall for _, wall in spent["strong", "plain", arguments.devices[0]])
    named = " | ".join(f"{name} {version}" for name, version in versions(arguments.backend).items())
    print(
        f"{named} | {platform.platform()} | {os.cpu_count()} CPUs, "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}, load {os.getloadavg()[0]:.1f} | seed 0 | "
        f"{arguments.model}, {arguments.examples} examples, batches of {arguments.batch}; weak: on each device | "
        f"{arguments.rounds} rounds | plain fit on the first: "
        f"{1e6 * plain:.0f} microseconds an example"
    )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", choices=["tensorflow", "jax"], default="jax")
    parser.add_argument("--model", choices=["MLP", "ResNet", "LSTM"], default="ResNet", help="as in step_cost.py")
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[1, 2, 4], help="the first is what others are held to"
    )
    parser.add_argument("--examples", type=int, default=512, help="weak: on each device (the MLP has 8 times as many)")
    parser.add_argument("--batch", type=int, default=64, help="weak: on each device")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
