"""The temperatures of a classifier: the one with the smallest negative log-likelihood, or a given one. In NumPy."""

import numpy as np

#: The temperatures that are considered.
SMALLEST, LARGEST = 1e-3, 1e3
# The number of logits to look at at a time, so that memory does not grow with the number of examples.
_CHUNK = 2**20
# The lower bound of probabilities, as in losses.
_SMALLEST_PROBABILITY = 1e-30


def best_temperature(logits, labels, weights=None):
    """Return the temperature `T` with the smallest negative log-likelihood `-log softmax(logits / T)[label]`.

    The likelihood is convex in `1 / T` (Guo et al., 2017, section 4.2), so there is one minimum. Newton's method finds
    it, between bounds that close in. The result is a function of the arguments alone.

    Args:
        logits: `(n, classes)`, finite or -inf.
        labels: class indices `(n,)`, or probabilities of the classes `(n, classes)`.
        weights: `(n,)`, non-negative and not all 0. `None`: all equal.

    Returns:
        A float in `[SMALLEST, LARGEST]`. It is `SMALLEST` if each label is the most probable class, so that there is no
        minimum, and `LARGEST` if the logits are no better than chance. It is 1.0 if all temperatures are equal.
    """
    logits = np.asarray(logits)
    weights = np.ones(len(logits)) if weights is None else np.asarray(weights, "float64")
    weights = weights / weights.sum()
    inverse, (slope, curvature) = 1.0, _derivatives(logits, labels, weights, 1.0)
    if slope == 0:
        return 1.0
    low, high = 1 / LARGEST, 1 / SMALLEST
    if slope > 0 and _derivatives(logits, labels, weights, low)[0] >= 0:
        return LARGEST
    if slope < 0 and _derivatives(logits, labels, weights, high)[0] <= 0:
        return SMALLEST
    for _ in range(100):
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else low
        # The middle of the bounds, where Newton's step would leave them.
        step = step if low < step < high else np.sqrt(low * high)
        if abs(step - inverse) <= 1e-9 * inverse:
            break
        inverse = step
        slope, curvature = _derivatives(logits, labels, weights, inverse)
    return float(1 / inverse)


def negative_log_likelihood(logits, labels, weights, temperature):
    """Return the mean of `-log softmax(logits / temperature)[label]`. Arguments are as in `best_temperature`."""
    weights, total = weights / weights.sum(), 0.0
    for part in _parts(logits):
        of_label = _of_label(log_softmax(logits[part] / temperature), np.asarray(labels[part]))
        total -= weights[part] @ np.where(weights[part] > 0, of_label, 0.0)
    return float(total)


def temperature_of(likelihood, logits, labels, weights):
    """Return the smallest temperature, from 1 on, at which the negative log-likelihood is as large as this one.

    It grows with the temperature above the best one. So bounds close in, to a relative distance of 1e-6.

    Args:
        likelihood: a mean negative log-likelihood.
        logits, labels, weights: as in `best_temperature`.
    """
    low, high = max(1.0, best_temperature(logits, labels, weights)), LARGEST
    if negative_log_likelihood(logits, labels, weights, low) >= likelihood:
        return low
    while high > low * (1 + 1e-6):
        middle = float(np.sqrt(low * high))
        enough = negative_log_likelihood(logits, labels, weights, middle) >= likelihood
        low, high = (low, middle) if enough else (middle, high)
    return high


def log_softmax(logits):
    """Compute `log(softmax(logits))` over the last axis, in float64."""
    logits = np.asarray(logits, "float64")
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def log_of_probabilities(probabilities):
    """Return the logarithms of probabilities in float64, at least `log(1e-30)`."""
    return np.log(np.maximum(np.asarray(probabilities, "float64"), _SMALLEST_PROBABILITY))


def softmax(logits):
    """Return the softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def two_classes(logits, labels):
    """Return `(logits, labels)` of a softmax over no and yes, for those of sigmoids: `(n,)` becomes `(n, 2)`."""
    logits, labels = np.ravel(np.asarray(logits, "float64")), np.ravel(np.asarray(labels, "float64"))
    return np.stack([np.zeros_like(logits), logits], axis=-1), np.stack([1 - labels, labels], axis=-1)


def _derivatives(logits, labels, weights, inverse):
    """Return the first and second derivative of the negative log-likelihood with respect to `1 / T`."""
    slope = curvature = 0.0
    for part in _parts(logits):
        z = np.asarray(logits[part], "float64")
        z = np.maximum(z - z.max(axis=-1, keepdims=True), -1e30)
        p = np.exp(inverse * z)
        p /= p.sum(axis=-1, keepdims=True)
        mean = (p * z).sum(axis=-1)
        slope += weights[part] @ (mean - _of_label(z, np.asarray(labels[part])))
        curvature += weights[part] @ ((p * z * z).sum(axis=-1) - mean * mean)
    return float(slope), float(curvature)


def _parts(logits):
    """Yield slices of the examples."""
    rows = max(1, _CHUNK // logits.shape[-1])
    for start in range(0, len(logits), rows):
        yield slice(start, start + rows)


def _of_label(values, labels):
    if labels.ndim == 2:
        return np.where(labels > 0, labels * values, 0.0).sum(axis=-1)
    return np.take_along_axis(values, labels[:, None], axis=-1)[:, 0]
