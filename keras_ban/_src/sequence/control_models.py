"""Trains the controls of a sequence: models on labels alone, at the cost of the generations."""

import copy
import functools
import math

import keras

from keras_ban._src import checks
from keras_ban._src.files import model_file
from keras_ban._src.history.controls import INDEPENDENT, LONGER, Controls, planned
from keras_ban._src.scoring.scorer import of_validation
from keras_ban._src.sequence import stretched_schedule

# The last numbers of their places, from which seeds are derived.
_KINDS = {LONGER: 1, INDEPENDENT: 2}


def check_controls(controls):
    """Return the names of the controls in their order, without repetitions. Raise `ValueError` for others."""
    if controls is None:
        return ()
    if not isinstance(controls, (list, tuple)):
        raise ValueError(f"`controls` must be a list of names, {list(_KINDS)} or some of them, received: {controls!r}.")
    for name in controls:
        checks.check_choice("controls", name, tuple(_KINDS))
    return tuple(name for name in _KINDS if name in controls)


class ControlModels:
    """Trains the controls of one `fit` of a `BornAgainSequence`, one after the other.

    Each has its own seed. Its architecture, callbacks and augmentation are those of generation 0. Models of
    classifiers are not kept in memory; other independent models are, until their average is scored.

    - `"longer"`: a model that is trained for the epochs of all records together, as they were trained. A schedule of
      the optimizer that ends is stretched by the ratio of this length to the epochs of generation 0. `EarlyStopping`
      does not stop it.
    - `"independent"`: so many models, trained as generation 0 was, that there are as many as generations with it.

    Args:
        training: the `Training`.
        generations: its `Generations`, all of which are trained.
        scorer: the `Scorer` that has scored them.
    """

    def __init__(self, training, generations, scorer):
        self._training = training
        self._generations = generations
        self._scorer = scorer
        self._sequence, self._run = training.sequence, training.run
        self._history = training.sequence.history

    def train(self):
        """Train or load the controls. Each is added to `history.controls` when it is finished."""
        history = self._history
        stored = Controls() if self._run is None else self._run.history().controls or Controls()
        if self._run is not None and self._run.finished:
            history.controls = stored
            return
        history.controls = Controls()
        stored = {record.name: record for record in stored.records}
        for record in planned(self._sequence.controls, len(history.members)):
            record.seed = self._training.seed(record.number, _KINDS[record.control])
            is_stored = record.name in stored
            if self._training.options["verbose"] != 0:
                longer = f"one model of {self._epochs_of_all()} epochs"
                independent = f"independent model {record.number} of {len(history.members)}"
                where = f"already in {self._sequence.directory}" if is_stored else "on labels alone"
                print(f"Control: {longer if record.control == LONGER else independent}, {where}", flush=True)
            if is_stored:
                record = stored[record.name]
                self._load(record)
            else:
                self._train(record)
            history.controls.records.append(record)
        if INDEPENDENT in self._sequence.controls:
            history.controls.ensemble, metrics = self._scorer.score_independents(
                self._sequence.models[: len(history.members)]
            )
            history.controls.ensemble_metrics = of_validation(metrics)

    def _load(self, record):
        if record.control == INDEPENDENT and self._scorer.data is not None:
            classes = model_file.classes_of(self._sequence.models[0])
            model = model_file.load(self._run.control_file(record.name), classes)
            self._training.compile_arguments.compile(model)
            self._scorer.score_independent(model)

    def _train(self, record):
        callbacks, epochs = self._training.make_callbacks(0, record.name), self._training.epochs(0)
        compile_arguments, score = self._training.compile_arguments, self._scorer.score_independent
        if record.control == LONGER:
            longer = self._epochs_of_all()
            callbacks = [_without_end(callback, longer) for callback in callbacks]
            compile_arguments = stretched_schedule.stretched(compile_arguments, longer / epochs)
            epochs = self._training.options.get("initial_epoch", 0) + longer
            values = [each.metrics.get(self._history.monitor, math.nan) for each in self._history.records]
            best = None if all(math.isnan(value) for value in values) else self._history.best_generation
            score = functools.partial(self._scorer.score_longer, best=best)
        self._generations.train_plain(record, callbacks, epochs, compile_arguments, score)

    def _epochs_of_all(self):
        """The number of epochs that all generations were trained, and the distilled student."""
        return sum(record.epochs for record in self._history.records)


def _without_end(callback, epochs):
    """Return an `EarlyStopping` that still chooses the best weights, but does not stop. Others are returned."""
    if not isinstance(callback, keras.callbacks.EarlyStopping):
        return callback
    callback = copy.copy(callback)
    callback.patience = epochs + 1
    return callback
