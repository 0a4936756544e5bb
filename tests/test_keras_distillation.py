"""Losses of `keras.distillation` train in a `Distiller` as they do in Keras's own, and say what they cannot do."""

import keras
import numpy as np
import pytest
from helpers.data import CLASSES
from helpers.models import classifier, crossentropy, values
from helpers.tables import cases
from keras import ops
from keras.distillation import DistillationLoss, FeatureDistillation, LogitsDistillation

import keras_ban


@keras.saving.register_keras_serializable(package="test_keras_distillation")
class SquaredDifference(DistillationLoss):
    """A user's own, with a setting."""

    def __init__(self, factor=1.0):
        self.factor = factor

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return self.factor * ops.mean(ops.square(teacher_outputs - student_outputs))

    def get_config(self):
        return {"factor": self.factor}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def distiller(loss, student=None, label_weight=0.3, optimizer="sgd", eager=True, **arguments):
    model = keras_ban.Distiller(
        student=student or classifier(), distillation_loss=loss, label_weight=label_weight, **arguments
    )
    model.compile(optimizer, crossentropy(), run_eagerly=eager)
    return model


LOSSES = {
    "a divergence": LogitsDistillation(temperature=2.0, loss=keras.losses.KLDivergence()),
    "no loss object": LogitsDistillation(temperature=2.0, loss="mse"),
    "final outputs": FeatureDistillation("mse"),
    "one's own": SquaredDifference(2.0),
}


@cases("name", "a divergence", on_one_backend=["no loss object", "final outputs", "one's own"])
def test_one_sgd_step_is_that_of_keras_itself(blobs, name):
    x, y = blobs
    loss = LOSSES[name]
    teacher, student = classifier(), classifier()
    twin = keras.models.clone_model(student)
    twin.set_weights(student.get_weights())
    keras_own = keras.distillation.Distiller(
        teacher=keras.models.clone_model(teacher), student=twin, distillation_losses=loss, student_loss_weight=0.3
    )
    keras_own.teacher.set_weights(teacher.get_weights())
    keras_own.compile(keras.optimizers.SGD(0.5), crossentropy())
    model = distiller(loss, student, teacher=teacher, optimizer=keras.optimizers.SGD(0.5), eager=False)

    expected = keras_own.train_on_batch(x, y, return_dict=True)
    actual = model.train_on_batch(x, y, return_dict=True)

    for wanted, weight in zip(twin.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_allclose(wanted, weight, atol=1e-6)  # float32, weights below 1
    np.testing.assert_allclose(expected["distillation_loss"], actual["distillation_loss"], rtol=1e-6)


@pytest.mark.one_backend
def test_the_default_warns_once_and_does_as_keras_does(blobs):
    x, y = blobs
    teacher, student = classifier(), classifier()
    loss = LogitsDistillation()
    said, ours = (ops.convert_to_tensor(model.predict(x, verbose=0)) for model in (teacher, student))
    expected = loss.compute_loss(said, ours)

    with pytest.warns(UserWarning, match="is `keras_ban.losses.KnowledgeDistillation\\(temperature=3.0\\)`") as caught:
        model = distiller(loss, student, teacher=teacher, eager=False)
    actual = model.train_on_batch(x, y, return_dict=True)["distillation_loss"]

    assert 1 == len(caught)
    assert __file__ == caught[0].filename
    np.testing.assert_allclose(float(expected), float(actual), rtol=1e-5)


@pytest.mark.one_backend
@pytest.mark.parametrize("given", ["sample_weight", "class_weight", "mask"])
def test_what_cannot_reach_such_a_loss_is_refused_before_a_weight_moves(blobs, given):
    x, y = blobs
    if given == "mask":
        layers = [keras.Input((8,), dtype="int32"), keras.layers.Embedding(9, 4, mask_zero=True)]
        student = keras.Sequential([*layers, keras.layers.Dense(CLASSES)])
        x, y = np.ones((96, 8), "int32"), np.zeros((96, 8), "int32")
        arguments = {}
    else:
        student, arguments = classifier(), {given: np.ones(96) if given == "sample_weight" else {0: 2.0}}
    before = values(student)
    model = distiller(LOSSES["a divergence"], student, teacher=keras_ban.reborn(student))

    with pytest.raises(ValueError, match="cannot act on it. Take `keras_ban.losses.KnowledgeDistillation"):
        model.fit(x, y, **arguments, verbose=0)

    for expected, actual in zip(before, values(student), strict=True):
        np.testing.assert_array_equal(expected, actual)


@pytest.mark.one_backend
def test_with_label_weight_one_sample_weights_are_no_matter(blobs):
    model = distiller(LOSSES["a divergence"], label_weight=1)

    assert np.isfinite(model.train_on_batch(*blobs, sample_weight=np.ones(96), return_dict=True)["loss"])


@pytest.mark.one_backend
def test_layers_by_name_are_refused_with_what_takes_their_place():
    loss = FeatureDistillation("mae", teacher_layer_name="b", student_layer_name="a")

    with pytest.raises(
        ValueError, match="feature_matching=keras_ban.FeatureMatching\\({'a': 'b'}, loss=...\\)\\)` needs"
    ):
        keras_ban.Distiller(student=classifier(), teacher=classifier(), distillation_loss=loss)


def two_headed():
    inputs = keras.Input((8,))
    return keras.Model(inputs, [keras.layers.Dense(CLASSES, name=name)(inputs) for name in ("a", "b")])


@pytest.mark.one_backend
def test_of_several_outputs_one_loss_hears_all_and_a_list_one_each(blobs):
    x, y = blobs
    teacher, student = two_headed(), two_headed()
    said, ours = (model.predict(x, verbose=0) for model in (teacher, student))
    first, second = (((t - s) ** 2).mean() for t, s in zip(said, ours, strict=True))
    losses = {
        "all": (FeatureDistillation(["mse", None]), first),
        "each": ([SquaredDifference(2.0), FeatureDistillation()], 2 * first + second),
        "beside another": ([None, SquaredDifference()], second),
    }

    for loss, expected in losses.values():
        model = keras_ban.Distiller(student=student, teacher=teacher, distillation_loss=loss)
        model.compile(keras.optimizers.SGD(0.0), [crossentropy(), crossentropy()], run_eagerly=True)
        actual = model.train_on_batch(x, [y, y], return_dict=True)["distillation_loss"]
        np.testing.assert_allclose(expected, float(actual), rtol=1e-5)

    with pytest.raises(ValueError, match="cannot be weighted by `loss_weights`"):
        model = keras_ban.Distiller(
            student=student, teacher=teacher, distillation_loss=losses["all"][0], label_weight=0
        )
        model.compile("sgd", [crossentropy(), crossentropy()], loss_weights=[1.0, 2.0], run_eagerly=True)
        model.train_on_batch(x, [y, y])


def test_half_precision_is_compared_in_float32(blobs):
    x, y = blobs
    teacher = classifier()
    student = classifier(dtype="mixed_bfloat16")
    # Keras itself refuses outputs of two precisions.
    model = distiller(SquaredDifference(), student, teacher=teacher, optimizer=keras.optimizers.SGD(0.0))
    ours = ops.convert_to_numpy(ops.cast(student(x), "float32"))

    actual = model.train_on_batch(x, y, return_dict=True)["distillation_loss"]

    np.testing.assert_allclose(((teacher.predict(x, verbose=0) - ours) ** 2).mean(), float(actual), rtol=1e-5)


@cases("name", "one's own", on_one_backend=["a divergence"])
def test_a_saved_distiller_comes_back_with_its_loss(blobs, name, tmp_path):
    x, y = blobs
    model = distiller(LOSSES[name], teacher=classifier(), eager=False)
    model.fit(x, y, verbose=0)

    model.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")

    expected = model.fit(x, y, shuffle=False, verbose=0).history
    assert expected == restored.fit(x, y, shuffle=False, verbose=0).history


@pytest.mark.one_backend
def test_a_loss_that_gives_more_than_one_number_is_refused(blobs):
    class PerExample(DistillationLoss):
        def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
            return ops.mean(ops.square(teacher_outputs - student_outputs), axis=-1)

    model = distiller(PerExample(), teacher=classifier())

    with pytest.raises(ValueError, match="must give one number, but gave a tensor of shape \\(96,\\)"):
        model.train_on_batch(*blobs)


@pytest.mark.one_backend
def test_soft_targets_and_sequences_take_such_losses_too(blobs):
    x, y = blobs
    sequence = keras_ban.BornAgainSequence(
        classifier(), generations=1, distillation_loss=LOSSES["a divergence"], seed=0
    )
    sequence.compile("sgd", crossentropy(), run_eagerly=True)

    history = sequence.fit(x, y, batch_size=96, verbose=0)

    assert history.records[1].logs["distillation_loss"][0] > 0
