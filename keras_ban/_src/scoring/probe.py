"""What a model scores on each example of a batch, computed in one compiled step."""

import types

import keras

from keras_ban._src import backend
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.model_outputs import names_of
from keras_ban._src.losses.example_losses import NoExampleLosses, example_losses
from keras_ban._src.losses.masks import mask_of
from keras_ban._src.losses.structure import for_each_output, in_order


class Probe(keras.Model):
    """Runs a model on a batch, in inference mode, and computes its compiled loss for each example.

    So the outputs of a segmentation or of a language model need not leave the device.

    Args:
        model: a built `keras.Model`, which is neither copied nor changed.
        loss: as in `keras.Model.compile`, or `None`.
        with_outputs: whether to return all outputs. Otherwise only those `(batch, classes)` that could be classes.
    """

    def __init__(self, model, loss, with_outputs):
        super().__init__(name="probe", autocast=False)
        self.model = model
        self.run_eagerly = model.run_eagerly
        self.jit_compile = model.jit_compile
        self.with_outputs = with_outputs
        # In an object of its own, because Keras would replace lists and dicts.
        self._known = types.SimpleNamespace(loss=loss, structure=None, error=None, reasons=[])
        self.built = True

    def call(self, batch, training=None):
        try:
            return self._measure(batch, training)
        except Exception as error:
            # Kept, because Keras adds its own text to errors in layers.
            self._known.error = error
            raise

    def _measure(self, batch, training):
        outputs = self.model(inputs_for(self.model, batch["x"]), training=training)
        self._known.structure = keras.tree.map_structure(lambda output: 0, outputs)
        flat = keras.tree.flatten(outputs)
        names = names_of(self.model)
        parts = [_for_each(part, batch.get(part), outputs, names) for part in ("y", "sample_weight")]
        losses = for_each_output(self._known.loss, outputs, names)
        found = {}
        for place, (output, loss, labels, weights) in enumerate(zip(flat, losses, *parts, strict=True)):
            of_output = found[str(place)] = {}
            if loss is not None and labels is not None:
                try:
                    of_output["loss"], of_output["weight"] = example_losses(loss, labels, output, weights)
                except NoExampleLosses as error:
                    self._known.reasons.append(str(error))
            if self.with_outputs or len(output.shape) == 2:
                of_output["output"] = output
            mask = mask_of(output)
            if self.with_outputs and mask is not None:
                of_output["mask"] = mask
        return found

    def measured(self, x, y, sample_weight):
        """Return a dict of arrays for each flat output of a batch: `loss`, `weight`, `output` and `mask`.

        An entry is missing if there is no such value.
        """
        batch = {"x": x, "y": y, "sample_weight": sample_weight}
        batch = {name: part for name, part in batch.items() if part is not None}
        self._known.error = None
        try:
            with backend.keeping_values(self):
                found = self.predict_on_batch(keras.tree.lists_to_tuples(batch))
        except Exception as error:
            raise self._known.error or error from None
        return [found[str(place)] for place in range(len(found))]

    @property
    def reasons(self):
        """Why an output has no losses of single examples, known after the first batch."""
        return self._known.reasons

    @property
    def structure(self):
        """The structure of the model's outputs, known after the first batch."""
        return self._known.structure

    def labels(self, y):
        """Return the labels of each flat output. They may be `None`."""
        return _for_each("y", y, self._known.structure, names_of(self.model))

    def output_names(self):
        """Return the name of each flat output: `None` if there is only one."""
        count = len(keras.tree.flatten(self._known.structure))
        if count == 1:
            return [None]
        structure = self._known.structure
        if isinstance(structure, dict) and len(structure) == count:
            return [str(name) for name in in_order(structure)]
        names = names_of(self.model)
        return list(names) if names and len(set(names)) == count else [str(place) for place in range(count)]


def _for_each(name, part, outputs, names):
    """Return labels or weights as a list in the order of the flat outputs. They may be `None`."""
    if part is None:
        return [None] * len(keras.tree.flatten(outputs))
    try:
        return for_each_output(part, outputs, names)
    except ValueError as error:
        raise ValueError(f"`{name}` cannot be paired with the model's outputs: {error}") from None
