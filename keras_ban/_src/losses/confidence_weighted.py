"""The label loss, weighted by the teacher's confidence."""

import numbers

import keras
from keras import ops

from keras_ban._src import backend
from keras_ban._src.losses.base import SoftTargetLoss, class_probabilities, counted_examples, finite_logits


@keras.saving.register_keras_serializable(package="keras_ban")
class ConfidenceWeighted(SoftTargetLoss):
    """The labels' cross-entropy, weighted by how sure the teacher is (CWTM, BAN eq. 10).

    An example `s` weighs `w_s`, the teacher's largest probability, right or wrong; nothing else of the teacher is used.
    The weights are normalised over the batch: averaged, the loss is `sum_s(w_s * CE_s) / sum_u(w_u)`, so an example's
    value is `n * w_s / sum_u(w_u) * CE_s`, with `n` examples. In the paper it is all that is trained on:

    ```python
    keras_ban.Distiller(..., distillation_loss=keras_ban.losses.ConfidenceWeighted(), label_weight=0)
    ```

    What counts as the batch:

    - Of sequences `(batch, time, classes)` every token is an example. Tokens that are masked, and those whose label is
      `ignore_class`, have no loss and no part in the sum of the weights.
    - Sample weights scale the values afterwards, as they scale those of any loss of Keras.
    - With data parallelism the sum is that of the global batch: under `tf.distribute`, `keras.distribution`, and where
      the workers of a `torch.distributed` group train by `Distiller.fit`. Under torch's own `DistributedDataParallel`
      each process normalises over its own part of the batch.

    Example:

    >>> loss = keras_ban.losses.ConfidenceWeighted(from_logits=False)
    >>> y_true = {"labels": [0, 1], "soft_targets": [[0.9, 0.1], [0.4, 0.6]]}
    >>> round(float(loss(y_true, [[0.5, 0.5], [0.5, 0.5]])), 4)
    0.6931

    Args:
        from_logits: whether outputs are logits; else probabilities, which count as at least 1e-30 each.
        ignore_class: a label that is none, `-1` for instance; for labels that are whole numbers.
        reduction: as in `keras.losses.Loss`.
        name: as in `keras.losses.Loss`.

    Call args:
        y_true: a dict with `"labels"`, whole numbers `(batch, ...)` or `(batch, ..., 1)`, or one-hot (or any other
            distribution) `(batch, ..., classes)`, and `"soft_targets"`, `(batch, ..., classes)`.
        y_pred: the student's outputs, `(batch, ..., classes)`.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: an argument is not as above, there are no labels, or the shapes do not belong together.
    """

    def __init__(
        self, from_logits=True, ignore_class=None, reduction="sum_over_batch_size", name="confidence_weighted"
    ):
        super().__init__(1.0, from_logits, "softmax", reduction, name)
        if ignore_class is not None and (
            not isinstance(ignore_class, numbers.Integral) or isinstance(ignore_class, bool)
        ):
            raise ValueError(f"`ignore_class` must be a whole number or None, received: {ignore_class!r}.")
        self._ignore_class = None if ignore_class is None else int(ignore_class)

    @property
    def ignore_class(self):
        return self._ignore_class

    def compare(self, y_true, soft_targets, y_pred, temperature):
        labels, labelled = class_probabilities(self, y_true, y_pred, self.ignore_class)
        teacher = self.logits(ops.stop_gradient(soft_targets), temperature)
        confidence = 1 / ops.sum(ops.exp(teacher - ops.max(teacher, axis=-1, keepdims=True)), axis=-1)
        counted = counted_examples(y_true, confidence)
        weights = confidence * counted * labelled
        # Keras divides by what a replica counts, and by the number of replicas.
        count = ops.sum(counted) * backend.replica_count()
        weights = count * ops.divide_no_nan(weights, backend.sum_over_replicas(ops.sum(weights)))
        student = finite_logits(self.logits(y_pred, temperature))
        return weights * -ops.sum(labels * ops.log_softmax(student, axis=-1), axis=-1)

    def get_config(self):
        config = {**super().get_config(), "ignore_class": self.ignore_class}
        del config["temperature"]
        return config
