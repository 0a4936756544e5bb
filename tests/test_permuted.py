"""Permutations of dark knowledge: which, how random, and where their random numbers come from."""

import itertools

import keras
import numpy as np
import pytest
from helpers.data import random_logits
from helpers.models import classifier, crossentropy, values
from helpers.tables import cases
from keras import ops

import keras_ban
from keras_ban._src.losses.permuted import permute_all_but_largest
from keras_ban.losses import KnowledgeDistillation, PermutedDarkKnowledge


def permuted(array, generator):
    return ops.convert_to_numpy(permute_all_but_largest(ops.convert_to_tensor(array), generator))


# Examples, tokens and classes. One shape for all, because JAX compiles each op for each shape.
SHAPE = (30, 200, 4)


def one_row(largest):
    """The same row for all tokens: its values are its places, but for the largest."""
    row = np.arange(4, dtype="float32")
    row[largest] = 100
    return np.broadcast_to(row, SHAPE)


@cases("shape", SHAPE, on_one_backend=[(50, 7)])
def test_the_largest_stays_and_the_others_are_the_same_in_another_order(shape):
    logits = random_logits(shape, 3)

    result = permuted(logits, keras.random.SeedGenerator(0))

    np.testing.assert_array_equal(logits.argmax(axis=-1), result.argmax(axis=-1))
    np.testing.assert_array_equal(logits.max(axis=-1), result.max(axis=-1))
    np.testing.assert_array_equal(np.sort(logits, axis=-1), np.sort(result, axis=-1))


@cases("largest", 2, on_one_backend=[0, 3])
def test_every_permutation_of_the_others_is_equally_likely(largest):
    rows = permuted(one_row(largest), keras.random.SeedGenerator(1)).reshape(-1, 4)

    seen, counts = np.unique(np.delete(rows, largest, axis=-1), axis=0, return_counts=True)

    others = np.delete(np.arange(4.0), largest)
    np.testing.assert_array_equal(sorted(itertools.permutations(others)), seen)
    # 1000 of each, with a standard deviation of 29: five of them.
    np.testing.assert_allclose(counts, np.full(6, 1000), atol=145)


def test_examples_tokens_and_steps_are_permuted_each_on_its_own():
    generator = keras.random.SeedGenerator(0)

    steps = np.stack([permuted(one_row(1), generator) for _ in range(2)])

    # Of 6**200 permutations of an example's tokens, and 6**60 of a token in all examples and steps.
    assert 60 == len(np.unique(steps.reshape(60, -1), axis=0))
    assert 200 == len(np.unique(steps.swapaxes(0, 2).reshape(200, -1), axis=0))


def test_the_first_of_equally_large_outputs_stays():
    rows = permuted(np.broadcast_to(np.array([1.0, 5.0, 5.0, 0.0], "float32"), SHAPE), keras.random.SeedGenerator(0))

    assert {5.0} == set(rows[..., 1].ravel())
    assert {0.0, 1.0, 5.0} == set(rows[..., 0].ravel())


@pytest.mark.one_backend
def test_two_classes_leave_nothing_to_permute():
    teacher, student = random_logits((8, 2), 3, seed=1), random_logits((8, 2), 3, seed=2)

    assert float(KnowledgeDistillation()(teacher, student)) == float(PermutedDarkKnowledge()(teacher, student))


def test_the_same_seed_gives_the_same_losses_and_another_gives_others():
    teacher, student = random_logits((16, 3), 3, seed=1), random_logits((16, 3), 3, seed=2)
    runs = []
    for seed in (1, 1, 1000):  # under torch, Keras adds seed and count: 2 would be one step ahead
        loss = PermutedDarkKnowledge(seed=seed)
        runs.append([float(loss(teacher, student)) for _ in range(4)])

    assert runs[0] == runs[1]
    assert 8 == len({*runs[0], *runs[2]})


@pytest.mark.one_backend
def test_a_seed_that_is_no_whole_number_is_refused():
    with pytest.raises(ValueError, match="`seed` must be a"):
        PermutedDarkKnowledge(seed=0.5)


# One example and a learning rate of 0: whatever differs from step to step is the permutation.
def frozen(seed=None, label_weight=0.0, loss=None, **compile_arguments):
    keras.utils.set_random_seed(0)
    student = classifier()
    loss = PermutedDarkKnowledge(seed=seed) if loss is None else loss
    model = keras_ban.Distiller(student=student, distillation_loss=loss, label_weight=label_weight)
    model.compile(keras.optimizers.SGD(0.0), crossentropy(), **compile_arguments)
    return model


X = np.ones((16, 8), "float32")
Y = {"labels": np.zeros(16, "int32"), "soft_targets": random_logits((16, 3), 2)}


def losses(model, epochs=1, **arguments):
    return model.fit(X, Y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, **arguments).history["loss"]


def test_every_step_of_fit_draws_anew_and_a_new_distiller_draws_the_same():
    first = losses(frozen(5), epochs=5)

    assert 5 == len(set(first))
    assert first == losses(frozen(5), epochs=5)
    # Eager steps, and the loss on its own, draw what compiled steps draw.
    eager = losses(frozen(5, run_eagerly=True), epochs=5)
    assert eager == losses(frozen(5, run_eagerly=True), epochs=5)
    np.testing.assert_allclose(eager, first, rtol=1e-5)
    keras.utils.set_random_seed(0)
    student, loss = classifier().predict(X, verbose=0), PermutedDarkKnowledge(seed=5)
    np.testing.assert_allclose([float(loss(Y["soft_targets"], student)) for _ in range(5)], first, rtol=1e-5)


@pytest.mark.one_backend
def test_a_loss_without_a_seed_is_drawn_by_keras_own_seed():
    keras.utils.set_random_seed(1)
    loss = PermutedDarkKnowledge()

    runs = []
    for seed in (0, 0, 1):
        keras.utils.set_random_seed(seed)
        initializer = keras.initializers.RandomNormal(seed=1)
        student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3, kernel_initializer=initializer)])
        model = keras_ban.Distiller(student=student, distillation_loss=loss, label_weight=0)
        model.compile(keras.optimizers.SGD(0.0))
        runs.append(losses(model, epochs=3))

    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_training_leaves_the_loss_that_was_passed_as_it_was():
    loss = PermutedDarkKnowledge(seed=5)
    model = frozen(loss=loss)
    losses(model)

    np.testing.assert_array_equal([5, 0], ops.convert_to_numpy(loss.seed_generator.state))
    assert model.distillation_loss is not loss
    np.testing.assert_array_equal([5, 1], ops.convert_to_numpy(model.distillation_loss.seed_generator.state))


def test_a_saved_distiller_goes_on_where_it_stopped(tmp_path):
    expected = losses(frozen(5), epochs=5)[2:]
    model = frozen(5)
    losses(model, epochs=2)
    model.save(tmp_path / "distiller.keras")
    model.save_weights(tmp_path / "distiller.weights.h5")
    other = frozen(5)
    other.load_weights(tmp_path / "distiller.weights.h5")

    assert expected == losses(keras.saving.load_model(tmp_path / "distiller.keras"), epochs=3)
    assert expected == losses(other, epochs=3)


def test_weights_of_a_distiller_without_random_numbers_load_into_one_with_them(tmp_path):
    frozen(loss=KnowledgeDistillation()).save_weights(tmp_path / "plain.weights.h5")
    model = frozen(5)

    model.load_weights(tmp_path / "plain.weights.h5")

    np.testing.assert_array_equal([5, 0], ops.convert_to_numpy(model.distillation_loss.seed_generator.state))


def test_each_of_several_outputs_draws_on_its_own():
    inputs = keras.Input((8,))
    zeros = {"kernel_initializer": "zeros"}
    student = keras.Model(inputs, [keras.layers.Dense(3, **zeros)(inputs), keras.layers.Dense(3, **zeros)(inputs)])
    teacher = random_logits((16, 3), 2)
    alone = [PermutedDarkKnowledge(seed=seed) for seed in (1, 2)]
    zeros = np.zeros((16, 3), "float32")
    model = keras_ban.Distiller(student=student, distillation_loss=alone, label_weight=0)
    model.compile(keras.optimizers.SGD(0.0))
    expected = [sum(float(loss(teacher, zeros)) for loss in alone) for _ in range(3)]
    y = {"soft_targets": [teacher, teacher]}

    logs = model.fit(X, y, batch_size=16, epochs=3, shuffle=False, verbose=0).history

    np.testing.assert_allclose(expected, logs["loss"], rtol=1e-5)  # float32, compiled or not


@cases("seed", None, on_one_backend=[7])
def test_a_sequence_permutes_for_each_generation_as_a_new_distiller_would(blobs, seed):
    x, y = blobs
    models = []
    # Cached soft targets train all generations on one bench; without them each has a Distiller of its own.
    for soft_targets in ("cached", "online"):
        loss = PermutedDarkKnowledge(seed=seed)
        sequence = keras_ban.BornAgainSequence(
            classifier(), 2, loss, label_weight=0.0, seed=0, soft_targets=soft_targets
        )
        sequence.compile(keras.optimizers.SGD(0.1), crossentropy())
        sequence.fit(x, y, epochs=1, batch_size=48, shuffle=False, verbose=0)
        models.append(sequence.models)

    for cached, online in zip(*models, strict=True):
        for expected, actual in zip(values(online), values(cached), strict=True):
            np.testing.assert_allclose(expected, actual, atol=1e-5)  # the teacher's outputs, compiled or not
