"""Which kind of dataset something is, without importing what it may not come from."""


def is_data_loader(data):
    return any(c.__name__ == "DataLoader" and c.__module__.startswith("torch.") for c in type(data).__mro__)


def is_grain_dataset(data):
    """Whether it is a `MapDataset` or an `IterDataset` of Grain, which have `map`."""
    names = ("MapDataset", "IterDataset")
    return any(c.__name__ in names and c.__module__.split(".")[0] == "grain" for c in type(data).__mro__)
