"""Python's lists of numbers and of texts are arrays, where they cannot be anything else."""

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import assert_same, classifier, crossentropy
from helpers.tasks import text_task, texts_of_words

from keras_ban import BornAgainSequence, Distiller, SoftTargets
from keras_ban._src.data.kinds import as_data

X, Y = make_blobs()
WEIGHTS = np.linspace(0.5, 1.5, 96)
TEXTS = ["a b", "c", "b"]
FIT = {"batch_size": 32, "shuffle": False, "verbose": 0}

READ = {
    "texts": (TEXTS, np.array(TEXTS)),
    "texts in a tuple": (tuple(TEXTS), np.array(TEXTS)),
    "pairs of texts": ([TEXTS, TEXTS[::-1]], [np.array(TEXTS), np.array(TEXTS[::-1])]),
    "pairs of texts in a tuple": ((TEXTS, TEXTS), (np.array(TEXTS), np.array(TEXTS))),
    "columns": ({"a": [1, 2], "b": TEXTS[:2]}, {"a": np.array([1, 2]), "b": np.array(TEXTS[:2])}),
    "numbers of NumPy": (list(np.arange(3.0)), np.arange(3.0)),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", READ)
def test_lists_of_single_values_are_arrays(name):
    given, expected = READ[name]

    found = as_data(given).x

    keras.tree.map_structure(np.testing.assert_array_equal, found, as_data(expected).x)


@pytest.mark.one_backend
def test_labels_may_be_lists_of_rows_and_inputs_may_not():
    np.testing.assert_array_equal(as_data(X[:2], [[0, 1], [1, 0]]).y, [[0, 1], [1, 0]])
    with pytest.raises(ValueError, match="differ in length"):
        as_data(X[:2], [[0, 1], [1]])
    with pytest.raises(TypeError, match="Make an array of a list of numbers"):
        as_data(X[:2].tolist(), [0, 1])


@pytest.mark.one_backend
@pytest.mark.parametrize("x", [list(X), tuple(X), [X[: 8 - i % 2] for i in range(96)]])
def test_a_list_with_an_array_for_each_example_is_told_how_to_become_one(x):
    with pytest.raises(ValueError, match=r"several inputs or outputs, here 96\. .* `np\.stack\(x\)`"):
        as_data(x, Y)


@pytest.mark.parametrize("convert", [list, np.ndarray.tolist])
def test_labels_and_weights_in_lists_train_as_arrays_do(convert):
    weights = []
    for y, sample_weight in ((Y, WEIGHTS), (convert(Y), convert(WEIGHTS))):
        keras.utils.set_random_seed(1)
        distiller = Distiller(student=classifier(), teacher=classifier())
        distiller.compile("sgd", crossentropy())
        distiller.fit(X, y, sample_weight=sample_weight, validation_data=(X, y), **FIT)
        weights.append(distiller.student.get_weights())
    assert_same(*weights)


def test_a_task_takes_texts_in_a_list():
    texts, y = texts_of_words()
    task = text_task()
    targets = [SoftTargets.from_teacher(task, x, verbose=0).batch(slice(None)) for x in (texts, texts.tolist())]
    np.testing.assert_array_equal(*targets)
    sequence = BornAgainSequence(task, generations=1, seed=0)
    sequence.compile("sgd", crossentropy())

    history = sequence.fit(texts.tolist(), list(y), validation_data=(texts.tolist(), list(y)), **FIT)

    assert "1 " in history.summary()
