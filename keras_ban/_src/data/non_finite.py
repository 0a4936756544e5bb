"""Inputs that are NaN or infinite. They may be meant, so they are searched for if the loss is not finite."""

import itertools

import numpy as np

from keras_ban._src import checks
from keras_ban._src.data.batch import unpack
from keras_ban._src.data.leaves import as_array, leaves_of

# So many batches of a dataset are searched, and so many examples of arrays are read at once.
_SEARCHED, _AT_ONCE = 10_000, 1024


def explain(loss, data):
    """Raise `FloatingPointError` if a validation loss is not finite, and an example of the data neither.

    Args:
        loss: the loss; `None`: there is none.
        data: the validation data, `Arrays` or a kind of `Dataset`.
    """
    if loss is None or checks.is_finite(loss) or data.read_once:
        return
    place = first_place(data)
    if place is not None:
        raise FloatingPointError(
            f"The validation loss is {loss}, and {place} of the validation data (counted from 0) has inputs that are "
            "NaN or infinite. Generations cannot be compared on them. Leave such examples out, or replace the values."
        )


def first_place(data):
    """The first batch of a dataset, or the first example of arrays, that has such inputs, as text; `None`: none has."""
    return _first_batch(data) if data.yields_batches else _first_example(data)


def _first_batch(data):
    for place, batch in enumerate(itertools.islice(data.iterate(), _SEARCHED)):
        if any(wrong_rows(leaf) for leaf in leaves_of(unpack(batch)[0])):
            return f"batch {place}"
    return None


def _first_example(data):
    for leaf in leaves_of(data.x):
        for start in range(0, len(data), _AT_ONCE):
            rows = wrong_rows(leaf[start : start + _AT_ONCE])
            if rows:
                return f"example {start + rows[0]}"
    return None


def wrong_rows(leaf):
    """The positions of the examples that hold a number that is not finite."""
    values = as_array(leaf)
    if values.dtype.kind != "f" or values.ndim == 0:
        return []
    return np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(axis=1)).tolist()
