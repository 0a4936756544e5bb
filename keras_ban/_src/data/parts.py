"""Each worker's part of the batches, if the backend's engine leaves it to the data to be divided.

Keras under JAX takes what each process's data yield as that process's part of a batch. Arrays, and datasets that yield
whole batches, would be trained on as often as there are processes, in batches as many times as large. So each worker
gets its own rows of every batch, and all batches together are those that one process alone would see.
"""

from keras_ban._src.backend import process_group


def part_of_batches(data, validation_data):
    """This worker's part of the training and validation data; the data themselves if nothing is divided.

    Raises:
        ValueError: the workers' random numbers differ.
        TypeError: a kind of data cannot be divided.
    """
    process_group.check_alike()
    if process_group.parts()[0] == 1:
        return data, validation_data
    return data.part_of_worker(), None if validation_data is None else validation_data.part_of_worker()


def check_shares(size, batch_size, steps_per_epoch=None):
    """Raise `ValueError` if batches of so many examples do not divide over the devices that share each of them."""
    shares = process_group.shares()
    whole, last = batch_size % shares, size % batch_size % shares
    if steps_per_epoch is not None and size % batch_size:
        last = last if steps_per_epoch > size // batch_size else 0
    if not (whole and size >= batch_size) and not last:
        return
    if whole and size >= batch_size:
        what, advice = f"batch_size={batch_size}", f"Use a multiple of {shares} as `batch_size`"
    else:
        what = f"the last batch of each epoch, of {size % batch_size} examples,"
        advice = f"Leave out {last} of the {size} examples, or choose another `batch_size`"
    raise ValueError(f"Each batch is divided evenly over {shares} devices, but {what} does not divide. {advice}.")
