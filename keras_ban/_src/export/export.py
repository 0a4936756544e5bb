"""Export a model for serving, on any backend, and verify the result."""

import collections.abc
import importlib.util
import numbers
import pathlib
import zipfile
from collections.abc import Iterable
from typing import Literal

import keras
import numpy as np

from keras_ban._src import backend, checks, hints
from keras_ban._src.data.leaves import leaves_of
from keras_ban._src.distillation.distiller import Distiller
from keras_ban._src.ensemble.ensemble import EnsembleModel
from keras_ban._src.ensemble.member_copies import separated
from keras_ban._src.export.formats import check_importable, write
from keras_ban._src.export.served import ServedModel, input_specs, named_inputs, random_inputs
from keras_ban._src.export.texts import as_texts, check_texts, is_text
from keras_ban._src.export.verification import BATCH_SIZES, actual_outputs, expected_outputs, largest_difference
from keras_ban._src.files.replacement import check_may_replace, put_in_place, temporary_folder
from keras_ban._src.sequence.sequence import BornAgainSequence

# The packages that each format needs besides TensorFlow, to be written and to be run.
_PACKAGES = {"tf_saved_model": [], "onnx": ["tf2onnx", "onnxruntime"], "litert": ["ai_edge_litert"]}
FORMATS = tuple(_PACKAGES)


def export(
    model: keras.Model | BornAgainSequence,
    path: hints.Path,
    format: Literal["tf_saved_model", "onnx", "litert"] = "tf_saved_model",
    *,
    choose: Literal["ensemble", "best"] = "ensemble",
    members: bool = False,
    preprocessing: hints.Layers | None = None,
    labels: Iterable[str] | None = None,
    examples: hints.Data = None,
    int8: bool = False,
    verify: bool = True,
    tolerance: float = 1e-5,
    overwrite: bool = False,
    verbose: bool = True,
) -> dict[str, float]:
    """Export a model as one self-contained inference graph, on any backend, and verify it.

    The graph needs neither keras_ban nor Keras, and takes batches of any size. Its inputs have the names of the model's
    `keras.Input`s or the keys of a dict. Inputs without a name are `input_0`, `input_1`, ... Its outputs have the keys
    of a dict, else the names `output_0`, `output_1`, ... A SavedModel has the signatures `serve` and `serving_default`.
    Dropout is off, and BatchNorm uses its moving averages.

    TensorFlow writes all formats (`pip install "keras-ban[export]"`). Under JAX and torch, this happens in a separate
    process, which imports the model's classes.

    Example:

    ```python
    keras_ban.export(model, "serving/1")
    keras_ban.export(keras_ban.EnsembleModel([first, second]), "serving/2", members=True)
    ```

    Args:
        model: a built `keras.Model`, a `Distiller` (for its student), an `EnsembleModel` (as one graph) or a trained
            `BornAgainSequence`.
        path: a folder for `"tf_saved_model"` (TensorFlow Serving expects `.../name/1`), else a file. Parent folders are
            created. The result gets this name after verification, so that it is complete or absent.
        format: `"tf_saved_model"`, `"onnx"` (opset 18) or `"litert"`.
        choose: for a `BornAgainSequence`, `"ensemble"` (`ensemble()`) or `"best"` (`best_model`).
        members: whether an `EnsembleModel` has the additional output `members`, `(batch, members, ...)`: the outputs of
            each member. Unless `average="outputs"`, there are also `predictive_entropy`, `H[p]` of the mean `p` of
            the members' probabilities, and `mutual_information`, `H[p] - sum(w * H[member])`, the part of it due to
            disagreement, in nats (Houlsby et al., 2011; Malinin and Gales, 2018). Both are `(batch, ...)` without the
            classes. For sigmoids, they have one value for each output.
        preprocessing: a layer or a list of layers that the graph applies to its inputs first, for instance
            `keras.layers.Rescaling(1 / 255)`. Inputs then have the sizes and dtype of the `examples`, else uint8. With
            an adapted `keras.layers.TextVectorization` or `StringLookup` and texts as `examples`, a SavedModel takes
            texts, on any backend. (A model that begins with such a layer can be exported under TensorFlow.)
        labels: class names, one for each class, stored one per line: in a SavedModel as `assets/labels.txt`, in ONNX as
            the metadata `labels`, in LiteRT as an associated file `labels.txt`.
        examples: inputs as clients will send them, `(examples, ...)`, or `(inputs, y)` with class indices `y`. They are
            used for verification, besides random inputs, and to calibrate and measure int8.
        int8: whether to quantise weights and activations to int8 (`"litert"` only). Needs `examples`.
        verify: whether to load the result in a process without keras_ban, and to compare its outputs with the model's
            `predict`, for random inputs and the examples, at batch sizes 1, 2 and 7.
        tolerance: largest allowed absolute difference, in the outputs' units. The default is for float32 on a CPU.
            Large outputs, half precision and GPUs with TF32 need more. With `int8`, the difference is only reported.
        overwrite: whether to replace an existing model at `path`, after verification.
        verbose: whether to print the steps and the differences found.

    Returns:
        A dict of measurements, empty with `verify=False`. `difference` is the largest absolute difference of any
        output. For int8 classifiers, `agreement` is the share of examples with the same prediction. With `y`, there are
        also `accuracy` and `source_accuracy`.

    Raises:
        TypeError: if the type of the model, of a layer or of `path` is wrong.
        ValueError: if another argument is wrong, `path` exists, or the model cannot be exported, before any work.
        ImportError: if TensorFlow or another package is missing. The message names it.
        RuntimeError: if writing or loading fails, or a difference exceeds `tolerance`. No file is left.
    """
    labels = _check_labels(labels)
    model = separated(_resolve(model, choose))  # A process that writes it loads it from a file.
    served = ServedModel(model, _check_layers(preprocessing), members)
    path = pathlib.Path(checks.check_path("path", path))
    _check_choices(model, members, examples, int8, format, tolerance)
    check_may_replace(path, format, overwrite)
    _check_packages(format)
    if not backend.WRITES_SAVED_MODELS:
        check_importable(served)
    examples, y = _split(examples)
    specs = check_texts(input_specs(model, served.preprocessing, examples), format, served.preprocessing)
    examples = _fit(specs, examples)
    if verify:
        # Before anything is written, because the model itself may fail here.
        inputs = random_inputs(specs, sum(BATCH_SIZES), examples, model)
        if examples is not None:
            inputs = keras.tree.map_structure(lambda *rows: np.concatenate(rows), inputs, examples)
        expected = expected_outputs(served, inputs)
        _check_outputs(labels, specs, expected, format)

    say = print if verbose else lambda *_: None
    with temporary_folder(path) as folder:
        in_this_process = format == "tf_saved_model" and backend.WRITES_SAVED_MODELS
        say(f"Writing {model.name!r} as {format}" + ("" if in_this_process else ", in a separate process"))
        artefact = write(served, specs, format, folder, named_inputs(specs, examples) if int8 else None)
        if labels is not None:
            _add_labels(artefact, format, labels)
        report = {}
        if verify:
            say("Verifying it in a process without keras_ban")
            actual = actual_outputs(artefact, format, specs, inputs, folder)
            report = {"difference": largest_difference(expected, actual)}
            if int8:
                report |= _measure(expected, actual, y, sum(BATCH_SIZES))
            elif not report["difference"] <= tolerance:
                raise RuntimeError(
                    f"The exported {format} differs from {model.name!r} by {report['difference']:.3g}, more than "
                    f"`tolerance={tolerance:.3g}`: nothing was kept. Half precision, GPUs and large outputs need a "
                    "larger `tolerance`. The model must give the same outputs in each call, at any batch size."
                )
        put_in_place(artefact, path, folder, format, overwrite)
    say(f"Exported to {path}" + "".join(f", {name.replace('_', ' ')} {value:.3g}" for name, value in report.items()))
    return report


def _resolve(model, choose):
    checks.check_choice("choose", choose, ("ensemble", "best"))
    if isinstance(model, BornAgainSequence):
        return model.best_model if choose == "best" else model.ensemble()
    if choose != "ensemble":
        raise ValueError(f"`choose` is for a `BornAgainSequence`, received one model of type {type(model).__name__}.")
    if isinstance(model, Distiller):
        return model.student
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a `keras.Model`, `Distiller` or `BornAgainSequence`, received: {model!r}.")
    return model


def _check_layers(preprocessing):
    layers = [] if preprocessing is None else keras.tree.flatten(preprocessing)
    for layer in layers:
        if not isinstance(layer, keras.layers.Layer):
            raise TypeError(f"`preprocessing` must be a `keras.layers.Layer`, or a list of them, received: {layer!r}.")
    return layers


def _check_packages(format):
    missing = [name for name in ["tensorflow", *_PACKAGES[format]] if importlib.util.find_spec(name) is None]
    if missing:
        names = " and ".join(missing).replace("_", "-")
        raise ImportError(f'To export to {format}, {names} must be installed: `pip install "keras-ban[export]"`.')


def _check_choices(model, members, examples, int8, format, tolerance):
    if format not in FORMATS:
        raise ValueError(f"`format` must be one of {FORMATS}, received: {format!r}.")
    if members and not isinstance(model, EnsembleModel):
        name = type(model).__name__
        raise ValueError(f"`members=True` is for an `EnsembleModel`, received a {name}: {model.name!r}.")
    if not isinstance(tolerance, numbers.Real) or not tolerance >= 0:
        raise ValueError(f"`tolerance` must be a number, 0 or more, received: {tolerance!r}.")
    if int8 and (format != "litert" or examples is None):
        raise ValueError("`int8=True` needs `format='litert'`, and `examples` to measure the ranges of activations.")


def _check_labels(labels):
    if labels is None:
        return None
    is_list = isinstance(labels, collections.abc.Iterable) and not isinstance(labels, str)
    given, labels = labels, list(labels) if is_list else []
    if not labels or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"`labels` must be a list of strings, one for each class, received: {given!r}.")
    if any(len(label.splitlines()) > 1 or label.endswith("\n") for label in labels):
        raise ValueError("A label of `labels` holds a line break, but labels are stored one per line. Remove it.")
    return labels


def _check_outputs(labels, specs, outputs, format):
    """Raise `ValueError` if labels are not those of the outputs, or ONNX does not allow the names of the outputs."""
    classes = outputs["output_0"].shape[-1] if labels is not None and "output_0" in outputs else 1
    if classes > 1 and len(labels) != classes:
        raise ValueError(f"`labels` must name each of the {classes} classes, received {len(labels)}: {labels}.")
    both = sorted({spec.name for spec in keras.tree.flatten(specs)} & set(outputs))
    if format == "onnx" and both:
        raise ValueError(
            f"ONNX gives inputs and outputs different names, but the model has both named {both}. Rename one."
        )


def _split(examples):
    """Return the arrays `(inputs, y or None)`."""
    if examples is None:
        return None, None
    inputs, y = examples if isinstance(examples, tuple) else (examples, None)
    inputs = keras.tree.map_structure(lambda x: as_texts(np.asarray(x)), inputs)
    inputs = keras.tree.map_structure(lambda x: x.astype("float32") if x.dtype == "float64" else x, inputs)
    y = None if y is None else np.asarray(y)
    lengths = {len(leaf) if leaf.ndim else 0 for leaf in leaves_of((inputs, y))}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(
            f"`examples` must be arrays with as many rows as each other, at least one, received {sorted(lengths)}."
        )
    return inputs, None if y is None else y.reshape(-1)


def _fit(specs, examples):
    """Convert the examples to the dtypes of the specs. Raise `ValueError` if their structure or shapes differ."""
    if examples is None:
        return None
    count = len(keras.tree.flatten(examples))
    if count != len(keras.tree.flatten(specs)):
        names = keras.tree.map_structure(lambda spec: spec.name, specs)
        raise ValueError(f"`examples` must have the structure of the inputs, {names}, received {count} arrays.")

    def fit(spec, example):
        sizes = zip(spec.shape[1:], example.shape[1:], strict=False)
        if len(spec.shape) != example.ndim or any(want not in (None, came) for want, came in sizes):
            raise ValueError(f"`examples` must have shape {spec.shape} for {spec.name!r}, received: {example.shape}.")
        if is_text(spec) != (example.dtype.kind == "U"):
            raise ValueError(f"`examples` must be of dtype {spec.dtype} for {spec.name!r}, received: {example.dtype}.")
        if is_text(spec):
            return example
        return example.astype("float32" if spec.dtype == "bfloat16" else spec.dtype)

    return keras.tree.map_structure(fit, specs, examples)


def _add_labels(artefact, format, labels):
    text = "\n".join(labels) + "\n"
    if format == "tf_saved_model":
        (artefact / "assets").mkdir(exist_ok=True)
        (artefact / "assets" / "labels.txt").write_text(text, encoding="utf-8")
    elif format == "onnx":
        # Optional: for this format alone.
        import onnx

        model = onnx.load(artefact)
        onnx.helper.set_model_props(model, {"labels": text})
        onnx.save(model, artefact)
    else:
        # LiteRT stores associated files in a zip archive after the graph. Readers of the graph ignore it.
        with zipfile.ZipFile(artefact, "a") as archive:
            archive.writestr("labels.txt", text)


def _measure(expected, actual, y, first):
    """Measure the effect of int8 on a classifier, for the examples, which start at row `first`."""
    expected, actual = expected.get("output_0"), actual.get("output_0")
    if expected is None or expected.ndim != 2 or expected.shape[1] < 2:
        return {}
    before, after = (np.argmax(each[first:], axis=-1) for each in (expected, actual))
    report = {"agreement": float(np.mean(before == after))}
    if y is not None:
        report |= {"source_accuracy": float(np.mean(before == y)), "accuracy": float(np.mean(after == y))}
    return report
