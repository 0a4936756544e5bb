"""The temperature of an ensemble."""

import warnings

import numpy as np

from keras_ban._src.ensemble.averaging import average_logits
from keras_ban._src.ensemble.held_out import class_targets
from keras_ban._src.losses import temperature


def fit_temperature(ensemble, held_out):
    """Return the temperature with the smallest negative log-likelihood of held-out labels. See `calibrate`."""
    best = temperature.best_temperature(*_examples(ensemble, held_out))
    _warn_of_none(best, "on these data", best)
    return best


def temperature_of_teacher(ensemble, seen, held_out=None):
    """Return the temperature at which training examples are as likely as others. See `soften`.

    Args:
        ensemble: an `EnsembleModel`.
        seen: the training examples, as `HeldOut`.
        held_out: others. `None`: each member predicts the fold of the training examples that did not train it.
    """
    if held_out is None:
        of_members = [average_logits(ensemble, [outputs], [1.0]) for outputs in seen.outputs]
        unseen = _examples(ensemble, seen, _of_folds(of_members, seen.folds))
    else:
        unseen = _examples(ensemble, held_out)
    best = temperature.best_temperature(*unseen)
    likelihood = temperature.negative_log_likelihood(*unseen, best)
    honest = temperature.temperature_of(likelihood, *_examples(ensemble, seen))
    if best not in _BOUNDS and honest == temperature.LARGEST:
        _warn_of_none(honest, "on the training examples", honest)
    _warn_of_none(best, "on the examples that trained no member", honest)
    return honest


def _of_folds(of_members, folds):
    """Return for each example the logits of the member that was not trained on it."""
    unseen = np.empty_like(of_members[0])
    for fold, logits in enumerate(of_members):
        unseen[folds == fold] = logits[folds == fold]
    return unseen


def _examples(ensemble, held_out, logits=None):
    """Return `(logits, labels, weights)` of single decisions: a softmax each. `None`: the logits of the ensemble."""
    if logits is None:
        logits = average_logits(ensemble, held_out.outputs, ensemble.member_weights)
    labels, weights = class_targets(held_out, logits.shape, ensemble.activation)
    if ensemble.activation == "sigmoid":
        logits, labels = temperature.two_classes(logits, labels)
    logits = logits.reshape(-1, logits.shape[-1])
    _check_possible(logits, labels, weights)
    return logits, labels, weights


_BOUNDS = (temperature.SMALLEST, temperature.LARGEST)


def _warn_of_none(best, where, found):
    """Warn if the best temperature is a bound, so that there is none. `found` is the temperature that is set."""
    if best in _BOUNDS:
        why = "each label is the most probable class" if best < 1 else "the outputs are no better than chance"
        warnings.warn(
            f"There is no best temperature, because {why} {where}: the temperature is set to {found:g}. Pass more "
            "examples, none of which trained the members.",
            stacklevel=4,
        )


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
