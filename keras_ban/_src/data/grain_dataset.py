"""Datasets of Grain."""

from keras_ban._src import backend
from keras_ban._src.data.batch import JoinByKey
from keras_ban._src.data.dataset import Dataset


class GrainDataset(Dataset):
    """A `MapDataset` or an `IterDataset` of Grain, of batches."""

    kind = "dataset of Grain"

    @classmethod
    def accepts(cls, data):
        return backend.is_of_library(data, "grain", "MapDataset", "IterDataset")

    def with_soft_targets(self, soft_targets):
        if not soft_targets.by_key:
            return super().with_soft_targets(soft_targets)
        return self.of_same_kind(self.dataset.map(JoinByKey(soft_targets)))
