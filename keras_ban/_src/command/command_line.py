"""The command line: `keras-ban COMMAND`, or `python -m keras_ban COMMAND`.

The package reads the command line by this file before it imports Keras. So `--backend` can choose the backend, and
`--help` needs none. There is a file for each command beside it.
"""

import argparse
import difflib
import fractions
import importlib
import importlib.util
import os
import pathlib
import signal
import sys

from keras_ban._src.command import train_checks, train_options
from keras_ban._src.command.option_types import path

BACKENDS = ("tensorflow", "jax", "torch")
# As in `keras_ban/_src/export/export.py`.
FORMATS = ("tf_saved_model", "onnx", "litert")

EXPORT = """\
Export a model as one graph for serving, load it in a process without keras_ban, and compare its outputs with the
model's. Exit codes: 0, exported and verified; 1, not exported, nothing was written; 2, wrong command line.
KERAS_BACKEND selects the backend that loads the model. TensorFlow must be installed with any backend."""
CHECK = """\
Compare the files of a run with the checksums in run.json, with a line for each generation. Say whether the run is
finished, or what `fit` continues with. Nothing is changed, and no model is built. Exit codes: 0, the run is intact; 1,
it is not, or it cannot be read; 2, wrong command line."""
COMPARE = """\
Print one table of several runs, the best by the monitor first: their best generations, their ensembles, and what they
cost. Runs that were measured on different validation data are marked. Exit codes: 0, compared; 1, a run cannot be read;
2, wrong command line."""
SUMMARY = """\
Print `history.summary()` of a run, as wide as the terminal. Exit codes: 0, printed; 1, the run cannot be read; 2, wrong
command line."""
REPORT = """\
Write `history.report()` of a run: one HTML file with its scores, curves and calibration. RUN holds no answers of single
examples: results of classes, confusions and errors are in the report that `sequence.evaluate(x, y).report(...)` writes.
Exit codes: 0, written; 1, the run cannot be read, or the file cannot be written; 2, wrong command line."""

# The handler of Ctrl-C before `begin`, until `end_start`.
_start: list = []


def main(arguments=None):
    """Run a command, and return the exit code. A wrong command line ends with `SystemExit`, code 2."""
    chosen = None
    try:
        chosen = parse(arguments)
        chosen.backend = choose_backend(chosen.backend)
        # It imports keras_ban, and so Keras.
        command = importlib.import_module(f"keras_ban._src.command.{chosen.command}")
        if chosen.command != "train":  # It imports more, and ends this itself.
            end_start()
        return command.run(chosen) or 0
    except KeyboardInterrupt:
        return _stopped(chosen)
    except (ImportError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"error: {_explained(error)}", file=sys.stderr)
        return 1


def is_running():
    """Whether this process was started as `keras-ban` or `python -m keras_ban`."""
    program = sys.argv[0] if sys.argv else ""
    if program == "-m":  # A module that is being imported.
        return sys.orig_argv[-len(sys.argv)].removeprefix("-m") == "keras_ban"
    return pathlib.PurePath(program).stem == "keras-ban"


def start():
    """Read the command line and import Keras with its backend. End the process if it asks for help, or that fails."""
    chosen = None
    try:
        chosen = parse()
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # Nothing is written yet. As an exception, Ctrl-C would get lost in functions that Python itself calls, such
            # as those that JAX adds to the garbage collection.
            _start.append(signal.signal(signal.SIGINT, lambda *_: _end_at_once(chosen)))
        choose_backend(chosen.backend)
    except KeyboardInterrupt:
        sys.exit(_stopped(chosen))
    except (ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def end_start():
    """Let Ctrl-C raise `KeyboardInterrupt` again. Call it before anything is written."""
    while _start:
        signal.signal(signal.SIGINT, _start.pop())


def choose_backend(backend=None):
    """Import Keras with a backend, and return its name. `None`: that of `KERAS_BACKEND`, or of Keras's configuration.

    Raise `ImportError` or `ValueError` if this is not possible.
    """
    if "keras" not in sys.modules:
        if backend is not None:
            os.environ["KERAS_BACKEND"] = backend
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        asked = os.environ.get("KERAS_BACKEND")
        if asked and asked not in BACKENDS:
            raise ValueError(f"KERAS_BACKEND must be one of {', '.join(BACKENDS)}, but it is {asked!r}.")
    try:
        # Not earlier: when Keras is imported, it reads which backend to use.
        import keras
    except ImportError as error:
        raise ImportError(_missing(error)) from error
    used = keras.config.backend()
    if backend not in (None, used):
        raise ValueError(f"--backend {backend}: Keras is imported already, with {used}.")
    if used not in BACKENDS:
        raise ValueError(f"Keras's backend must be one of {', '.join(BACKENDS)}, but it is {used!r}: pass --backend.")
    return used


def _stopped(chosen):
    how = f" {train_checks.how_to_continue(chosen)}" if getattr(chosen, "command", None) == "train" else ""
    # The terminal shows ^C in the line above.
    print(f"\nStopped.{how}", file=sys.stderr, flush=True)
    return 130


def _end_at_once(chosen):
    """End the process by the signal of Ctrl-C. Shells show 130 for it."""
    _stopped(chosen)
    sys.stdout.flush()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _missing(error):
    """Return what to do about an error of importing Keras."""
    if error.name == "keras":
        return 'Keras is not installed: pip install "keras>=3.12.1".'
    if error.name not in BACKENDS:
        return f"Keras cannot be imported: {error}."
    installed = [name for name in BACKENDS if name != error.name and importlib.util.find_spec(name) is not None]
    others = f"or choose with --backend or KERAS_BACKEND what is installed: {', '.join(installed)}"
    if not installed:
        others = f"or another of {', '.join(BACKENDS)}, and choose it with --backend or KERAS_BACKEND"
    return f"Keras's backend {error.name} is not installed: pip install {error.name}, {others}."


def _explained(error):
    if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] == "rich":
        return 'The table needs rich: pip install "keras-ban[plot]"'
    return error


def parse(arguments=None):
    """Return the arguments of a command line. `command` is the name of the command."""
    arguments = sys.argv[1:] if arguments is None else [str(argument) for argument in arguments]
    parser = Parser("keras-ban", description="Born-Again Neural Networks for Keras 3.")
    commands = parser.add_subparsers(required=True, dest="command")
    train_options.add(commands)
    _add_export(commands)
    _add_of_run(commands, "check", "is this run intact, is it finished?", CHECK)
    _add_compare(commands)
    _add_of_run(commands, "summary", "the table of a run's generations", SUMMARY)
    report = _add_of_run(commands, "report", "an HTML report of a run", REPORT)
    default = pathlib.Path("report.html")
    report.add_argument("--out", metavar="FILE", type=path, default=default, help="default: %(default)s")
    for command in commands.choices.values():
        command.add_argument(
            "--backend", choices=BACKENDS, help="Keras's backend (default: that of KERAS_BACKEND, or Keras's own)"
        )
    chosen = _parse(parser, commands, arguments)
    if chosen.command == "train":
        command = commands.choices["train"]
        in_file = train_checks.from_file(command, chosen)
        chosen = _parse(parser, commands, [arguments[0], *in_file, *arguments[1:]])
        train_checks.complete(command, chosen)
        if chosen.resume:
            of_run = train_checks.of_run(command, chosen)
            begun = _parse(parser, commands, [arguments[0], "--resume", "--out", str(chosen.out), *of_run])
            train_checks.check_same(command, begun, chosen)
    return chosen


def _parse(parser, commands, arguments):
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        # By the command's parser: the usage of `parser` shows no options of a command.
        commands.choices[chosen.command].refuse(unknown)
    return chosen


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that answers wrong commands, values and options with the one that is most like them."""

    def _check_value(self, action, value):
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            error.message += _did_you_mean([value], action.choices)
            raise

    def refuse(self, unknown):
        """End with an error about arguments that no option takes, code 2."""
        shown = [each for each in self._actions if each.help != argparse.SUPPRESS]
        known = [name for each in shown for name in each.option_strings if name.startswith("--")]
        given = [each.partition("=")[0] for each in unknown if each.startswith("-")]
        hint = _did_you_mean(given, known) or f". The options are {', '.join(known)}"
        self.error(f"unrecognized arguments: {' '.join(unknown)}{hint if given else ''}")


def _did_you_mean(given, known):
    """Return a question with the known names that are most like those given; empty if there are none."""
    # Without the dashes, which all options share.
    bare = {name.lstrip("-"): name for name in known}
    found = [name for each in given for name in difflib.get_close_matches(each.lstrip("-").lower(), bare, 1)]
    return f". Did you mean {' and '.join(bare[name] for name in dict.fromkeys(found))}?" if found else ""


def _add_export(commands):
    command = commands.add_parser("export", help="export a model for serving, and verify it", description=EXPORT)
    command.add_argument(
        "model", metavar="RUN_OR_MODEL", type=path, help="a BornAgainSequence's directory, or a .keras file"
    )
    command.add_argument("out", metavar="OUT", type=path, help="path; for TensorFlow Serving .../NAME/1")
    command.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="default: %(default)s")
    command.add_argument("--choose", choices=["ensemble", "best"], help="what to export of a run (default: ensemble)")
    command.add_argument("--members", action="store_true", help="also output each member, and their disagreement")
    command.add_argument(
        "--rescaling",
        metavar="FACTOR",
        type=factor,
        help="multiply the inputs by this in the graph, for instance 1/255; inputs are uint8, or as the examples",
    )
    command.add_argument("--labels", metavar="FILE", type=path, help="class names, one per line")
    command.add_argument(
        "--examples", metavar="FILE", type=path, help="more inputs to verify: .npy, or .npz with x (and y)"
    )
    command.add_argument("--int8", action="store_true", help="quantise LiteRT to int8; needs --examples")
    command.add_argument("--no-verify", dest="verify", action="store_false", help="do not compare with the model")
    command.add_argument("--tolerance", type=float, default=1e-5, help="largest difference (default: %(default)s)")
    command.add_argument("--overwrite", action="store_true", help="replace an existing model")
    command.add_argument("--quiet", dest="verbose", action="store_false", help="print nothing but errors")
    command.add_argument(
        "--import",
        dest="modules",
        metavar="MODULE",
        action="append",
        default=[],
        help="a module that registers your own classes; may be repeated",
    )


def _add_of_run(commands, name, help, description):
    command = commands.add_parser(name, help=help, description=description)
    command.add_argument("run", metavar="RUN", type=path, help="a BornAgainSequence's directory")
    return command


def _add_compare(commands):
    command = commands.add_parser("compare", help="one table of several runs", description=COMPARE)
    command.add_argument("runs", metavar="RUN", nargs="+", type=path, help="the directory of a BornAgainSequence")


def factor(text):
    """Convert a number or a fraction. `argparse` reports the `ValueError`."""
    try:
        return float(fractions.Fraction(text))
    except ZeroDivisionError:
        raise ValueError(text) from None
