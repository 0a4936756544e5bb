"""Born-again image classifiers from the command line: your images in; a run directory, a report and a model out.

    python examples/kerascv_cli.py
    python examples/kerascv_cli.py --data folder:/photos --backbone densenet --generations 3 --out runs/photos

Generation 0 learns from labels, each later one from labels and from the generation before. Architectures are KerasCV's
(pip install ".[kerascv,examples]"). Without arguments it takes scikit-learn's digits, and needs no network.
"""

import errno
import importlib.util
import os
import pathlib
import sys

from kerascv import data, options, training


def main(arguments=None):
    """Run the command line; returns the exit code, or ends with `SystemExit`."""
    chosen = options.parse(arguments)
    choose_backend(chosen)
    try:
        run(chosen)
    except KeyboardInterrupt:
        if (chosen.out / "run.json").exists():
            stopped = f"What is finished is in {chosen.out}: the same command with --resume goes on."
        else:
            stopped = "Nothing was trained yet."
        print(f"\nStopped. {stopped}", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EPERM):
            raise
        sys.exit(
            f"{error.filename or chosen.out}: {os.strerror(error.errno)}. What is finished is whole: make room, or "
            "choose another --out, and go on with --resume."
        )
    return 0


def choose_backend(chosen):
    """Before Keras is imported, which is when it looks."""
    if chosen.backend and "keras" in sys.modules and sys.modules["keras"].config.backend() != chosen.backend:
        sys.exit(
            f"--backend {chosen.backend}: Keras is imported already, with {sys.modules['keras'].config.backend()}."
        )
    if chosen.backend:
        os.environ["KERAS_BACKEND"] = chosen.backend
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import keras
    except ModuleNotFoundError as error:
        sys.exit(f"{error.name} is missing: install it, or choose another --backend.")
    chosen.backend = keras.config.backend()
    # Found out now, and not when the generations are trained.
    missing = [name for name in ("matplotlib", "rich", "scipy", "PIL") if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f'The report needs {", ".join(missing)}: pip install ".[kerascv,examples]"')


def run(chosen):
    import keras

    import keras_ban
    from keras_ban._src.history.report import page

    print(f"keras {keras.__version__} on {chosen.backend}, keras_ban {keras_ban.__version__}")
    images = data.load(chosen)
    chosen.image_size = images.train[0].shape[1]
    print("\n".join(data.describe(images)))
    try:
        sequence = training.make_sequence(chosen, images)
        history = training.train(sequence, chosen, images, verbose=1 if sys.stdout.isatty() else 2)
    # Their messages say what to do: another run in the directory, one that is running, a loss that became NaN.
    except (ValueError, RuntimeError, FloatingPointError) as error:
        if type(error) not in (ValueError, RuntimeError, FloatingPointError):
            raise
        sys.exit(str(error))
    print(history.summary())
    training.write(chosen.out / "test.json", history.to_json())
    page.write(
        chosen.out / "report.html",
        history,
        title=f"{pathlib.PurePath(chosen.data.rstrip('/')).name or chosen.data}: {chosen.backbone}, born again",
        class_names=images.classes,
        images=images.test[0],
        details={"Data": about(images), "Options": options.to_toml(chosen)},
    )
    if chosen.export != "none":
        model = sequence.best_model if chosen.export == "best" else sequence.ensemble()
        keras_ban.export(model, chosen.out / "saved_model" / "1", format="tf_saved_model", labels=images.classes)
    print(f"{chosen.out}/ holds report.html, test.json, {options.OPTIONS_FILE} and the models (generation-00/, ...)")


def about(images):
    """What was done to the images, and the files that could not be read, as sentences."""
    skipped = [f"{path}: {reason}" for path, reason in images.skipped]
    told = f"{len(skipped)} files could not be read, and were skipped:"
    return [*images.notes, *([told, *skipped] if skipped else [])]


if __name__ == "__main__":
    sys.exit(main())
