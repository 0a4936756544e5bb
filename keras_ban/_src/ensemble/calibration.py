"""The temperature of an ensemble."""

import warnings

import numpy as np

from keras_ban._src.ensemble.averaging import average_logits
from keras_ban._src.ensemble.held_out import class_targets
from keras_ban._src.losses import temperature


def fit_temperature(ensemble, held_out):
    """Return the temperature with the smallest negative log-likelihood of held-out labels. See `calibrate`."""
    shares = ensemble.member_weights
    logits = average_logits(ensemble, held_out.outputs, shares)
    labels, weights = class_targets(held_out, logits.shape, ensemble.activation, ignored_class(ensemble))
    if ensemble.activation == "sigmoid":
        logits, labels = temperature.two_classes(logits, labels)
    logits = logits.reshape(-1, logits.shape[-1])
    _check_possible(logits, labels, weights)
    best = temperature.best_temperature(logits, labels, weights)
    if best in (temperature.SMALLEST, temperature.LARGEST):
        why = "each label is the most probable class" if best < 1 else "the outputs are no better than chance"
        warnings.warn(
            f"There is no best temperature, because {why} on these data: the temperature is set to {best:g}. Pass more "
            "examples, none of which trained the members.",
            stacklevel=3,
        )
    return best


def ignored_class(ensemble):
    """Return the `ignore_class` of the compiled loss, or `None`."""
    return getattr(getattr(ensemble, "loss", None), "ignore_class", None)


def _check_possible(logits, labels, weights):
    """Raise `ValueError` if a label that counts is impossible: no temperature gives it a probability above 0."""
    if labels.ndim == 1:
        impossible = np.isneginf(np.take_along_axis(logits, labels[:, None], axis=-1)[:, 0])
    else:
        impossible = (np.isneginf(logits) & (labels > 0)).any(axis=-1)
    impossible &= weights > 0
    if impossible.any():
        raise ValueError(
            f"The ensemble gives {impossible.sum()} labels of `y` the probability 0 (a logit of -inf), the first at "
            f"position {int(impossible.argmax())}, so no temperature can be found."
        )
