"""`PyDataset`s with workers: each step gets its own batch, of its own epoch."""

import itertools

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import classifier, crossentropy

from keras_ban import BornAgainSequence, Distiller, SoftTargets

BATCHES, SIZE, EPOCHS, VIEWS = 12, 2, 4, 3
X = np.arange(BATCHES * SIZE, dtype="float32")[:, None]
Y = np.arange(BATCHES * SIZE) % 3
UNLABELED = 1000 + np.arange(BATCHES * SIZE * EPOCHS, dtype="float32")[:, None]
# Which case runs on each backend; the others on one.
EVERYWHERE = [("views", 2, None), ("views", 1, 4), ("unlabeled", 4, None), ("own order", 2, None)]


CASES = itertools.product(("views", "unlabeled", "own order", "plain"), (1, 2, 4), (None, 4))


class Shuffled(Batches):
    """An order of its own in each epoch."""

    order = np.arange(BATCHES)

    def on_epoch_begin(self):
        self.order = np.random.default_rng(self.order).permutation(BATCHES)

    def __getitem__(self, index):
        return super().__getitem__(self.order[index])


class Same(keras.layers.Layer):
    """An augmentation with a random state, which changes nothing."""

    def __init__(self, **options):
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(0)

    def call(self, x, training=None):
        return x + 0 * keras.random.normal(keras.ops.shape(x), seed=self.generator)

    def get_config(self):
        return {}


class Seen(Distiller):
    """Notes the batches of its steps."""

    def train_step(self, *args):
        x, y = args[-1][:2]
        self.batches.append(keras.tree.map_structure(keras.ops.convert_to_numpy, (x, y)))
        return super().train_step(*args)


def linear():
    """Its first logit is the number of the row."""
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(3)])
    model.set_weights([np.array([[1.0, 0.0, 0.0]]), np.zeros(3)])
    return model


def batches_by_epoch(dataset, steps, epochs=EPOCHS, options=None, **arguments):
    distiller = Seen(student=linear(), **arguments)
    distiller.batches = []
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy(), run_eagerly=True)
    distiller.fit(dataset, epochs=epochs, steps_per_epoch=steps, verbose=0, **(options or {}))
    length = steps or BATCHES
    return [distiller.batches[start : start + length] for start in range(0, len(distiller.batches), length)]


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")
@pytest.mark.parametrize(
    "case, workers, steps",
    [pytest.param(*case, marks=[] if case in EVERYWHERE else [pytest.mark.one_backend]) for case in CASES],
)
def test_each_step_gets_its_own_batch_of_its_own_epoch(case, workers, steps):
    keras.utils.set_random_seed(0)
    dataset = (Shuffled if case == "own order" else Batches)(X, Y, SIZE, workers=workers)
    epochs = EPOCHS if steps is None else BATCHES // steps
    if case == "views":
        targets = SoftTargets.from_teacher(linear(), X, augmentation=Same(), views=VIEWS, verbose=0)
        options = {"augmentation": Same(), "options": {"soft_targets": targets}}
    else:
        options = {"teacher": linear()}
    if case == "unlabeled":
        options["options"] = {"unlabeled": Batches(UNLABELED, UNLABELED, SIZE)}
    found = batches_by_epoch(dataset, steps, epochs, **options)

    assert epochs == len(found)
    for epoch, batches in enumerate(found):
        rows = [x[:, 0].astype(int) for x, _ in batches]
        labeled = np.concatenate([each[each < 1000] for each in rows])
        if steps is None:
            np.testing.assert_array_equal(np.arange(BATCHES * SIZE), np.sort(labeled))
        for batch_rows, (_, y) in zip(rows, batches, strict=True):
            if case == "views":
                expected, seeds = targets.batch_and_seeds(batch_rows, epoch)
                np.testing.assert_array_equal(seeds, y["view_seeds"])
                np.testing.assert_allclose(expected, y["soft_targets"], rtol=1e-6)
                np.testing.assert_allclose(batch_rows, y["soft_targets"][:, 0], rtol=1e-6)
        if case == "unlabeled":
            unlabeled = np.concatenate([each[each >= 1000] for each in rows]) - 1000
            first = epoch * len(batches) * SIZE
            np.testing.assert_array_equal(np.arange(first, first + len(batches) * SIZE), unlabeled)


def test_all_workers_train_as_one_does(blobs):
    """The order of batches, generation 0 of a sequence and its students included."""

    def run(workers):
        sequence = BornAgainSequence(classifier(), generations=1, seed=0)
        sequence.compile(keras.optimizers.SGD(0.1), crossentropy(), metrics=["accuracy"])
        data = Batches(*blobs, 8, workers=workers, fixed=True)
        validation = Batches(*blobs, 8, workers=workers)
        history = sequence.fit(data, epochs=3, validation_data=validation, verbose=0)
        return [weight for model in sequence.models for weight in model.get_weights()], history.records[1].logs

    expected, logs = run(1)
    for workers in (2, 4):
        found, found_logs = run(workers)
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one, other)
        assert logs == found_logs


def test_predictions_come_in_the_order_of_the_data():
    """Keras itself returns them in another order, if it has to build the model first."""
    dataset = Batches(X, Y, SIZE, workers=2)
    student = keras.Sequential([keras.layers.Dense(3, kernel_initializer="ones")])
    distiller = Distiller(student=student, label_weight=1)
    distiller.compile("sgd", crossentropy(), metrics=["accuracy"])

    np.testing.assert_allclose(X[:, 0], distiller.predict(dataset, verbose=0)[:, 0], rtol=1e-6)
    alone = distiller.evaluate(X, Y, verbose=0)
    np.testing.assert_allclose(alone, distiller.evaluate(dataset, verbose=0), rtol=1e-5)


@pytest.mark.one_backend
def test_an_endless_dataset_goes_on_where_the_epoch_before_ended():
    class Endless(Batches):
        @property
        def num_batches(self):
            return None

        def __getitem__(self, index):
            return super().__getitem__(index % BATCHES)

        __len__ = property()

    found = batches_by_epoch(Endless(X, Y, SIZE, workers=3), 5, teacher=linear())
    rows = [int(x[0, 0]) for batches in found for x, _ in batches]

    assert [index % BATCHES * SIZE for index in range(5 * EPOCHS)] == rows


@pytest.mark.one_backend
def test_an_error_of_the_dataset_is_told_as_it_is_and_threads_end(blobs):
    class Broken(Batches):
        def __getitem__(self, index):
            if index == 5:
                raise KeyError("no such file: 5.png")
            return super().__getitem__(index)

    distiller = Distiller(student=classifier(), teacher=classifier())
    distiller.compile("sgd", crossentropy())
    with pytest.raises(Exception, match="no such file"):
        distiller.fit(Broken(*blobs, 8, workers=4), epochs=2, verbose=0)
