"""Teachers that are as unsure of their training examples as of others: `soften_teachers` of a `BornAgainSequence`."""

import warnings

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data.batch import pack, unpack
from keras_ban._src.data.dataset import Dataset
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.leaves import as_array, leaves_of, map_leaves
from keras_ban._src.data.model_inputs import task_within
from keras_ban._src.data.py_dataset import PyDatasetData
from keras_ban._src.ensemble.calibration import temperature_of_teacher
from keras_ban._src.ensemble.ensemble import average_of
from keras_ban._src.ensemble.held_out import HeldOut
from keras_ban._src.ensemble.training_data import TrainingData
from keras_ban._src.losses.meaning import LINEAR
from keras_ban._src.sequence.output_checks import outputs_of
from keras_ban._src.targets import augmented_views


def check(training, meaning):
    """Raise `ValueError`, before training, if teachers cannot be softened.

    Args:
        training: the `Training`.
        meaning: the `Meaning` of the outputs, or `None`.
    """
    data, validation_data = training.data, training.options["validation_data"]
    if not training.sequence.soften_teachers:
        return
    if validation_data is None:
        raise ValueError(
            "`soften_teachers` compares the training examples with others: pass `validation_data` or "
            "`validation_split` to `fit`."
        )
    if training.unlabeled is not None:
        raise ValueError(
            "`soften_teachers` is about the examples that trained the teacher, and `unlabeled` inputs did not. "
            "Calibrate a trained teacher with `EnsembleModel.calibrate`, and pass it to `fit` as `teacher`."
        )
    several = len(outputs_of(training.sequence, training.compile_arguments, training.example).resolved) > 1
    if several or meaning is None or meaning.activation == LINEAR or meaning.axis not in (None, -1):
        raise ValueError(
            "`soften_teachers` divides the teacher's logits by a temperature. It needs classifiers with one output and "
            f"the classes on the last axis. What is known of the outputs: {meaning}."
        )
    if training.sequence.augmentation is not None and task_within(training.example) is not None:
        raise ValueError(
            "`soften_teachers` does not go with an `augmentation` of models with a preprocessor. Leave out one of them."
        )
    data.check_finite()
    validation_data.check_finite()
    if not data.yields_batches and not validation_data.yields_batches:
        trained_on = TrainingData.of(data)
        if trained_on is not None:
            trained_on.check([trained_on.keys_of(validation_data.x)])
    if training.example.built:
        _try(training, meaning)


def _try(training, meaning):
    """Soften an untrained model with the first batches, so that labels that do not fit are named before training.

    They are not compared with each other: a few equal examples are many in a batch.
    """
    average = _average(training, [training.example], meaning)
    batches = [each.first_batch() for each in (training.data, training.options["validation_data"])]
    if not all(_count(average, *batch) for batch in batches):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # It is no better than chance.
        temperature_of_teacher(average, *(HeldOut(average, as_data(*batch)) for batch in batches))


def _count(average, x, y, sample_weight):
    """Whether any example of a batch counts: other batches may have those that do."""
    ignored = getattr(average.loss, "ignore_class", None)
    weighed = sample_weight is None or any(leaf.any() for leaf in leaves_of(sample_weight))
    return weighed and (ignored is None or any((leaf != ignored).any() for leaf in leaves_of(y)))


def softened(training, models, meaning, seed):
    """Return the average of trained models as a teacher. See `EnsembleModel.soften`.

    With an augmentation, the training examples are seen as a student sees them. `seed` is for its random numbers.
    """
    data, augmentation = training.data, training.sequence.augmentation
    if augmentation is not None:
        data = Dataset(AugmentedBatches(data, augmentation, seed))
    teacher = _average(training, models, meaning)
    teacher.soften(data, validation_data=training.options["validation_data"], batch_size=training.data.batch_size)
    # Each worker may have read its own part of a dataset.
    temperature = float(process_group.chiefs(teacher.temperature, "agree on a temperature"))
    if temperature == teacher.temperature:
        return teacher
    return type(teacher)(**{**teacher.get_config(), "members": teacher.members, "temperature": temperature})


def _average(training, models, meaning):
    average = average_of(models, meaning)
    training.compile_arguments.compile(average)  # Its loss may have an `ignore_class`.
    return average


class AugmentedBatches:
    """The batches of data, augmented as in a training step, with the same random numbers each time."""

    def __init__(self, data, augmentation, seed):
        self._data, self._augmentation, self._seed = data, augmentation, seed

    def __iter__(self):
        data, augmentation = self._data, self._augmentation
        if not augmentation.built:
            augmented_views.build(augmentation, data.first_batch()[0])
        augmented_views.reseed(augmentation, self._seed)
        batches = data.iterate() if data.yields_batches else PyDatasetData(data.by_index(in_order=True)).iterate()
        for batch in batches:
            x, y, sample_weight = unpack(batch)
            x, _ = augmented_views.augment(augmentation, map_leaves(lambda leaf: backend.as_tensor(as_array(leaf)), x))
            yield pack(map_leaves(as_array, x), y, sample_weight)
