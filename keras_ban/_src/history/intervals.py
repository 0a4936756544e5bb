"""95% confidence intervals of scores. They are about the examples alone, as if these were drawn at random."""

import math

import numpy as np

from keras_ban._src.history.scores import Scores

# The 97.5% quantile of the normal distribution.
_QUANTILE = 1.959963984540054


def of_share(share, count):
    """Return Wilson's score interval of a share of `count` examples, as `(low, high)`. `None` without examples.

    It is `(share + q^2 / 2n +- q sqrt(share (1 - share) / n + q^2 / 4n^2)) / (1 + q^2 / n)` (Wilson, 1927), which lies
    in [0, 1] and has a width above 0 for shares of 0 and 1, too.
    """
    if not count:
        return None
    extra = _QUANTILE**2 / count
    middle = share + extra / 2
    half = _QUANTILE * math.sqrt(share * (1 - share) / count + extra / (4 * count))
    low, high = (middle - half) / (1 + extra), (middle + half) / (1 + extra)
    # Rounding must not leave the share outside, where it is 0 or 1.
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def of_mean(values):
    """Return the mean plus and minus 1.96 standard errors. `None` for less than 2 values, or any that is not finite."""
    values = np.asarray(values, "float64")
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    half = _QUANTILE * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def of_accuracy(scores):
    """Return the interval of the accuracy of `Scores`. `None` of anything else."""
    return of_share(scores.accuracy, scores.examples) if isinstance(scores, Scores) else None


def of_nll(scores):
    """Return the interval of the negative log-likelihood of `Scores`, if their answers are known. Otherwise `None`."""
    answers = scores.answers if isinstance(scores, Scores) else None
    return None if answers is None else of_mean(answers.nll)
