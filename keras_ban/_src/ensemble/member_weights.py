"""The weights of an ensemble's members."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.ensemble import simplex
from keras_ban._src.ensemble.averaging import average_outputs
from keras_ban._src.ensemble.held_out import class_targets, weights_of
from keras_ban._src.losses import meaning
from keras_ban._src.losses.temperature import log_of_probabilities, log_softmax, two_classes


def fit_weights(ensemble, held_out, most=None):
    """Return the convex weights with the smallest loss on held-out data, of at most so many members."""
    function = _objective(ensemble, held_out)
    count = len(ensemble.members)
    weights = simplex.minimize(function, count)
    if most is None or np.count_nonzero(weights) <= most:
        return weights.tolist()
    chosen = simplex.select(function, count, most)

    def of_all(some):
        weights = np.zeros(count)
        weights[chosen] = some
        return weights

    return of_all(simplex.minimize(lambda some: function(of_all(some)), len(chosen))).tolist()


def loss_of(ensemble):
    """Return the compiled loss, or `None` for the negative log-likelihood of an ensemble that is not compiled.

    Raises:
        ValueError: there are several losses, or there is none and `average="outputs"`.
    """
    loss = getattr(ensemble, "loss", None)
    if isinstance(loss, (list, tuple)) and len(loss) == 1:
        loss = loss[0]
    if keras.tree.is_nested(loss):
        raise ValueError(f"`fit_weights` needs one loss, received several in `compile`: {loss!r}.")
    if loss is None and ensemble.average == "outputs":
        raise ValueError(
            "`fit_weights` needs a loss: `average='outputs'` does not tell what the outputs are, so there are no "
            "weights for regression without a loss. Call `compile(loss=...)` first."
        )
    if isinstance(loss, str) and loss.lower() in ("crossentropy", "ce"):
        raise ValueError(f"`fit_weights` needs a loss by its own name, received {loss!r}, which Keras resolves later.")
    return loss


def _objective(ensemble, held_out):
    """Return the loss as a function of the weights."""
    loss = loss_of(ensemble)
    likelihood = _likelihood_of(ensemble, loss)
    if likelihood is None:
        return _keras_loss(ensemble, held_out, loss)
    return _negative_log_likelihood(ensemble, held_out, *likelihood)


def _likelihood_of(ensemble, loss):
    """Return `(from_logits, activation)` if a loss is a plain negative log-likelihood, which NumPy computes exactly."""
    if loss is None:
        return ensemble.from_logits, ensemble.activation
    said = meaning.of_label_loss(loss)
    name = meaning.crossentropy_name(loss)
    is_plain = name in ("CategoricalCrossentropy", "SparseCategoricalCrossentropy", "BinaryCrossentropy")
    if not is_plain or getattr(loss, "label_smoothing", 0) or said.axis not in (None, -1):
        return None
    return said.from_logits, said.activation


def _negative_log_likelihood(ensemble, held_out, from_logits, activation):
    labels, weights = class_targets(held_out, held_out.outputs[0].shape, activation)
    weights = weights / weights.sum()
    hard = labels.ndim == 1 and (activation == "softmax" or ((labels == 0) | (labels == 1)).all())
    if hard and _averages_probabilities(ensemble, from_logits, activation):
        # The probability of a label is the average of the members' probabilities of it.
        logs = [_logs_of_labels(x, labels, from_logits, activation) for x in held_out.outputs]
        likelihoods = np.exp(np.stack(logs, axis=-1))

        def function(shares):
            return float(-weights @ log_of_probabilities(likelihoods @ shares))

    else:

        def function(shares):
            outputs = average_outputs(ensemble, held_out.outputs, shares)
            return float(-weights @ _logs_of_labels(outputs, labels, from_logits, activation))

    return function


def _averages_probabilities(ensemble, from_logits, activation):
    if ensemble.average == "outputs":
        return not from_logits
    same = (ensemble.from_logits, ensemble.activation) == (from_logits, activation)
    return ensemble.average == "probabilities" and same


def _logs_of_labels(outputs, labels, from_logits, activation):
    """Return the logarithm of the probability of each label, `(n,)`."""
    if activation == "sigmoid":
        if from_logits:
            logits, labels = two_classes(outputs, labels)
            logs = log_softmax(logits)
        else:
            yes = np.ravel(outputs).astype("float64")
            logs = log_of_probabilities(np.stack([1 - yes, yes], axis=-1))
            labels = np.stack([1 - labels, labels], axis=-1)
    else:
        logs = log_softmax(outputs) if from_logits else log_of_probabilities(outputs)
        logs = logs.reshape(-1, logs.shape[-1])
    if labels.ndim == 2:
        return np.where(labels > 0, labels * logs, 0).sum(axis=-1)
    return np.take_along_axis(logs, labels[:, None], axis=-1)[:, 0]


def _keras_loss(ensemble, held_out, loss):
    """Return the loss of weights as Keras computes it for each example, in float64."""
    loss = loss if isinstance(loss, keras.losses.Loss) else keras.losses.get(loss)
    name, call = getattr(loss, "name", getattr(loss, "__name__", "loss")), getattr(loss, "call", loss)
    labels, shape = held_out.labels, held_out.outputs[0].shape
    if labels.ndim == len(shape) - 1 and shape[-1] == 1:
        labels = labels[..., None]
    labels = labels.astype("float64") if labels.dtype.kind == "f" else labels

    def function(shares):
        outputs = average_outputs(ensemble, held_out.outputs, shares)
        with backend.double_precision():
            values = call(keras.ops.convert_to_tensor(labels), keras.ops.convert_to_tensor(outputs))
            values = keras.ops.convert_to_numpy(values).astype("float64")
        weights = None if values.ndim == 0 else weights_of(held_out.weights, values.shape, held_out.names[1])
        value = float(np.average(values.reshape(-1), weights=weights))
        if not np.isfinite(value):
            raise ValueError(f"The loss {name!r} is {value} on these data. Check labels, outputs and weights.")
        return value

    return function
