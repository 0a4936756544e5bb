"""Callbacks that write to a path have one for each generation of a `BornAgainSequence`."""

import csv

import keras
import numpy as np
import pytest
from helpers.models import assert_same, values
from helpers.sequences import FIT, compiled

from keras_ban._src.sequence import callback_paths

TWO = {"batch_size": 96, "verbose": 0, "epochs": 2}


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("make", "path", "of_generation", "of_control"),
    [
        (keras.callbacks.TensorBoard, "logs", "logs/generation-03", "logs/control-longer"),
        (keras.callbacks.TensorBoard, "logs/", "logs/generation-03", "logs/control-longer"),
        (keras.callbacks.TensorBoard, "e", "e/generation-03", "e/control-longer"),  # update_freq begins with an e, too.
        (keras.callbacks.TensorBoard, "a/{generation}/b", "a/3/b", "a/control-longer/b"),
        (keras.callbacks.BackupAndRestore, "backup", "backup/generation-03", "backup/control-longer"),
        (keras.callbacks.CSVLogger, "log.csv", "log-generation-03.csv", "log-control-longer.csv"),
        (keras.callbacks.CSVLogger, "log", "log-generation-03", "log-control-longer"),
        (keras.callbacks.CSVLogger, "a.b/log.1.csv", "a.b/log.1-generation-03.csv", "a.b/log.1-control-longer.csv"),
        (keras.callbacks.CSVLogger, "{generation:03d}.csv", "003.csv", "control-longer.csv"),
        (keras.callbacks.ModelCheckpoint, "best.keras", "best-generation-03.keras", "best-control-longer.keras"),
        (
            keras.callbacks.ModelCheckpoint,
            "{epoch:02d}-{val_loss:.2f}.keras",
            "{epoch:02d}-{val_loss:.2f}-generation-03.keras",
            "{epoch:02d}-{val_loss:.2f}-control-longer.keras",
        ),
        (
            keras.callbacks.ModelCheckpoint,
            "{generation}/{epoch:02d}.weights.h5",
            "3/{epoch:02d}.weights.h5",
            "control-longer/{epoch:02d}.weights.h5",
        ),
        (
            lambda path: keras.callbacks.ModelCheckpoint(path, save_weights_only=True),
            "best.weights.h5",
            "best-generation-03.weights.h5",
            "best-control-longer.weights.h5",
        ),
    ],
)
def test_paths_name_the_generation_or_the_control(make, path, of_generation, of_control, tmp_path):
    attributes = ("log_dir", "backup_dir", "filename", "filepath")
    for control, expected in ((None, of_generation), ("longer", of_control)):
        for given in (f"{tmp_path}/{path}", tmp_path / path):
            callback = make(given)
            before = {name: value for name, value in vars(callback).items() if str(tmp_path) not in str(value)}
            (callback,) = callback_paths.with_paths([callback], 3, control)

            found = [getattr(callback, name) for name in attributes if hasattr(callback, name)]
            assert [f"{tmp_path}/{expected}"] == found
            # The paths that Keras derived from it are inside, and nothing else is changed.
            paths = [value for value in vars(callback).values() if str(tmp_path) in str(value)]
            assert all(value.startswith(f"{tmp_path}/{expected}") for value in paths)
            assert before == {name: value for name, value in vars(callback).items() if str(tmp_path) not in str(value)}


@pytest.mark.one_backend
@pytest.mark.parametrize("path", ["{generation:x.csv", "{generations}.csv", "{generation", "{generation.csv"])
def test_what_looks_like_the_placeholder_but_is_not_stays(path):
    callback = keras.callbacks.CSVLogger(path)
    (callback,) = callback_paths.with_paths([callback], 3)

    assert path.removesuffix(".csv") in callback.filename


@pytest.mark.one_backend
def test_a_wrong_format_is_refused_before_training(blobs):
    sequence = compiled()
    message = r"'{generation:q}.csv' of the callback CSVLogger.*Write {generation} or {generation:02d}"
    with pytest.raises(ValueError, match=message):
        sequence.fit(*blobs, **FIT, callbacks=[keras.callbacks.CSVLogger("{generation:q}.csv")])

    assert [] == sequence.models


def rows_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


@pytest.mark.parametrize("soft_targets", [pytest.param("cached", marks=pytest.mark.one_backend), "online"])
def test_each_generation_and_the_distilled_student_keeps_its_own_files(soft_targets, blobs, tmp_path):
    sequence = compiled(generations=2, distill_ensemble=True, soft_targets=soft_targets)
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    checkpoint = keras.callbacks.ModelCheckpoint(tmp_path / "{generation}" / "{epoch}.keras")

    history = sequence.fit(*blobs, **TWO, callbacks=[logger, checkpoint])

    assert [f"log-generation-0{number}.csv" for number in range(4)] == sorted(p.name for p in tmp_path.glob("*.csv"))
    for number, (model, record) in enumerate(zip(sequence.models, history.records, strict=True)):
        rows = rows_of(tmp_path / f"log-generation-0{number}.csv")
        assert record.logs["loss"] == pytest.approx([float(row["loss"]) for row in rows], rel=1e-6)
        assert ["1.keras", "2.keras"] == sorted(path.name for path in (tmp_path / str(number)).iterdir())
        assert_same(values(model), values(keras.saving.load_model(tmp_path / str(number) / "2.keras")))
    # The callbacks given are as they were.
    assert str(tmp_path / "log.csv") == logger.filename


@pytest.mark.one_backend
def test_the_folder_of_a_csv_file_is_made(blobs, tmp_path):
    compiled().fit(
        *blobs, **FIT, callbacks=[keras.callbacks.CSVLogger(tmp_path / "csv" / "{generation:02d}" / "log.csv")]
    )

    assert [1, 1] == [len(rows_of(tmp_path / "csv" / name / "log.csv")) for name in ("00", "01")]


@pytest.mark.one_backend
@pytest.mark.parametrize("make_list", [lambda make: [make()], lambda make: lambda generation: [make()]])
def test_controls_do_not_write_to_the_paths_of_generation_0(make_list, blobs, tmp_path):
    sequence = compiled(controls=["longer", "independent"], soft_targets="online")

    history = sequence.fit(*blobs, **FIT, callbacks=make_list(lambda: keras.callbacks.CSVLogger(tmp_path / "log.csv")))

    assert 2 == history.controls.longer.epochs
    assert 2 == len(rows_of(tmp_path / "log-control-longer.csv"))
    assert 1 == len(rows_of(tmp_path / "log-control-independent-02.csv"))
    # A callable says itself where generations write.
    assert 1 == len(rows_of(next(path for path in sorted(tmp_path.iterdir()) if "control" not in path.name)))


@pytest.mark.one_backend
def test_tensorboard_has_a_folder_for_each_generation(blobs, tmp_path):
    pytest.importorskip("tensorflow", reason="Keras's callback needs TensorFlow under every backend")

    compiled().fit(*blobs, **FIT, validation_data=blobs, callbacks=[keras.callbacks.TensorBoard(tmp_path)])

    folders = {path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("events*")}
    assert {f"generation-0{number}/{part}" for number in (0, 1) for part in ("train", "validation")} == folders


class Stops(keras.callbacks.Callback):
    """Notes the epochs of all generations, and raises an error before one of them."""

    seen, before = [], None

    def on_epoch_begin(self, epoch, logs=None):
        if len(Stops.seen) == Stops.before:
            raise InterruptedError("by the test")
        Stops.seen.append(epoch)


def test_an_interrupted_generation_goes_on_from_its_own_backup(blobs, tmp_path, monkeypatch):
    def train(before, name="cut"):
        monkeypatch.setattr(Stops, "seen", [])
        monkeypatch.setattr(Stops, "before", before)
        sequence = compiled()
        callbacks = [keras.callbacks.BackupAndRestore(tmp_path / f"backup of {name}"), Stops()]
        sequence.fit(*blobs, batch_size=96, verbose=0, epochs=3, callbacks=callbacks)
        return Stops.seen, [values(model) for model in sequence.models]

    _, whole = train(None, "whole")
    with pytest.raises(InterruptedError):
        train(before=5)

    # The backup of generation 1 is not restored into generation 0.
    seen, again = train(before=None)
    assert [0, 1, 2, 2] == seen
    assert_same(whole[0], again[0])
    # The callback restores weights and momentum, but not the order of the examples, in which a batch is summed.
    for expected, actual in zip(whole[1], again[1], strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.one_backend
@pytest.mark.parametrize("form", ["a list", "one callback", "a CallbackList", "a list in a list", "a callable"])
def test_a_directory_and_a_backup_are_refused_together(form, blobs, tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")
    nested = keras.callbacks.CallbackList([backup])
    forms = {"a list": [backup], "one callback": backup, "a CallbackList": nested, "a list in a list": [nested]}
    sequence = compiled(directory=tmp_path / "run")

    with pytest.raises(ValueError, match="Leave the callback out"):
        sequence.fit(*blobs, **FIT, callbacks=forms.get(form, lambda generation: [backup]))
    assert [] == sequence.models


@pytest.mark.one_backend
def test_callbacks_in_a_callback_list_have_paths_of_their_own(blobs, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")

    compiled().fit(*blobs, **FIT, callbacks=[keras.callbacks.CallbackList([logger])])

    assert ["log-generation-00.csv", "log-generation-01.csv"] == sorted(path.name for path in tmp_path.iterdir())


@pytest.mark.one_backend
def test_a_callable_may_return_the_same_callback_again(blobs, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")

    sequence = compiled(controls=["independent"], soft_targets="online")
    sequence.fit(*blobs, **FIT, callbacks=lambda generation: [logger])

    assert ["log-control-independent-02.csv", "log.csv"] == sorted(path.name for path in tmp_path.iterdir())
