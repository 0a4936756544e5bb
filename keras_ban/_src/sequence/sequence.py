"""Train a model, then train it again with its former self as teacher, generation after generation."""

import contextlib
import warnings

import keras
import numpy as np

from keras_ban._src import checks
from keras_ban._src.backend import process_group
from keras_ban._src.data import fit_arguments
from keras_ban._src.files import model_file
from keras_ban._src.history.history import BornAgainHistory, GenerationRecord, better
from keras_ban._src.losses import KnowledgeDistillation
from keras_ban._src.runs.directory import RunDirectory
from keras_ban._src.runs.interruptions import told
from keras_ban._src.sequence import manifest, requirements
from keras_ban._src.sequence.clones import check_shared
from keras_ban._src.sequence.generations import Generations, average_of, taught_by
from keras_ban._src.sequence.recipes import CompileArguments, callback_maker, from_config
from keras_ban._src.sequence.scorer import Scorer


class BornAgainSequence:
    """Born-Again Neural Networks (Furlanello et al., 2018): generations of a model, each taught by those before.

    Generation 0 is trained on the labels, by Keras alone. Each later generation has the same architecture and new
    initial weights, and a `Distiller` trains it on the labels and on what the generation before says (BAN eq. 3).
    Each starts from its own seed, derived from `seed` and the generation, with a fresh optimizer, fresh metrics and
    fresh callbacks. All generations averaged are usually better than any of them: `ensemble()`.

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
        model: a `keras.Model`, or a callable `build(generation) -> keras.Model`. A model is taken as a description of
            the architecture: every generation is a `reborn` copy, and the model itself is neither trained nor changed.
            (One that is trained already is passed to `fit` as `teacher`.) A callable may give another architecture for
            each generation, deeper, wider or of another kind, of the same outputs; it is called for all generations
            before the first is trained.
        generations: how many students follow the first teacher.
        distillation_loss: as in `Distiller`. `None`: `KnowledgeDistillation()`.
        label_weight: the share of the label loss in the students' loss, in `[0, 1]`: a number for all; a list of one
            for each student, generation 1 first; or a callable `label_weight(generation)`, which is asked for 1, 2, ...
            up to `generations` at once. A student of weight 1 never hears its teacher, one of weight 0 needs no
            labels. A `keras.optimizers.schedules.LearningRateSchedule` is a function of the training step, and begins
            again in each student's `Distiller`; other functions of the step go to a `Distiller` alone.
        directory: a folder in which `fit` keeps each generation as soon as it is finished, made where there is none;
            `None` keeps none. An interrupted run is continued by running the same script again, and ends in the very
            weights that it would have ended in without the interruption, on the same backend and machine, where the
            data yield the same examples again and layers draw random numbers from a `keras.random.SeedGenerator` of
            their own, as Keras's do. See `fit`, and `BornAgainSequence.load`.
        seed: a whole number, or `None` to draw one, which a `directory` keeps. `fit` calls
            `keras.utils.set_random_seed` with a seed derived from it at the start of each generation: the same seed
            gives the same generations, on one backend and machine.
        soft_targets: `"cached"`: each generation's outputs on the training data are computed once (`SoftTargets`), and
            an epoch of the next costs what a plain one costs; the data must come in the same order and form each time.
            `"online"`: the teacher runs at each step. `"auto"`: cached for arrays, and for a `PyDataset` that declares
            itself so by an attribute `fixed = True`, of models with one output whose soft targets take at most 1 GiB
            (with a `directory`, at most 1 GiB or as much as the inputs); else online. With a `directory` they lie
            there in a file, from which those of more than 1 GiB are read batch by batch (`fit` then shuffles in
            another order than it does in memory).
        augmentation: as in `Distiller`: a layer that is applied inside each training step, and whose outputs teacher
            and student both see. Generation 0 is augmented too. Soft targets are then computed online, unless there are
            `views`. Its random generators start anew in each generation.
        views: compute soft targets for so many views of each example, once a generation, and train epoch `e` on view
            `e mod views` (see `SoftTargets`); generation 0 is augmented at random in each step.
        feature_matching: as in `Distiller`. The teacher then runs at each step: soft targets are computed online.
        top_k: where soft targets are cached, keep so many logits of each example or token (see `SoftTargets`): for many
            classes, at temperature 1. `"auto"` then goes by the size that is left.
        keep_soft_targets: whether that file stays when the generation that it taught is finished.
        teach_from: `"last"`: the generation before is the teacher. `"ensemble"`: all generations before are, averaged
            with equal weights, as `ensemble()` averages them (the idea of AdaNet, Cortes et al., 2017).
        distill_ensemble: whether one more student is trained when the generations are, and the ensemble of all of them
            is its teacher. It has a row in the table and is the last of `models`, and `best_model` may choose it; but
            it is no generation, and no member of `ensemble()`. It has the label weight of the last student, and
            `build(generations + 1)` makes it. It is trained after generations that `patience` ended, too.
        shared_layers: layers that every student has from generation 0, for good: a list of names, or a dict
            `{student's layer name: generation 0's layer name}`, as in `share_layers` (BAN, table 5). Their weights are
            copied just before the student is trained, and frozen; generation 0 itself is trained whole.

    Attributes:
        models: the trained models, generation 0 first. Compiled, with a fresh optimizer.
        distilled: the last of them, if it is the ensemble's student; else `None`.
        history: a `BornAgainHistory`; what `fit` returned, or as far as it came.

    Raises:
        TypeError: `model` is neither a `keras.Model` nor callable, the distillation loss is no loss, `directory` no
            path, or `shared_layers` neither a list of names nor a dict.
        ValueError: another argument is not as above.
    """

    def __init__(
        self,
        model,
        generations=3,
        distillation_loss=None,
        label_weight=0.5,
        directory=None,
        seed=None,
        *,
        soft_targets="auto",
        augmentation=None,
        views=None,
        feature_matching=None,
        top_k=None,
        keep_soft_targets=False,
        teach_from="last",
        distill_ensemble=False,
        shared_layers=None,
    ):
        if not isinstance(model, keras.Model) and not callable(model):
            raise TypeError(
                "`model` must be a `keras.Model`, or a callable `build(generation)` that returns one, received: "
                f"{model!r} (of type {type(model).__name__})."
            )
        if distillation_loss is None:
            distillation_loss = KnowledgeDistillation()
        checks.check_distillation_loss(distillation_loss)
        self.model = model
        self.generations = checks.check_count("generations", generations)
        self.distillation_loss = distillation_loss
        self.label_weight = requirements.check_label_weights(label_weight, self.generations)
        self.seed = checks.check_seed(seed)
        ways = ("auto", "cached", "online")
        self.soft_targets = checks.check_choice("soft_targets", soft_targets, ways)
        self.augmentation = augmentation
        self.views = requirements.check_views(views, augmentation, soft_targets)
        self.top_k = requirements.check_top_k(top_k, soft_targets, distillation_loss)
        self.teach_from = checks.check_choice("teach_from", teach_from, ("last", "ensemble"))
        self.distill_ensemble = requirements.check_distill_ensemble(distill_ensemble, self.label_weight)
        self.shared_layers = None if shared_layers is None else check_shared("shared_layers", shared_layers)
        self.feature_matching = requirements.check_feature_matching(feature_matching, self)
        if directory is not None:
            checks.check_path("directory", directory)
        self.directory = directory
        self.keep_soft_targets = checks.check_flag("keep_soft_targets", keep_soft_targets)
        if keep_soft_targets and directory is None:
            raise ValueError("`keep_soft_targets` is about the files in a `directory`: pass one, or leave it out.")
        self.models = []
        self.history = BornAgainHistory()
        self._compile_arguments = None
        self._to_compile = []  # What `load` gave, until it is known how.
        self._lacks = []  # What `load` could not give.

    def compile(self, optimizer="rmsprop", loss=None, loss_weights=None, metrics=None, weighted_metrics=None, **kwargs):
        """Set how every generation is trained; arguments are those of `keras.Model.compile`.

        Optimizer and metrics are taken as configurations, now, and made anew for each generation: schedules begin
        again, and neither moments nor counts pass from one generation to the next.

        Raises:
            ValueError: there is no `loss`, or optimizer or metrics cannot be made anew from their configuration.
        """
        if loss is None:
            raise ValueError(
                "`compile` needs a `loss` for the labels: validation, and generation 0, are measured by it."
            )
        arguments = {"optimizer": optimizer, "loss": loss, "loss_weights": loss_weights, "metrics": metrics}
        self._set_compile_arguments(CompileArguments(**arguments, weighted_metrics=weighted_metrics, **kwargs))

    def _set_compile_arguments(self, arguments):
        self._compile_arguments = arguments
        while self._to_compile:
            arguments.compile(self._to_compile.pop())

    def fit(
        self,
        x=None,
        y=None,
        batch_size=None,
        epochs=1,
        verbose="auto",
        callbacks=None,
        validation_split=0.0,
        validation_data=None,
        *,
        sample_weight=None,
        teacher=None,
        monitor="val_loss",
        mode="auto",
        patience=None,
        resume=True,
        **kwargs,
    ):
        """Train the generations; each call starts over. Arguments not named here go to `keras.Model.fit` unchanged.

        If it is interrupted, or a generation fails, those before it stay in `models` and `history`, and with a
        `directory` on disk. There each call continues what the directory holds: finished generations are loaded, the
        one that was interrupted goes on after its last finished epoch, or begins again if it has callbacks (which may
        count, and are not kept; Keras's `LearningRateScheduler`, `TerminateOnNaN` and `ProgbarLogger` do not),
        `steps_per_epoch`, or a model that is built by its data. Model, data, seed, backend and arguments must be those
        that the run was begun with (but for `verbose` and callbacks, which are not compared; of a dataset only the form
        of its first batch is); `generations` may be more, without `distill_ensemble`.

        What stops training, Ctrl-C too, carries a note on what the directory keeps. SIGTERM, if nobody else handles
        it and `fit` runs in the main thread, raises `SystemExit` (exit code 143) for as long as `fit` trains.

        Args:
            x: arrays, or a dataset that can be iterated once a generation (no generator).
            y: labels, for arrays. None are needed where a `teacher` is given, no student has a
                label weight, and no metrics are compiled.
            batch_size: as in `keras.Model.fit`.
            epochs: epochs for each generation.
            verbose: as in `keras.Model.fit`; unless 0, a line announces each generation.
            callbacks: a list of `keras.callbacks.Callback`, deep-copied for each generation; or a callable
                `callbacks(generation)` that returns a list: for callbacks that cannot be copied, whose state is wanted
                afterwards, or that write to a path (a fixed path is written over by each generation). With callbacks
                an interrupted generation begins again, unless all count nothing: those of Keras that do not are known,
                others say `stateless = True`.
            validation_split: as in `keras.Model.fit`: the last part of the arrays is kept for validation.
            validation_data: as in `keras.Model.fit`, no generator. Each generation is evaluated on it at its end; of
                classifiers, with arrays `(x_val, y_val)`, the history holds accuracy, calibration and the change
                against the teacher.
            sample_weight: as in `keras.Model.fit`.
            teacher: a trained `keras.Model` to take as generation 0, in place of training one. It is not changed.
            monitor: the metric that chooses the best generation, measured on the validation data at the generation's
                end: `"val_loss"`, `"val_accuracy"`, ...
            mode: `"min"`, `"max"` or `"auto"`, which takes names of accuracies, AUC, F-scores, precision and recall as
                better when larger, and others as better when smaller.
            patience: stop after so many generations in a row without a better monitored value; `None` trains all.
            resume: whether a run that the `directory` holds is continued. With `False` it must hold none: no run is
                ever written over.

        Returns:
            `BornAgainHistory`.

        Raises:
            ValueError: `compile` was not called, or something above is not as it says, or the directory holds another
                run, or other files. Raised before training.
            RuntimeError: another process uses the directory; it is named. Or a process has died that read a
                `PyDataset(use_multiprocessing=True)`.
            OSError: the directory may not be written to (raised before training), or the disk is full; it names what.
            FloatingPointError: a generation's loss or weights became NaN or infinite.

        Warns:
            UserWarning: the directory's run was begun with another version of keras_ban or Keras: the generations to
                come may differ from what that version would have trained.
        """
        if self._compile_arguments is None:
            raise ValueError("You must call `compile()` before calling `fit()`.")
        if self._lacks:
            raise ValueError(
                f"This sequence was loaded from {self.directory}, whose run was begun with {' and '.join(self._lacks)}"
                ", which no file holds. To go on with the run, make the sequence as it was made, with this "
                "`directory`, and call `fit` on that."
            )
        process_group.check_engine(self.model)
        checks.check_flag("resume", resume)
        mode = requirements.resolve_mode(mode, monitor)
        if patience is not None:
            checks.check_count("patience", patience)
        requirements.check_data(x, validation_data, self.views)
        others = {"batch_size": batch_size, "epochs": epochs, "validation_split": validation_split}
        others |= {"validation_data": validation_data, "sample_weight": sample_weight}
        fit_arguments.check_fit_arguments(x, y, {**others, **kwargs})
        batch_size = None if batch_size is None else int(batch_size)
        requirements.check_weights(self, x, sample_weight, kwargs.get("class_weight"))
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = requirements.split_off_validation(
                x, y, sample_weight, validation_split
            )
        if patience is not None and validation_data is None:
            raise ValueError(f"`patience` needs {monitor!r}: pass `validation_data` or `validation_split`.")
        make_callbacks = callback_maker(callbacks)
        scorer = Scorer(validation_data, self.distillation_loss, batch_size, kwargs.get("validation_steps"))
        options = {"batch_size": batch_size, "epochs": epochs, "validation_data": validation_data}
        options |= {"sample_weight": sample_weight, **kwargs}
        verbose = verbose if process_group.is_chief() else 0
        with contextlib.nullcontext() if self.directory is None else RunDirectory(self.directory) as run:
            entropy = self._entropy(run, resume)
            generations = Generations(self, self._compile_arguments, entropy, scorer, run)
            starts = generations.start(teacher)
            process_group.check_whole(starts.values())
            needed = teacher is None or any(each != 0 for each in keras.tree.flatten(self.label_weight))
            requirements.check_labels(x, y, self._compile_arguments.loss, starts[0], needed)
            start = starts[0 if teacher is None else 1]
            start.compile(**self._compile_arguments.make())
            requirements.check_fits(start, teacher, x, y, sample_weight, validation_data)
            if monitor != "val_loss" and validation_data is not None:
                requirements.check_monitor(monitor, generations.wrap(starts[0]), scorer)
            if run is not None:
                arguments = {"x": x, "y": y, **options, "monitor": monitor, "mode": mode, "patience": patience}
                manifest.begin(run, entropy, self, self._compile_arguments, arguments, teacher, starts)
                if not self.keep_soft_targets:
                    run.remove_soft_targets()

            self.models, self.history = [], BornAgainHistory(monitor=monitor, mode=mode)
            options["verbose"] = verbose
            with contextlib.nullcontext() if run is None else told(generations.kept):
                self._train(generations, x, y, make_callbacks, options, patience)
                if run is not None and run.finished:
                    self.history.ensemble = run.history().ensemble
                else:
                    self.history.ensemble = scorer.score_ensemble(len(self.history.members))
                    if run is not None:
                        run.finish(self.history.ensemble)
        return self.history

    def _train(self, generations, x, y, make_callbacks, options, patience):
        """Train or load all generations, or those up to where patience ends, and the ensemble's student."""
        monitor, mode = self.history.monitor, self.history.mode
        best, waited = None, 0
        for _ in range(self.generations + 1):
            self._add(generations, x, y, make_callbacks, options)
            if patience is not None:
                value = self.history.records[-1].metrics[monitor]
                best, waited = (value, 0) if best is None or better(mode, value, best) else (best, waited + 1)
                if waited >= patience:
                    break
        if self.distill_ensemble:
            self._add(generations, x, y, make_callbacks, options, distilled=True)

    def _add(self, generations, x, y, make_callbacks, options, distilled=False):
        record, model = generations.add(self.models, distilled, x, y, make_callbacks, options)
        self.models.append(model)
        self.history.records.append(record)

    @classmethod
    def load(cls, directory, custom_objects=None):
        """A sequence as its `directory` holds it: models, history, `best_model`, `ensemble()` and `evaluate`, at once.

        Neither data nor `compile` are needed, nor the backend that the run was trained on. Of a run that is not
        finished it has the generations that are; `fit`, with what the run was begun with, trains the others (where the
        model was given as a callable, or there is an `augmentation`, make the sequence anew for that).

        Args:
            directory: where a sequence with this `directory` was trained.
            custom_objects: classes and functions of your own, by name, that are not registered with Keras; as in
                `keras.saving.load_model`.

        Raises:
            FileNotFoundError: there is no run.
            ValueError: no generation is finished yet, a file is not what was written, a model is of classes that
                Keras does not know, or the distillation loss, label weight or feature matching is, or could not be
                written down; they are named.

        Warns:
            UserWarning: the loss, say, is a lambda, or a function that Keras does not know: it is named, and nothing is
                compiled until `compile` is called.
        """
        checks.check_path("directory", directory)
        run = RunDirectory(directory).read()
        if not run.entries:
            raise ValueError(f"{directory} holds a run of which no generation is finished yet: continue it by `fit`.")
        begun_with = run.manifest["begun_with"]
        models = [model_file.load(run.model_file(generation), custom_objects) for generation in range(len(run.entries))]
        plain = ("generations", "soft_targets", "top_k", "teach_from", "distill_ensemble", "shared_layers")
        settings = {name: begun_with[name] for name in plain if name in begun_with}
        for name in ("distillation_loss", "label_weight", "feature_matching"):
            try:
                settings[name] = from_config(name, begun_with.get(name), custom_objects)
            except ValueError as error:
                raise ValueError(
                    f"{directory} cannot be loaded as a sequence: {error}. Register your own classes and functions "
                    "with `keras.saving.register_keras_serializable`, or pass them as `custom_objects`. Where that "
                    "does not help, make the sequence as it was made, with this `directory`, and call `fit`, which "
                    "loads what is finished. The models are whole, and need none of it: "
                    f"`keras.saving.load_model('{run.model_file(0)}')`."
                ) from error
        sequence = cls(models[0], **settings, directory=directory, seed=run.manifest["seed"])
        sequence.models, sequence.history, sequence._to_compile = models, run.history(), list(models)
        lacks = {
            "a callable `model`": len(begun_with["model"]) > 1,
            "an `augmentation`": begun_with["augmentation"] is not None,
        }
        sequence._lacks = [name for name, is_so in lacks.items() if is_so]
        try:
            arguments = CompileArguments.from_config(begun_with["compile"], custom_objects)
        except ValueError as error:
            warnings.warn(f"{error}. Nothing is compiled until you call `compile`.", stacklevel=2)
        else:
            sequence._set_compile_arguments(arguments)
        return sequence

    @property
    def best_model(self):
        """The generation with the best monitored value (`val_loss`, unless `fit` was told otherwise).

        Raises:
            ValueError: nothing is trained yet, or there was no validation data to choose on.
        """
        self._check_trained()
        return self.models[self.history.best_generation]

    @property
    def distilled(self):
        """The ensemble's student, the last of `models`, with `distill_ensemble`; `None` where there is none."""
        return self.models[-1] if self.models and self.history.records[-1].distilled else None

    def ensemble(self, last=None, weights=None, average=None):
        """Average the generations (BAN eq. 4); the ensemble's own student, `distilled`, is none of them.

        Args:
            last: how many of the newest generations; `None` takes all.
            weights: a non-negative number for each; `None`: all equal.
            average: as in `EnsembleModel`. `None`: probabilities, of classifiers that are distilled with one of the
                losses of keras_ban; else the outputs as they are.

        Returns:
            A compiled `EnsembleModel`, which holds the models without copying them.

        Raises:
            ValueError: nothing is trained yet, `last` is not between 1 and the number of generations trained, or
                `weights` do not fit.
        """
        self._check_trained()
        members = self.models[: len(self.history.members)]
        if last is not None and not 1 <= checks.check_count("last", last) <= len(members):
            raise ValueError(f"`last` must lie between 1 and {len(members)}, the models trained, received: {last}.")
        ensemble = average_of(members if last is None else members[-last:], self.distillation_loss, weights, average)
        if self._compile_arguments is not None:
            ensemble.compile(**self._compile_arguments.make())
        return ensemble

    def evaluate(self, x, y, batch_size=None, data="test"):
        """Score every generation, and the ensemble of all, on data that was not used to choose anything.

        Args:
            x: arrays.
            y: labels: whole numbers `(n,)` or `(n, 1)`, or one-hot `(n, classes)`, of a classifier.
            batch_size: as in `keras.Model.predict`.
            data: what to call the data in titles.

        Returns:
            `BornAgainHistory` of the same generations, with scores on these data. The best generation in it is the one
            that was chosen on the validation data.

        Raises:
            ValueError: nothing is trained yet, or the models are not classifiers with labels as above.
        """
        self._check_trained()
        scorer = Scorer((x, y), self.distillation_loss, batch_size)
        records = [
            GenerationRecord(**{**vars(record), "scores": scorer.score(model, taught_by(self.teach_from, record))})
            for record, model in zip(self.history.records, self.models, strict=True)
        ]
        if records[0].scores is None:
            raise ValueError(
                "`evaluate` scores classifiers with one output `(n, classes)` (or one sigmoid) and one label each. Use "
                "`model.evaluate` for each of `models`, and for `ensemble()`."
            )
        history = self.history
        ensemble = scorer.score_ensemble(len(history.members))
        return BornAgainHistory(records, history.monitor, history.mode, data, ensemble)

    def _entropy(self, run, resume):
        """From which the generations' seeds are derived."""
        if run is None or run.manifest is None or (not resume and run.holds_nothing):
            drawn = process_group.chiefs(np.random.SeedSequence().entropy % 2**32, "agree on a seed")
            return int(drawn) if self.seed is None else self.seed
        if not resume:
            raise ValueError(
                f"{run.path} holds a run, and `resume=False` begins another, which would have to be written over it: "
                "choose a new directory."
            )
        return run.manifest["seed"] if self.seed is None else self.seed

    def _check_trained(self):
        if not self.models:
            raise ValueError("No generation is trained yet: call `compile()` and `fit()` first.")
