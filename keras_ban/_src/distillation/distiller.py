"""Train a student on hard labels and on what a teacher says, with one `train_step` for three backends."""

import types
from typing import Any

import keras

from keras_ban._src import backend, checks, hints
from keras_ban._src.backend import process_group
from keras_ban._src.backend.fixed import FixedAttributes
from keras_ban._src.data import fit_arguments, trial
from keras_ban._src.data.any_data import AnyData
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.preprocessing import validation_in_steps, without_unused_texts
from keras_ban._src.data.tf_dataset import error_in_pipeline
from keras_ban._src.data.unlabeled import as_unlabeled
from keras_ban._src.distillation import requirements, training_progress
from keras_ban._src.distillation.attachment import attach, check_stored
from keras_ban._src.distillation.distiller_file import DistillerFile
from keras_ban._src.distillation.feature_matching import FeatureMatching
from keras_ban._src.distillation.loss_targets import NO_LABELS, NOTHING_TO_MEASURE, seed_generators, with_own_seed
from keras_ban._src.distillation.observer import Observed, Observer
from keras_ban._src.distillation.preparation import Preparation
from keras_ban._src.distillation.step import NO_FEATURES, DistillationStep
from keras_ban._src.distillation.student_view import StudentView
from keras_ban._src.distillation.teacher import Teaching
from keras_ban._src.distillation.unlabeled import add_unlabeled, check_losses
from keras_ban._src.distillation.weights_trial import check_weights_act
from keras_ban._src.losses.keras_distillation import check_of_keras_distillation, is_of_keras_distillation
from keras_ban._src.losses.outputs import Outputs, check_distillation_loss
from keras_ban._src.losses.schedules import check_schedule
from keras_ban._src.losses.structure import weights_of_losses
from keras_ban._src.targets.soft_targets import SoftTargets


@keras.saving.register_keras_serializable(package="keras_ban")
class Distiller(FixedAttributes, DistillationStep, Preparation, StudentView, DistillerFile, AnyData, keras.Model):
    """A `keras.Model` that trains a student with the help of a teacher (BAN eq. 3).

    The loss is `label_weight * label loss + (1 - label_weight) * distillation loss`, plus the student's own `add_loss`
    and regularizer terms, which count in full. A term of weight 0 is neither computed nor reported. With
    `label_weight=0` labels are optional, unless the distillation loss or metrics need them. With `label_weight=1` the
    teacher does not run, and training equals the student's own `fit`, bit for bit. A student that trains by `add_loss`
    alone needs no compiled loss, with `label_weight=0` (a teacher teaches it, too) or `label_weight=1`.

    `compile`, `fit`, callbacks, `sample_weight`, `class_weight`, masks, `loss_weights` and mixed precision work as in
    Keras, and apply to the distillation loss as they do to the label loss. `fit` reports `loss`, `label_loss`,
    `distillation_loss` and the metrics. Validation reports the student on the labels, as the student's own `evaluate`
    would. `evaluate`, `predict`, `summary`, `count_params`, `get_layer` and `export` are about the student.
    `distiller.student` is the model itself, which can be saved and loaded without keras_ban.

    The teacher runs in inference mode and without gradients, on the batch that the student sees. Nothing in it changes.
    It does not run if a batch's `y` is `{"labels": ..., "soft_targets": ...}`, which brings the teacher's outputs (with
    `label_weight=0`, `{"soft_targets": ...}`). A `.keras` file holds the teacher, so that training can continue from
    it. Weight files and weight-only checkpoints hold the student, the optimizer, the state of random losses, and the
    weights of projections and of an augmentation.

    `label_weight` and the temperature of a distillation loss may be schedules: a
    `keras.optimizers.schedules.LearningRateSchedule`, or a function of `keras.ops` from the training step (the
    optimizer's `iterations`, an int32 tensor) to a number, or a `keras_ban.OverTraining`, a function of the fraction of
    the training that is done. Their means over an epoch are reported as `label_weight` and `temperature`.

    `docs/data.md` lists the kinds of data, `docs/keras_hub.md` describes models with a preprocessor, and
    `docs/several_processes.md` training in several processes.

    Example:

    ```python
    distiller = keras_ban.Distiller(student=student, teacher=teacher, label_weight=0.5)
    distiller.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    distiller.fit(x, y, epochs=10, validation_data=(x_val, y_val))
    distiller.student.save("student.keras")
    ```

    Args:
        student: the `keras.Model` to train. It may be unbuilt.
        teacher: a trained `keras.Model` with the same outputs, for instance an `EnsembleModel`. `None` if every batch
            has `"soft_targets"`. A dict of outputs may hold more than the student's.
        distillation_loss: a `keras.losses.Loss`, called as `loss(y_true, y_pred, sample_weight)`, where `y_true` is
            `{"labels": ..., "soft_targets": ...}`, without `"labels"` if there are none. Losses of `keras.losses` get
            the soft targets alone. A loss with a `keras.random.SeedGenerator` as `seed_generator` is copied, and the
            generator of the copy is part of the state. For several outputs: one loss for all, or a list or dict of
            losses, with `None` for an output without distillation. A `keras.distillation.DistillationLoss` works as in
            Keras's own Distiller: it gives one number per batch, so weights and masks are refused, and one for several
            outputs gets all of them. `None`: chosen when `compile` knows the label loss, for each output by what it
            means (see `docs/outputs.md`): `KnowledgeDistillation()` for a softmax, `KnowledgeDistillation(
            activation="sigmoid")` for sigmoids, `keras.losses.MeanSquaredError()` for a regression.
        label_weight: the share of the label loss, in `[0, 1]`; or a schedule.
        feature_matching: a `FeatureMatching`, which names the layers to compare. `weight * feature loss` is added to
            the loss, and reported as `feature_loss`. Student and teacher are built functional or Sequential models, and
            the teacher runs at each step.
        augmentation: a `keras.layers.Layer` or `keras.Model` that takes the inputs and returns inputs of the same
            shapes, at random; or a list of them. It runs once in each training step. Teacher and student see the same
            result (Beyer et al., 2022). Validation and prediction are not augmented. Layers that mix examples, such as
            `keras.layers.MixUp()`, mix the labels with the images (see `docs/augmentation.md`).
        name: as in `keras.Model`.

    Attributes:
        distillation_loss: as passed. After `compile`, what was chosen, and what `from_logits="auto"` became.
        projections: learned projections between features of different widths, by student layer name.

    Call args:
        inputs: the student's inputs.
        training: as in `keras.Model`.

    Raises:
        TypeError: student or teacher is not a `keras.Model`, a distillation loss is not a loss, `feature_matching` is
            not a `FeatureMatching`, or the augmentation is no layer and no list of layers.
        ValueError: `label_weight` is not in `[0, 1]`; student and teacher are the same model, share trainable weights
            or differ in their outputs; layers to match do not exist, are called more than once or differ in more than
            their width; or the augmentation has trainable weights, or changes labels where the loss cannot.

    Warns:
        UserWarning: the loss is `keras.distillation.LogitsDistillation` with its default, which applies no softmax; or
            the student has its own `train_step`, `test_step`, `predict_step`, `compute_loss`, `compute_metrics` or
            `get_metrics_result`, which a Distiller does not call (see `compute_label_loss`). Metrics that its `call`
            updates are reported.
    """

    @checks.names_the_right_call
    def __init__(
        self,
        *,
        student: keras.Model,
        teacher: keras.Model | None = None,
        distillation_loss: hints.Losses = None,
        label_weight: hints.Scheduled = 0.5,
        feature_matching: FeatureMatching | None = None,
        augmentation: hints.Layers | None = None,
        name: str | None = None,
    ) -> None:
        check_distillation_loss(distillation_loss)
        checks.check_model("student", student)
        self._warn_of_own_steps(student)
        if teacher is not None:
            checks.check_model("teacher", teacher)
            requirements.check_independent(student, teacher)
        outputs = Outputs(distillation_loss, None, student, teacher)
        for loss in filter(is_of_keras_distillation, keras.tree.flatten(distillation_loss)):
            check_of_keras_distillation(loss, student, teacher)
        observers: dict[str, Any] = {"student": None, "teacher": None}
        if feature_matching is not None:
            requirements.check_feature_matching(feature_matching, teacher)
            observers["student"] = Observer("student", student, feature_matching.layers.keys())
            observers["teacher"] = Observer("teacher", teacher, feature_matching.layers.values())
        label_weight = check_schedule("label_weight", checks.check_label_weight, label_weight)
        # A weight that changes may be anything in between, at any step.
        has_distillation_term = callable(label_weight) or label_weight < 1
        if has_distillation_term:
            outputs.check_shapes()
        if augmentation is not None:
            trained_loss = distillation_loss if has_distillation_term else None
            augmentation = requirements.check_augmentation(augmentation, teacher, trained_loss)
        # The student casts its inputs itself; its policy decides whether `compile` wants a loss-scaling optimizer.
        super().__init__(name=name, dtype=backend.dtype_policy_of([student]), autocast=False)
        self.student = student
        self.augmentation = augmentation
        # A loss that draws random numbers draws from the model's state, else JAX would draw the same at each step.
        distillation_loss = keras.tree.map_structure(with_own_seed, distillation_loss)
        self._loss_seed_generators = seed_generators(distillation_loss)
        self._teaching = Teaching(teacher, observers["teacher"])
        self.feature_matching: FeatureMatching | None = feature_matching
        self.projections = {}
        if feature_matching is not None:
            features = (observers[role].features for role in ("student", "teacher"))
            self.projections = feature_matching.make_projections(*features)
        self._hidden = _hidden(distillation_loss, outputs, observers["student"])
        self.label_weight: hints.Scheduled = label_weight
        self._soft_targets_checked = self._evaluating = False
        self._jit_wanted = "auto"
        self._augmentation_is_ready = self.augmentation is None
        self._has_label_term = callable(label_weight) or label_weight > 0
        self._has_distillation_term = has_distillation_term
        self._needs_teacher = self._has_distillation_term or feature_matching is not None
        self._make_trackers()
        self.supports_masking = True
        self.supports_jit = teacher is None or all(layer.supports_jit for layer in backend.flat_layers(teacher))
        self.built = student.built
        self._is_complete = True

    @property
    def teacher(self) -> keras.Model | None:
        return self._teaching.teacher

    @property
    def distillation_loss(self) -> Any:
        compare = self._hidden.compare
        return self._hidden.distillation_loss if compare is None else compare.losses

    def call(self, inputs: hints.Data, training: bool | None = None) -> Any:
        workers = self._hidden.workers
        if workers is not None and workers.in_step:
            return workers.gather(self._call_student(workers.own_part(inputs), training))
        return self._call_student(inputs, training)

    def _call_student(self, inputs, training):
        if not self._hidden.observes:
            return self.student(inputs_for(self.student, inputs), training=training)
        outputs, features = self._hidden.observer(inputs_for(self.student, inputs), training=training)
        named = zip(self.feature_matching.layers, features, strict=True)
        return Observed(outputs, [self.projections[name](x) if name in self.projections else x for name, x in named])

    @hints.passes_on_to(keras.Model.compile)
    def compile(
        self,
        optimizer: hints.Optimizer = "rmsprop",
        loss: hints.Losses = None,
        loss_weights: Any = None,
        metrics: hints.Metrics = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`. `loss` may be `None` with `label_weight=0`, `add_loss` or `compute_label_loss`.

        With `label_weight=0` a loss is not trained. Evaluation and validation need it.

        Raises:
            ValueError: `loss` is `None` though labels have a weight, layers were thawed that the teacher shares, or no
                `distillation_loss` can be chosen.
        """
        checks.check_keywords("compile", kwargs, keras.Model.compile)
        checks.check_loss_names(loss)
        if not self._has_own_label_loss:
            requirements.check_label_loss(loss, self.label_weight, self.augmentation)
            requirements.check_loss_weights(loss_weights, loss, self.student)
        self._check_teacher()
        super().compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights, metrics=metrics, **kwargs)
        if loss is None:
            self.loss = self._compile_loss = None  # Keras keeps those of an earlier `compile`.
        self._has_label_term = self.label_weight != 0 and self._has_label_loss
        self._hidden.label_loss, self._hidden.loss_weights = loss, weights_of_losses(loss_weights, loss)
        self._resolve_losses()
        self._measures_labels = bool(metrics) or bool(kwargs.get("weighted_metrics"))
        self._jit_wanted = kwargs.get("jit_compile", "auto")
        self._augmentation_is_ready = self.augmentation is None

    @hints.passes_on_to(keras.Model.fit)
    def fit(
        self,
        x: hints.Data = None,
        y: hints.Data = None,
        *args: Any,
        soft_targets: SoftTargets | None = None,
        unlabeled: hints.Data = None,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """As `keras.Model.fit`, with optional soft targets that were computed before, and unlabeled inputs.

        If Ctrl-C or an error ends it, the student has the weights of the last finished step, and can be trained on.

        Args:
            x, y: data of any kind, see `docs/data.md`. These and all arguments not named here are as in
                `keras.Model.fit`.
            soft_targets: `SoftTargets` of `x`, in the order of `x`. The teacher does not run, and a step costs as much
                as a plain one. With arrays, `shuffle`, `validation_split`, `sample_weight` and `class_weight` work.
                A dataset is paired with them (`SoftTargets.pair`); it yields sample weights in place of `class_weight`.
            unlabeled: inputs without labels, like those of `x` (Noisy Student, Xie et al., 2020): arrays or a dataset.
                They count by their distillation loss, in full; metrics see the labeled examples. See
                `docs/unlabeled.md`. `soft_targets` are then of the rows of `x`, followed by those of `unlabeled`.

        Raises:
            TypeError: `soft_targets` is not `SoftTargets`, or `x` is not data.
            ValueError: `compile` was not called; the parts of the data differ in length, are not numbers, or do not
                fit the models or the loss; labels for a Keras loss, weights or soft targets hold NaN (inputs are not
                searched); the outputs of teacher and student do not fit; there is no teacher although one is needed;
                the soft targets belong to other data, another teacher or another kind of loss; or losses and last
                layers contradict each other (see `docs/outputs.md`).
            RuntimeError: a process that read a `PyDataset(use_multiprocessing=True)` has died (Keras 3.15 itself waits
                forever); or another worker was lost.

        Warns:
            UserWarning: once, if nothing tells what outputs mean, and it is assumed; or if the teacher's outputs on the
                first batch look like probabilities and the distillation loss takes logits.
        """
        self._assert_compile_called("fit")
        self._check_teacher()
        arguments = fit_arguments.bound(self, (x, y, *args), kwargs)
        models = (self.student, self.teacher)
        data, options = fit_arguments.read(arguments, models)
        if unlabeled is not None:
            check_losses(
                self.distillation_loss, self.loss, self.label_weight, self.augmentation, self._has_own_label_loss
            )
            labeled, unlabeled = data, as_unlabeled(unlabeled, data, options.get("class_weight"), models)
            data, options = add_unlabeled(data, options, unlabeled, soft_targets is not None, self._has_label_term)
        if self._progress is not None:
            training_progress.check_length(data, options)
        steps = options.get("steps_per_epoch")
        if not self._augmentation_is_ready:
            self._prepare_augmentation(self._as_in_steps(data, soft_targets, steps))
        if soft_targets is not None:
            check_stored(self, soft_targets, data)
        self._resolve_losses(None if soft_targets is None else soft_targets.from_logits, again=False)
        if self.feature_matching is not None and (soft_targets is not None or data.brings_soft_targets):
            raise ValueError(NO_FEATURES)
        fit_arguments.check_soft_target_values(data.soft_targets)
        data, options = attach(without_unused_texts(data, models), options, soft_targets)
        data = self._as_in_steps(data, soft_targets, steps)
        self._check_labels(data)
        if not self._has_label_term:
            data = data.without_labels()
        self._check_outputs()
        validation_data = validation_in_steps(options, self)
        options = {**options, "validation_data": validation_data}
        if self.built and validation_data is not None and not validation_data.yields_batches:
            batch = None if data.yields_batches else (data.x, data.labels, data.sample_weight)
            trial.check_validation(self, validation_data, batch, False, not self._has_own_label_loss)
        try:
            if self._needs_teacher:
                self._look_at(data)
                self._prepare_teacher(data.soft_targets is not None)
            elif not self._has_label_loss:
                requirements.check_own_loss(self.student, data)
            if validation_data is not None and not self._has_label_loss:
                requirements.check_validation_loss(self.student, validation_data)
            if unlabeled is not None:
                check_weights_act(self, self._as_in_steps(labeled))
            return self._train(data, options)
        except Exception as error:
            of_pipeline = error_in_pipeline(error)
            if of_pipeline is not None:
                raise of_pipeline from error
            trial.explain(self, data, validation_data)
            raise

    def _warn_of_own_steps(self, student):
        requirements.warn_of_own_steps(student, type(self))

    def _check_labels(self, data):
        """Raise `ValueError` if arrays lack labels that are needed, or hold labels that the loss cannot take."""
        if self._has_label_term:
            if data.lacks_labels:
                raise ValueError(NO_LABELS)
            data.check_labels(self.loss, self.student, by_name=not self._has_own_label_loss)
        elif data.lacks_labels and self._measures_labels:
            raise ValueError(NOTHING_TO_MEASURE)

    def _train(self, data, options):
        try:
            data.check_shares(options.get("steps_per_epoch"))
            with fit_arguments.given_to_keras(data, options) as (data, arguments):
                if self._progress is not None:
                    arguments = fit_arguments.with_callbacks([training_progress.PlanSteps(self._progress)], arguments)
                if process_group.divides_in_step():
                    # Imports torch, which need not be installed.
                    from keras_ban._src.distillation import torch_workers

                    arguments, self._hidden.workers = torch_workers.start(self, data, arguments)
                given = [arguments["x"], arguments.get("validation_data")]
                with process_group.engine_in_force(given), backend.keeping_values(self):
                    return super().fit(**arguments)
        finally:
            self._hidden.workers = None
            self._teaching.end()

    @hints.passes_on_to(keras.Model.train_on_batch)
    def train_on_batch(self, x: Any, y: Any = None, sample_weight: Any = None, *args: Any, **kwargs: Any) -> Any:
        """As `keras.Model.train_on_batch`."""
        if process_group.divides_in_step():
            raise ValueError("`train_on_batch` knows of no other workers, and would train each on its own: use `fit`.")
        if self._progress is not None:
            raise ValueError(training_progress.NO_FIT)
        self._check_teacher()
        return super().train_on_batch(*self._prepare_batch(x, y, sample_weight), *args, **kwargs)


def _hidden(distillation_loss, outputs, observer):
    """The state of a Distiller that Keras must not track."""
    return types.SimpleNamespace(
        distillation_loss=distillation_loss,
        label_loss=None,
        loss_weights=None,
        outputs=outputs,
        compare=None,
        observer=observer,
        observes=False,
        found_by_keras=False,
        moment=None,
        workers=None,
    )
