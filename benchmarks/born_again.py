"""Born-again networks against what a sceptic would ask for, on the images in a file: a table like the paper's.

    python benchmarks/born_again.py --data cifar10.npz --seeds 0 1 2 3 4 --jobs 2
    python benchmarks/born_again.py --report

The file holds `x_train`, `y_train`, `x_test` and `y_test`: uint8 images `(n, 32, 32, 3)`, and labels. The first 5,000
training images train a small ResNet (175,994 weights) for 20 epochs, without augmentation. For each seed there are

- teacher: generation 0, which every method below is compared with;
- ban+l: three generations taught by labels and teacher, as the options below say, and a student of all four together
  (the "ensemble with both" averages the teacher, the generations and that student);
- independent: three more models like the teacher, at the same cost;
- long: one model trained as long as four generations together;
- smoothing: one model whose labels are smoothed by 0.1;
- ban, cwtm, dkpp: three generations taught by the teacher alone, and by the paper's two variants.

A cell, one method with one seed, is a line in `results.jsonl` under `--out`; those that are there are not run again.
Table and plot are made from that file alone. The logits of every model on the images that it was measured on are kept,
as `logits/METHOD-SEED.npy`, `(models, images, classes)`.

Settings are chosen with `--measure-on validation`: the last 5,000 training images, which nothing is trained on.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np
from _figures import mean, versions
from _user_files import read_images, read_json_lines
from rich.console import Console
from rich.table import Table
from scipy import stats

METHODS = ["teacher", "ban+l", "independent", "long", "smoothing", "ban", "cwtm", "dkpp"]
TAUGHT = ["ban+l", "ban", "cwtm", "dkpp"]
EXAMPLES = 5000
BATCH_SIZE = 32
STUDENTS = 3
MEASURED = {"images": int, "accuracy": float, "nll": float, "mended": int, "broken": int}
LINE = {"method": str, "seed": int, "models": [MEASURED], "seconds": float, "measured_on": str, "settings": dict}
LINE |= {"versions": dict, "machine": str}


def main():
    arguments = parse_arguments()
    if arguments.cell is not None:
        method, seed = arguments.cell
        return run_cell(arguments, method, int(seed))
    if not arguments.report:
        run_all(arguments)
    lines = read_lines(arguments)
    if not lines:
        sys.exit(f"There are no results in {arguments.out / 'results.jsonl'} yet: run without --report first.")
    report(arguments, lines)


def run_all(arguments):
    """Run the cells that are not in the file, some at a time, each in a process of its own; the teachers first."""
    (arguments.out / "logits").mkdir(parents=True, exist_ok=True)
    finished = {(line["method"], line["seed"]) for line in read_lines(arguments)}
    for methods in (["teacher"], [method for method in arguments.methods if method != "teacher"]):
        cells = [(method, seed) for method in methods for seed in arguments.seeds]
        cells = [cell for cell in cells if cell not in finished]
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as executor:
            codes = list(executor.map(start_cell, cells))
        failed = [f"{method} with seed {seed}" for (method, seed), code in zip(cells, codes, strict=True) if code]
        if failed:
            sys.exit(f"Failed, see above: {', '.join(failed)}. The others are kept; run again to go on.")


def start_cell(cell):
    method, seed = cell
    print(f"{method}, seed {seed}", flush=True)
    return subprocess.run([sys.executable, *sys.argv, "--cell", method, str(seed)]).returncode


def run_cell(arguments, method, seed):
    """Train what a method wants with a seed, measure it, and append a line to the file."""
    os.environ["KERAS_BACKEND"] = arguments.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # A core for each process: threads that wait for each other's cores take longer.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    import keras

    train, (x, y) = load(arguments)
    teacher_file = arguments.out / f"teacher-{seed}.keras"
    begin = time.perf_counter()
    if method in TAUGHT:
        models = train_generations(arguments, method, seed, keras.saving.load_model(teacher_file), train)
    elif method == "independent":
        models = [train_alone(arguments, [seed, 1 + index], train) for index in range(STUDENTS)]
    elif method == "long":
        models = [train_alone(arguments, [seed, 0], train, epochs=(1 + STUDENTS) * arguments.epochs)]
    else:
        models = [train_alone(arguments, [seed, 0], train, smoothing=0.1 if method == "smoothing" else 0.0)]
    seconds = time.perf_counter() - begin
    if method == "teacher":
        models[0].save(teacher_file)

    logits = np.stack([model.predict(x, batch_size=500, verbose=0) for model in models])
    np.save(arguments.out / "logits" / f"{method}-{seed}.npy", logits)
    teacher = np.load(arguments.out / "logits" / f"teacher-{seed}.npy")
    line = {"method": method, "seed": seed, "models": [measure(each[None], y, teacher) for each in logits]}
    if len(logits) > 1:
        members = logits[:STUDENTS]  # Not the ensemble's own student.
        line["ensemble"] = measure(members, y, teacher)
        line["ensemble with the teacher"] = measure(np.concatenate([teacher, members]), y, teacher)
        if len(logits) > STUDENTS:
            line["ensemble with both"] = measure(np.concatenate([teacher, logits]), y, teacher)
    line |= {"seconds": round(seconds, 1), "weights": models[0].count_params()}
    line |= {"measured_on": arguments.measure_on, "settings": settings(arguments, method)}
    line |= {"versions": versions(arguments.backend), "machine": f"{platform.platform()}, {os.cpu_count()} cores"}
    with (arguments.out / "results.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def train_alone(arguments, entropy, train, epochs=None, smoothing=0.0):
    """A model trained by Keras alone."""
    import keras

    epochs = arguments.epochs if epochs is None else epochs
    x, y = train
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if smoothing:
        y = keras.utils.to_categorical(y, 10)
        loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    keras.utils.set_random_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    model = build_resnet()
    model.compile(make_optimizer(arguments, epochs), loss)
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=epochs, verbose=0)
    return model


def train_generations(arguments, method, seed, teacher, train):
    """Generations 1, 2 and 3 of the teacher; of ban+l the student of all four as well."""
    import keras

    import keras_ban

    losses = keras_ban.losses
    options = {
        "ban+l": {
            "distillation_loss": losses.KnowledgeDistillation(temperature=arguments.temperature),
            "label_weight": arguments.label_weight * (STUDENTS if len(arguments.label_weight) == 1 else 1),
            "teach_from": arguments.teach_from,
            "distill_ensemble": True,
        },
        "ban": {"label_weight": 0.0},
        # CWTM trains on labels alone, each weighted by the teacher's confidence: its label loss is its own.
        "cwtm": {"distillation_loss": losses.ConfidenceWeighted(), "label_weight": 0.0},
        "dkpp": {"distillation_loss": losses.PermutedDarkKnowledge(), "label_weight": 0.0},
    }[method]
    sequence = keras_ban.BornAgainSequence(build_resnet(), generations=STUDENTS, seed=seed, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sequence.compile(make_optimizer(arguments, arguments.epochs), loss)
    sequence.fit(*train, batch_size=BATCH_SIZE, epochs=arguments.epochs, verbose=0, teacher=teacher)
    return sequence.models[1:]


def make_optimizer(arguments, epochs):
    """Adam with a learning rate that falls along a cosine to 0."""
    import keras

    steps = epochs * -(-EXAMPLES // BATCH_SIZE)
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(arguments.learning_rate, decay_steps=steps))


def build_resnet(classes=10):
    """Six residual blocks of 16, 32 and 64 filters; pooled after the stem, so that two cores can train it often."""
    from keras import Input, Model, layers

    inputs = Input((32, 32, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.AveragePooling2D(2)(x)
    for filters, stride in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        y = layers.Conv2D(filters, 3, strides=stride, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(filters, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        if stride > 1:
            x = layers.Conv2D(filters, 1, strides=stride, use_bias=False)(x)
        x = layers.ReLU()(layers.Add()([x, y]))
    return Model(inputs, layers.Dense(classes)(layers.GlobalAveragePooling2D()(x)))


def load(arguments):
    """The images that train, and those that measure, normalised by mean and deviation of those that train."""
    x_train, y_train = read_images(arguments.data, "x_train", "y_train")
    if len(x_train) < 2 * EXAMPLES:
        sys.exit(f"{arguments.data} holds {len(x_train)} training images, this wants {2 * EXAMPLES} at least.")
    if arguments.measure_on == "test":
        x, y = read_images(arguments.data, "x_test", "y_test")
    else:
        x, y = x_train[-EXAMPLES:], y_train[-EXAMPLES:]
    y_train, y = y_train.astype("int64"), y.astype("int64")
    x_train, y_train = x_train[:EXAMPLES], y_train[:EXAMPLES]
    mean, deviation = x_train.mean((0, 1, 2)), x_train.std((0, 1, 2))
    return ((x_train - mean) / deviation, y_train), ((x - mean) / deviation, y)


def measure(logits, labels, teacher):
    """Accuracy, negative log-likelihood in nats and changed predictions of a model, or of several averaged.

    Args:
        logits, teacher: `(models, images, classes)`, `(1, images, classes)`.
        labels: `(images,)`.
    """
    logits = logits.astype("float64")
    log_p = np.logaddexp.reduce(logits - np.logaddexp.reduce(logits, -1, keepdims=True), 0) - np.log(len(logits))
    right = log_p.argmax(-1) == labels
    teacher_right = teacher[0].argmax(-1) == labels
    return {
        "images": len(labels),
        "accuracy": float(right.mean()),
        "nll": float(-log_p[np.arange(len(labels)), labels].mean()),
        "mended": int((right & ~teacher_right).sum()),
        "broken": int((~right & teacher_right).sum()),
    }


def report(arguments, lines):
    """Print the table of what the file holds, and draw it."""
    rows = rows_of(lines)
    part = lines[0]["measured_on"]
    images = lines[0]["models"][0]["images"]
    table = Table(title=f"Accuracy on {images:,} {part} images: mean (standard error) over seeds")
    for column in ("", "seeds", "accuracy %", "against the teacher", "error cut %", "p: seeds", "p: images", "NLL"):
        table.add_column(column, justify="left" if column == "" else "right", no_wrap=column == "")
    for name, pairs in rows:
        table.add_row(name, *cells(pairs))
    Console(width=140).print(table)
    print("against the teacher: of the same seed, in points. error cut: relative, of the means.")
    print("p: exact and two-sided; of the seeds' changes, by flipping signs, and of mended against broken predictions.")
    longest = max(lines, key=lambda line: len(line["settings"]))
    print(", ".join(f"{key}: {longest[key]}" for key in ("settings", "versions", "machine")))
    hours = sum(line["seconds"] for line in lines) / 3600
    print(f"seeds: {sorted({line['seed'] for line in lines})}, {hours:.1f} hours of training")
    plot(rows, arguments.out / "born_again.png", part)


def rows_of(lines):
    """The table's rows: `(name, [(measured, the teacher's of the same seed), ...])`."""
    teachers = {line["seed"]: line["models"][0] for line in lines if line["method"] == "teacher"}
    rows = []
    for method in METHODS:
        of_method = [line for line in lines if line["method"] == method and line["seed"] in teachers]
        if not of_method:
            continue
        names = {0: method}
        if method in TAUGHT:
            names = {index: f"{method}, generation {index + 1}" for index in range(STUDENTS)}
            if method == "ban+l":
                names[STUDENTS] = "ban+l, student of the ensemble"
        elif method == "independent":
            names = {index: f"independent, model {index + 2}" for index in range(STUDENTS)}
        for index, name in names.items():
            rows.append((name, [(line["models"][index], teachers[line["seed"]]) for line in of_method]))
        for key in ("ensemble", "ensemble with the teacher", "ensemble with both"):
            if all(key in line for line in of_method):
                rows.append((f"{method}, {key}", [(line[key], teachers[line["seed"]]) for line in of_method]))
    return rows


def cells(pairs):
    accuracies = 100 * np.array([measured["accuracy"] for measured, _ in pairs])
    before = 100 * np.array([teacher["accuracy"] for _, teacher in pairs])
    common = [str(len(pairs)), mean(accuracies, ".2f")]
    nll = mean([measured["nll"] for measured, _ in pairs], ".3f", ".3f")
    if all(measured is teacher for measured, teacher in pairs):
        return [*common, "", "", "", "", nll]
    change = accuracies - before
    cut = 100 * change.mean() / (100 - before.mean())
    # Of one seed SciPy computes none: with either sign its change is as large.
    of_seeds = stats.permutation_test((change,), np.mean, permutation_type="samples").pvalue if len(pairs) > 1 else 1.0
    mended, broken = (sum(measured[key] for measured, _ in pairs) for key in ("mended", "broken"))
    of_images = stats.binomtest(mended, mended + broken).pvalue if mended + broken else 1.0
    return [*common, mean(change, "+.2f"), f"{cut:.1f}", f"{of_seeds:.3f}", f"{of_images:.1g}", nll]


def plot(rows, path, part):
    """Each seed's change against its teacher as a dot, the mean as a bar."""
    from matplotlib import pyplot as plt

    rows = rows[1:][::-1]
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.32 * len(rows)), layout="constrained")
    for height, (_, pairs) in enumerate(rows):
        change = [100 * (measured["accuracy"] - teacher["accuracy"]) for measured, teacher in pairs]
        axes.barh(height, np.mean(change), color="tab:blue", alpha=0.4)
        axes.plot(change, [height] * len(change), "o", color="tab:blue", markersize=4)
    axes.axvline(0, color="black", linewidth=1)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_xlabel(f"accuracy against the same seed's teacher, in points ({part} images)")
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(f"Wrote {path}")


def settings(arguments, method):
    """The options that a method's results depend on."""
    names = ["backend", "epochs", "learning_rate"]
    if method == "ban+l":
        names += ["temperature", "label_weight", "teach_from"]
    return {name: getattr(arguments, name) for name in names}


def read_lines(arguments):
    """The file's lines; made with other settings than these, they are refused."""
    file = arguments.out / "results.jsonl"
    lines = read_json_lines(file, LINE, "results of this benchmark: remove that line, or choose another --out")
    if not arguments.report:
        for line in lines:
            wanted = {"settings": settings(arguments, line["method"]), "measured_on": arguments.measure_on}
            for key, now in wanted.items():
                if line[key] != now:
                    sys.exit(f"{file} holds results with {key}={line[key]}, not {now}: choose another --out.")
    # Two processes that were started on one file may both have run a cell: it counts once.
    return list({(line["method"], line["seed"]): line for line in lines}.values())


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=pathlib.Path, help="an .npz file, as above")
    add("--out", type=pathlib.Path, default=pathlib.Path("runs/born_again"), help="default: runs/born_again")
    add("--report", action="store_true", help="make table and plot of what is there, train nothing")
    add("--backend", choices=["tensorflow", "jax", "torch"], default="jax", help="default: jax")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="default: 0 1 2 3 4")
    add("--methods", nargs="+", choices=METHODS, default=METHODS, help="default: all")
    add("--jobs", type=int, default=1, help="processes at a time, each on one core (default: 1)")
    add("--measure-on", choices=["test", "validation"], default="test", help="default: test")
    add("--epochs", type=int, default=20, help="for each model (default: 20)")
    add("--learning-rate", type=float, default=2e-3, help="at the beginning (default: 0.002)")
    add("--temperature", type=float, default=1.0, help="of ban+l (default: 1)")
    add("--label-weight", type=float, nargs="+", default=[0.5], help="of ban+l, one for each generation or for all")
    add("--teach-from", choices=["last", "ensemble"], default="last", help="of ban+l (default: last)")
    add("--cell", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not arguments.report and arguments.data is None:
        parser.error("--data is wanted: an .npz file with x_train, y_train, x_test and y_test")
    return arguments


if __name__ == "__main__":
    main()
