"""What distillation costs on a GPU: fits with each kind of teacher against plain fits, interleaved in one process.

    python benchmarks/gpu.py

It needs a GPU, JAX or torch (or TensorFlow), Keras, and neither network nor data. Each backend and model has a process
of its own, alone on the GPU. A ratio is the median over rounds of wall time against a plain fit of the same round, and
rounds rotate the order. A short fit has one epoch; a long one has `--long` epochs, so that what each fit costs once
counts less. Peak memory is what the device's allocator reports, of one process for each kind, `--workers` side by side;
on a CPU it is that of the process. Before all of it, JAX's steps are compiled in such processes. After `--minutes` no
new measurement begins, and what was left out is named.
"""

import argparse
import concurrent.futures
import importlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time

KINDS = ("plain", "keras.distillation", "online", "cached")
# Model, precision, batch size.
SETTINGS = (
    ("MLP", "float32", 64),
    ("MLP", "float32", 1024),
    ("WRN", "mixed_bfloat16", 64),
    ("WRN", "mixed_bfloat16", 1024),
    ("ResNet50", "mixed_bfloat16", 64),
)
# The steps of an epoch, at most, where a step takes long.
FEWER_STEPS = dict.fromkeys(SETTINGS[2:], 10)
# The largest batch of each model.
OF_MEMORY = SETTINGS[1::2] + SETTINGS[4:]


def main():
    arguments = parse_arguments()
    if arguments.measure:
        return print(json.dumps(measure(arguments)))
    end = time.monotonic() + 60 * arguments.minutes
    # All processes find there what one of them compiled.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", tempfile.mkdtemp())
    settings = [setting for setting in SETTINGS if setting[0] in arguments.models]
    timed = [(backend, setting, None) for setting in settings for backend in arguments.backends]
    single = [(backend, setting, kind) for backend, setting, _ in timed for kind in KINDS]
    of_memory = [job for job in single if job[1] in OF_MEMORY and not arguments.no_memory]
    left_out = []
    run_all([job for job in single if job[0] == "jax"], arguments, end, [], workers=arguments.workers)
    rows = run_all(timed, arguments, end, left_out, workers=1)
    memory = run_all(of_memory, arguments, end, left_out, workers=arguments.workers)
    report(rows, memory)
    device = rows[0][1]["device"] if rows else "no device"
    print(f"{device} | {platform.platform()} | Python {platform.python_version()} | {versions(arguments.backends)}")
    steps = f"{arguments.steps} steps an epoch (WRN, ResNet50: {min(arguments.steps, FEWER_STEPS[SETTINGS[-1]])})"
    print(f"seed 0 | {arguments.rounds} rounds | {steps} | long: {arguments.long} epochs")
    if left_out:
        print(f"Left out after {arguments.minutes} minutes: {'; '.join(left_out)}")
    return 0


def run_all(jobs, arguments, end, left_out, workers):
    """Run jobs, `workers` at once. Return the jobs that began before `end`, each with its result."""

    def run(job):
        backend, setting, kind = job
        name = " ".join(map(str, (backend, *setting, *([] if kind is None else ["memory of", kind]))))
        if time.monotonic() > end:
            left_out.append(name)
            return None
        result = in_process(backend, setting, kind, arguments)
        print(f"# {name}: {json.dumps(result)}", file=sys.stderr, flush=True)
        return job, result

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return [each for each in pool.map(run, jobs) if each is not None]


def in_process(backend, setting, kind, arguments):
    command = [sys.executable, __file__, "--measure", *map(str, setting), str(kind), "--rounds", str(arguments.rounds)]
    steps = min(arguments.steps, FEWER_STEPS.get(setting, arguments.steps))
    command += ["--steps", str(steps), "--long", str(arguments.long)]
    # JAX allocates most of the device's memory at once otherwise, and then reports the same peak for all.
    environment = os.environ | {"KERAS_BACKEND": backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def measure(arguments):
    """Return the times of the fits of a setting, or the peak memory of one kind of fit."""
    import keras

    model, precision, batch_size, kind = arguments.measure
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(precision)
    build, x, y = setting_of(model, int(batch_size), arguments.steps)
    teacher = build()
    if kind != "None":
        fit_of(kind, build, teacher, x, y, int(batch_size))(1)
        return {"device": device_name(), "peak_mebibytes": peak_bytes() / 2**20}
    fits = {kind: fit_of(kind, build, teacher, x, y, int(batch_size)) for kind in KINDS}
    for fit in (*fits.values(), *fits.values()):
        fit(1)  # Compiles, and then warms up.
    result = {"device": device_name(), "step_ms": None}
    for name, epochs in (("short", 1), ("long", arguments.long)):
        spent = {kind: [] for kind in KINDS}
        for number in range(arguments.rounds):
            for kind in KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]:
                begin = time.perf_counter()
                fits[kind](epochs)
                spent[kind].append(time.perf_counter() - begin)
        ratios = {kind: [a / b for a, b in zip(spent[kind], spent["plain"], strict=True)] for kind in KINDS[1:]}
        result[name] = {kind: statistics.median(each) for kind, each in ratios.items()}
        result["step_ms"] = 1000 * statistics.median(spent["plain"]) / (epochs * arguments.steps)
    return result


def setting_of(name, batch_size, steps):
    """Return `(build, x, y)`: a function that makes a model, and random data of `steps` batches for it."""
    import keras
    import numpy as np

    layers, rng = keras.layers, np.random.default_rng(0)
    size = batch_size * steps
    shape, classes = {"MLP": ((784,), 100), "WRN": ((32, 32, 3), 100), "ResNet50": ((224, 224, 3), 1000)}[name]

    def mlp():
        hidden = [layers.Dense(1024, activation="relu") for _ in range(3)]
        return keras.Sequential([keras.Input(shape), *hidden, layers.Dense(classes, dtype="float32")])

    def wide_resnet():
        """WRN-16-8, of 11 million weights (Zagoruyko and Komodakis, 2016)."""
        inputs = keras.Input(shape)
        x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
        for filters, strides in ((128, 1), (256, 2), (512, 2)):
            for stride in (strides, 1):
                y = layers.ReLU()(layers.BatchNormalization()(x))
                skip = x if x.shape[-1] == filters else layers.Conv2D(filters, 1, strides=stride, use_bias=False)(y)
                y = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(y)
                y = layers.ReLU()(layers.BatchNormalization()(y))
                y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
                x = layers.Add()([y, skip])
        x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.BatchNormalization()(x)))
        return keras.Model(inputs, layers.Dense(classes, dtype="float32")(x))

    def resnet50():
        backbone = keras.applications.ResNet50(include_top=False, weights=None, input_shape=shape, pooling="avg")
        return keras.Model(backbone.inputs, layers.Dense(classes, dtype="float32")(backbone.output))

    build = {"MLP": mlp, "WRN": wide_resnet, "ResNet50": resnet50}[name]
    if name == "ResNet50":
        # The same batches again: as large as the device needs, and not as long to make.
        size = min(size, 4 * batch_size)
    x = rng.standard_normal((size, *shape), "float32")
    return build, x, rng.integers(0, classes, size)


def fit_of(kind, build, teacher, x, y, batch_size):
    """Return a function that trains a new student for some epochs."""
    import keras

    import keras_ban

    options = {}
    if kind == "plain":
        model = build()
    elif kind == "keras.distillation":
        # With a loss object, since the default, a string, leaves the softmax out.
        loss = keras.distillation.LogitsDistillation(loss=keras.losses.KLDivergence(), temperature=1.0)
        model = keras.distillation.Distiller(teacher, build(), loss, student_loss_weight=0.5)
    elif kind == "online":
        model = keras_ban.Distiller(student=build(), teacher=teacher)
    else:
        model = keras_ban.Distiller(student=build())
        options["soft_targets"] = keras_ban.SoftTargets.from_teacher(teacher, x, batch_size, verbose=0)
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return lambda epochs: model.fit(x, y, batch_size=batch_size, epochs=epochs, verbose=0, **options)


def device_name():
    import keras

    if keras.backend.backend() == "torch":
        torch = importlib.import_module("torch")
        return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} CPUs"
    if keras.backend.backend() == "jax":
        device = importlib.import_module("jax").devices()[0]
        return device.device_kind if device.platform == "gpu" else f"{os.cpu_count()} CPUs"
    tensorflow = importlib.import_module("tensorflow")
    devices = tensorflow.config.list_physical_devices("GPU")
    details = [tensorflow.config.experimental.get_device_details(device) for device in devices]
    return details[0]["device_name"] if devices else f"{os.cpu_count()} CPUs"


def peak_bytes():
    """Return the most memory that was in use on the device: on a CPU, of this process."""
    import keras

    if "CPUs" in device_name():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 2**10
    if keras.backend.backend() == "torch":
        return importlib.import_module("torch").cuda.max_memory_allocated()
    if keras.backend.backend() == "jax":
        return importlib.import_module("jax").devices()[0].memory_stats()["peak_bytes_in_use"]
    return importlib.import_module("tensorflow").config.experimental.get_memory_info("GPU:0")["peak"]


def report(rows, memory):
    print("| backend, model, precision, batch size | plain step, ms | fit | keras.distillation | online | cached |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (backend, setting, _), result in rows:
        for length in ("short", "long"):
            ratios = " | ".join(f"{result[length][kind]:.2f}" for kind in KINDS[1:])
            print(f"| {backend}, {', '.join(map(str, setting))} | {result['step_ms']:.1f} | {length} | {ratios} |")
    if memory:
        print("\n| peak memory, MiB | plain | keras.distillation | online | cached |\n| --- | --- | --- | --- | --- |")
        for backend, setting in dict.fromkeys(job[:2] for job, _ in memory):
            peaks = {job[2]: result["peak_mebibytes"] for job, result in memory if job[:2] == (backend, setting)}
            cells = " | ".join(f"{peaks[kind]:.0f}" if kind in peaks else "" for kind in KINDS)
            print(f"| {backend}, {', '.join(map(str, setting))} | {cells} |")


def versions(backends):
    modules = [importlib.import_module(name) for name in ("numpy", *backends)]
    modules += [importlib.import_module(name) for name in ("keras", "keras_ban")]
    return ", ".join(f"{module.__name__} {module.__version__}" for module in modules)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backends", nargs="+", choices=["jax", "torch", "tensorflow"], default=["jax", "torch"])
    parser.add_argument("--models", nargs="+", choices=["MLP", "WRN", "ResNet50"], default=["MLP", "WRN", "ResNet50"])
    parser.add_argument("--rounds", type=int, default=4, help="fits of each kind")
    parser.add_argument("--steps", type=int, default=50, help="steps of an epoch; the large models have at most 10")
    parser.add_argument("--long", type=int, default=3, help="epochs of a long fit")
    parser.add_argument("--minutes", type=float, default=7, help="after which no measurement begins")
    parser.add_argument("--workers", type=int, default=8, help="processes at once that measure memory")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
