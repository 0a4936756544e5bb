"""Minimize a function of the weights of an ensemble: of few numbers that are not negative and sum to 1."""

import numpy as np


def minimize(function, count):
    """Return the weights `(count,)` with the smallest value of a function, which is convex for most losses.

    Newton's method: each step minimizes a quadratic model of the function over all weights (by an active-set method,
    so that weights become exactly 0), and goes as far as the function falls. The model comes from values of the
    function at weights that are moved towards one or two members, so the function is asked for valid weights only, and
    needs no gradients. The result is never worse than equal weights and than the best member alone. It is a function of
    the arguments alone. At kinks of a function, as of the mean absolute error, the method may stop a little early.

    Args:
        function: takes weights, returns a float.
        count: the number of weights.
    """
    equal, members = np.full(count, 1 / count), np.eye(count)
    values = [function(each) for each in members]
    best_member = members[int(np.argmin(values))]
    # No member could be removed from the best member alone: start between the two.
    starts = [equal, 0.5 * (equal + best_member)] if count > 1 else []
    found = [best_member]
    for point in starts:
        for change in _CHANGES:
            point = _newton(function, point, change, 1e-9 * max(np.abs(values)))
        found.append(point)
    return _without_traces(function, min(found, key=function), _PRECISION * max(np.abs(values)))


def select(function, count, most):
    """Return which members a greedy forward selection chooses, at most so many (Caruana et al., 2004, section 2).

    Members are added to a bag one at a time, with replacement: each time the one with which the average of the bag has
    the smallest value. Of all bags on the way, the best one counts.
    """
    counts, best, chosen = np.zeros(count), np.inf, []
    for _ in range(_ROUNDS):
        is_full = np.count_nonzero(counts) == most
        options = [i for i in range(count) if counts[i] > 0 or not is_full]
        bags = [counts + np.eye(count)[i] for i in options]
        values = [function(bag / bag.sum()) for bag in bags]
        counts = bags[int(np.argmin(values))]
        if min(values) < best:
            best, chosen = min(values), np.flatnonzero(counts).tolist()
    return chosen


# The relative changes of values whose differences give derivatives. Small ones are exact for a function in float64, and
# large ones have digits in float32, too.
_CHANGES = (1e-3, 1e-8)
# The relative improvement that does not matter.
_PRECISION = 1e-11
# The size of the bag, which bounds how small a weight can be in the selection.
_ROUNDS = 50


def _newton(function, weights, change, least):
    """Return the weights where Newton's method ends. Values below `least` count as 0."""
    value = function(weights)
    for _ in range(50):
        slope, curvature = _differences(function, weights, change, least)
        # A function that curves down somewhere, or is flat, gets a model that curves up a little.
        values, vectors = np.linalg.eigh(curvature)
        smallest = 1e-8 * max(values.max(), np.abs(slope).max(), 1e-12)
        curvature = (vectors * np.maximum(values, smallest)) @ vectors.T
        target = _minimize_quadratic(slope - curvature @ weights, curvature, weights)
        move = target - weights
        expected = slope @ move + 0.5 * move @ curvature @ move
        if expected > -_PRECISION * max(abs(value), least):
            break
        length = 1.0
        while length > 1e-4:
            candidate = weights + length * move
            found = function(candidate)
            if found < value + 0.1 * length * expected:
                break
            length /= 2
        else:
            break
        weights, value = candidate, found
    return weights


def _differences(function, weights, change, least):
    """Return slope and curvature in the directions of the members, by differences. They are exact for quadratics.

    Other weights `v` are `weights` plus the sum of `v[i] * (member i - weights)`, so these directions suffice. The
    differences are of values that differ by at most a share `change`.
    """
    size, value = len(weights), function(weights)
    directions, steps = np.eye(size) - weights, np.full(size, min(0.05, change**0.5))
    once = [function(weights + step * each) for step, each in zip(steps, directions, strict=True)]
    for i in range(size):
        while abs(once[i] - value) > change * max(abs(value), least) and steps[i] > 1e-6:
            steps[i] /= 4
            once[i] = function(weights + steps[i] * directions[i])
    once, moves = np.array(once), steps[:, None] * directions
    both = np.empty((size, size))
    for i in range(size):
        for j in range(i + 1):
            both[i, j] = both[j, i] = function(weights + moves[i] + moves[j])
    slope = (4 * once - np.diag(both) - 3 * value) / (2 * steps)
    return slope, (both - once[:, None] - once + value) / np.outer(steps, steps)


def _minimize_quadratic(slope, curvature, start):
    """Return the weights that minimize `slope @ v + v @ curvature @ v / 2`, by the primal active-set method."""
    weights, free = start.copy(), start > 0
    for _ in range(10 * len(start)):
        target, multiplier = _on_face(slope, curvature, free)
        if (target >= 0).all():
            weights = target
            gain = slope + curvature @ weights - multiplier
            gain[free] = 0
            entering = int(np.argmin(gain))
            if gain[entering] >= -1e-12 * max(1.0, np.abs(slope).max()):
                break
            free[entering] = True
            continue
        # Go as far as the first weight that becomes 0, and take it out.
        falling = target < 0
        lengths = np.where(falling, weights / np.where(falling, weights - target, 1), np.inf)
        first = int(np.argmin(lengths))
        weights = weights + lengths[first] * (target - weights)
        weights[first], free[first] = 0.0, False
    weights = np.maximum(weights, 0)
    return weights / weights.sum()


def _on_face(slope, curvature, free):
    """Return the minimizer among weights that sum to 1 and are 0 unless free, and the multiplier of the sum."""
    count = int(free.sum())
    scale = max(np.abs(curvature).max(), 1e-300)
    system = np.ones((count + 1, count + 1))
    system[:count, :count] = curvature[np.ix_(free, free)] / scale
    system[count, count] = 0
    solution = np.linalg.lstsq(system, np.append(-slope[free] / scale, 1.0), rcond=None)[0]
    target = np.zeros(len(free))
    target[free] = solution[:count]
    return target, -solution[count] * scale


def _without_traces(function, weights, tolerance):
    """Return the weights without those that do not matter, so that their members need not run."""
    value = function(weights)
    for place in np.argsort(weights, kind="stable"):
        if 0 < weights[place] < 1e-3:
            others = np.where(np.arange(len(weights)) == place, 0, weights)
            others = others / others.sum()
            if function(others) <= value + tolerance:
                weights = others
    return weights
