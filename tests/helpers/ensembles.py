"""Ensembles of linear members that are too sure of themselves, held-out data for them, and what SciPy finds."""

import keras
import numpy as np
import oracles

from keras_ban import EnsembleModel

SIZE, INPUTS, CLASSES = 120, 8, 3
RNG = np.random.default_rng(11)
X = RNG.standard_normal((SIZE, INPUTS)).astype("float32")
KERNEL = RNG.standard_normal((INPUTS, CLASSES))
# Labels of a softmax of small logits, which the members take for large ones.
LABELS = (X @ KERNEL + RNG.gumbel(size=(SIZE, CLASSES)) * 2).argmax(axis=-1)
YES = (X @ KERNEL + RNG.logistic(size=(SIZE, CLASSES)) * 2 > 0).astype("int64")
SAMPLE_WEIGHT = RNG.uniform(0.1, 2.0, SIZE)

# Arguments of `ensemble` for softmaxes, by name.
SOFTMAXES = {
    "logits": {},
    "averaged logits": {"average": "logits"},
    "one member": {"count": 1},
    "weights": {"weights": [1, 0, 3]},
    "probabilities": {"activation": "softmax"},
    "averaged logarithms": {"activation": "softmax", "average": "logits"},
}


def linear(seed, activation=None, outputs=CLASSES, noise=1.0, scale=3):
    """A linear model of the first `outputs` classes, and noise of its own."""
    model = keras.Sequential([keras.Input((INPUTS,)), keras.layers.Dense(outputs, activation=activation)])
    own = np.random.default_rng(seed).standard_normal((INPUTS, outputs))
    model.set_weights([scale * (KERNEL[:, :outputs] + noise * own), np.zeros(outputs)])
    return model


def ensemble(count=3, activation=None, outputs=CLASSES, noise=1.0, **arguments):
    members = [linear(seed, activation, outputs, noise * (1 + seed)) for seed in range(count)]
    if activation is not None:
        arguments = {"from_logits": False, "activation": activation, **arguments}
    return EnsembleModel(members, **arguments)


def outputs_of(model, x=X):
    return np.asarray(model.predict(x, verbose=0), "float64")


def softmax_nll(logits, labels=LABELS, weights=None):
    """The mean negative log-likelihood, over all leading axes."""
    of_label = np.take_along_axis(oracles.log_softmax(logits), np.asarray(labels)[..., None], axis=-1)[..., 0]
    return -np.average(of_label, weights=weights)


def sigmoid_nll(logits, labels, weights=None):
    """The mean binary crossentropy of the logits of sigmoids."""
    signed = np.where(np.asarray(labels) > 0, logits, -np.asarray(logits))
    return np.average(np.logaddexp(0, -signed).mean(axis=-1), weights=weights)
