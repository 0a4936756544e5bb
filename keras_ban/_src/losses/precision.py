"""The dtypes that losses are computed and added up in."""

import keras
from keras import ops


def precision():
    """The dtype that losses are computed in. Half precision would be lost before `call`: 257 is no bfloat16."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


def in_widest(*terms):
    """The terms, tensors cast to the widest dtype among them. Numbers stay as they are.

    Keras's own rule makes float32 of float32 and float64; TensorFlow refuses to add them up.
    """
    dtypes = {keras.backend.standardize_dtype(term.dtype) for term in terms if hasattr(term, "dtype")}
    if len(dtypes) < 2:
        return terms
    widest = "float64" if "float64" in dtypes else "float32"
    return tuple(ops.cast(term, widest) if hasattr(term, "dtype") else term for term in terms)


def mix(weight, one, other):
    """`weight * one + (1 - weight) * other`, in the widest dtype of the three."""
    weight, one, other = in_widest(weight, one, other)
    return weight * one + (1 - weight) * other


def add_up(terms):
    """The sum of terms, tensors in the widest dtype among them; 0.0 of none."""
    terms = in_widest(*terms)
    return sum(terms[1:], terms[0]) if terms else 0.0
