"""Checks of what users pass in, made before anything is trained."""

import math
import numbers
import os

import keras
import numpy as np


def check_model(name, model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"`{name}` must be a `keras.Model`, received: {model!r} (of type {type(model).__name__}).")


def layer_names(layers):
    """A list of names, or a dict from the student's to the teacher's, as such a dict; `None` where it is neither."""
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


def check_distillation_loss(loss):
    losses = [each for each in keras.tree.flatten(loss) if each is not None]
    for each in losses:
        if not isinstance(each, (keras.losses.Loss, keras.distillation.DistillationLoss)):
            raise TypeError(
                "`distillation_loss` must be a `keras.losses.Loss` instance, such as "
                "`keras_ban.losses.KnowledgeDistillation()`, a `keras.distillation.DistillationLoss`, or a list or "
                f"dict of them for several outputs, received: {each!r}."
            )
    if not losses:
        raise ValueError("`distillation_loss` is None for every output. To train on labels alone use `label_weight=1`.")


def check_choice(name, value, choices):
    if not isinstance(value, str) or value not in choices:
        *others, last = [repr(choice) for choice in choices]
        raise ValueError(f"`{name}` must be {', '.join(others)} or {last}, received: {value!r}.")
    return value


def check_flag(name, value):
    """Return `value` as a bool, or raise `ValueError`: what is merely true, the text "no" for instance, is refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False, received: {value!r}.")
    return bool(value)


def check_text(name, value):
    """Raise unless `value` is a text or `None`."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string or None, received: {value!r} (of type {type(value).__name__}).")


def check_path(name, path):
    """Raise where `path` names no file or folder."""
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise TypeError(f"`{name}` must be a path, received: {path!r} (of type {type(path).__name__}).")
    if os.fspath(path) == "" or "\0" in os.fspath(path):
        raise ValueError(f"`{name}` must be the path of a file or folder, received: {path!r}.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise ValueError(f"`{name}` must be a path that the file system can encode, received: {path!r}.") from error


def check_count(name, value, below=None):
    """Return `value` as an int of at least 1 (and `below` a limit), or raise `ValueError`."""
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or value < 1 or (below is not None and value >= below):
        most = "" if below is None else f" and less than {below}"
        raise ValueError(f"`{name}` must be a whole number of at least 1{most}, received: {value!r}.")
    return int(value)


def check_seed(seed, below=None):
    """Return `seed`, a whole number of at least 0 (and `below` a limit) or `None`, or raise `ValueError`."""
    if seed is None:
        return None
    is_whole = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_whole or seed < 0 or (below is not None and seed >= below):
        most = "" if below is None else f" and less than {below}"
        raise ValueError(f"`seed` must be a whole number of at least 0{most}, or None, received: {seed!r}.")
    return int(seed)


def is_finite(value):
    return math.isfinite(float(value))
