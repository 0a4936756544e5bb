"""Saving and loading a `Distiller`."""

import pathlib

import keras

from keras_ban._src.files import model_file
from keras_ban._src.losses import schedules

_PARTS = ("student", "teacher", "distillation_loss", "label_weight", "feature_matching", "augmentation")


class DistillerFile:
    """The methods of a `Distiller` that Keras calls to save and load it."""

    def get_compile_config(self):
        config = super().get_compile_config()
        # Keras writes the resolved value of "auto", which may differ where the file is loaded.
        return config and {**config, "jit_compile": self._jit_wanted}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self):
        parts = {part: getattr(self, part) for part in _PARTS}
        # As it was passed: a loss that reads the models reads them again.
        parts["distillation_loss"] = self._hidden.distillation_loss
        return {"name": self.name, **{part: _serialized(value) for part, value in parts.items()}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        others = [part for part in _PARTS if part != "label_weight"]
        parts = {part: keras.saving.deserialize_keras_object(config[part], custom_objects) for part in others}
        parts["label_weight"] = schedules.from_config("label_weight", config["label_weight"], custom_objects)
        return cls(**{**config, **parts})

    # Keras does not save the generators of losses.
    def save_own_variables(self, store):
        for index, generator in enumerate(self._loss_seed_generators):
            store[f"seed_generator_{index}"] = generator.state

    def load_own_variables(self, store):
        for index, generator in enumerate(self._loss_seed_generators):
            if f"seed_generator_{index}" in store.keys():  # noqa: SIM118, not all of Keras's stores are dicts
                generator.state.assign(store[f"seed_generator_{index}"])

    def save_assets(self, directory):
        # Keras leaves an empty folder out of the file, and then does not call `load_assets`.
        pathlib.Path(directory, "contents.txt").write_text("student, teacher\n")
        self._hidden.found_by_keras = True

    def load_assets(self, directory):
        self._hidden.found_by_keras = True

    def __dir__(self):
        # Keras saves and loads the attributes that it finds here. It finds the teacher only for a `.keras` file, for
        # which it calls `save_assets` or `load_assets` first. A weights file does not hold the teacher.
        found, self._hidden.found_by_keras = self._hidden.found_by_keras, False
        return [name for name in super().__dir__() if name != "teacher" or found]


def _serialized(part):
    is_model = isinstance(part, keras.Model)
    return model_file.serialized(part) if is_model else keras.saving.serialize_keras_object(part)
