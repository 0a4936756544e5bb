"""What takes the place of a model in Keras's tests.

A Distiller has `label_weight=1` and no teacher, so that it must do what its student does. An ensemble has one member.
"""

import os

import keras

from keras_ban import Distiller, EnsembleModel

MODEL = os.environ.get("KERAS_SUITES_MODEL", "distiller")

_made = []


class Access:
    """What tests reach of their own model: a Distiller and an ensemble have no graph and no weights of a test's own."""

    layers = property(lambda self: unwrapped(self).layers, keras.Model.layers.fset)

    @property
    def output(self):
        # Of its own, once it is a layer of another graph.
        return super().output if self._inbound_nodes else unwrapped(self).output

    def add(self, layer):
        unwrapped(self).add(layer)


def _forward(name):
    setattr(Access, name, property(lambda self: getattr(unwrapped(self), name)))


for own in ("outputs", "iterations", "train_counter", "test_counter", "predict_counter"):
    _forward(own)


@keras.saving.register_keras_serializable(package="keras_suites")
class AlikeDistiller(Access, Distiller):
    """A Distiller that does not report `label_loss`, as its student does not."""

    def get_metrics_result(self):
        logs = super().get_metrics_result()
        logs.pop("label_loss", None)
        return logs


@keras.saving.register_keras_serializable(package="keras_suites")
class AlikeEnsemble(Access, EnsembleModel):
    pass


ALIKE = {"distiller": AlikeDistiller, "ensemble": AlikeEnsemble}[MODEL]


def wrap(model):
    note_made()
    if MODEL == "distiller":
        return AlikeDistiller(student=model, label_weight=1)
    return AlikeEnsemble([model], average="outputs")


def unwrapped(model):
    if isinstance(model, Distiller):
        return model.student
    return model.members[0] if isinstance(model, EnsembleModel) else model


def note_made():
    _made.append(1)


def count_made():
    return len(_made)


class Wrapping(type(keras.Model)):
    """The type of classes that a test derives from a replaced one. What they make is wrapped, too."""

    def __call__(cls, *args, **kwargs):
        made = super().__call__(*args, **kwargs)
        return wrap(made) if isinstance(made, keras.Model) else made

    def __instancecheck__(cls, instance):
        return super().__instancecheck__(unwrapped(instance))


class Maker:
    """Stands for a class of models: gives wrapped ones when it is called, and as a base."""

    def __init__(self, original):
        self._original = original

    def __call__(self, *args, **kwargs):
        return wrap(self._original(*args, **kwargs))

    def __mro_entries__(self, bases):
        # One of its own for each: Keras replaces the bases of a class whose first instance has symbolic inputs.
        return (Wrapping(self._original.__name__, (self._original,), {}),)

    def __instancecheck__(self, instance):
        return isinstance(unwrapped(instance), self._original)

    def __getattr__(self, name):
        return getattr(self._original, name)

    def from_config(self, config, custom_objects=None):
        return ALIKE.from_config(config, custom_objects=custom_objects)


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


def replace(module):
    """Replace the names by which a test file creates models."""
    for name, value in list(vars(module).items()):
        if name in OWN_CLASSES and module.__name__.endswith("trainer_test"):
            setattr(module, name, Maker(OWN_CLASSES[name]))
        elif name in ("Model", "Sequential", "Functional") and isinstance(value, type):
            setattr(module, name, Maker(value))
        elif name in ("keras", "models"):
            setattr(module, name, Namespace(value))
