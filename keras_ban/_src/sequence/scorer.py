"""Run models over a set of data and score them, each against what taught it."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import reading
from keras_ban._src.files import model_file
from keras_ban._src.history.history import ENSEMBLE, score
from keras_ban._src.losses.numpy_softmax import softmax


class Scorer:
    """Evaluates models on one set of data, and classifiers against those scored before."""

    def __init__(self, data, loss, batch_size, steps=None):
        self.data = data
        self._loss = known_probabilities(loss)
        self._batch_size = batch_size
        self._steps = steps
        self._scored = []
        self._labels = None if data is None else data.labels

    def evaluate(self, model, steps=None):
        """What Keras's `evaluate` gives, under the names that it has in `fit`."""
        options = {"verbose": 0, "return_dict": True, "steps": steps or self._steps}
        with backend.keeping_values(model), reading.watched(self.data.for_model(model)) as (data,):
            arguments = data.for_keras() | ({} if data.yields_batches else {"batch_size": self._batch_size})
            logs = model.evaluate(**arguments, **options)
        return {f"val_{name}": float(value) for name, value in logs.items()}

    def score(self, model, taught_by=None):
        """`Scores`, or `None` where the model is no classifier that can be scored on these data.

        Args:
            model: the next generation.
            taught_by: which of the models scored so far it is compared with, by number; `"ensemble"`: all, averaged.
        """
        if self._loss is None or self._labels is None:
            return None
        here = model_file.on_this_worker(model)
        x = self.data.for_model(model).x
        with backend.keeping_values(here):
            outputs = process_group.alone(lambda: here.predict(x, batch_size=self._batch_size, verbose=0))
        probabilities = _probabilities(outputs, self._loss)
        labels = None if probabilities is None else _class_indices(self._labels, probabilities.shape[-1])
        if labels is None or len(labels) != len(probabilities):
            return None
        if taught_by == ENSEMBLE:
            before = np.mean(self._scored, axis=0)
        else:
            before = None if taught_by is None else self._scored[taught_by]
        scores = score(labels, probabilities, before, taught_by)
        self._scored.append(probabilities)
        self._classes = labels
        return scores

    def score_ensemble(self, generations):
        """`Scores` of the first so many models, averaged, against the very first; `None` if none were scored."""
        if not self._scored:
            return None
        return score(self._classes, np.mean(self._scored[:generations], axis=0), self._scored[0], 0)


def known_probabilities(loss):
    """The distillation loss, if it says what kind of probabilities all outputs are; else `None`.

    Of several outputs, each with a loss, it is one of them, if all say the same.
    """
    losses = keras.tree.flatten(loss)
    kinds = {(getattr(each, "from_logits", None), getattr(each, "activation", None)) for each in losses}
    return losses[0] if len(kinds) == 1 and None not in kinds.pop() else None


def _probabilities(outputs, loss):
    """Probabilities `(n, classes)` in float64, or `None` where the outputs are of another form."""
    if keras.tree.is_nested(outputs) or np.ndim(outputs) != 2:
        return None
    outputs = np.asarray(outputs, dtype="float64")
    if loss.activation == "sigmoid":
        if outputs.shape[-1] != 1:
            return None
        # The logits of a softmax over no and yes are 0 and the output: 1 - yes would lose the digits of a small no.
        no = np.zeros_like(outputs) if loss.from_logits else 1 - outputs
        outputs = np.concatenate([no, outputs], axis=-1)
    return softmax(outputs) if loss.from_logits else outputs


def _class_indices(labels, classes):
    """Labels as whole numbers `(n,)`, or `None` where they are of another form."""
    if keras.tree.is_nested(labels) and not isinstance(labels, list):
        return None
    labels = keras.ops.convert_to_numpy(labels)
    if labels.ndim == 2 and labels.shape[-1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and labels.shape[-1] == classes and set(np.unique(labels)) <= {0, 1}:
        return labels.argmax(axis=-1)
    whole = labels.ndim == 1 and labels.dtype.kind in "biuf" and (labels == np.floor(labels)).all()
    if not whole or labels.min() < 0 or labels.max() >= classes:
        return None
    return labels.astype("int64")
