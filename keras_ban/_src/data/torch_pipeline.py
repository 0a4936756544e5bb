"""Soft targets inside a torch `DataLoader`.

Imports torch, which need not be installed: a function imports this file when it has a `DataLoader`.
"""

import keras
import numpy as np
import torch

from keras_ban._src.data.soft_target_rows import join


def pair_data_loader(loader, rows_of):
    """A torch `DataLoader` that also brings the soft targets of its examples.

    Args:
        rows_of: a function of a batch and the indices of its examples that returns their soft targets.
    """
    options = _workers_of(loader)
    collate = _CollatePaired(loader.collate_fn, rows_of)
    dataset = _WithIndex(loader.dataset)
    return torch.utils.data.DataLoader(dataset, batch_sampler=loader.batch_sampler, collate_fn=collate, **options)


def map_data_loader(loader, function):
    """A torch `DataLoader` whose workers apply `function` to each batch, with NumPy arrays put in place of tensors."""
    options = _workers_of(loader)
    if loader.batch_sampler is not None and not isinstance(loader.dataset, torch.utils.data.IterableDataset):
        options["batch_sampler"] = loader.batch_sampler
    else:
        options |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        if not isinstance(loader.dataset, torch.utils.data.IterableDataset):
            options["sampler"] = loader.sampler
    return torch.utils.data.DataLoader(
        loader.dataset, collate_fn=_CollateMapped(loader.collate_fn, function), generator=loader.generator, **options
    )


def _workers_of(loader):
    """A `DataLoader`'s options, but for those that say which examples make a batch."""
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
    """A map-style dataset whose examples come with their index."""

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
