"""Labels in the forms in which users bring them: they train as whole numbers do, or an error says what to do."""

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, Batches, make_blobs
from helpers.models import assert_same, classifier, values

from keras_ban import BornAgainSequence, Distiller
from keras_ban._src.data import leaves
from keras_ban.losses import KnowledgeDistillation, PermutedDarkKnowledge

X, Y = make_blobs()
NAMES, ONE_HOT = np.array(["cat", "dog", "owl"]), np.eye(CLASSES, dtype="int64")
FIT = {"batch_size": 32, "shuffle": False, "verbose": 0}
SPARSE = "sparse_categorical_crossentropy"


def model(loss):
    one_output = {"mse": None, "binary_crossentropy": "sigmoid", "bce": "sigmoid"}
    units, activation = (1, one_output[loss]) if loss in one_output else (CLASSES, "softmax")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(16, activation="relu"), keras.layers.Dense(units, activation=activation)]
    return keras.Sequential([keras.Input((8,)), *layers])


def distiller(loss):
    made = Distiller(student=model(loss), teacher=model(loss))
    made.compile("sgd", loss)
    return made, [made.student]


def sequence(loss):
    made = BornAgainSequence(model(loss), generations=1)
    made.compile("sgd", loss)
    return made, made.models


REFUSED = {
    # The loss, the labels, and what is said of them.
    "names": (SPARSE, NAMES[Y], r"np\.unique\(y, return_inverse=True\)"),
    "two names": ("binary_crossentropy", NAMES[Y // 2], r"np\.unique\(y, return_inverse=True\)"),
    "names, one-hot wanted": ("categorical_crossentropy", NAMES[Y], r"np\.unique\(y, return_inverse=True\)"),
    "digits": (SPARSE, Y.astype(str), r"y\.astype\('int32'\)"),
    "numbers": ("mse", X[:, 0].astype(str), r"y\.astype\('float32'\)"),
    "one-hot": (SPARSE, ONE_HOT[Y], r"`CategoricalCrossentropy`, or `np\.argmax\(y, -1\)`"),
    "classes": (
        "categorical_crossentropy",
        Y,
        r"`SparseCategoricalCrossentropy`, or `keras.utils.to_categorical\(y, 3",
    ),
    "column": ("categorical_crossentropy", Y[:, None], r"3 classes, received `.*` of shape \(.*, 1\)"),
    "fractions": (SPARSE, Y / 2, "labels as whole numbers"),
    "1 and 2": ("binary_crossentropy", Y % 2 + 1, r"`y` holds .* others, 2 for instance. Number two classes 0 and 1"),
    "-1 and 1": ("bce", Y % 2 * 2.0 - 1, r"`y` holds .* others, -1.0 for instance. Number two classes 0 and 1"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("make", [distiller, sequence])
def test_what_no_loss_takes_is_refused_before_training_with_what_to_do(case, make):
    loss, labels, message = REFUSED[case]
    right = {"mse": X[:, :1], "binary_crossentropy": Y[:, None] // 2, "bce": Y // 2, SPARSE: Y}.get(loss, ONE_HOT[Y])
    made, models = make(loss)
    before = [values(each) for each in models]

    with pytest.raises(ValueError, match=message):
        made.fit(X, labels, **FIT)
    with pytest.raises(ValueError, match=message.replace("`y`", "`validation_data.*`")):
        made.fit(X, right, **FIT, validation_data=(X, labels))
    if case != "fractions":  # On torch, a `Distiller` looks at a first batch only if a step fails.
        with pytest.raises(ValueError, match=message):
            made.fit(Batches(X, labels), verbose=0)

    for each, weights in zip(models, before, strict=True):
        assert_same(weights, values(each))


def on_disk(labels, folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "labels.h5", "w") as file:
        file["y"] = labels
    return h5py.File(folder / "labels.h5")["y"]


@pytest.mark.one_backend
def test_labels_on_disk_that_are_as_large_as_inputs_stay_there(tmp_path):
    images = on_disk(np.zeros((4, 3, 3)), tmp_path)

    assert images is leaves.from_user("y", images, is_input=False)


TAKEN = {
    "floats": lambda folder: Y.astype("float64"),
    "a column of floats": lambda folder: Y.astype("float32")[:, None],
    "HDF5": lambda folder: on_disk(Y, folder),
}


@pytest.mark.parametrize("labels", [Y // 2, np.linspace(0, 1, len(Y)), Y == 1], ids=["classes", "soft", "truth values"])
def test_a_binary_crossentropy_takes_labels_in_0_to_1(labels):
    sequence("binary_crossentropy")[0].fit(X, labels, **FIT)


def test_a_hinge_loss_takes_classes_of_minus_1_and_1():
    made = BornAgainSequence(model("mse"), generations=1, distillation_loss=keras.losses.MeanSquaredError())
    made.compile("sgd", "hinge")
    made.fit(X, Y % 2 * 2 - 1, **FIT)


@pytest.mark.parametrize("form", TAKEN)
@pytest.mark.parametrize("distillation_loss", [KnowledgeDistillation, PermutedDarkKnowledge])
def test_classes_in_other_forms_train_as_whole_numbers_do(form, distillation_loss, tmp_path):
    trained = []
    for labels in (Y, TAKEN[form](tmp_path)):
        keras.utils.set_random_seed(3)
        made = Distiller(student=classifier(), teacher=classifier(), distillation_loss=distillation_loss())
        made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        logs = made.fit(X, labels, **FIT, validation_data=(X, labels), class_weight={0: 2.0}).history
        trained.append([values(made.student), logs])

    assert_same(trained[0][0], trained[1][0])
    assert trained[0][1] == trained[1][1]


def test_a_sequence_scores_classes_that_are_floats(tmp_path):
    found = []
    for labels in (Y, Y.astype("float64")):
        made = BornAgainSequence(classifier(), generations=1, seed=0)
        made.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
        history = made.fit(X, labels, **FIT, validation_data=(X, labels))
        others = made.evaluate(X[::-1].copy(), labels[::-1].copy())
        found.append([record.scores for record in [*history.records, *others.records]])

    assert found[0] == found[1]
    assert None not in found[0]
