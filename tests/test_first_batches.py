"""What is wrong with a dataset shows in its first batch: an error says so, before anything is trained."""

import keras
import numpy as np
import pytest
from helpers.data import Batches, make_blobs
from helpers.models import assert_same, classifier, crossentropy
from helpers.tables import cases

from keras_ban import BornAgainSequence, Distiller, EnsembleModel, SoftTargets
from keras_ban._src.data.kinds import as_data

X, Y = make_blobs()
ONE_HOT = np.eye(3, dtype="float32")[Y]
FIT = {"batch_size": 32, "shuffle": False, "verbose": 0}


class WithoutLabels(Batches):
    def __getitem__(self, index):
        return super().__getitem__(index)[0]


class Singles(Batches):
    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


class Dicts(Batches):
    def __getitem__(self, index):
        return dict(zip(("image", "label"), super().__getitem__(index), strict=True))


def batches():
    yield X, Y


def distiller(**options):
    made = Distiller(student=classifier(), teacher=classifier())
    made.compile("sgd", crossentropy(), **options)
    return made, [made.student]


def measuring():
    return distiller(metrics=["accuracy"])


def sequence():
    made = BornAgainSequence(classifier(), generations=1)
    made.compile("sgd", crossentropy(), metrics=["accuracy"])
    return made, made.models


WRONG = {
    "no labels": (lambda: WithoutLabels(X, Y), "brings no labels"),
    "single examples": (lambda: Singles(X, Y), "must yield batches"),
    "one-hot": (lambda: Batches(X, ONE_HOT), "They look one-hot"),
    "texts": (lambda: Batches(X, np.array(list("abc"))[Y]), r"np\.unique\(y, return_inverse=True\)"),
}


@cases("name", "no labels", "texts", on_one_backend=["single examples", "one-hot"])
@pytest.mark.parametrize("make", [distiller, measuring, sequence])
def test_a_wrong_first_batch_is_refused_before_training(name, make):
    build, message = WRONG[name]
    made, models = make()
    before = [model.get_weights() for model in models]

    with pytest.raises((ValueError, TypeError), match=message):
        made.fit(build(), verbose=0)

    for model, weights in zip(models, before, strict=True):
        assert_same(weights, model.get_weights())


@pytest.mark.parametrize("make", [distiller, sequence])
def test_a_class_that_there_is_not_is_refused(make):
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\]"):
        make()[0].fit(Batches(X, Y + 1), verbose=0)


@pytest.mark.one_backend
def test_validation_data_of_single_examples_are_refused_before_training():
    for make in (distiller, sequence):
        with pytest.raises(TypeError, match="`validation_data` must yield batches"):
            make()[0].fit(Batches(X, Y), validation_data=Singles(X, Y), verbose=0)


@pytest.mark.one_backend
def test_batches_that_are_dicts_are_said_to_be_inputs_alone():
    with pytest.raises(ValueError, match=r"yields dicts brings inputs alone; let it yield `\(inputs, labels\)`"):
        distiller()[0].fit(Dicts(X, Y), verbose=0)


@pytest.mark.one_backend
def test_what_is_no_dataset_of_batches_is_told_how_to_become_one():
    torch = pytest.importorskip("torch")
    examples = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    with pytest.raises(TypeError, match=r"DataLoader\(x, batch_size=32\)"):
        as_data(examples)
    with pytest.raises(TypeError, match=r"Call the function, .* `x\(\)`"):
        as_data(batches)
    with pytest.raises(TypeError, match="Pass one dataset"):
        as_data((Batches(X, Y), Batches(X, Y)))


@pytest.mark.one_backend
def test_batches_of_rows_that_differ_in_length_are_to_be_padded():
    tf = pytest.importorskip("tensorflow")
    rows = tf.RaggedTensor.from_row_lengths(np.arange(192.0), [1, 3] * 48)
    ragged = tf.data.Dataset.from_tensor_slices((rows, Y)).batch(32)
    for use in (sequence()[0].fit, EnsembleModel([classifier()], from_logits=True).calibrate):
        with pytest.raises(ValueError, match=r"differ in length. Pad them: `padded_batch\(32\)`"):
            use(ragged)
    with pytest.raises(ValueError, match=r"differ in length. Pad them: `padded_batch\(32\)`"):
        SoftTargets.from_teacher(classifier(), ragged, verbose=0)


@pytest.mark.one_backend
def test_columns_of_numbers_for_a_model_of_one_input_are_to_be_chosen():
    datasets = pytest.importorskip("datasets")
    table = datasets.Dataset.from_dict({"x": X, "fold": Y, "label": Y})
    with pytest.raises(ValueError, match=r"columns \['x', 'fold'\] .* takes one input.*select_columns"):
        distiller()[0].fit(table, verbose=0)
    with pytest.raises(ValueError, match="takes one input"):
        EnsembleModel([classifier()], from_logits=True).calibrate(table)


# --- Texts that no model takes.


def of_columns():
    inputs = {name: keras.Input((4,), name=name) for name in ("a", "b")}
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Concatenate()(list(inputs.values()))))


NUMBERS = {"a": X[:, :4], "b": X[:, 4:]}
MIXED = {**NUMBERS, "city": np.array(["here", "there"] * 48), "id": np.arange(96)}


@pytest.mark.parametrize("stored", [None, "memory", "file"])
def test_a_student_is_trained_beside_texts_that_no_model_takes(stored, tmp_path):
    weights = []
    for number, x in enumerate((NUMBERS, MIXED)):
        keras.utils.set_random_seed(1)
        made = Distiller(student=of_columns(), teacher=of_columns())
        made.compile("sgd", crossentropy())
        path = tmp_path / f"{number}.npy" if stored == "file" else None
        targets = None if stored is None else SoftTargets.from_teacher(made.teacher, x, path=path, verbose=0)
        made.fit(x, Y, soft_targets=targets, validation_data=(x, Y), **FIT)
        weights.append([*made.student.get_weights(), made.predict(x, verbose=0)])
    assert_same(*weights)


def test_a_sequence_and_its_ensemble_are_trained_beside_texts_that_no_model_takes():
    results = []
    for x in (NUMBERS, MIXED):
        made = BornAgainSequence(of_columns(), generations=1, seed=0)
        made.compile("sgd", crossentropy())
        made.fit(x, Y, validation_data=(x, Y), **FIT)
        ensemble = EnsembleModel(made.models, from_logits=True)
        results.append([*made.models[1].get_weights(), ensemble.predict(x, verbose=0)])
    assert_same(*results)
