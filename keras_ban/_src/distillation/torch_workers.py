"""Data parallelism on torch: the processes of a `torch.distributed` group train one model.

Keras's `fit` knows nothing of them: each process would train a model of its own, without a word. A Distiller's step
does this, in each worker:

1. The worker takes its part of the batch; student, teacher and augmentation run on that alone.
2. Outputs, labels, soft targets and weights are gathered from all. So loss and metrics see the whole batch, in each
   worker the same: what normalises over the batch, weighs or masks needs to know nothing of workers, and a last batch
   that does not divide counts as it should. Gradients flow through the worker's own outputs alone.
3. The sum of all workers' gradients is that of the whole batch; each takes the same step with it.
4. What moves without gradients (the statistics of a BatchNorm, which sees its worker's part) moves by the mean over the
   workers, weighed by their examples. So all workers hold the same model after each step, whoever writes it down.
"""

import contextlib
import math
import zlib

import keras
import numpy as np
import torch
import torch.distributed as dist

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data.fit_arguments import with_callbacks
from keras_ban._src.data.leaves import size_of
from keras_ban._src.losses.masks import mask_of, with_mask
from keras_ban._src.targets import augmented_views


class Workers:
    """The workers of one `fit`, as one of them sees them.

    Args:
        whole: whether each batch comes to each worker as a whole, which takes its part; else each brings its own part.

    Attributes:
        in_step: whether a training step is under way.
    """

    def __init__(self, whole):
        self._whole = whole
        self._index, self._count = process_group.index(), process_group.count()
        self._sizes = None
        self._steps = 0

    @property
    def in_step(self):
        return self._sizes is not None

    def begin(self, distiller):
        """Before the first step: give all workers what the first one holds, its random numbers too for whole batches.

        Raises:
            ValueError: the workers' models differ in more than their values.
        """
        if not distiller.optimizer.built:
            distiller.optimizer.build(distiller.trainable_variables)
        variables = [*distiller.variables, *distiller.optimizer.variables]
        forms = [(tuple(v.shape), keras.backend.standardize_dtype(v.dtype)) for v in variables]
        if len(set(map(tuple, gather_objects(forms)))) > 1:
            raise ValueError(
                "The workers hold different models: their weights, or those of their optimizers, differ in number, "
                "shape or dtype. All workers must build and compile the same."
            )
        for variable in variables:
            value = variable.value.detach().clone()
            _together(dist.broadcast, value, 0)
            variable.assign(value)
        if self._whole:
            states = {name: v for name, v in backend.random_states().items() if not name.startswith("cuda_")}
            of_first = [states]
            _together(dist.broadcast_object_list, of_first, 0)
            backend.set_random_states(of_first[0])

    @contextlib.contextmanager
    def step(self, distiller, data):
        """A training step; gives the worker's part of the batch, `(x, y, sample_weight)`."""
        device = distiller.student.variables[0].value.device
        data = keras.utils.unpack_x_y_sample_weight(data)
        data = keras.tree.map_structure(lambda leaf: None if leaf is None else torch.as_tensor(leaf).to(device), data)
        self._sizes, rows = self._divide(data, device)
        random = [*distiller.student.variables]
        random += [] if distiller.augmentation is None else augmented_views.seed_states(distiller.augmentation)
        random = [v for v in {id(v): v for v in random}.values() if v.name == "seed_generator_state"]
        moving = _moving(distiller.student)
        before = [v.value.detach().clone() for v in moving]
        optimizer = distiller.optimizer
        apply = optimizer.apply

        def apply_sums(gradients, variables):
            # By what each has moved: so what stands still stays as it is, to the last bit.
            moved = [(v.value.detach() - value) * self._share for v, value in zip(moving, before, strict=True)]
            gradients, moved = _sum_of(gradients, variables, moved)
            for variable, value, by in zip(moving, before, moved, strict=True):
                variable.assign(value + by)
            apply(gradients, variables)

        self._shift(random, self._index)
        optimizer.apply = apply_sums
        try:
            yield keras.tree.map_structure(lambda leaf: None if leaf is None else leaf[rows], data)
        finally:
            del optimizer.apply
            self._shift(random, -self._index)
            self._sizes = None

    def join(self, x, y, sample_weight):
        """Labels, soft targets and weights of the whole batch; with them `x`, the worker's part, for `own_part`.

        Keras counts a batch's examples on the first array of `x`: so the first one here is as long as the whole batch.
        """
        return (torch.empty((sum(self._sizes), 0)), x), *self.gather((y, sample_weight))

    @staticmethod
    def own_part(x):
        return x[1]

    def gather(self, nest):
        """Tensors of the worker's part as tensors of the whole batch, with their masks; gradients reach the own part.

        Raises:
            ValueError: a tensor has not one row for each example.
        """
        own = self._sizes[self._index]
        leaves = [leaf for leaf in keras.tree.flatten(nest) if leaf is not None]
        masks = [mask_of(leaf) for leaf in leaves]
        parts = [*leaves, *(mask for mask in masks if mask is not None)]
        for part in parts:
            if part.ndim == 0 or len(part) != max(own, 1):
                raise ValueError(
                    "Where workers share a batch, all that models take and give must have the examples as its first "
                    f"axis. Received a tensor of shape {tuple(part.shape)} in a batch of {max(own, 1)} examples."
                )
        whole = iter(self._gather_rows([part[:own] for part in parts]))
        start = sum(self._sizes[: self._index])
        gathered = []
        for leaf in leaves:
            others = next(whole)
            gathered.append(
                torch.cat([others[:start], leaf[:own], others[start + own :]]) if leaf.requires_grad else others
            )
        gathered = iter(
            [leaf if mask is None else with_mask(leaf, next(whole)) for leaf, mask in zip(gathered, masks, strict=True)]
        )
        return keras.tree.map_structure(lambda leaf: None if leaf is None else next(gathered), nest)

    def add_up(self, loss):
        """A term that is no part of the compared outputs, as the mean over the workers, weighed by their examples.

        So penalties of the weights count once, and what layers add is taken for a mean over the batch.
        """
        own = loss * self._share
        total = own.detach().clone()
        _together(dist.all_reduce, total)
        return own + (total - own.detach())

    @staticmethod
    def agree(logs):
        """Validation's numbers, of the first worker.

        Raises:
            ValueError: another worker's are others.
        """
        first, *others = gather_objects({name: float(value) for name, value in logs.items()})
        for other in others:
            # Machines that differ round differently.
            if first.keys() != other.keys() or not np.allclose(
                list(first.values()), [other[name] for name in first], rtol=1e-3, atol=1e-6, equal_nan=True
            ):
                raise ValueError(
                    "The workers' validation gave different numbers: each validates on its own, on all of what it is "
                    f"given, so all must be given the same. Received of the workers: {[first, *others]}."
                )
        return first

    @property
    def _share(self):
        return self._sizes[self._index] / sum(self._sizes)

    def _divide(self, data, device):
        """How many examples of the step each worker has, and which rows of `data` are this worker's."""
        x, y, _ = data
        size = size_of(x)
        first = self._steps == 0
        self._steps += 1
        # Of whole batches the labels must be the same in all workers; of parts the first ones' inputs must not.
        looked_at = next(leaf for leaf in keras.tree.flatten((y, x)) if leaf is not None) if self._whole else x
        content = _checksum(looked_at) if self._whole or first else 0
        header = torch.tensor([size, zlib.crc32(repr(_layout(data)).encode()), content], device=device)
        headers = [torch.empty_like(header) for _ in range(self._count)]
        _together(dist.all_gather, headers, header)
        sizes, layouts, contents = torch.stack(headers).T.tolist()
        if len(set(layouts)) > 1:
            raise ValueError(
                f"The workers' batches differ in shape or dtype beyond the number of examples; worker {self._index} "
                f"has {_layout(data)}. Pad all batches to the same lengths, or let a sampler keep them together."
            )
        if not self._whole:
            if first and len(set(contents)) < self._count:
                raise ValueError(
                    "Several workers read the same first batch of their datasets. A dataset must give each worker a "
                    f"part of its own (this is worker {self._index} of {self._count}): a torch `DataLoader` by a "
                    "`torch.utils.data.DistributedSampler`, a `tf.data.Dataset` by `.shard(count, index)`, a "
                    "`PyDataset` by what it reads. Arrays are given whole, and divided."
                )
            return sizes, slice(None)
        if len(set(sizes)) > 1 or len(set(contents)) > 1:
            raise ValueError(
                "The workers were given different arrays, or the same in another order: arrays must be whole, and the "
                "same, in each worker, which takes its part of each batch."
            )
        each, rest = divmod(size, self._count)
        sizes = [each + (i < rest) for i in range(self._count)]
        start = sum(sizes[: self._index])
        # Who has no example left runs one of the others', which counts nothing.
        return sizes, slice(start, start + sizes[self._index]) if sizes[self._index] else slice(0, 1)

    def _gather_rows(self, parts):
        """Tensors `(examples, ...)` of all workers, one after the other; as bytes, so that one message holds all."""
        if not parts:
            return []
        own = self._sizes[self._index]
        widths = [math.prod(part.shape[1:]) * part.element_size() for part in parts]
        rows = [_octets(part).reshape(own, width) for part, width in zip(parts, widths, strict=True)]
        message = torch.zeros((max(self._sizes), sum(widths)), dtype=torch.uint8, device=rows[0].device)
        message[:own] = torch.cat(rows, dim=1)
        messages = [torch.empty_like(message) for _ in range(self._count)]
        _together(dist.all_gather, messages, message)
        whole = torch.cat([each[:size] for each, size in zip(messages, self._sizes, strict=True)])
        return [
            _flat(columns).view(part.dtype).reshape(len(whole), *part.shape[1:])
            for columns, part in zip(whole.split(widths, dim=1), parts, strict=True)
        ]

    @staticmethod
    def _shift(states, by):
        """Move random generators apart, so that workers drop out, and augment, each in its own way; or back again."""
        for state in states:
            # As whole numbers of 32 bits, which begin again at the smallest.
            shift = np.array([by * 0x9E3779B1 & 0xFFFFFFFF, 0], "uint32").astype("int32")
            state.assign(state.value + torch.as_tensor(shift, dtype=state.value.dtype, device=state.value.device))


def start(distiller, data, arguments):
    """Before `fit`: its arguments by name, and the `Workers` of it; all workers must call this.

    Args:
        distiller: the `Distiller` to train.
        data: the training data.
        arguments: all arguments of `keras.Model.fit`, the data included.

    Raises:
        ValueError: the workers would not train one model.
    """
    if distiller.jit_compile:
        raise ValueError("Several workers train without `torch.compile`: leave `jit_compile=True` out of `compile`.")
    length = data.number_of_batches() if data.yields_batches else len(data)
    if length in (None, math.inf) and arguments.get("steps_per_epoch") is None:
        raise ValueError(
            "It is not known how many batches the dataset holds, so that a worker with fewer than the others would "
            f"leave them waiting: pass `steps_per_epoch`, or a dataset that has a length. Received: {data.dataset!r}."
        )
    sampler = data.sampler
    if type(sampler) in (torch.utils.data.RandomSampler, torch.utils.data.SequentialSampler):
        raise ValueError(
            "Each of several workers must read a part of its own: pass the `DataLoader` a "
            "`sampler=torch.utils.data.DistributedSampler(dataset)`; its `batch_size` is then a worker's, and the "
            f"batch of a step all of theirs together. Received a `DataLoader` with a {type(sampler).__name__}."
        )
    if hasattr(sampler, "set_epoch"):
        arguments = with_callbacks([_EpochOfSampler(sampler)], arguments)
    names = ("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "shuffle", "validation_freq")
    mine = {"length": length, **{name: arguments.get(name) for name in names}}
    theirs = gather_objects(mine)
    if any(other != mine for other in theirs):
        raise ValueError(
            "The workers were given different data or arguments, and would wait for each other without end: all must "
            f"call `fit` alike. Of the workers in turn: {theirs}."
        )
    return arguments, Workers(whole=data.is_whole)


class _EpochOfSampler(keras.callbacks.Callback):
    """Tells a `DistributedSampler` the epoch, by which it shuffles."""

    def __init__(self, sampler):
        super().__init__()
        self._sampler = sampler

    def on_epoch_begin(self, epoch, logs=None):
        self._sampler.set_epoch(epoch)


def gather_objects(mine):
    """One object of each worker, in their order."""
    objects = [None] * process_group.count()
    _together(dist.all_gather_object, objects, mine)
    return objects


def _together(collective, *args):
    """What all workers do together; an error where one of them is gone."""
    try:
        collective(*args)
    except RuntimeError as error:
        # Keras cuts off what an error came from: so torch's own words are part of the message.
        raise RuntimeError(
            f"Worker {process_group.index()} of {process_group.count()} (counted from 0) waited for another in vain: "
            "one has ended, or did not come within the time that `torch.distributed.init_process_group(timeout=...)` "
            "allows. "
            "Look for what the others said, then start all of them again: a run with a `directory` goes on from what "
            f"it keeps. torch says: {error}"
        ) from error


def _sum_of(gradients, variables, moved):
    """Gradients, and what else has moved, as sums over the workers; a gradient that none of them has stays `None`."""
    missing = [gradient is None for gradient in gradients]
    full = [torch.zeros_like(v.value) if g is None else g for g, v in zip(gradients, variables, strict=True)]
    have = torch.tensor(missing, device=full[0].device).logical_not().float()
    *sums, have = _all_reduce([*full, *moved, have])
    if any(missing):
        kept = [total if had > 0 else None for total, had in zip(sums, have.tolist(), strict=False)]
        return kept, sums[len(full) :]
    return sums[: len(full)], sums[len(full) :]


def _all_reduce(tensors):
    """Tensors summed over the workers; those of one dtype in one message."""
    sums = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        message = torch.cat([tensors[i].detach().reshape(-1) for i in places])
        _together(dist.all_reduce, message)
        for i, part in zip(places, message.split([tensors[i].numel() for i in places]), strict=True):
            sums[i] = part.reshape(tensors[i].shape)
    return sums


def _moving(student):
    """Variables that move without gradients, as the statistics of a BatchNorm do; not the weights that were frozen."""
    frozen = {id(v) for layer in backend.flat_layers(student) if not layer.trainable for v in layer.variables}
    return [v for v in student.non_trainable_variables if id(v) not in frozen and v.value.is_floating_point()]


def _layout(data):
    """Shapes and dtypes of a batch, without the number of examples."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else (tuple(leaf.shape[1:]), leaf.dtype), data)


def _checksum(nest):
    total = 0
    for leaf in keras.tree.flatten(nest):
        if leaf is not None:
            total = zlib.crc32(_octets(leaf).cpu().numpy(), total)
    return total


def _octets(tensor):
    """A tensor's bytes, uint8 `(number,)`."""
    return _flat(tensor.detach()).view(torch.uint8)


def _flat(tensor):
    """A copy, of which torch can take the bytes as they lie: without gaps, strides that nobody needs included."""
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
