"""A pytest plugin that runs Keras's own tests with a `Distiller` or an `EnsembleModel` in place of each model.

The test files are in the installed Keras. `nox -s keras_suites` runs them; the variable `KERAS_SUITES_MODEL` says what
takes the place of a model. The names by which a test file creates models (`models.Sequential`, `Model`, a class of its
own) are replaced in that file. A Distiller has `label_weight=1` and no teacher, so that it must do what its student
does. An ensemble has one member. `left_out.py` says what is left out, and why.
"""

import os

import keras
import pytest

from keras_ban import Distiller, EnsembleModel
from keras_suites.left_out import reason

MODEL = os.environ.get("KERAS_SUITES_MODEL", "distiller")


@keras.saving.register_keras_serializable(package="keras_suites")
class Alike(Distiller):
    """A Distiller whose history has no `label_loss`, as that of its student."""

    def fit(self, *args, **kwargs):
        history = super().fit(*args, **kwargs)
        history.history.pop("label_loss", None)
        return history


def wrap(model):
    if MODEL == "distiller":
        return Alike(student=model, label_weight=1)
    return EnsembleModel([model], average="outputs")


def unwrapped(model):
    if isinstance(model, Distiller):
        return model.student
    return model.members[0] if isinstance(model, EnsembleModel) else model


class Maker:
    """Stands for a class of models: gives wrapped ones when it is called, and is the class itself as a base."""

    def __init__(self, original):
        self._original = original

    def __call__(self, *args, **kwargs):
        return wrap(self._original(*args, **kwargs))

    def __mro_entries__(self, bases):
        return (self._original,)

    def __instancecheck__(self, instance):
        return isinstance(unwrapped(instance), self._original)

    def __getattr__(self, name):
        return getattr(self._original, name)


class Namespace:
    """Stands for a module that holds classes of models."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        found = getattr(self._module, name)
        return Maker(found) if name in ("Model", "Sequential") else found


class Example(keras.Model):
    """The model of `trainer_test.py`, which there is a `Trainer` and a `Dense`, and no `keras.Model`."""

    def __init__(self, units):
        super().__init__()
        self.dense = _dense(units)

    def call(self, inputs):
        return self.dense(inputs)


class Struct(keras.Model):
    def __init__(self, units):
        super().__init__()
        self.dense_1, self.dense_2 = _dense(units), _dense(units)

    def call(self, inputs):
        return {"y_one": self.dense_1(inputs["x_one"]), "y_two": self.dense_2(inputs["x_two"])}


class ListInput(Struct):
    def call(self, inputs):
        return self.dense_1(inputs[0]) + self.dense_2(inputs[1])


class ListOutput(Struct):
    def call(self, inputs):
        return [self.dense_1(inputs), self.dense_2(inputs)]


class Training(keras.Model):
    def call(self, inputs, training=False):
        return inputs if training else inputs * 0


def _dense(units):
    return keras.layers.Dense(units, use_bias=False, kernel_initializer="ones")


OWN_CLASSES = {
    "ExampleModel": Example,
    "StructModel": Struct,
    "ListInputModel": ListInput,
    "ListOutputModel": ListOutput,
    "TrainingTestingLayer": Training,
}


def _replace_models(module):
    for name, value in list(vars(module).items()):
        if name in OWN_CLASSES and module.__name__.endswith("trainer_test"):
            setattr(module, name, Maker(OWN_CLASSES[name]))
        elif name in ("Model", "Sequential", "Functional") and isinstance(value, type):
            setattr(module, name, Maker(value))
        elif name == "models":
            setattr(module, name, Namespace(value))


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        _replace_models(module)
    for item in items:
        why = reason(MODEL, item)
        if why is not None:
            item.add_marker(pytest.mark.skip(reason=why))
