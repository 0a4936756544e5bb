"""`tf.data.Dataset`."""

import re

from keras_ban._src import backend
from keras_ban._src.data.batch import JoinByKey
from keras_ban._src.data.dataset import Dataset
from keras_ban._src.data.leaves import size_of


class TensorFlowDataset(Dataset):
    """A `tf.data.Dataset` of batches."""

    kind = "`tf.data.Dataset`"

    @classmethod
    def accepts(cls, data):
        return backend.is_tf_dataset(data)

    def number_of_batches(self):
        count = int(self.dataset.cardinality())
        return count if count >= 0 else float("inf") if count == -1 else None

    def with_soft_targets(self, soft_targets):
        # Imports TensorFlow, which is imported already if there is such a dataset.
        from keras_ban._src.data.tf_pipeline import map_tf_dataset, pair_tf_dataset

        if soft_targets.by_key:
            join_by_key = JoinByKey(soft_targets)
            join_by_key.check_spec(self.dataset.element_spec)
            return self.of_same_kind(map_tf_dataset(self.dataset, join_by_key, like=soft_targets.batch(slice(0, 1))))
        self.check_no_views(soft_targets)
        first, count = self.first_batch()[0], self.check_finite()
        size = size_of(first)
        soft_targets.check(first, slice(0, size))
        if count is not None and count != -(-len(soft_targets) // size):
            raise ValueError(
                f"The soft targets hold {len(soft_targets)} examples, but the dataset has {count} batches of {size}: "
                "they must come from the same data, in the same order."
            )
        return self.of_same_kind(pair_tf_dataset(self.dataset, soft_targets, size))

    def part_of_worker(self):
        return self  # `keras.distribution` divides it, unless it was told not to.


def error_in_pipeline(error):
    """The `ValueError` that Python raised within `tf.data`, or `None`: TensorFlow makes it an error of its own."""
    if not backend.is_of_library(error, "tensorflow"):
        return None
    message = re.search(r"ValueError: (The soft targets .*)", str(error))
    return None if message is None else ValueError(message[1])
