"""A `keras.Model` that takes all kinds of data, and may hold ensembles."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_ban._src import backend, hints
from keras_ban._src.data import fit_arguments, reading, trial
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.preprocessing import batch_in_steps, data_in_steps


class AnyData:
    """`evaluate` and `predict` of `keras.Model`, for all kinds of data. Put it before `keras.Model` among the bases.

    Steps are compiled again if other members of an ensemble within the model count than before.
    """

    _members_in_steps = None

    @hints.passes_on_to(keras.Model.evaluate)
    def evaluate(self, x: hints.Data = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, for all kinds of data that `fit` takes."""
        if "_use_cached_eval_dataset" in kwargs:  # `keras.Model.fit` has read the data.
            return super().evaluate(x, *args, **kwargs)
        return self._read(super().evaluate, "evaluate", (x, *args), kwargs, ("x", "y", "sample_weight", "batch_size"))

    @hints.passes_on_to(keras.Model.predict)
    def predict(self, x: hints.Data, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.predict`, for all kinds of data that `fit` takes."""
        return self._read(super().predict, "predict", (x, *args), kwargs, ("x", "batch_size"))

    @hints.passes_on_to(keras.Model.test_on_batch)
    def test_on_batch(
        self, x: hints.Data, y: hints.Data = None, sample_weight: hints.Data = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As `keras.Model.test_on_batch`."""
        return super().test_on_batch(*batch_in_steps(self, (x, y, sample_weight)), *args, **kwargs)

    def predict_on_batch(self, x: hints.Data) -> Any:
        """As `keras.Model.predict_on_batch`."""
        return super().predict_on_batch(batch_in_steps(self, (x, None, None))[0])

    def make_train_function(self, force: bool = False) -> Any:
        return super().make_train_function(force=self._other_members_count() or force)

    def make_test_function(self, force: bool = False) -> Any:
        return super().make_test_function(force=self._other_members_count() or force)

    def make_predict_function(self, force: bool = False) -> Any:
        return super().make_predict_function(force=self._other_members_count() or force)

    def models_in_steps(self) -> Sequence[Any]:
        """The models that the compiled steps call."""
        return [self]

    def _other_members_count(self):
        """Forget all compiled steps, if they call other members of ensembles than those that count now."""
        layers = [layer for model in self.models_in_steps() for layer in backend.flat_layers(model)]
        members = tuple(layer.members_that_run for layer in layers if hasattr(layer, "members_that_run"))
        changed = self._members_in_steps not in (None, members)
        if changed:
            self.train_function = self.test_function = self.predict_function = None
        self._members_in_steps = members
        return changed

    def _read(self, method, name, args, kwargs, names):
        arguments = fit_arguments.bound(self, args, kwargs, name)
        given = {name: arguments.pop(name) for name in names if name in arguments}
        data = as_data(**given, models=(self,))
        fit_arguments.check_has_end(data, arguments, "steps")
        data = data_in_steps(self, data)
        try:
            with reading.watched(data) as (read,):
                inputs = {name: value for name, value in read.for_keras().items() if name in names}
                # Keras on JAX takes the weights out of the model, and loses them if it is interrupted.
                with backend.keeping_values(self):
                    return method(**{**arguments, **inputs})
        except Exception:
            trial.explain_use(self, data, measure=name == "evaluate")
            raise
