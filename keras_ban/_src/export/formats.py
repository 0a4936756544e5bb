"""Write the formats for export: a SavedModel by Keras, and the other formats by converters of SavedModels.

Keras writes the SavedModel under TensorFlow. Under JAX and torch, a separate process with TensorFlow loads the model
from a `.keras` file. Converters always run in a separate process, because they change loggers and NumPy.
"""

import importlib
import json
import pathlib
import sys

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.export.processes import run_python
from keras_ban._src.export.served import named_inputs
from keras_ban._src.files import model_file


def write(served, specs, format, folder, representative=None):
    """Write a model in a format, and return the path of the result. Raise `RuntimeError` if the process fails.

    `folder` is an empty folder, also for intermediate files. With `representative`, inputs by name, LiteRT is quantised
    to int8.
    """
    saved_model, converted = folder / "saved_model", folder / f"converted.{format}"
    job = {"format": format, "saved_model": str(saved_model), "converted": str(converted), "model": None}
    job["specs"] = {name: (spec.dtype, spec.shape) for name, spec in named_inputs(specs, specs).items()}
    if backend.WRITES_SAVED_MODELS:
        write_saved_model(served, specs, saved_model)
    else:
        model_file.save(served, folder / "model.keras")
        job["model"] = str(folder / "model.keras")
        job["floatx"] = keras.config.floatx()
        job["structure"] = keras.tree.map_structure(lambda spec: spec.name, specs)
        job["classes"] = [(each.__module__, each.__name__) for each in users_objects(served)]
    if job["model"] or format != "tf_saved_model":
        if representative is not None:
            np.savez(folder / "representative.npz", **representative)
            job["representative"] = str(folder / "representative.npz")
        (folder / "job.json").write_text(json.dumps(job))
        command = ["-m", "keras_ban._src.export.formats", folder / "job.json"]
        run_python(command, f"writes {format} under TensorFlow", KERAS_BACKEND="tensorflow")
    return saved_model if format == "tf_saved_model" else converted


def write_saved_model(served, specs, path):
    archive = keras.export.ExportArchive()
    archive.track_and_add_endpoint("serve", served, [specs])
    archive.write_out(str(path), verbose=False)


def users_objects(model):
    """Return the classes and functions of a model that are neither of Keras nor of keras_ban."""
    known_packages = {"keras", "keras_ban"}
    found = list(dict.fromkeys(map(type, backend.flat_layers(model))))
    # Activations, regularizers and others that are registered. Their name is `package>name`.
    parts = model_file.parts_of(keras.saving.serialize_keras_object(model))
    found += [keras.saving.get_registered_object(each) for each in parts if isinstance(each, str) and ">" in each]
    return [each for each in found if each is not None and each.__module__.split(".")[0] not in known_packages]


def check_importable(model):
    """Raise `ValueError` if another process could not import a class or a function of the model."""
    for each in users_objects(model):
        if each.__module__ == "__main__" or "." in each.__qualname__:
            raise ValueError(
                f"Under {keras.config.backend()}, a separate process exports the model, but it cannot import "
                f"{each.__qualname__!r} from {each.__module__!r}. Move it to the top level of a separate module, or "
                "export under TensorFlow (KERAS_BACKEND=tensorflow)."
            )


def litert_from(saved_model, representative=None):
    """Convert a SavedModel to LiteRT. Return the file's bytes. Works on any backend if TensorFlow is installed.

    The signature `serving_default` is converted. With `representative`, inputs by name `(examples, ...)`, weights and
    activations are quantised to int8. Inputs and outputs keep their dtype.
    """
    # Optional on other backends.
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
    if representative is not None:
        count = len(next(iter(representative.values())))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            {name: rows[i : i + 1] for name, rows in representative.items()} for i in range(count)
        )
    return converter.convert()


def _mend_onnx(path, names):
    """Correct what tf2onnx writes: the names of inputs, which TensorFlow has in lower case, and batches of no rows."""
    # Optional: for this format alone.
    import onnx

    model = onnx.load(path)
    wanted = {name.lower(): name for name in names}
    for graph in _graphs(model.graph):
        constants = {each.name for each in graph.initializer}
        constants |= {name for node in graph.node if node.op_type == "Constant" for name in node.output}
        for value in graph.input:
            value.name = wanted.get(value.name, value.name)
        for node in graph.node:
            node.input[:] = [wanted.get(name, name) for name in node.input]
            if node.op_type == "Reshape" and node.input[1] not in constants:
                # A size of 0 that was computed is that of an empty batch. Else ONNX reads "as it was" there.
                others = [each for each in node.attribute if each.name != "allowzero"]
                del node.attribute[:]
                node.attribute.extend([*others, onnx.helper.make_attribute("allowzero", 1)])
    onnx.save(model, path)


def _graphs(graph):
    """Yield a graph and those within it, of loops and conditions."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for each in [attribute.g, *attribute.graphs]:
                if each.node:
                    yield from _graphs(each)


def _run(job):
    """Do the work of the process that `write` starts."""
    if job["model"]:
        keras.config.set_floatx(job["floatx"])
        classes = {name: getattr(importlib.import_module(module), name) for module, name in job["classes"]}
        served = model_file.load(job["model"], classes)
        by_name = {name: keras.InputSpec(dtype, shape, name=name) for name, (dtype, shape) in job["specs"].items()}
        specs = keras.tree.map_structure(by_name.get, job["structure"])
        write_saved_model(served, specs, job["saved_model"])
    if job["format"] == "onnx":
        # Optional: for this format alone.
        from tf2onnx import convert

        # tf2onnx documents its command line only. `serving_default` names the inputs and outputs.
        sys.argv[1:] = ["--saved-model", job["saved_model"], "--signature_def", "serving_default"]
        sys.argv += ["--opset", "18", "--output", job["converted"]]
        convert.main()
        _mend_onnx(job["converted"], job["specs"])
    if job["format"] == "litert":
        representative = job.get("representative")
        representative = None if representative is None else dict(np.load(representative))
        pathlib.Path(job["converted"]).write_bytes(litert_from(job["saved_model"], representative))


if __name__ == "__main__":
    _run(json.loads(pathlib.Path(sys.argv[1]).read_text()))
