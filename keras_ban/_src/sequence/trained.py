"""What a sequence can do once its generations are trained."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import keras
import numpy as np

from keras_ban._src import checks, hints
from keras_ban._src.data.kinds import as_data
from keras_ban._src.ensemble.ensemble import EnsembleModel, average_of
from keras_ban._src.history.history import BornAgainHistory
from keras_ban._src.history.scores import examples_in
from keras_ban._src.scoring.scorer import Scorer
from keras_ban._src.sequence import soup
from keras_ban._src.sequence.initial_weights import MODEL
from keras_ban._src.sequence.output_checks import meaning_of
from keras_ban._src.sequence.per_generation import compared_with


class TrainedGenerations:
    """The methods of a `BornAgainSequence` that use its trained models."""

    @property
    def best_model(self) -> keras.Model:
        """The generation with the best value of `monitor`; `ValueError` before training and without validation data."""
        self._check_trained()
        return self.models[self.history.best_generation]

    @property
    def distilled(self) -> keras.Model | None:
        """The student distilled from the ensemble, the last of `models`; `None` without `distill_ensemble`."""
        return self.models[-1] if self.models and self.history.records[-1].distilled else None

    def ensemble(
        self,
        last: int | None = None,
        weights: Sequence[float] | np.ndarray | None = None,
        average: hints.Average | None = None,
    ) -> EnsembleModel:
        """Average the generations (BAN eq. 4), without the student `distilled` from the ensemble.

        Args:
            last: the number of newest generations to average; `None`: all.
            weights: a non-negative number for each; `None`: all equal.
            average: as in `EnsembleModel`. `None`: probabilities, for classifiers whose losses say what their outputs
                are; otherwise the outputs as they are.

        Returns:
            A compiled `EnsembleModel`, which holds the models without copying them. Its `calibrate` and `fit_weights`
            refuse the arrays that trained the generations, and more than a few examples of them (after `load`, the
            arrays as a whole).

        Raises:
            ValueError: no generation is trained, or `last` or `weights` do not fit.
        """
        self._check_trained()
        count = len(self.history.members)
        if last is not None and not 1 <= checks.check_count("last", last) <= count:
            raise ValueError(f"`last` must lie between 1 and {count}, the models trained, received: {last}.")
        meaning = meaning_of(self, self._compile_arguments, self.models[-1])
        ensemble = average_of(self.models[count - (last or count) : count], meaning, weights, average)
        ensemble.trained_on = self._last_fit.trained_on
        if self._compile_arguments is not None:
            self._compile_arguments.compile(ensemble)
        return ensemble

    def soup(self, how: Literal["uniform", "greedy"] = "uniform", validation_data: hints.Data = None) -> keras.Model:
        """Average the weights of the generations to one model, which costs no more than one (Wortsman et al., 2022).

        The members are the generations that started from the same weights, or from each other's: with
        `initial_weights="model"` all without a given `teacher`, with `"previous"` all. The student distilled from the
        ensemble is none. With several members, the statistics of `BatchNormalization` are computed again on the
        training data of the last `fit`, without augmentation.

        Args:
            how: `"uniform"`: the average of all. `"greedy"`: members are tried in the order of their monitored value,
                the best first, and one stays if the value of the average with it is no worse than without it.
            validation_data: as in `keras.Model.fit`, to choose on with `"greedy"`. `None`: those of the last `fit`.

        Returns:
            A new, compiled `keras.Model` of the architecture of the generations.

        Raises:
            ValueError: no generation is trained, or they started from different weights; there is no validation data
                for `"greedy"`; or there is a `BatchNormalization`, but no training data, as after `load`.
        """
        self._check_trained()
        soup.check_soup(self, self._last_fit, how, validation_data)
        members = list(zip(self.history.members, self.models, strict=False))
        if self.initial_weights == MODEL:
            members = [(record, model) for record, model in members if record.seed is not None]
        if not members:
            raise ValueError("The given `teacher` is no member of a soup, and no other generation is trained yet.")
        made = soup.Soup(self, self._compile_arguments, self._last_fit, members)
        return made.uniform() if how == "uniform" else made.greedy(validation_data)

    @checks.names_the_right_call
    def evaluate(
        self,
        x: hints.Data,
        y: hints.Data = None,
        batch_size: int | None = None,
        data: str = "test",
        sample_weight: hints.Data = None,
        *,
        steps: int | None = None,
        verbose: hints.Verbose = 0,
    ) -> BornAgainHistory:
        """Score every generation, and the ensemble of all, on data that chose nothing. See `docs/scores.md`.

        Args:
            x: data of any kind that can be read once per generation (see `docs/data.md`): no generator.
            y: labels, for arrays: as the compiled loss takes them. For a classifier with one output, whole numbers
                `(n,)` or `(n, 1)` and one-hot `(n, classes)` are scored with any loss.
            batch_size: as in `keras.Model.predict`.
            data: the name of the data in titles.
            sample_weight: as in `keras.Model.evaluate`. Accuracy, NLL and ECE do not use it.
            steps: as in `keras.Model.evaluate`, for instance for a dataset without end.
            verbose: has no effect: nothing is printed. Print the `summary()` of the result.

        Returns:
            `BornAgainHistory` of the same generations, with `scores` and the compiled metrics (`evaluation`) on these
            data. The loss has no penalties of weights. The best generation is the one that the validation data chose.

        Raises:
            TypeError: `x` is not data.
            ValueError: no generation is trained, the data cannot be read again, or they bring no labels or others than
                the loss takes.
        """
        self._check_trained()
        examples = as_data(x, y, sample_weight, batch_size=batch_size, models=self.models)
        meaning = meaning_of(self, self._compile_arguments, self.models[-1])
        scorer = Scorer(examples, meaning, batch_size, steps, self._compile_arguments)
        scorer.check(self.models[-1])
        records, history = [], self.history
        for record, model in zip(history.records, self.models, strict=True):
            before = compared_with(self, record), self.models[: record.generation]
            scores, metrics = scorer.measure(model, *before, record.distilled)
            records.append(dataclasses.replace(record, scores=scores, evaluation=metrics))
            if scores is None and not metrics:
                reasons = "; ".join(note.rstrip(".") for note in scorer.notes)
                raise ValueError(f"The generations cannot be scored on these data: {reasons}.")
        ensemble, metrics = scorer.score_ensemble(self.models[: len(history.members)], always=True)
        of_ensemble = {"ensemble": ensemble, "ensemble_metrics": metrics, "notes": scorer.notes}
        evaluated = BornAgainHistory(records, history.monitor, history.mode, data, **of_ensemble)
        evaluated.directory, evaluated.validation_examples = history.directory, examples_in(history.records)
        return evaluated

    def _check_trained(self):
        if not self.models:
            raise ValueError("No generation is trained yet: call `compile()` and `fit()` first.")
