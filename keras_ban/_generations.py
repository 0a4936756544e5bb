"""Make the generations of a sequence, train each, and measure it."""

import time

import keras
import numpy as np

from keras_ban import _augmentation, _backend, _checks, _model_files
from keras_ban._bench import Bench
from keras_ban._epochs import KeepEpochs
from keras_ban._fingerprints import model_fingerprint
from keras_ban._fresh import StopOnNonFiniteLoss
from keras_ban._outputs import check_known_outputs
from keras_ban.cloning import reborn
from keras_ban.distiller import Distiller
from keras_ban.ensemble import EnsembleModel
from keras_ban.targets import SoftTargets

# Soft targets that would be larger than this are not kept in memory unless asked for.
_MOST_BYTES = 2**30


class Generations:
    """What one `fit` of a `BornAgainSequence` trains.

    Each generation starts from a seed of its own, and from nothing that those before it left behind but the last
    model's weights: so that one that is trained again, in another process, comes out the same.

    Args:
        sequence: the `BornAgainSequence`, whose settings count.
        entropy: from which each generation's seed is derived.
        scorer: a `Scorer`.
        run: the `RunDirectory` that generations are loaded from, and soft targets lie in; `None`: all is in memory.
    """

    def __init__(self, sequence, compile_arguments, entropy, scorer, run=None):
        self._sequence = sequence
        self._compile_arguments = compile_arguments
        self._entropy = entropy
        self._scorer = scorer
        self._run = run
        self._starts = {}
        self._bench = None

    def start(self, teacher):
        """The models that generations start from, by generation, as far as they can be made and checked at once."""
        sequence, starts = self._sequence, {}
        first = 0 if teacher is None else 1
        if teacher is not None:
            _checks.check_model("teacher", teacher)
            if not teacher.built:
                raise ValueError("`teacher` has no weights yet: it must be a trained model.")
            starts[0] = teacher
        # A model's copies are all alike: the first stands for the others, which are made when their turn comes.
        last = first if isinstance(sequence.model, keras.Model) else sequence.generations
        for generation in range(first, last + 1):
            keras.utils.set_random_seed(self.seed(generation))
            starts[generation] = self._new_model(generation)
        if len({id(model) for model in starts.values()}) < len(starts):
            raise ValueError(
                "`build` gave the same model for two generations, or the teacher itself: the later would train the "
                "weights of the earlier. It must return a new model each time it is called."
            )
        for generation in range(1, last + 1):
            self._distiller(starts[generation], starts[generation - 1])
        check_known_outputs(starts[last], starts[last], sequence.distillation_loss)
        self._starts = dict(starts)
        return starts

    def seed(self, generation):
        return int(np.random.SeedSequence([self._entropy, generation]).generate_state(1)[0])

    def load(self, record, teacher):
        """A finished generation's model, as the run directory holds it."""
        if record.seed is None:
            model = teacher
            measured = self.wrap(model)
        else:
            like = self._starts.get(record.generation, self._starts[max(self._starts)])
            classes = _model_files.classes_of(like)
            model = measured = _model_files.load(self._run.model_file(record.generation), classes)
            self._compile_arguments.compile(model)
        if not self._run.finished:
            self._scorer.score(measured)  # The next is compared with what it says.
        return model

    def make(self, record, before, teacher, x, y, make_callbacks, options):
        """Train a generation, or take the teacher that was given; fill in its record, and return its model.

        Args:
            record: a `GenerationRecord` that says which.
            before: the model that teaches it; `None` for generation 0.
            teacher: what was given as generation 0, or `None`.
            x, y, options: as `keras.Model.fit` takes them.
            make_callbacks: a function from the generation to a list of callbacks.
        """
        if record.generation == 0 and teacher is not None:
            wrapped = self.wrap(teacher)
            self._measure(wrapped, wrapped, record)
            return teacher
        model, trained = self._train(record, before, x, y, make_callbacks(record.generation), options)
        if trained is not model:
            # Before it is measured, so that it predicts as it will when it is loaded: `run_eagerly`, for instance.
            self._compile_arguments.compile(model)
        self._measure(model, trained, record)
        if trained is model:
            self._compile_arguments.compile(model)
        return model

    def _train(self, record, teacher, x, y, callbacks, options):
        """Train a generation; return its model, and what it was trained as: itself, or a Distiller."""
        sequence = self._sequence
        soft_targets = None if teacher is None else self._compute_soft_targets(record.generation, teacher, x, options)
        if soft_targets is not None:
            options = {**options, "soft_targets": soft_targets}
            if self._bench is None and isinstance(sequence.model, keras.Model) and sequence.model.built:
                self._bench = Bench(self._distiller(reborn(sequence.model), None))
                self._bench.distiller.compile(**self._compile_arguments.make())
                # So that it predicts the way that the models themselves do, `run_eagerly` for instance.
                self._bench.student.compile(**self._compile_arguments.make())
        record.seed = self.seed(record.generation)
        keras.utils.set_random_seed(record.seed)
        model = self._starts.pop(record.generation, None)
        if model is None:
            model = self._new_model(record.generation)
        if self._bench is not None:
            self._bench.put_in(model)
            self._bench.reset()
            trained = self._bench.distiller
        else:
            if record.generation > 0:
                trained = self._distiller(model, None if soft_targets is not None else teacher)
            elif sequence.augmentation is not None:
                trained = Distiller(student=model, label_weight=1, augmentation=sequence.augmentation)
            else:
                trained = model
            trained.compile(**self._compile_arguments.make())
        if sequence.augmentation is not None:
            self._start_augmentation(x, record.seed)
        keeper = None
        if self._run is not None and model.built and not callbacks and "steps_per_epoch" not in options:
            keeper = KeepEpochs(self._run.epoch_file, record.generation)
            callbacks = [keeper]
            if keeper.initial_epoch is not None:
                options = {**options, "initial_epoch": keeper.initial_epoch}
                if options["verbose"] != 0:
                    print(f"It goes on after epoch {keeper.initial_epoch} of {options['epochs']}", flush=True)
        begin = time.perf_counter()
        logs = trained.fit(x, y, callbacks=[*callbacks, StopOnNonFiniteLoss()], **options).history
        record.seconds = time.perf_counter() - begin
        if keeper is not None:
            logs, record.seconds = keeper.logs, keeper.seconds()
        if self._bench is not None and trained is self._bench.distiller:
            self._bench.take_out(model)
        record.logs = {name: [float(value) for value in values] for name, values in logs.items()}
        record.epochs = len(logs.get("loss", []))
        try:
            _check_finite(model, record)
        except FloatingPointError:
            if keeper is not None:
                keeper.forget()
            raise
        return model, trained

    def _measure(self, model, trained, record):
        if self._scorer.data is None:
            return
        # Both are compiled already, where the generation was trained in turn with others.
        record.metrics = self._scorer.evaluate(trained)
        on_bench = self._bench is not None and trained is self._bench.distiller
        record.scores = self._scorer.score(self._bench.student if on_bench else model)

    def wrap(self, model):
        """The model compiled from outside, so that it stays as it is."""
        wrapped = EnsembleModel([model], average="outputs")
        wrapped.compile(**self._compile_arguments.make())
        return wrapped

    def _new_model(self, generation):
        if isinstance(self._sequence.model, keras.Model):
            return reborn(self._sequence.model)
        model = self._sequence.model(generation)
        if not isinstance(model, keras.Model):
            raise TypeError(f"`build({generation})` must return a `keras.Model`, it returned: {model!r}.")
        return model

    def _distiller(self, student, teacher):
        return Distiller(
            student=student,
            teacher=teacher,
            distillation_loss=self._sequence.distillation_loss,
            label_weight=self._sequence.label_weight,
            augmentation=self._sequence.augmentation,
        )

    def _start_augmentation(self, x, seed):
        augmentation = self._sequence.augmentation
        if not augmentation.built:
            _augmentation.build(augmentation, _checks.first_examples(x)[1])
        _augmentation.reseed(augmentation, seed)

    def _compute_soft_targets(self, generation, teacher, x, options):
        """What the last generation says of the training data; `None` where the teacher is to run at each step."""
        sequence = self._sequence
        if sequence.soft_targets == "online" or sequence.label_weight == 1:
            return None
        if sequence.soft_targets == "auto" and sequence.views is None and not self._worth_keeping(teacher, x):
            return None
        path = None if self._run is None else self._run.soft_targets_file(generation - 1)
        if path is not None and path.exists():
            soft_targets = self._read_again(path, teacher, x)
            if soft_targets is not None:
                return soft_targets
            path.unlink()
        # The bench's student holds the last generation, and its way through `predict` is compiled.
        runs = self._bench.student if self._bench is not None else teacher
        verbose = options["verbose"] in ("auto", 1)
        from_logits = getattr(sequence.distillation_loss, "from_logits", None)
        soft_targets = SoftTargets.from_teacher(
            runs,
            x,
            options["batch_size"] or 32,
            path=path,
            verbose=verbose,
            from_logits=from_logits,
            augmentation=sequence.augmentation,
            views=sequence.views,
        )
        return soft_targets if path is None else _open(path)

    def _read_again(self, path, teacher, x):
        """Soft targets that an interrupted run left; `None` if they are not whole, or not this teacher's of these data.

        Those of datasets are computed again: to compare each example would be to read all of them.
        """
        if _checks.is_dataset(x):
            return None
        try:
            soft_targets = _open(path)
            soft_targets.check_content()
            soft_targets.check(x)
            soft_targets.check_augmentation(self._sequence.augmentation)
        except ValueError:
            return None
        own = soft_targets.views == self._sequence.views
        return soft_targets if own and soft_targets.teacher_fingerprint == model_fingerprint(teacher) else None

    def _worth_keeping(self, teacher, x):
        """Whether the data are fixed, and what a teacher says of them is of one output and not too large."""
        sequence = self._sequence
        if sequence.augmentation is not None:
            return False
        if _checks.is_dataset(x) and not (isinstance(x, keras.utils.PyDataset) and getattr(x, "fixed", False)):
            return False
        first_x = _checks.first_examples(x)[1]
        outputs = teacher.compute_output_spec(keras.tree.map_structure(_backend.as_tensor, first_x))
        # A teacher with one output: who has several is heard at each step.
        if keras.tree.is_nested(outputs) or keras.tree.is_nested(sequence.distillation_loss):
            return False
        count = x.num_batches * outputs.shape[0] if _checks.is_dataset(x) else len(keras.tree.flatten(x)[0])
        bytes_of_x = count * sum(
            getattr(leaf[:1], "nbytes", 0) for leaf in keras.tree.flatten(first_x) if leaf is not None
        )
        most = _MOST_BYTES if self._run is None else max(_MOST_BYTES, bytes_of_x)
        return 4 * count * np.prod(outputs.shape[1:], dtype="int64") <= most


def _open(path):
    """Soft targets that lie on disk: read into memory, as without a directory, where they are not too large for it."""
    soft_targets = SoftTargets.load(path)
    return SoftTargets.load(path, mmap=False) if soft_targets.nbytes <= _MOST_BYTES else soft_targets


def _check_finite(model, record):
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
