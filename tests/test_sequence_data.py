"""The data of a `BornAgainSequence`: arrays, datasets, weights, and the part that is kept for validation."""

import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.sequences import FIT, by_hand, compiled

import keras_ban

DATASETS = {"verbose": 0, "epochs": 2, "shuffle": False, "monitor": "val_accuracy"}


@pytest.fixture(scope="module")
def of_arrays():
    sequence = compiled(metrics=["accuracy"])
    sequence.fit(*make_blobs(), **DATASETS, batch_size=32, validation_data=make_blobs())
    return sequence


def tf_dataset(blobs):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(blobs).batch(32)


def data_loader(blobs):
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(*map(torch.as_tensor, blobs))
    return torch.utils.data.DataLoader(data, batch_size=32)


# One backend for torch's loader: to import torch takes seconds on the others.
@pytest.mark.parametrize(
    "dataset", [lambda blobs: Batches(*blobs), tf_dataset, pytest.param(data_loader, marks=pytest.mark.one_backend)]
)
def test_a_dataset_trains_and_validates_as_arrays_do(dataset, blobs, of_arrays):
    dataset, of_dataset = dataset(blobs), compiled(metrics=["accuracy"])

    of_dataset.fit(dataset, **DATASETS, validation_data=dataset)

    for one, other in zip(of_dataset.models, of_arrays.models, strict=True):
        assert_same(values(other), values(one))
    for one, other in zip(of_dataset.history.records, of_arrays.history.records, strict=True):
        assert other.metrics == one.metrics
        assert other.scores == one.scores
    assert of_arrays.history.ensemble == of_dataset.history.ensemble is not None
    assert [] == of_dataset.history.notes


@pytest.mark.parametrize("weighting", ["sample_weight", pytest.param("class_weight", marks=pytest.mark.one_backend)])
def test_weights_of_examples_and_classes_reach_every_generation(weighting, blobs):
    weight = {0: 3.0, 1: 0.5, 2: 0.0}
    given = {"class_weight": weight, "sample_weight": np.array([weight[label] for label in blobs[1]])}
    options = {"epochs": 2, weighting: given[weighting]}
    sequence = compiled()

    sequence.fit(*blobs, **FIT, **options)

    plain, _ = by_hand(sequence, 0, blobs, **options)
    assert_same(values(plain), values(sequence.models[0]))
    student, _ = by_hand(sequence, 1, blobs, {"teacher": plain}, **options)
    assert_same(values(student), values(sequence.models[1]))


@pytest.mark.one_backend
def test_validation_split_keeps_the_last_part(blobs):
    x, y = blobs
    weights = np.linspace(0.5, 2.0, 96).astype("float32")
    split, by_hand = compiled(), compiled()

    split.fit(x, y, **FIT, sample_weight=weights, validation_split=1 / 3)
    data = (x[64:], y[64:], weights[64:])
    by_hand.fit(x[:64], y[:64], **FIT, sample_weight=weights[:64], validation_data=data)

    for one, other in zip(split.models, by_hand.models, strict=True):
        assert_same(values(one), values(other))
    expected = [(record.metrics, record.scores) for record in by_hand.history.records]
    assert expected == [(record.metrics, record.scores) for record in split.history.records]


@pytest.mark.one_backend
def test_validation_split_is_that_of_plain_keras(blobs):
    fit = {"epochs": 2, "validation_split": 1 / 3, "shuffle": False}
    sequence = compiled()
    history = sequence.fit(*blobs, **FIT, **fit)

    assert by_hand(sequence, 0, blobs, **fit)[1] == history.records[0].logs


@pytest.mark.one_backend
def test_an_endless_validation_dataset_is_read_for_validation_steps(blobs):
    dataset = tf_dataset(blobs).repeat()

    history = compiled(metrics=["accuracy"]).fit(
        *blobs, **FIT, validation_data=dataset, validation_steps=3, monitor="val_accuracy"
    )

    for record in history.records:
        assert record.metrics["val_loss"] == pytest.approx(record.logs["val_loss"][-1], rel=1e-6)  # float32


def grain_dataset(blobs):
    grain = pytest.importorskip("grain")
    return grain.MapDataset.source(list(zip(*blobs, strict=True))).batch(32)


class Endless(Batches):
    @property
    def num_batches(self):
        return None


ENDLESS = {
    "tf.data": lambda blobs: tf_dataset(blobs).repeat(),
    "Grain": lambda blobs: grain_dataset(blobs).repeat(),
    "PyDataset": lambda blobs: Endless(*blobs),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", ENDLESS)
def test_data_without_end_are_refused_unless_it_is_said_how_many_batches_to_read(kind, blobs):
    data, sequence = ENDLESS[kind](blobs), compiled()
    distiller = keras_ban.Distiller(student=classifier(), teacher=classifier())
    distiller.compile("sgd", crossentropy())
    for made in (sequence, distiller):
        with pytest.raises(ValueError, match="`x` has no end.* or pass `steps_per_epoch`"):
            made.fit(data, verbose=0)
        with pytest.raises(ValueError, match="`validation_data` has no end.* or pass `validation_steps`"):
            made.fit(*blobs, validation_data=data, verbose=0)
    for method in (distiller.evaluate, distiller.predict):
        with pytest.raises(ValueError, match="`x` has no end.* or pass `steps`"):
            method(data, verbose=0)
    if kind != "PyDataset":  # There is no batch 3.
        distiller.fit(data, steps_per_epoch=4, validation_data=data, validation_steps=4, shuffle=False, verbose=0)
        sequence.fit(*blobs, **FIT)
        with pytest.raises(ValueError, match="`x` has no end.* or pass `steps`"):
            sequence.evaluate(data)
        expected, found = sequence.evaluate(*blobs), sequence.evaluate(data, steps=3)
        assert [record.scores for record in expected.records] == [record.scores for record in found.records]
