"""What `keras-ban train` makes of the options: losses, batches and learning rates."""

import argparse
import functools
import itertools

import numpy as np
import pytest
from oracles import knowledge_distillation

from keras_ban._src.images import augmentation, rand_augment, recipe
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


def changed(names, x, y, seed=1):
    chosen = argparse.Namespace(augmentation=["flip", *names], batch_size=8, seed=seed)
    batches, nothing = augmentation.in_batches(chosen, x, y)
    assert nothing is None
    return batches


@pytest.mark.one_backend
@pytest.mark.parametrize("names", [["mixup"], ["cutmix"], ["mixup", "cutmix"]])
def test_mixed_images_have_labels_in_the_shares_of_what_was_mixed(names):
    y = np.arange(44) % 4
    # Channel c of an image is bright if its class is c; of the fourth class none is.
    x = np.zeros((44, 20, 24, 3), "uint8")
    for c in range(3):
        x[y == c, ..., c] = 200

    batches = changed(names, x, np.eye(4, dtype="float32")[y])

    assert [8, 8, 8, 8, 8, 4] == [len(batches[index][1]) for index in range(len(batches))]
    mixed, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
    assert ("float32", "float32") == (mixed.dtype, labels.dtype)
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)  # float32
    np.testing.assert_allclose(labels[:, :3], mixed.mean(axis=(1, 2), dtype="float64") / 200, atol=1e-6)  # float32
    shares = labels.max(axis=-1)
    assert 0 < np.mean((0.01 < shares) & (shares < 0.99))
    whole = (mixed == 0) | (mixed == 200)
    assert [True] * ("cutmix" in names) + [False] * ("mixup" in names) == sorted(
        {bool(whole[i : i + 8].all()) for i in range(0, 44, 8)}, reverse=True
    )
    same, _ = augmentation.in_batches(argparse.Namespace(augmentation=["flip"]), x, y)
    assert same is x


@pytest.mark.one_backend
def test_each_epoch_of_each_model_has_all_images_in_an_order_of_its_own_which_the_seed_repeats():
    x = np.arange(20, dtype="uint8")[:, None, None, None].repeat(3, axis=-1)
    # Without a name nothing changes but the order.
    make = functools.partial(augmentation.ChangedBatches, x, np.eye(20, dtype="float32"), [], 8)
    orders = {}
    for at in itertools.product((1, 2), (0, 1), (0, 1)):
        batches, again = make(at[0]), make(at[0])
        batches.model, batches.epoch = again.model, again.epoch = at[1:]
        images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        # Out of turn.
        np.testing.assert_array_equal(again[2][0], images[16:])
        np.testing.assert_array_equal(labels.argmax(axis=-1), images[:, 0, 0, 0])
        orders[at] = tuple(labels.argmax(axis=-1).tolist())
    assert all(set(range(20)) == set(order) for order in orders.values())
    assert len(orders) == len(set(orders.values()))


@pytest.mark.one_backend
@pytest.mark.parametrize("operation", rand_augment.OPERATIONS)
def test_an_operation_of_randaugment_keeps_the_form_of_images_and_repeats_with_its_random_numbers(operation):
    image = np.random.default_rng(0).integers(30, 180, (40, 50, 3)).astype("uint8")

    results = [operation(image, np.random.default_rng(seed)) for seed in (2, 2, 4)]

    assert all((image.shape, image.dtype) == (each.shape, each.dtype) for each in results)
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(image, results[0])
    draws = operation.__name__ not in ("_auto_contrast", "_equalize")
    assert draws != np.array_equal(results[0], results[2])


@pytest.mark.one_backend
def test_translation_and_shear_continue_an_image_by_its_mirror_image():
    image = np.arange(8, dtype="uint8")[None, :, None].repeat(3, axis=0).repeat(3, axis=2)
    mirrored = np.pad(image[0, :, 0], 8, mode="symmetric")
    shifts = set()
    for seed in range(40):
        by_name = {each.__name__: each(image, np.random.default_rng(seed)) for each in rand_augment.OPERATIONS[6:]}
        for row in [*by_name["_translate_x"], *by_name["_shear_x"]]:
            (found,) = (shift for shift in range(-4, 5) if np.array_equal(mirrored[8 + shift :][:8], row[:, 0]))
            shifts.add(found)
        # Each column has one value alone.
        np.testing.assert_array_equal(image, by_name["_translate_y"])
    assert set(range(-4, 5)) == shifts


@pytest.mark.one_backend
def test_the_learning_rate_rises_and_falls_along_a_cosine():
    chosen = argparse.Namespace(optimizer="sgd", learning_rate=0.1, warmup=1, epochs=3, weight_decay=0.0)
    rate = recipe.optimizer(chosen, steps=10)._learning_rate

    actual = [float(rate(step)) for step in (0, 5, 10, 20, 30)]
    np.testing.assert_allclose([0.0, 0.05, 0.1, 0.05, 0.0], actual, atol=1e-7)  # float32
