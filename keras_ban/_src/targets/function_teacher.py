"""A teacher that is not a Keras model, but a function of a batch."""

import contextlib
import warnings

import numpy as np

from keras_ban._src.data import leaves

# Probabilities that were computed in bfloat16 may miss [0, 1], and their sum 1, by this much.
_TOLERANCE = 1e-2


class FunctionTeacher:
    """A function from a batch of inputs to outputs `(batch, ..., classes)`, arrays of any framework.

    It is called as it is: by one batch after the other, in their order. Its inputs are NumPy arrays of its own, nested
    as in the data, with texts as `str`.

    Attributes:
        name: the function's name, or its type's.
    """

    def __init__(self, function):
        self.name = getattr(function, "__name__", type(function).__name__)
        self._spoken = f"The teacher {self.name!r}, a function,"
        self._function = function
        self._must_be_probabilities = False

    def __call__(self, x):
        """Return the outputs as float32 or float64. Raise an error if they are not `(batch, ..., classes)`."""
        outputs = self._function(leaves.map_leaves(_own_array, x))
        if not leaves.is_array(outputs):
            keys = f" with {list(outputs)}" if isinstance(outputs, dict) else ""
            raise TypeError(
                f"{self._spoken} must return one array `(batch, ..., classes)`, of NumPy or of another framework, "
                f"received: {type(outputs).__name__}{keys}. Soft targets are of one output: return that, for instance "
                "`outputs.logits`."
            )
        outputs, size = leaves.as_array(outputs), leaves.size_of(x)
        if outputs.ndim < 2 or outputs.shape[0] != size or outputs.size == 0:
            raise ValueError(
                f"{self._spoken} must return an array `(batch, ..., classes)`, with a row for each example. "
                f"Received an array of shape {outputs.shape} for a batch of {size} examples."
            )
        if outputs.dtype.kind not in "biuf" and leaves.numeric(outputs).dtype.kind != "V":
            raise TypeError(f"{self._spoken} must return numbers, received an array of {outputs.dtype}.")
        advice = "free of NaN, and scaled as the function expects. It gets the batches as they are in `x`"
        outputs = as_floats(outputs, f"{self._spoken} gives NaN or inf. Check that `x` is {advice}.")
        if self._must_be_probabilities:
            self._check_probabilities(outputs)
        return outputs

    def gives_logits(self, outputs, from_logits):
        """Return whether the outputs of a first batch are logits. `from_logits` is what the user says, or `None`.

        Values outside [0, 1] are logits, and rows that sum to 1 are probabilities. Other values may be either, and a
        warning says what is assumed. All later outputs must be probabilities if these are.

        Raises:
            ValueError: `from_logits=False`, and the values are no probabilities.
        """
        if from_logits is None:
            from_logits = not _are_in_unit_interval(outputs)
            if not from_logits and not np.allclose(outputs.sum(axis=-1), 1, rtol=0, atol=_TOLERANCE):
                warnings.warn(
                    f"{self._spoken} gives numbers in [0, 1] that do not sum to 1. They are taken for probabilities "
                    "of sigmoids. Pass `from_logits=False` if they are, and `from_logits=True` if they are logits.",
                    stacklevel=2,
                )
        self._must_be_probabilities = not from_logits
        if self._must_be_probabilities:
            self._check_probabilities(outputs)
        return from_logits

    def _check_probabilities(self, outputs):
        if not _are_in_unit_interval(outputs):
            raise ValueError(
                f"{self._spoken} must give probabilities in [0, 1], as `from_logits=False` says, or as its outputs "
                f"on the first batch look. Received values from {outputs.min():.4g} to {outputs.max():.4g}. Pass "
                "`from_logits=True` if it gives logits."
            )


def as_floats(outputs, message):
    """Outputs as float32 or float64. Raise `ValueError` with this message if they hold NaN or inf; -inf is allowed."""
    outputs = outputs if outputs.dtype == "float64" else outputs.astype("float32")
    if np.isnan(outputs).any() or np.isposinf(outputs).any():
        raise ValueError(message)
    return outputs


def _are_in_unit_interval(outputs):
    return bool((outputs >= -_TOLERANCE).all() and (outputs <= 1 + _TOLERANCE).all())


def _own_array(leaf):
    """A copy in NumPy, so that a function that changes its inputs does not change the data. Texts become `str`."""
    array = leaves.as_array(leaf)
    if leaves.is_texts(array):
        # Bytes that are no text, such as those of image files, stay as they are.
        with contextlib.suppress(UnicodeDecodeError):
            return leaves.decoded(array)
    return np.array(array, order="C")
