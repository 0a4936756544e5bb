"""The methods by which a `Distiller` acts as its student."""

import contextlib


class StudentView:
    """`evaluate`, `summary` and others are those of the student."""

    @property
    def output_names(self):
        """The student's, by which Keras pairs outputs with losses and metrics; of functional models only."""
        return self.student.output_names

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`, of the student on the labels: the teacher plays no part."""
        with self._speaking_of_the_student():
            logs = super().evaluate(x, *args, **kwargs)
        # Within `fit`, whose callbacks decide by them.
        within = self._hidden.workers is not None and "_use_cached_eval_dataset" in kwargs
        return self._hidden.workers.agree(logs) if within else logs

    def test_on_batch(self, *args, **kwargs):
        """As `keras.Model.test_on_batch`, of the student on the labels."""
        with self._speaking_of_the_student():
            return super().test_on_batch(*args, **kwargs)

    def summary(self, *args, **kwargs):
        """As `keras.Model.summary`, of the student."""
        return self.student.summary(*args, **kwargs)

    def count_params(self):
        """As `keras.Model.count_params`, of the student."""
        return self.student.count_params()

    def export(self, *args, **kwargs):
        """As `keras.Model.export`, of the student."""
        return self.student.export(*args, **kwargs)

    @property
    def metrics(self):
        metrics = super().metrics
        if self._evaluating:
            ours = (self._label_loss_tracker, self._distillation_loss_tracker)
            ours += (self._label_weight_tracker, self._temperature_tracker, self._feature_loss_tracker)
            return [metric for metric in metrics if all(metric is not tracker for tracker in ours)]
        return metrics

    @property
    def non_trainable_variables(self):
        variables = super().non_trainable_variables
        return variables if self._evaluating else variables + self._teaching.in_state

    @contextlib.contextmanager
    def _speaking_of_the_student(self):
        self._evaluating = True
        try:
            yield
        finally:
            self._evaluating = False
