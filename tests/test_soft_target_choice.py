"""When a `BornAgainSequence` computes soft targets once, and that training on one bench changes nothing."""

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.sequences import FIT, by_hand, compiled

from keras_ban import Distiller, SoftTargets
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


def trained(data, model=None, fit=None, **options):
    """One student, unless told otherwise, trained for an epoch of one step."""
    sequence = compiled(model, **options)
    sequence.fit(*data, **{**FIT, **(fit or {})})
    return sequence


def assert_close(expected, actual):
    for e, a in zip(values(expected), values(actual), strict=True):
        # Stored outputs come from a compiled pass, those of this step from an eager one: their last bits differ.
        np.testing.assert_allclose(e, a, rtol=0, atol=1e-5)


@pytest.mark.one_backend
def test_arrays_are_cached_and_datasets_are_not_unless_declared_fixed(blobs, computed):
    for data, options, expected in [
        (blobs, {"generations": 2}, 2),
        (blobs, {"soft_targets": "online"}, 0),
        (blobs, {"label_weight": 1}, 0),
        ((Batches(*blobs),), {}, 0),
        ((Batches(*blobs, fixed=False),), {}, 0),
        ((Batches(*blobs, fixed=True),), {"generations": 2}, 2),
        ((Batches(*blobs),), {"soft_targets": "cached", "generations": 2}, 2),
    ]:
        computed.clear()
        trained(data, fit={"batch_size": None}, **options)
        assert expected == len(computed), (data, options)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    # An example's row of the two largest: two classes as bytes, two logits and the mass of the third in float16.
    ("options", "row", "cached"),
    [({}, 3 * 4, True), ({"top_k": 2}, 2 + 3 * 2, True), ({}, 2 + 3 * 2, False)],
)
def test_soft_targets_too_large_for_memory_are_not_kept(blobs, computed, monkeypatch, options, row, cached):
    for most, expected in [(96 * row - 1, 0), (96 * row, int(cached))]:
        monkeypatch.setattr("keras_ban._src.sequence.soft_target_choice._MOST_BYTES", most)
        trained(blobs, **options)
        assert expected == len(computed), most


def test_students_of_top_k_soft_targets_are_those_of_a_distiller_that_is_given_them(blobs):
    sequence = trained(blobs, top_k=1)
    targets = SoftTargets.from_teacher(sequence.models[0], blobs[0], top_k=1, verbose=0)

    # Keras predicts in another batch size than the sequence, by which the last bits differ.
    assert_close(by_hand(sequence, 1, blobs, {}, soft_targets=targets)[0], sequence.models[1])
    dense = values(trained(blobs).models[1])
    assert np.abs(dense[0] - values(sequence.models[1])[0]).max() > 1e-3, "top-k makes no difference here"


@pytest.mark.one_backend
def test_models_of_several_outputs_hear_their_teacher_at_each_step(blobs, computed):
    x, y = blobs
    inputs = keras.Input((8,))
    model = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(3)(inputs)])
    trained((x, [y, y]), model, loss=[crossentropy(), crossentropy()])
    assert not computed


@pytest.mark.parametrize("dataset", [pytest.param(False, marks=pytest.mark.one_backend), True])
def test_cached_generations_are_online_ones_and_share_nothing(blobs, dataset):
    data = (Batches(*blobs, fixed=True),) if dataset else blobs
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)  # lowers the rate in each epoch
    fit = {"batch_size": None, "callbacks": [schedule], "epochs": 2, "validation_data": None if dataset else blobs}
    options = {"model": classifier(dropout=0.3, batch_norm=True), "generations": 2, "metrics": ["accuracy"]}
    cached, online = (trained(data, fit=fit, soft_targets=way, **options) for way in ("cached", "online"))

    for generation in range(3):
        assert_close(online.models[generation], cached.models[generation])
        expected, actual = (s.history.records[generation] for s in (online, cached))
        assert expected.metrics == pytest.approx(actual.metrics, rel=1e-4)
        assert expected.logs.keys() == actual.logs.keys()
        for name, epochs in expected.logs.items():
            assert epochs == pytest.approx(actual.logs[name], rel=1e-4)

    first, second, third = cached.models
    kept = values(first), values(third)
    for variable in second.variables:
        variable.assign(keras.ops.zeros_like(variable.value))
    assert_same(kept[0], values(first))
    assert_same(kept[1], values(third))


@pytest.mark.skipif(BACKEND == "torch", reason="torch runs the step as it is: there is nothing compiled to count")
def test_the_step_of_all_students_is_traced_once(blobs, monkeypatch):
    traced, original = [], Distiller.train_step
    monkeypatch.setattr(Distiller, "train_step", lambda self, *args: traced.append(1) or original(self, *args))
    trained(blobs, run_eagerly=False)
    once = len(traced)
    traced.clear()
    trained(blobs, generations=2, run_eagerly=False)

    assert once == len(traced) > 0


@pytest.mark.one_backend
def test_class_weights_and_a_validation_split_reach_cached_students(blobs):
    fit = {"class_weight": {0: 5.0}, "validation_split": 0.25}
    cached, online = (trained(blobs, fit=fit, soft_targets=way) for way in ("cached", "online"))
    assert_close(online.models[-1], cached.models[-1])
    assert "val_loss" in cached.history.records[-1].logs


def test_probabilities_are_cached_for_models_that_end_in_a_softmax(blobs, computed):
    loss = keras.losses.SparseCategoricalCrossentropy()
    options = {"distillation_loss": KnowledgeDistillation(from_logits=False), "loss": loss}
    model = classifier(activation="softmax")
    cached = trained(blobs, model, soft_targets="auto", **options)
    assert 1 == len(computed)
    assert_close(trained(blobs, model, soft_targets="online", **options).models[-1], cached.models[-1])


@pytest.mark.one_backend
def test_models_that_are_built_by_their_first_batch_or_begin_with_flatten_are_cached_too(blobs, computed):
    x, y = blobs
    dense = keras.layers.Dense(3)
    for model, data in [
        (keras.Sequential([dense]), x),
        (keras.Sequential([keras.Input((2, 4)), keras.layers.Flatten(), dense]), x.reshape(-1, 2, 4)),
    ]:
        computed.clear()
        assert (2, 1) == (len(trained((data, y), model).models), len(computed))


@pytest.mark.skipif(BACKEND != "torch", reason="`TorchModuleWrapper` is a layer of torch alone")
def test_soft_targets_of_a_module_of_torch_are_computed_once(blobs, computed):
    import torch

    def build(generation):
        return keras.Sequential([keras.Input((8,)), keras.layers.TorchModuleWrapper(torch.nn.Linear(8, 3))])

    assert 2 == len(trained(blobs, build).models)
    assert 1 == len(computed)
