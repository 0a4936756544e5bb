"""The dtypes in which losses are computed and added."""

import keras
from keras import ops


def precision():
    """Return the dtype of loss computations. Half precision would round labels: 257 is not a bfloat16 number."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


def in_widest(*terms):
    """Cast tensors to the widest dtype among them. Numbers stay as they are.

    Keras's own rule turns float32 and float64 into float32, and TensorFlow refuses to add the two.
    """
    dtypes = {keras.backend.standardize_dtype(term.dtype) for term in terms if hasattr(term, "dtype")}
    if len(dtypes) < 2:
        return terms
    widest = "float64" if "float64" in dtypes else "float32"
    return tuple(ops.cast(term, widest) if hasattr(term, "dtype") else term for term in terms)


def mix(weight, one, other):
    """Return `weight * one + (1 - weight) * other`, in the widest dtype of the three."""
    weight, one, other = in_widest(weight, one, other)
    return weight * one + (1 - weight) * other


def add_up(terms):
    """Return the sum of the terms, in the widest dtype among them. It is 0.0 without terms."""
    terms = in_widest(*terms)
    return sum(terms[1:], terms[0]) if terms else 0.0
