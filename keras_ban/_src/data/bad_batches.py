"""Batches whose loss is not a number: without examples, or with inputs that are NaN or infinite.

Under TensorFlow, Keras trains past batches without examples. Elsewhere their mean loss is not defined. Inputs that are
not finite may be meant. So they are searched for only if the loss is not finite.
"""

import itertools

import keras
import numpy as np

from keras_ban._src import checks
from keras_ban._src.data.batch import unpack
from keras_ban._src.data.leaves import as_array, leaves_of, size_of

_LEAVE_OUT = "Leave empty batches out of the data."
# What torch and JAX say of the loss of no examples.
_NO_SCALAR = ("for scalar outputs", "for scalar-output functions")
# So many batches of a dataset are searched, and so many examples of arrays are read at once.
_SEARCHED, _AT_ONCE = 10_000, 1024


def check_has_examples(x):
    """Raise `ValueError` in a step if it is known that a batch `x` has no examples."""
    if any(tuple(leaf.shape)[:1] == (0,) for leaf in leaves_of(x)):
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


def explain_failure(error, data):
    """Raise `ValueError` if an empty batch is the reason why Keras failed to train on data."""
    if any(text in str(error) for text in _NO_SCALAR):
        _check_none_is_empty(data, "the data", error)


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
        _check_none_is_empty(data, "`validation_data`")
        if checks.is_finite(logs.get("loss", 0.0)):
            explain_loss(loss, data)


def _check_none_is_empty(data, name, cause=None):
    """Raise `ValueError` if a batch of a dataset that can be read again has no examples."""
    if data.read_once or not data.yields_batches:
        return
    for place, (x, _) in enumerate(itertools.islice(data.batches(), _SEARCHED)):
        if size_of(x) == 0:
            raise ValueError(
                f"Batch {place} of {name} (counted from 0) has no examples, whose mean loss this backend of Keras does "
                f"not define. {_LEAVE_OUT}"
            ) from cause


def explain_loss(loss, data):
    """Raise `FloatingPointError` if a validation loss is not finite, and an example of the data neither.

    Args:
        loss: the loss; `None`: there is none.
        data: the validation data, `Arrays` or a kind of `Dataset`.
    """
    if loss is None or checks.is_finite(loss) or data.read_once:
        return
    place = first_not_finite(data)
    if place is not None:
        raise FloatingPointError(
            f"The validation loss is {loss}, and {place} of the validation data (counted from 0) has inputs that are "
            "NaN or infinite. Generations cannot be compared on them. Leave such examples out, or replace the values."
        )


def first_not_finite(data):
    """The first batch of a dataset, or the first example of arrays, that has such inputs, as text; `None`: none has."""
    return _first_batch(data) if data.yields_batches else _first_example(data)


def _first_batch(data):
    for place, batch in enumerate(itertools.islice(data.iterate(), _SEARCHED)):
        if any(rows_not_finite(leaf) for leaf in leaves_of(unpack(batch)[0])):
            return f"batch {place}"
    return None


def _first_example(data):
    for leaf in leaves_of(data.x):
        for start in range(0, len(data), _AT_ONCE):
            rows = rows_not_finite(leaf[start : start + _AT_ONCE])
            if rows:
                return f"example {start + rows[0]}"
    return None


def rows_not_finite(leaf):
    """The positions of the examples that hold a number that is not finite."""
    values = as_array(leaf)
    if values.dtype.kind != "f" or values.ndim == 0 or values.size == 0:
        return []
    return np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).tolist()
