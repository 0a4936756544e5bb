"""How long each generation of a `BornAgainSequence` is trained, and generations that end by `EarlyStopping`."""

import json
import re
import shutil

import h5py
import keras
import numpy as np
import pytest
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.runs import assert_same_run, run
from helpers.sequences import FIT, by_hand, compiled
from helpers.tables import cases
from helpers.training import interrupted_after

from keras_ban import BornAgainSequence
from keras_ban._src.runs import callback_state


def epochs_of(history):
    return [record.epochs for record in history.records]


def epochs_in(directory):
    return json.loads((directory / "run.json").read_text())["begun_with"]["fit"]["epochs"]


# A number for each generation


@cases(
    "epochs, arguments, expected",
    ([3, 1, 2], {}, [3, 1, 2]),
    on_one_backend=[
        (2, {}, [2, 2, 2]),
        ((1, 2, 3), {}, [1, 2, 3]),
        ([np.int64(2), 1, 1], {}, [2, 1, 1]),
        (lambda generation: 3 - generation, {}, [3, 2, 1]),
        ([3, 1, 2], {"distill_ensemble": True}, [3, 1, 2, 2]),
        (lambda generation: generation + 1, {"distill_ensemble": True}, [1, 2, 3, 4]),
    ],
)
def test_each_generation_is_trained_for_its_number_of_epochs(epochs, arguments, expected, blobs):
    made = compiled(generations=2, **arguments)

    history = made.fit(*blobs, **FIT, epochs=epochs)

    assert expected == epochs_of(history)
    assert expected == [len(record.logs["loss"]) for record in history.records]
    assert_same(values(by_hand(made, 0, blobs, epochs=expected[0])[0]), values(made.models[0]))


@pytest.mark.one_backend
@pytest.mark.parametrize("epochs", [[1, 3], lambda generation: 2 * generation - 1])
def test_with_a_teacher_the_first_number_is_that_of_generation_1(epochs, blobs):
    history = compiled(generations=2).fit(*blobs, **FIT, epochs=epochs, teacher=classifier())

    assert [0, 1, 3] == epochs_of(history)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("epochs", "teacher", "message"),
    [
        ([2, 1], False, "for each generation, generation 0 first: with generations=2 that are 3, received 2: [2, 1]"),
        ([2, 1, 1, 1], False, "that are 3, received 4: [2, 1, 1, 1]"),
        ([], False, "that are 3, received 0: []"),
        ([2, 1, 1], True, "generation 1 first, because the `teacher` is generation 0 and is not trained: with gen"),
        ([2, 0, 1], False, "Generation 1: `epochs` must be a whole number of at least 1, received: 0"),
        ([2, 1.5], True, "Generation 2: `epochs` must be a whole number of at least 1, received: 1.5"),
        ([2, 1, True], False, "Generation 2: `epochs` must be a whole number of at least 1, received: True"),
        ([2, [1], 1], False, "Generation 1: `epochs` must be a whole number of at least 1, received: [1]"),
        (lambda generation: None, False, "Generation 0: `epochs` must be a whole number of at least 1, received: None"),
        (
            lambda generation: [5, 5][generation],
            False,
            "`epochs` is callable, but epochs(0), ..., epochs(2) failed: IndexError",
        ),
        (np.array([2, 1, 1]), False, "`epochs` must be a whole number of at least 1, received: array([2, 1, 1])"),
        ({0: 2}, False, "`epochs` must be a whole number of at least 1, received: {0: 2}"),
    ],
)
def test_other_numbers_of_epochs_are_refused_before_training(epochs, teacher, message, blobs):
    options = {"teacher": classifier() if teacher else None, "callbacks": lambda _: pytest.fail("trained")}

    with pytest.raises(ValueError, match=re.escape(message)):
        compiled(generations=2).fit(*blobs, **FIT, epochs=epochs, **options)


@pytest.mark.one_backend
def test_progress_says_how_long_a_generation_is_trained_if_they_differ(blobs, tmp_path, capsys):
    with interrupted_after(1, 1):
        run(tmp_path, blobs, generations=1, fitting={"epochs": [2, 4], "verbose": 2})
    said = capsys.readouterr().out
    assert "Generation 0 of 1, on labels alone, 2 epochs\n" in said and "Epoch 2/2" in said
    assert "Generation 1 of 1, taught by generation 0, 4 epochs\n" in said and "Epoch 2/4" in said

    run(tmp_path, blobs, generations=1, fitting={"epochs": [2, 4], "verbose": 2})

    said = capsys.readouterr().out
    assert "Resuming at epoch 3/4" in said and "Epoch 3/4" in said
    assert "epochs" not in compiled_output(blobs, capsys)


def compiled_output(blobs, capsys):
    compiled().fit(*blobs, **{**FIT, "verbose": 2}, epochs=[2, 2])
    return capsys.readouterr().out


@pytest.mark.one_backend
def test_a_run_with_different_lengths_is_continued_with_the_same_alone(blobs, tmp_path):
    whole = run(None, blobs, fitting={"epochs": [3, 2, 1]})
    with interrupted_after(1, 0):
        run(tmp_path, blobs, fitting={"epochs": [3, 2, 1]})
    assert [3, 2, 1] == epochs_in(tmp_path)

    for other, message in (
        ([3, 2, 2], r"- fit\.epochs\[2\]: 1 in the directory, 2 now"),
        (3, r"- fit\.epochs: \[3, 2, 1\] in the directory, 3 now"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path, blobs, fitting={"epochs": other})

    assert_same_run(whole, run(tmp_path, blobs, fitting={"epochs": lambda generation: 3 - generation}))


@pytest.mark.one_backend
def test_equal_numbers_are_one_number_in_the_manifest(blobs, tmp_path):
    run(tmp_path, blobs, generations=1, fitting={"epochs": 2})
    before = (tmp_path / "run.json").read_bytes()
    assert 2 == epochs_in(tmp_path)

    run(tmp_path, blobs, lambda _: pytest.fail("trained"), generations=1, fitting={"epochs": [2, 2]})

    assert before == (tmp_path / "run.json").read_bytes()


@pytest.mark.one_backend
@pytest.mark.parametrize(("before", "now"), [(2, [2, 2, 1]), ([1, 2], [1, 2, 3])])
def test_generations_of_another_length_can_be_added_to_a_run(before, now, blobs, tmp_path):
    run(tmp_path, blobs, generations=1, fitting={"epochs": before})

    again = run(tmp_path, blobs, fitting={"epochs": now})

    assert now == epochs_of(again.history) == epochs_in(tmp_path)
    assert_same_run(run(None, blobs, fitting={"epochs": now}), again)
    with pytest.raises(ValueError, match=r"- fit\.epochs\[0\]: "):
        run(tmp_path, blobs, generations=3, fitting={"epochs": [4, *now[1:], 1]})


# Generations that end when they stop improving


class Levels(keras.callbacks.Callback):
    """Measures `level`, which is best after the third epoch, as a metric of the validation data would."""

    stateless = True

    def on_epoch_end(self, epoch, logs=None):
        logs["level"] = [3.0, 2.0, 1.0, 1.5, 2.5, 1.25][epoch]


BEST, LAST = 2, 4


def patient(**arguments):
    return keras.callbacks.EarlyStopping(
        **{"monitor": "level", "mode": "min", "patience": 2, "restore_best_weights": True, **arguments}
    )


def stopping_run(directory, blobs, callbacks=None):
    callbacks = [patient()] if callbacks is None else callbacks
    fitting = {"epochs": 6, "batch_size": 32}
    return run(directory, blobs, [Levels(), *callbacks], generations=1, fitting=fitting)


def test_a_generation_that_stops_is_the_model_that_keras_alone_would_return(blobs):
    x, y = blobs
    validation_data = (x[:32] + 0.3, np.where(np.arange(32) % 5 == 0, 0, y[:32]))  # Some labels are wrong.
    options = {"epochs": 40, "batch_size": 32, "validation_data": validation_data}
    made = compiled()

    history = made.fit(*blobs, **{**FIT, **options}, callbacks=[patient(monitor="val_loss")])

    record = history.records[0]
    best = int(np.argmin(record.logs["val_loss"]))
    assert 0 < best == record.epochs - 3 < 37
    assert record.logs["val_loss"][best] == pytest.approx(record.metrics["val_loss"], rel=1e-6)  # float32
    alone, logs = by_hand(made, 0, blobs, **options, callbacks=[patient(monitor="val_loss")])
    assert logs == record.logs
    assert_same(values(alone), values(made.models[0]))


@pytest.mark.parametrize("generation", [pytest.param(0, marks=pytest.mark.one_backend), 1])
@pytest.mark.parametrize(
    "epoch",
    [pytest.param(BEST, marks=pytest.mark.one_backend), BEST + 1, pytest.param(LAST, marks=pytest.mark.one_backend)],
)
def test_an_interrupted_generation_stops_as_if_it_had_not_been(generation, epoch, blobs, tmp_path, epochs_trained):
    whole = stopping_run(None, blobs)
    assert [LAST + 1] * 2 == epochs_of(whole.history)
    with interrupted_after(generation, epoch):
        stopping_run(tmp_path, blobs)
    keras.utils.set_random_seed(99)
    epochs_trained.clear()

    again = stopping_run(tmp_path, blobs)

    # None is trained twice, and none after the generation has stopped.
    assert list(range(epoch + 1, LAST + 1)) == [each for number, each in epochs_trained if number == generation]
    assert_same_run(whole, again)
    assert_same_run(whole, BornAgainSequence.load(tmp_path))


@pytest.mark.parametrize("epoch", [pytest.param(0, marks=pytest.mark.one_backend), 2])
def test_a_generation_that_was_interrupted_at_its_end_is_not_trained_further(epoch, blobs, tmp_path, epochs_trained):
    arguments = {"generations": 1, "fitting": {"epochs": epoch + 1, "batch_size": 32, "verbose": 2}}
    whole = run(None, blobs, **arguments)
    with interrupted_after(1, epoch):
        run(tmp_path, blobs, **arguments)
    epochs_trained.clear()

    assert_same_run(whole, run(tmp_path, blobs, **arguments))

    assert [] == epochs_trained


def plateau():
    return keras.callbacks.ReduceLROnPlateau("level", mode="min", factor=0.5, patience=1, cooldown=2)


def checkpoint(path):
    arguments = {"monitor": "level", "mode": "min", "save_best_only": True, "save_weights_only": True}
    return keras.callbacks.ModelCheckpoint(path / "best.weights.h5", **arguments)


def arrays_in(path):
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    assert found
    return found


@pytest.mark.one_backend
@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_other_callbacks_of_keras_go_on_where_they_were(epoch, blobs, tmp_path, epochs_trained):
    def train(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return stopping_run(tmp_path / name / "run", blobs, [plateau(), checkpoint(tmp_path / name)])

    whole = train("whole")
    # The reduction after epoch 3 is followed by a cooldown.
    assert [1, 1, 1, 1, 2, 2] == [round(0.02 / rate) for rate in whole.history.records[1].logs["learning_rate"]]
    with interrupted_after(1, epoch):
        train("cut")
    epochs_trained.clear()

    assert_same_run(whole, train("cut"))

    assert [(1, each) for each in range(epoch + 1, 6)] == epochs_trained
    assert_same(*(arrays_in(tmp_path / name / "best-generation-01.weights.h5") for name in ("whole", "cut")))


class Subclass(keras.callbacks.EarlyStopping):
    """May keep more than Keras's own."""


class StopsAfterTwo(keras.callbacks.Callback):
    stateless = True

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = epoch == 1


@pytest.mark.one_backend
def test_a_callback_without_state_stops_a_generation_for_good(blobs, tmp_path):
    arguments = {"generations": 1, "fitting": {"epochs": 4}}
    with interrupted_after(1, 1):
        run(tmp_path, blobs, [StopsAfterTwo()], **arguments)

    again = run(tmp_path, blobs, [StopsAfterTwo()], **arguments)

    assert [2, 2] == epochs_of(again.history)
    assert_same_run(run(None, blobs, [StopsAfterTwo()], **arguments), again)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("callback", "expected"),
    [
        (patient(), True),
        (plateau(), True),
        (keras.callbacks.ModelCheckpoint("model.keras"), True),
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), True),
        (StopsAfterTwo(), True),
        (keras.callbacks.ModelCheckpoint("model.keras", save_freq=7), False),
        (Subclass(), False),
        (keras.callbacks.LambdaCallback(), False),
        (keras.callbacks.CSVLogger("log.csv"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_state_of_these_callbacks_is_known(callback, expected):
    assert expected == callback_state.is_known(callback)


@pytest.mark.one_backend
@pytest.mark.parametrize("make", [patient, plateau, checkpoint])
def test_every_attribute_in_which_these_callbacks_keep_something_is_saved(make, tmp_path):
    """So that one that a later Keras adds is noticed."""
    callback = make(tmp_path) if make is checkpoint else make()
    model = classifier()
    model.compile("sgd", crossentropy())
    callback.set_model(model)
    before = dict(vars(callback))

    callback.on_train_begin()
    for epoch, level in enumerate([3.0, 1.0, 2.0, 2.5]):
        callback.on_epoch_begin(epoch)
        callback.on_epoch_end(epoch, {"level": level})

    changed = {name for name, value in vars(callback).items() if value is not before.get(name)}
    (plain,), arrays = callback_state.saved([callback])
    saved = {*plain, *(re.sub(r"callback_0_(.*)_\d+", r"\1", name) for name in arrays)} - {"class"}
    # Keras derives the first two from arguments at the end of the first epoch, and sets the last in each epoch.
    assert saved >= changed - {"monitor_op", "min_delta", "_current_epoch"}


@pytest.mark.one_backend
def test_a_state_of_other_callbacks_is_not_used(blobs, tmp_path, epochs_trained):
    with interrupted_after(0, 1):
        stopping_run(tmp_path / "cut", blobs)
    with_none = shutil.copytree(tmp_path / "cut", tmp_path / "none")
    older = shutil.copytree(tmp_path / "cut", tmp_path / "older")
    with np.load(older / "epoch.npz") as file:
        arrays = {name: array for name, array in file.items() if not name.startswith("callback")}
    about = json.loads(str(arrays["about"]))
    assert "EarlyStopping" == about.pop("callbacks")[0]["class"]
    del about["stopped"]
    np.savez(older / "epoch.npz", **{**arrays, "about": np.array(json.dumps(about))})

    for directory, callbacks, first in (
        (with_none, [], 0),
        (older, [patient()], 0),
        (tmp_path / "cut", [patient()], 2),
    ):
        plain = shutil.copytree(directory, directory.with_name(f"{directory.name} again"))
        epochs_trained.clear()
        stopping_run(plain, blobs, callbacks)
        assert (0, first) == epochs_trained[0]
    # Without callbacks, a file of an older version is continued.
    epochs_trained.clear()
    stopping_run(older, blobs, [])
    assert (0, 2) == epochs_trained[0]


# Schedules of the learning rate

COSINE = keras.optimizers.schedules.CosineDecay


@pytest.mark.parametrize(
    ("run_eagerly", "soft_targets"), [(False, "cached"), pytest.param(True, "online", marks=pytest.mark.one_backend)]
)
def test_a_schedule_that_ends_is_stretched_to_the_length_of_each_generation(run_eagerly, soft_targets, blobs):
    optimizer = keras.optimizers.SGD(COSINE(0.2, decay_steps=2), momentum=0.9)
    made = compiled(generations=3, optimizer=optimizer, run_eagerly=run_eagerly, soft_targets=soft_targets)

    made.fit(*blobs, **FIT, epochs=[2, 4, 4, 3], shuffle=False)

    for number, epochs in enumerate([2, 4, 4, 3]):
        own = keras.optimizers.SGD(COSINE(0.2, decay_steps=epochs), momentum=0.9)
        distiller = {"teacher": made.models[number - 1]} if number else None
        model, _ = by_hand(made, number, blobs, distiller, optimizer=own, epochs=epochs, shuffle=False)
        for expected, actual in zip(values(model), values(made.models[number]), strict=True):
            # Compiled passes against eager ones: the last bits differ.
            np.testing.assert_allclose(expected, actual, rtol=0, atol=2e-5)


@pytest.mark.one_backend
def test_a_warm_up_that_leaves_no_step_of_a_generation_is_refused_before_training(blobs):
    schedule = COSINE(0.0, decay_steps=3, warmup_target=0.2, warmup_steps=2)
    made = compiled(generations=2, optimizer=keras.optimizers.SGD(schedule))
    never = {"callbacks": lambda _: pytest.fail("trained")}

    with pytest.raises(ValueError, match="Generation 2: The warm-up of the learning rate has 2 steps, but .* has 2"):
        made.fit(*blobs, **FIT, epochs=[5, 3, 2], **never)
    with pytest.raises(ValueError, match="Generation 2: The warm-up"):
        made.fit(*blobs, **FIT, epochs=[5, 2], teacher=classifier(), **never)


@pytest.mark.one_backend
def test_a_schedule_keeps_a_step_in_a_short_generation(blobs):
    made = compiled(optimizer=keras.optimizers.SGD(keras.optimizers.schedules.PolynomialDecay(0.1, decay_steps=1)))

    history = made.fit(*blobs, **FIT, epochs=[3, 1])

    assert [3, 1] == epochs_of(history)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("rate", "callbacks", "named"),
    [
        (lambda: 0.1, None, "the schedule <lambda>"),
        (0.1, [keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)], "a `LearningRateScheduler`"),
    ],
    ids=["a function", "a callback"],
)
def test_a_schedule_that_cannot_be_stretched_is_warned_of(rate, callbacks, named, blobs):
    made = compiled(generations=1, optimizer=keras.optimizers.SGD(rate))

    made.fit(*blobs, **FIT, epochs=[2, 2], callbacks=callbacks)
    with pytest.raises(UserWarning, match=re.escape(f"Generations differ in length: {named} may end with")):
        made.fit(*blobs, **FIT, epochs=[1, 2], callbacks=callbacks)
