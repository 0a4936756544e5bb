"""Train a model, then train it again with its former self as teacher, generation after generation."""

import time
import types

import keras
import numpy as np

from keras_ban import _augmentation, _backend, _checks
from keras_ban._bench import Bench
from keras_ban._fresh import Recipe, StopOnNonFiniteLoss, as_recipe, callback_maker
from keras_ban._outputs import check_known_outputs
from keras_ban._pairing import split_at, take
from keras_ban._scoring import Scorer
from keras_ban.cloning import reborn
from keras_ban.distiller import Distiller
from keras_ban.ensemble import EnsembleModel
from keras_ban.history import BornAgainHistory, GenerationRecord, better
from keras_ban.losses import KnowledgeDistillation
from keras_ban.targets import SoftTargets

# Soft targets that would be larger than this are not kept in memory unless asked for.
_MOST_BYTES = 2**30


class BornAgainSequence:
    """Born-Again Neural Networks (Furlanello et al., 2018): generations of one architecture, each taught by the last.

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
            each generation, of the same outputs; it is called for all generations before the first is trained.
        generations: how many students follow the first teacher.
        distillation_loss: as in `Distiller`. `None`: `KnowledgeDistillation()`.
        label_weight: as in `Distiller`: the share of the label loss in the students' loss, in `[0, 1]`.
        seed: a whole number, or `None` to draw one. `fit` calls `keras.utils.set_random_seed` with a seed derived from
            it at the start of each generation: the same seed gives the same generations, on one backend and machine.
        soft_targets: `"cached"`: each generation's outputs on the training data are computed once (`SoftTargets`), and
            an epoch of the next costs what a plain one costs; the data must come in the same order and form each time.
            `"online"`: the teacher runs at each step. `"auto"`: cached for arrays, and for a `PyDataset` that declares
            itself so by an attribute `fixed = True`, of models with one output whose soft targets take at most 1 GiB;
            else online.
        augmentation: as in `Distiller`: a layer that is applied inside each training step, and whose outputs teacher
            and student both see. Generation 0 is augmented too. Soft targets are then computed online, unless there are
            `views`. Its random generators start anew in each generation.
        views: compute soft targets for so many views of each example, once a generation, and train epoch `e` on view
            `e mod views` (see `SoftTargets`); generation 0 is augmented at random in each step. For arrays, and for a
            `PyDataset` whose order is fixed.

    Attributes:
        models: the trained models, generation 0 first. Compiled, with a fresh optimizer.
        history: a `BornAgainHistory`; what `fit` returned, or as far as it came.

    Raises:
        TypeError: `model` is neither a `keras.Model` nor callable, or the distillation loss is no loss.
        ValueError: `generations`, `label_weight`, `seed` or `soft_targets` is not as above.
    """

    def __init__(
        self,
        model,
        generations=3,
        distillation_loss=None,
        label_weight=0.5,
        seed=None,
        *,
        soft_targets="auto",
        augmentation=None,
        views=None,
    ):
        if not isinstance(model, keras.Model) and not callable(model):
            raise TypeError(
                "`model` must be a `keras.Model`, or a callable `build(generation)` that returns one, received: "
                f"{model!r} (of type {type(model).__name__})."
            )
        if distillation_loss is None:
            distillation_loss = KnowledgeDistillation()
        _checks.check_distillation_loss(distillation_loss)
        self.model = model
        self.generations = _checks.check_count("generations", generations)
        self.distillation_loss = distillation_loss
        self.label_weight = _checks.check_label_weight(label_weight)
        self.seed = _checks.check_seed(seed)
        if soft_targets not in ("auto", "cached", "online"):
            raise ValueError(f"`soft_targets` must be 'auto', 'cached' or 'online', received: {soft_targets!r}.")
        self.soft_targets = soft_targets
        self.augmentation = augmentation
        self.views = self._check_views(views)
        self.models = []
        self.history = BornAgainHistory()
        self._compile_arguments = None
        self._bench = None

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
        arguments = {
            "optimizer": as_recipe("optimizer", keras.optimizers.get(optimizer)),
            "loss": loss,
            "loss_weights": loss_weights,
            "metrics": keras.tree.map_structure(lambda metric: as_recipe("metrics", metric), metrics),
            "weighted_metrics": keras.tree.map_structure(lambda m: as_recipe("weighted_metrics", m), weighted_metrics),
            **kwargs,
        }
        self._compile_arguments = arguments

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
        **kwargs,
    ):
        """Train the generations; each call starts over. Arguments not named here go to `keras.Model.fit` unchanged.

        If it is interrupted, or a generation fails, those before it stay in `models` and `history`.

        Args:
            x: arrays, or a dataset that can be iterated once a generation (no generator).
            y: labels, for arrays.
            batch_size: as in `keras.Model.fit`.
            epochs: epochs for each generation.
            verbose: as in `keras.Model.fit`; unless 0, a line announces each generation.
            callbacks: a list of `keras.callbacks.Callback`, deep-copied for each generation; or a callable
                `callbacks(generation)` that returns a list: for callbacks that cannot be copied, whose state is wanted
                afterwards, or that write to a path (a fixed path is written over by each generation).
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

        Returns:
            `BornAgainHistory`.

        Raises:
            ValueError: `compile` was not called, or something above is not as it says. Raised before training.
            FloatingPointError: a generation's loss or weights became NaN or infinite.
        """
        if self._compile_arguments is None:
            raise ValueError("You must call `compile()` before calling `fit()`.")
        _checks.check_count("epochs", epochs)
        mode = _resolve_mode(mode, monitor)
        if patience is not None:
            _checks.check_count("patience", patience)
        for name, data in (("x", x), ("validation_data", validation_data)):
            if isinstance(data, types.GeneratorType):
                raise ValueError(
                    f"`{name}` is a generator, which is used up after one generation. Pass arrays, a "
                    "`keras.utils.PyDataset`, a `tf.data.Dataset` or a torch `DataLoader`, which can be iterated again."
                )
        _checks.check_not_empty(x)
        if self.views is not None and _checks.is_dataset(x) and not isinstance(x, keras.utils.PyDataset):
            raise ValueError(
                "`views` are for arrays or a `keras.utils.PyDataset`, which can be told the epoch's view; received: "
                f"{x!r}."
            )
        if validation_split and validation_data is None:
            (x, y, sample_weight), validation_data = _split_off_validation(x, y, sample_weight, validation_split)
        if patience is not None and validation_data is None:
            raise ValueError(f"`patience` needs {monitor!r}: pass `validation_data` or `validation_split`.")
        make_callbacks = callback_maker(callbacks)
        entropy = np.random.SeedSequence().entropy % 2**32 if self.seed is None else self.seed
        starts = self._start(entropy, teacher)
        if not _checks.is_dataset(x):
            _checks.check_labels(y, self._compile_arguments["loss"], starts[0])
        scorer = Scorer(validation_data, self._scored_loss(), batch_size, kwargs.get("validation_steps"))
        if monitor != "val_loss" and validation_data is not None:
            self._check_monitor(monitor, starts[0], scorer)

        self.models, self.history = [], BornAgainHistory(monitor=monitor, mode=mode)
        self._bench = None
        options = {"batch_size": batch_size, "epochs": epochs, "verbose": verbose, "validation_data": validation_data}
        options |= {"sample_weight": sample_weight, **kwargs}
        best, waited = None, 0
        for generation in range(self.generations + 1):
            record = GenerationRecord(generation)
            if generation == 0 and teacher is not None:
                model = trained = teacher
            else:
                record.seed = _generation_seed(entropy, generation)
                self._announce(generation, verbose)
                model, trained = self._train(starts, record, x, y, make_callbacks(generation), options)
            self._measure(model, trained, record, scorer)
            if model is not teacher:
                # What was done with the optimizer is done: who trains on begins afresh. It is built, because Keras
                # builds the optimizer of a model that it loads, and warns where the file lacks its variables.
                model.compile(**self._fresh_compile_arguments())
                model.optimizer.build(model.trainable_variables)
            self.models.append(model)
            self.history.records.append(record)
            if patience is not None:
                value = record.metrics[monitor]
                best, waited = (value, 0) if best is None or better(mode, value, best) else (best, waited + 1)
                if waited >= patience:
                    break
        self._bench = None
        self.history.ensemble = scorer.score_ensemble()
        return self.history

    @property
    def best_model(self):
        """The generation with the best monitored value (`val_loss`, unless `fit` was told otherwise).

        Raises:
            ValueError: nothing is trained yet, or there was no validation data to choose on.
        """
        self._check_trained()
        return self.models[self.history.best_generation]

    def ensemble(self, last=None, weights=None, average=None):
        """Average the generations (BAN eq. 4).

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
        if last is not None and not 1 <= _checks.check_count("last", last) <= len(self.models):
            raise ValueError(f"`last` must lie between 1 and {len(self.models)}, the models trained, received: {last}.")
        members = self.models if last is None else self.models[-last:]
        loss = self._scored_loss()
        if loss is None:
            ensemble = EnsembleModel(members, weights, average or "outputs")
        else:
            ensemble = EnsembleModel(members, weights, average or "probabilities", loss.from_logits, loss.activation)
        ensemble.compile(**self._fresh_compile_arguments())
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
        scorer = Scorer((x, y), self._scored_loss(), batch_size)
        records = [
            GenerationRecord(**{**vars(record), "scores": scorer.score(model)})
            for record, model in zip(self.history.records, self.models, strict=True)
        ]
        if records[0].scores is None:
            raise ValueError(
                "`evaluate` scores classifiers with one output `(n, classes)` (or one sigmoid) and one label each. Use "
                "`model.evaluate` for each of `models`, and for `ensemble()`."
            )
        history = self.history
        return BornAgainHistory(records, history.monitor, history.mode, data, scorer.score_ensemble())

    def _check_views(self, views):
        if self.augmentation is not None:
            _augmentation.check_augmentation(self.augmentation)
        if views is None:
            if self.augmentation is not None and self.soft_targets == "cached":
                raise ValueError(
                    "Cached soft targets are of the views that the teacher saw: say how many of each example, "
                    "`views=4` for instance, or use `soft_targets='online'`."
                )
            return None
        if self.augmentation is None or self.soft_targets == "online":
            raise ValueError(
                f"`views={views}` are what `augmentation` makes, and what soft targets are cached of. Received "
                f"augmentation={self.augmentation!r}, soft_targets={self.soft_targets!r}."
            )
        return _checks.check_count("views", views)

    def _start(self, entropy, teacher):
        """The models that generations start from, by generation, as far as they can be made and checked at once."""
        starts = {}
        first = 0 if teacher is None else 1
        if teacher is not None:
            _checks.check_model("teacher", teacher)
            if not teacher.built:
                raise ValueError("`teacher` has no weights yet: it must be a trained model.")
            starts[0] = teacher
        # A model's copies are all alike: the first stands for the others, which are made when their turn comes.
        last = first if isinstance(self.model, keras.Model) else self.generations
        for generation in range(first, last + 1):
            keras.utils.set_random_seed(_generation_seed(entropy, generation))
            starts[generation] = self._new_model(generation)
        if len({id(model) for model in starts.values()}) < len(starts):
            raise ValueError(
                "`build` gave the same model for two generations, or the teacher itself: the later would train the "
                "weights of the earlier. It must return a new model each time it is called."
            )
        for generation in range(1, last + 1):
            self._distiller(starts[generation], starts[generation - 1])
        check_known_outputs(starts[last], starts[last], self.distillation_loss)
        return starts

    def _new_model(self, generation):
        if isinstance(self.model, keras.Model):
            return reborn(self.model)
        model = self.model(generation)
        if not isinstance(model, keras.Model):
            raise TypeError(f"`build({generation})` must return a `keras.Model`, it returned: {model!r}.")
        return model

    def _distiller(self, student, teacher):
        return Distiller(
            student=student,
            teacher=teacher,
            distillation_loss=self.distillation_loss,
            label_weight=self.label_weight,
            augmentation=self.augmentation,
        )

    def _train(self, starts, record, x, y, callbacks, options):
        """Train a generation; return its model, and what it was trained as: itself, or a Distiller."""
        soft_targets = None if record.generation == 0 else self._compute_soft_targets(x, options)
        if soft_targets is not None:
            options = {**options, "soft_targets": soft_targets}
            if self._bench is None and isinstance(self.model, keras.Model) and self.model.built:
                self._bench = Bench(self._distiller(reborn(self.model), None))
                self._bench.distiller.compile(**self._fresh_compile_arguments())
                # So that it predicts the way that the models themselves do, `run_eagerly` for instance.
                self._bench.student.compile(**self._fresh_compile_arguments())
        keras.utils.set_random_seed(record.seed)
        model = starts.pop(record.generation, None)
        if model is None:
            model = self._new_model(record.generation)
        if self._bench is not None:
            self._bench.put_in(model)
            self._bench.reset()
            trained = self._bench.distiller
        else:
            if record.generation > 0:
                trained = self._distiller(model, None if soft_targets is not None else self.models[-1])
            elif self.augmentation is not None:
                trained = Distiller(student=model, label_weight=1, augmentation=self.augmentation)
            else:
                trained = model
            trained.compile(**self._fresh_compile_arguments())
        if self.augmentation is not None:
            self._start_augmentation(x, record.seed)
        begin = time.perf_counter()
        logs = trained.fit(x, y, callbacks=[*callbacks, StopOnNonFiniteLoss()], **options).history
        record.seconds = time.perf_counter() - begin
        if self._bench is not None and trained is self._bench.distiller:
            self._bench.take_out(model)
        record.logs = {name: [float(value) for value in values] for name, values in logs.items()}
        record.epochs = len(logs.get("loss", []))
        self._check_finite(model, record)
        return model, trained

    def _start_augmentation(self, x, seed):
        if not self.augmentation.built:
            _augmentation.build(self.augmentation, _checks.first_examples(x)[1])
        _augmentation.reseed(self.augmentation, seed)

    def _compute_soft_targets(self, x, options):
        """What the last generation says of the training data; `None` where the teacher is to run at each step."""
        if self.soft_targets == "online" or self.label_weight == 1:
            return None
        teacher = self.models[-1]
        if self.soft_targets == "auto" and self.views is None:
            if self.augmentation is not None:
                return None
            if _checks.is_dataset(x):
                fixed = isinstance(x, keras.utils.PyDataset) and getattr(x, "fixed", False)
                if not fixed:
                    return None
            outputs = _outputs_on(teacher, x)
            # A teacher with one output: who has several is heard at each step.
            if keras.tree.is_nested(outputs) or keras.tree.is_nested(self.distillation_loss):
                return None
            count = x.num_batches * outputs.shape[0] if _checks.is_dataset(x) else len(keras.tree.flatten(x)[0])
            if 4 * count * np.prod(outputs.shape[1:], dtype="int64") > _MOST_BYTES:
                return None
        # The bench's student holds the last generation, and its way through `predict` is compiled.
        runs = self._bench.student if self._bench is not None else teacher
        verbose = options["verbose"] in ("auto", 1)
        from_logits = getattr(self.distillation_loss, "from_logits", None)
        return SoftTargets.from_teacher(
            runs,
            x,
            options["batch_size"] or 32,
            verbose=verbose,
            from_logits=from_logits,
            augmentation=self.augmentation,
            views=self.views,
        )

    def _measure(self, model, trained, record, scorer):
        if scorer.data is None:
            return
        if record.seed is None:
            # A teacher that was given: compiled from outside, so that the user's model stays as it is.
            trained = model = EnsembleModel([model], average="outputs")
            model.compile(**self._fresh_compile_arguments())
        # Both are compiled already, where the generation was trained in turn with others.
        record.metrics = scorer.evaluate(trained)
        on_bench = self._bench is not None and trained is self._bench.distiller
        record.scores = scorer.score(self._bench.student if on_bench else model)

    def _check_monitor(self, monitor, start, scorer):
        """Raise, before any training, where the monitor is none of the names that `evaluate` gives."""
        probe = EnsembleModel([start], average="outputs")
        probe.compile(**self._fresh_compile_arguments())
        known = sorted(scorer.evaluate(probe, steps=1))
        if monitor not in known:
            raise ValueError(
                f"`monitor` must be one of {known}, which are measured on the validation data, received: {monitor!r}."
            )

    def _check_finite(self, model, record):
        loss = record.logs.get("loss", [0.0])[-1]
        weights_finite = all(np.isfinite(keras.ops.convert_to_numpy(w.value)).all() for w in model.weights)
        if weights_finite and _checks.is_finite(loss):
            return
        kept = (
            "Nothing was trained before it"
            if record.generation == 0
            else (f"Generations 0 to {record.generation - 1} are kept: see `models`, `history` and `ensemble()`")
        )
        raise FloatingPointError(
            f"Generation {record.generation} ended with loss={loss} after epoch {record.epochs}"
            f"{'' if weights_finite else ', and with weights that are NaN or infinite'}. {kept}. Try a lower learning "
            "rate, `clipnorm` in the optimizer, or look for NaN in the data."
        )

    def _announce(self, generation, verbose):
        if verbose != 0:
            about = "on labels alone" if generation == 0 else f"taught by generation {generation - 1}"
            print(f"Generation {generation} of {self.generations}, {about}", flush=True)

    def _fresh_compile_arguments(self):
        return keras.tree.map_structure(
            lambda value: value.make() if isinstance(value, Recipe) else value, self._compile_arguments
        )

    def _scored_loss(self):
        """The distillation loss, where it says what kind of probabilities the outputs are."""
        loss = self.distillation_loss
        return loss if hasattr(loss, "from_logits") and hasattr(loss, "activation") else None

    def _check_trained(self):
        if not self.models:
            raise ValueError("No generation is trained yet: call `compile()` and `fit()` first.")


def _outputs_on(model, x):
    """The outputs on the first examples, as shapes."""
    first_x = _checks.first_examples(x)[1]
    return model.compute_output_spec(keras.tree.map_structure(_backend.as_tensor, first_x))


def _generation_seed(entropy, generation):
    return int(np.random.SeedSequence([entropy, generation]).generate_state(1)[0])


def _resolve_mode(mode, monitor):
    if mode not in ("auto", "min", "max"):
        raise ValueError(f"`mode` must be 'auto', 'min' or 'max', received: {mode!r}.")
    if mode != "auto":
        return mode
    larger_is_better = ("acc", "auc", "f1", "fbeta", "f_beta", "precision", "recall")
    return "max" if any(word in monitor.lower() for word in larger_is_better) else "min"


def _split_off_validation(x, y, sample_weight, validation_split):
    """As Keras does it: the last part of the arrays, before any shuffling."""
    if _checks.is_dataset(x):
        raise ValueError("`validation_split` is for arrays; pass `validation_data` with a dataset.")
    at = split_at(len(keras.tree.flatten(x)[0]), validation_split)

    def part(which):
        return take((x, y, sample_weight), which)

    x_val, y_val, weight_val = part(slice(at, None))
    return part(slice(0, at)), (x_val, y_val) if weight_val is None else (x_val, y_val, weight_val)
