"""Which temperature, label weight and objective? Lineages of several seeds, side by side, run by KerasTuner.

    python examples/study.py --backend jax --workers 2
    python examples/study.py --objectives kd cwtm --temperatures 1 4 --label-weights 0.3 0.5 1 --seeds 0 1 2 3

A lineage is a model born again with one setting and one seed, and has its own run directory: the same command again
goes on where the last one was stopped, and more seeds or settings may be added. The setting with the best mean over the
seeds on the validation data wins; the test data are looked at once, for that one alone. (pip install ".[study]")
"""

import argparse
import importlib.util
import math
import os
import pathlib
import sys
import tempfile

import user_files

OBJECTIVES = {
    # name: (class in keras_ban.losses, whether it has a temperature)
    "kd": ("KnowledgeDistillation", True),
    "dkd": ("DecoupledKnowledgeDistillation", True),
    "dist": ("DIST", True),
    "cwtm": ("ConfidenceWeighted", False),
    "dkpp": ("PermutedDarkKnowledge", True),
}
BATCH_SIZE = 32
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def main(arguments=None):
    options = parse(sys.argv[1:] if arguments is None else [str(argument) for argument in arguments])
    if options.backend:
        os.environ["KERAS_BACKEND"] = options.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    missing = [name for name in ("keras_tuner", "six", "matplotlib", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'A study needs {", ".join(missing)}: pip install ".[study]"')

    import keras
    import study_report
    import tuning

    import keras_ban

    # By KerasTuner's own variable this process is one of several that share a search, and has no more to do.
    if "KERASTUNER_ORACLE_IP" in os.environ:
        if options.parent is not None:
            tuning.end_with(options.parent)
        search(options, load(options))
        return 0
    print(f"keras {keras.__version__} on {keras.config.backend()}, keras_ban {keras_ban.__version__}")
    study_report.read_looks(options.out)
    settings = make_settings(options)
    print(
        f"{len(settings) * len(options.seeds)} lineages ({len(settings)} settings, {len(options.seeds)} seeds), each "
        f"of {options.generations + 1} generations of {options.epochs} epochs"
    )
    train_and_validation = load(options)
    try:
        if options.workers > 1:
            command = [sys.executable, __file__, *options.arguments, "--parent", str(os.getpid())]
            tuning.search_in_processes(options.workers, command)
        # After workers: it loads what they have trained.
        lineages = search(options, train_and_validation, verbose=options.workers == 1)
    except KeyboardInterrupt:
        print(f"\nStopped. What is finished is in {options.out}: the same command goes on.", file=sys.stderr)
        return 130
    except tuning.WorkerError as error:
        sys.exit(f"{error} What is finished is in {options.out}: the same command goes on.")
    study_report.report(lineages, options, lambda: load_test(options))
    return 0


def search(options, train_and_validation, verbose=True):
    """Run all lineages, or those that KerasTuner's chief gives to this process; return the `Lineages`."""
    import keras_tuner
    import tuning

    (x, y), validation = train_and_validation
    classes = int(max(y.max(), validation[1].max())) + 1
    steps = options.epochs * math.ceil(len(x) / BATCH_SIZE)

    def make(**arguments):
        import keras

        import keras_ban

        sequence = keras_ban.BornAgainSequence(
            build_cnn(x.shape[1:], classes), generations=options.generations, **arguments
        )
        sequence.compile(
            optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, decay_steps=steps)),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        return sequence

    lineages = tuning.Lineages(
        make_settings(options), options.seeds, make, options.out / "lineages", options.choose_by, verbose
    )
    # What KerasTuner notes is not kept: it writes over its files in place, and would know of no seed that is added.
    with tempfile.TemporaryDirectory() as directory:
        tuner = tuning.LineageTuner(tuning.EveryCombination("val_loss"), lineages, directory=directory)
        try:
            tuner.search(x, y, batch_size=BATCH_SIZE, epochs=options.epochs, validation_data=validation, verbose=0)
        except keras_tuner.errors.FatalError as error:
            sys.exit(f"{error}\nWhat is finished is in {options.out}.")
    return lineages


def make_settings(options):
    """`{name: arguments of BornAgainSequence}`; a label weight of 1 is plain training, whatever the objective."""
    from keras_ban import losses

    settings = {}
    for weight in options.label_weights:
        if weight == 1:
            settings["plain"] = {"label_weight": 1.0}
            continue
        for objective in options.objectives:
            loss, has_temperature = OBJECTIVES[objective]
            for temperature in options.temperatures if has_temperature else [None]:
                known = {"temperature": temperature} if has_temperature else {}
                name = ",".join([objective, *(f"{key}={number(value)}" for key, value in known.items())])
                settings[f"{name},label_weight={number(weight)}"] = {
                    "distillation_loss": getattr(losses, loss)(**known),
                    "label_weight": weight,
                }
    return settings


def number(value):
    return f"{value:.12g}"


def build_cnn(input_shape, classes):
    """Two convolutions and two dense layers; it returns logits. Put your own model here."""
    import keras
    from keras import layers

    return keras.Sequential(
        [
            keras.Input(input_shape),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(32, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dropout(0.2),
            layers.Dense(64, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(classes),
        ]
    )


def load(options):
    """`(x, y)` for training and for validation. The split is the same for all seeds, which must not see test data."""
    import numpy as np

    if options.data is None:
        return [digits(part) for part in ("train", "validation")]
    x, y = user_files.read_images(options.data, "x_train", "y_train")
    x = images(x)
    held_out, rest = np.split(np.random.default_rng(0).permutation(len(x)), [max(len(x) // 10, 1)])
    return [(x[rest], y[rest]), (x[held_out], y[held_out])]


def load_test(options):
    """`(x, y)`; arrays of a .npz file are not read before."""
    if options.data is None:
        return digits("test")
    x, y = user_files.read_images(options.data, "x_test", "y_test")
    return images(x), y


def digits(name):
    """Scikit-learn's handwritten digits: 300 train, 300 choose, 1,197 are looked at in the end."""
    import numpy as np
    from sklearn.datasets import load_digits

    data = load_digits()
    parts = np.split(np.random.default_rng(0).permutation(len(data.target)), [300, 600])
    part = parts[("train", "validation", "test").index(name)]
    return (data.images[part, ..., None] / 16.0).astype("float32"), data.target[part]


def images(x):
    """float32 `(n, height, width, channels)`; whole numbers are taken to go up to 255."""
    import numpy as np

    x = x[..., None] if x.ndim == 3 else x
    return x.astype("float32") / (255 if np.issubdtype(x.dtype, np.integer) else 1)


def parse(arguments):
    """The options; wrong use ends the process with a message and code 2."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    several = {"nargs": "+", "metavar": "VALUE"}
    parser.add_argument(
        "--data", type=pathlib.Path, help=f".npz file of images, {', '.join(ARRAYS)} (default: scikit-learn's digits)"
    )
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=["kd"], help="default: kd")
    parser.add_argument("--temperatures", type=positive, **several, help="of objectives that have one (default: 1 4)")
    parser.add_argument(
        "--label-weights", type=share, default=[0.3, 1.0], **several, help="1 is plain training (default: 0.3 1)"
    )
    parser.add_argument("--seeds", type=whole(0), default=[0, 1, 2], **several, help="of each setting (default: 0 1 2)")
    parser.add_argument("--generations", type=whole(1), default=2, help="students after the teacher (default: 2)")
    parser.add_argument("--epochs", type=whole(1), default=40, help="for each generation (default: 40)")
    parser.add_argument(
        "--choose-by",
        choices=["generation", "ensemble"],
        default="generation",
        help="the validation loss of a lineage's best generation (default), or of its ensemble",
    )
    parser.add_argument("--workers", type=whole(1), default=1, help="processes that train side by side (default: 1)")
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], help="default: as Keras is configured")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/study"), help="default: runs/study")
    parser.add_argument("--parent", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    options.arguments = arguments
    tempered = [name for name in options.objectives if OBJECTIVES[name][1]]
    if options.temperatures and not tempered:
        parser.error(f"--temperatures: {', '.join(options.objectives)} has none")
    options.temperatures = options.temperatures or [1.0, 4.0]
    for name in ("objectives", "temperatures", "label_weights", "seeds"):
        setattr(options, name, list(dict.fromkeys(getattr(options, name))))
    if options.data is not None:
        check_data(parser, options.data)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file: it must be a folder that is empty, or not there yet")
    if options.out.exists() and any(options.out.iterdir()) and not (options.out / "lineages").is_dir():
        parser.error(f"--out {options.out} holds files, but no study: choose a folder that is empty, or not there yet")
    return options


def check_data(parser, path):
    """What can be known of the file without reading an array."""
    names = user_files.names_of_arrays(path, user_files.option("--data", parser.error))
    missing = [name for name in ARRAYS if name not in names]
    if missing:
        parser.error(f"--data {path} must hold {', '.join(ARRAYS)}; there is no {', '.join(missing)}")


def whole(least):
    def checked(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, received: {text}")
        return int(text)

    return checked


def positive(text):
    return within(text, lambda value: 0 < value < float("inf"), "a positive number")


def share(text):
    return within(text, lambda value: 0 <= value <= 1, "between 0 and 1")


def within(text, holds, wanted):
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not holds(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, received: {text}")
    return value


if __name__ == "__main__":
    sys.exit(main())
