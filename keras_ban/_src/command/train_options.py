"""The options of `keras-ban train`. `train_checks` completes and checks them. Nothing here imports Keras."""

import argparse

from keras_ban._src.command.option_types import (
    loss,
    not_negative,
    one_or_each,
    path,
    positive,
    share,
    size,
    some_of,
    whole,
)
from keras_ban._src.command.options_file import OPTIONS_FILE
from keras_ban._src.images.choices import BACKBONES, IN_BATCHES, IN_STEP, LEARNING_RATES, LOSSES, PRESET

AUGMENTATIONS = (*IN_STEP, *IN_BATCHES)
CONTROLS = ("longer", "independent")
DESCRIPTION = """\
Train an image classifier, then train it again with its former self as the
teacher, generation after generation. The run directory gets the models,
report.html with tables, plots and images, and these options. Exit codes:
0, trained; 1, the data or a model cannot be used, or training failed;
2, wrong command line; 130, Ctrl-C."""
EPILOG = """\
examples:
  keras-ban train photos
  keras-ban train photos --backbone densenet --generations 3 --out runs/photos
  keras-ban train photos --label-weight 1,0.5 --teach-from ensemble \\
    --soften-teachers --epochs 30,30,60
  keras-ban train --resume --out runs/photos
  keras-ban train --config runs/photos/options.toml --seed 1 --out runs/photos-1
"""
FOLDER = """\
a folder that holds a folder of images for each class, or train/ and, if there are, val/ and test/ with such folders;
or digits (scikit-learn's, without a download), npz:PATH (x_train, y_train, if there are x_val, y_val, x_test, y_test),
or tfds:NAME"""


def add(commands):
    """Add the command to a parser's commands."""
    command = commands.add_parser(
        "train",
        help="train born-again classifiers of your images",
        description=DESCRIPTION,
        epilog=EPILOG,
        usage="keras-ban train FOLDER [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument("folder", metavar="FOLDER", nargs="?", help=FOLDER)
    for add_group in (_add_data, _add_models, _add_born_again, _add_training, _add_run):
        add_group(command)
    # Names before `keras-ban train`, which files of options may hold.
    old = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    command.add_argument("--data", **{**old, "default": None})
    command.add_argument("--objective", dest="distillation_loss", type=loss, choices=LOSSES, **old)
    command.add_argument("--augment", dest="augmentation", type=some_of(AUGMENTATIONS), **old)


def _add_flag(group, name, help):
    """Add an option that is off, and that `--no-` and its name turn off again."""
    group.add_argument(name, action=argparse.BooleanOptionalAction, default=False, help=help)


def _add_data(command):
    data = command.add_argument_group("data")
    data.add_argument("--unlabeled", type=path, metavar="FOLDER", help="images without labels, for the students")
    data.add_argument(
        "--image-size",
        type=size,
        metavar="SIZE",
        help="height and width in pixels, 32 or 32x48 (default: that of the images, if all have one size of at most "
        "96x96; else 64)",
    )
    data.add_argument(
        "--augmentation",
        type=some_of(AUGMENTATIONS),
        default=[],
        metavar="A,B,...",
        help=f"any of {', '.join(AUGMENTATIONS)}; teacher and student see the same images (default: none)",
    )
    data.add_argument("--data-dir", type=path, help="where TFDS keeps its sets (default: as TFDS has it)")


def _add_models(command):
    models = command.add_argument_group("models")
    libraries = list(BACKBONES)
    models.add_argument(
        "--library", choices=libraries, default=libraries[0], help="of the architectures (default: %(default)s)"
    )
    names = "; ".join(f"{library}: {', '.join(names)}" for library, names in BACKBONES.items())
    models.add_argument(
        "--backbone", metavar="NAME", help=f"{names}; or module:function (default: the library's first)"
    )
    models.add_argument(
        "--preset",
        dest="backbone",
        type=lambda name: f"{PRESET}{name}",
        default=argparse.SUPPRESS,
        metavar="NAME",
        help="instead: a backbone of the library from whose pretrained weights each generation starts, for instance "
        "resnet50_v2_imagenet (needs a network); of keras_hub also the folder of a preset",
    )
    models.add_argument(
        "--weights",
        type=path,
        metavar="FILE",
        help="weights from which the backbone of each generation starts, as keras_hub's backbone.save_weights writes",
    )
    models.add_argument(
        "--teacher-backbone", metavar="NAME", help="another architecture for generation 0 (default: the same)"
    )


def _add_born_again(command):
    born = command.add_argument_group("born again", "As the arguments of BornAgainSequence and its fit.")
    born.add_argument(
        "--generations", type=whole(1), default=2, metavar="N", help="students after the teacher (default: 2)"
    )
    born.add_argument(
        "--distillation-loss",
        type=loss,
        choices=LOSSES,
        default=next(iter(LOSSES)),
        metavar="LOSS",
        help=f"of keras_ban.losses: {', '.join(LOSSES)} (default: %(default)s)",
    )
    temperatures = ", ".join(f"{name} {t:g}" for name, (_, t, _) in LOSSES.items() if t is not None)
    weights = ", ".join(f"{name} {weight:g}" for name, (_, _, weight) in LOSSES.items())
    born.add_argument(
        "--temperature",
        type=positive,
        metavar="T",
        help=f"of the distillation loss (default: {temperatures}; with --soften-teachers 1)",
    )
    born.add_argument(
        "--label-weight",
        type=one_or_each(share),
        metavar="W",
        help=f"share of the label loss, 0 to 1; or of each student, as 1,0.5 (default: {weights})",
    )
    born.add_argument(
        "--teach-from",
        choices=["last", "ensemble"],
        default="last",
        help="teacher: the generation before, or all before averaged (default: last)",
    )
    _add_flag(born, "--distill-ensemble", "train one more student, of the ensemble of all generations")
    _add_flag(born, "--soften-teachers", "make teachers as unsure of the training images as of the validation images")
    born.add_argument(
        "--initial-weights",
        choices=["fresh", "model", "previous"],
        help="with which each generation starts (default: those of --preset, --weights or the function, else fresh)",
    )
    born.add_argument(
        "--controls",
        type=some_of(CONTROLS),
        default=[],
        metavar="A,B",
        help=f"also train on labels alone at the same cost, to compare: any of {', '.join(CONTROLS)} (default: none)",
    )
    born.add_argument(
        "--monitor",
        choices=["val_loss", "val_accuracy"],
        help="what chooses the best generation (default: val_loss; with --soften-teachers val_accuracy)",
    )
    born.add_argument(
        "--patience", type=whole(1), metavar="N", help="stop after N generations without a better monitored value"
    )
    born.add_argument("--seed", type=whole(0), default=0, help="of splits and generations (default: 0)")


def _add_training(command):
    training = command.add_argument_group("training")
    training.add_argument(
        "--epochs",
        type=one_or_each(whole(1)),
        default=30,
        metavar="N",
        help="for all generations; or for each, as 30,30,60 (default: 30)",
    )
    training.add_argument("--batch-size", type=whole(1), default=32, metavar="N", help="default: 32")
    training.add_argument("--optimizer", choices=LEARNING_RATES, default="adamw", help="default: adamw")
    training.add_argument(
        "--learning-rate", type=positive, metavar="R", help="highest of a cosine (default: 0.003; sgd: 0.1)"
    )
    training.add_argument(
        "--warmup", type=whole(0), default=0, metavar="EPOCHS", help="epochs in which it rises (default: 0)"
    )
    training.add_argument("--weight-decay", type=not_negative, default=0.0, metavar="D", help="default: 0")
    training.add_argument(
        "--label-smoothing", type=share, default=0.0, metavar="S", help="0 to less than 1 (default: 0)"
    )
    training.add_argument(
        "--mixed-precision", choices=["none", "float16", "bfloat16"], default="none", help="default: none"
    )
    training.add_argument(
        "--early-stopping", type=whole(1), metavar="EPOCHS", help="end a generation without a better validation loss"
    )


def _add_run(command):
    run = command.add_argument_group("the run")
    run.add_argument("--out", type=path, help="the run directory (default: runs/ and the name of the data)")
    run.add_argument("--resume", action="store_true", help="continue the run in --out, with its own options")
    run.add_argument("--config", type=path, help=f"TOML file of these options, as {OPTIONS_FILE} in every run")
    _add_flag(run, "--tensorboard", "write logs to tensorboard/ in the run directory")
    run.add_argument(
        "--export",
        choices=["none", "best", "ensemble"],
        default="none",
        help="write that model as a SavedModel to saved_model/ in the run directory (default: none)",
    )
