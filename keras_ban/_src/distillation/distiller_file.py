"""The parts of a `Distiller` in a file."""

import pathlib

import keras

from keras_ban._src.losses.schedules import serialize

_PARTS = ("student", "teacher", "distillation_loss", "label_weight", "feature_matching", "augmentation")


class DistillerFile:
    """What Keras calls to save and load a `Distiller`."""

    def get_compile_config(self):
        config = super().get_compile_config()
        # Keras notes what "auto" came to; where the file is loaded it may come to something else.
        return config and {**config, "jit_compile": self._jit_wanted}

    def compile_from_config(self, config):
        self.compile(**keras.saving.deserialize_keras_object(config))
        if self.built:
            self.optimizer.build(self.trainable_variables)

    def get_config(self):
        return {
            "name": self.name,
            "student": keras.saving.serialize_keras_object(self.student),
            "teacher": keras.saving.serialize_keras_object(self.teacher),
            "distillation_loss": keras.saving.serialize_keras_object(self.distillation_loss),
            "label_weight": serialize(self.label_weight),
            "feature_matching": keras.saving.serialize_keras_object(self.feature_matching),
            "augmentation": keras.saving.serialize_keras_object(self.augmentation),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        parts = {
            key: keras.saving.deserialize_keras_object(config[key], custom_objects=custom_objects) for key in _PARTS
        }
        return cls(**{**config, **parts})

    # Keras saves no generators by itself.
    def save_own_variables(self, store):
        for index, generator in enumerate(self._loss_seed_generators):
            store[f"seed_generator_{index}"] = generator.state

    def load_own_variables(self, store):
        for index, generator in enumerate(self._loss_seed_generators):
            if f"seed_generator_{index}" in store.keys():  # noqa: SIM118, not all of Keras's stores are dicts
                generator.state.assign(store[f"seed_generator_{index}"])

    def save_assets(self, directory):
        # An empty folder would be left out of the file, and `load_assets` not be called.
        pathlib.Path(directory, "contents.txt").write_text("student, teacher\n")
        self._hidden.found_by_keras = True

    def load_assets(self, directory):
        self._hidden.found_by_keras = True

    def __dir__(self):
        # Keras saves and loads what it finds among the attributes. The teacher is found for a `.keras` file, for which
        # Keras asks for assets first, and not for a weights file.
        found, self._hidden.found_by_keras = self._hidden.found_by_keras, False
        return [name for name in super().__dir__() if name != "teacher" or found]
