"""Train a model, then train it again with its former self as teacher, generation after generation."""

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal, Self

import keras

from keras_ban._src import checks, hints
from keras_ban._src.backend import process_group
from keras_ban._src.data import fit_arguments
from keras_ban._src.distillation.feature_matching import FeatureMatching
from keras_ban._src.distillation.training_progress import check_length, is_over_training
from keras_ban._src.history.history import BornAgainHistory
from keras_ban._src.losses.outputs import check_distillation_loss
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.runs.interruptions import noting_what_is_kept
from keras_ban._src.scoring.scorer import Scorer
from keras_ban._src.sequence import control_models, manifest, requirements, soft_teachers
from keras_ban._src.sequence.generations import Generations
from keras_ban._src.sequence.initial_weights import CHOICES, DEFAULT
from keras_ban._src.sequence.output_checks import meaning_of
from keras_ban._src.sequence.per_generation import check_epochs, check_label_weights, longest, use_labels
from keras_ban._src.sequence.recipes import CompileArguments, callback_maker
from keras_ban._src.sequence.shared_layers import check_shared
from keras_ban._src.sequence.soup import LastFit
from keras_ban._src.sequence.starts import check_fit_data, create_starts, wrapped
from keras_ban._src.sequence.stored_run import StoredModels, StoredRun
from keras_ban._src.sequence.trained import TrainedGenerations
from keras_ban._src.sequence.training import Training, entropy_of
from keras_ban._src.targets.augmented_views import check_augmentation


class BornAgainSequence(TrainedGenerations):
    """Born-Again Neural Networks (Furlanello et al., 2018): generations of a model, each taught by the one before.

    Generation 0 is trained on the labels, by Keras alone. Each later generation has the same architecture and new
    initial weights. A `Distiller` trains it on the labels and on the outputs of the generation before (BAN eq. 3). Each
    generation has its own seed, derived from `seed` and its number, and a new optimizer, new metrics and new callbacks.
    The average of all generations is usually better than any of them: `ensemble()`.

    Example:

    ```python
    sequence = keras_ban.BornAgainSequence(model, generations=3, seed=0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    sequence.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
    history = sequence.fit(x, y, epochs=10, validation_data=(x_val, y_val))
    print(history.summary())
    sequence.best_model.save("best.keras")
    print(sequence.evaluate(x_test, y_test).summary())
    ```

    Args:
        model: a `keras.Model`, or a callable `build(generation) -> keras.Model`. A model describes the architecture:
            every generation is a `reborn` copy, and the model itself is neither trained nor changed. (Pass a trained
            model to `fit` as `teacher`.) A callable may return another architecture for each generation, with the same
            outputs. It is called for all generations before the first is trained.
        generations: the number of students after the first teacher.
        distillation_loss: as in `Distiller`. `None`: chosen by what the outputs mean (see `docs/outputs.md`).
        label_weight: the share of the label loss in the students' loss, in `[0, 1]`: a number for all; a list with one
            number for each student, generation 1 first; or a callable `label_weight(generation)`, called with 1, 2, ...
            up to `generations`. With weight 1 a student does not use its teacher, with weight 0 it needs no labels. A
            `keras.optimizers.schedules.LearningRateSchedule` is a function of the training step, a
            `keras_ban.OverTraining` of the fraction of the training. Both start again for each student.
        directory: a folder in which `fit` stores each generation when it is finished. A run that was interrupted
            resumes when the same script runs again (see `docs/resume.md`). `None`: nothing is stored.
        seed: a whole number; `None`: a random one, which a `directory` stores. `fit` calls
            `keras.utils.set_random_seed` with a seed derived from it at the start of each generation. The same seed
            gives the same generations, on one backend and machine.
        soft_targets: `"cached"`: the outputs of each generation on the training data are computed once
            (`SoftTargets`), and an epoch costs as much as a plain one. The data must come in the same order and form
            each time. `"online"`: the teacher runs at each step. `"auto"`: cached for arrays, and for a `PyDataset`
            with an attribute `fixed = True`, if the models have one output and the soft targets take at most 1 GiB (or,
            with a `directory`, as much as the inputs); otherwise online.
        augmentation: as in `Distiller`. Generation 0 is augmented too. Soft targets are computed online, unless there
            are `views`. Its random generators start again in each generation.
        views: compute soft targets for this many views of each example, once per generation, and train epoch `e` on
            view `e mod views` (see `docs/soft_targets.md`). Generation 0 is augmented at random in each step.
        feature_matching: as in `Distiller`. Soft targets are computed online.
        top_k: with cached soft targets, the number of logits to store per example or token: for many classes, at
            temperature 1. `"auto"` then considers the reduced size.
        keep_soft_targets: whether the file of soft targets stays when the generation that it taught is finished.
        teach_from: `"last"`: the generation before is the teacher. `"ensemble"`: all generations before are, averaged
            with equal weights as in `ensemble()` (the idea of AdaNet, Cortes et al., 2017).
        distill_ensemble: whether to train one more student, taught by the ensemble of all generations, also after
            `patience` ended them. It has a row in the table and is the last of `models`, but no member of `ensemble()`.
            It has the label weight of the last student, and `build(generations + 1)` makes it.
        shared_layers: layers that every student copies from generation 0 and freezes: a list of names, or a dict
            `{student layer name: generation 0 layer name}`, as in `share_layers` (BAN, table 5).
        controls: what to train on labels alone at the cost of the generations, to see whether being born again pays:
            `"longer"`, one model for the epochs of all generations together; `"independent"`, with generation 0 as many
            models of its length as there are generations, averaged. They have rows in the table and the plot, and a
            `directory` stores them, but `models`, `best_model` and `ensemble()` do not contain them (see
            `docs/controls.md`).
        initial_weights: the weights with which each generation starts (see `docs/fine_tuning.md`). `"fresh"`: new ones.
            `"model"`: those of `model`, or that `build(generation)` returns, to fine-tune a pretrained model. All
            weights are copied, also statistics and frozen layers. `"previous"`: generation 0 as with `"model"`; each
            later one continues from the one before (Huang et al., 2017), the first from a given `teacher`, so all need
            one architecture. Optimizers and random generators are new. Without it, `fit` warns of a trained model.
        soften_teachers: whether each teacher is first made as unsure of its training examples as of validation data,
            as by `EnsembleModel.soften` (see `docs/few_examples.md`). The models themselves do not change.

    Attributes:
        models: the trained models, generation 0 first; compiled, with a new optimizer. Empty before `fit`. After
            `load`, each is read from the directory when it is first used.
        distilled: the last of them, if it is the student distilled from the ensemble; otherwise `None`.
        history: a `BornAgainHistory`, as `fit` returns it.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """

    @checks.names_the_right_call
    def __init__(
        self,
        model: hints.ModelOrBuilder,
        generations: int = 3,
        distillation_loss: hints.Losses = None,
        label_weight: hints.LabelWeights = 0.5,
        directory: hints.Path | None = None,
        seed: int | None = None,
        *,
        soft_targets: Literal["auto", "cached", "online"] = "auto",
        augmentation: hints.Layers | None = None,
        views: int | None = None,
        feature_matching: FeatureMatching | None = None,
        top_k: int | None = None,
        keep_soft_targets: bool = False,
        teach_from: Literal["last", "ensemble"] = "last",
        distill_ensemble: bool = False,
        shared_layers: hints.LayerNames | None = None,
        controls: Sequence[Literal["longer", "independent"]] | None = None,
        initial_weights: Literal["fresh", "model", "previous"] = DEFAULT,
        soften_teachers: bool = False,
    ) -> None:
        if not isinstance(model, StoredModels):
            checks.check_model_or_builder("model", model)
        check_distillation_loss(distillation_loss)
        self._model = model  # `load` passes `StoredModels`.
        self.generations = checks.check_count("generations", generations)
        self.distillation_loss = distillation_loss
        self.label_weight = check_label_weights(label_weight, self.generations)
        self.seed = checks.check_seed(seed)
        self.soft_targets = checks.check_choice("soft_targets", soft_targets, ("auto", "cached", "online"))
        self.augmentation = None if augmentation is None else check_augmentation(augmentation)
        self.views = requirements.check_views(views, self.augmentation, soft_targets)
        self.top_k = requirements.check_top_k(top_k, soft_targets, distillation_loss)
        self.teach_from = checks.check_choice("teach_from", teach_from, ("last", "ensemble"))
        self.distill_ensemble = requirements.check_distill_ensemble(distill_ensemble, self.label_weight)
        self.shared_layers = None if shared_layers is None else check_shared("shared_layers", shared_layers)
        self.controls = control_models.check_controls(controls)
        self.initial_weights = checks.check_choice("initial_weights", initial_weights, CHOICES)
        self.soften_teachers = requirements.check_soften_teachers(soften_teachers, self)
        self.feature_matching = requirements.check_feature_matching(feature_matching, self)
        self.directory = None if directory is None else checks.check_path("directory", directory)
        self.keep_soft_targets = checks.check_flag("keep_soft_targets", keep_soft_targets)
        if keep_soft_targets and directory is None:
            raise ValueError("`keep_soft_targets` is about the files in a `directory`: pass one, or leave it out.")
        self.models: Sequence[keras.Model] = []
        self.history = BornAgainHistory()
        self._compile_arguments = None
        self._last_fit = None  # The `LastFit`, for ensembles and soups.
        self._lacks: list[str] = []  # The arguments that `load` could not restore.

    def __repr__(self) -> str:
        where = "" if self.directory is None else f", directory={str(self.directory)!r}"
        return f"<BornAgainSequence generations={self.generations}, trained models={len(self.models)}{where}>"

    @property
    def model(self) -> hints.ModelOrBuilder:
        if isinstance(self._model, StoredModels):
            self._model = self._model[0]
        return self._model

    @model.setter
    def model(self, model: hints.ModelOrBuilder) -> None:
        self._model = model

    @hints.passes_on_to(keras.Model.compile)
    def compile(
        self,
        optimizer: hints.Optimizer = "rmsprop",
        loss: hints.Losses = None,
        loss_weights: Any = None,
        metrics: hints.Metrics = None,
        weighted_metrics: hints.Metrics = None,
        **kwargs: Any,
    ) -> None:
        """As `keras.Model.compile`, for every generation.

        Each generation gets a new optimizer and new metrics from their current configurations: schedules start again.
        Those of Keras that end are for the first generation, and are stretched if `fit` gets other `epochs` for others.

        Raises:
            ValueError: there is no `loss` although students have a label weight, or an optimizer or metric cannot be
                made from its configuration.
        """
        checks.check_keywords("compile", kwargs, keras.Model.compile)
        if loss is None and use_labels(self.label_weight):
            raise ValueError(
                "`compile` needs a `loss` for the labels: generation 0 and validation are measured by it. Only models "
                "that train by `add_loss` need none, with `label_weight=0`."
            )
        arguments = {"optimizer": optimizer, "loss": loss, "loss_weights": loss_weights, "metrics": metrics}
        self._set_compile_arguments(CompileArguments(**arguments, weighted_metrics=weighted_metrics, **kwargs))

    def _set_compile_arguments(self, arguments):
        self._compile_arguments = arguments
        if isinstance(self.models, StoredModels):
            self.models.compile_with(arguments)

    @hints.passes_on_to(keras.Model.fit)
    def fit(
        self,
        x: hints.Data = None,
        y: hints.Data = None,
        batch_size: int | None = None,
        epochs: hints.Epochs = 1,
        verbose: hints.Verbose = "auto",
        callbacks: hints.Callbacks | None = None,
        validation_split: float = 0.0,
        validation_data: hints.Data = None,
        *,
        sample_weight: hints.Data = None,
        unlabeled: hints.Data = None,
        teacher: keras.Model | None = None,
        monitor: str = "val_loss",
        mode: Literal["auto", "min", "max"] = "auto",
        patience: int | None = None,
        resume: bool = True,
        **kwargs: Any,
    ) -> BornAgainHistory:
        """Train the generations. Each call starts again. Arguments not named here go to `keras.Model.fit` unchanged.

        If `fit` is interrupted or a generation fails, the generations before it stay in `models` and `history`. With a
        `directory`, `fit` resumes the run that the directory holds; `docs/resume.md` has the rules.

        Args:
            x: data of any kind that can be read once per generation (see `docs/data.md`): no generator.
            y: labels, for arrays. They are optional if there is a `teacher`, no student has a label weight, and no
                metrics are compiled.
            batch_size: as in `keras.Model.fit`.
            epochs: the number of epochs of each generation: a number for all; a list with one number for each
                generation that is trained, generation 0 first (with `teacher`, generation 1 first); or a callable
                `epochs(generation)`. The distilled student takes the last number of a list, or
                `epochs(generations + 1)`. Train the teacher until it stops improving before you train more generations:
                `keras.callbacks.EarlyStopping` ends a generation there.
            verbose: as in `keras.Model.fit`. Unless 0, a line announces each generation, and another says at its end
                how it compares with its teacher, and how much time is left.
            callbacks: a list of `keras.callbacks.Callback`, deep-copied for each generation; or a callable
                `callbacks(generation)` that returns a list: for callbacks that cannot be copied, or whose state you
                need afterwards. Copies of `TensorBoard("logs")`, `CSVLogger("log.csv")`, `ModelCheckpoint` and
                `BackupAndRestore` write to a path for each generation: `logs/generation-00`, `log-generation-00.csv`,
                or where `{generation}` stands in the path. A `ModelCheckpoint` keeps the student, not its Distiller,
                which your own callbacks have as `self.model` after generation 0 (`self.model.student`: the student).
            validation_split: as in `keras.Model.fit`: the last part of the arrays is used for validation.
            validation_data: as in `keras.Model.fit`, no generator. Each generation is evaluated on it at its end, and
                compared with its teacher, and so is the ensemble. See `docs/scores.md`.
            sample_weight: as in `keras.Model.fit`.
            unlabeled: inputs without labels, as in `Distiller.fit`, for all students. Generation 0 uses the labels
                alone. See `docs/unlabeled.md`.
            teacher: a trained `keras.Model` to use as generation 0. It is not changed.
            monitor: the metric that chooses the best generation, measured on the validation data at the end of each
                generation: `"val_loss"`, `"val_accuracy"`, ...
            mode: `"min"`, `"max"` or `"auto"`: names of accuracies, AUC, F-scores, precision and recall are maximized,
                others minimized.
            patience: stop after this many generations in a row without a better monitored value; `None`: train all.
            resume: whether to continue a run that the `directory` holds. With `False` the directory must not hold a
                run: none is overwritten.

        Returns:
            `BornAgainHistory`.

        Raises:
            ValueError: `compile` was not called, an argument is not as above, losses and last layers contradict each
                other (see `docs/outputs.md`), or the directory holds another run or other files. Raised before
                training.
            RuntimeError: another process uses the directory; it is named. Or a process that read a
                `PyDataset(use_multiprocessing=True)` has died.
            OSError: the directory is not writable (raised before training), or the disk is full.
            FloatingPointError: a generation's loss or weights became NaN or infinite.

        Warns:
            UserWarning: nothing tells what outputs mean, and it is assumed. The run was started with another version of
                keras_ban, Keras or NumPy, so the generations to come may differ. Or `model` is trained, and its weights
                are not used.
        """
        self._check_can_fit(resume, kwargs)
        mode = requirements.resolve_mode(mode, monitor)
        if patience is not None:
            checks.check_count("patience", patience)
        epochs = check_epochs(epochs, self.generations, 0 if teacher is None else 1, self.distill_ensemble)
        others = {"batch_size": batch_size, "epochs": epochs, "validation_split": validation_split}
        others |= {"validation_data": validation_data, "sample_weight": sample_weight}
        data, unlabeled, options = self._read({"x": x, "y": y, **others, **kwargs}, unlabeled)
        validation_data = options["validation_data"]
        if patience is not None and validation_data is None:
            raise ValueError(f"`patience` needs {monitor!r}: pass `validation_data` or `validation_split`.")
        make_callbacks = callback_maker(callbacks, self.directory)
        requirements.check_lengths(self.controls, teacher, epochs, self._compile_arguments, callbacks)
        with contextlib.nullcontext() if self.directory is None else RunDirectory(self.directory) as run:
            given = {"make_callbacks": make_callbacks, "teacher": teacher, "patience": patience}
            given |= {"run": run, "entropy": entropy_of(run, self.seed, resume)}
            training = Training(self, self._compile_arguments, data, unlabeled, options, **given)
            create_starts(training)
            meaning = meaning_of(self, self._compile_arguments, training.example)
            measuring = data.batch_size, options.get("validation_steps"), self._compile_arguments
            scorer = Scorer(validation_data, meaning, *measuring)
            check_fit_data(training)
            soft_teachers.check(training, meaning)
            if monitor != "val_loss" and validation_data is not None:
                requirements.check_monitor(monitor, wrapped(self._compile_arguments, training.starts[0]), scorer)
            if run is not None:
                manifest.start_run(training, {"monitor": monitor, "mode": mode, "patience": patience})
                if not self.keep_soft_targets:
                    run.remove_soft_targets()
            self.models, self.history = [], BornAgainHistory(monitor=monitor, mode=mode)
            self._last_fit = LastFit.of(training, scorer)
            options["verbose"] = verbose if process_group.is_chief() else 0
            generations = Generations(training, scorer)
            with contextlib.nullcontext() if run is None else noting_what_is_kept(generations.kept):
                generations.train()
                if self.controls:
                    control_models.ControlModels(training, generations, scorer).train()
                generations.finish()
        return self.history

    def _check_can_fit(self, resume, others):
        checks.check_keywords("fit", others, keras.Model.fit, BornAgainSequence.fit)
        checks.check_flag("resume", resume)
        if self._compile_arguments is None:
            raise ValueError("You must call `compile()` before calling `fit()`. A model's own `compile` is not used.")
        if self._lacks:
            raise ValueError(
                f"This sequence was loaded from {self.directory}, whose run was begun with {' and '.join(self._lacks)}"
                ", which no file holds. To go on with the run, make the sequence as it was made, with this "
                "`directory`, and call `fit` on that."
            )
        process_group.check_engine(self.model)

    def _read(self, arguments, unlabeled):
        """The data, the unlabeled data and the other arguments of `fit`, checked; with validation data split off."""
        models = [self.model] if isinstance(self.model, keras.Model) else []
        epochs = arguments["epochs"]
        data, options = fit_arguments.read({**arguments, "epochs": longest(epochs)}, models)
        options["epochs"] = epochs
        requirements.check_data(data, options["validation_data"], self.views)
        requirements.check_weights(self, data, options.get("class_weight"))
        if is_over_training(self.label_weight, self.distillation_loss):
            check_length(data, options)
        if unlabeled is not None:
            unlabeled = requirements.check_unlabeled(
                self, unlabeled, data, self._compile_arguments.loss, options.get("class_weight"), models
            )
        data, options = fit_arguments.split_off(data, options)
        return data, unlabeled, options

    @classmethod
    def load(cls, directory: hints.Path, custom_objects: dict[str, Any] | None = None) -> Self:
        """Restore a sequence from its `directory`: models, history, `best_model`, `ensemble()` and `evaluate`.

        Each model is read when it is first used, and then kept. Until then, the directory must stay where it is. It
        needs neither data nor `compile`, nor the backend of the training. If the run is not finished, the sequence
        has the finished generations, and `fit` with the arguments of the run trains the others. (If the model was a
        callable, or there is an `augmentation`, make a new sequence with this `directory` for that.)

        Args:
            directory: the `directory` of a sequence that was trained.
            custom_objects: your own classes and functions by name, if they are not registered with Keras, as in
                `keras.saving.load_model`.

        Raises:
            FileNotFoundError: the directory holds no run.
            ValueError: no generation is finished; a file is damaged; Keras does not know a class of a model, or the
                distillation loss, label weight or feature matching, or they could not be serialized. They are named.

        Warns:
            UserWarning: a compile argument could not be restored, for instance a lambda. It is named, and nothing is
                compiled until `compile` is called.
        """
        directory = checks.check_path("directory", directory)
        stored = StoredRun(directory, custom_objects)
        sequence = cls(stored.models, **stored.settings, directory=directory, seed=stored.seed)
        sequence.models, sequence.history, sequence._lacks = stored.models, stored.history, stored.lacks
        sequence._last_fit = stored.last_fit
        try:
            arguments = stored.compile_arguments()
        except ValueError as error:
            warnings.warn(f"{error}. Nothing is compiled until you call `compile`.", stacklevel=2)
        else:
            sequence._set_compile_arguments(arguments)
        return sequence
