"""The Keras mask of a tensor."""

import keras

from keras_ban._src import backend


def mask_of(tensor):
    """Return the mask that Keras keeps with a tensor: 1 for values that count, 0 for padding. `None` without a mask."""
    if backend.MASKS_ARE_ATTRIBUTES:
        # Private, because the call of a layer takes a tenth of a millisecond at each step.
        return getattr(tensor, "_keras_mask", None)
    return _READ_MASK(tensor) if keras.ops.is_tensor(tensor) else None


def with_mask(tensor, mask):
    """Return the tensor with a Keras mask."""
    return _WRITE_MASK((tensor, mask))


class _ReadMask(keras.layers.Layer):
    """Returns the mask of its input. Keras has no other public way to read a mask."""

    def __init__(self):
        super().__init__(name="read_mask", autocast=False)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return mask


class _WriteMask(keras.layers.Layer):
    """Returns the first of two tensors, with the second as its mask."""

    def __init__(self):
        super().__init__(name="write_mask", autocast=False)

    def call(self, inputs):
        return inputs[0]

    def compute_mask(self, inputs, previous_mask):
        return inputs[1]


# One layer each for all tensors: torch's compiler cannot create a layer within the step that it compiles.
_READ_MASK, _WRITE_MASK = _ReadMask(), _WriteMask()
