"""Temperatures and label weights that change over a run."""

import keras
import numpy as np
import oracles
import pytest
from helpers.data import random_logits
from helpers.models import classifier, crossentropy
from keras import ops

import keras_ban
from keras_ban._src.sequence import recipes
from keras_ban.losses import DIST, DecoupledKnowledgeDistillation, KnowledgeDistillation, PermutedDarkKnowledge

BACKEND = keras.config.backend()
X = np.random.default_rng(0).standard_normal((16, 8)).astype("float32")
LABELS = np.arange(16) % 3
TEACHER = random_logits((16, 3), 3)
Y = {"labels": LABELS, "soft_targets": TEACHER}


def rising(step):
    """1, 2, 3, ..."""
    return 1.0 + ops.cast(step, "float32")


def falling(step):
    """1, 1/2, 1/4, ..."""
    return 0.5 ** ops.cast(step, "float32")


def distiller(loss=None, label_weight=0.5, optimizer=None, **compile_arguments):
    keras.utils.set_random_seed(0)
    model = keras_ban.Distiller(student=classifier(), distillation_loss=loss, label_weight=label_weight)
    model.compile(optimizer or keras.optimizers.SGD(0.0), crossentropy(), **compile_arguments)
    return model


def fit(model, epochs=3, batch_size=16):
    return model.fit(X, Y, batch_size=batch_size, epochs=epochs, shuffle=False, verbose=0).history


@pytest.mark.parametrize("run_eagerly", [False, True])
def test_temperature_and_label_weight_are_those_of_each_step(run_eagerly):
    model = distiller(KnowledgeDistillation(temperature=rising), falling, run_eagerly=run_eagerly)
    student = model.predict(X, verbose=0)

    logs = fit(model)

    assert [1, 2, 3] == logs["temperature"]
    expected = [oracles.knowledge_distillation(TEACHER, student, temperature).mean() for temperature in (1, 2, 3)]
    np.testing.assert_allclose(logs["distillation_loss"], expected, rtol=1e-5)  # float32
    weights = np.array([1, 0.5, 0.25])
    np.testing.assert_array_equal(weights, logs["label_weight"])
    expected = weights * logs["label_loss"] + (1 - weights) * logs["distillation_loss"]
    np.testing.assert_allclose(logs["loss"], expected, rtol=1e-6)  # float32
    assert abs(logs["label_loss"][0] - logs["distillation_loss"][0]) > 0.1


def test_training_is_that_with_each_steps_numbers_in_turn():
    scheduled = distiller(KnowledgeDistillation(temperature=rising), falling, keras.optimizers.SGD(0.5))
    fit(scheduled)
    keras.utils.set_random_seed(0)
    student = classifier()
    for step in range(3):
        model = keras_ban.Distiller(
            student=student, distillation_loss=KnowledgeDistillation(1.0 + step), label_weight=0.5**step
        )
        model.compile(keras.optimizers.SGD(0.5), crossentropy(), run_eagerly=True)
        model.train_on_batch(X, Y if step else LABELS)

    for expected, actual in zip(student.get_weights(), scheduled.student.get_weights(), strict=True):
        np.testing.assert_allclose(expected, actual, atol=1e-6)  # float32, compiled differently


def test_several_steps_per_execution_have_each_their_own():
    if BACKEND == "torch":
        pytest.skip("Keras demands `steps_per_execution=1` on torch")

    logs = fit(distiller(KnowledgeDistillation(temperature=rising), falling, steps_per_execution=2), 2, batch_size=4)

    assert [2.5, 6.5] == logs["temperature"]  # steps 0 to 3, and 4 to 7
    np.testing.assert_allclose(logs["label_weight"], [15 / 32, 15 / 512], rtol=1e-6)


def test_accumulated_gradients_are_one_step():
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)

    model = distiller(KnowledgeDistillation(temperature=rising), optimizer=optimizer)

    assert [1, 1, 2, 2] == fit(model, 4)["temperature"]


@pytest.mark.one_backend
@pytest.mark.parametrize("loss_class", [DIST, DecoupledKnowledgeDistillation, PermutedDarkKnowledge])
def test_every_loss_with_a_temperature_takes_a_schedule(loss_class):
    known = {"seed": 1} if loss_class is PermutedDarkKnowledge else {}
    scheduled = loss_class(temperature=rising, **known)
    constant = loss_class(temperature=3.0, **known)
    student = random_logits((16, 3), 3, seed=5)

    value = scheduled({**Y, "step": 2}, student)

    np.testing.assert_allclose(float(value), float(constant(Y, student)), rtol=1e-6)


@pytest.mark.one_backend
def test_mixed_precision_counts_steps_too():
    keras.config.set_dtype_policy("mixed_float16")  # Keras wraps the optimizer in one that scales losses

    assert [1, 2, 3] == fit(distiller(KnowledgeDistillation(temperature=rising)))["temperature"]


def test_a_saved_distiller_goes_on_at_its_step(tmp_path):
    schedule = keras.optimizers.schedules.PolynomialDecay(8.0, 4, 1.0)
    weight = keras.optimizers.schedules.PolynomialDecay(0.8, 4, 0.1)
    model = distiller(KnowledgeDistillation(schedule), weight, keras.optimizers.SGD(0.1))
    before = fit(model, 2)
    model.save(tmp_path / "distiller.keras")

    logs = fit(keras.saving.load_model(tmp_path / "distiller.keras"), 2)

    expected = fit(model, 2)
    for name in ("temperature", "label_weight", "loss"):
        np.testing.assert_allclose(expected[name], logs[name], rtol=1e-5)
    assert 4 == len({*before["temperature"], *logs["temperature"]})


def test_each_generation_of_a_sequence_begins_its_schedule_again(blobs):
    loss = KnowledgeDistillation(temperature=rising)
    sequence = keras_ban.BornAgainSequence(classifier(), generations=2, distillation_loss=loss, seed=0)
    sequence.compile("sgd", crossentropy())

    history = sequence.fit(*blobs, epochs=2, batch_size=48, verbose=0)

    assert [[1.5, 3.5]] * 2 == [record.logs["temperature"] for record in history.records[1:]]


@pytest.mark.one_backend
def test_validation_reports_the_student_alone():
    model = distiller(KnowledgeDistillation(temperature=rising), falling)

    logs = model.fit(X, Y, validation_data=(X, LABELS), batch_size=16, verbose=0).history

    assert {"val_loss"} == {name for name in logs if name.startswith("val_")}
    assert {"loss"} == set(model.evaluate(X, LABELS, return_dict=True, verbose=0))


@pytest.mark.one_backend
def test_what_a_schedule_needs_is_said():
    with pytest.raises(ValueError, match="changes with the training step, which a `Distiller` tells it"):
        KnowledgeDistillation(temperature=rising)(TEACHER, TEACHER)
    with pytest.raises(ValueError, match="`temperature` must be a positive, finite number, received: 0.0"):
        KnowledgeDistillation(temperature=lambda step: 0.0 * ops.cast(step, "float32"))
    with pytest.raises(ValueError, match=r"`label_weight` must be a number in \[0, 1\], received: 2.0"):
        keras_ban.Distiller(student=classifier(), label_weight=lambda step: 2.0)
    with pytest.raises(ValueError, match="`compile` needs a `loss` for the labels"):
        keras_ban.Distiller(student=classifier(), label_weight=falling).compile("sgd")


def function_of_keras(module, name):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


# What a file may name in place of a schedule. Each would be called with 0.
OF_KERAS = {
    "set_max_epochs": function_of_keras("keras.config", "set_max_epochs"),
    "load_data": function_of_keras("keras.datasets.mnist", "load_data"),
    "eye": function_of_keras("keras.ops", "eye"),
    "sigmoid": function_of_keras("builtins", "sigmoid"),
    "Zeros": {"module": "keras.initializers", "class_name": "Zeros", "config": {}, "registered_name": None},
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", OF_KERAS)
@pytest.mark.parametrize("place", ["label_weight", "temperature", "over training", "list"])
def test_a_file_cannot_name_a_function_of_keras_to_call(place, name):
    config = distiller(KnowledgeDistillation()).get_config()
    if place == "label_weight":
        config["label_weight"] = OF_KERAS[name]
    elif place == "list":
        config["label_weight"] = [0.5, OF_KERAS[name]]
    elif place == "over training":
        schedule = keras.saving.serialize_keras_object(keras_ban.OverTraining(falling))
        config["label_weight"] = {**schedule, "config": {"function": OF_KERAS[name]}}
    else:
        config["distillation_loss"]["config"]["temperature"] = OF_KERAS[name]

    with pytest.raises(ValueError, match=f"names '{name}' as a schedule .* no function that you have registered"):
        keras_ban.Distiller.from_config(config)


@pytest.mark.one_backend
def test_a_run_cannot_name_a_function_of_keras_to_call():
    with pytest.raises(ValueError, match="'eye' as a schedule .`label_weight`."):
        recipes.from_config("label_weight", [OF_KERAS["eye"]])
    own = {"class_name": "function", "config": "mine", "module": "builtins", "registered_name": "mine"}
    assert falling is recipes.from_config("label_weight", own, {"mine": falling})
