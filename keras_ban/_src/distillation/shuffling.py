"""The order in which arrays are trained on, where Keras's own does not do.

Keras shuffles arrays under JAX and torch by random numbers that go on from epoch to epoch. Under TensorFlow, once
`keras.utils.set_random_seed` was called, each epoch of a `fit` begins with the same random numbers, and so has the same
order. There the order is derived here, from the generation's seed and the epoch.
"""

import keras
import numpy as np

from keras_ban._src import backend, checks
from keras_ban._src.backend import process_group
from keras_ban._src.data.batch import weights_like
from keras_ban._src.data.pairing import size_of
from keras_ban._src.data.tf_pipeline import tf_batches
from keras_ban._src.distillation.attachment import attach


def in_order_of_epoch(trained, x, y, options, seed):
    """`fit`'s `x`, `y` and other arguments, with the arrays in a dataset that shuffles as above.

    As they are, where Keras does as well, or where they are not NumPy arrays of numbers, not shuffled, or read for so
    many steps an epoch.

    Args:
        trained: the model, or the Distiller, to be trained.
        options: the other arguments, by name.
        seed: the generation's.
    """
    shuffle = options.get("shuffle", True)
    arrays = [leaf for leaf in keras.tree.flatten((x, y, options.get("sample_weight"))) if leaf is not None]
    numbers = all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in arrays)
    if _keras_orders() or not shuffle or not numbers or "steps_per_epoch" in options:
        return x, y, options
    if y is None and trained._measures_labels:
        return x, y, options  # Which the Distiller refuses, of arrays.
    options = dict(options)
    if "soft_targets" in options:
        x, y, options = attach(trained, options.pop("soft_targets"), x, y, (), options)
        if checks.is_dataset(x):
            return x, y, options  # It shuffles by itself.
    options.pop("shuffle", None)
    weights, class_weight = options.pop("sample_weight", None), options.pop("class_weight", None)
    if class_weight is not None:
        weights = checks.class_weights(y, weights, class_weight)
    if weights is not None and keras.tree.is_nested(y):
        weights = weights_like(weights, y)
    batch_size = options.pop("batch_size", None) or 32
    options.setdefault("validation_batch_size", batch_size)
    order = OrderOfEpoch(seed, size_of(x), batch_size if shuffle == "batch" else None)
    data = keras.utils.pack_x_y_sample_weight(x, y, weights)
    dataset = tf_batches(data, order, batch_size)
    return dataset, None, {**options, "shuffle": False, "callbacks": [order, *options["callbacks"]]}


def _keras_orders():
    # Each of several workers would draw an order of its own, did Keras draw it (JAX's: `_parts`).
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
