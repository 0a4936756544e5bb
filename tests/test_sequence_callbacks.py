"""The optimizer, the metrics and the callbacks of each generation of a `BornAgainSequence`."""

import threading

import keras
import numpy as np
import pytest
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.runs import assert_same_run, run
from helpers.sequences import FIT, compiled
from helpers.training import interrupted_after

from keras_ban import BornAgainSequence


class Watch(keras.callbacks.Callback):
    """Notes the optimizer's iterations and learning rate at the start of each epoch."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        optimizer = self.model.optimizer
        self.seen.append((int(optimizer.iterations), float(optimizer.learning_rate)))


def watched(sequence, data, epochs, others=lambda: []):
    """What a `Watch` saw in each generation, the optimizers that it saw, and the history."""
    watches = [Watch() for _ in range(sequence.generations + 1)]
    history = sequence.fit(*data, **FIT, epochs=epochs, callbacks=lambda generation: [watches[generation], *others()])
    return [watch.seen for watch in watches], [watch.model.optimizer for watch in watches], history


# Optimizers


@pytest.mark.one_backend
@pytest.mark.parametrize("optimizer", ["sgd", {"class_name": "SGD", "config": {"learning_rate": 0.01}}, None])
def test_every_generation_gets_a_fresh_optimizer(optimizer, blobs):
    given = keras.optimizers.SGD(0.01) if optimizer is None else optimizer
    seen, optimizers, _ = watched(compiled(optimizer=given), blobs, epochs=2)

    rate = float(np.float32(0.01))
    assert [[(0, rate), (1, rate)]] * 2 == seen
    assert optimizers[0] is not optimizers[1]
    assert all(isinstance(each, keras.optimizers.SGD) for each in optimizers)
    # The optimizer given is left as it was.
    assert optimizer is not None or (0, False) == (int(given.iterations), given.built)


class WarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """As in many tutorials: without a `get_config`, and not registered with Keras."""

    def __init__(self, peak):
        self.peak = peak

    def __call__(self, step):
        return self.peak * keras.ops.minimum(1.0, (keras.ops.cast(step, "float32") + 1) / 2)


class WarmUpInFiles(WarmUp):
    def get_config(self):
        return {"peak": self.peak}


@pytest.mark.parametrize(
    "schedule",
    [
        WarmUp(0.1),
        pytest.param(WarmUpInFiles(0.1), marks=pytest.mark.one_backend),
        keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5),
        pytest.param(
            keras.optimizers.schedules.CosineDecay(0.1, decay_steps=4),
            marks=pytest.mark.one_backend,
        ),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_a_schedule_begins_again_in_each_generation(schedule, blobs):
    sequence = compiled(optimizer=keras.optimizers.Adam(schedule), generations=2)

    seen, _, _ = watched(sequence, blobs, epochs=3)

    expected = [float(schedule(step)) for step in range(3)]
    for generation in seen:
        assert [0, 1, 2] == [step for step, _ in generation]
        np.testing.assert_allclose([rate for _, rate in generation], expected, rtol=1e-6)  # float32


@pytest.mark.parametrize("rate", [WarmUp(0.1), WarmUpInFiles(0.1), lambda: 0.1], ids=["bare", "unregistered", "lambda"])
@pytest.mark.filterwarnings("ignore:`optimizer`", "ignore:The longer control may not be fair")
def test_a_rate_that_no_file_holds_is_used_in_a_directory_and_by_controls(rate, blobs, tmp_path):
    def fit(generations, **options):
        sequence = compiled(optimizer=keras.optimizers.Adam(rate), generations=generations, **options)
        sequence.fit(*blobs, **FIT, epochs=2)
        return sequence.models[1].get_weights()

    fit(1, directory=tmp_path)
    continued, controlled = fit(2, directory=tmp_path), fit(2, controls=("longer",))
    for expected, actual in zip(controlled, continued, strict=True):
        np.testing.assert_array_equal(expected, actual)
    assert 3 == len(BornAgainSequence.load(tmp_path).models)


def test_a_learning_rate_that_a_callback_reduced_does_not_reach_the_next_generation(blobs):
    optimizer = keras.optimizers.SGD(0.5)
    sequence = compiled(optimizer=optimizer)

    def others():
        return [keras.callbacks.ReduceLROnPlateau("loss", factor=0.5, patience=1, min_delta=1e6)]

    seen, _, history = watched(sequence, blobs, 3, others)

    # The first epoch always counts as a gain; from the second on, each halves the rate.
    for generation, record in zip(seen, history.records, strict=True):
        assert [0.5, 0.5, 0.25] == [rate for _, rate in generation]
        assert [0.5, 0.5, 0.25] == record.logs["learning_rate"]
    assert float(optimizer.learning_rate) == 0.5
    assert all(float(model.optimizer.learning_rate) == 0.5 for model in sequence.models)


@pytest.mark.one_backend
def test_the_optimizer_counts_as_it_was_at_compile(blobs):
    optimizer = keras.optimizers.SGD(0.5)
    sequence = compiled(optimizer=optimizer)
    optimizer.learning_rate = 0.25

    seen, _, _ = watched(sequence, blobs, epochs=1)

    assert [[(0, 0.5)]] * 2 == seen


# Metrics


@pytest.mark.one_backend
def test_the_metrics_given_are_left_as_they_were_and_weighted_ones_see_the_sample_weights(blobs):
    x, y = blobs
    weights = np.where(y == 0, 3.0, 1.0)
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top_2")
    accuracy = keras.metrics.SparseCategoricalAccuracy(name="weighted")
    sequence = BornAgainSequence(classifier(), generations=1, seed=3)
    sequence.compile("adam", crossentropy(), metrics=[metric], weighted_metrics=[accuracy], run_eagerly=True)

    history = sequence.fit(x, y, **FIT, validation_data=(x, y, weights))

    assert [0.0] * 4 == [float(variable.value) for variable in (*metric.variables, *accuracy.variables)]
    for model, record in zip(sequence.models, history.records, strict=True):
        outputs = model.predict(x, verbose=0)
        # k=2 came along: the figure is that of a plain sort. A mean of 96 yeses and noes, in float32.
        expected = (np.argsort(outputs, axis=-1)[:, -2:] == y[:, None]).any(-1).mean()
        assert record.metrics["val_top_2"] == pytest.approx(expected, abs=1e-6)
        expected = np.average(outputs.argmax(-1) == y, weights=weights)
        assert record.metrics["val_weighted"] == pytest.approx(expected, abs=1e-6)  # summed in float32


@pytest.mark.one_backend
def test_a_metric_given_as_a_class_has_one_name_in_all_generations(blobs):
    sequence = BornAgainSequence(classifier(activation="softmax"), generations=1)
    sequence.compile("sgd", "categorical_crossentropy", metrics=[keras.metrics.Recall])
    x, y = blobs[0], np.eye(3)[blobs[1]]

    history = sequence.fit(x, y, **FIT, validation_data=(x, y))

    assert 1 == len({tuple(record.metrics) for record in history.records})


def test_metrics_of_several_values_are_recorded_shown_and_resumed(blobs, tmp_path):
    x, y = blobs
    data = x, np.eye(3, dtype="float32")[y]
    # `F1Score` has a value for each class, unless it is told to average them.
    metrics = [keras.metrics.F1Score(), keras.metrics.Recall(thresholds=[0.0, 0.5])]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    arguments = {"generations": 1, "loss": loss, "metrics": metrics, "controls": ["longer"], "fitting": {"epochs": 2}}

    whole = run(tmp_path / "whole", data, **arguments)
    with interrupted_after(1):
        run(tmp_path / "interrupted", data, **arguments)
    again = run(tmp_path / "interrupted", data, **arguments)

    assert_same_run(whole, again)
    loaded = BornAgainSequence.load(tmp_path / "whole")
    assert whole.history.to_dict() == loaded.history.to_dict()
    for model, record in zip(whole.models, loaded.history.records, strict=True):
        predicted = np.eye(3)[model.predict(x, verbose=0).argmax(-1)]
        expected = 2 * (predicted * data[1]).sum(0) / (predicted + data[1]).sum(0)
        assert record.metrics["val_f1_score"] == pytest.approx(expected, abs=1e-6)  # summed in float32
        assert record.metrics["val_f1_score"] == record.logs["val_f1_score"][-1]
        assert ((2, 3), (2, 2)) == (np.shape(record.logs["f1_score"]), np.shape(record.logs["recall"]))
    assert f"{np.mean(expected):.4g} (mean of 3)" in whole.history.summary(width=200)
    assert [2, 2] == [len(record.metrics["val_recall"]) for record in whole.history.records]
    with pytest.raises(ValueError, match=r"`monitor` must be one of \['val_loss'\].* average, as `F1Score\(average="):
        run(None, data, **{**arguments, "fitting": {"monitor": "val_f1_score"}})


class Logits(keras.metrics.Metric):
    """Gives a dict, from a state whose shape the first batch tells."""

    def __init__(self, name="logits", **kwargs):
        super().__init__(name=name, **kwargs)
        self.total = None
        self.count = self.add_weight(shape=(), initializer="zeros", name="count")

    def update_state(self, y_true, y_pred, sample_weight=None):
        if self.total is None:
            self.total = self.add_weight(shape=y_pred.shape[1:], initializer="zeros", name="total")
        self.total.assign_add(keras.ops.sum(y_pred, axis=0))
        self.count.assign_add(keras.ops.cast(keras.ops.shape(y_pred)[0], "float32"))

    def result(self):
        mean = self.total / self.count
        return {"lowest": keras.ops.min(mean), "highest": keras.ops.max(mean)}


def test_a_metric_that_gives_a_dict_is_recorded_by_the_names_in_it(blobs):
    sequence = compiled(metrics=[Logits()])

    history = sequence.fit(*blobs, **FIT, validation_data=blobs)

    for model, record in zip(sequence.models, history.records, strict=True):
        mean = model.predict(blobs[0], verbose=0).mean(axis=0)
        found = [record.metrics[name] for name in ("val_lowest", "val_highest")]
        np.testing.assert_allclose([mean.min(), mean.max()], found, rtol=1e-4)  # float32
    assert {"loss", "lowest", "highest"} <= {name.removeprefix("val_") for name in history.ensemble_metrics}


# Callbacks


class Counting(keras.callbacks.Callback):
    """Keeps a count of its own, which a fresh copy begins at zero."""

    counts = None

    def __init__(self):
        super().__init__()
        self.count = 0

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1
        self.counts.append(self.count)


@pytest.mark.one_backend
@pytest.mark.parametrize("wrap", [lambda callback: [callback], lambda callback: (callback,), lambda callback: callback])
def test_callbacks_are_copied_for_each_generation(wrap, blobs, monkeypatch):
    monkeypatch.setattr(Counting, "counts", [])
    callback = Counting()

    compiled().fit(*blobs, **FIT, epochs=2, callbacks=wrap(callback))

    assert [1, 2, 1, 2] == Counting.counts
    assert callback.count == 0
    assert callback.model is None


def test_early_stopping_begins_anew_in_each_generation(blobs):
    callback = keras.callbacks.EarlyStopping("val_loss", min_delta=1e6, patience=1, restore_best_weights=True)

    history = compiled().fit(*blobs, **FIT, epochs=5, validation_data=blobs, callbacks=[callback])

    # The first epoch counts as a gain, the second does not, and patience is at its end.
    assert [2, 2] == [record.epochs for record in history.records]
    assert [2, 2] == [len(record.logs["val_loss"]) for record in history.records]
    for record in history.records:
        assert record.metrics["val_loss"] == pytest.approx(record.logs["val_loss"][0], rel=1e-6)  # float32
    assert callback.stopped_epoch == 0
    assert callback.model is None


@pytest.mark.one_backend
def test_a_callback_that_was_used_before_is_called_in_each_generation_without_its_model(blobs):
    model, epochs = classifier(), []
    callback = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: epochs.append(epoch))
    callback.set_model(model)
    before = values(model)

    compiled().fit(*blobs, **FIT, epochs=2, callbacks=[callback])

    assert [0, 1, 0, 1] == epochs
    assert callback.model is model
    assert_same(before, values(model))


class Holding(keras.callbacks.Callback):
    def __init__(self, thing):
        super().__init__()
        self.thing = thing


@pytest.mark.one_backend
def test_a_callback_that_cannot_be_copied_is_refused_before_training(blobs, tmp_path):
    sequence = compiled()

    with open(tmp_path / "log", "w") as file:
        for thing in (threading.Lock(), file):
            message = r"Holding.*cannot be copied for each generation: .*Pass `callbacks` as a callable"
            with pytest.raises(TypeError, match=message):
                sequence.fit(*blobs, **FIT, callbacks=[Holding(thing)])

    assert [] == sequence.models
    sequence.fit(*blobs, **FIT, callbacks=lambda generation: [Holding(threading.Lock())])
    assert len(sequence.models) == 2


class SaveStudent(keras.callbacks.Callback):
    """Saves what is trained, without its Distiller, after each epoch, and loads the file. Warnings are errors."""

    loaded = None

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        student = getattr(self.model, "student", self.model)
        student.save(self.path)
        self.loaded = keras.saving.load_model(self.path)
        assert_same(values(student), values(self.loaded))


@pytest.mark.parametrize("build", [False, True])
def test_a_callback_can_save_the_student_in_a_file_that_keras_loads_with_its_optimizer(build, blobs, tmp_path):
    def make(generation):
        model = classifier()
        model.compile("adam", crossentropy())
        return model

    callbacks = [SaveStudent(tmp_path / f"{number}.keras") for number in range(2)]
    sequence = BornAgainSequence(make if build else classifier(), generations=1, seed=0)
    sequence.compile("adam", crossentropy())

    sequence.fit(*blobs, **FIT, callbacks=lambda generation: [callbacks[generation]])

    for callback in callbacks:
        assert isinstance(callback.loaded.optimizer, keras.optimizers.Adam)
        callback.loaded.fit(*blobs, verbose=0)
