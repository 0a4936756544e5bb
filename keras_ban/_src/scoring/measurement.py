"""What a model scored on each example: its most probable classes, or its losses."""

import dataclasses

import keras
import numpy as np

from keras_ban._src.history.loss_scores import loss_scores
from keras_ban._src.history.scores import score
from keras_ban._src.losses.temperature import softmax


@dataclasses.dataclass
class OfClasses:
    """What a classifier gave: probabilities `(n, classes)` in float64, and the labels `(n,)`."""

    probabilities: np.ndarray
    labels: np.ndarray

    @property
    def finite(self):
        """Whether each example has probabilities, `(n,)`."""
        return np.isfinite(self.probabilities).all(axis=-1)

    def scores(self, before=None, compared_with=None):
        """Return the `Scores`, compared with what `kept` returned of another model."""
        return score(self.labels, self.probabilities, before, compared_with)

    def kept(self):
        """Return what a comparison needs: the most probable classes `(n,)`."""
        return self.probabilities.argmax(axis=-1).astype("int32")


@dataclasses.dataclass
class OfLosses:
    """The losses and the weights of examples, both `(n,)`, of a model with any other output."""

    losses: np.ndarray
    weights: np.ndarray

    @property
    def finite(self):
        """Whether each example has a finite loss, `(n,)`."""
        return np.isfinite(self.losses)

    def scores(self, before=None, compared_with=None):
        """Return the `LossScores`, compared with what `kept` returned of another model."""
        return loss_scores(self.losses, self.weights, before, compared_with)

    def kept(self):
        """Return what a comparison needs: the losses `(n,)`."""
        return self.losses


class Collected:
    """Collects one output of a model, batch by batch.

    Args:
        meaning: the `Meaning` of the output, or `None`.
    """

    def __init__(self, meaning):
        self._meaning = meaning
        self._losses, self._weights, self._probabilities, self._labels = [], [], [], []

    def add(self, labels, output, loss=None, weight=None):
        """Add a batch: arrays, or `None` if there is no such value. See `Probe.measured`."""
        if loss is not None:
            self._losses.append(loss.astype("float64"))
            self._weights.append(weight.astype("float64"))
        if self._meaning is not None:
            found = classes_in(labels, output, self._meaning)
            if found is None:
                self._meaning = None  # The labels are not classes: there are losses only.
                self._probabilities, self._labels = [], []
            else:
                self._probabilities.append(found.probabilities)
                self._labels.append(found.labels)

    @property
    def are_classes(self):
        """Whether all labels up to now are classes."""
        return self._meaning is not None

    def measured(self):
        """Return `OfClasses`, `OfLosses`, or `None` if there is neither."""
        if self._probabilities:
            return OfClasses(np.concatenate(self._probabilities), np.concatenate(self._labels))
        return OfLosses(np.concatenate(self._losses), np.concatenate(self._weights)) if self._losses else None


def classes_in(labels, output, meaning):
    """Return `OfClasses` of labels and an output. `None` if they are not of one class for each example."""
    probabilities = None if output is None or labels is None else _probabilities(output, meaning)
    indices = None if probabilities is None else _class_indices(labels, probabilities.shape[-1])
    if indices is None or len(indices) != len(probabilities):
        return None
    return OfClasses(probabilities, indices)


def as_output(probabilities, meaning):
    """Return the output that has these probabilities, in float32: the reverse of what `classes_in` computes."""
    if not meaning.from_logits:
        return (probabilities[:, 1:] if meaning.activation == "sigmoid" else probabilities).astype("float32")
    logits = np.log(np.maximum(probabilities, np.finfo("float64").tiny))
    return (logits[:, 1:] - logits[:, :1] if meaning.activation == "sigmoid" else logits).astype("float32")


def _probabilities(outputs, meaning):
    """Return probabilities `(n, classes)` in float64, or `None` if the outputs have another form."""
    if keras.tree.is_nested(outputs) or np.ndim(outputs) != 2:
        return None
    outputs = np.asarray(outputs, dtype="float64")
    if meaning.activation == "sigmoid":
        if outputs.shape[-1] != 1:
            return None
        # The logits of a softmax over no and yes are 0 and the output. (1 - yes would lose the digits of a small no.)
        no = np.zeros_like(outputs) if meaning.from_logits else 1 - outputs
        outputs = np.concatenate([no, outputs], axis=-1)
    with np.errstate(invalid="ignore"):  # `DataPasses` counts the examples whose outputs are not finite.
        return softmax(outputs) if meaning.from_logits else outputs


def _class_indices(labels, classes):
    """Return labels as whole numbers `(n,)`, or `None` if they have another form."""
    if keras.tree.is_nested(labels) and not isinstance(labels, list):
        return None
    labels = keras.ops.convert_to_numpy(labels)
    if labels.ndim == 2 and labels.shape[-1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.shape[-1] == classes and set(np.unique(labels)) <= {0, 1}:
        return labels.argmax(axis=-1) if (labels.sum(axis=-1) == 1).all() else None
    whole = labels.ndim == 1 and labels.dtype.kind in "biuf" and (labels == np.floor(labels)).all()
    if not whole or classes < 2 or (labels < 0).any() or (labels >= classes).any():
        return None
    return labels.astype("int64")
