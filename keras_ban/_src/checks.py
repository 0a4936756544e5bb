"""Checks of arguments, made before training."""

import difflib
import dis
import functools
import inspect
import math
import numbers
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar, cast

import keras
import numpy as np

# Where an argument of another name belongs, for those that are usual elsewhere.
_LOSS = "a temperature belongs to the loss: `distillation_loss=keras_ban.losses.KnowledgeDistillation(temperature=...)`"
_WEIGHT = "use `label_weight`, the share of the label loss. That of the distillation loss is `1 - label_weight`"
_COMPILE, _FIT = "pass it to `compile`", "pass it to `fit`"
_LABEL_LOSS = "pass `loss` to `compile`"
_BELONGS = {
    **dict.fromkeys(["temperature", "T", "tau"], _LOSS),
    **dict.fromkeys(["alpha", "student_loss_weight", "distillation_loss_weights", "distillation_weight"], _WEIGHT),
    **dict.fromkeys(["distillation_losses", "distillation_loss_fn", "strategy"], "use `distillation_loss`"),
    **dict.fromkeys(["student_loss", "student_loss_fn"], _LABEL_LOSS),
    **dict.fromkeys(["optimizer", "loss", "metrics"], _COMPILE),
    **dict.fromkeys(["x", "y", "epochs", "batch_size", "validation_data", "callbacks", "teacher"], _FIT),
}


_Method = TypeVar("_Method", bound=Callable[..., Any])


def names_the_right_call(method: _Method) -> _Method:
    """Decorate a method: arguments that it does not take raise a `TypeError` that says what to write instead.

    It is one more call for the `stacklevel` of warnings.
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def checked(self, *args, **kwargs):
        try:
            signature.bind(self, *args, **kwargs)
        except TypeError as error:
            name = type(self).__name__ if method.__name__ == "__init__" else f"`{method.__name__}`"
            raise TypeError(_right_call(name, signature, args, kwargs, error)) from None
        return method(self, *args, **kwargs)

    return cast(_Method, checked)  # It has the signature of `method`.


def _right_call(name, signature, args, kwargs, error):
    known = list(signature.parameters)[1:]
    unknown = [key for key in kwargs if key not in known]
    if unknown:
        close = difflib.get_close_matches(unknown[0], known, n=1)
        hint = f"use `{close[0]}`" if close else f"its arguments are {', '.join(known)}"
        return f"{name} takes no argument `{unknown[0]}`: {_BELONGS.get(unknown[0], hint)}."
    if args and all(each.kind is each.KEYWORD_ONLY for each in list(signature.parameters.values())[1:]):
        return (
            f"{name} takes no positional arguments, so that none are swapped: `{name}({known[0]}=..., {known[1]}=...)`."
        )
    return f"{name}: {error}."


def check_keywords(call, keywords, *functions):
    """Raise a `TypeError` that says what to write instead, if a keyword is of none of the functions."""
    signatures = [inspect.signature(function).parameters.values() for function in functions]
    known = [each.name for parameters in signatures for each in parameters if each.kind is not each.VAR_KEYWORD]
    for keyword in keywords:
        if keyword not in known:
            close = difflib.get_close_matches(keyword, known, n=1)
            hint = f"use `{close[0]}`" if close else "its arguments are those of `keras.Model`, and those of its own"
            advice = _BELONGS.get(keyword, hint)
            advice = hint if advice == f"pass it to `{call}`" else advice  # That of a sequence takes more.
            if advice not in (hint, _LABEL_LOSS, _COMPILE, _FIT):
                advice += ". It is an argument of the constructor"
            raise TypeError(f"`{call}` takes no argument `{keyword}`: {advice}.")


def check_loss_names(losses):
    """Raise Keras's `ValueError` if it does not know the name of a loss, which it looks up only at the first step."""
    for loss in keras.tree.flatten(losses):
        if isinstance(loss, str) and loss.lower() not in ("crossentropy", "ce"):
            keras.losses.get(loss)


def check_model_or_builder(name, build):
    """Raise `TypeError` unless it is a `keras.Model`, or can be called with the number of a generation."""
    if isinstance(build, keras.Model):
        return
    if isinstance(build, type) or not callable(build):
        raise TypeError(
            f"`{name}` must be a `keras.Model`, or a callable `build(generation)` that returns one, received: "
            f"{build!r} (of type {type(build).__name__})."
        )
    check_takes_one(name, build, "the number of the generation, `build(generation)`", "Write `lambda generation: ...`.")


def check_takes_one(name, function, argument, instead):
    """Raise `TypeError` if a function cannot be called with one argument, which is described in words."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # Some callables of C have none.
    try:
        signature.bind(0)
    except TypeError as error:
        raise TypeError(f"`{name}` is called with {argument}, and {function!r} cannot be: {error}. {instead}") from None


MODEL_OF_LAYER = " Make a model of the layer: `keras.Sequential([keras.Input(shape), layer])`."


def check_model(name, model):
    if not isinstance(model, keras.Model):
        known = {list: " Average several: `keras_ban.EnsembleModel`.", str: " Load it: `keras.saving.load_model`."}
        instead = known.get(type(model), "")
        if isinstance(model, keras.layers.Layer):
            instead = MODEL_OF_LAYER
        elif name == "teacher" and callable(model):
            instead = (
                " Store what a function says: `SoftTargets.from_teacher(function, x)`, then `fit(soft_targets=...)`."
            )
        raise TypeError(
            f"`{name}` must be a `keras.Model`, received: {model!r} (of type {type(model).__name__}).{instead}"
        )


def layer_names(layers):
    """Return `{student's layer name: teacher's layer name}` for a list of names or such a dict, else `None`."""
    if isinstance(layers, (list, tuple)) and all(isinstance(name, str) for name in layers):
        return {name: name for name in layers}
    if isinstance(layers, dict) and all(isinstance(name, str) for pair in layers.items() for name in pair):
        return dict(layers)
    return None


def check_label_weight(label_weight):
    """Return `label_weight` as a float, or raise `ValueError`."""
    is_number = isinstance(label_weight, numbers.Real) and not isinstance(label_weight, bool)
    if not is_number or not 0 <= label_weight <= 1:
        raise ValueError(
            f"`label_weight` must be a number in [0, 1], received: {label_weight!r}. It is the share of the label "
            "loss: 1.0 trains on labels alone, 0.0 on the teacher alone."
        )
    return float(label_weight)


def check_choice(name, value, choices):
    if not isinstance(value, str) or value not in choices:
        *others, last = [repr(choice) for choice in choices]
        raise ValueError(f"`{name}` must be {', '.join(others)} or {last}, received: {value!r}.")
    return value


def check_flag(name, value):
    """Return `value` as a bool. Raise `ValueError` for values of other types, such as the text "no"."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False, received: {value!r}.")
    return bool(value)


def check_text(name, value):
    """Raise `ValueError` unless `value` is a string or `None`."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string or None, received: {value!r} (of type {type(value).__name__}).")


def check_path(name, path):
    """Return `path`, with a home folder in place of `~` at its start, as a shell writes it.

    Raise `TypeError` or `ValueError` if it is not the path of a file or folder.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"`{name}` must be a path, received: {path!r} (of type {type(path).__name__}).")
    if os.fspath(path) == "" or "\0" in os.fspath(path):
        raise ValueError(f"`{name}` must be the path of a file or folder, received: {path!r}.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"`{name}` must be a path that the file system can encode, received: {path!r}.") from error
    if not os.fspath(path).startswith("~"):
        return path
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(
            f"`{name}` is {path!r}, but there is no such home folder. For a folder or file of that name, write "
            f"'{os.path.join(os.curdir, path)}'."
        ) from error


def check_count(name, value, below=None):
    """Return `value` as an int of at least 1, and less than `below`. Raise `ValueError` otherwise."""
    return _check_whole(name, value, 1, below)


def check_seed(seed, below=None):
    """Return `seed`, an int of at least 0, and less than `below`, or `None`. Raise `ValueError` otherwise."""
    return None if seed is None else _check_whole("seed", seed, 0, below, ", or None")


def _check_whole(name, value, least, below, others=""):
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < least or (below is not None and value >= below):
        most = "" if below is None else f" and less than {below}"
        raise ValueError(f"`{name}` must be a whole number of at least {least}{most}{others}, received: {value!r}.")
    return int(value)


def is_finite(value):
    return math.isfinite(float(value))


_LIBRARIES = ("keras", "keras_ban", "keras_hub", "tensorflow", "jax", "jaxlib", "torch", "numpy")


def is_raised_by_user(error):
    """Return whether a `raise` or an `assert` in the user's own code raised an error. It keeps its type and message."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_next is not None:
        traceback = traceback.tb_next
    if traceback is None:
        return False
    frame = traceback.tb_frame
    library = frame.f_globals.get("__name__", "").split(".")[0] in _LIBRARIES
    return not library and frame.f_code.co_code[traceback.tb_lasti] == dis.opmap["RAISE_VARARGS"]
