"""Batches without examples. Under TensorFlow, Keras trains past them. Elsewhere their mean loss is not defined."""

import itertools

import keras

from keras_ban._src import checks
from keras_ban._src.data import non_finite
from keras_ban._src.data.leaves import size_of

_LEAVE_OUT = "Leave empty batches out of the data."
# What torch and JAX say of the loss of no examples.
_NO_SCALAR = ("for scalar outputs", "for scalar-output functions")
# So many batches are read to find an empty one.
_SEARCHED = 10_000


def check_has_examples(x):
    """Raise `ValueError` in a step if it is known that a batch `x` has no examples."""
    if any(leaf is not None and tuple(leaf.shape)[:1] == (0,) for leaf in keras.tree.flatten(x)):
        raise ValueError(
            f"The data yield a batch of 0 examples, whose mean loss this backend of Keras does not define. {_LEAVE_OUT}"
        )


def with_examples(batches):
    """Yield `(inputs, keys)` of the batches that have examples. Raise `ValueError` if none has."""
    found = False
    for x, key in batches:
        if size_of(x) > 0:
            found = True
            yield x, key
    if not found:
        raise ValueError("`x` holds no examples.")


def explain(error, data):
    """Raise `ValueError` if an empty batch is the reason why Keras failed to train on data."""
    place = _first_empty(data) if any(text in str(error) for text in _NO_SCALAR) else None
    if place is not None:
        raise ValueError(
            f"Batch {place} of the data (counted from 0) has no examples, on which this backend of Keras cannot "
            f"train. {_LEAVE_OUT}"
        ) from error


class ExplainNaN(keras.callbacks.Callback):
    """Raises an error after the first epoch whose validation loss is not finite, if the validation data are the reason.

    `ValueError` of an empty batch, `FloatingPointError` of inputs that are not finite.
    """

    def __init__(self, validation_data):
        super().__init__()
        self._data = validation_data

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        loss = logs.get("val_loss", 0.0)
        if self._data is None or checks.is_finite(loss):
            return
        data, self._data = self._data, None
        place = _first_empty(data)
        if place is not None:
            raise ValueError(
                f"Batch {place} of `validation_data` (counted from 0) has no examples, whose mean loss this backend of "
                f"Keras does not define. {_LEAVE_OUT}"
            )
        if checks.is_finite(logs.get("loss", 0.0)):
            non_finite.explain(loss, data)


def _first_empty(data):
    """Return the index of the first batch without examples, or `None`."""
    if data.read_once or not data.yields_batches:
        return None
    batches = enumerate(itertools.islice(data.batches(), _SEARCHED))
    return next((place for place, (x, _) in batches if size_of(x) == 0), None)
