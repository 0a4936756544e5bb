"""Runs models over data of any kind, and measures what they score on each example."""

import hashlib
import itertools
import math

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import leaves, reading, trial
from keras_ban._src.data.batch import split_targets, unpack, without_key
from keras_ban._src.data.fingerprints import example_keys
from keras_ban._src.data.leaves import size_of
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.model_outputs import names_of, outputs_of
from keras_ban._src.data.preprocessing import data_in_steps, keras_method
from keras_ban._src.ensemble.ensemble import average_of
from keras_ban._src.files import model_file
from keras_ban._src.losses.outputs import Outputs
from keras_ban._src.losses.structure import for_each_output
from keras_ban._src.scoring.label_metrics import LabelMetrics
from keras_ban._src.scoring.measurement import Collected, as_output, classes_in
from keras_ban._src.scoring.probe import Probe


class DataPasses:
    """Passes of models over the same data, batch by batch: labels are read together with the outputs.

    Args:
        data: the data.
        meaning: the `Meaning` of the models' outputs, or `None`.
        batch_size, steps: those of `evaluate`.
        compile_arguments: the `CompileArguments`, or `None`.

    Attributes:
        is_classifier: whether the models have one output, and the data have one class for each example. `None` before
            the first pass.
        is_paired: whether the examples came in the same order in all passes up to now.
        notes: sentences that say what could not be measured, and why.
    """

    def __init__(self, data, meaning, batch_size, steps, compile_arguments):
        self.is_classifier, self.is_paired, self.notes = None, True, []
        self._raw = self._data = data  # As passed, and as the steps of the models take them.
        self._meaning = meaning
        self._batch_size = batch_size
        self._steps = steps
        self._compile_arguments = compile_arguments
        self._order = None  # The fingerprint of the examples in their order, and their number.
        self._probe = None

    def check(self, model):
        """Raise `ValueError` unless the data bring labels, have an end, and can be read once for each model."""
        if self._data.read_once:
            raise ValueError(
                "`x` is read once for each generation, so it cannot be a generator or an iterator. Pass arrays, a "
                "`keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`."
            )
        if self._data.number_of_batches() == math.inf and self._steps is None:
            raise ValueError(f"`x` has no end: {self._data.dataset!r}. Do not repeat it, or pass `steps`.")
        self._prepare(model)
        if self._first_labels() is None:
            raise ValueError("The data bring no labels: pass `y`, or a dataset that yields `(x, y)`.")

    def note(self, note):
        """Add a note, once."""
        if note not in self.notes:
            self.notes.append(note)

    def measured(self, model, with_metrics=False):
        """Return `({output: OfClasses or OfLosses}, metrics)` of a model, or of the average of a list of models."""
        models = model if isinstance(model, list) else [model]
        local = [model_file.on_this_worker(each) for each in models]

        def run():
            one = average_of(local, self._meaning) if isinstance(model, list) else local[0]
            try:
                with backend.keeping_values(one):
                    found, metrics = self._run(one, with_metrics)
            except Exception:
                trial.explain_use(one, self._data)
                raise
            return self._if_finite(found), metrics

        return process_group.alone(run)

    def _prepare(self, model):
        self._data = data_in_steps(model, self._raw, again=True, steps=self._steps)

    def _run(self, model, with_metrics):
        self._prepare(model)
        if self._first_labels() is None:
            self.note("no scores: the data bring no labels")
            return {}, {}
        if self.is_classifier is None:
            self.is_classifier = self._classifies(model)
        if self.is_classifier:
            metrics = self._new_metrics(model, with_metrics)
            found = self._run_classifier(model, metrics)
            if found is not None:
                return found, self._result_of(metrics)
            self.is_classifier = False
        metrics = self._new_metrics(model, with_metrics)
        try:
            return self._run_probe(model, metrics), self._result_of(metrics)
        except Exception as error:
            # An error here must not end a sequence that has trained for hours.
            self.note(f"no scores: {_in_one_line(error)}")
            return {}, {}

    def _if_finite(self, found):
        """Return what was measured, or nothing if an output is not finite: no comparison would mean anything."""
        for each in found.values():
            if not each.finite.all():
                count = f"{(~each.finite).sum()} of {each.finite.size} examples"
                self.note(f"no scores: the outputs or the losses of {count} are NaN or infinite")
                return {}
        return found

    def _classifies(self, model):
        """Return whether a model is a classifier with one output, and the data have one class for each example."""
        labels = self._first_labels()
        if self._meaning is None or keras.tree.is_nested(labels):
            return False
        outputs = outputs_of(getattr(model, "members", [model])[0])
        if outputs is None:
            outputs = _predict_on_batch(model, self._data.first_batch()[0])
        if keras.tree.is_nested(outputs) or len(outputs.shape) != 2:
            return False
        return classes_in(labels, np.zeros((len(labels), outputs.shape[-1])), self._meaning) is not None

    def _run_classifier(self, model, metrics):
        """Return what was measured. `None` if a later label is not a class."""
        collected = Collected(self._meaning)
        for y, sample_weight, outputs in self._outputs(model):
            collected.add(y, outputs)
            if not collected.are_classes:
                return None
            self._update(metrics, y, outputs, sample_weight)
        return {None: collected.measured()}

    def _run_probe(self, model, metrics):
        loss = None if self._compile_arguments is None else self._compile_arguments.loss
        if loss is None:
            raise ValueError("the loss is not known: call `compile()` first")
        self._data.check_labels(loss, model)
        with_outputs = metrics is not None
        if self._probe is None or self._probe.model is not model or self._probe.with_outputs != with_outputs:
            # A model that is measured again, with the values of the next generation, is not compiled again.
            self._probe = Probe(model, loss, with_outputs)
        probe, collected = self._probe, None
        for x, y, sample_weight in self._batches():
            found, labels = probe.measured(x, y, sample_weight), probe.labels(y)
            if collected is None:
                for reason in probe.reasons:
                    self.note(f"no scores: {reason}")
                collected = [Collected(each) for each in self._meanings(probe, loss)]
            for each, of_output, of_labels in zip(collected, found, labels, strict=True):
                each.add(of_labels, of_output.get("output"), of_output.get("loss"), of_output.get("weight"))
            if metrics is not None:
                outputs = keras.tree.pack_sequence_as(probe.structure, [each["output"] for each in found])
                self._update(metrics, y, outputs, sample_weight, [each.get("mask") for each in found])
        measured = zip(probe.output_names(), (each.measured() for each in collected), strict=True)
        return {name: each for name, each in measured if each is not None}

    def _meanings(self, probe, loss):
        """Return the `Meaning` of each flat output, or `None`."""
        names = probe.output_names()
        if len(names) == 1:
            return [self._meaning]
        return [Outputs(None, each).meaning for each in for_each_output(loss, probe.structure, names_of(probe.model))]

    def _outputs(self, model):
        """Yield `(labels, sample_weight, outputs)` of each batch."""
        if self._data.yields_batches:
            for x, y, sample_weight in self._batches():
                yield y, sample_weight, _predict_on_batch(model, x)
            return
        outputs = model.predict(self._data.x, batch_size=self._batch_size, verbose=0)
        yield from self._beside_labels(outputs)

    def _beside_labels(self, outputs):
        """Yield `(labels, sample_weight, outputs)` of each batch, with rows of known outputs."""
        start = 0
        for _, y, sample_weight in self._batches(with_inputs=False):
            rows = slice(start, start + size_of(y))
            start = rows.stop
            yield y, sample_weight, outputs[rows]

    def _batches(self, with_inputs=True):
        """Yield `(x, y, sample_weight)` of each batch, and note whether the examples came in another order."""
        data, digest, count = self._data, hashlib.sha256(), 0
        if not data.yields_batches:
            arrays = (data.x if with_inputs else None, data.labels, data.sample_weight)
            for start in range(0, len(data), self._batch_size or 32):
                yield leaves.take(arrays, slice(start, start + (self._batch_size or 32)))
            return
        with reading.watched(data) as (data,):
            for batch in itertools.islice(data.iterate(), self._steps):
                x, y, sample_weight = keras.tree.map_structure(leaves.numeric, unpack(batch))
                if size_of(x) == 0:
                    self._note_empty_batch()
                    continue
                count += size_of(x)
                if not data.fixed:
                    digest.update(example_keys(keras.tree.map_structure(leaves.as_array, x)).tobytes())
                yield x, _labels(y), sample_weight
        order = digest.hexdigest(), count
        if self._order not in (None, order):
            self.is_paired = False
            self.note(
                "no test: examples cannot be paired, because they come in another order, or augmented, each time they "
                "are read"
            )
        self._order = order

    def _note_empty_batch(self):
        if not backend.TRAINS_ON_NO_EXAMPLES:
            self.note("the data have a batch without examples, on which the loss of Keras is NaN: leave it out")

    def _first_labels(self):
        return _labels(self._data.first_batch()[1])

    # Metrics of outputs

    def metrics_of(self, probabilities):
        """Return the compiled metrics of averaged probabilities, of a classifier."""

        def run():
            metrics, output = self._new_metrics(None, True), as_output(probabilities, self._meaning)
            for y, sample_weight, rows in self._beside_labels(output):
                self._update(metrics, y, rows, sample_weight)
            return self._result_of(metrics)

        return process_group.alone(run)

    def _new_metrics(self, model, wanted):
        if not wanted or self._compile_arguments is None:
            return None
        return LabelMetrics(self._compile_arguments, None if model is None else names_of(model))

    def _update(self, metrics, y, outputs, sample_weight, masks=None):
        if metrics is not None and not metrics.failed:
            try:
                metrics.update(y, outputs, sample_weight, masks)
            except Exception as error:
                metrics.failed = True
                self.note(f"no metrics of averaged outputs or of these labels: {_in_one_line(error)}")

    def _result_of(self, metrics):
        return {} if metrics is None or metrics.failed else metrics.result()


def _predict_on_batch(model, x):
    return keras_method(model, "predict_on_batch")(inputs_for(model, x))


def _labels(y):
    return split_targets(without_key(y))[0]


def _in_one_line(error):
    """Return the first line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
