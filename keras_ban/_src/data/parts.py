"""Each worker's part of the batches, where the backend's engine leaves it to the data to be divided.

Keras under JAX takes what the data of each process yield as that process's part of a batch. Arrays, and datasets that
yield whole batches, would be trained on as often as there are processes, in batches as many times as large. So each
worker is given its own rows of every batch, and all batches together are those that one process alone would see.
"""

import keras

from keras_ban._src import backend, checks
from keras_ban._src.backend import process_group
from keras_ban._src.data.batch import weights_like
from keras_ban._src.data.pairing import ArrayBatches, Wrapped, size_of, split_at, take


def part_of_batches(x, y, arguments):
    """`fit`'s `x`, `y` and other arguments, with this worker's part of the data; as they are, where nothing is divided.

    Raises:
        ValueError: a batch does not divide over the devices that share it, the workers' random numbers differ, or the
            data are of a kind that cannot be divided.
    """
    process_group.check_alike()
    arguments = dict(arguments)
    batch_size = arguments.get("batch_size") or 32
    if not checks.is_dataset(x):
        check_shares(x, arguments)
    if process_group.parts()[0] == 1:
        return x, y, arguments
    split = arguments.pop("validation_split", 0.0)
    if not checks.is_dataset(x):
        weights, class_weight = arguments.pop("sample_weight", None), arguments.pop("class_weight", None)
        if split and arguments.get("validation_data") is None:
            at, data = split_at(size_of(x), split), (x, y, weights)
            (x, y, weights), validation_data = take(data, slice(0, at)), take(data, slice(at, None))
            arguments["validation_data"] = tuple(part for part in validation_data if part is not None)
        if class_weight is not None:
            weights = checks.class_weights(y, weights, class_weight)
        if weights is not None and keras.tree.is_nested(y):
            weights = weights_like(weights, y)
        arguments.pop("batch_size", None)
        x, y = ArrayBatches((x, y, weights), batch_size, arguments.pop("shuffle", True)), None
        arguments["shuffle"] = False
    validation_data = arguments.get("validation_data")
    if isinstance(validation_data, (list, tuple)) and not checks.is_dataset(validation_data[0]):
        data = keras.utils.unpack_x_y_sample_weight(tuple(validation_data))
        validation_data = ArrayBatches(data, arguments.pop("validation_batch_size", None) or batch_size, False)
    if validation_data is not None:
        arguments["validation_data"] = _part_of(validation_data)
    return _part_of(x), y, arguments


def _part_of(dataset):
    if backend.is_tf_dataset(dataset):
        return dataset  # Which `keras.distribution` divides, unless it was told not to.
    if isinstance(dataset, keras.utils.PyDataset):
        return _Part(dataset)
    raise TypeError(
        f"Several workers train together, and {type(dataset).__name__} cannot be divided among them. Pass arrays, a "
        "`keras.utils.PyDataset` that yields whole batches, or a `tf.data.Dataset` of whole batches."
    )


def check_shares(x, arguments):
    """Raise where batches of arrays do not divide over the devices that share each of them."""
    size, batch_size, shares = size_of(x), arguments.get("batch_size") or 32, process_group.shares()
    split = arguments.get("validation_split")
    if split and arguments.get("validation_data") is None:
        size = split_at(size, split)
    whole, last = batch_size % shares, size % batch_size % shares
    if arguments.get("steps_per_epoch") is not None and size % batch_size:
        last = last if arguments["steps_per_epoch"] > size // batch_size else 0
    if not (whole and size >= batch_size) and not last:
        return
    if whole and size >= batch_size:
        what, way_out = f"batch_size={batch_size}", f"Use a multiple of {shares} as `batch_size`"
    else:
        what = f"the last batch of each epoch, of {size % batch_size} examples,"
        way_out = f"Leave out {last} of the {size} examples, or choose another `batch_size`"
    raise ValueError(f"Each batch is divided evenly over {shares} devices, but {what} does not divide. {way_out}.")


class _Part(Wrapped):
    """A dataset of whole batches, of which each worker yields its own rows."""

    def __init__(self, dataset):
        super().__init__(dataset)
        self._parts, self._this = process_group.parts()
        self._shares = process_group.shares()

    def __getitem__(self, index):
        batch = self._dataset[index]
        leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
        size = len(leaves[0])
        if size % self._shares:
            raise ValueError(
                f"Batch {index} has {size} examples, which do not divide evenly over {self._shares} devices. Use a "
                f"batch size that does, for validation too, and leave out as many examples as make the last one divide."
            )
        each = size // self._parts
        rows = slice(self._this * each, (self._this + 1) * each)
        return keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[rows], batch)
