"""Keep a generation's state at the end of each epoch, so that an interrupted one need not begin again.

The rules:

1. After each epoch the state is written to one file, which is replaced as a whole: all variables of what is trained
   (the states of its random generators too) and of the optimizer, the states of the global random generators, the logs
   and the time taken. That is all that an epoch of Keras leaves to the next, callbacks and data apart.
2. What callbacks have counted no file can hold. So a generation with callbacks begins again, but for those of Keras
   that count nothing and those that say `stateless = True`; so do one with `steps_per_epoch`, whose epochs begin where
   the last one stopped in the data, and a model that is built by its data.
3. A file that is not whole, of another generation or of another Keras, is as good as none: the generation begins again.
4. A generation that ended in NaN or infinity begins again.
5. Of several workers that train together the first writes, and all of them go on from the file.
"""

import json
import os
import time
import zipfile

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.files.writing import writing


class KeepEpochs(keras.callbacks.Callback):
    """Writes the state after each epoch; and where it finds one that was written before, training goes on from it.

    Args:
        path: the file, `.npz`.
        generation: which generation it is of.

    Attributes:
        generation: the same.
        logs: of all epochs, those before the interruption included: a list for each name.
        epochs_kept: how many epochs the file holds.
    """

    def __init__(self, path, generation):
        super().__init__()
        self._path = path
        self.generation = generation
        self._begin = time.perf_counter()
        self.logs = {}
        self._kept = self._read()
        if self._kept is not None:
            self.logs = self._about["logs"]
            self._begin -= self._about["seconds"]
        self.epochs_kept = self.initial_epoch or 0

    @property
    def initial_epoch(self):
        """The epoch to go on with; `None`: the first."""
        return None if self._kept is None else self._about["epochs"]

    def seconds(self):
        """How long all epochs took."""
        return time.perf_counter() - self._begin

    def forget(self):
        """Remove the file."""
        if process_group.is_chief():
            self._path.unlink(missing_ok=True)

    def on_train_begin(self, logs=None):
        if self._kept is None:
            return
        for index, variable in enumerate(self._variables()):
            like = backend.value_of(variable)
            data = np.frombuffer(self._kept[f"variable_{index}"].tobytes(), like.dtype)
            variable.assign(data.reshape(like.shape))

    def on_epoch_begin(self, epoch, logs=None):
        # Not before: to build models and iterators, Keras draws random numbers too.
        if self._kept is not None:
            backend.set_random_states({name: self._kept[name] for name in self._about["random_states"]})
            self._kept = None

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.logs.setdefault(name, []).append(float(value))
        if process_group.is_chief():
            self._write(epoch)
        self.epochs_kept = epoch + 1

    def _write(self, epoch):
        states = backend.random_states()
        about = {"generation": self.generation, "keras": keras.__version__, "epochs": epoch + 1, "logs": self.logs}
        about |= {"seconds": self.seconds(), "random_states": list(states)}
        arrays = {"about": np.array(json.dumps(about)), **states}
        for index, variable in enumerate(self._variables()):
            # As bytes, because `.npz` has no bfloat16.
            arrays[f"variable_{index}"] = np.frombuffer(backend.value_of(variable).tobytes(), "uint8")
        partial = self._path.with_name(f".{self._path.name}.partial")
        with writing(self._path, partial):
            _write_npz(partial, arrays)
            os.replace(partial, self._path)

    def _variables(self):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        return [*self.model.variables, *self.model.optimizer.variables]

    def _read(self):
        try:
            with open(self._path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                kept = dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile):
            return None
        self._about = json.loads(str(kept["about"]))
        fits = self._about["generation"] == self.generation and self._about["keras"] == keras.__version__
        return kept if fits else None


def _write_npz(path, arrays):
    """As `np.savez`, which leaves its archive open where the disk is full."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
