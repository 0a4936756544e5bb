"""Datasets of Grain."""

from keras_ban._src.data.dataset import Dataset
from keras_ban._src.data.soft_target_rows import JoinByKey


class GrainDataset(Dataset):
    """A `MapDataset` or an `IterDataset` of Grain, of batches."""

    kind = "dataset of Grain"

    @classmethod
    def accepts(cls, data):
        names = ("MapDataset", "IterDataset")
        return any(c.__name__ in names and c.__module__.split(".")[0] == "grain" for c in type(data).__mro__)

    def with_soft_targets(self, soft_targets):
        if not soft_targets.by_key:
            return super().with_soft_targets(soft_targets)
        return self.of_same_kind(self.dataset.map(JoinByKey(soft_targets)))
