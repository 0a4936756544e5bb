"""Soft targets inside a torch `DataLoader`.

Imports torch, which may not be installed. Functions import this file when they have a `DataLoader`.
"""

import functools

import keras
import numpy as np
import torch

from keras_ban._src.data import leaves
from keras_ban._src.data.batch import join_rows, unpack


def pair_data_loader(loader, soft_targets):
    """Return a `DataLoader` whose workers add the soft targets of each example, by its index, and check them."""
    collate = functools.partial(_paired, loader.collate_fn, soft_targets)
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
    collate = functools.partial(_mapped, loader.collate_fn, function)
    return torch.utils.data.DataLoader(loader.dataset, collate_fn=collate, generator=loader.generator, **options)


def _workers_of(loader):
    """Return a `DataLoader`'s options, except those that choose the examples of a batch."""
    names = ("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
    return {name: getattr(loader, name) for name in (*names, "prefetch_factor", "persistent_workers")}


def _mapped(collate, function, examples):
    return keras.tree.map_structure(
        lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf,
        tuple(function(collate(examples))),
    )


def _paired(collate, soft_targets, examples):
    batch, rows = collate([example for _, example in examples]), np.array([index for index, _ in examples])
    soft_targets.check(leaves.take(unpack(batch)[0], slice(None)), rows)
    return join_rows(batch, keras.tree.map_structure(torch.from_numpy, soft_targets.batch(rows)))


class _WithIndex:
    """A map-style dataset of pairs of an index and an example."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        return index, self._dataset[index]
