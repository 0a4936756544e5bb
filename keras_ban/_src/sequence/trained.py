"""What a sequence can do once its generations are trained."""

import numpy as np

from keras_ban._src import checks
from keras_ban._src.data.kinds import as_arrays
from keras_ban._src.history.history import BornAgainHistory, GenerationRecord
from keras_ban._src.sequence.scorer import Scorer, meaning_of
from keras_ban._src.sequence.teachers import average_of, taught_by


class TrainedGenerations:
    """The methods of a `BornAgainSequence` that use its trained models."""

    @property
    def best_model(self):
        """The generation with the best value of `monitor`; `ValueError` before training and without validation data."""
        self._check_trained()
        return self.models[self.history.best_generation]

    @property
    def distilled(self):
        """The student distilled from the ensemble, the last of `models`; `None` without `distill_ensemble`."""
        return self.models[-1] if self.models and self.history.records[-1].distilled else None

    def ensemble(self, last=None, weights=None, average=None):
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
        members = self.models[: len(self.history.members)]
        if last is not None and not 1 <= checks.check_count("last", last) <= len(members):
            raise ValueError(f"`last` must lie between 1 and {len(members)}, the models trained, received: {last}.")
        meaning = meaning_of(self, self._compile_arguments)
        ensemble = average_of(members if last is None else members[-last:], meaning, weights, average)
        ensemble.trained_on = self._trained_on
        if self._compile_arguments is not None:
            ensemble.compile(**self._compile_arguments.make())
        return ensemble

    def evaluate(self, x, y, batch_size=None, data="test"):
        """Score every generation, and the ensemble of all, on data that chose nothing.

        Args:
            x: arrays or a table (see `docs/data.md`).
            y: labels of a classifier: whole numbers `(n,)` or `(n, 1)`, or one-hot `(n, classes)`.
            batch_size: as in `keras.Model.predict`.
            data: the name of the data in titles.

        Returns:
            `BornAgainHistory` of the same generations with scores on these data. Its best generation is the one that
            the validation data chose.

        Raises:
            TypeError: `x` is a dataset.
            ValueError: no generation is trained, or the models are not classifiers with labels as above.
        """
        self._check_trained()
        if isinstance(y, list) and not any(hasattr(each, "shape") for each in y):
            y = np.asarray(y)
        scorer = Scorer(as_arrays(x, y, models=self.models), meaning_of(self, self._compile_arguments), batch_size)
        records = [
            GenerationRecord(**{**vars(record), "scores": scorer.score(model, taught_by(self.teach_from, record))})
            for record, model in zip(self.history.records, self.models, strict=True)
        ]
        if records[0].scores is None:
            raise ValueError(
                "`evaluate` scores classifiers with one output `(n, classes)` (or one sigmoid) and one label each. Use "
                "`model.evaluate` for each of `models`, and for `ensemble()`."
            )
        history = self.history
        ensemble = scorer.score_ensemble(len(history.members))
        return BornAgainHistory(records, history.monitor, history.mode, data, ensemble)

    def _check_trained(self):
        if not self.models:
            raise ValueError("No generation is trained yet: call `compile()` and `fit()` first.")
