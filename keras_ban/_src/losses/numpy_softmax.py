"""The softmax of NumPy arrays."""

import numpy as np


def softmax(logits):
    """Compute the softmax over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)
