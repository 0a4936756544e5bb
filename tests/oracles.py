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
