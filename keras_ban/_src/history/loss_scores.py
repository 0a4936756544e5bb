"""The loss of a model on each example, and its paired comparison with another model's."""

import dataclasses

import numpy as np

PERMUTATIONS = 9_999
# With at most so many differences, all signs are tried.
EXACT = 13
# More differences than this change their signs in so many groups of neighbours.
GROUPS = 10_000
_SEED = 0
# The number of random signs that are in memory at the same time.
_SIGNS_AT_A_TIME = 2**21


@dataclasses.dataclass
class LossScores:
    """The mean loss of one output of a model, and its difference from another model's.

    The loss of an example is the compiled loss without reduction. If an example has several positions (tokens, pixels),
    it is their mean, without masked positions and those of weight 0.

    Attributes:
        examples: number of examples with a weight above 0.
        loss: mean loss of an example, weighted by `sample_weight`.
        compared_with: as in `Scores`.
        change: loss minus the other model's. Below 0, this model is better. `None` without a comparison.
        p_value: probability of a mean difference at least this large if neither model were better: a paired permutation
            test, which changes the signs of the differences of single examples, two-sided. Up to 13 differences: of all
            signs; otherwise of 9,999 draws from a fixed seed. Of more than 10,000 differences, neighbours change their
            signs together, in 10,000 groups. NaN if a loss is not finite. `None` without a comparison.
    """

    examples: int
    loss: float
    compared_with: int | str | None = None
    change: float | None = None
    p_value: float | None = None
    # The loss of each example, NaN where its weight is 0, in the process that scored them. No field: neither stored nor
    # compared.
    losses = None


def loss_scores(losses, weights, before=None, compared_with=None):
    """Return the `LossScores` of the losses and the weights of examples, both `(n,)`.

    With `before`, the losses of generation `compared_with` (or `"ensemble"`) on the same examples, the two models are
    compared.
    """
    counted = np.asarray(weights) > 0
    losses, weights = np.asarray(losses, "float64")[counted], np.asarray(weights, "float64")[counted]
    if not len(losses):
        return LossScores(0, float("nan"))
    shares = weights / weights.sum()
    scores = LossScores(len(losses), float(shares @ losses))
    scores.losses = np.full(len(counted), np.nan, "float32")
    scores.losses[counted] = losses
    if before is not None:
        differences = shares * (losses - np.asarray(before, "float64")[counted])
        scores.compared_with = compared_with
        scores.change = float(differences.sum())
        scores.p_value = sign_flip_p_value(differences)
    return scores


def sign_flip_p_value(differences):
    """Return the p-value of a paired permutation test of differences `(n,)`, two-sided. See `LossScores`."""
    differences = np.asarray(differences, "float64")
    if not np.isfinite(differences).all():
        return float("nan")
    differences = differences[differences != 0]
    if len(differences) > GROUPS:
        starts = np.arange(GROUPS) * len(differences) // GROUPS
        differences = np.add.reduceat(differences, starts)
    count, total = len(differences), differences.sum()
    # Sums that differ by rounding alone are equal.
    least = abs(total) - 1e-12 * np.abs(differences).sum()
    if count <= EXACT:
        bits = (np.arange(2**count)[:, None] >> np.arange(count)) & 1
        return float(np.mean(np.abs(total - 2 * (bits @ differences)) >= least))
    rng, extreme, left = np.random.default_rng(_SEED), 0, PERMUTATIONS
    while left:
        rows = min(left, max(1, _SIGNS_AT_A_TIME // count))
        bits = np.unpackbits(rng.integers(0, 256, (rows, -(-count // 8)), "uint8"), axis=1)[:, :count]
        extreme += int((np.abs(total - 2 * (bits.astype("float64") @ differences)) >= least).sum())
        left -= rows
    return (1 + extreme) / (1 + PERMUTATIONS)
