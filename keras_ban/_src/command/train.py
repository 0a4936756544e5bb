"""`keras-ban train FOLDER`."""

import pathlib
import sys
import textwrap
import warnings

import keras

from keras_ban._src.command import command_line, other_images, train_checks
from keras_ban._src.command.options_file import OPTIONS_FILE, to_toml
from keras_ban._src.command.stored_runs import terminal_width
from keras_ban._src.export.export import export
from keras_ban._src.files.writing import write_text
from keras_ban._src.history.report import page
from keras_ban._src.images import data, models, packages, recipe
from keras_ban._src.images.choices import WrongOption
from keras_ban._src.runs.differences import OtherSettings


def run(arguments):
    """Train the generations that the options describe, and write the report. Return the exit code."""
    try:
        packages.check(arguments)
        models.check_names(arguments)
        with warnings.catch_warnings():
            # KerasCV's layers are built when Keras calls them, which is next.
            warnings.filterwarnings("ignore", r"`build\(\)` was called on layer 'squeeze_and_excite2d")
            # Of batches that RandAugment, MixUp or CutMix change. They come in the same order again.
            warnings.filterwarnings("ignore", "`x` may come in another order")
            _train(arguments)
    except WrongOption as error:
        print(f"keras-ban train: error: {error}", file=sys.stderr)
        return 2
    except OtherSettings as error:
        print(f"error: {other_images.explained(error, arguments)}", file=sys.stderr)
        return 1
    except (ArithmeticError, ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        # A loss that became NaN would do so again.
        if (arguments.out / OPTIONS_FILE).exists() and not isinstance(error, ArithmeticError):
            print(train_checks.how_to_continue(arguments), file=sys.stderr)
        return 1
    return 0


def _train(arguments):
    print(f"keras {keras.__version__} on {arguments.backend}. Reading {arguments.data}", flush=True)
    if arguments.resume and not (arguments.out / "run.json").exists():
        _say([f"{arguments.out} holds no run to continue: a new one begins there."])
    images = data.load(arguments)
    arguments.image_size = images.size
    _say(data.describe(images))
    sequence = recipe.make_sequence(arguments, images)
    _say(recipe.describe(arguments))
    verbose = 1 if sys.stdout.isatty() else 2

    def keep_options():
        write_text(arguments.out / OPTIONS_FILE, to_toml(arguments))

    command_line.end_start()
    history = recipe.train(sequence, arguments, images, verbose, keep_options)
    details = {"Data": data.about(images), "Options": to_toml(arguments)}
    if arguments.controls:
        # They are scored on the validation images alone.
        print(sequence.history.summary(width=terminal_width()))
        details = {"Generations and controls on validation images": sequence.history.summary(width=160), **details}
    print(history.summary(width=terminal_width()))
    write_text(arguments.out / "test.json", history.to_json())
    page.write(
        arguments.out / "report.html",
        history,
        title=f"{pathlib.PurePath(arguments.data).name}: {arguments.backbone}, born again",
        class_names=images.classes,
        file_names=list(images.test[2]),
        images=images.test[0],
        details=details,
    )
    if arguments.export != "none":
        model = sequence.best_model if arguments.export == "best" else sequence.ensemble()
        export(model, arguments.out / "saved_model" / "1", labels=images.classes, overwrite=True)
    print(f"{arguments.out}/ holds report.html, test.json, {OPTIONS_FILE} and the models (generation-00/, ...)")


def _say(lines):
    for line in lines:
        print(textwrap.fill(line, terminal_width(), subsequent_indent="  "), flush=True)
