"""Soft targets inside a torch `DataLoader`.

Imports torch, which may not be installed. Functions import this file when they have a `DataLoader`.
"""

import keras
import numpy as np
import torch

from keras_ban._src.data.soft_target_rows import join


def pair_data_loader(loader, rows_of):
    """Return a `DataLoader` that adds soft targets: `rows_of(batch, indices of its examples)`."""
    collate = _CollatePaired(loader.collate_fn, rows_of)
    options = {"batch_sampler": loader.batch_sampler, **_workers_of(loader)}
    return torch.utils.data.DataLoader(_WithIndex(loader.dataset), collate_fn=collate, **options)


def map_data_loader(loader, function):
    """Return a `DataLoader` whose workers apply `function` to each batch, and convert NumPy arrays to tensors."""
    options = _workers_of(loader)
    is_iterable = isinstance(loader.dataset, torch.utils.data.IterableDataset)
    if loader.batch_sampler is not None and not is_iterable:
        options["batch_sampler"] = loader.batch_sampler
    else:
        options |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        options |= {} if is_iterable else {"sampler": loader.sampler}
    collate = _CollateMapped(loader.collate_fn, function)
    return torch.utils.data.DataLoader(loader.dataset, collate_fn=collate, generator=loader.generator, **options)


def _workers_of(loader):
    """Return a `DataLoader`'s options, except those that choose the examples of a batch."""
    names = ("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
    return {name: getattr(loader, name) for name in (*names, "prefetch_factor", "persistent_workers")}


class _CollateMapped:
    def __init__(self, collate, function):
        self._collate, self._function = collate, function

    def __call__(self, examples):
        return keras.tree.map_structure(
            lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf,
            tuple(self._function(self._collate(examples))),
        )


class _WithIndex:
    """A map-style dataset of pairs of an index and an example."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        return index, self._dataset[index]


class _CollatePaired:
    def __init__(self, collate, rows_of):
        self._collate, self._rows_of = collate, rows_of

    def __call__(self, examples):
        batch = self._collate([example for _, example in examples])
        rows = self._rows_of(batch, np.array([index for index, _ in examples]))
        return join(batch, keras.tree.map_structure(torch.from_numpy, rows))
