"""The generations of a sequence: created, trained, measured and stored."""

import functools
import time

import keras

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import bad_batches
from keras_ban._src.data.preprocessing import data_in_steps
from keras_ban._src.data.unlabeled import with_unlabeled
from keras_ban._src.distillation.attachment import attach
from keras_ban._src.distillation.distiller import Distiller
from keras_ban._src.distillation.shuffling import in_order_of_epoch
from keras_ban._src.ensemble.ensemble import average_of
from keras_ban._src.files import model_file
from keras_ban._src.history.history import GenerationRecord
from keras_ban._src.history.plain_data import plain
from keras_ban._src.history.scores import ENSEMBLE, better, in_words, take_answers
from keras_ban._src.runs import callback_state
from keras_ban._src.runs.epochs import KeepEpochs
from keras_ban._src.scoring.scorer import of_validation
from keras_ban._src.sequence import initial_weights, soft_teachers, stretched_schedule
from keras_ban._src.sequence.bench import Bench
from keras_ban._src.sequence.clones import copy_values, reborn
from keras_ban._src.sequence.output_checks import gives_logits, meaning_of
from keras_ban._src.sequence.per_generation import compared_with, taught_by
from keras_ban._src.sequence.plain_fit import check_finite, fit
from keras_ban._src.sequence.progress import Progress
from keras_ban._src.sequence.recipes import StopOnNonFiniteLoss, keep_students
from keras_ban._src.sequence.shared_layers import share_layers
from keras_ban._src.sequence.soft_target_choice import soft_targets_for_training
from keras_ban._src.sequence.starts import wrapped
from keras_ban._src.targets import augmented_views


class Generations:
    """Trains the generations of one `fit` of a `BornAgainSequence`, and the student distilled from their ensemble.

    A generation depends only on its own seed and on the weights of its teachers. So it comes out the same when it is
    trained again in another process. Each is added to the `models` and the `history` of the sequence when it is
    finished.

    Args:
        training: the `Training`.
        scorer: the `Scorer`.
    """

    def __init__(self, training, scorer):
        self._training = training
        self._scorer = scorer
        self._sequence, self._run = training.sequence, training.run
        self._models, self._history = training.sequence.models, training.sequence.history
        self._compile_arguments = training.compile_arguments
        self._progress = Progress(training)
        self._bench = None
        self._keeper = None  # The `KeepEpochs` of the current generation.

    def train(self):
        """Train or load all generations, up to the end of `patience`, and the student distilled from the ensemble."""
        history, patience = self._history, self._training.patience
        best, waited = None, 0
        if self._run is not None:
            history.directory = self._run.path
        for _ in range(self._sequence.generations + 1):
            self._add()
            if patience is not None:
                value = history.records[-1].metrics[history.monitor]
                is_better = best is None or better(history.mode, value, best)
                best, waited = (value, 0) if is_better else (best, waited + 1)
                if waited >= patience:
                    break
        if self._sequence.distill_ensemble:
            self._add(distilled=True)

    def finish(self):
        """Score the ensemble. The run ends with its scores, and with those of the controls."""
        history = self._history
        if self._run is not None and self._run.finished:
            stored = self._run.history()
            history.ensemble, history.ensemble_metrics = stored.ensemble, stored.ensemble_metrics
            history.notes = stored.notes
            return
        history.ensemble, metrics = self._scorer.score_ensemble(self._models[: len(history.members)])
        history.ensemble_metrics, history.notes = of_validation(metrics), self._scorer.notes
        if self._run is not None:
            self._run.finish(history)

    def _add(self, distilled=False):
        """Load a generation from the run directory, or train it and put it there."""
        sequence, training, number, start = self._sequence, self._training, len(self._models), time.perf_counter()
        place = training.last if distilled else number
        record = GenerationRecord(number, distilled=distilled)
        by = taught_by(sequence.teach_from, record)
        loaded = number < len(self._finished)
        if training.options["verbose"] != 0 and (loaded or number > 0 or training.teacher is None):
            title = "The ensemble's student" if distilled else f"Generation {number} of {sequence.generations}"
            alone = by is None or training.label_weight(place) == 1
            about = "on labels alone" if alone else f"taught by {in_words(by, number)}"
            about += f", {training.epochs(place)} epochs" if isinstance(training.options["epochs"], list) else ""
            print(f"{title}, {f'already in {sequence.directory}' if loaded else about}", flush=True)
        if loaded:
            record = self._finished[number]
            model = self._load(record, place)
        else:
            model = self._make(record, place, by)
            if self._run is not None:
                self._commit(record, model)
                if not sequence.keep_soft_targets:
                    self._run.remove_soft_targets()
        self._models.append(model)
        self._history.records.append(record)
        self._progress.end(self._history, place, None if loaded else time.perf_counter() - start)

    def _commit(self, record, model):
        self._run.commit(record, functools.partial(model_file.save, model))
        self._keeper = None

    def kept(self):
        """A sentence about what the run directory holds."""
        count = len(self._run.entries)
        whole = ("no finished generation", "generation 0")[count] if count < 2 else f"generations 0 to {count - 1}"
        controls = len(self._run.controls)
        whole += f" and {controls} control{'s' * (controls > 1)}" if controls else ""
        epochs = 0 if self._keeper is None else self._keeper.epochs_kept
        title = f"{whole}, and the next one up to the end of epoch {epochs}" if epochs else whole
        return f"{self._run.path} keeps {title}"

    @functools.cached_property
    def _finished(self):
        """The records of the generations that the run directory held at the start."""
        return [] if self._run is None else self._run.history().records

    def _load(self, record, place):
        if record.seed is None:
            model = self._training.teacher
            measured = wrapped(self._compile_arguments, model)
        else:
            classes = model_file.classes_of(self._training.starts.get(place, self._training.example))
            model = measured = model_file.load(self._run.model_file(record.generation), classes)
            self._compile_arguments.compile(model)
        if not self._run.finished:
            # The next generation is compared with it.
            take_answers(record.scores, self._score(measured, record))
        return model

    def _make(self, record, place, by):
        """Train a generation, or take the given teacher. Fill in its record, and return its model."""
        given = self._training.teacher
        score = functools.partial(self._score, record=record)
        if record.generation == 0 and given is not None:
            measured = wrapped(self._compile_arguments, given)
            self._measure(measured, measured, record, score)
            return given
        model, trained = self._train(record, place, self._teacher(record, place, by))
        self._measure(model, trained, record, score)
        if trained is model:
            self._compile_arguments.compile(model)
        return model

    def _score(self, model, record):
        by = compared_with(self._sequence, record)
        return self._scorer.score(model, by, list(self._models), record.distilled)

    def _teacher(self, record, place, by):
        """Return the model that teaches a generation, or `None`."""
        if by is None:
            return None
        models, training = self._models, self._training
        meaning = meaning_of(self._sequence, self._compile_arguments, models[-1])
        if self._sequence.soften_teachers and training.label_weight(place) != 1:
            teachers = models if by == ENSEMBLE else models[-1:]
            teacher = soft_teachers.softened(training, teachers, meaning, training.seed(place))
            record.teacher_temperature = teacher.temperature
            if training.options["verbose"] != 0:
                print(f"Its teacher is softened by the temperature {teacher.temperature:.3g}", flush=True)
            return teacher
        return average_of(models, meaning) if by == ENSEMBLE else models[-1]

    def _train(self, record, place, teacher):
        """Train a generation. Return `(model, trained)`: `trained` is the model itself, or its Distiller."""
        sequence, training, models = self._sequence, self._training, self._models
        callbacks = training.make_callbacks(record.generation)
        data, soft_targets, bench = training.data, None, None
        options = {**training.options, "epochs": training.epochs(place)}
        label_weight = training.label_weight(place)
        record.seed = training.seed(place)
        if teacher is not None and training.unlabeled is not None:
            data = with_unlabeled(data, training.unlabeled, options.get("steps_per_epoch"), record.seed)
        if teacher is not None and label_weight != 1:
            # The bench's student has the values of the last generation, and its `predict` is compiled.
            on_bench = self._bench is not None and self._bench.holds is teacher and process_group.count() == 1
            runs = self._bench.student if on_bench else teacher
            path = None if self._run is None else self._run.soft_targets_file(record.generation - 1)
            form = gives_logits(sequence, self._compile_arguments, models[-1])
            soft_targets = soft_targets_for_training(sequence, teacher, runs, data, options, path, form)
        if soft_targets is not None:
            bench = self._bench_for(place)
        keras.utils.set_random_seed(record.seed)
        model = training.starts.pop(place, None)
        if model is None:
            model = initial_weights.new_model(sequence, place)
        if models and sequence.initial_weights == initial_weights.PREVIOUS:
            copy_values(models[-1].weights, model.weights)  # But not the states of random generators.
        if teacher is not None:
            self._share_layers(model)
        if bench is not None:
            bench.put_in(model)
            trained = bench.distiller
        else:
            trained = self._trainable(model, teacher, soft_targets, label_weight)
            trained.compile(**self._compile_arguments_at(place).make())
        self._fit(record.generation, record, model, trained, data, callbacks, options, soft_targets, bench)
        return model, trained

    def train_plain(self, record, callbacks, epochs, compile_arguments, score):
        """Train, measure and store a control as generation 0 is trained. `record` has its seed."""
        keras.utils.set_random_seed(record.seed)
        model = initial_weights.new_model(self._sequence, 0)
        trained = self._trainable(model, None, None, 1)
        trained.compile(**compile_arguments.make())
        options = {**self._training.options, "epochs": epochs}
        self._fit(record.name, record, model, trained, self._training.data, callbacks, options)
        self._measure(model, trained, record, score)
        if self._run is not None:
            self._commit(record, model)

    def _fit(self, key, record, model, trained, data, callbacks, options, soft_targets=None, bench=None):
        """Call `fit` of the model or its Distiller, and fill in the record. `key` names it in the epoch file."""
        augmentation, keeper = self._sequence.augmentation, None
        if augmentation is not None:
            if not augmentation.built:
                augmented_views.build(augmentation, data_in_steps(model, data).first_batch()[0])
            augmented_views.reseed(augmentation, record.seed)
        resumable = all(callback_state.is_known(callback) for callback in callbacks)
        if self._run is not None and model.built and resumable and "steps_per_epoch" not in options:
            keeper = self._keeper = KeepEpochs(self._run.epoch_file, key, callbacks, self._run.identity)
            callbacks = [*callbacks, keeper]
            options = keeper.resumed(options)
        if trained is not model:
            callbacks = keep_students(callbacks, trained.student)
        options = {**options, "callbacks": [*callbacks, StopOnNonFiniteLoss()]}
        data.check_shares(options.get("steps_per_epoch"))
        data, options = attach(data, options, soft_targets)
        data, options = in_order_of_epoch(data, options, record.seed)
        start = time.perf_counter()
        logs = (fit(model, data, options) if trained is model else trained.fit(data, **options)).history
        record.seconds = time.perf_counter() - start
        backend.release_gradients(model)
        if keeper is not None:
            logs, record.seconds = keeper.logs, keeper.seconds()
        if bench is not None:
            bench.take_out(model)
        record.logs = {name: [plain(value) for value in values] for name, values in logs.items()}
        record.epochs = len(logs.get("loss", []))
        try:
            check_finite(model, record, self._training.data)
        except FloatingPointError:
            if keeper is not None:
                keeper.forget()
            raise

    def _trainable(self, model, teacher, soft_targets, label_weight):
        """The object whose `fit` is called: a Distiller, or the model itself."""
        augmentation = self._sequence.augmentation
        if teacher is not None:
            return self._training.distiller(model, None if soft_targets is not None else teacher, label_weight)
        # On torch, Keras's own `fit` does not know of other workers.
        if augmentation is not None or process_group.divides_in_step():
            return Distiller(student=model, label_weight=1, augmentation=augmentation)
        return model

    def _stretch_at(self, place):
        """By how much the schedules of a generation are stretched: they are for the first that is trained."""
        ends = stretched_schedule.ends(self._compile_arguments)
        return self._training.epochs(place) / self._training.epochs(self._training.first) if ends else 1

    def _compile_arguments_at(self, place):
        ratio = self._stretch_at(place)
        return self._compile_arguments if ratio == 1 else stretched_schedule.stretched(self._compile_arguments, ratio)

    def _bench_for(self, place):
        """A `Bench` for a generation; `None` if generations differ in architecture, or the data build them."""
        sequence, label_weight = self._sequence, self._training.label_weight(place)
        if not isinstance(sequence.model, keras.Model) or not sequence.model.built:
            return None
        stretch = self._stretch_at(place)
        if self._bench is None or (self._bench.distiller.label_weight, self._bench.stretch) != (label_weight, stretch):
            student = reborn(sequence.model)
            if not student.built:
                return None
            self._share_layers(student)
            self._bench = Bench(self._training.distiller(student, None, label_weight), stretch)
            self._bench.distiller.compile(**self._compile_arguments_at(place).make())
            # It predicts as the models do, for instance with `run_eagerly`.
            self._bench.student.compile(**self._compile_arguments.make())
        return self._bench

    def _share_layers(self, student):
        # All generations have the shared layers of generation 0.
        if self._sequence.shared_layers is not None:
            share_layers(student, self._models[0], self._sequence.shared_layers)

    def _measure(self, model, trained, record, score):
        if trained is not model:
            # Now, so that it predicts as it does after loading, for instance with `run_eagerly`.
            self._compile_arguments.compile(model)
        if self._scorer.data is None:
            return
        if process_group.count() > 1:
            here = model_file.on_this_worker(model)

            def measure():
                self._compile_arguments.compile(here)
                return self._evaluate(here), score(here)

            record.metrics, record.scores = process_group.alone(measure)
            found = [record.seconds, *record.metrics.values()]  # A list, because a dict may come back in another order.
            measured = process_group.chiefs(keras.tree.flatten(found), "agree on what was measured")
            record.seconds, *values = keras.tree.pack_sequence_as(found, measured.tolist())
            record.metrics = dict(zip(record.metrics, values, strict=True))
            return
        # With a bench, both models are compiled already.
        record.metrics = self._evaluate(trained)
        on_bench = self._bench is not None and trained is self._bench.distiller
        record.scores = score(self._bench.student if on_bench else model)

    def _evaluate(self, model):
        metrics = self._scorer.evaluate(model)
        bad_batches.explain_loss(metrics.get("val_loss"), self._scorer.data)
        return metrics
