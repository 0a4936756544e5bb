"""The models that the options name: of a library, its presets, or of a function of the user."""

import importlib
import os
import sys
import traceback

import keras
import numpy as np

from keras_ban._src.images import cv, hub
from keras_ban._src.images.choices import BACKBONES, PRESET, WrongOption

# Images that KerasCV's presets can take.
_OF_PRESETS = (32, 1)


def build(name, input_shape, classes, library="keras_cv", weights=None):
    """Return a classifier that takes images of 0 to 255 and returns probabilities.

    Args:
        name: of an architecture of the library; `preset:` and the name of a preset that it has pretrained weights for;
            or `module:function`: a function `(input_shape, classes)` that returns a `keras.Model` whose outputs are
            feature maps, `(batch, height, width, channels)`, which get a head, or probabilities, `(batch, classes)`.
        input_shape: `(height, width, 3)`.
        classes: how many.
        library: `"keras_cv"` or `"keras_hub"`.
        weights: of a backbone of KerasHub, a file.

    Raises:
        ValueError: the function returns something else, or weights cannot be had.
    """
    preset = name.removeprefix(PRESET) if name.startswith(PRESET) else None
    is_own = name not in BACKBONES[library] and preset is None
    if library == "keras_hub" and not is_own:
        return hub.build(name, input_shape, classes, weights) if preset is None else hub.pretrained(preset, classes)
    if is_own:
        model = call_named(name, input_shape, classes)
        if not isinstance(model, keras.Model):
            raise ValueError(f"{name} must return a keras.Model, it returned: {model!r}")
    else:
        model = cv.backbone(name, input_shape) if preset is None else cv.pretrained(preset)
    if len(model.output_shape) == 4:
        model = cv.with_head(model, classes, name.rpartition(":")[2])
        if not is_own and preset is None:
            cv.make_statistics_quick(model)
    elif tuple(model.output_shape[1:]) != (classes,):
        raise ValueError(
            f"{name} must return feature maps (batch, height, width, channels), or probabilities of {classes} classes, "
            f"its outputs are of shape {model.output_shape}"
        )
    return model


def check_names(options):
    """Raise `WrongOption` if there is no such preset or function."""
    for name in names(options):
        if name.startswith(PRESET):
            {"keras_cv": cv, "keras_hub": hub}[options.library].check_preset(name.removeprefix(PRESET))
        elif name not in BACKBONES[options.library]:
            function_named(name)


def names(options):
    """Return the name of the students' architecture, and that of the teacher if it is another."""
    return list(dict.fromkeys([options.backbone, options.teacher_backbone or options.backbone]))


def size_of_preset(options):
    """Return the height and width that a preset of KerasHub scales images to; `None` of other models."""
    if options.library == "keras_hub" and options.backbone.startswith(PRESET):
        return hub.preset_size(options.backbone.removeprefix(PRESET))
    return None


def limits(options):
    """Return the least height and width of images, and what they must be multiples of."""
    known = BACKBONES[options.library]
    pairs = [known.get(name, _OF_PRESETS if name.startswith(PRESET) else (1, 1)) for name in names(options)]
    return tuple(max(values) for values in zip(*pairs, strict=True))


def check_probabilities(name, model, input_shape):
    """Raise `ValueError` if outputs are no probabilities. The losses would take the logarithm of logits."""
    images = np.random.default_rng(0).integers(0, 256, (2, *input_shape)).astype("float32")
    outputs = np.asarray(model.predict(images, verbose=0), "float64")
    # Half precision at worst.
    if (outputs < 0).any() or np.abs(outputs.sum(axis=-1) - 1).max() > 1e-2:
        raise ValueError(
            f"{name} must return probabilities, but on noise its outputs do not sum to 1 (they are {outputs[0]}): let "
            'it end in keras.layers.Softmax(dtype="float32")'
        )


def call_named(name, *arguments):
    """Call a function by `module:function`. If it fails, raise a `ValueError` that names the line."""
    function = function_named(name)
    try:
        return function(*arguments)
    except Exception as error:  # Of the user's code.
        frames = traceback.extract_tb(error.__traceback__)[1:]
        where = f" ({frames[0].filename}, line {frames[0].lineno})" if frames else ""
        raise ValueError(
            f"{name}{arguments} failed: {type(error).__name__}: {error}{where}. It must be a function of the shape of "
            "the images and the number of classes that returns a keras.Model."
        ) from error


def function_named(name):
    """Return a function by `module:function`. Raise `WrongOption` if there is none."""
    module_name, _, function_name = name.partition(":")
    sys.path.insert(0, os.getcwd())  # As `python -m` does it.
    try:
        return getattr(importlib.import_module(module_name), function_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise WrongOption(f"{name}: {error} (looked for in {os.getcwd()} and on PYTHONPATH)") from error
    finally:
        sys.path.remove(os.getcwd())
