"""How sure an ensemble is, and how far its members disagree."""

from keras import ops

from keras_ban._src.losses.base import as_logits, finite_logits


def disagreement(outputs, weights, from_logits=True, activation="softmax"):
    """Predictive entropy and mutual information of an ensemble's members, in nats.

    With the members' distributions `p_m` of an example and their weights `w_m`, `p = sum_m w_m * p_m` and
    `H[p] = -sum_c p_c * log(p_c)`:

    - predictive entropy `H[p]`: how unsure the ensemble is, whatever the reason;
    - mutual information `H[p] - sum_m w_m * H[p_m]`: the part of it that is disagreement between members, 0 where all
      say the same, however unsure. (Houlsby et al., 2011, eq. 2; for ensembles: Depeweg et al., 2018, eq. 3, Malinin
      and Gales, 2018, eq. 17.)

    `p` is the mean of the probabilities, whatever the ensemble averages.

    Args:
        outputs: `(batch, members, ..., classes)`, what the members say.
        weights: a number for each member, which sum to 1. A member of weight 0 is left out.
        from_logits: whether `outputs` are logits; else probabilities.
        activation: `"softmax"`, or `"sigmoid"`, for which each output is a distribution over yes and no.

    Returns:
        `(predictive entropy, mutual information)`, each `(batch, ...)`, or `(batch, ..., classes)` for `"sigmoid"`.
    """
    counted = [i for i, weight in enumerate(weights) if weight > 0]
    logits = [finite_logits(as_logits(outputs[:, i], from_logits, activation)) for i in counted]
    log_probabilities = [ops.log_softmax(each) for each in logits]
    weighted = [(weights[i], ops.exp(each), each) for i, each in zip(counted, log_probabilities, strict=True)]
    mean = sum(weight * p for weight, p, _ in weighted)
    # p * log(p) is 0 at p = 0.
    log_mean = ops.log(ops.where(mean > 0, mean, ops.ones_like(mean)))
    predictive_entropy = -ops.sum(mean * log_mean, axis=-1)
    expected_entropy = -sum(weight * ops.sum(p * log_p, axis=-1) for weight, p, log_p in weighted)
    # Never negative but for rounding.
    return predictive_entropy, ops.maximum(predictive_entropy - expected_entropy, 0.0)
