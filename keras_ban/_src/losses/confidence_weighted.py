"""The label loss, weighted by the teacher's confidence."""

import numbers
from typing import Any

import keras
from keras import ops

from keras_ban._src import backend, hints
from keras_ban._src.losses.base import SoftTargetLoss, class_probabilities, counted_examples, finite_logits


@keras.saving.register_keras_serializable(package="keras_ban")
class ConfidenceWeighted(SoftTargetLoss):
    """Cross-entropy of the labels, weighted by the teacher's confidence (CWTM, BAN eq. 10).

    The weight `w_s` of example `s` is the teacher's largest probability, whether its class is right or wrong. Nothing
    else of the teacher is used. The weights are normalized over the batch: the mean loss is
    `sum_s(w_s * CE_s) / sum_u(w_u)`, so an example's value is `n * w_s / sum_u(w_u) * CE_s` for `n` examples. The paper
    trains on this loss alone:

    ```python
    keras_ban.Distiller(..., distillation_loss=keras_ban.losses.ConfidenceWeighted(), label_weight=0)
    ```

    - In sequences `(batch, time, classes)`, each token is an example. Masked tokens, and those whose label is
      `ignore_class`, have no loss and do not count in the sum of the weights.
    - Sample weights scale the values afterwards, as in any Keras loss.
    - With data parallelism, the sum is over the global batch: with `tf.distribute`, `keras.distribution`, and
      `Distiller.fit` in a `torch.distributed` group. With torch's own `DistributedDataParallel`, each process
      normalizes over its own part of the batch.

    Example:

    >>> loss = keras_ban.losses.ConfidenceWeighted(from_logits=False)
    >>> y_true = {"labels": [0, 1], "soft_targets": [[0.9, 0.1], [0.4, 0.6]]}
    >>> round(float(loss(y_true, [[0.5, 0.5], [0.5, 0.5]])), 4)
    0.6931

    Args:
        from_logits: whether outputs are logits. Otherwise probabilities, each counted as at least 1e-30. `"auto"`: a
            `Distiller` reads it from the label loss and the last layers of student and teacher, which may differ.
            Without a Distiller, outputs count as logits.
        ignore_class: the whole number that marks examples without a label, for instance -1.
        reduction, name: as in `keras.losses.Loss`.

    Call args:
        y_true: a dict with `"soft_targets"`, `(batch, ..., classes)`, and `"labels"`: whole numbers `(batch, ...)` or
            `(batch, ..., 1)`, or distributions `(batch, ..., classes)`.
        y_pred: the student's outputs, `(batch, ..., classes)`.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: an argument is not as above, there are no labels, or the shapes do not match.
    """

    labels_as = "distribution"
    settings = ("from_logits", "ignore_class")

    def __init__(
        self,
        from_logits: hints.FromLogits = "auto",
        ignore_class: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "confidence_weighted",
    ) -> None:
        super().__init__(1.0, from_logits, "softmax", reduction, name)
        if not isinstance(ignore_class, (numbers.Integral, type(None))) or isinstance(ignore_class, bool):
            raise ValueError(f"`ignore_class` must be a whole number or None, received: {ignore_class!r}.")
        self.ignore_class: int | None = None if ignore_class is None else int(ignore_class)

    def compare(self, y_true: dict[str, Any], y_pred: hints.Tensor, temperature: Any) -> hints.Tensor:
        labels, labelled = class_probabilities(self, y_true, y_pred, self.ignore_class)
        teacher = self.logits(ops.stop_gradient(y_true["soft_targets"]), temperature)
        confidence = 1 / ops.sum(ops.exp(teacher - ops.max(teacher, axis=-1, keepdims=True)), axis=-1)
        counted = counted_examples(y_true, confidence)
        weights = confidence * counted * labelled
        # Keras divides by the examples of a replica, and by the number of replicas.
        count = ops.sum(counted) * backend.replica_count()
        weights = count * ops.divide_no_nan(weights, backend.sum_over_replicas(ops.sum(weights)))
        student = finite_logits(self.logits(y_pred, temperature))
        return weights * -ops.sum(labels * ops.log_softmax(student, axis=-1), axis=-1)
