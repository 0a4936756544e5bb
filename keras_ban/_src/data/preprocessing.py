"""What a KerasHub task does to its data before a step: it tokenizes texts, resizes images, makes labels.

A task calls its `preprocessor` in `fit`, `evaluate` and `predict`, but not when it is called. So here each batch is
preprocessed once, for all models that have the same preprocessor, and goes to Keras's own methods. Rows of data, and
with them keys, soft targets, shuffling and splits, are those of the data as the user passed them.
"""

import itertools

import keras
import numpy as np

from keras_ban._src import checks
from keras_ban._src.data import leaves
from keras_ban._src.data.arrays import Arrays
from keras_ban._src.data.batch import (
    TEACHER_INPUTS,
    pack,
    split_targets,
    unpack,
    weights_of_labels,
    weights_without_labels,
    with_labels,
)
from keras_ban._src.data.dataset import Stream
from keras_ban._src.data.model_inputs import all_input_names, are_alike, inputs_for, task_within
from keras_ban._src.data.py_dataset import PyDatasetData
from keras_ban._src.data.wrappers import Mapped


class Preprocessing:
    """Preprocesses batches for a model and, if it needs other inputs, for its teacher.

    Args:
        model: the model that is trained or evaluated.
        teacher: the model that runs beside it in each step, or `None`.

    Attributes:
        differ: whether the teacher needs other inputs than the model.
        makes_inputs: whether there is anything to preprocess.
    """

    def __init__(self, model, teacher=None):
        self._task = task_within(model)
        self._teachers = None if teacher is None else task_within(teacher)
        self.differ = teacher is not None and not are_alike(self._task, self._teachers)
        self.makes_inputs = self._task is not None or self.differ
        self._names = getattr(model, "student", model).name, getattr(teacher, "name", None)

    def __call__(self, batch):
        """Return `(x, y, sample_weight)` of a batch, in NumPy."""
        x, y, weights = unpack(batch)
        labels, weights = split_targets(y)[0], weights_without_labels(y, weights)
        given, more = (x, labels, weights_of_labels(weights)), {}
        if self._task is not None:
            x, labels, weights = run(self._task, *given)
        if self.differ:
            more[TEACHER_INPUTS] = given[0] if self._teachers is None else run(self._teachers, *given)[0]
            if given[1] is None and labels is not None:
                student, teacher = self._names
                raise ValueError(
                    f"The preprocessor of the student {student!r} makes the labels from the inputs, and that of the "
                    f"teacher {teacher!r} differs, so their outputs are about different tokens. Give both the same "
                    "preprocessor (and vocabulary)."
                )
        return unpack(pack(x, with_labels(y, labels, **more), weights))

    def packed(self, batch):
        """Return a batch of a dataset, with the same parts."""
        return pack(*self(batch))


def run(task, x, y=None, sample_weight=None):
    """Return `(x, y, sample_weight)` as a task preprocesses a batch, in NumPy."""
    try:
        made = unpack(task.preprocess_samples(*map(_for_preprocessor, (x, y, sample_weight))))
    except Exception as error:
        if not isinstance(x, dict) or checks.is_raised_by_user(error):
            raise
        raise ValueError(
            f"The preprocessor of {task.name!r} does not take `x`, a dict with the entries {list(x)}. Pass the entry "
            "that it takes, and labels as `y`. A dataset yields both: `(batch['text'], batch['label'])`."
        ) from error
    return tuple(_as_arrays(task, part) for part in made)


def _for_preprocessor(part):
    """Nested NumPy arrays, with texts as lists. To a preprocessor a list is one input, a tuple several."""
    if isinstance(part, dict):
        return {name: _for_preprocessor(each) for name, each in part.items()}
    if isinstance(part, (list, tuple)):
        return tuple(_for_preprocessor(each) for each in part)
    if part is None or not leaves.is_texts(part):
        return None if part is None else leaves.as_array(part)
    texts = np.asarray(part.numpy() if hasattr(part, "numpy") else part)
    # A pandas `Series` of inputs has a second axis.
    texts = texts[:, 0] if texts.ndim == 2 and texts.shape[1] == 1 else texts
    return leaves.decoded(texts).tolist()


def _as_arrays(task, part):
    def convert(leaf):
        array = leaves.as_array(leaf)
        if array.ndim == 0 or array.dtype.kind not in "biufcV":
            raise ValueError(
                f"The preprocessor of {task.name!r} must give numbers in rows of one length, it gave: "
                f"{type(leaf).__name__}. Set its `sequence_length`."
            )
        return array

    return leaves.map_leaves(convert, part)


class PreprocessedData(PyDatasetData):
    """Data whose batches are preprocessed when they are read.

    Args:
        raw: the data as the user passed them.
        preprocessing: a `Preprocessing`.
        in_order: whether arrays keep their order, for evaluation.
    """

    def __init__(self, raw, preprocessing, in_order):
        batches = Mapped(raw.by_index(in_order), preprocessing.packed)
        super().__init__(batches, shuffle=raw.shuffle if raw.by_position else False)
        self._raw, self._preprocessing, self._in_order = raw, preprocessing, in_order
        self.sampler, self.soft_targets = raw.sampler, raw.soft_targets

    @property
    def is_whole(self):
        return self._raw.is_whole

    @property
    def lacks_labels(self):
        """Whether there are no labels: a preprocessor may make them."""
        return self._raw.lacks_labels and split_targets(self.first_batch()[1])[0] is None

    @property
    def has_processes(self):
        return self._raw.has_processes

    def _read_first(self):
        # From the first of the raw data, so that nothing is shuffled.
        return self._preprocessing(self._raw.first_batch())

    def check_labels(self, loss, model, by_name=True):
        self._raw.check_labels(loss, model, by_name)

    def check_shares(self, steps_per_epoch):
        self._raw.check_shares(steps_per_epoch)

    def part_of_worker(self):
        return PreprocessedData(self._raw.part_of_worker(), self._preprocessing, self._in_order)

    def read_by(self, wrapper):
        """The same data, whose raw batches a wrapper reads."""
        return PreprocessedData(self._raw.read_by(wrapper), self._preprocessing, self._in_order)


class _PreprocessedStream(Stream):
    """Data that are read once, with preprocessed batches."""

    def __init__(self, raw, preprocessing):
        self._raw, self._preprocessing = raw, preprocessing
        super().__init__(self._batches(), raw.batch_size, raw.shuffle)

    def _batches(self):
        for batch in self._raw.iterate():
            yield self._preprocessing.packed(batch)

    def first_batch(self):
        return self._preprocessing(self._raw.first_batch())


def data_in_steps(model, data, teacher=None, *, in_order=True, again=False, steps=None):
    """Return data as the steps of a model take them: preprocessed, or without inputs that it does not take.

    Args:
        model: the model that is trained or evaluated.
        data: the data as the user passed them, or `None`.
        teacher: the model that runs beside it in each step, or `None`.
        in_order: whether arrays keep their order, for evaluation.
        again: whether the data are read again, in each epoch.
        steps: the number of steps of an epoch, or `None`.

    Raises:
        ValueError: preprocessors differ where they may not, the length of a dataset is unknown, or inputs lack or are
            not those of the model.
    """
    if data is None:
        return None
    preprocessing = Preprocessing(model, teacher)
    if not preprocessing.makes_inputs:
        if not hasattr(type(model), "models_within"):
            return data.for_model(model)
        # Models of this package choose the inputs of each model within when they call it.
        return without_unused_texts(data, (model, teacher))
    is_unknown = data.number_of_batches() is None
    if data.read_once or (is_unknown and not again):
        return _PreprocessedStream(data, preprocessing)
    if is_unknown and steps is None:
        raise ValueError(
            f"The number of batches of the {data.kind} is unknown, and the model preprocesses them: pass "
            "`steps_per_epoch` (for validation data `validation_steps`), or a dataset with a length."
        )
    return PreprocessedData(data, preprocessing, in_order)


def without_unused_texts(data, models):
    """Return arrays without texts that none of the models takes, because not every backend has tensors of texts.

    They stay if it is not known what a model takes. Models may be `None`.
    """
    if data.yields_batches or not isinstance(data.x, dict):
        return data
    taken = [all_input_names(model) for model in models if model is not None]
    if None in taken:
        return data
    taken = set().union(*taken)
    kept = {name: x for name, x in data.x.items() if name in taken or keras.tree.is_nested(x) or not leaves.is_texts(x)}
    return data if len(kept) == len(data.x) else data.with_parts(kept, data.y, data.sample_weight)


def validation_in_steps(options, model):
    """Return `options["validation_data"]` of a `fit` as the steps of a model take them."""
    return data_in_steps(model, options["validation_data"], again=True, steps=options.get("validation_steps"))


def batch_in_steps(model, batch, teacher=None):
    """Return a batch `(x, y, sample_weight)` as a step of a model, and of a teacher beside it, takes it."""
    preprocessing = Preprocessing(model, teacher)
    return preprocessing(batch) if preprocessing.makes_inputs else batch


def keras_method(model, name):
    """Return Keras's own `fit`, `evaluate` or another method of a model, for preprocessed data."""
    for method in ("models_within", "preprocess_samples"):
        for base in reversed(type(model).__mro__):
            if method in vars(base):  # The class that preprocesses: the one nearest to `keras.Model`.
                return getattr(super(base, model), name)
    return getattr(model, name)


def method_and_data(model, name, data, **options):
    """Return `(method, data)`: `fit`, `evaluate` or another method of a model, and data as it takes them.

    Models of this package take data as the user passed them. `options` are those of `data_in_steps`.
    """
    if hasattr(type(model), "models_within"):
        return getattr(model, name), data
    return keras_method(model, name), data_in_steps(model, data, **options)


def predict(model, data, batch_size=None):
    """Return the outputs of `keras.Model.predict` for `Arrays`."""
    method, inputs = method_and_data(model, "predict", Arrays(data.x, batch_size=batch_size))
    return method(**inputs.for_keras(), verbose=0)


def predict_on_batch(model, x):
    """Return the outputs of `keras.Model.predict_on_batch` for the inputs of a batch, as the user passed them.

    A method of a user's subclass is called, except where it would preprocess the inputs again.
    """
    if hasattr(type(model), "models_within"):  # Models of this package take data as the user passed them.
        return model.predict_on_batch(x)
    return keras_method(model, "predict_on_batch")(inputs_in_steps(model, x))


def inputs_in_steps(model, x):
    """Return the inputs of a batch as a model takes them when it is called."""
    task = task_within(model)
    return inputs_for(model, x if task is None else run(task, x)[0])


def is_random(model, data):
    """Whether the preprocessor of a model makes other inputs of the same data each time, as masked tokens."""
    task = task_within(model)
    if task is None:
        return False
    first, again = (leaves.leaves_of(run(task, data.first_batch()[0])[0]) for _ in range(2))
    pairs = itertools.zip_longest(first, again)
    return not all(np.array_equal(one, other) for one, other in pairs)


def check_repeatable(model, data):
    """Raise `ValueError` if the preprocessor of a model is random, so that no soft targets can be stored."""
    if is_random(model, data):
        raise ValueError(
            f"The preprocessor of {model.name!r} makes other inputs of the same data each time (it masks tokens at "
            "random), so no soft targets of them can be stored. Let the teacher run at each step, without soft targets "
            "(in a sequence `soft_targets='online'`)."
        )
