"""Batches and data of no examples: the right result, or an error that says so."""

import keras
import numpy as np
import pytest

import keras_ban

X, Y = np.random.default_rng(0).normal(size=(8, 2)).astype("float32"), np.arange(8) % 3
NO_X, NO_Y = X[:0], Y[:0]
ON_TENSORFLOW = keras.config.backend() == "tensorflow"
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


class Batches(keras.utils.PyDataset):
    """The examples in batches of these sizes."""

    def __init__(self, sizes):
        super().__init__()
        self.ends = np.cumsum([0, *sizes])

    def __len__(self):
        return len(self.ends) - 1

    def __getitem__(self, index):
        part = slice(self.ends[index], self.ends[index + 1])
        return X[part], Y[part]


class NaN(Batches):
    """All batches but the first are NaN."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return (x * np.float32("nan") if index else x), y


def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])


def compiled(one):
    one.compile(keras.optimizers.SGD(0.1), LOSS, metrics=["accuracy"])
    return one


def distiller():
    return compiled(keras_ban.Distiller(student=model(), teacher=model(), label_weight=0.5))


def ensemble():
    return compiled(keras_ban.EnsembleModel([model(), model()]))


def sequence():
    return compiled(keras_ban.BornAgainSequence(model(), generations=1, seed=0))


REFUSED = {
    "Distiller.fit": lambda: distiller().fit(NO_X, NO_Y),
    "Distiller.fit, unlabeled": lambda: distiller().fit(X, Y, unlabeled=NO_X),
    "Distiller.fit, validation": lambda: distiller().fit(X, Y, validation_data=(NO_X, NO_Y)),
    "Distiller.fit, no batches": lambda: distiller().fit(Batches([])),
    "Distiller.evaluate": lambda: distiller().evaluate(NO_X, NO_Y),
    "Distiller.predict": lambda: distiller().predict(NO_X),
    "Distiller.train_on_batch": lambda: distiller().train_on_batch(NO_X, NO_Y),
    "EnsembleModel.predict": lambda: ensemble().predict(NO_X),
    "EnsembleModel.evaluate": lambda: ensemble().evaluate(NO_X, NO_Y),
    "EnsembleModel.calibrate": lambda: ensemble().calibrate(NO_X, NO_Y),
    "EnsembleModel.fit_weights": lambda: ensemble().fit_weights(NO_X, NO_Y),
    "SoftTargets": lambda: keras_ban.SoftTargets.from_teacher(model(), NO_X),
    "SoftTargets of a function": lambda: keras_ban.SoftTargets.from_teacher(lambda x: x, NO_X),
    "SoftTargets, no batch with examples": lambda: keras_ban.SoftTargets.from_teacher(model(), Batches([0, 0])),
    "BornAgainSequence.fit": lambda: sequence().fit(NO_X, NO_Y),
    "BornAgainSequence.fit, validation": lambda: sequence().fit(X, Y, validation_data=(NO_X, NO_Y)),
}


@pytest.mark.parametrize("use", REFUSED)
def test_no_examples_are_refused(use):
    with pytest.raises(ValueError, match=r"holds? no examples"):
        REFUSED[use]()


@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, 0, 4), (4, 4, 0)])
def test_an_empty_batch_adds_nothing_to_predictions_and_soft_targets(sizes):
    one = ensemble()
    np.testing.assert_allclose(one.predict(X, verbose=0), one.predict(Batches(sizes), verbose=0), atol=1e-6)
    student = distiller()
    np.testing.assert_allclose(student.predict(X, verbose=0), student.predict(Batches(sizes), verbose=0), atol=1e-6)
    kernel, bias = one.members[0].get_weights()
    for teacher in (one.members[0], lambda x: x @ kernel + bias):
        targets = keras_ban.SoftTargets.from_teacher(teacher, Batches(sizes), from_logits=True, verbose=0)
        np.testing.assert_allclose(X @ kernel + bias, targets[:], atol=1e-6)


TRAINS = {
    "Distiller.fit": lambda data: distiller().fit(data, verbose=0),
    "Distiller.evaluate": lambda data: distiller().evaluate(data, verbose=0),
    "Distiller.fit, validation": lambda data: distiller().fit(X, Y, validation_data=data, verbose=0),
    "BornAgainSequence.fit": lambda data: sequence().fit(data, verbose=0),
    "BornAgainSequence.fit, validation": lambda data: sequence().fit(X, Y, validation_data=data, verbose=0),
}


@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow trains past them: see the next test")
@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, 0, 4), (4, 4, 0)])
@pytest.mark.parametrize("use", TRAINS)
def test_an_empty_batch_that_keras_cannot_train_on_is_named(use, sizes):
    with pytest.raises(ValueError, match="0 examples|has no examples"):
        TRAINS[use](Batches(sizes))


@pytest.mark.skipif(ON_TENSORFLOW, reason="TensorFlow trains past them: see the next test")
def test_an_empty_batch_of_the_validation_data_is_named_after_the_first_epoch_of_generation_0():
    epochs = []
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: epochs.append(epoch))
    validation = Batches((4, 0, 4))

    with pytest.raises(ValueError, match=r"^Batch 1 of `validation_data` \(counted from 0\) has no examples"):
        sequence().fit(X, Y, validation_data=validation, epochs=3, callbacks=lambda generation: [callback], verbose=0)

    assert [0] == epochs
    with pytest.raises(FloatingPointError, match="batch 1 of the validation data .* has inputs that are NaN"):
        sequence().fit(X, Y, validation_data=NaN((4, 4)), epochs=2, verbose=0)


@pytest.mark.skipif(not ON_TENSORFLOW, reason="Keras cannot train on them elsewhere: see the last test")
@pytest.mark.parametrize("sizes", [(0, 4, 4), (4, 0, 4), (4, 4, 0)])
def test_an_empty_batch_changes_no_result_under_tensorflow(sizes):
    found = []
    for data in (Batches((4, 4)), Batches(sizes)):
        keras.utils.set_random_seed(0)
        one = distiller()
        logs = one.fit(data, validation_data=data, shuffle=False, verbose=0).history
        found.append([*one.get_weights(), logs["val_loss"]])
    for without, with_empty in zip(*found, strict=True):
        np.testing.assert_allclose(without, with_empty, rtol=1e-5)
    history = sequence().fit(Batches(sizes), validation_data=Batches(sizes), verbose=0)
    assert [8, 8] == [record.scores.examples for record in history.records]
    assert np.isfinite([record.metrics["val_loss"] for record in history.records]).all()


@pytest.mark.parametrize("sizes", [(4, 0, 4), (4, 4, 0)])
def test_an_empty_batch_adds_nothing_to_scores(sizes):
    one = sequence()
    one.fit(X, Y, verbose=0)

    expected, found = one.evaluate(X, Y), one.evaluate(Batches(sizes))

    for record, other in zip(expected.records, found.records, strict=True):
        assert record.scores.accuracy == other.scores.accuracy
        assert record.scores.nll == pytest.approx(other.scores.nll, rel=1e-5)
    assert ON_TENSORFLOW == (not [note for note in found.notes if "a batch without examples" in note])
