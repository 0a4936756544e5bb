"""The formulas, in float64 NumPy, written independently of the package."""

import numpy as np


def log_softmax(logits):
    logits = np.asarray(logits, dtype="float64")
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(logits):
    return np.exp(log_softmax(logits))


def sigmoid(logits):
    return 1.0 / (1.0 + np.exp(-np.asarray(logits, dtype="float64")))


def knowledge_distillation(teacher, student, temperature=1.0):
    """`T**2 * KL(softmax(teacher / T) || softmax(student / T))` per example, over the last axis.

    Summed with the terms `q - p`, which add up to 0, so that float64 itself does not lose the digits.
    """
    log_p = log_softmax(np.asarray(teacher, dtype="float64") / temperature)
    log_q = log_softmax(np.asarray(student, dtype="float64") / temperature)
    d = log_p - log_q
    near = np.exp(log_p) * (d + np.expm1(-np.maximum(d, -1.0)))
    far = np.exp(log_p) * d + np.exp(log_q) - np.exp(log_p)
    return temperature**2 * np.where(d > -1.0, near, far).sum(axis=-1)


def knowledge_distillation_gradient(teacher, student, temperature=1.0):
    """With respect to the student's logits: `T * (softmax(student / T) - softmax(teacher / T))`."""
    student, teacher = (np.asarray(x, dtype="float64") / temperature for x in (student, teacher))
    return temperature * (softmax(student) - softmax(teacher))


def bernoulli_divergence(p, q):
    """`KL(Bernoulli(p) || Bernoulli(q))`, elementwise, for probabilities strictly between 0 and 1."""
    p, q = np.asarray(p, dtype="float64"), np.asarray(q, dtype="float64")
    return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))


def finite_difference(function, point, step=1e-5):
    """The gradient of a scalar function of an array, by central differences."""
    point = np.asarray(point, dtype="float64")
    gradient = np.empty_like(point)
    for index in np.ndindex(point.shape):
        there = np.zeros_like(point)
        there[index] = step
        gradient[index] = (function(point + there) - function(point - there)) / (2 * step)
    return gradient


def confidence_weighted(teacher, student, labels, counted=None):
    """CWTM per example: `n * w / sum(w) * CE`, with `w` the teacher's largest probability; over all but the last axis.

    `counted` is 0 for examples that are no part of the batch.
    """
    counted = np.ones(labels.shape) if counted is None else counted
    weights = softmax(teacher).max(axis=-1) * counted
    crossentropy = -np.take_along_axis(log_softmax(student), labels[..., None], axis=-1)[..., 0]
    return counted.sum() * weights / weights.sum() * crossentropy


def confidence_weighted_gradient(teacher, student, labels):
    weights = softmax(teacher).max(axis=-1)[..., None]
    return weights / weights.mean() * (softmax(student) - np.eye(student.shape[-1])[labels])


def decoupled(teacher, student, labels, target_weight, non_target_weight, temperature):
    """DKD per example, `(n, classes)`, from the probabilities of the paper's equations."""
    values = []
    for t, s, y in zip(teacher, student, labels, strict=True):
        p, q = softmax(np.asarray(t, "float64") / temperature), softmax(np.asarray(s, "float64") / temperature)
        others = np.arange(len(p)) != y
        target = p[y] * np.log(p[y] / q[y]) + p[others].sum() * np.log(p[others].sum() / q[others].sum())
        p, q = p[others] / p[others].sum(), q[others] / q[others].sum()
        values.append(target_weight * target + non_target_weight * (p * np.log(p / q)).sum())
    return temperature**2 * np.array(values)


def decoupled_gradient(teacher, student, labels, target_weight, non_target_weight, temperature):
    """With `r` the distribution over the other classes: `q_y - p_y` at the label, shared out by `-r` among the rest."""
    p, q = (softmax(np.asarray(x, "float64") / temperature) for x in (teacher, student))
    is_target = np.eye(q.shape[-1])[labels]
    p_y, q_y = (p * is_target).sum(-1, keepdims=True), (q * is_target).sum(-1, keepdims=True)
    r_p, r_q = p * (1 - is_target) / (1 - p_y), q * (1 - is_target) / (1 - q_y)
    target = (q_y - p_y) * (is_target - r_q)
    return temperature * (target_weight * target + non_target_weight * (r_q - r_p))


def dist(teacher, student, inter_class_weight, intra_class_weight, temperature):
    """DIST per example, `(n, classes)`, by NumPy's own correlation."""
    p, q = (softmax(np.asarray(x, "float64") / temperature) for x in (teacher, student))
    inter = np.array([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p, q, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(p.T, q.T, strict=True)])
    return temperature**2 * (inter_class_weight * inter + intra_class_weight * intra)


def dist_gradient(teacher, student, inter_class_weight, intra_class_weight, temperature):
    """Of the sum over the examples."""
    p, q = (softmax(np.asarray(x, "float64") / temperature) for x in (teacher, student))

    def of_correlation(p, q):
        """`dr/dq` along the last axis: `(p' / |p'| - r * q' / |q'|) / |q'|`, with `'` for centred."""
        p, q = p - p.mean(-1, keepdims=True), q - q.mean(-1, keepdims=True)
        length = np.linalg.norm(q, axis=-1, keepdims=True)
        p, q = p / np.linalg.norm(p, axis=-1, keepdims=True), q / length
        return (p - (p * q).sum(-1, keepdims=True) * q) / length

    inter, intra = of_correlation(p, q), of_correlation(p.T, q.T).T * len(q) / q.shape[-1]
    by_q = -inter_class_weight * inter - intra_class_weight * intra
    return temperature * q * (by_q - (by_q * q).sum(-1, keepdims=True))


def standardized(logits):
    logits = np.asarray(logits, "float64")
    return (logits - logits.mean(-1, keepdims=True)) / logits.std(-1, keepdims=True)


def standardized_gradient(teacher, student, temperature):
    """`KnowledgeDistillation`'s through the z-score: its mean and its part along the z-score itself drop out."""
    z = standardized(student)
    g = knowledge_distillation_gradient(standardized(teacher), z, temperature)
    g = g - g.mean(-1, keepdims=True) - z * (g * z).mean(-1, keepdims=True)
    return g / np.asarray(student, "float64").std(-1, keepdims=True)
