"""Score models on a set of data, each compared with its teacher."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import reading
from keras_ban._src.data.preprocessing import method_and_data, predict
from keras_ban._src.files import model_file
from keras_ban._src.history.scores import ENSEMBLE, score
from keras_ban._src.losses.numpy_softmax import softmax
from keras_ban._src.losses.outputs import Outputs


class Scorer:
    """Evaluates models on validation data, and compares classifiers with those scored before.

    `meaning` is the `Meaning` of the models' outputs, or `None`. `batch_size` and `steps` are those of `evaluate`.
    """

    def __init__(self, data, meaning, batch_size, steps=None):
        self.data = data
        self._meaning = meaning
        self._batch_size = batch_size
        self._steps = steps
        self._scored = []
        self._independent = []
        self._labels = None if data is None else data.labels

    def evaluate(self, model, steps=None):
        """Return the results of Keras's `evaluate`, with the names of `fit`."""
        options = {"verbose": 0, "return_dict": True, "steps": steps or self._steps}
        evaluate, data = method_and_data(model, "evaluate", self.data.for_model(model), steps=options["steps"])
        with backend.keeping_values(model), reading.watched(data) as (data,):
            arguments = data.for_keras() | ({} if data.yields_batches else {"batch_size": self._batch_size})
            logs = evaluate(**arguments, **options)
        return {f"val_{name}": float(value) for name, value in logs.items()}

    def score(self, model, taught_by=None):
        """Return the `Scores` of the next generation, or `None` if it is not a classifier or the data do not fit.

        `taught_by` is the number of the scored model to compare with, or `"ensemble"` for the average of all.
        """
        probabilities = self._measured(model)
        if probabilities is None:
            return None
        if taught_by == ENSEMBLE:
            before = np.mean(self._scored, axis=0)
        else:
            before = None if taught_by is None else self._scored[taught_by]
        self._scored.append(probabilities)
        return score(self._classes, probabilities, before, taught_by)

    def score_longer(self, model, best):
        """Return the `Scores` of a control, compared with a generation (if it is not `None`), or `None`."""
        probabilities = self._measured(model)
        if probabilities is None:
            return None
        return score(self._classes, probabilities, None if best is None else self._scored[best], best)

    def score_independent(self, model):
        """Return the `Scores` of a control, or `None`. It counts in `score_independents`."""
        probabilities = self._measured(model)
        if probabilities is None:
            return None
        self._independent.append(probabilities)
        return score(self._classes, probabilities)

    def score_independents(self, generations):
        """Return the `Scores` of the average of generation 0 and the independent models, or `None`.

        They are compared with the average of the generations.
        """
        if not self._scored:
            return None
        ensemble = np.mean(self._scored[:generations], axis=0)
        return score(self._classes, np.mean([self._scored[0], *self._independent], axis=0), ensemble, ENSEMBLE)

    def _measured(self, model):
        """Return the probabilities of a model, and note the labels; `None` as in `score`."""
        if self._meaning is None or self._labels is None:
            return None
        local = model_file.on_this_worker(model)
        with backend.keeping_values(local):
            outputs = process_group.alone(lambda: predict(local, self.data, self._batch_size))
        probabilities = _probabilities(outputs, self._meaning)
        labels = None if probabilities is None else _class_indices(self._labels, probabilities.shape[-1])
        if labels is None or len(labels) != len(probabilities):
            return None
        self._classes = labels
        return probabilities

    def score_ensemble(self, generations):
        """Return the `Scores` of the average of the first models, compared with generation 0, or `None`."""
        if not self._scored:
            return None
        return score(self._classes, np.mean(self._scored[:generations], axis=0), self._scored[0], 0)


def meaning_of(sequence, compile_arguments, model):
    """Return the `Meaning` of the outputs of a sequence's models: that of the distillation loss.

    If no student uses a teacher, it is that of the label loss, if there is one. `model` is one of the models.
    """
    uses_teacher = any(each != 1 for each in keras.tree.flatten(sequence.label_weight))
    label_loss = None if compile_arguments is None else compile_arguments.loss
    outputs = Outputs(sequence.distillation_loss, label_loss, model, model)
    return outputs.meaning if uses_teacher or compile_arguments is None else outputs.meaning_of_labels


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
    return softmax(outputs) if meaning.from_logits else outputs


def _class_indices(labels, classes):
    """Return labels as whole numbers `(n,)`, or `None` if they have another form."""
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
