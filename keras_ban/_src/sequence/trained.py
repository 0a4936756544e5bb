"""What a sequence can do once its generations are trained."""

from keras_ban._src import checks
from keras_ban._src.data.kinds import as_arrays
from keras_ban._src.history.history import BornAgainHistory, GenerationRecord
from keras_ban._src.sequence import soup
from keras_ban._src.sequence.held_out import as_array_of_numbers
from keras_ban._src.sequence.initial_weights import MODEL
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
        meaning = meaning_of(self, self._compile_arguments, self.models[-1])
        ensemble = average_of(members if last is None else members[-last:], meaning, weights, average)
        ensemble.trained_on = self._trained_on
        if self._compile_arguments is not None:
            ensemble.compile(**self._compile_arguments.make())
        return ensemble

    def soup(self, how="uniform", validation_data=None):
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
        arrays = as_arrays(x, as_array_of_numbers(y), models=self.models)
        scorer = Scorer(arrays, meaning_of(self, self._compile_arguments, self.models[-1]), batch_size)
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
