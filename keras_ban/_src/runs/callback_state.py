"""The state of callbacks, which `KeepEpochs` saves after each epoch.

A callback of Keras keeps what it has seen in public attributes. `KeepEpochs` saves those of each callback in the table
below: numbers, `None`, or the list of arrays that `model.get_weights()` returns. The state of other callbacks is not
known, unless they say that they have none with `stateless = True`.
"""

import keras
import numpy as np

# Of these classes alone: their subclasses may keep more.
_ATTRIBUTES = {
    keras.callbacks.EarlyStopping: ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    keras.callbacks.LearningRateScheduler: (),
    keras.callbacks.ModelCheckpoint: ("best",),
    keras.callbacks.ProgbarLogger: (),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),  # The rate is a variable of the optimizer.
    keras.callbacks.TerminateOnNaN: (),
}


def is_known(callback):
    """Return whether the state of a callback can be saved, or it has none."""
    return _attributes(callback) is not None


def saved(callbacks):
    """Return the state of callbacks as `(plain data, arrays by name)`. Those without a state are left out."""
    plain, arrays = [], {}
    for index, callback in enumerate(_with_state(callbacks)):
        state = {"class": type(callback).__name__}
        for name in _attributes(callback):
            value = getattr(callback, name)
            if isinstance(value, list):
                # As bytes, because `.npz` has no bfloat16.
                data = (np.frombuffer(np.ascontiguousarray(array).tobytes(), "uint8") for array in value)
                arrays |= {_array_name(index, name, number): each for number, each in enumerate(data)}
            else:
                state[name] = value
        plain.append(state)
    return plain, arrays


def fits(callbacks, plain):
    """Return whether the state is of these callbacks: of the same classes, in the same order."""
    return [type(callback).__name__ for callback in _with_state(callbacks)] == [state["class"] for state in plain]


def restore(callbacks, plain, arrays):
    """Give callbacks, which have their model, the state that `saved` returned."""
    for index, (callback, state) in enumerate(zip(_with_state(callbacks), plain, strict=True)):
        for name in _attributes(callback):
            if name in state:
                value = state[name]
            else:
                value = [
                    np.frombuffer(arrays[_array_name(index, name, number)].tobytes(), like.dtype).reshape(like.shape)
                    for number, like in enumerate(callback.model.get_weights())
                ]
            setattr(callback, name, value)


def _attributes(callback):
    """Return the names of the attributes that hold the state, or `None` if they are not known."""
    if getattr(callback, "stateless", False) is True:
        return ()
    if type(callback) is keras.callbacks.ModelCheckpoint and callback.save_freq != "epoch":
        return None  # It also counts batches.
    return _ATTRIBUTES.get(type(callback))


def _with_state(callbacks):
    return [callback for callback in callbacks if _attributes(callback)]


def _array_name(index, name, number):
    return f"callback_{index}_{name}_{number}"
