"""Run models over a set of data and score them, each against what taught it."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import reading
from keras_ban._src.files import model_file
from keras_ban._src.history.history import ENSEMBLE, score
from keras_ban._src.losses.numpy_softmax import softmax
from keras_ban._src.losses.outputs import Outputs


class Scorer:
    """Evaluates models on one set of data, and classifiers against those scored before.

    Args:
        data: as `keras.Model.fit` takes validation data.
        meaning: the `Meaning` of the models' outputs, or `None`.
        batch_size, steps: as in `keras.Model.evaluate`.
    """

    def __init__(self, data, meaning, batch_size, steps=None):
        self.data = data
        self._meaning = meaning
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
        if self._meaning is None or self._labels is None:
            return None
        here = model_file.on_this_worker(model)
        x = self.data.for_model(model).x
        with backend.keeping_values(here):
            outputs = process_group.alone(lambda: here.predict(x, batch_size=self._batch_size, verbose=0))
        probabilities = _probabilities(outputs, self._meaning)
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


def meaning_of(sequence, compile_arguments):
    """The `Meaning` of the outputs of a sequence's models: that of the distillation loss.

    Where no student hears a teacher, it is that of the label loss, if there is one.
    """
    is_heard = any(each != 1 for each in keras.tree.flatten(sequence.label_weight))
    if is_heard or compile_arguments is None:
        return Outputs(sequence.distillation_loss).meaning
    return Outputs(None, compile_arguments.loss).meaning


def _probabilities(outputs, meaning):
    """Probabilities `(n, classes)` in float64, or `None` where the outputs are of another form."""
    if keras.tree.is_nested(outputs) or np.ndim(outputs) != 2:
        return None
    outputs = np.asarray(outputs, dtype="float64")
    if meaning.activation == "sigmoid":
        if outputs.shape[-1] != 1:
            return None
        # The logits of a softmax over no and yes are 0 and the output: 1 - yes would lose the digits of a small no.
        no = np.zeros_like(outputs) if meaning.from_logits else 1 - outputs
        outputs = np.concatenate([no, outputs], axis=-1)
    return softmax(outputs) if meaning.from_logits else outputs


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
