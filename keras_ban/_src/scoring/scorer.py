"""Score models on a set of data, each compared with its teacher."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.data import reading
from keras_ban._src.data.preprocessing import method_and_data
from keras_ban._src.history.plain_data import plain
from keras_ban._src.history.scores import ENSEMBLE
from keras_ban._src.scoring.data_passes import DataPasses
from keras_ban._src.scoring.measurement import OfClasses


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
        self._batch_size, self._steps = batch_size, steps
        self._compile_arguments = compile_arguments
        self._passes = DataPasses(data, meaning, batch_size, steps, compile_arguments)
        self._kept = []  # Of each generation.
        self._sum, self._count, self._labels = None, 0, None  # Of the members' probabilities.
        self._first = None  # The probabilities of generation 0.
        self._independents = []  # The models, or their probabilities.
        self._ensemble = None, None  # The identities of models, and what was measured of their average.

    @property
    def notes(self):
        return self._passes.notes

    def check(self, model):
        """Raise `ValueError` unless the data bring labels, have an end, and can be read once for each model."""
        self._passes.check(model)

    def evaluate(self, model, steps=None):
        """Return the results of Keras's `evaluate`, with the names of `fit`."""
        options = {"verbose": 0, "return_dict": True, "steps": steps or self._steps}
        evaluate, data = method_and_data(model, "evaluate", self.data, steps=options["steps"])
        with backend.keeping_values(model), reading.watched(data) as (data,):
            arguments = data.for_keras() | ({} if data.yields_batches else {"batch_size": self._batch_size})
            logs = evaluate(**arguments, **options)
        return {f"val_{name}": plain(value) for name, value in logs.items()}

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
        has_classes = self._passes.is_classifier and self._passes.is_paired and measured
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
            metrics = self._passes.metrics_of(average) if self._measures_more() else {}
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
            metrics = self._passes.metrics_of(self._average()) if always or self._measures_more() else {}
        else:
            measured, metrics = self._measured_average(models)
        if metrics and any(model.losses for model in models):
            self._passes.note("ensemble: its loss has no penalties of weights, which those of the generations contain")
        return self._scores(measured, self._before(0), 0), metrics

    def _before(self, taught_by, earlier=()):
        """Return what a comparison needs of another model or of the average of `earlier`, by output."""
        if taught_by is None or not self._passes.is_paired or not self._kept:
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
        if not self._passes.is_paired or before is None:
            before, compared_with = {}, None
        found = {name: each.scores(before.get(name), compared_with) for name, each in measured.items()}
        return found.get(None, found)

    def _add_member(self, measured):
        if not self._passes.is_classifier or not measured:
            return
        probabilities = measured[None].probabilities
        if self._count == 0:
            self._first, self._sum, self._labels = probabilities, np.zeros_like(probabilities), measured[None].labels
        if self._passes.is_paired:
            self._sum += probabilities
            self._count += 1

    def _has_sum(self, count):
        """Return whether the sum of the probabilities of so many members is known."""
        return self._passes.is_paired and bool(self._passes.is_classifier) and 0 < count == self._count

    def _average(self):
        return self._sum / self._count

    def _measured_average(self, models):
        """As `_measured`, of the average of models. The last one is remembered."""
        identities = [id(model) for model in models]
        if self._ensemble[0] != identities:
            self._ensemble = identities, self._measured(list(models), with_metrics=True)
        return self._ensemble[1]

    def _measured(self, model, with_metrics=False):
        """As `DataPasses.measured`. Empty without data."""
        return ({}, {}) if self.data is None else self._passes.measured(model, with_metrics)

    def _measures_more(self):
        """Return whether there are metrics that `Scores` do not have."""
        return self._compile_arguments is not None and self._compile_arguments.measures_more_than_accuracy


def of_validation(metrics):
    """Return metrics with the names of `fit`."""
    return {f"val_{name}": value for name, value in metrics.items()}


def _kept(measured):
    return {name: each.kept() for name, each in measured.items()}
