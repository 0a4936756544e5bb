"""The mask that Keras keeps with a tensor."""

import keras


def mask_of(tensor):
    """1 for what counts, 0 for padding, as Keras noted it when a layer made the tensor; `None` where it did not."""
    return _ReadMask()(tensor) if keras.ops.is_tensor(tensor) else None


class _ReadMask(keras.layers.Layer):
    """Returns its input's mask: Keras hands it to layers, and keeps it where else no public name leads.

    On the tensor itself as a rule; but JAX's tracers within a gradient take no attributes.
    """

    def __init__(self):
        super().__init__(name="read_mask", autocast=False)
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return mask
