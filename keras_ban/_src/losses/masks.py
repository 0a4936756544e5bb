"""The mask that Keras keeps with a tensor."""

import keras


def mask_of(tensor):
    """1 for what counts, 0 for padding, as Keras noted it when a layer made the tensor; `None` where it did not."""
    return _READ_MASK(tensor) if keras.ops.is_tensor(tensor) else None


def with_mask(tensor, mask):
    """The tensor, with a mask for Keras to keep with it."""
    return _WriteMask()((tensor, mask))


class _ReadMask(keras.layers.Layer):
    """Returns its input's mask: Keras hands it to layers, and keeps it where else no public name leads.

    On the tensor itself as a rule; but JAX's tracers within a gradient take no attributes.
    """

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


# One layer for all tensors: torch's compiler cannot make a layer within the step that it compiles.
_READ_MASK = _ReadMask()
