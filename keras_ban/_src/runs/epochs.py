"""Save a generation's state after each epoch, so that an interrupted generation can be continued.

1. After each epoch, the state is written to one file, which is replaced as a whole. It holds all variables of the model
   (also the states of its random generators) and the optimizer, the states of the global random generators, the state
   of callbacks, the logs and the elapsed time. Keras carries nothing else from epoch to epoch, except in data.
2. A generation starts again with callbacks whose state is not known (see `callback_state`). It also starts again with
   `steps_per_epoch`, because each epoch starts where the last one stopped in the data, and if the model is built by its
   data.
3. It starts again if the file is of another generation, Keras version or list of callbacks. It also does, with a
   warning, if the file is damaged (it ends in a checksum) or of another run.
4. It starts again if it ended in NaN or infinity.
5. A generation that a callback has stopped is not trained further. Only the end of its training is repeated, in which a
   callback may restore the best weights.
6. With several workers, the chief writes the file, and all workers read it.
"""

import hashlib
import io
import json
import time
import tokenize
import warnings
import zipfile

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.files.regular_file import open_to_read
from keras_ban._src.files.writing import replacing
from keras_ban._src.history.plain_data import plain
from keras_ban._src.runs import callback_state

# The end of a file: the SHA-256 of what is before, and these letters. Programs that read `.npz` skip it.
_LETTERS = b"KERASBAN"
_FOOTER_BYTES = hashlib.sha256().digest_size + len(_LETTERS)
# What NumPy and zipfile raise for a damaged file of an old version, which has no checksum.
_DAMAGE: tuple[type[Exception], ...] = (ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, SyntaxError)
_DAMAGE += (tokenize.TokenError, zipfile.BadZipFile, OSError)


class KeepEpochs(keras.callbacks.Callback):
    """Saves the state after each epoch to `path` (`.npz`), and restores an existing state before training.

    It must come after `callbacks`, the other callbacks of the training, whose state it saves, too. `run` is the text
    that identifies the run, or `None`.

    Attributes:
        generation: number of the generation.
        logs: the logs of all epochs, also those before an interruption: a list for each name.
        epochs_kept: the number of finished epochs in the file.
    """

    def __init__(self, path, generation, callbacks=(), run=None):
        super().__init__()
        self._path = path
        self._run = run
        self.generation = generation
        self._callbacks = callbacks
        self._kept, self._about = self._read() or (None, {})
        self.logs, self.epochs_kept = self._about.get("logs", {}), self._about.get("epochs", 0)
        self._begin = time.perf_counter() - self._about.get("seconds", 0.0)

    def resumed(self, options):
        """Return the arguments of `keras.Model.fit` with the epoch to continue with, and print which it is."""
        if self._kept is None:
            return options
        first, epochs = self.epochs_kept, options["epochs"]
        ended = first >= epochs or self._about.get("stopped", False)
        if options["verbose"] != 0:
            print(f"Resuming {f'after epoch {first}' if ended else f'at epoch {first + 1}'}/{epochs}", flush=True)
        # Without an epoch to train, Keras calls `on_train_begin` and `on_train_end` of the callbacks (rule 5).
        return {**options, "initial_epoch": epochs if ended else first}

    def seconds(self):
        """Return the time of all epochs, in seconds."""
        return time.perf_counter() - self._begin

    def forget(self):
        if process_group.is_chief():
            self._path.unlink(missing_ok=True)

    def on_train_begin(self, logs=None):
        if self._kept is None:
            return
        for index, variable in enumerate(self._variables()):
            like = backend.value_of(variable)
            data = np.frombuffer(self._kept[f"variable_{index}"].tobytes(), like.dtype)
            variable.assign(data.reshape(like.shape))
        callback_state.restore(self._callbacks, self._about.get("callbacks", []), self._kept)

    def on_epoch_begin(self, epoch, logs=None):
        # Not earlier: Keras also draws random numbers to build models and iterators.
        if self._kept is not None:
            backend.set_random_states({name: self._kept[name] for name in self._about["random_states"]})
            self._kept = None

    def on_epoch_end(self, epoch, logs=None):
        for name, value in (logs or {}).items():
            self.logs.setdefault(name, []).append(plain(value))
        if process_group.is_chief():
            self._write(epoch)
        self.epochs_kept = epoch + 1

    def _write(self, epoch):
        states = backend.random_states()
        about = {"run": self._run, "generation": self.generation, "keras": keras.__version__}
        about |= {"epochs": epoch + 1, "logs": self.logs, "seconds": self.seconds()}
        about |= {"random_states": list(states), "stopped": bool(self.model.stop_training)}
        about["callbacks"], arrays_of_callbacks = callback_state.saved(self._callbacks)
        arrays = {"about": np.array(json.dumps(about)), **states, **arrays_of_callbacks}
        for index, variable in enumerate(self._variables()):
            # As bytes, because `.npz` has no bfloat16.
            arrays[f"variable_{index}"] = np.frombuffer(backend.value_of(variable).tobytes(), "uint8")
        with replacing(self._path) as file:
            _write_npz(file, arrays)
            file.seek(0)
            file.write(hashlib.file_digest(file, "sha256").digest() + _LETTERS)

    def _variables(self):
        if not self.model.optimizer.built:
            self.model.optimizer.build(self.model.trainable_variables)
        return [*self.model.variables, *self.model.optimizer.variables]

    def _read(self):
        """Return the result of `read` if training continues from it. Otherwise return `None`."""
        try:
            stored = read(self._path)
        except DamagedFile as error:
            return self._not_used(str(error))
        if stored is None:
            return None
        _, about = stored
        if about.get("run") != self._run:
            return self._not_used("it is of another run")
        is_of_now = (about["generation"], about["keras"]) == (self.generation, keras.__version__)
        return stored if is_of_now and callback_state.fits(self._callbacks, about.get("callbacks", [])) else None

    def _not_used(self, reason):
        warnings.warn(f"{self._path} is not used, because {reason}: the generation starts again.", stacklevel=6)


class DamagedFile(ValueError):
    """An epoch file is not as it was written."""


def read(path):
    """Return the arrays in an epoch file, and the dict with which it describes itself. `None` if there is no file.

    Raise `DamagedFile` if it is not what was written, and `ValueError` if there is something else than a file.
    """
    try:
        with open_to_read(path) as file:
            content = file.read()
    except FileNotFoundError:
        return None
    try:
        kept = _arrays(content)
        about = json.loads(str(kept["about"]))
        about["generation"], about["keras"]
    except _DAMAGE as error:
        raise DamagedFile(f"it is damaged ({error!r})") from error
    return kept, about


def _arrays(content):
    """Return the arrays in a file. Raise one of `_DAMAGE` if it is not what was written."""
    if content.endswith(_LETTERS):
        content, footer = content[:-_FOOTER_BYTES], content[-_FOOTER_BYTES:]
        if hashlib.sha256(content).digest() + _LETTERS != footer:
            raise ValueError("its checksum is not that of its content")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return dict(arrays)


def _write_npz(file, arrays):
    """Write arrays like `np.savez`, which leaves its archive open if the disk is full."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)
