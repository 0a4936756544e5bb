"""Metrics and label losses beside unlabeled inputs: they see the labeled examples alone, or are refused."""

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import assert_same, crossentropy
from helpers.runs import sequence
from keras import layers, metrics, ops

from keras_ban import Distiller, losses

RNG = np.random.default_rng(6)
LABELED, UNLABELED, CLASSES = 12, 20, 3
LABELS = RNG.integers(0, CLASSES, (LABELED, 2, 3))
ONE_HOT = np.eye(CLASSES, dtype="float32")[LABELS]


def images(count, shape=(2, 3, 4)):
    return RNG.standard_normal((count, *shape)).astype("float32")


def model(seed, shape, activation=None):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input(shape), layers.Dense(CLASSES, activation)])


def categorical():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


def binary():
    return keras.losses.BinaryCrossentropy()


def row_error(y_true, y_pred):
    return ops.mean(ops.square(y_true - y_pred), axis=-1)


# name: (metric, labels, loss)
METRICS = {
    "mean IoU": (lambda: metrics.MeanIoU(CLASSES, sparse_y_pred=False), LABELS, crossentropy),
    "mean IoU, axis of 1": (
        lambda: metrics.MeanIoU(CLASSES, sparse_y_pred=False),
        LABELS[..., None],
        crossentropy,
    ),
    "mean IoU of few": (
        lambda: metrics.MeanIoU(CLASSES, sparse_y_pred=False),
        LABELS[:, 0, 0],
        crossentropy,
    ),
    "one-hot mean IoU": (lambda: metrics.OneHotMeanIoU(CLASSES), ONE_HOT, categorical),
    "one-hot IoU": (lambda: metrics.OneHotIoU(CLASSES, [0, 2]), ONE_HOT, categorical),
    "binary IoU": (lambda: metrics.BinaryIoU([0, 1], 0.5), ONE_HOT, binary),
    "AUC": (lambda: metrics.AUC(from_logits=True), ONE_HOT, categorical),
    "F-score": (lambda: metrics.F1Score(), ONE_HOT[:, 0, 0], categorical),
    "R2": (lambda: metrics.R2Score(), ONE_HOT[:, 0, 0], categorical),
    "own function": (lambda: row_error, ONE_HOT, categorical),
}


# Keras's own `IoU` asks JAX for int64.
@pytest.mark.filterwarnings("ignore:Explicitly requested dtype int64")
@pytest.mark.parametrize("case", METRICS)
def test_metrics_are_those_of_the_labeled_examples_alone(case):
    metric, y, loss = METRICS[case]
    shape = (2, 3, 4) if y.ndim > 2 else (4,)
    x, u = images(LABELED, shape), images(UNLABELED, shape)
    activation = "sigmoid" if loss is binary else None
    plain = model(1, shape, activation)
    plain.compile(keras.optimizers.SGD(0.0), loss(), metrics=[metric()])
    expected = plain.evaluate(x, y, verbose=0)
    divergence = keras.losses.BinaryCrossentropy() if activation else losses.KnowledgeDistillation()
    student, teacher = (model(seed, shape, activation) for seed in (1, 2))
    distiller = Distiller(student=student, teacher=teacher, distillation_loss=divergence)
    distiller.compile(keras.optimizers.SGD(0.0), loss(), metrics=[metric()])

    logs = distiller.fit(x, y, unlabeled=u, batch_size=7, verbose=0).history

    (name,) = set(logs) - {"loss", "label_loss", "distillation_loss"}
    np.testing.assert_allclose(expected[0], logs["label_loss"][0], rtol=1e-5)
    np.testing.assert_allclose(expected[1], logs[name][0], rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_without_any_label_change_no_mean_over_the_labels(weighted):
    x, u, y, w = images(3, (4,)), images(60, (4,)), LABELS[:3, 0, 0], np.array([0.5, 1.0, 2.0])
    plain, student = model(1, (4,)), model(1, (4,))
    plain.compile("sgd", crossentropy(), weighted_metrics=["accuracy"])
    given = {"sample_weight": w} if weighted else {}
    expected = plain.evaluate(x, y, verbose=0, return_dict=True, **given)
    distiller = Distiller(student=student, teacher=model(2, (4,)))
    distiller.compile(keras.optimizers.SGD(0.0), crossentropy(), weighted_metrics=["accuracy"])

    logs = distiller.fit(x, y, unlabeled=u, batch_size=2, verbose=0, **given).history

    assert expected["loss"] == pytest.approx(logs["label_loss"][0], rel=1e-5)
    assert expected["accuracy"] == pytest.approx(logs["accuracy"][0], rel=1e-5)
    assert np.isfinite(list(logs.values())).all()


class Unweighted(metrics.Mean):
    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_pred[:, 0])


class BatchError(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred))


class BatchDivergence(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true["soft_targets"] - y_pred))


class OwnWeights(keras.losses.Loss):
    def __call__(self, y_true, y_pred, sample_weight=None):
        return ops.mean(ops.square(y_true["soft_targets"] - y_pred))


def summed():
    return keras.losses.MeanSquaredError(reduction="sum")


# name: (label loss, metric, distillation loss, message)
def mean_of_all(y, z):
    return ops.mean((y - z) ** 2)


REFUSED = {
    "metric without weights": (None, Unweighted("own"), None, "The metric 'own' counts examples of weight 0"),
    "metric of a batch": (None, lambda y_true, y_pred: ops.mean(y_pred), None, "[Mm]etric"),
    "loss of a batch": (BatchError(), None, losses.KnowledgeDistillation(), "`loss` is not a mean over examples"),
    "Dice loss": (keras.losses.Dice(), None, losses.KnowledgeDistillation(), "`loss` is not a mean over examples"),
    "function of a batch": (mean_of_all, None, losses.KnowledgeDistillation(), "`loss` is not a mean over examples"),
    "divergence of a batch": (None, None, BatchDivergence(), "`distillation_loss` is not a mean over examples"),
    "own weights": (None, None, OwnWeights(), "`distillation_loss` is not a mean over examples"),
    "summed loss": (summed(), None, None, "has reduction='sum'"),
    "summed divergence": (None, None, summed(), "has reduction='sum'"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("built", [True, False])
def test_what_would_count_unlabeled_inputs_as_labeled_is_refused(case, built):
    loss, metric, divergence, message = REFUSED[case]
    student = model(1, (4,)) if built else keras.Sequential([layers.Dense(CLASSES)])
    distiller = Distiller(student=student, teacher=model(2, (4,)), distillation_loss=divergence)
    distiller.compile("sgd", loss or categorical(), metrics=None if metric is None else [metric])
    before = [each.copy() for each in student.get_weights()]

    with pytest.raises(ValueError, match=message):
        distiller.fit(images(LABELED, (4,)), ONE_HOT[:, 0, 0], unlabeled=images(UNLABELED, (4,)), verbose=0)
    if built:
        assert_same(before, student.get_weights())


def test_a_sequence_refuses_such_a_metric_before_generation_0():
    x, y = make_blobs(0)
    made = sequence(metrics=[Unweighted("own")])

    with pytest.raises(ValueError, match="The metric 'own' counts examples of weight 0"):
        made.fit(x[:32], y[:32], unlabeled=x[32:], epochs=1, verbose=0)
    assert [] == made.models


def test_a_refused_fit_leaves_the_state_of_the_student():
    keras.utils.set_random_seed(1)
    student = keras.Sequential([keras.Input((4,)), layers.BatchNormalization(), layers.Dropout(0.5), layers.Dense(3)])
    distiller = Distiller(student=student, teacher=model(2, (4,)))
    distiller.compile("sgd", categorical(), metrics=[Unweighted("own")])
    before = [ops.convert_to_numpy(variable) for variable in student.variables]

    with pytest.raises(ValueError, match="The metric 'own'"):
        distiller.fit(images(LABELED, (4,)), ONE_HOT[:, 0, 0], unlabeled=images(UNLABELED, (4,)), verbose=0)
    assert_same(before, [ops.convert_to_numpy(variable) for variable in student.variables])
