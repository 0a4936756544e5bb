"""A finished generation keeps its weights and the configuration of its optimizer, but not the optimizer's slots."""

import copy
import gc

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.models import assert_same, classifier, crossentropy, values
from keras import optimizers

from keras_ban import BornAgainSequence, Distiller, EnsembleModel
from keras_ban._src.sequence.recipes import CompileArguments

X, Y = make_blobs()
FIT = {"batch_size": 48, "verbose": 0, "shuffle": False}


def names_of_all():
    """Optimizers by name: what they have beside the weights, and the values with which it begins, differ."""
    made = {
        "one slot": lambda: optimizers.SGD(0.1, momentum=0.9),
        "two slots": lambda: optimizers.Adam(0.01),
        "a schedule": lambda: optimizers.Adam(optimizers.schedules.CosineDecay(0.01, 100)),
        "slots that are not zero": lambda: optimizers.Adagrad(0.1, initial_accumulator_value=0.3),
        "slots of other shapes": lambda: optimizers.Adafactor(0.01),
        "a product": lambda: optimizers.Nadam(0.01),
        "an average of weights": lambda: optimizers.SGD(0.1, use_ema=True),
        "sums of gradients": lambda: optimizers.Adam(0.01, gradient_accumulation_steps=2),
        "a scale of the loss": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.01)),
    }
    if hasattr(optimizers, "ScheduleFreeAdamW"):
        made["slots that are weights"] = lambda: optimizers.ScheduleFreeAdamW(0.01)
    return made


OPTIMIZERS = names_of_all()


def trained(generations=1, units=16, directory=None, **arguments):
    sequence = BornAgainSequence(classifier(units=units), generations, seed=3, directory=directory, **arguments)
    sequence.compile("adam", crossentropy(), metrics=["accuracy"], run_eagerly=True)
    sequence.fit(X, Y, epochs=1, batch_size=96, verbose=0, validation_data=(X, Y))
    return sequence


def finished(optimizer="adam", units=16, run_eagerly=True):
    """A model that is compiled as finished generations are."""
    model = classifier(units=units)
    CompileArguments(optimizer, ["accuracy"], None, loss=crossentropy(), run_eagerly=run_eagerly).compile(model)
    return model


def numbers(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


def of_plain_keras(model, optimizer):
    """A model of the same weights that Keras compiles, and whose optimizer is built."""
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    plain.compile(optimizer, crossentropy(), metrics=["accuracy"], run_eagerly=model.run_eagerly)
    plain.optimizer.build(plain.trainable_variables)
    return plain


@pytest.mark.parametrize("soft_targets", ["cached", "online"])
def test_a_finished_generation_has_no_slots_and_no_gradients(soft_targets, tmp_path):
    sequence = trained(generations=2, soft_targets=soft_targets, directory=tmp_path)
    for model in [*sequence.models, sequence.ensemble(), *BornAgainSequence.load(tmp_path).models]:
        assert 2 == numbers(model.optimizer.variables)  # The step and the learning rate.
        assert all(getattr(variable.value, "grad", None) is None for variable in model.variables)


@pytest.mark.parametrize(
    ("name", "run_eagerly"), [("two slots", False), ("two slots", True), ("a scale of the loss", True)]
)
def test_slots_are_made_to_train_alone(name, run_eagerly):
    model = finished(OPTIMIZERS[name](), run_eagerly=run_eagerly)
    plain = of_plain_keras(model, OPTIMIZERS[name]())
    before = numbers(model.optimizer.variables)
    for use in (
        lambda each: each.evaluate(X, Y, batch_size=32, verbose=0),
        lambda each: each.test_on_batch(X, Y),
        lambda each: each.predict(X, verbose=0).tolist(),
        lambda each: each.predict_on_batch(X).tolist(),
    ):
        assert use(plain) == use(model)
        assert before == numbers(model.optimizer.variables) and not model.optimizer.built
    with pytest.raises(ValueError, match="not recognized"):
        model.evaluate(X, Y, unknown=1)
    assert not model.optimizer.built
    for each in (plain, model):
        each.train_on_batch(X, Y)
        each.evaluate(X, Y, verbose=0)
    assert_same([*plain.get_weights(), *values(plain.optimizer)], [*model.get_weights(), *values(model.optimizer)])
    model.compile("sgd", crossentropy())
    model.evaluate(X, Y, verbose=0)  # As Keras does it.


def test_nothing_that_trains_a_generation_outlives_fit():
    def distillers():
        gc.collect()
        return {id(each) for each in gc.get_objects() if issubclass(type(each), Distiller)}

    before = distillers()
    sequence = trained()
    assert 2 == len(sequence.models) and not distillers() - before


def size_of(model):
    """Bytes of the weights, float32."""
    return 4 * sum(weight.size for weight in model.get_weights())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_file_has_what_keras_loads_as_a_new_optimizer_in_the_size_of_the_weights(name, tmp_path):
    model = finished(OPTIMIZERS[name](), units=4000)
    expected = of_plain_keras(model, OPTIMIZERS[name]())

    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")

    assert_same(expected.get_weights(), loaded.get_weights())
    assert_same(values(expected.optimizer), values(loaded.optimizer))
    copies = 2 if name == "slots that are weights" else 1
    assert (tmp_path / "model.keras").stat().st_size < copies * size_of(model) + 100_000
    expected.save(tmp_path / "plain.keras")
    assert size_of(model) + 100_000 < (tmp_path / "plain.keras").stat().st_size


def test_an_ensemble_is_a_file_of_the_size_of_its_members(tmp_path):
    sequence = trained(units=4000)
    ensemble = sequence.ensemble()
    ensemble.save(tmp_path / "ensemble.keras")

    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")

    assert (tmp_path / "ensemble.keras").stat().st_size < 2 * size_of(sequence.models[0]) + 200_000
    assert_same([ensemble.predict(X, verbose=0)], [loaded.predict(X, verbose=0)])
    assert ensemble.evaluate(X, Y, verbose=0) == loaded.evaluate(X, Y, verbose=0)
    # Nor are there slots in memory then.
    assert [2, 2, 2] == [numbers(each.optimizer.variables) for each in (loaded, *loaded.members)]
    expected, actual = sequence.models[1], loaded.members[1]
    assert expected.evaluate(X, Y, verbose=0) == actual.evaluate(X, Y, verbose=0)
    for each in (ensemble, loaded):
        each.fit(X, Y, **FIT)
    assert_same(ensemble.get_weights(), loaded.get_weights())


@pytest.mark.parametrize("name", ["one slot", "a schedule", "a scale of the loss"])
def test_an_ensemble_is_loaded_with_the_slots_of_what_was_trained(name, tmp_path):
    members = [finished(OPTIMIZERS[name]()) for _ in range(2)]
    members[0].optimizer.iterations.assign(5)
    members[1].fit(X, Y, **FIT)
    ensemble = EnsembleModel(members)
    ensemble.compile(OPTIMIZERS[name](), crossentropy(), run_eagerly=True)
    ensemble.fit(X, Y, **FIT)
    ensemble.save(tmp_path / "ensemble.keras")

    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")

    assert not loaded.members[0].optimizer.built
    for expected, actual in zip((ensemble, *members), (loaded, *loaded.members), strict=True):
        assert_same(
            [*expected.get_weights(), *values(expected.optimizer)], [*actual.get_weights(), *values(actual.optimizer)]
        )
        assert expected.optimizer.get_config() == actual.optimizer.get_config()


@pytest.mark.skipif(not hasattr(optimizers, "MultiOptimizer"), reason="This Keras has none.")
def test_an_optimizer_that_divides_the_weights_among_others_has_its_slots_and_can_be_loaded(tmp_path):
    each = optimizers.OptimizerMap(optimizers.Adam())
    each["dense"] = optimizers.SGD(0.1, momentum=0.9)
    model = finished(optimizers.MultiOptimizer(each))
    model.save(tmp_path / "model.keras")
    assert_same(values(model.optimizer), values(keras.saving.load_model(tmp_path / "model.keras").optimizer))


def test_slots_of_bfloat16_take_no_space_either(tmp_path):
    keras.config.set_dtype_policy("bfloat16")
    model = finished(units=4000)
    model.save(tmp_path / "model.keras")
    assert (tmp_path / "model.keras").stat().st_size < size_of(model) / 2 + 100_000
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert numbers(loaded.optimizer.variables) == 2 + 2 * numbers(loaded.trainable_variables)
    assert all(value.astype("float32").max() == 0 for value in values(loaded.optimizer)[2:])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_finished_generation_is_trained_further_as_plain_keras_trains_it(name, tmp_path):
    # Compiled steps on TensorFlow would let an optimizer begin with zeros in the place of weights.
    model = finished(OPTIMIZERS[name](), run_eagerly=name != "slots that are weights")
    model.save(tmp_path / "model.keras")
    expected = of_plain_keras(model, OPTIMIZERS[name]())

    for each in (expected, model, keras.saving.load_model(tmp_path / "model.keras")):
        each.fit(X, Y, epochs=2, **FIT)
        assert_same(expected.get_weights(), each.get_weights())
        assert_same(values(expected.optimizer), values(each.optimizer))
        # Now there is something to keep.
        each.save(tmp_path / "trained.keras")
        assert_same(values(each.optimizer), values(keras.saving.load_model(tmp_path / "trained.keras").optimizer))


def test_what_was_changed_of_the_new_optimizer_is_kept(tmp_path):
    model = finished()
    model.optimizer.learning_rate = 0.25
    model.optimizer.iterations.assign(7)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").optimizer
    assert (0.25, 7) == (float(loaded.learning_rate), int(loaded.iterations))


def test_weights_and_slots_of_a_file_are_loaded_into_a_finished_generation(tmp_path):
    model = finished()
    other = of_plain_keras(model, "adam")
    other.fit(X, Y, **FIT)
    other.save_weights(tmp_path / "model.weights.h5")

    model.load_weights(tmp_path / "model.weights.h5")

    assert_same([*other.get_weights(), *values(other.optimizer)], [*model.get_weights(), *values(model.optimizer)])


def test_copies_of_a_finished_generation_and_weights_in_parts_are_whole(tmp_path):
    model = finished()
    expected = [*model.get_weights(), *values(of_plain_keras(model, "adam").optimizer)]
    copied = copy.deepcopy(model)
    assert_same(expected, [*copied.get_weights(), *values(copied.optimizer)])
    model.save_weights(tmp_path / "model.weights.json", max_shard_size=1e-6)
    again = of_plain_keras(finished(), "adam")
    again.load_weights(tmp_path / "model.weights.json")
    assert_same(expected, [*again.get_weights(), *values(again.optimizer)])
