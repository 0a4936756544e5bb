"""A subclass of `Distiller` with its own `compute_label_loss`, for students with a loss of their own."""

import warnings

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import classifier, crossentropy
from keras import layers, ops

from keras_ban import BornAgainSequence, Distiller, OverTraining
from keras_ban._src.sequence.training import StudentDistiller
from keras_ban.losses import PermutedDarkKnowledge

X = make_blobs()[0]
WEIGHTS = np.linspace(0.0, 2.0, 96, dtype="float32")
Y = {"box": 2 * X[:, :2], "size": X[:, 2:3] - 1}
PENALTY = 0.01


@keras.saving.register_keras_serializable(package="test_own_label_loss")
class Detector(keras.Model):
    """Two outputs, and a loss of both at once that no `loss` of `compile` could compute."""

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        scale = ops.exp(ops.sum(y["size"] - y_pred["size"], -1) / 9)
        values = ops.sum(ops.square(y["box"] - y_pred["box"]), -1) * scale + ops.abs(x[:, 0])
        # Keras nests the weights of arrays as the labels.
        return ops.mean(values if sample_weight is None else values * sample_weight["box"])


@keras.saving.register_keras_serializable(package="test_own_label_loss")
class DetectorDistiller(Distiller):
    def compute_label_loss(self, x, y, y_pred, sample_weight, training):
        return self.student.compute_loss(x, y, y_pred, sample_weight, training)


def detector(seed, cls=Detector):
    inputs = keras.Input((8,))
    start = keras.initializers.GlorotUniform(seed)
    penalty = keras.regularizers.L2(PENALTY)
    box = layers.Dense(2, kernel_initializer=start, kernel_regularizer=penalty, name="box")(inputs)
    size = layers.Dense(1, kernel_initializer=start, name="size")(inputs)
    return cls(inputs, {"box": box, "size": size})


def outputs_of(model):
    kernels = {name: ops.convert_to_numpy(model.get_layer(name).kernel).astype("float64") for name in Y}
    outputs = {name: X.astype("float64") @ kernel for name, kernel in kernels.items()}
    return outputs, PENALTY * (kernels["box"] ** 2).sum()


def label_loss_of(outputs, weights):
    values = ((Y["box"] - outputs["box"]) ** 2).sum(-1) * np.exp((Y["size"] - outputs["size"]).sum(-1) / 9)
    return np.mean(weights * (values + np.abs(X[:, 0])))


def distillation_loss_of(outputs, targets, weights):
    return sum(np.mean(weights * ((outputs[name] - targets[name]) ** 2).mean(-1)) for name in outputs)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("label_weight", [1, 0.25, "schedule"])
def test_the_label_loss_is_that_of_the_student(label_weight, weights):
    student, teacher = detector(1), detector(2)
    (outputs, penalty), (targets, _) = outputs_of(student), outputs_of(teacher)
    share = (lambda step: 0.25 + 0.0 * ops.cast(step, "float32")) if label_weight == "schedule" else label_weight
    distiller = DetectorDistiller(
        student=student, teacher=teacher, label_weight=share, distillation_loss=keras.losses.MeanSquaredError()
    )
    distiller.compile(keras.optimizers.SGD(0.0))

    logs = distiller.fit(X, Y, sample_weight=weights, batch_size=48, epochs=2, verbose=0).history
    scores = distiller.evaluate(X, Y, sample_weight=weights, batch_size=48, verbose=0, return_dict=True)

    w, share = 1.0 if weights is None else WEIGHTS, 0.25 if label_weight == "schedule" else label_weight
    of_labels, of_teacher = label_loss_of(outputs, w), distillation_loss_of(outputs, targets, w)
    np.testing.assert_allclose([of_labels] * 2, logs["label_loss"], rtol=1e-5)
    expected = share * of_labels + (1 - share) * of_teacher + penalty
    np.testing.assert_allclose([expected] * 2, logs["loss"], rtol=1e-5)
    assert {"loss": pytest.approx(of_labels + penalty, rel=1e-5)} == scores


def test_training_equals_that_with_the_same_compiled_loss(blobs):
    class Squared(Distiller):
        def compute_label_loss(self, x, y, y_pred, sample_weight, training):
            assert training
            return ops.mean(ops.square(y - y_pred))

    x, _ = blobs
    y, teacher, trained = np.asarray(x[:, :3] * 2), classifier(), []
    for cls, loss in ((Distiller, keras.losses.MeanSquaredError()), (Squared, None)):
        keras.utils.set_random_seed(3)
        student = classifier()
        distiller = cls(student=student, teacher=teacher, distillation_loss=keras.losses.MeanSquaredError())
        distiller.compile(keras.optimizers.SGD(0.1), loss)
        distiller.fit(x, y, batch_size=32, epochs=2, shuffle=False, verbose=0)
        distiller.train_on_batch(x, y)
        trained.append(student.get_weights())
    for one, other in zip(*trained, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_the_compiled_loss_can_be_a_part_of_it(blobs):
    class Doubled(Distiller):
        def compute_label_loss(self, x, y, y_pred, sample_weight, training):
            return 2 * super().compute_label_loss(x, y, y_pred, sample_weight, training)

    x, _ = blobs
    logs = []
    for cls in (Distiller, Doubled):
        keras.utils.set_random_seed(3)
        distiller = cls(student=classifier(), label_weight=1)
        distiller.compile(keras.optimizers.SGD(0.0), "mse")
        logs.append(distiller.fit(x, x[:, :3], sample_weight=WEIGHTS, verbose=0).history["loss"][0])
    assert pytest.approx(2 * logs[0], rel=1e-6) == logs[1]


def test_a_saved_distiller_keeps_its_loss(tmp_path):
    distiller = DetectorDistiller(student=detector(1), teacher=detector(2), distillation_loss=keras.losses.Huber())
    distiller.compile("sgd")
    distiller.fit(X, Y, verbose=0)
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")

    expected = distiller.evaluate(X, Y, verbose=0)
    assert pytest.approx(expected, rel=1e-5) == loaded.evaluate(X, Y, verbose=0)
    loaded.fit(X, Y, verbose=0)


@pytest.mark.one_backend
@keras.saving.register_keras_serializable(package="test_own_label_loss")
def done(fraction):
    return fraction


@keras.saving.register_keras_serializable(package="test_own_label_loss")
class Learning(Distiller):
    """Learns a number, as a temperature might be, and counts its steps."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.learned = self.add_weight(shape=(), initializer="zeros", name="learned")
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if training:
            self.steps.assign_add(1.0)
        return super().compute_loss(x, y, y_pred, sample_weight, training) + ops.square(self.learned - 1.0)


@pytest.mark.parametrize("name", ["distiller.keras", "distiller.weights.h5"])
def test_the_variables_of_a_subclass_are_trained_and_saved(name, blobs, tmp_path):
    def make():
        loss = PermutedDarkKnowledge(seed=3)
        made = Learning(
            student=classifier(), teacher=classifier(), distillation_loss=loss, label_weight=OverTraining(done)
        )
        made.compile("sgd", crossentropy())
        return made

    distiller = make()
    distiller.fit(*blobs, batch_size=48, verbose=0)

    if name.endswith(".keras"):
        distiller.save(tmp_path / name)
        loaded = keras.saving.load_model(tmp_path / name)
    else:
        distiller.save_weights(tmp_path / name)
        loaded = make()
        loaded.load_weights(tmp_path / name)

    expected = [float(ops.convert_to_numpy(each)) for each in (distiller.learned, distiller.steps)]
    assert 0 < expected[0] < 1 and 2 == expected[1]
    assert expected == [float(ops.convert_to_numpy(each)) for each in (loaded.learned, loaded.steps)]


def test_the_warning_names_the_hook_and_is_gone_if_it_is_overridden():
    with pytest.warns(UserWarning, match="`compute_loss` of its own.* override `Distiller.compute_label_loss`"):
        Distiller(student=detector(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DetectorDistiller(student=detector(1))
    other = type("Other", (Detector,), {"predict_step": lambda self, *_: None})
    with pytest.warns(UserWarning, match="has `predict_step` of its own"):
        DetectorDistiller(student=detector(1, other))


@pytest.mark.parametrize("value, received", [(None, "None"), ("rows", r"a tensor of shape \(.*96")])
def test_a_loss_that_is_not_one_number_is_refused(blobs, value, received):
    class Bad(Distiller):
        def compute_label_loss(self, x, y, y_pred, sample_weight, training):
            return None if value is None else ops.mean(y_pred, axis=-1)

    distiller = Bad(student=classifier(), label_weight=1)
    distiller.compile("sgd")
    with pytest.raises(ValueError, match=f"`Bad.compute_label_loss` must return one number, .*received: {received}"):
        distiller.fit(*blobs, batch_size=96, verbose=0)


@pytest.mark.one_backend
def test_unlabeled_examples_and_data_without_labels_are_refused(blobs):
    x, y = blobs
    distiller = DetectorDistiller(student=classifier(), teacher=classifier(), distillation_loss=keras.losses.Huber())
    distiller.compile("sgd")
    with pytest.raises(ValueError, match="`unlabeled` does not go with your own `compute_label_loss`"):
        distiller.fit(x, y, unlabeled=x, verbose=0)
    with pytest.raises(ValueError, match="The data brings no labels"):
        distiller.fit(x, verbose=0)
    plain = Distiller(student=classifier(), label_weight=0)
    with pytest.raises(ValueError, match="`compile` got no `loss`"):
        plain.compute_label_loss(x, y, y, None, True)


@pytest.mark.one_backend
def test_several_torch_workers_refuse_it_before_any_data_are_read():
    pytest.importorskip("torch")
    from keras_ban._src.distillation import torch_workers

    distiller = DetectorDistiller(student=detector(1), label_weight=1.0)
    distiller.compile(keras.optimizers.SGD(0.1))
    with pytest.raises(ValueError, match="Several torch workers train without your own `compute_label_loss`"):
        torch_workers.start(distiller, None, {})


@pytest.mark.one_backend
def test_a_sequence_says_how_to_train_generations_with_a_loss_of_their_own():
    with pytest.warns(UserWarning, match="has `compute_loss` of its own.*A sequence has no hook.*one by one"):
        StudentDistiller(student=detector(1), label_weight=1.0)


@pytest.mark.one_backend
def test_a_function_is_no_generation_0_and_the_error_says_how_it_can_teach():
    sequence = BornAgainSequence(classifier(), generations=1)
    sequence.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    with pytest.raises(TypeError, match=r"received: <function .*SoftTargets.from_teacher\(function, x\)"):
        sequence.fit(X, np.zeros(len(X), int), teacher=lambda x: x[:, :3], verbose=0)


class Squared(keras.losses.Loss):
    """Takes `y_true` for the teacher's outputs."""

    def call(self, y_true, y_pred):
        return ops.square(y_true - y_pred)


def test_a_loss_that_takes_no_dict_is_told_of_it(blobs):
    distiller = Distiller(student=classifier(), teacher=classifier(), distillation_loss=Squared())
    distiller.compile("sgd", crossentropy())
    with pytest.raises((TypeError, ValueError)) as caught:
        distiller.fit(*blobs, verbose=0)
    assert "`Squared`, was called with a dict as `y_true`: `y_true['soft_targets']`" in str(caught.value.__notes__)
