"""The compiled loss and metrics of outputs, for instance averages, that no compiled model gives."""

import keras
import numpy as np

from keras_ban._src.data.leaves import size_of
from keras_ban._src.history.plain_data import plain
from keras_ban._src.losses.masks import with_mask


class LabelMetrics:
    """Computes the compiled loss and metrics of outputs, batch by batch, as Keras's `evaluate` does.

    The loss has no penalties of weights and no `add_loss` terms, which belong to models.

    Args:
        compile_arguments: the `CompileArguments` of a sequence.
        output_names: the names of the outputs, if the models know them.

    Attributes:
        failed: whether a batch did not fit, so that there is no result.
    """

    def __init__(self, compile_arguments, output_names=None):
        self._model = _OutputsAlone(name="outputs")
        if output_names is not None:
            self._model.output_names = output_names
        self._model.compile(**compile_arguments.make())
        self._loss = keras.metrics.Mean(name="loss")
        self._logs = {}
        self.failed = False

    def update(self, y, outputs, sample_weight=None, masks=None):
        """Add a batch.

        Args:
            y, sample_weight: as in `keras.Model.evaluate`.
            outputs: nested arrays, in the structure in which the models give them.
            masks: the Keras mask of each flat output, an array or `None`.
        """
        y, sample_weight = (keras.tree.map_structure(_as_tensor, part) for part in (y, sample_weight))
        flat = [keras.ops.convert_to_tensor(each) for each in keras.tree.flatten(outputs)]
        if masks is not None:
            masks = [None if mask is None else keras.ops.convert_to_tensor(mask) for mask in masks]
            flat = [each if mask is None else with_mask(each, mask) for each, mask in zip(flat, masks, strict=True)]
        outputs = keras.tree.pack_sequence_as(outputs, flat)
        loss = self._model.compute_loss(None, y, outputs, sample_weight, training=False)
        self._loss.update_state(loss, sample_weight=size_of(flat))
        self._logs = self._model.compute_metrics(None, y, outputs, sample_weight)

    def result(self):
        """Return the loss and the metrics of all batches, as plain data by Keras's names."""
        return {name: plain(value) for name, value in _flat({**self._logs, "loss": self._loss.result()})}


class _OutputsAlone(keras.Model):
    """A model whose outputs are computed elsewhere."""

    def call(self, inputs):
        return inputs


def _flat(logs):
    """Yield the names and values of logs. As in Keras, the dict that a metric gives has names of its own."""
    for name, value in logs.items():
        if isinstance(value, dict):
            yield from _flat(value)
        else:
            yield name, value


def _as_tensor(leaf):
    """Return labels or weights as Keras takes them from arrays."""
    if leaf is None:
        return None
    array = np.asarray(leaf)
    return keras.ops.convert_to_tensor(array.astype(keras.config.floatx()) if array.dtype.kind == "f" else array)
