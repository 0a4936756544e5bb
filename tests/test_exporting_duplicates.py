"""Exported models that have an input or output twice, or names that a format takes for one, and batches of no rows."""

import keras
import numpy as np
import pytest
from helpers.interpreters import fork_interpreters
from keras import layers

import keras_ban
from keras_ban._src.export import export, run_artefact

READERS = {"tf_saved_model": run_artefact.saved_model, "onnx": run_artefact.onnx, "litert": run_artefact.litert}


def difference(first, second):
    return keras.Model([first, second], layers.Subtract()([first, second]))


def one_input_twice():
    x = keras.Input((2,), name="x")
    return keras.Model([x, x], layers.Dense(2)(x))


def an_output_named_as_an_input():
    x = keras.Input((2,), name="x")
    return keras.Model(x, {"x": layers.Dense(2)(x)})


REFUSED = {
    "one input twice": (one_input_twice, r"differ as identifiers: in the graph these would be \['x', 'x'\]"),
    "identifiers": (lambda: difference(keras.Input((2,), name="x-1"), keras.Input((2,), name="x_1")), "'x_1', 'x_1'"),
    "no name": (lambda: difference(keras.Input((2,), name="input_1"), keras.Input((2,))), "'input_1', 'input_1'"),
    "case": (lambda: difference(keras.Input((2,), name="x"), keras.Input((2,), name="X")), r"'x', 'X'\]. \(Upper and"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("format", export.FORMATS)
@pytest.mark.parametrize("name", REFUSED)
def test_inputs_whose_names_are_one_are_refused_before_anything_is_written(tmp_path, monkeypatch, name, format):
    build, message = REFUSED[name]
    monkeypatch.setattr(export, "write", lambda *_: pytest.fail("It is written."))
    monkeypatch.setattr(export, "_check_packages", lambda format: None)
    with pytest.raises(ValueError, match=message):
        keras_ban.export(build(), tmp_path / "model", format, verbose=False)


@pytest.mark.one_backend
def test_onnx_refuses_an_output_with_the_name_of_an_input(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "write", lambda *_: pytest.fail("It is written."))
    monkeypatch.setattr(export, "_check_packages", lambda format: None)
    with pytest.raises(ValueError, match=r"but the model has both named \['x'\]"):
        keras_ban.export(an_output_named_as_an_input(), tmp_path / "model", "onnx", verbose=False)


def twice():
    """One input twice, one output twice, and an input that is an output."""
    x = keras.Input((2,), name="x")
    y = layers.Dense(3)(x)
    return keras.Model({"Left": x, "right": x}, {"one": y, "other": y, "same": x})


def with_capitals():
    return difference(keras.Input((2,), name="First"), keras.Input((2,), name="second"))


def ensemble():
    def member():
        return keras.Sequential([keras.Input((8, 8, 1)), layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(3)])

    return keras_ban.EnsembleModel([member(), member()])


@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")  # Keras warns of keys that are no names.
@pytest.mark.parametrize("format", READERS)
@pytest.mark.parametrize(("build", "options"), [(twice, {}), (with_capitals, {}), (ensemble, {"members": True})])
def test_each_input_keeps_its_name_and_a_batch_of_no_rows_gives_none(tmp_path, monkeypatch, build, options, format):
    for package in ("tensorflow", "tf2onnx", "onnxruntime", "ai_edge_litert"):
        pytest.importorskip(package)
    fork_interpreters(monkeypatch)
    model = build()
    names = {twice: ["Left", "right"], with_capitals: ["First", "second"], ensemble: ["input_0"]}[build]
    report = keras_ban.export(model, tmp_path / "model", format, verbose=False, **options)

    assert report["difference"] <= 1e-5
    run, shape = READERS[format](str(tmp_path / "model")), (8, 8, 1) if build is ensemble else (2,)
    rows = {count: run(dict.fromkeys(names, np.ones((count, *shape), "float32"))) for count in (0, 2)}
    assert set(rows[0]) == set(rows[2])
    for name, value in rows[0].items():
        assert (0, *rows[2][name].shape[1:]) == value.shape
