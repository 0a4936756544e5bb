"""The weights with which each generation starts: fresh ones, those of the model, or those of the generation before."""

import warnings
from typing import Any

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.data.fingerprints import model_fingerprint
from keras_ban._src.sequence.clones import copy_values, reborn

FRESH, MODEL, PREVIOUS = "fresh", "model", "previous"
CHOICES = (FRESH, MODEL, PREVIOUS)


class Unsaid(str):
    """A default value that can be told from the same text passed by the user."""


# `fit` warns of a trained model with this value, but not if the user asks for fresh weights.
DEFAULT: Any = Unsaid(FRESH)


def new_model(sequence, place):
    """Return a new model for a place, before weights of the generation before are copied to it.

    Raises:
        TypeError: `build` returns something else than a model.
        ValueError: weights of the model are needed, but it has none yet.
    """
    if isinstance(sequence.model, keras.Model):
        model = reborn(sequence.model)
        if sequence.initial_weights != FRESH:
            _check_built(sequence.initial_weights, sequence.model, "`model`")
            if not model.built:
                raise ValueError(
                    f"`initial_weights={sequence.initial_weights!r}` copies weights, but the shapes of inputs are not "
                    f"enough to build a copy of {sequence.model.name!r} ({type(model).__name__}). Pass `model` as a "
                    "callable `build(generation)` that returns a model with these weights, called once on a batch."
                )
            _check_same("`model`", sequence.model, "its copy", model)
            copy_values(sequence.model.weights, model.weights)
        return model
    model = sequence.model(place)
    if not isinstance(model, keras.Model):
        raise TypeError(f"`build({place})` must return a `keras.Model`, it returned: {model!r}.")
    return model


def check_starts(sequence, starts, teacher):
    """Raise `ValueError` if a model lacks weights to start from. Warn of a trained model whose weights are not used.

    `starts` are the models by place, before training. `teacher` is generation 0 if it was passed to `fit`.
    """
    if sequence.initial_weights == FRESH:
        _warn_of_trained(sequence, starts, teacher)
        return
    names = {place: f"generation {place}" for place in starts}
    if not isinstance(sequence.model, keras.Model):
        names = {place: f"`build({place})`" for place in starts}
    if teacher is not None:
        names[0] = "`teacher`"
    for place, model in starts.items():
        _check_built(sequence.initial_weights, model, names[place])
    if sequence.initial_weights == PREVIOUS:
        for place in range(1, max(starts) + 1):
            _check_same(names[place - 1], starts[place - 1], names[place], starts[place])


def fingerprints(training):
    """Return the fingerprints of the weights that matter among the models before training, by place.

    That of a given teacher is not one of them.
    """
    choice, trained = training.sequence.initial_weights, training.trained_starts
    if choice == PREVIOUS:
        # The weights of the others are replaced.
        trained = {0: trained[0]} if 0 in trained else {}
    return {} if choice == FRESH else {place: model_fingerprint(model) for place, model in trained.items()}


def is_trained(model, fresh):
    """Return whether a model is trained for sure. `fresh` is a `reborn` copy of it.

    It is if its optimizer has made a step, or if a weight that its initializer sets to all zeros or all ones (biases,
    statistics and scales of normalization) has other values. Frozen layers do not count, since a copy keeps them. A
    model that was never compiled here, without such weights, is not noticed.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and backend.value_of(optimizer.iterations) > 0:
        return True
    for weight, new in zip(model.weights, fresh.weights, strict=False):
        if weight.shape != new.shape or not keras.backend.is_float_dtype(new.dtype):
            continue
        initial = backend.value_of(new)
        constant = initial.size > 0 and ((initial == 0).all() or (initial == 1).all())
        if constant and not np.array_equal(initial, backend.value_of(weight)):
            return True
    return False


def _warn_of_trained(sequence, starts, teacher):
    is_model = isinstance(sequence.model, keras.Model)
    if not is_model or teacher is not None or not isinstance(sequence.initial_weights, Unsaid):
        return
    sequence.initial_weights = FRESH  # The next `fit` does not warn again.
    if is_trained(sequence.model, starts[0]):
        warnings.warn(
            f"The model {sequence.model.name!r} is trained, but each generation gets fresh weights. To start from the "
            "model's weights, pass `initial_weights='model'`. To continue each generation from the one before, pass "
            "`initial_weights='previous'`. To use the model as generation 0, call `fit(teacher=model)`. If fresh "
            "weights are meant, pass `initial_weights='fresh'`.",
            stacklevel=5,
        )


def _check_built(choice, model, name):
    if not model.built:
        raise ValueError(
            f"`initial_weights={choice!r}` needs models with weights, but {name} has none yet: start the model with a "
            "`keras.Input`, or call it once."
        )


def _check_same(name, model, others_name, other):
    expected, received = _architecture(model), _architecture(other)
    if expected != received:
        place = next((i for i, pair in enumerate(zip(expected, received, strict=False)) if pair[0] != pair[1]), None)
        found = f"{len(expected)} and {len(received)} layers with weights"
        if place is not None:
            found = f"{expected[place]} and {received[place]} as layer {place} of those with weights"
        raise ValueError(
            f"`initial_weights` copies the weights of {name} to {others_name}, so both need the same architecture. "
            f"They have {found}. Use models of one architecture, or `initial_weights='fresh'`."
        )


def _architecture(model):
    """Return the type of each layer with weights, and their shapes."""
    layers = [each for each in backend.flat_layers(model) if each.weights and not isinstance(each, keras.Model)]
    shapes = [("Model", [tuple(weight.shape) for weight in model.weights])]
    found = [(type(layer).__name__, [tuple(weight.shape) for weight in layer.weights]) for layer in layers]
    return found or shapes
