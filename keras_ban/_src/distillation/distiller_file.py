"""Saving and loading a `Distiller`."""

import pathlib
from typing import Any, Self

import keras

from keras_ban._src import hints
from keras_ban._src.data.model_inputs import shared_layers
from keras_ban._src.files import model_file
from keras_ban._src.losses import schedules

_PARTS = ("student", "teacher", "distillation_loss", "label_weight", "feature_matching", "augmentation")


class _NameInMemory(str):
    """The name of a Distiller in a configuration, with its teacher. JSON makes a plain string of it.

    A file holds the teacher's weights. A configuration in memory, as `keras.models.clone_model` uses it, does not, and
    the teacher of the clone would be random.
    """

    __slots__ = ("teacher",)

    def __new__(cls, name, teacher):
        made = super().__new__(cls, name)
        made.teacher = teacher
        return made

    def __reduce__(self):
        return str, (str(self),)


def _copy_weights(source, target):
    if source.built and not target.built:
        target.build_from_config(source.get_build_config())
    if len(source.variables) != len(target.variables):
        raise ValueError(
            f"The teacher {source.name!r} cannot be cloned with its weights: its copy, made from its `get_config`, has "
            f"{len(target.variables)} variables where it has {len(source.variables)}."
        )
    for old, new in zip(source.variables, target.variables, strict=True):
        new.assign(keras.ops.copy(old.value))


class DistillerFile:
    """The methods of a `Distiller` that Keras calls to save and load it."""

    def get_compile_config(self) -> dict[str, Any] | None:
        config = super().get_compile_config()
        # Keras writes the resolved value of "auto", which may differ where the file is loaded.
        return config and {**config, "jit_compile": self._jit_wanted}

    def compile_from_config(self, config: hints.Config) -> None:
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    # Of a compiled step or a file, the old value would be used.
    FIXED = (*_PARTS, "projections")

    def get_config(self) -> hints.Config:
        self._refuse_shared_layers()
        parts = {part: getattr(self, part) for part in _PARTS}
        # As it was passed: a loss that reads the models reads them again.
        parts["distillation_loss"] = self._hidden.distillation_loss
        parts = {part: _serialized(value) for part, value in parts.items()}
        return {"name": _NameInMemory(self.name, self.teacher), **parts}

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As `keras.Model.save`. A layer must not be in both student and teacher."""
        self._refuse_shared_layers()  # Now, because Keras creates the file before it asks for the configuration.
        return super().save(*args, **kwargs)

    def _refuse_shared_layers(self):
        layers = [] if self.teacher is None else shared_layers([self.student, self.teacher])
        if layers:
            raise ValueError(
                f"The layers {[layer.name for layer in layers]} are in both student and teacher, or in two members of "
                "the teacher. Keras would save them once, and could not load the file. Save `distiller.student` alone, "
                "or give the student its own layers with `keras_ban.share_layers`, which copies the teacher's."
            )

    @classmethod
    def from_config(cls, config: hints.Config, custom_objects: dict[str, Any] | None = None) -> Self:
        others = [part for part in _PARTS if part != "label_weight"]
        parts = {part: keras.saving.deserialize_keras_object(config[part], custom_objects) for part in others}
        parts["label_weight"] = schedules.from_config("label_weight", config["label_weight"], custom_objects)
        distiller = cls(**{**config, "name": str(config["name"]), **parts})
        if isinstance(config["name"], _NameInMemory) and distiller.teacher is not None:
            _copy_weights(config["name"].teacher, distiller.teacher)
        return distiller

    @property
    def _own_variables(self):
        """The variables by name that belong to the Distiller itself. Keras does not save the generators of losses."""
        variables = self._trainable_variables + self._non_trainable_variables
        of_subclass = [variable for variable in variables if variable is not self._progress]
        own = {f"variable_{index}": variable for index, variable in enumerate(of_subclass)}
        generators = enumerate(self._loss_seed_generators)
        return own | {f"seed_generator_{index}": generator.state for index, generator in generators}

    def save_own_variables(self, store: Any) -> None:
        for name, variable in self._own_variables.items():
            store[name] = variable

    def load_own_variables(self, store: Any) -> None:
        for name, variable in self._own_variables.items():
            if name in store.keys():  # noqa: SIM118, not all of Keras's stores are dicts
                variable.assign(store[name])

    def save_assets(self, directory: str) -> None:
        # Keras leaves an empty folder out of the file, and then does not call `load_assets`.
        pathlib.Path(directory, "contents.txt").write_text("student, teacher\n")
        self._hidden.found_by_keras = True

    def load_assets(self, directory: str) -> None:
        self._hidden.found_by_keras = True

    def __dir__(self) -> list[str]:
        # Keras saves and loads the attributes that it finds here. It finds the teacher only for a `.keras` file, for
        # which it calls `save_assets` or `load_assets` first. A weights file does not hold the teacher.
        found, self._hidden.found_by_keras = self._hidden.found_by_keras, False
        return [name for name in super().__dir__() if name != "teacher" or found]


def _serialized(part):
    is_model = isinstance(part, keras.Model)
    return model_file.serialized(part) if is_model else keras.saving.serialize_keras_object(part)
