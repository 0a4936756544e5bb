"""One model with the average of the weights of several generations (Wortsman et al., 2022)."""

import contextlib
import dataclasses
import itertools

import keras
import numpy as np

from keras_ban._src import backend, checks
from keras_ban._src.backend import process_group
from keras_ban._src.data import leaves, trial
from keras_ban._src.data.batch import unpack
from keras_ban._src.data.kinds import as_validation_data
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.preprocessing import data_in_steps
from keras_ban._src.ensemble.training_data import TrainingData
from keras_ban._src.history.scores import better, sort_key
from keras_ban._src.scoring.scorer import Scorer
from keras_ban._src.sequence import initial_weights
from keras_ban._src.sequence.output_checks import meaning_of


@dataclasses.dataclass
class LastFit:
    """What ensembles and soups need of the last `fit`.

    Attributes:
        trained_on: the `TrainingData`, or `None`.
        starts_alike: whether all generations were given the same weights to start from.
        data, steps: the training data and `steps_per_epoch`. `data` is `None` after `load`.
        scorer: the `Scorer` of the validation data, or `None`.
    """

    trained_on: TrainingData | None
    starts_alike: bool
    data: object = None
    steps: int | None = None
    scorer: Scorer | None = None

    @classmethod
    def of(cls, training, scorer):
        """Return what to keep. Data are kept, by reference, only if soups can be made."""
        trained_on = TrainingData.of(training.data)
        if training.sequence.initial_weights == initial_weights.FRESH:
            return cls(trained_on, starts_alike=False)
        found = initial_weights.fingerprints(training).items()
        alike = {value for place, value in found if place <= training.sequence.generations}
        return cls(trained_on, len(alike) <= 1, training.data, training.options.get("steps_per_epoch"), scorer)

    @classmethod
    def of_run(cls, begun_with):
        """Return what a run directory tells."""
        models = begun_with["model"].items()
        found = {model.get("starting_weights") for place, model in models if int(place) <= begun_with["generations"]}
        return cls(TrainingData.of_run(begun_with), len(found - {None}) <= 1)


def check_soup(sequence, last_fit, how, validation_data):
    """Raise `ValueError` if the generations of a trained sequence cannot be averaged like this."""
    checks.check_choice("how", how, ("uniform", "greedy"))
    if sequence.initial_weights == initial_weights.FRESH:
        raise ValueError(
            "Generations with fresh weights cannot be averaged to a soup: their units have learned in different "
            "orders, so the average of their weights is no better than chance. Train the sequence with "
            "`initial_weights='model'`, or average outputs by `ensemble()`."
        )
    if not last_fit.starts_alike:
        raise ValueError(
            "`build(generation)` returned other weights for each generation, so their average is useless. Let it "
            "return models with the same weights, those of one pretrained model and one head."
        )
    if how == "uniform" and validation_data is not None:
        raise ValueError("`validation_data` chooses the members of `how='greedy'`, and a uniform soup has all.")
    if process_group.shared():
        raise ValueError("`soup` runs in one process on one device: call it there, after `BornAgainSequence.load`.")


class Soup:
    """Averages the weights of models of one architecture.

    Args:
        sequence: the trained `BornAgainSequence`.
        compile_arguments: its `CompileArguments`, or `None`.
        last_fit: its `LastFit`.
        members: `[(GenerationRecord, model), ...]`.
    """

    def __init__(self, sequence, compile_arguments, last_fit, members):
        self._sequence = sequence
        self._compile_arguments = compile_arguments
        self._last_fit = last_fit
        self._records, self._models = zip(*members, strict=True)
        with self._random_numbers():
            self._model = initial_weights.new_model(sequence, self._records[0].generation)
        # A frozen layer neither uses the statistics of a batch nor changes its own.
        self._normalizations = [
            layer
            for layer in backend.flat_layers(self._model)
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
        ]
        if self._normalizations and last_fit.data is None and len(members) > 1:
            raise ValueError(
                f"The statistics of {self._normalizations[0].name!r} are those of one model, and must be computed "
                "again for the average on the training data, which `load` does not read. Make the sequence as it was "
                "made, with this `directory`, and call `fit`, which loads what is finished. Then call `soup`."
            )

    def uniform(self):
        """Return the average of all members, compiled."""
        self._put(self._models)
        return self._compiled()

    def greedy(self, validation_data):
        """Return the average of the members that are worth it on the validation data, compiled.

        Members are tried in the order of their monitored value, the best first. One stays if the average with it is
        no worse than without it.
        """
        measure, mode = self._measure_on(validation_data), self._sequence.history.mode
        values = [measure(model) for model in self._models]
        order = sorted(range(len(values)), key=lambda index: sort_key(mode, values[index]))
        chosen, best = [self._models[order[0]]], values[order[0]]
        for index in order[1:]:
            self._put([*chosen, self._models[index]])
            value = measure(self._model)
            if value == best or better(mode, value, best):
                chosen, best = [*chosen, self._models[index]], value
        self._put(chosen)
        return self._compiled()

    def _measure_on(self, validation_data):
        """Return a function that measures the monitored value of a compiled model."""
        sequence, scorer = self._sequence, self._last_fit.scorer
        if self._compile_arguments is None:
            raise ValueError("`soup(how='greedy')` measures models: call `compile()` first.")
        self._compile_arguments.compile(self._model)
        if validation_data is not None:
            models = [sequence.model] if isinstance(sequence.model, keras.Model) else []
            data = as_validation_data(validation_data, models=models)
            if data.read_once:
                raise ValueError("`validation_data` is read once for each member, so it cannot be a generator.")
            trial.check_validation(self._model, data_in_steps(self._model, data))
            scorer = Scorer(data, meaning_of(sequence, self._compile_arguments, self._model), data.batch_size)
        if scorer is None or scorer.data is None:
            raise ValueError(
                "`soup(how='greedy')` chooses members on `validation_data`, and the last `fit` has none to offer: pass "
                "`validation_data`, or use `how='uniform'`."
            )
        monitor = sequence.history.monitor

        def measure(model):
            values = scorer.evaluate(model)
            if monitor not in values:
                raise ValueError(f"`monitor` is {monitor!r}, which is not measured. Known are {sorted(values)}.")
            return values[monitor]

        return measure

    @contextlib.contextmanager
    def _random_numbers(self):
        """Return a context with the same random numbers each time. Global generators then go on as before."""
        states = backend.random_states()
        keras.utils.set_random_seed(self._records[-1].seed or 0)
        try:
            yield
        finally:
            backend.set_random_states(states)

    def _put(self, models):
        """Set the weights to the average of models, and the statistics to those of the training data."""
        for place, *weights in zip(self._model.weights, *(model.weights for model in models), strict=True):
            values = [backend.value_of(weight) for weight in weights]
            # Whole numbers and flags are those of the first.
            is_float = keras.backend.is_float_dtype(place.dtype)
            mean = np.mean([value.astype("float64") for value in values], axis=0) if is_float else values[0]
            place.assign(mean.astype(values[0].dtype))
        if len(models) > 1 and self._normalizations:
            with self._random_numbers():  # Of dropout.
                self._estimate_statistics()

    def _estimate_statistics(self):
        """Set each `BatchNormalization` to the average over the batches of one epoch, weighted by their sizes."""
        momenta, seen = [layer.momentum for layer in self._normalizations], 0
        try:
            for x in self._inputs():
                size = int(leaves.leaves_of(x)[0].shape[0])
                for layer in self._normalizations:
                    layer.momentum = seen / (seen + size)
                with backend.without_gradients():
                    self._model(x, training=True)
                seen += size
        finally:
            for layer, momentum in zip(self._normalizations, momenta, strict=True):
                layer.momentum = momentum

    def _inputs(self):
        steps = self._last_fit.steps
        data = data_in_steps(self._model, self._last_fit.data, again=True, steps=steps)
        if not data.yields_batches:
            return (x for x, _ in data.batches(data.batch_size or 32))
        batches = itertools.islice(data.iterate(), steps)
        return (inputs_for(self._model, keras.tree.map_structure(leaves.numeric, unpack(b)[0])) for b in batches)

    def _compiled(self):
        if self._compile_arguments is not None:
            self._compile_arguments.compile(self._model)
        return self._model
