"""When a `BornAgainSequence` computes soft targets once, and that training on one bench changes nothing."""

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.training import fit_in_order

import keras_ban
from keras_ban import BornAgainSequence, Distiller, SoftTargets
from keras_ban.losses import KnowledgeDistillation

BACKEND = keras.config.backend()


@pytest.fixture
def computed(monkeypatch):
    """How often soft targets were computed."""
    calls, original = [], SoftTargets.from_teacher.__func__

    def counting(cls, *args, **kwargs):
        calls.append(args[1])
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(SoftTargets, "from_teacher", classmethod(counting))
    return calls


def trained(data, model=None, generations=2, eager=True, fit=None, loss=None, **options):
    sequence = BornAgainSequence(model or classifier(), generations=generations, seed=3, **options)
    sequence.compile(keras.optimizers.Adam(0.02), loss or crossentropy(), metrics=["accuracy"], run_eagerly=eager)
    sequence.fit(*data, **{"epochs": 2, "verbose": 0, **(fit or {})})
    return sequence


@pytest.mark.one_backend
def test_arrays_are_cached_and_datasets_are_not_unless_declared_fixed(blobs, computed):
    x, y = blobs
    for data, options, expected in [
        (blobs, {}, 2),
        (blobs, {"soft_targets": "online"}, 0),
        (blobs, {"label_weight": 1}, 0),
        ((Batches(x, y),), {}, 0),
        ((Batches(x, y, fixed=False),), {}, 0),
        ((Batches(x, y, fixed=True),), {}, 2),
        ((Batches(x, y),), {"soft_targets": "cached"}, 2),
    ]:
        computed.clear()
        trained(data, **options)
        assert expected == len(computed), (data, options)


@pytest.mark.one_backend
def test_soft_targets_too_large_for_memory_are_not_kept(blobs, computed, monkeypatch):
    monkeypatch.setattr("keras_ban._soft_target_choice._MOST_BYTES", 96 * 3 * 4 - 1)
    trained(blobs)
    assert not computed
    monkeypatch.setattr("keras_ban._soft_target_choice._MOST_BYTES", 96 * 3 * 4)
    trained(blobs)
    assert 2 == len(computed)


@pytest.mark.one_backend
def test_top_k_is_counted_by_what_it_keeps(blobs, computed, monkeypatch):
    # An example's row: two classes as bytes, two logits and the mass of the third in float16, 8 bytes of 12.
    monkeypatch.setattr("keras_ban._soft_target_choice._MOST_BYTES", 96 * 8 - 1)
    trained(blobs, top_k=2)
    assert not computed
    monkeypatch.setattr("keras_ban._soft_target_choice._MOST_BYTES", 96 * 8)
    trained(blobs)
    assert not computed
    trained(blobs, top_k=2)
    assert 2 == len(computed)


def test_students_of_top_k_soft_targets_are_those_of_a_distiller_that_is_given_them(blobs):
    x, y = blobs
    sequence = trained(blobs, generations=1, top_k=1)
    keras.utils.set_random_seed(sequence.history.records[1].seed)
    distiller = Distiller(student=keras_ban.reborn(sequence.models[0]))
    distiller.compile(keras.optimizers.Adam(0.02), crossentropy(), metrics=["accuracy"], run_eagerly=True)
    targets = SoftTargets.from_teacher(sequence.models[0], x, top_k=1, verbose=0)
    fit_in_order(distiller, sequence.history.records[1].seed, x, y, soft_targets=targets, epochs=2)

    for expected, actual in zip(values(distiller.student), values(sequence.models[1]), strict=True):
        # Keras predicts in another batch size than the sequence, by which the last bits differ.
        np.testing.assert_allclose(expected, actual, rtol=0, atol=1e-5)
    dense = values(trained(blobs, generations=1).models[1])
    assert np.abs(dense[0] - values(sequence.models[1])[0]).max() > 1e-3, "top-k makes no difference here"


def test_top_k_that_cannot_be_kept_is_refused_before_training(blobs):
    for options, message in [
        ({"top_k": 0}, "`top_k` must be a whole number of at least 1, received: 0"),
        ({"top_k": 2, "soft_targets": "online"}, "with soft_targets='online' none are"),
        ({"top_k": 2, "distillation_loss": KnowledgeDistillation(activation="sigmoid")}, "not known to compare those"),
        ({"top_k": 2, "distillation_loss": keras.losses.MeanSquaredError()}, "Leave `top_k` out"),
        ({"top_k": 2, "distillation_loss": {"a": KnowledgeDistillation()}}, "not known to compare those"),
    ]:
        with pytest.raises(ValueError, match=message):
            BornAgainSequence(classifier(), **options)
    sequence = BornAgainSequence(classifier(), top_k=4)
    sequence.compile("adam", crossentropy())
    with pytest.raises(ValueError, match=r"top_k=4; the outputs have shape \(None, 3\)"):
        sequence.fit(*blobs, verbose=0)
    assert not sequence.models


def test_models_of_several_outputs_hear_their_teacher_at_each_step(blobs, computed):
    x, y = blobs
    inputs = keras.Input((8,))
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
    sequence = BornAgainSequence(model, generations=1, seed=3)
    sequence.compile("adam", [crossentropy(), crossentropy()], run_eagerly=True)
    sequence.fit(x, [y, y], verbose=0)
    assert not computed


@pytest.mark.parametrize("dataset", [pytest.param(False, marks=pytest.mark.one_backend), True])
def test_cached_generations_are_online_ones(blobs, dataset):
    data = (Batches(*blobs, fixed=True),) if dataset else blobs
    model = classifier(dropout=0.3, batch_norm=True)
    schedule = keras.callbacks.ReduceLROnPlateau("loss", patience=1, min_delta=10.0)  # lowers the rate in each epoch
    fit = {"validation_data": blobs, "callbacks": [schedule], "epochs": 3}
    cached, online = (trained(data, model, soft_targets=way, fit=fit) for way in ("cached", "online"))

    for generation in range(3):
        for e, a in zip(values(online.models[generation]), values(cached.models[generation]), strict=True):
            # Stored outputs come from a compiled pass, those of this step from an eager one: their last bits differ.
            np.testing.assert_allclose(e, a, rtol=0, atol=1e-5)
        expected, actual = (s.history.records[generation] for s in (online, cached))
        assert expected.metrics == pytest.approx(actual.metrics, rel=1e-4)
        assert expected.logs.keys() == actual.logs.keys()
        for name, epochs in expected.logs.items():
            assert epochs == pytest.approx(actual.logs[name], rel=1e-4)


def test_the_models_share_nothing(blobs):
    first, second, third = trained(blobs).models
    kept = values(first), values(third)
    for variable in second.variables:
        variable.assign(keras.ops.zeros_like(variable.value))

    assert_same(kept[0], values(first))
    assert_same(kept[1], values(third))


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs the step as it is: there is nothing compiled to count")
def test_the_step_of_all_students_is_traced_once(blobs, monkeypatch):
    traced, original = [], Distiller.train_step
    monkeypatch.setattr(Distiller, "train_step", lambda self, *args: traced.append(1) or original(self, *args))
    x, y = blobs
    trained((x, y), generations=1, eager=False)  # 96 examples: three full batches
    once = len(traced)
    traced.clear()
    trained((x, y), generations=3, eager=False)

    assert once == len(traced) > 0


def test_a_way_that_is_none_of_three_is_refused():
    with pytest.raises(ValueError, match="must be 'auto', 'cached' or 'online', received: True"):
        BornAgainSequence(classifier(), soft_targets=True)


@pytest.mark.one_backend
def test_class_weights_and_a_validation_split_reach_cached_students(blobs):
    fit = {"class_weight": {0: 5.0}, "validation_split": 0.25}
    cached, online = (trained(blobs, soft_targets=way, fit=fit) for way in ("cached", "online"))
    for e, a in zip(values(online.models[-1]), values(cached.models[-1]), strict=True):
        np.testing.assert_allclose(e, a, rtol=0, atol=1e-5)
    assert "val_loss" in cached.history.records[-1].logs


def test_probabilities_are_cached_for_models_that_end_in_a_softmax(blobs, computed):
    loss = keras.losses.SparseCategoricalCrossentropy()
    options = {"distillation_loss": KnowledgeDistillation(from_logits=False), "loss": loss}
    model = classifier(activation="softmax")
    cached = trained(blobs, model, soft_targets="auto", **options)
    assert 2 == len(computed)
    online = trained(blobs, model, soft_targets="online", **options)
    for e, a in zip(values(online.models[-1]), values(cached.models[-1]), strict=True):
        np.testing.assert_allclose(e, a, rtol=0, atol=1e-5)


def test_a_model_that_is_built_by_its_first_batch_is_cached_too(blobs, computed):
    cached = trained(blobs, keras.Sequential([keras.layers.Dense(3)]))
    assert 2 == len(computed)
    assert 3 == len(cached.models)


def test_a_model_that_begins_with_flatten_is_cached_like_any_other(blobs, computed):
    x, y = blobs
    layers = [keras.layers.Flatten(), keras.layers.Dense(3)]
    sequence = trained((x.reshape(-1, 2, 4), y), keras.Sequential([keras.Input((2, 4)), *layers]), generations=1)

    assert (1, 2) == (len(computed), len(sequence.models))
