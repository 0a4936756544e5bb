"""What `keras-ban train` makes of the options: losses, batches and learning rates."""

import argparse

import numpy as np
import pytest
from oracles import knowledge_distillation

from keras_ban._src.images import augmentation, recipe
from keras_ban._src.images.choices import LOSSES


# Each loss has tests of its own on all backends.
@pytest.mark.parametrize(
    "objective",
    ["KnowledgeDistillation", *(pytest.param(name, marks=pytest.mark.one_backend) for name in list(LOSSES)[1:])],
)
def test_objectives_take_outputs_as_probabilities(objective):
    rng = np.random.default_rng(1)
    teacher, student = (rng.dirichlet(np.ones(4), 6) for _ in range(2))
    labels = np.eye(4)[rng.integers(0, 4, 6)]
    _, temperature, _ = LOSSES[objective]
    loss = recipe.distillation_loss(argparse.Namespace(distillation_loss=objective, temperature=temperature))

    value = float(loss({"labels": labels, "soft_targets": teacher}, student))

    if objective == "KnowledgeDistillation":
        expected = knowledge_distillation(np.log(teacher), np.log(student), 4.0).mean()
        np.testing.assert_allclose(expected, value, rtol=1e-5)  # float32
    if objective == "ConfidenceWeighted":
        weights = teacher.max(axis=-1)
        expected = (weights * -np.log(student[labels == 1])).sum() / weights.sum()
        np.testing.assert_allclose(expected, value, rtol=1e-5)  # float32
    # The same distributions as logits, once normalised: what a softmax of a softmax would not give.
    as_logits = type(loss).from_config({**loss.get_config(), "from_logits": True})
    if objective != "PermutedDarkKnowledge":  # It draws at random.
        of_logits = float(as_logits({"labels": labels, "soft_targets": np.log(teacher)}, np.log(student)))
        np.testing.assert_allclose(of_logits, value, rtol=1e-5)  # float32
    assert loss.from_logits is False


@pytest.mark.one_backend
@pytest.mark.parametrize("names", [["mixup"], ["cutmix"], ["mixup", "cutmix"]])
def test_mixed_images_have_labels_in_the_shares_of_what_was_mixed(names):
    pytest.importorskip("keras_cv", reason="KerasCV, or the TensorFlow that it needs, is not installed")
    y = np.arange(40) % 4
    # Channel c of an image is bright if its class is c; of the fourth class none is.
    x = np.zeros((40, 64, 64, 3), "uint8")
    for c in range(3):
        x[y == c, ..., c] = 200
    chosen = argparse.Namespace(augmentation=["flip", *names], batch_size=8, seed=1)

    dataset, nothing = augmentation.in_batches(chosen, x, np.eye(4, dtype="float32")[y])

    assert nothing is None
    mixed, labels = (np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True))
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)  # float32
    # Less than a pixel of each side of the box, of 64x64.
    tolerance = 129 / 64**2 if "cutmix" in names else 1e-5  # float32
    np.testing.assert_allclose(labels[:, :3], mixed.mean(axis=(1, 2), dtype="float64") / 200, atol=tolerance)
    assert 0 < np.mean(labels.max(axis=-1) < 0.999)
    same, _ = augmentation.in_batches(argparse.Namespace(augmentation=["flip"]), x, y)
    assert same is x


@pytest.mark.one_backend
def test_the_learning_rate_rises_and_falls_along_a_cosine():
    chosen = argparse.Namespace(optimizer="sgd", learning_rate=0.1, warmup=1, epochs=3, weight_decay=0.0)
    rate = recipe.optimizer(chosen, steps=10)._learning_rate

    actual = [float(rate(step)) for step in (0, 5, 10, 20, 30)]
    np.testing.assert_allclose([0.0, 0.05, 0.1, 0.05, 0.0], actual, atol=1e-7)  # float32
