"""The order in which arrays are trained on, where Keras's own does not do.

Keras shuffles arrays under JAX and torch by random numbers that go on from epoch to epoch. Under TensorFlow, once
`keras.utils.set_random_seed` was called, each epoch of a `fit` begins with the same random numbers, and so has the same
order. There the order is derived here, from the generation's seed and the epoch.
"""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data.tf_dataset import TensorFlowDataset


def in_order_of_epoch(data, options, seed):
    """`(data, options)` of a `fit`, with the arrays in a dataset that shuffles as above.

    As they are, if Keras does as well, or if they are not NumPy arrays of numbers, not shuffled, or read for a given
    number of steps in an epoch.

    Args:
        data: the training data.
        options: the other arguments of `fit`, by name.
        seed: the generation's.
    """
    if _keras_orders() or data.yields_batches or not data.shuffles or "steps_per_epoch" in options:
        return data, options
    if not data.is_numeric:
        return data, options
    # Imports TensorFlow, which is the backend.
    from keras_ban._src.data.tf_pipeline import tf_batches

    batch_size = data.batch_size or 32
    order = OrderOfEpoch(seed, len(data), batch_size if data.shuffle == "batch" else None)
    dataset = TensorFlowDataset(tf_batches(data.packed(), order, batch_size), shuffle=False)
    return dataset, {**options, "callbacks": [order, *options["callbacks"]]}


def _keras_orders():
    # Each of several workers would draw an order of its own, did Keras draw it (for JAX see `parts`).
    return backend.shuffles_each_epoch_anew() and (backend.BACKEND != "tensorflow" or process_group.count() == 1)


class OrderOfEpoch(keras.callbacks.Callback):
    """Gives the examples' order in the epoch that is being trained, from `seed` and the epoch alone.

    Args:
        seed: a whole number.
        size: how many examples there are.
        within: shuffle within batches of this size; `None`: over all.
    """

    def __init__(self, seed, size, within=None):
        super().__init__()
        self._seed = seed
        self._size = size
        self._within = within
        self._epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def __call__(self):
        """The indices `(size,)` in their order."""
        rng = np.random.default_rng([self._seed, self._epoch])
        if self._within is None:
            return rng.permutation(self._size)
        order = np.arange(self._size)
        for start in range(0, self._size, self._within):
            rng.shuffle(order[start : start + self._within])
        return order
