"""The order of arrays in each epoch, on backends where Keras does not shuffle correctly.

On JAX and torch, Keras shuffles arrays by random numbers that continue from epoch to epoch. On TensorFlow, after
`keras.utils.set_random_seed`, each epoch of a `fit` starts with the same random numbers, and has the same order. There,
`OrderOfEpoch` derives the order from the generation's seed and the epoch.
"""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data.tf_dataset import TensorFlowDataset


def in_order_of_epoch(data, options, seed):
    """Return `(data, options)` of a `fit`, with the arrays in a dataset that shuffles by `OrderOfEpoch`.

    They stay unchanged if Keras shuffles correctly, if the data are not NumPy arrays of numbers or not shuffled, and
    with `steps_per_epoch`. `options` are the other arguments of `fit` by name, `seed` is that of the generation.
    """
    # For JAX, see `given_to_keras`.
    by_keras = backend.shuffles_each_epoch_anew(process_group.count()) or "steps_per_epoch" in options
    if by_keras or data.yields_batches or not data.shuffles or not data.is_numeric:
        return data, options
    # Imports TensorFlow, which is the backend.
    from keras_ban._src.data.tf_pipeline import tf_batches

    batch_size = data.batch_size or 32
    order = OrderOfEpoch(seed, len(data), batch_size if data.shuffle == "batch" else None)
    dataset = TensorFlowDataset(tf_batches(data.packed(), order, batch_size), shuffle=False)
    return dataset, {**options, "callbacks": [order, *options["callbacks"]]}


class OrderOfEpoch(keras.callbacks.Callback):
    """Computes the order of the `size` examples in the current epoch from `seed` and the epoch.

    With `within`, examples are shuffled within batches of this size.
    """

    def __init__(self, seed, size, within=None):
        super().__init__()
        self._seed = seed
        self._size = size
        self._within = within
        self._epoch = 0

    def set_model(self, model):
        """Do not keep the model: TensorFlow keeps each generator of a dataset, and this object, to the end."""

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch

    def __call__(self):
        """Return the indices of the examples in their order, `(size,)`."""
        rng = np.random.default_rng([self._seed, self._epoch])
        if self._within is None:
            return rng.permutation(self._size)
        order = np.arange(self._size)
        for start in range(0, self._size, self._within):
            rng.shuffle(order[start : start + self._within])
        return order
