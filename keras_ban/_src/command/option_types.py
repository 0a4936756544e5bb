"""Types of options: from the text of the command line to a value. `argparse` reports their errors."""

import argparse
import pathlib

from keras_ban._src.images.choices import LOSSES


def path(text):
    """Return a path. A shell does not replace the `~` of `--out=~/run`."""
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:
        raise argparse.ArgumentTypeError(f"there is no home folder {text}; write ./{text}") from None


def whole(least):
    def convert(text):
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"must be a whole number, at least {least}, received: {text}")
        return int(text)

    return convert


def one_or_each(convert):
    """Return a type: one value, or a value for each generation as a list."""

    def converted(text):
        values = [convert(each) for each in text.split(",")]
        return values if len(values) > 1 else values[0]

    return converted


def size(text):
    lengths = text.lower().split("x")
    if len(lengths) > 2 or not all(each.isdecimal() and int(each) > 0 for each in lengths):
        raise argparse.ArgumentTypeError(f"must be a number of pixels, or HEIGHTxWIDTH as 32x48, received: {text}")
    return int(lengths[0]), int(lengths[-1])


def positive(text):
    value = number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, received: {text}")
    return value


def not_negative(text):
    return 0.0 if number(text) == 0 else positive(text)


def share(text):
    value = number(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, received: {text}")
    return value


def number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, received: {text}") from None


def loss(text):
    """Return the name of a loss in `keras_ban.losses`, also of its short name."""
    return next((name for name, (short, *_) in LOSSES.items() if text == short), text)


def some_of(known):
    def convert(text):
        chosen = [name for name in text.split(",") if name]
        for name in chosen:
            if name not in known:
                raise argparse.ArgumentTypeError(f"must be any of {', '.join(known)}, received: {name}")
        return list(dict.fromkeys(chosen))

    return convert
