"""The methods of a `Distiller` that are about its student."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras

from keras_ban._src import backend, hints
from keras_ban._src.distillation.requirements import metrics_of_call


class StudentView:
    """The methods of a `Distiller` that are those of its student, such as `evaluate` and `summary`."""

    @property
    def output_names(self) -> list[str]:
        """The names by which Keras pairs outputs with losses and metrics. Only functional models have them."""
        return self.student.output_names

    def models_in_steps(self) -> Sequence[Any]:
        return [self] if self.teacher is None else [self, self.teacher]

    def models_within(self) -> Sequence[keras.Model]:
        return [self.student]

    @hints.passes_on_to(keras.Model.evaluate)
    def evaluate(self, x: hints.Data = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.evaluate`, for the student on the labels. The teacher is not used."""
        with self._as_student():
            logs = super().evaluate(x, *args, **kwargs)
        # In `fit`, all workers must have equal results, because callbacks use them.
        within_fit = self._hidden.workers is not None and "_use_cached_eval_dataset" in kwargs
        return self._hidden.workers.agree(logs) if within_fit else logs

    @hints.passes_on_to(keras.Model.test_on_batch)
    def test_on_batch(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.test_on_batch`, for the student on the labels."""
        with self._as_student():
            return super().test_on_batch(*args, **kwargs)

    def summary(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.summary`, for the student."""
        return self.student.summary(*args, **kwargs)

    def count_params(self) -> int:
        """As `keras.Model.count_params`, for the student."""
        return self.student.count_params()

    def get_layer(self, *args: Any, **kwargs: Any) -> keras.layers.Layer:
        """As `keras.Model.get_layer`, for the student. A callback finds the same layers in each generation."""
        return self.student.get_layer(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.export`, for the student."""
        return self.student.export(*args, **kwargs)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        # Keras ignores the metrics of a model within a model.
        metrics = super().metrics + (metrics_of_call(self.student) if backend.CALLS_UPDATE_METRICS else [])
        unused = [] if self._has_label_term else [self._label_loss_tracker]
        if self._evaluating:
            unused = [self._label_loss_tracker, self._distillation_loss_tracker, self._feature_loss_tracker]
            unused += [self._label_weight_tracker, self._temperature_tracker]
        return [metric for metric in metrics if all(metric is not tracker for tracker in unused)]

    @property
    def non_trainable_variables(self) -> list[keras.Variable]:
        variables = super().non_trainable_variables
        return variables if self._evaluating else variables + self._teaching.in_state

    @contextlib.contextmanager
    def _as_student(self):
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False
