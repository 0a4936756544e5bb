"""A generation's model as a file, and back; no file's code is ever run (`safe_mode`)."""

import contextlib
import pathlib
import tempfile

import keras

from keras_ban._src.backend import process_group
from keras_ban._src.files.writing import writing


def save(model, path):
    """Write a model without what it was compiled with: that is noted once for all generations."""
    with _bare(model):
        model.save(path)


def load(path, custom_objects=None):
    """The reverse of `save`; not compiled.

    Args:
        path: a `.keras` file.
        custom_objects: as in `keras.saving.load_model`.

    Raises:
        ValueError: the model is of classes that Keras does not know, or cannot be loaded for another reason.
    """
    try:
        return keras.saving.load_model(path, custom_objects, compile=False)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be loaded: {error}\nClasses and functions of your own are registered with "
            "`keras.saving.register_keras_serializable`, or passed as `custom_objects`."
        ) from error


def classes_of(model):
    """The classes that a model is made of, by name, registered with Keras or not."""
    return {type(layer).__name__: type(layer) for layer in model._flatten_layers()}


def on_this_worker(model):
    """The model; where several workers train together, a copy for `_workers.alone`, which is not compiled.

    The engine divides what a model of its own computes over the workers. What is to be known of a model in each of
    them, its outputs on all of the data for instance, a copy outside the engine tells.
    """
    if not process_group.shared():
        return model
    with tempfile.TemporaryDirectory() as folder, writing(folder):
        path = pathlib.Path(folder, "model.keras")
        save(model, path)
        return process_group.alone(lambda: load(path, classes_of(model)))


def check_can_be_kept(model):
    """Raise `ValueError` where a model, which is built, would not come back from a file; before it is trained."""
    try:
        with tempfile.TemporaryDirectory() as folder, writing(folder):
            save(model, pathlib.Path(folder, "model.keras"))
            load(pathlib.Path(folder, "model.keras"), classes_of(model))
    except OSError:
        raise
    except Exception as error:
        raise ValueError(
            f"The model {model.name!r} (of type {type(model).__name__}) cannot be kept in a directory: {error}\n"
            "Complete the `get_config` of its class, or leave out `directory`."
        ) from error


@contextlib.contextmanager
def _bare(model):
    """The model without optimizer and loss, which Keras would write into the file."""
    optimizer = getattr(model, "optimizer", None)
    try:
        if optimizer is not None:
            model.optimizer = None
        model.get_compile_config = lambda: None
        yield
    finally:
        del model.get_compile_config
        if optimizer is not None:
            model.optimizer = optimizer
