"""What a `Distiller` does before training: build its augmentation and its teacher, look at the first batch."""

import keras

from keras_ban._src import backend
from keras_ban._src.distillation.augmented_step import build_augmentation
from keras_ban._src.distillation.first_batch import check_first_batch
from keras_ban._src.distillation.loss_targets import uses_labels
from keras_ban._src.distillation.requirements import check_independent
from keras_ban._src.distillation.teacher import NO_TEACHER
from keras_ban._src.targets import augmented_views


class Preparation:
    """The methods of a `Distiller` that make it ready for training steps."""

    @property
    def _loss_uses_labels(self):
        losses = keras.tree.flatten(self.distillation_loss) if self._hears_teacher else []
        return self._hears_labels or any(uses_labels(loss) for loss in losses)

    def _prepare_augmentation(self, data):
        if self._augmentation_is_ready:
            return
        may_compile = self._jit_wanted == "auto" and not self.run_eagerly
        can_compile = build_augmentation(self.augmentation, data, may_compile, self._loss_uses_labels)
        if can_compile and may_compile and backend.compiles_image_layers():
            self._jit_compile = augmented_views.compiles(self, self.augmentation)
        self._augmentation_is_ready = True

    def _check_teacher_is_frozen(self):
        """Raise `ValueError` if training would change the teacher. A shared layer may be thawed at any time."""
        if self.teacher is not None:
            check_independent(self.student, self.teacher)

    def _must_look(self):
        """Whether the teacher is not built, or its outputs were not compared with the loss."""
        unseen = self._hears_teacher and not self._soft_targets_checked
        return unseen or not getattr(self.teacher, "built", True)

    def _look_at(self, data):
        """Build the teacher, and compare its outputs on the first batch, or soft targets, with the loss."""
        if self.teacher is None and data.soft_targets is None and not data.yields_batches:
            raise ValueError(NO_TEACHER)
        if self._must_look():
            models = (self.student, self._teaching, self._hidden.outputs)
            looked = check_first_batch(data, *models, in_step=backend.steps_see_values(self))
            self._soft_targets_checked |= looked

    def _prepare_teacher(self, has_soft_targets):
        """Make the teacher ready for steps, unless soft targets take its place."""
        if self.teacher is None or has_soft_targets:
            self._teaching.end()
        else:
            self._teaching.begin(self.student)

    def make_train_function(self, force=False):
        # Keras calls this when all variables are built, just before the first step.
        super().make_train_function(force)
        backend.build_optimizer(self)
        self._hidden.before_training = backend.values_before_training(self)
        if self._hidden.workers is not None:
            self._hidden.workers.begin(self)
