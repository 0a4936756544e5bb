"""What a `Distiller` refuses, before a weight moves, and in which words."""

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values

import keras_ban
from keras_ban.losses import KnowledgeDistillation

pytestmark = pytest.mark.one_backend
X, Y = make_blobs()
NO_MODEL = "must be a `keras.Model`, received: <function"
NO_LOSS = "`distillation_loss` must be a `keras.losses.Loss` instance"
SHARED = "share weights that would be trained"


def made(**arguments):
    return keras_ban.Distiller(**{"student": classifier(), "teacher": classifier(), **arguments})


def compiled(label_loss=None, **arguments):
    distiller = made(**arguments)
    distiller.compile("sgd", label_loss or crossentropy())
    return distiller


def one_dense(classes=CLASSES):
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(classes)])


def both_with(layer):
    """Student and teacher, which share a layer."""
    models = (keras.Sequential([keras.Input((8,)), layer, keras.layers.Dense(CLASSES)]) for _ in range(2))
    return dict(zip(("student", "teacher"), models, strict=True))


# Constructors


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        *(
            ({"label_weight": weight}, ValueError, r"`label_weight` must be a number in \[0, 1\], received: ")
            for weight in (-0.1, 1.1, float("nan"), "0.5", None, True)
        ),
        *(({name: lambda x: x}, TypeError, f"`{name}` {NO_MODEL}") for name in ("student", "teacher")),
        ({"teacher": [classifier(), classifier()]}, TypeError, r"of type list\). Average several: `keras_ban.Ensemble"),
        ({"teacher": "teacher.keras"}, TypeError, r"of type str\). Load it: `keras.saving.load_model`"),
        *(
            ({"distillation_loss": loss}, TypeError, NO_LOSS)
            for loss in ("kl_divergence", keras.losses.kl_divergence, [None, "mse"])
        ),
        ({"distillation_loss": [None, None]}, ValueError, "use `label_weight=1`"),
        (
            {"distillation_loss": {"elsewhere": KnowledgeDistillation()}},
            ValueError,
            r"`distillation_loss` does not .* of the names \['elsewhere'\]",
        ),
    ],
)
def test_wrong_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        made(**arguments)


def test_models_that_cannot_be_student_and_teacher_are_refused():
    model = classifier()
    sharing = keras.Sequential([keras.Input((8,)), *model.layers])
    moving = keras.layers.BatchNormalization(center=False, scale=False)
    for models, message in [
        ({"student": model, "teacher": model}, "are the same model. For a new student use `keras_ban.reborn"),
        ({"student": sharing, "teacher": model}, SHARED),
        # Without gradients it moves all the same.
        (both_with(moving), rf"{SHARED}.*\(layer\)"),
        ({"teacher": one_dense(CLASSES + 2)}, r"\(None, 5\), the student's outputs \(None, 3\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            made(**models)


def test_student_and_teacher_cannot_be_given_by_position():
    with pytest.raises(TypeError, match="positional"):
        keras_ban.Distiller(classifier(), classifier())


def test_frozen_layers_may_be_shared_but_not_thawed_later():
    shared = keras.layers.Dense(8, trainable=False)
    models = both_with(shared)
    before = values(models["teacher"])
    distiller = compiled(**models)
    distiller.fit(X, Y, verbose=0)
    assert_same(before, values(models["teacher"]))

    shared.trainable = True
    with pytest.raises(ValueError, match=SHARED):
        distiller.compile("sgd", crossentropy())


class OwnSteps(keras.Sequential):
    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):
        return 100 * super().compute_loss(x, y, y_pred, sample_weight)


def test_steps_of_the_students_own_are_said_not_to_be_called():
    with pytest.warns(UserWarning, match="OwnSteps, has `compute_loss` of its own, which no Distiller calls"):
        made(student=OwnSteps([keras.Input((8,)), keras.layers.Dense(CLASSES)]))


@pytest.mark.parametrize("name", ["teacher", "label_weight", "distillation_loss"])
def test_what_a_compiled_step_would_not_notice_cannot_be_changed(name):
    with pytest.raises(AttributeError):
        setattr(compiled(), name, 0.1)


# `compile` and `fit`


def test_fit_before_compile_is_refused():
    with pytest.raises(ValueError, match=r"You must call `compile\(\)`"):
        made().fit(X, Y)


def test_compile_without_a_loss_for_labels_that_have_a_weight_is_refused():
    with pytest.raises(ValueError, match="label_weight=0.5. Pass one, or train on the teacher and"):
        made().compile("adam")


def test_data_without_labels_or_without_soft_targets_are_refused():
    with pytest.raises(ValueError, match="The data brings no labels"):
        compiled().fit(X, verbose=0)
    with pytest.raises(ValueError, match="has no teacher, and the data brings no soft targets"):
        compiled(teacher=None).fit(X, Y, verbose=0)


@pytest.mark.parametrize("x", [np.zeros((0, 8)), None, [np.zeros((0, 8)), np.zeros((0, 8))], []])
def test_empty_data_are_refused(x):
    with pytest.raises(ValueError, match=r"`x` (holds no examples|is (None|\[\]))"):
        compiled().fit(x, np.zeros(0, "int32"))


@pytest.mark.parametrize("label", [-1, CLASSES, 10**6])
def test_labels_outside_the_classes_are_refused(label):
    y = Y.copy()
    y[7] = label
    with pytest.raises(ValueError, match=rf"labels must lie in \[0, 2\], but `y` holds 1 others, {label} for instance"):
        compiled().fit(X, y)


def test_labels_that_the_loss_ignores_are_no_error():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)

    assert np.isfinite(compiled(loss).fit(X, np.where(Y == 0, -1, Y), verbose=0).history["loss"][0])


@pytest.mark.parametrize("loss", [crossentropy(), "sparse_categorical_crossentropy"])
def test_labels_that_are_not_whole_numbers_are_refused_where_these_are_wanted(loss):
    distiller = compiled(loss)
    with pytest.raises(ValueError, match=r"wants labels as whole numbers, received `y` of dtype float32"):
        distiller.fit(X, Y.astype("float32") / 2)
    with pytest.raises(ValueError, match="They look one-hot: use `CategoricalCrossentropy`"):
        distiller.fit(X, np.eye(CLASSES)[Y])


class OwnCall(keras.Sequential):
    """A model of which no last layer is known."""

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask)


def test_logits_where_probabilities_are_declared_are_refused():
    arguments = {
        "student": classifier(activation="softmax"),
        "distillation_loss": KnowledgeDistillation(from_logits=False),
    }
    labels = keras.losses.SparseCategoricalCrossentropy()
    with pytest.raises(ValueError, match="`distillation_loss` contradicts the teacher: .* gives no probabilities"):
        compiled(labels, **arguments).fit(X, Y, verbose=0)
    with pytest.raises(ValueError, match="takes probabilities .* they range from"):
        compiled(labels, **arguments, teacher=OwnCall(classifier().layers)).fit(X, Y, verbose=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"loss": "sparse_crossentropy"}, "^Could not interpret loss identifier: sparse_crossentropy"),
        ({"metrics": ["acuracy"]}, "^Could not interpret metric identifier: acuracy"),
        ({"weighted_metrics": ["acuracy"]}, "^Could not interpret metric identifier: acuracy"),
    ],
)
@pytest.mark.parametrize("eager", [False, True])
def test_a_loss_or_a_metric_that_keras_does_not_know_is_named(arguments, message, eager):
    sequence, distiller = keras_ban.BornAgainSequence(classifier(), generations=1), made()
    before = values(distiller.student)
    for each in (sequence, distiller):
        with pytest.raises(ValueError, match=message):
            each.compile(**{"optimizer": "sgd", "loss": crossentropy(), "run_eagerly": eager, **arguments})
            each.fit(X, Y, verbose=0)

    # A step of TensorFlow that is not compiled updates the weights before it measures.
    if not eager:
        assert_same(before, values(distiller.student))
    assert [] == sequence.models
