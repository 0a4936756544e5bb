"""The parts of a `Distiller`: they cannot be replaced, thawed, lost in a copy, or saved so that no file can be read."""

import copy
import pickle

import keras
import numpy as np
import pytest
from helpers.data import CLASSES, make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from keras import layers

from keras_ban import BornAgainSequence, Distiller, FeatureMatching

X, Y = make_blobs()


def compiled(**arguments):
    distiller = Distiller(**{"student": classifier(), "teacher": classifier(), **arguments})
    distiller.compile("sgd", crossentropy())
    return distiller


def with_shared_layer():
    """`(shared, distiller)`: a frozen layer is in student and teacher."""
    shared = layers.Dense(5, name="shared")
    shared.build((None, 8))
    shared.trainable = False
    models = (keras.Sequential([keras.Input((8,)), shared, layers.Dense(CLASSES)]) for _ in range(2))
    return shared, compiled(**dict(zip(("student", "teacher"), models, strict=True)))


NEW = {
    "student": classifier,
    "teacher": classifier,
    "distillation_loss": keras.losses.MeanSquaredError,
    "label_weight": lambda: 0.25,
    "feature_matching": lambda: FeatureMatching(["dense"]),
    "augmentation": lambda: layers.GaussianNoise(1.0),
    "projections": dict,
}


@pytest.mark.parametrize("name", NEW)
def test_no_part_can_be_replaced(name):
    distiller = compiled()
    distiller.fit(X, Y, verbose=0)
    before = getattr(distiller, name)
    with pytest.raises(AttributeError, match=f"`{name}` cannot be replaced in `Distiller`"):
        setattr(distiller, name, NEW[name]())
    assert before is getattr(distiller, name)
    setattr(distiller, name, before)
    distiller.fit(X, Y, verbose=0)


def test_a_shared_layer_that_is_thawed_after_compile_is_refused():
    shared, distiller = with_shared_layer()
    distiller.fit(X, Y, verbose=0)
    before = values(distiller.teacher)
    shared.trainable = True
    for train in (distiller.fit, distiller.train_on_batch):
        with pytest.raises(ValueError, match="share weights that would be trained"):
            train(X, Y)
    assert_same(before, values(distiller.teacher))
    shared.trainable = False
    distiller.fit(X, Y, verbose=0)


@pytest.mark.one_backend
def test_a_distiller_with_a_layer_of_both_models_is_not_saved(tmp_path):
    _, distiller = with_shared_layer()
    for save in (distiller.save, lambda path: keras.saving.save_model(distiller, path)):
        assert not (tmp_path / "distiller.keras").exists()
        with pytest.raises(ValueError, match=r"The layers \['shared'\] are in both student and teacher"):
            save(tmp_path / "distiller.keras")
    distiller.student.save(tmp_path / "student.keras")
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    assert_same(values(distiller.student), values(keras.saving.load_model(tmp_path / "student.keras")))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
@pytest.mark.parametrize(
    "loss", ["mse", "cosine_similarity", keras.losses.MeanAbsoluteError(), keras.losses.mean_absolute_error]
)
def test_feature_matching_can_be_copied(copied, loss):
    matching = FeatureMatching({"a": "b"}, loss, weight=0.25)
    other = copied(matching)
    assert ({"a": "b"}, 0.25) == (other.layers, other.weight)
    rng = np.random.default_rng(0)
    teacher, student = ([keras.ops.convert_to_tensor(rng.standard_normal((4, 3)), "float32")] for _ in range(2))
    assert float(matching.compare(teacher, student)) == float(other.compare(teacher, student)) != 0


class Unknown(keras.Model):
    """Its configuration tells nothing of its layers, so that a copy has no weights before it is called."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.top = layers.Dense(CLASSES)

    def build(self, input_shape):
        self.top.build(input_shape)

    def call(self, inputs):
        return self.top(inputs)

    def get_config(self):
        return {"name": self.name}


@pytest.mark.parametrize("make", [classifier, lambda: classifier(batch_norm=True), Unknown])
def test_a_clone_keeps_the_weights_of_the_teacher(make):
    with keras.saving.custom_object_scope({"Unknown": Unknown}):
        teacher = make()
        teacher(X[:2])
        distiller = compiled(teacher=teacher)
        clone = keras.models.clone_model(distiller)
        assert_same(values(teacher), values(clone.teacher))
        assert clone.teacher is not teacher
        assert np.abs(clone.student.get_weights()[0] - distiller.student.get_weights()[0]).max() > 0.01
        # Nothing of it is in a text.
        assert distiller.name == keras.models.model_from_json(distiller.to_json()).name


def test_the_wrapper_of_scikit_learn_trains_with_the_weights_of_the_teacher():
    base = pytest.importorskip("sklearn.base")
    distiller = Distiller(student=classifier(), teacher=classifier(), label_weight=0)
    distiller.compile("sgd", keras.losses.CategoricalCrossentropy(from_logits=True))
    estimator = base.clone(keras.wrappers.SKLearnClassifier(distiller, fit_kwargs={"verbose": 0}))
    estimator.fit(X, Y)
    assert_same(values(distiller.teacher), values(estimator.model_.teacher))


@pytest.mark.parametrize(("soft_targets", "save_freq"), [("cached", "epoch"), ("online", "epoch"), ("cached", 2)])
def test_a_model_checkpoint_of_a_sequence_keeps_the_student(tmp_path, soft_targets, save_freq):
    sequence = BornAgainSequence(classifier(), generations=2, soft_targets=soft_targets, seed=0)
    sequence.compile("sgd", crossentropy())
    paths = [tmp_path / f"{generation}.keras" for generation in range(3)]

    def checkpoint(generation):
        return [keras.callbacks.ModelCheckpoint(paths[generation], save_freq=save_freq)]

    sequence.fit(X, Y, batch_size=len(X) // 4, verbose=0, callbacks=checkpoint)
    for path, model in zip(paths, sequence.models, strict=True):
        kept = keras.saving.load_model(path)
        assert type(model) is type(kept)
        assert_same(values(model), values(kept))
