"""The options of the command line, and the same as a TOML file."""

import argparse
import json
import pathlib
import sys

import user_files

from kerascv.models import NAMES, PRESET

OBJECTIVES = {
    # name: (temperature, label weight) that are taken where none is given
    "kd": (4.0, 0.3),
    "cwtm": (None, 0.0),
    "dkpp": (1.0, 0.3),
    "dkd": (4.0, 0.5),
    "dist": (4.0, 0.5),
}
AUGMENTATIONS = ("flip", "crop", "randaugment", "mixup", "cutmix")
LEARNING_RATES = {"adam": 3e-3, "adamw": 3e-3, "sgd": 0.1}
OPTIONS_FILE = "options.toml"
# They say where and how, not what: a file that repeats a run does not hold them.
NOT_WRITTEN = ("out", "resume", "config")

EPILOG = """examples:
  python examples/kerascv_cli.py
  python examples/kerascv_cli.py --data folder:/photos --backbone densenet --generations 3 --epochs 30 --out runs/photos
  python examples/kerascv_cli.py --out runs/photos --resume
  python examples/kerascv_cli.py --config runs/photos/options.toml --seed 1 --out runs/photos-1
"""


def parse(arguments):
    """The options as a namespace; wrong use ends the process with a message and code 2, as `argparse` has it.

    A file of options (`--config`, or that of the run that `--resume` continues) counts as if its lines stood in front
    of the command line: so it is checked as that is, and what the command line says too, counts.
    """
    parser = make_parser()
    arguments = sys.argv[1:] if arguments is None else [str(argument) for argument in arguments]
    options = parser.parse_args(arguments)
    config = options.config
    if config is None and options.resume:
        if options.out is None:
            parser.error("--resume needs --out, the directory of the run that is to be continued")
        config = options.out / OPTIONS_FILE if (options.out / OPTIONS_FILE).exists() else None
    if config is not None:
        options = parser.parse_args([*read_toml(parser, config), *arguments])
    complete(parser, options)
    return options


def make_parser():
    parser = argparse.ArgumentParser(
        prog="kerascv_cli.py",
        description="Born-again image classifiers: an architecture of KerasCV, trained generation after generation, "
        "each taught by the one before. Leaves a run directory with the models and report.html.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        default="digits",
        help="digits (scikit-learn's, no download; the default), npz:PATH (x_train, y_train, if there are x_test, "
        "y_test), folder:PATH (a folder of images for each class, or such folders in train/ and test/) or tfds:NAME",
    )
    data.add_argument("--data-dir", type=pathlib.Path, help="where TFDS keeps its sets (default: as TFDS has it)")
    data.add_argument(
        "--image-size",
        type=whole(8),
        help="height and width in pixels (default: that of the data, if all have the same, of at most 96; else 64)",
    )
    data.add_argument(
        "--augment",
        type=augmentations,
        default=[],
        metavar="A,B,...",
        help=f"any of {', '.join(AUGMENTATIONS)}; teacher and student see the same images (default: none)",
    )
    model = parser.add_argument_group("models")
    model.add_argument("--library", choices=NAMES, default="keras_cv", help="of the architectures (default: keras_cv)")
    names = "; ".join(f"{library}: {', '.join(names)}" for library, names in NAMES.items())
    model.add_argument("--backbone", help=f"{names}; or module:function (default: the first of the library)")
    model.add_argument(
        "--preset",
        dest="backbone",
        type=lambda name: f"{PRESET}{name}",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="instead: a backbone of the library from whose pretrained weights each generation starts, for instance "
        "resnet50_v2_imagenet (needs a network); of keras_hub also the folder of a preset",
    )
    model.add_argument(
        "--weights",
        type=pathlib.Path,
        metavar="FILE",
        help="weights from which the backbone of each generation starts, as keras_hub's backbone.save_weights writes",
    )
    model.add_argument("--teacher-backbone", help="of generation 0 (default: as the others)")
    born = parser.add_argument_group("born again")
    born.add_argument("--generations", type=whole(1), default=2, help="students after the teacher (default: 2)")
    born.add_argument("--objective", choices=OBJECTIVES, default="kd", help="of the students (default: kd)")
    born.add_argument(
        "--temperature", type=positive, help="of the objective (kd, dkd, dist: 4; dkpp: 1; cwtm has none)"
    )
    born.add_argument(
        "--label-weight", type=share, help="share of the label loss (default: kd, dkpp 0.3; dkd, dist 0.5; cwtm 0)"
    )
    training = parser.add_argument_group("training")
    training.add_argument("--epochs", type=whole(1), default=30, help="for each generation (default: 30)")
    training.add_argument("--batch-size", type=whole(1), default=32, help="default: 32")
    training.add_argument("--optimizer", choices=LEARNING_RATES, default="adamw", help="default: adamw")
    training.add_argument("--learning-rate", type=positive, help="highest of a cosine (default: 0.003; sgd: 0.1)")
    training.add_argument("--warmup", type=whole(0), default=0, help="epochs in which it rises (default: 0)")
    training.add_argument("--weight-decay", type=not_negative, default=0.0, help="decoupled (default: 0)")
    training.add_argument("--label-smoothing", type=share, default=0.0, help="in [0, 1) (default: 0)")
    training.add_argument(
        "--mixed-precision", choices=["none", "float16", "bfloat16"], default="none", help="default: none"
    )
    training.add_argument("--early-stopping", type=whole(1), metavar="EPOCHS", help="without a better validation loss")
    training.add_argument("--seed", type=whole(0), default=0, help="of splits and generations (default: 0)")
    training.add_argument("--backend", choices=["tensorflow", "jax", "torch"], help="default: as Keras is configured")
    run = parser.add_argument_group("the run")
    run.add_argument("--out", type=pathlib.Path, help="the run directory (default: runs/ and the name of the data)")
    run.add_argument("--resume", action="store_true", help="continue the run in --out, with its own options")
    run.add_argument("--config", type=pathlib.Path, help=f"TOML file of these options, as {OPTIONS_FILE} in every run")
    run.add_argument(
        "--tensorboard",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="write logs to tensorboard/ in the run directory",
    )
    run.add_argument(
        "--export",
        choices=["none", "best", "ensemble"],
        default="none",
        help="write that model as a SavedModel to saved_model/ in the run directory (default: none)",
    )
    return parser


def complete(parser, options):
    """Fill in what depends on other options; end with a message where two exclude each other."""
    temperature, label_weight = OBJECTIVES[options.objective]
    if options.objective == "cwtm" and options.temperature is not None:
        parser.error("--temperature: the objective cwtm has none (it uses the teacher's confidence alone)")
    if options.temperature is None:
        options.temperature = temperature
    if options.label_weight is None:
        options.label_weight = label_weight
    if options.learning_rate is None:
        options.learning_rate = LEARNING_RATES[options.optimizer]
    if options.warmup >= options.epochs:
        parser.error(f"--warmup {options.warmup} leaves none of --epochs {options.epochs} to train at the full rate")
    if options.label_smoothing == 1:
        parser.error("--label-smoothing must be less than 1, which would leave nothing of the labels")
    mixed = [name for name in options.augment if name in ("mixup", "cutmix")]
    if options.objective == "dkd" and mixed:
        parser.error(f"--augment {mixed[0]} gives an image two labels, and the objective dkd needs one: leave one out")
    kind, _, place = options.data.partition(":")
    if (kind not in ("npz", "folder", "tfds") or not place) and options.data != "digits":
        parser.error(f"--data must be digits, npz:PATH, folder:PATH or tfds:NAME, received: {options.data}")
    names = NAMES[options.library]
    options.backbone = options.backbone or names[0]
    for name in ("backbone", "teacher_backbone"):
        value = getattr(options, name)
        if value is not None and value not in names and not all(value.partition(":")):
            flag = "--" + name.replace("_", "-")
            parser.error(f"{flag} must be one of {', '.join(names)} or module:function, received: {value}")
    if options.weights is not None:
        if options.library != "keras_hub" or {options.backbone, options.teacher_backbone} - {None, *names}:
            parser.error("--weights are of a --backbone of --library keras_hub: " + ", ".join(NAMES["keras_hub"]))
        options.weights = options.weights.expanduser().resolve()
    if kind in ("npz", "folder"):
        options.data = f"{kind}:{pathlib.Path(place).expanduser().resolve()}"
    if options.out is None:
        options.out = pathlib.Path("runs") / (pathlib.Path(place).stem or kind)
    if options.out.exists() and not options.out.is_dir():
        parser.error(f"--out {options.out} is a file: it must be a folder that is empty, or not there yet")
    if (options.out / "run.json").exists() and not options.resume:
        parser.error(f"{options.out} holds a run already: continue it with --resume, or choose another --out")


def read_toml(parser, path):
    """A file of options as command line arguments."""
    end = user_files.option("--config", parser.error)
    content = user_files.read_toml(path, f"a TOML file of options, as {OPTIONS_FILE} in every run", end)
    arguments = []
    for name, value in content.items():
        if isinstance(value, bool):
            arguments.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list):
            arguments.append(f"--{name}={','.join(map(str, value))}")
        else:
            arguments.append(f"--{name}={value}")
    return arguments


def to_toml(options):
    """The options as a TOML file's text, from which `--config` repeats the run."""
    lines = []
    for name, value in vars(options).items():
        if value is None or name in NOT_WRITTEN:
            continue
        value = str(value) if isinstance(value, pathlib.Path) else value
        # JSON's numbers, strings, lists and booleans are TOML's.
        lines.append(f"{name.replace('_', '-')} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def whole(least):
    def number(text):
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, received: {text}")
        return value

    return number


def positive(text):
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, received: {text}")
    return value


def not_negative(text):
    return 0.0 if float(text) == 0 else positive(text)


def share(text):
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, received: {text}")
    return value


def augmentations(text):
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in AUGMENTATIONS:
            raise argparse.ArgumentTypeError(f"must be any of {', '.join(AUGMENTATIONS)}, received: {name}")
    return list(dict.fromkeys(names))
