"""A `keras.Model` that takes all kinds of data."""

from keras_ban._src.data import fit_arguments, reading
from keras_ban._src.data.kinds import as_data


class AnyData:
    """`evaluate` and `predict` of `keras.Model`, for all kinds of data. Put it before `keras.Model` among the bases."""

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`, for all kinds of data that `fit` takes."""
        if "_use_cached_eval_dataset" in kwargs:  # `keras.Model.fit` has read the data.
            return super().evaluate(x, *args, **kwargs)
        return self._read(super().evaluate, "evaluate", (x, *args), kwargs, ("x", "y", "sample_weight", "batch_size"))

    def predict(self, x, *args, **kwargs):
        """As `keras.Model.predict`, for all kinds of data that `fit` takes."""
        return self._read(super().predict, "predict", (x, *args), kwargs, ("x", "batch_size"))

    def models_within(self):
        """The models that get the inputs."""
        return []

    def _read(self, method, name, args, kwargs, names):
        arguments = fit_arguments.bound(self, args, kwargs, name)
        given = {name: arguments.pop(name) for name in names if name in arguments}
        with reading.watched(as_data(**given, models=(self,))) as (data,):
            inputs = {name: value for name, value in data.for_keras().items() if name in names}
            return method(**{**arguments, **inputs})
