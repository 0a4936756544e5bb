"""The uncertainty of an ensemble, and the disagreement of its members."""

from keras import ops

from keras_ban._src.losses.base import as_logits, finite_logits


def disagreement(outputs, weights, from_logits=True, activation="softmax"):
    """Return predictive entropy and mutual information of an ensemble's members, in nats.

    The members' `outputs` are `(batch, members, ..., classes)`, logits or probabilities. Their `weights` `w_m` sum to
    1, and members of weight 0 are left out. For an example with the members' distributions `p_m`, with the mean
    probabilities `p = sum_m w_m * p_m` (whatever the ensemble averages) and `H[p] = -sum_c p_c * log(p_c)`:

    - Predictive entropy `H[p]`: the total uncertainty of the ensemble.
    - Mutual information `H[p] - sum_m w_m * H[p_m]`: the part due to disagreement between members. It is 0 if they all
      agree. (Houlsby et al., 2011, eq. 2; for ensembles: Depeweg et al., 2018, eq. 3, Malinin and Gales, 2018, eq. 17.)

    Both are `(batch, ...)`. With `activation="sigmoid"`, each output is a distribution over yes and no, and they are
    `(batch, ..., classes)`.
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
    # Negative only by rounding.
    return predictive_entropy, ops.maximum(predictive_entropy - expected_entropy, 0.0)
