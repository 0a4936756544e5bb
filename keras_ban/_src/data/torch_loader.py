"""torch's `DataLoader`."""

from keras_ban._src import backend
from keras_ban._src.data.batch import JoinByKey
from keras_ban._src.data.dataset import Dataset


class TorchDataLoader(Dataset):
    """A `torch.utils.data.DataLoader`."""

    kind = "`DataLoader`"

    @classmethod
    def accepts(cls, data):
        return backend.is_of_library(data, "torch", "DataLoader")

    @property
    def sampler(self):
        """What chooses the examples."""
        return getattr(self.dataset.batch_sampler, "sampler", self.dataset.sampler)

    def is_shuffled(self):
        return type(self.dataset.sampler).__name__ == "RandomSampler"

    def with_soft_targets(self, soft_targets):
        # Imports torch, which is imported already if there is a `DataLoader`.
        from keras_ban._src.data.torch_pipeline import map_data_loader, pair_data_loader

        loader = self.dataset
        if soft_targets.by_key:
            return self.of_same_kind(map_data_loader(loader, JoinByKey(soft_targets)))
        self.check_no_views(soft_targets)
        if not hasattr(loader.dataset, "__getitem__") or loader.batch_sampler is None:
            raise ValueError(
                "A torch `DataLoader` is paired by index: its dataset must have `__getitem__`, and the loader make the "
                "batches (`batch_size` or `batch_sampler`)."
            )
        if len(loader.dataset) != len(soft_targets):
            raise ValueError(
                f"The soft targets hold {len(soft_targets)} examples, but the loader's dataset {len(loader.dataset)}: "
                "they must come from the same data."
            )
        return self.of_same_kind(pair_data_loader(loader, soft_targets))
