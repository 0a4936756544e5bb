"""What a `Distiller` does before training: build its augmentation and its teacher, look at the first batch."""

import warnings

import keras

from keras_ban._src import backend
from keras_ban._src.data.batch import inputs_of_teacher, split_targets
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.labels import check_labels
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.preprocessing import Preprocessing, batch_in_steps, check_repeatable, data_in_steps
from keras_ban._src.data.trial import output_spec
from keras_ban._src.distillation.comparison import Comparison
from keras_ban._src.distillation.loss_targets import uses_labels
from keras_ban._src.distillation.observer import split_observed
from keras_ban._src.distillation.requirements import check_independent, check_own_loss
from keras_ban._src.distillation.teacher import NO_TEACHER
from keras_ban._src.losses.outputs import Outputs
from keras_ban._src.targets import augmented_views, label_mix
from keras_ban._src.targets.top_k_rows import is_top_k


class Preparation:
    """The methods of a `Distiller` that make it ready for training steps."""

    @property
    def _loss_uses_labels(self):
        losses = keras.tree.flatten(self.distillation_loss) if self._has_distillation_term else []
        return self._has_label_term or any(uses_labels(loss) for loss in losses)

    def _as_in_steps(self, data, soft_targets=None, steps=None):
        """Training data as the steps take them: preprocessed, if student or teacher has a preprocessor.

        `soft_targets` are those of the data, or `None`.
        """
        stored = soft_targets is not None or data.brings_soft_targets
        teacher = self.teacher if self._needs_teacher and not stored else None
        if self.augmentation is not None and Preprocessing(self.student, teacher).differ:
            raise ValueError(
                f"The student {self.student.name!r} and the teacher {teacher.name!r} preprocess the data differently, "
                "so that `augmentation` could not show them the same. Leave it out, or give both one preprocessor."
            )
        seen = data_in_steps(self, data, teacher, in_order=False, again=True, steps=steps)
        if stored and self._needs_teacher:
            check_repeatable(self.student, data)
        return seen

    def _resolve_losses(self, stored=None, again=True):
        """Find what student and teacher give, and so the loss of each output. Unless `again`, only if it may differ.

        `stored` is whether the soft targets are stored logits (`True`) or probabilities; `None` if they are not stored.
        """
        hidden = self._hidden
        if not self._has_distillation_term or not (again or hidden.outputs.stored != stored):
            return
        models = (self.student, self.teacher)
        outputs = Outputs(hidden.distillation_loss, hidden.label_loss, *models, self._has_label_term, stored)
        if not again and hidden.outputs.form != outputs.form:
            self.train_function = None  # A compiled step has the old form.
        hidden.outputs = outputs
        hidden.compare = Comparison(outputs, hidden.loss_weights, self._temperature_tracker)

    def _check_outputs(self):
        """Raise `ValueError` if losses and last layers contradict each other."""
        if self._has_distillation_term:
            self._hidden.outputs.check()

    def _prepare_augmentation(self, data):
        x, y, sample_weight = data.first_batch()
        if label_mix.mixes(self.augmentation):
            label_mix.check_batch(split_targets(y)[0] if self._loss_uses_labels else None, sample_weight)
        error = augmented_views.build(self.augmentation, x)
        may_compile = self._jit_wanted == "auto" and not self.run_eagerly
        if may_compile and error is not None:
            warnings.warn(
                f"JAX cannot compile `augmentation` ({type(error).__name__}): training runs uncompiled, which is slow. "
                "Keras's `RandomCrop` is such a layer; `RandomTranslation` does the same to padded images.",
                stacklevel=3,
            )
        elif may_compile and backend.COMPILES_IMAGE_LAYERS:
            self._jit_compile = augmented_views.compiles(self, self.augmentation)
        self._augmentation_is_ready = True

    def _prepare_batch(self, x, y, sample_weight):
        """Get ready for a step on a batch, and return the batch as the step takes it."""
        self._check_outputs()
        trains_alone = self.loss is None and not (self._needs_teacher or self._has_own_label_loss)
        if self._must_look() or not self._augmentation_is_ready or trains_alone:
            data = self._as_in_steps(as_data(x, y, models=(self.student, self.teacher)))
            if trains_alone:
                check_own_loss(self.student, data)
            if not self._augmentation_is_ready:
                self._prepare_augmentation(data)
            if self._needs_teacher:
                self._look_at(data)
        stored = split_targets(y)[1] is not None
        if self._needs_teacher:
            self._prepare_teacher(stored)
        return batch_in_steps(self, (x, y, sample_weight), self.teacher if self._needs_teacher and not stored else None)

    def _check_teacher(self):
        """Raise `ValueError` if training would change the teacher, or it has lost its weights.

        Both may happen at any time: a shared layer is thawed, or a teacher's own `predict` is interrupted.
        """
        if self.teacher is not None:
            backend.check_values(self.teacher)
            check_independent(self.student, self.teacher)

    def _must_look(self):
        """Whether the teacher is not built, or its outputs were not compared with the loss."""
        unseen = self._has_distillation_term and not self._soft_targets_checked
        return unseen or not getattr(self.teacher, "built", True)

    def _look_at(self, data):
        """Build the teacher, and compare its outputs on the first batch, or soft targets, with the loss."""
        if self.teacher is None and data.soft_targets is None and not data.yields_batches:
            raise ValueError(NO_TEACHER)
        if self._must_look():
            self._soft_targets_checked |= self._check_first_batch(data)

    def _check_first_batch(self, data):
        """Return whether soft targets were checked: those of the first batch, or what the teacher gives for it."""
        student, teacher = self.student, self.teacher
        must_build = data.soft_targets is None and teacher is not None and not teacher.built
        if backend.steps_see_values(self) and not must_build:
            return False  # The first step checks them at no cost.
        x, y, _ = data.first_batch()
        if self._has_label_term:
            # JAX does not see a class that there is not.
            check_labels(split_targets(y)[0], self.loss, student, "y")
        x, teacher_inputs = keras.tree.map_structure(backend.as_tensor, (x, inputs_of_teacher(x, y)))
        soft_targets = split_targets(y)[1]
        if is_top_k(soft_targets):
            return False  # `SoftTargets` were checked when they were created.
        if soft_targets is None and teacher is not None:
            if must_build:
                teacher(inputs_for(teacher, teacher_inputs))
            soft_targets, _ = split_observed(self._teaching.look(teacher_inputs, compiled=self.jit_compile))
        if soft_targets is None:
            return False
        nested = keras.tree.is_nested(soft_targets) and student.built
        outputs = output_spec(student, inputs_for(student, x)) if nested else soft_targets
        self._hidden.outputs.check_soft_targets(soft_targets, outputs)
        return True

    def _prepare_teacher(self, has_soft_targets):
        """Make the teacher ready for steps, unless soft targets take its place."""
        if self.teacher is None or has_soft_targets:
            self._teaching.end()
        else:
            self._teaching.prepare(self.student)

    def make_train_function(self, force: bool = False) -> None:
        # Keras calls this when all variables are built, just before the first step.
        before = self.train_function
        super().make_train_function(force)
        if self.train_function is not before:
            # A callback may change the teacher, as an average of the student's weights.
            self.train_function = backend.with_current_constants(self.train_function, self._teaching.constants)
        # `BackupAndRestore` asks. A Distiller that is used again says no until its first step.
        self.built = self.built or self.student.built
        backend.build_optimizer(self)
        if self._hidden.workers is not None:
            self._hidden.workers.synchronize(self)
