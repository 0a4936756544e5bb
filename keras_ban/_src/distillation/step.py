"""The training step of a `Distiller`: the teacher's outputs, and the terms of the loss."""

from typing import Any

import keras
from keras import ops

from keras_ban._src import backend, hints
from keras_ban._src.data.bad_batches import check_has_examples
from keras_ban._src.data.batch import (
    inputs_of_teacher,
    is_labeled,
    join_targets,
    split_targets,
    weights_of_labels,
    weights_without_labels,
)
from keras_ban._src.data.leaves import leaves_of
from keras_ban._src.distillation.loss_targets import NO_LABELS, NOTHING_TO_MEASURE, has_schedule, own_weights
from keras_ban._src.distillation.observer import split_observed
from keras_ban._src.distillation.training_progress import advance, is_over_training, make_progress
from keras_ban._src.distillation.unlabeled import only_labeled, weights_like_labels, weights_of_part
from keras_ban._src.losses.precision import add_up, mix
from keras_ban._src.losses.schedules import value_at
from keras_ban._src.losses.structure import targets_of
from keras_ban._src.targets import augmented_views, label_mix
from keras_ban._src.targets.top_k_rows import expand, is_top_k

NO_FEATURES = (
    "`feature_matching` compares layers, so the teacher must run at each step. Pass `Distiller(teacher=..., "
    "feature_matching=...)`, and data without soft targets."
)

NO_EVALUATION = (
    "Evaluation and validation measure the label loss, and `compile` got no `loss`, so there is nothing to report as "
    "`loss`. Pass one: with `label_weight=0` it is measured, and not trained."
)


class TermMean(keras.metrics.Mean):
    """The mean of a term of the loss over an epoch: a `keras.metrics.Mean` of scalars, which costs little at a step."""

    def update_state(self, value, sample_weight=1):
        backend.update_mean(self, value, sample_weight)

    def result(self):
        return backend.result_of_mean(self)


class DistillationStep:
    """`train_step` and `compute_loss` of a `Distiller`."""

    def _make_trackers(self):
        temperatures = any(has_schedule(loss) for loss in keras.tree.flatten(self.distillation_loss))
        self._label_loss_tracker = TermMean(name="label_loss") if self._has_label_term else None
        self._distillation_loss_tracker = TermMean(name="distillation_loss") if self._has_distillation_term else None
        self._feature_loss_tracker = None if self.feature_matching is None else TermMean(name="feature_loss")
        self._label_weight_tracker = TermMean(name="label_weight") if callable(self.label_weight) else None
        self._temperature_tracker = TermMean(name="temperature") if temperatures else None
        trained_loss = self.distillation_loss if self._has_distillation_term else None
        over_training = is_over_training(self.label_weight, trained_loss)
        self._progress = make_progress() if over_training else None

    def train_step(self, *args: Any) -> Any:
        # `(data)` on TensorFlow and torch, `(state, data)` on JAX.
        if self._hidden.workers is None:
            return self._train_step(*args)
        (data,) = args
        with self._hidden.workers.step(self, data) as part:
            return self._train_step(part)

    def _train_step(self, *args):
        *state, data = args
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        sample_weight = weights_without_labels(y, sample_weight)
        x, labels, state = self._augmented(x, y, sample_weight, state)
        soft_targets = split_targets(y)[1]
        if labels is None and self._has_label_term:
            raise ValueError(NO_LABELS)
        if not self._needs_teacher:
            y = labels
        elif soft_targets is None:
            soft_targets, features = split_observed(self._teaching.in_step(inputs_of_teacher(x, y), state))
            y = join_targets(labels, soft_targets, teacher_features=features, labeled=is_labeled(y))
        elif self.feature_matching is not None:
            raise ValueError(NO_FEATURES)
        if self._label_weight_tracker is not None or self._temperature_tracker is not None:
            self._hidden.moment = {"step": backend.step_of(self.optimizer, state[0][2] if state else None)}
        if self._progress is not None:
            self._hidden.moment["fraction"], state = advance(self._progress, state, self.non_trainable_variables)
        if self._hidden.workers is not None:
            x, y, sample_weight = self._hidden.workers.join(x, y, sample_weight)
        self._hidden.observes = self._hidden.observer is not None
        try:
            return super().train_step(*state, (x, y, sample_weight))
        finally:
            self._hidden.moment, self._hidden.observes = None, False

    def _augmented(self, x, y, sample_weight, state):
        """Augment the inputs of a step, at random or as the views whose seeds the batch brings.

        Returns:
            `(x, labels, state)`: what teacher and student see, the labels of that (those that no loss uses do not
            change), and JAX's state after it.
        """
        augmentation, (labels, soft_targets) = self.augmentation, split_targets(y)
        view_seeds = y.get("view_seeds") if isinstance(y, dict) else None
        if augmentation is None:
            if view_seeds is not None:
                raise ValueError(
                    "The batch brings soft targets of views, but the Distiller has no `augmentation` to make them."
                )
            return x, labels, state
        variables = self.non_trainable_variables
        if view_seeds is not None:
            with backend.reading(state, variables):
                return augmented_views.views(augmentation, x, view_seeds), labels, state
        if soft_targets is not None and self._has_distillation_term:
            raise ValueError(
                "The batch brings soft targets of the examples as they are, but the Distiller augments them: the "
                "teacher must have seen what the student sees. Store them of views, `SoftTargets.from_teacher(..., "
                "augmentation=..., views=...)`, or let the teacher run at each step, without soft targets."
            )
        of_loss = labels if self._loss_uses_labels else None
        if label_mix.mixes(augmentation):
            label_mix.check_batch(of_loss, sample_weight)
        with backend.reading(state, variables) as scope:
            x, mixed = augmented_views.augment(augmentation, x, of_loss)
        return x, mixed if self._loss_uses_labels else labels, backend.after(state, scope, variables)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> hints.Tensor:
        check_has_examples(x)
        labels, soft_targets = split_targets(y)
        y_pred, features = split_observed(y_pred)
        sample_weight = weights_of_labels(sample_weight)
        if soft_targets is None or not training:
            # Training on labels only, or evaluation: the student's own loss.
            # While Keras builds the model, it also calls this for a batch without labels.
            if self._evaluating and not self._has_label_loss and not self.losses:
                raise ValueError(NO_EVALUATION)
            if not self._has_label_loss or (labels is None and not self._evaluating):
                return self._student_losses()
            if self._has_own_label_loss:
                label_loss = self._label_loss(x, labels, y_pred, own_weights(sample_weight), training)
                loss = add_up([label_loss, self._student_losses()])
            else:
                loss = super().compute_loss(x, labels, y_pred, sample_weight, training)
                label_loss = loss - self._student_losses()
            if training:
                self._track(self._label_loss_tracker, label_loss, x)
            return loss
        labeled, of_labeled, of_unlabeled = is_labeled(y), sample_weight, 0.0
        targets = self._targets(soft_targets, y_pred) if self._has_distillation_term else None
        if labeled is not None:
            # The distillation loss of unlabeled examples counts in full.
            of_labeled, rest = (weights_of_part(part, sample_weight, y_pred) for part in (labeled, 1.0 - labeled))
            of_unlabeled = self._distill(labels, targets, y_pred, rest, labeled)
        label_loss, loss = self._terms(x, labels, targets, y_pred, of_labeled, labeled)
        if self._has_distillation_term:
            self._track(self._distillation_loss_tracker, loss + of_unlabeled, x)
        if self._has_label_term:
            self._track(self._label_loss_tracker, label_loss, x, labeled)
            label_weight = value_at(self.label_weight, self._hidden.moment)
            if self._label_weight_tracker is not None:
                self._label_weight_tracker.update_state(label_weight)
            loss = mix(label_weight, label_loss, loss) if self._has_distillation_term else label_loss
        if features is not None:
            feature_loss = self.feature_matching.compare(y["teacher_features"], features, sample_weight)
            self._track(self._feature_loss_tracker, feature_loss, x)
            loss = add_up([loss, self.feature_matching.weight * feature_loss])
        return add_up([loss, of_unlabeled, self._student_losses()])

    def compute_label_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any, training: bool) -> hints.Tensor:
        """Compute the label loss of a batch: that of `compile`. Override it for a student with its own loss.

        Detectors, for instance, have their own `compute_loss` or `train_step`, which a Distiller does not call. The
        Distiller multiplies the label loss by `label_weight`, and adds the distillation loss, and the student's
        `add_loss` and regularizer terms. So leave these out here. Evaluation and validation use this method, too.
        `compile` needs no `loss` then. Outputs are measured by the metrics of `compile`.

        Args:
            x: the inputs, preprocessed and augmented.
            y: the labels, nested as in the data.
            y_pred: the student's outputs, nested as it returns them.
            sample_weight: the weights of the examples, or `None`. Keras nests those of arrays as the labels. If the
                loss does not use them, do not pass any to `fit`.
            training: whether this is a training step.

        Returns:
            One number, the mean over the batch. Compute it by `keras.ops` or `keras.losses`. (Under `tf.distribute`,
            use objects of `keras.losses`, which are scaled by the number of replicas.)

        Example:

        ```python
        class DetectorDistiller(keras_ban.Distiller):
            def compute_label_loss(self, x, y, y_pred, sample_weight, training):
                return self.student.compute_loss(x, y, y_pred, sample_weight)
        ```
        """
        if self._compile_loss is None:
            raise ValueError("`compile` got no `loss`, so there is no label loss to compute. Pass one.")
        return self._compile_loss(y, y_pred, sample_weight)

    @property
    def _has_own_label_loss(self):
        return has_own_label_loss(type(self))

    @property
    def _has_label_loss(self):
        return self._has_own_label_loss or getattr(self, "loss", None) is not None

    def _label_loss(self, x, y, y_pred, sample_weight, training):
        # `train_on_batch` passes arrays of NumPy on torch.
        x, y, sample_weight = keras.tree.map_structure(backend.as_tensor, (x, y, sample_weight))
        loss = self.compute_label_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training)
        if loss is None or tuple(getattr(loss, "shape", ())) != ():
            received = "None" if loss is None else f"a tensor of shape {tuple(loss.shape)}"
            raise ValueError(
                f"`{type(self).__name__}.compute_label_loss` must return one number, the mean over the batch, "
                f"received: {received}. Use `keras.ops.mean`."
            )
        return loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> dict[str, Any]:
        y_pred, _ = split_observed(y_pred)
        labels = split_targets(y)[0]
        if labels is None and self._measures_labels:
            raise ValueError(NO_LABELS if self._has_label_term else NOTHING_TO_MEASURE)
        with only_labeled(self, is_labeled(y)):
            return super().compute_metrics(x, labels, y_pred, weights_of_labels(sample_weight))

    def _terms(self, x, labels, targets, y_pred, sample_weight, labeled):
        """Return `(label loss, distillation loss)` of the labeled examples: 0.0 for a term of weight 0."""
        if self._has_label_term and self._has_distillation_term and not self._has_own_label_loss:
            together = self._hidden.compare.with_labels(labels, targets, y_pred, sample_weight)
            if together is not None:
                return together
        label_loss = loss = 0.0
        if self._has_distillation_term:
            loss = self._distill(labels, targets, y_pred, sample_weight, labeled)
        if self._has_label_term:
            weights = own_weights(sample_weight) if labeled is None else weights_like_labels(sample_weight, labels)
            label_loss = self._label_loss(x, labels, y_pred, weights, True)
        return label_loss, loss

    def _targets(self, soft_targets, y_pred):
        """Return the soft targets in the order of the flat outputs."""
        if is_top_k(soft_targets):
            soft_targets = expand(soft_targets, y_pred.shape[-1])
        if not self._soft_targets_checked and backend.steps_see_values(self):
            self._hidden.outputs.check_soft_targets(soft_targets, y_pred)
            self._soft_targets_checked = True
        return targets_of(soft_targets, y_pred)

    def _distill(self, labels, targets, y_pred, sample_weight, labeled):
        return self._hidden.compare(labels, targets, y_pred, sample_weight, self._hidden.moment, labeled)

    def _aggregate_additional_loss(self, loss):
        # Keras calls this method for each of `losses`.
        loss = super()._aggregate_additional_loss(loss)
        workers = self._hidden.workers
        return workers.add_up(loss) if workers is not None and workers.in_step else loss

    def _student_losses(self):
        """Return the sum of `add_loss` terms and regularizers, scaled as in Keras."""
        return sum(self._aggregate_additional_loss(loss) for loss in self.losses)

    def _track(self, tracker, loss, x, labeled=None):
        count = ops.shape(leaves_of(x)[0])[0]
        if labeled is not None:
            # The mean over the labeled examples, from that over the batch.
            batch_size, count = ops.cast(count, labeled.dtype), ops.sum(labeled)
            loss = loss * ops.cast(batch_size / ops.maximum(count, 1.0), loss.dtype)
        tracker.update_state(loss * backend.replica_count(), sample_weight=count)


def has_own_label_loss(distiller_class):
    """Return whether a subclass of `Distiller` overrides `compute_label_loss`."""
    return distiller_class.compute_label_loss is not DistillationStep.compute_label_loss
