"""Checks of `keras-ban train` that depend on several options, or on files. Nothing here imports Keras."""

import pathlib
import shlex
import shutil
import sys

from keras_ban._src.command.options_file import OPTIONS_FILE, as_argument, as_text, read
from keras_ban._src.images.choices import BACKBONES, IN_BATCHES, LEARNING_RATES, LOSSES, NEED_LABELS, PRESET

# Options that a run may be continued with. What data and weights hold is compared when they are read.
_MAY_DIFFER = ["command", "folder", "data", "data_dir", "unlabeled", "weights", "out", "resume", "config"]
_MAY_DIFFER += ["tensorboard", "export"]


def from_file(command, options):
    """Return the arguments that a file of options stands for: of `--config`, or of the run that `--resume` continues.

    They count as if they stood in front of the command line. So they are checked in the same way, and the command line
    overrides them.
    """
    if options.folder is not None and options.data is not None:
        command.error("FOLDER and --data both name the data: leave one out")
    if options.config is not None:
        return _read(command, options.config, "--config")
    if options.resume and options.out is None:
        command.error("--resume needs --out, the directory of the run that is to be continued")
    return of_run(command, options) if options.resume else []


def of_run(command, options):
    """Return the arguments with which the run that `--resume` continues was begun."""
    path = options.out / OPTIONS_FILE
    return _read(command, path, "--resume") if path.exists() else []


def _read(command, path, option):
    """Return the arguments in a file of options. End with a message, code 2, if it is no such file."""
    try:
        return [as_argument(name, value) for name, value in read(path).items()]
    except ValueError as error:
        command.error(f"{option} {error}")


def check_same(command, begun, options):
    """End with a message, code 2, if options differ from those with which the run was begun."""
    if begun.data is None:  # There is no file of options yet.
        return
    found, arguments = [], []
    for name, now in vars(options).items():
        before = getattr(begun, name)
        if name in _MAY_DIFFER or before == now:
            continue
        if name == "generations" and now > before and not (begun.distill_ensemble or begun.controls):
            continue
        flag = f"--{name.replace('_', '-')}"
        found.append((flag, f"{flag}: {_in_words(before)} in the run, {_in_words(now)} now"))
        arguments.append(shlex.quote(as_argument(flag[2:], now)))
    if found:
        command.error(
            f"{options.out} holds a run that was begun with other options:\n"
            + "".join(f"- {line}\n" for _, line in found)
            + f"Leave {' and '.join(flag for flag, _ in found)} out to continue the run, or begin another one: "
            f"{program()} train --config {shlex.quote(str(options.out / OPTIONS_FILE))} {' '.join(arguments)} "
            f"--out {shlex.quote(f'{options.out}-2')}"
        )


def _in_words(value):
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None or value == [] else as_text(value)


def complete(command, options):
    """Fill in what depends on other options. End with a message, code 2, if values are wrong or exclude each other."""
    kind, place = _complete_data(command, options)
    _complete_models(command, options)
    loss = options.distillation_loss
    _, temperature, label_weight = LOSSES[loss]
    if temperature is None and options.temperature is not None:
        command.error(f"--temperature: {loss} has none (it uses the teacher's confidence alone)")
    if options.soften_teachers and temperature is not None:
        temperature = 1.0  # Another one would soften the student, too.
    options.temperature = options.temperature or temperature
    options.label_weight = label_weight if options.label_weight is None else options.label_weight
    options.monitor = options.monitor or ("val_accuracy" if options.soften_teachers else "val_loss")
    options.learning_rate = options.learning_rate or LEARNING_RATES[options.optimizer]
    _check_each(command, options)
    least = min(values_of(options.epochs))
    if options.warmup >= least:
        command.error(f"--warmup {options.warmup} leaves none of --epochs {least} to train at the full rate")
    if options.label_smoothing == 1:
        command.error("--label-smoothing must be less than 1, which would leave nothing of the labels")
    mixed = [name for name in options.augmentation if name in ("mixup", "cutmix")]
    if loss == "DecoupledKnowledgeDistillation" and mixed:
        command.error(f"--augmentation {mixed[0]} gives an image two labels, and {loss} needs one: leave one out")
    if options.unlabeled is not None and loss in NEED_LABELS:
        command.error(f"--unlabeled: the distillation loss {loss} needs a label of each image")
    weights = values_of(options.label_weight)
    for name, alone in (
        ("unlabeled", 1 in weights),
        ("distill_ensemble", weights[-1] == 1),
        ("soften_teachers", set(weights) == {1}),
    ):
        if getattr(options, name) and alone:
            command.error(f"--{name.replace('_', '-')}: with --label-weight 1 students learn from labels alone")
    if options.soften_teachers:
        _check_can_soften(command, options)
    if options.out is None:
        options.out = pathlib.Path("runs") / (pathlib.Path(place).stem or kind)
    _check_out(command, options)


def values_of(option):
    """Return the values of an option that may have one for each generation."""
    return option if isinstance(option, list) else [option]


def _check_each(command, options):
    students = options.generations
    for name, wanted, of in (
        ("epochs", students + 1, "generation, the teacher first"),
        ("label_weight", students, "student"),
    ):
        values = getattr(options, name)
        if isinstance(values, list) and len(values) != wanted:
            flag = f"--{name.replace('_', '-')} {as_text(values)}"
            command.error(f"{flag} must be one number, or one for each {of}: {wanted} with --generations {students}")


def _check_can_soften(command, options):
    changed = [name for name in options.augmentation if name in IN_BATCHES]
    if changed:
        command.error(f"--soften-teachers: --augmentation {changed[0]} changes batches before the step: leave one out")
    if options.unlabeled is not None:
        command.error("--soften-teachers is about images that trained the teacher: leave out it or --unlabeled")


def _check_out(command, options):
    out, wanted = options.out, "it must be a folder that is empty, or not there yet"
    if out.exists() and not out.is_dir():
        command.error(f"--out {out} is a file: {wanted}")
    if (out / "run.json").exists():
        if not options.resume:
            command.error(f"{out} holds a run already. Continue it with {_resume(options)}, or choose another --out")
    elif out.exists():
        others = sorted(each.name for each in out.iterdir() if not each.name.startswith("."))
        if others:
            command.error(
                f"--out {out} holds files but no run ({', '.join(others[:3])}): {wanted}. Choose another --out"
            )


def _complete_data(command, options):
    """Return the kind of the data, and where they are."""
    if options.folder is not None:
        is_kind = options.folder.partition(":")[0] in ("npz", "folder", "tfds") and ":" in options.folder
        is_folder = not is_kind and (options.folder != "digits" or pathlib.Path("digits").is_dir())
        options.data = f"folder:{options.folder}" if is_folder else options.folder
    if options.data is None:
        if options.resume:
            command.error(
                f"--resume: there is no {options.out / OPTIONS_FILE}. To start a run, name a FOLDER of images"
            )
        command.error("FOLDER is missing: a folder of images; or digits, npz:PATH or tfds:NAME")
    kind, _, place = options.data.partition(":")
    if (kind not in ("npz", "folder", "tfds") or not place) and options.data != "digits":
        command.error(f"--data must be digits, npz:PATH, folder:PATH or tfds:NAME, received: {options.data}")
    if kind in ("npz", "folder"):
        path = pathlib.Path(place).expanduser().resolve()
        options.data = f"{kind}:{path}"
        _check_there(command, "FOLDER", path, kind == "folder")
    if options.unlabeled is not None:
        options.unlabeled = options.unlabeled.expanduser().resolve()
        _check_there(command, "--unlabeled", options.unlabeled, True)
    return kind, place


def _check_there(command, name, path, is_folder):
    wanted = "a folder" if is_folder else "a file"
    if not path.exists():
        command.error(f"{name} must be {wanted}, but {path} does not exist")
    if is_folder and not path.is_dir():
        hint = f". Of arrays, write npz:{path}" if path.suffix == ".npz" else ""
        command.error(f"{name} must be {wanted}, but {path} is a file{hint}")


def _complete_models(command, options):
    known = BACKBONES[options.library]
    options.backbone = options.backbone or next(iter(known))
    for name in ("backbone", "teacher_backbone"):
        value = getattr(options, name)
        if value is not None and value not in known and not all(value.partition(":")):
            flag = "--preset" if value == PRESET else f"--{name.replace('_', '-')}"
            command.error(f"{flag} must be one of {', '.join(known)} or module:function, received: {value}")
    names = [options.backbone, options.teacher_backbone or options.backbone]
    if options.weights is not None:
        if options.library != "keras_hub" or not set(names) <= set(known):
            command.error("--weights are of a --backbone of --library keras_hub: " + ", ".join(BACKBONES["keras_hub"]))
        options.weights = options.weights.expanduser().resolve()
        _check_there(command, "--weights", options.weights, False)
    if options.initial_weights == "previous" and names[0] != names[1]:
        command.error("--initial-weights previous needs one architecture: leave out --teacher-backbone")
    least, multiple = (max(values) for values in zip(*(known.get(name, (1, 1)) for name in names), strict=True))
    size = options.image_size
    if size is not None and (min(size) < least or any(length % multiple for length in size)):
        of_it = f", and a multiple of {multiple}" if multiple > 1 else ""
        command.error(f"--image-size must be at least {least}{of_it} for {' and '.join(dict.fromkeys(names))}")


def how_to_continue(options):
    """Return one line about what is kept of an interrupted run, and how to go on with it."""
    if (options.out / OPTIONS_FILE).exists():
        return f"Continue with: {_resume(options)}"
    if (options.out / "run.json").exists():
        return "No epoch is finished yet. Start again with the same command and --resume."
    return "Nothing was trained yet. Start again with the same command."


def _resume(options):
    return f"{program()} train --resume --out {shlex.quote(str(options.out))}"


def program():
    """Return the command that starts `keras-ban` in this environment."""
    python = pathlib.Path(sys.executable)
    found = shutil.which("keras-ban")
    if found is not None and pathlib.Path(found).parent == python.parent:
        return "keras-ban"
    return f"{shlex.quote(sys.orig_argv[0])} -m keras_ban"
