"""Score models on a set of data, each compared with its teacher."""

import hashlib
import itertools
import math

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import leaves, reading
from keras_ban._src.data.batch import inputs_for, split_targets, unpack, without_key
from keras_ban._src.data.fingerprints import example_keys
from keras_ban._src.data.leaves import size_of
from keras_ban._src.files import model_file
from keras_ban._src.history.scores import ENSEMBLE
from keras_ban._src.losses.meaning import names_of, outputs_of
from keras_ban._src.losses.outputs import Outputs
from keras_ban._src.losses.structure import for_each_output
from keras_ban._src.sequence.label_metrics import LabelMetrics
from keras_ban._src.sequence.measurement import Collected, OfClasses, as_output, classes_in
from keras_ban._src.sequence.probe import Probe
from keras_ban._src.sequence.teachers import average_of


class Scorer:
    """Evaluates models on data of any kind, and compares them, example by example, with those scored before.

    A classifier with one output gets `Scores`, any other output `LossScores`. Memory holds the most probable class or
    the loss of each example for each generation. For classifiers with one output, it also holds the sum of the members'
    probabilities, from which the scores of the ensemble are computed. Other ensembles run batch by batch.

    Args:
        data: the data, or `None`.
        meaning: the `Meaning` of the models' outputs, or `None`.
        batch_size, steps: those of `evaluate`.
        compile_arguments: the `CompileArguments`, or `None`.

    Attributes:
        notes: sentences that say which scores could not be given, and why.
    """

    def __init__(self, data, meaning, batch_size, steps=None, compile_arguments=None):
        self.data = data
        self.notes = []
        self._meaning = meaning
        self._batch_size = batch_size
        self._steps = steps
        self._compile_arguments = compile_arguments
        self._is_classifier = None  # Known after the first batch.
        self._order = None  # The fingerprint of the examples in their order.
        self._is_paired = True
        self._kept = []  # Of each generation.
        self._sum, self._count, self._labels = None, 0, None  # Of the members' probabilities.
        self._first = None  # The probabilities of generation 0.
        self._independents = []  # The models, or their probabilities.
        self._ensemble = None, None  # The places in memory of models, and what was measured of their average.
        self._probe = None

    def evaluate(self, model, steps=None):
        """Return the results of Keras's `evaluate`, with the names of `fit`."""
        options = {"verbose": 0, "return_dict": True, "steps": steps or self._steps}
        with backend.keeping_values(model), reading.watched(self.data.for_model(model)) as (data,):
            arguments = data.for_keras() | ({} if data.yields_batches else {"batch_size": self._batch_size})
            logs = model.evaluate(**arguments, **options)
        return {f"val_{name}": float(value) for name, value in logs.items()}

    def score(self, model, taught_by=None, earlier=(), distilled=False):
        """Return the scores of the next generation, as in `GenerationRecord`, or `None`.

        Args:
            model: the generation.
            taught_by: the number of the generation to compare with, or `"ensemble"` for the average of all before.
            earlier: the generations before.
            distilled: whether it is the student distilled from the ensemble, and no member of it.
        """
        return self.measure(model, taught_by, earlier, distilled, with_metrics=False)[0]

    def measure(self, model, taught_by=None, earlier=(), distilled=False, with_metrics=True):
        """As `score`, but return `(scores, metrics)`. The metrics are those of `LabelMetrics`, in the same pass."""
        measured, metrics = self._measured(model, with_metrics)
        before = self._before(taught_by, earlier)
        self._kept.append(_kept(measured))
        if not distilled:
            self._add_member(measured)
        return self._scores(measured, before, taught_by), metrics

    def score_longer(self, model, best):
        """Return the scores of a control, compared with a generation (if it is not `None`), or `None`."""
        return self._scores(self._measured(model)[0], self._before(best), best)

    def score_independent(self, model):
        """Return the scores of a control, or `None`. It counts in `score_independents`."""
        measured, _ = self._measured(model)
        has_classes = self._is_classifier and self._is_paired and measured
        self._independents.append(measured[None].probabilities if has_classes else model)
        return self._scores(measured)

    def score_independents(self, models):
        """Return `(scores, metrics)` of the average of generation 0 and the independent models, or `(None, {})`.

        They are compared with the average of the generations, `models`.
        """
        if self.data is None or not self._independents:
            return None, {}
        if self._has_sum(len(models)):
            average = np.mean([self._first, *self._independents], axis=0)
            measured = {None: OfClasses(average, self._labels)}
            metrics = self._metrics_of(average) if self._measures_more() else {}
        elif not all(isinstance(each, keras.Model) for each in self._independents):
            return None, {}  # The order of the examples changed after they were scored, which a note tells.
        else:
            measured, metrics = self._measured([models[0], *self._independents], with_metrics=True)
        return self._scores(measured, self._before(ENSEMBLE, models), ENSEMBLE), metrics

    def score_ensemble(self, models, always=False):
        """Return `(scores, metrics)` of the average of the generations, compared with generation 0, or `(None, {})`.

        The metrics of a classifier are empty if the scores have all of them, unless they are wanted `always`.
        """
        if self.data is None or not self._kept:
            return None, {}
        if self._has_sum(len(models)):
            measured = {None: OfClasses(self._average(), self._labels)}
            metrics = self._metrics_of(self._average()) if always or self._measures_more() else {}
        else:
            measured, metrics = self._measured_average(models)
        if metrics and any(model.losses for model in models):
            self._note("ensemble: its loss has no penalties of weights, which those of the generations contain")
        return self._scores(measured, self._before(0), 0), metrics

    def check(self):
        """Raise `ValueError` unless the data bring labels, have an end, and can be read once for each model."""
        if self.data.read_once:
            raise ValueError(
                "`x` is read once for each generation, so it cannot be a generator or an iterator. Pass arrays, a "
                "`keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`."
            )
        if self.data.number_of_batches() == math.inf:
            raise ValueError(f"`x` has no end, so it cannot be scored: {self.data.dataset!r}. Do not repeat it.")
        if self._first_labels() is None:
            raise ValueError("The data bring no labels: pass `y`, or a dataset that yields `(x, y)`.")

    # Comparisons

    def _before(self, taught_by, earlier=()):
        """Return what a comparison needs of another model or of the average of `earlier`, by output."""
        if taught_by is None or not self._is_paired or not self._kept:
            return None
        if taught_by != ENSEMBLE:
            return self._kept[taught_by]
        if self._has_sum(len(earlier)):
            return {None: self._average().argmax(axis=-1)}
        return _kept(self._measured_average(earlier)[0])

    def _scores(self, measured, before=None, compared_with=None):
        """Return scores of what was measured by output: those of the only output, or a dict."""
        if not measured:
            return None
        if not self._is_paired or before is None:
            before, compared_with = {}, None
        found = {name: each.scores(before.get(name), compared_with) for name, each in measured.items()}
        return found.get(None, found)

    def _add_member(self, measured):
        if not self._is_classifier or not measured:
            return
        probabilities = measured[None].probabilities
        if self._count == 0:
            self._first, self._sum, self._labels = probabilities, np.zeros_like(probabilities), measured[None].labels
        if self._is_paired:
            self._sum += probabilities
            self._count += 1

    def _has_sum(self, count):
        """Return whether the sum of the probabilities of so many members is known."""
        return self._is_paired and bool(self._is_classifier) and 0 < count == self._count

    def _average(self):
        return self._sum / self._count

    def _measures_more(self):
        """Return whether there are metrics that `Scores` do not have."""
        return self._compile_arguments is not None and self._compile_arguments.measures_more_than_accuracy

    def _note(self, note):
        if note not in self.notes:
            self.notes.append(note)

    # Passes over the data

    def _measured_average(self, models):
        """As `_measured`, of the average of models. The last one is remembered."""
        places = [id(model) for model in models]
        if self._ensemble[0] != places:
            self._ensemble = places, self._measured(list(models), with_metrics=True)
        return self._ensemble[1]

    def _measured(self, model, with_metrics=False):
        """Return `({output: OfClasses or OfLosses}, metrics)` of a model, or of the average of a list of models."""
        if self.data is None:
            return {}, {}
        models = model if isinstance(model, list) else [model]
        local = [model_file.on_this_worker(each) for each in models]

        def run():
            one = average_of(local, self._meaning) if isinstance(model, list) else local[0]
            with backend.keeping_values(one):
                return self._run(one, with_metrics)

        return process_group.alone(run)

    def _run(self, model, with_metrics):
        if self._first_labels() is None:
            self._note("no scores: the data bring no labels")
            return {}, {}
        if self._is_classifier is None:
            self._is_classifier = self._classifies(model)
        if self._is_classifier:
            metrics = self._new_metrics(model, with_metrics)
            found = self._run_classifier(model, metrics)
            if found is not None:
                return found, self._result_of(metrics)
            self._is_classifier = False
        metrics = self._new_metrics(model, with_metrics)
        try:
            return self._run_probe(model, metrics), self._result_of(metrics)
        except Exception as error:
            # An error here must not end a sequence that has trained for hours.
            self._note(f"no scores: {_in_one_line(error)}")
            return {}, {}

    def _classifies(self, model):
        """Return whether a model is a classifier with one output, and the data have one class for each example."""
        labels = self._first_labels()
        if self._meaning is None or keras.tree.is_nested(labels):
            return False
        outputs = outputs_of(getattr(model, "members", [model])[0])
        if outputs is None:
            outputs = model.predict_on_batch(inputs_for(model, self.data.first_batch()[0]))
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
        self.data.check_labels(loss, model)
        with_outputs = metrics is not None
        if self._probe is None or self._probe.model is not model or self._probe.with_outputs != with_outputs:
            # A model that is measured again, with the values of the next generation, is not compiled again.
            self._probe = Probe(model, loss, with_outputs)
        probe, collected = self._probe, None
        for x, y, sample_weight in self._batches(model):
            found, labels = probe.measured(x, y, sample_weight), probe.labels(y)
            if collected is None:
                collected = [Collected(each) for each in self._meanings(probe, loss)]
            for each, of_output, of_labels in zip(collected, found, labels, strict=True):
                each.add(of_labels, of_output.get("output"), of_output.get("loss"), of_output.get("weight"))
            if metrics is not None:
                outputs = probe.as_outputs([each["output"] for each in found])
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
        if self.data.yields_batches:
            for x, y, sample_weight in self._batches(model):
                yield y, sample_weight, model.predict_on_batch(inputs_for(model, x))
            return
        x = self.data.for_model(model).x
        outputs = model.predict(x, batch_size=self._batch_size, verbose=0)
        yield from self._beside_labels(outputs)

    def _beside_labels(self, outputs):
        """Yield `(labels, sample_weight, outputs)` of each batch, with rows of known outputs."""
        start = 0
        for _, y, sample_weight in self._batches(with_inputs=False):
            rows = slice(start, start + size_of(y))
            start = rows.stop
            yield y, sample_weight, outputs[rows]

    def _batches(self, model=None, with_inputs=True):
        """Yield `(x, y, sample_weight)` of each batch, and note whether the examples came in another order."""
        data, digest, count = self.data, hashlib.sha256(), 0
        if model is not None:
            data = data.for_model(model)
        if not data.yields_batches:
            arrays = (data.x if with_inputs else None, data.labels, data.sample_weight)
            for start in range(0, len(data), self._batch_size or 32):
                yield leaves.take(arrays, slice(start, start + (self._batch_size or 32)))
            return
        with reading.watched(data) as (data,):
            for batch in itertools.islice(data.iterate(), self._steps):
                x, y, sample_weight = keras.tree.map_structure(leaves.numeric, unpack(batch))
                count += size_of(x)
                if not data.fixed:
                    digest.update(example_keys(keras.tree.map_structure(leaves.as_array, x)).tobytes())
                yield x, _labels(y), sample_weight
        order = digest.hexdigest(), count
        if self._order not in (None, order):
            self._is_paired = False
            self._note(
                "no test: examples cannot be paired, because they come in another order, or augmented, each time they "
                "are read"
            )
        self._order = order

    def _first_labels(self):
        return _labels(self.data.first_batch()[1])

    # Metrics of outputs

    def _metrics_of(self, probabilities):
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
                self._note(f"no metrics of averaged outputs or of these labels: {_in_one_line(error)}")

    def _result_of(self, metrics):
        return {} if metrics is None or metrics.failed else metrics.result()


def meaning_of(sequence, compile_arguments, model):
    """Return the `Meaning` of the outputs of a sequence's models: that of the distillation loss.

    If no student uses a teacher, it is that of the label loss, if there is one. `model` is one of the models.
    """
    uses_teacher = any(each != 1 for each in keras.tree.flatten(sequence.label_weight))
    label_loss = None if compile_arguments is None else compile_arguments.loss
    outputs = Outputs(sequence.distillation_loss, label_loss, model, model)
    return outputs.meaning if uses_teacher or compile_arguments is None else outputs.meaning_of_labels


def of_validation(metrics):
    """Return metrics with the names of `fit`."""
    return {f"val_{name}": value for name, value in metrics.items()}


def _labels(y):
    return split_targets(without_key(y))[0]


def _kept(measured):
    return {name: each.kept() for name, each in measured.items()}


def _in_one_line(error):
    """Return the first line of an error's text."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
