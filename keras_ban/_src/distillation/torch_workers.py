"""Data parallelism on torch: the processes of a `torch.distributed` group train one model.

Keras's `fit` does not know of the other processes: each would train its own model. So each worker does this in a step:

1. Take this worker's part of the batch. Student, teacher and augmentation run on that part only.
2. Gather outputs, labels, soft targets and weights of all workers. Loss and metrics see the whole batch, equal in each
   worker. So normalization over the batch, weights and masks need no changes, and a last batch that does not divide
   counts correctly. Gradients flow through this worker's own outputs.
3. Sum the gradients of all workers, which gives the gradient of the whole batch. Each worker takes the same step.
4. Average the variables that change without gradients, for instance the statistics of a BatchNorm, weighted by the
   number of examples. So all workers have equal models after each step.
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
from keras_ban._src.data.leaves import leaves_of, map_leaves, size_of
from keras_ban._src.distillation.step import has_own_label_loss
from keras_ban._src.losses.masks import mask_of, with_mask
from keras_ban._src.targets import augmented_views


class Workers:
    """The workers of one `fit`, as seen by one of them.

    Args:
        whole: whether each worker receives whole batches and takes its part. Otherwise it receives its own part.

    Attributes:
        in_step: whether a training step is running.
    """

    def __init__(self, whole):
        self._whole = whole
        self._index, self._count = process_group.index(), process_group.count()
        self._sizes = None
        self._steps = 0

    @property
    def in_step(self):
        return self._sizes is not None

    def synchronize(self, distiller):
        """Give all workers the variables of the first worker, and its random numbers if batches are whole."""
        if not distiller.optimizer.built:
            distiller.optimizer.build(distiller.trainable_variables)
        variables = [*distiller.variables, *distiller.optimizer.variables]
        forms = [(tuple(v.shape), keras.backend.standardize_dtype(v.dtype)) for v in variables]
        if len(set(map(tuple, gather_objects(forms)))) > 1:
            raise ValueError(
                "The workers hold different models: number, shape or dtype of weights or optimizer variables differ. "
                "Build and compile the same model in all of them."
            )
        for variable in variables:
            value = variable.value.detach().clone()
            _together(dist.broadcast, value, 0)
            variable.assign(value)
        if self._whole:
            states = [{name: v for name, v in backend.random_states().items() if not name.startswith("cuda_")}]
            _together(dist.broadcast_object_list, states, 0)
            backend.set_random_states(states[0])

    @contextlib.contextmanager
    def step(self, distiller, data):
        """Return a context for a training step. It yields this worker's part of the batch, `(x, y, sample_weight)`."""
        device = distiller.student.variables[0].value.device
        data = map_leaves(lambda leaf: torch.as_tensor(leaf).to(device), keras.utils.unpack_x_y_sample_weight(data))
        self._sizes, rows = self._divide(data, device)
        augmentation = distiller.augmentation
        states = [] if augmentation is None else augmented_views.seed_states(augmentation)
        states = {id(v): v for v in [*distiller.student.variables, *states] if v.name == "seed_generator_state"}
        moving = _moving(distiller.student)
        before = [v.value.detach().clone() for v in moving]
        optimizer = distiller.optimizer
        apply = optimizer.apply

        def apply_sums(gradients, variables):
            # Sum the changes, not the values: so a variable that does not change keeps its exact value.
            moved = [(v.value.detach() - value) * self._share for v, value in zip(moving, before, strict=True)]
            gradients, moved = _sum_of(gradients, variables, moved)
            for variable, value, by in zip(moving, before, moved, strict=True):
                variable.assign(value + by)
            apply(gradients, variables)

        _shift(states.values(), self._index)
        optimizer.apply = apply_sums
        try:
            yield map_leaves(lambda leaf: leaf[rows], data)
        finally:
            del optimizer.apply
            _shift(states.values(), -self._index)
            self._sizes = None

    def join(self, x, y, sample_weight):
        """Return `x`, labels, soft targets and weights for Keras's training step.

        `x` stays this worker's part, see `own_part`. Keras counts the examples of a batch in the first array of `x`: an
        empty array as long as the whole batch.
        """
        return (torch.empty((sum(self._sizes), 0)), x), *self.gather((y, sample_weight))

    @staticmethod
    def own_part(x):
        return x[1]

    def gather(self, nest):
        """Return tensors of the whole batch, with their masks. Gradients flow to this worker's part."""
        own = self._sizes[self._index]
        start = sum(self._sizes[: self._index])
        leaves = keras.tree.flatten(nest)
        masks = [mask_of(leaf) for leaf in leaves]
        parts = leaves_of([leaves, masks])
        for part in parts:
            if part.ndim == 0 or len(part) != max(own, 1):
                raise ValueError(
                    "With several workers, the first axis of all inputs and outputs of models must be the examples. "
                    f"Received a tensor of shape {tuple(part.shape)} in a batch of {max(own, 1)} examples."
                )
        whole = iter(self._gather_rows([part[:own] for part in parts]))
        gathered = [None if leaf is None else next(whole) for leaf in leaves]
        for place, leaf in enumerate(leaves):
            if leaf is not None and leaf.requires_grad:
                # The own rows replace the gathered ones, which have no gradients.
                rows = gathered[place]
                gathered[place] = torch.cat([rows[:start], leaf[:own], rows[start + own :]])
        pairs = zip(gathered, masks, strict=True)
        gathered = [leaf if mask is None else with_mask(leaf, next(whole)) for leaf, mask in pairs]
        return keras.tree.pack_sequence_as(nest, gathered)

    def add_up(self, loss):
        """Return the mean of a loss term over the workers, weighted by their examples.

        This is for terms that are not computed from gathered outputs. So regularizers of weights count once, and
        `add_loss` terms count as means over the batch.
        """
        own = loss * self._share
        total = own.detach().clone()
        _together(dist.all_reduce, total)
        return own + (total - own.detach())

    @staticmethod
    def agree(logs):
        """Return the validation results of the first worker. Raise `ValueError` if those of another worker differ."""
        first, *others = gather_objects({name: float(value) for name, value in logs.items()})
        for other in others:
            # Different machines round differently.
            if first.keys() != other.keys() or not np.allclose(
                list(first.values()), [other[name] for name in first], rtol=1e-3, atol=1e-6, equal_nan=True
            ):
                raise ValueError(
                    "The workers' validation gave different numbers. Each worker validates on all validation data, so "
                    f"pass the same data to all. Received from the workers: {[first, *others]}."
                )
        return first

    @property
    def _share(self):
        return self._sizes[self._index] / sum(self._sizes)

    def _divide(self, data, device):
        """Return the number of examples of each worker in this step, and the rows of `data` that are this worker's."""
        x, y, _ = data
        size = size_of(x)
        first = self._steps == 0
        self._steps += 1
        # The labels of whole batches must be equal in all workers. The first inputs of parts must differ.
        compared = leaves_of((y, x))[0] if self._whole else x
        content = _checksum(compared) if self._whole or first else 0
        header = torch.tensor([size, zlib.crc32(repr(_layout(data)).encode()), content], device=device)
        headers = [torch.empty_like(header) for _ in range(self._count)]
        _together(dist.all_gather, headers, header)
        sizes, layouts, contents = torch.stack(headers).T.tolist()
        if len(set(layouts)) > 1:
            raise ValueError(
                f"The workers' batches differ in shape or dtype. Worker {self._index} has {_layout(data)}, without the "
                "axis of examples. Pad all batches to the same lengths, or let a sampler keep equal lengths together."
            )
        if not self._whole:
            if first and len(set(contents)) < self._count:
                raise ValueError(
                    f"Several workers (this is {self._index} of {self._count}) read the same first batch. Give each an "
                    "own part of the data, by `torch.utils.data.DistributedSampler` or `tf.data.Dataset.shard`."
                )
            return sizes, slice(None)
        if len(set(sizes)) > 1 or len(set(contents)) > 1:
            raise ValueError(
                "The workers were given different arrays, or the same in another order. Pass the same whole arrays to "
                "all workers: each takes its part of each batch."
            )
        each, rest = divmod(size, self._count)
        sizes = [each + (i < rest) for i in range(self._count)]
        start = sum(sizes[: self._index])
        # A worker without examples runs one of another worker, which does not count.
        return sizes, slice(start, start + sizes[self._index]) if sizes[self._index] else slice(0, 1)

    def _gather_rows(self, parts):
        """Concatenate tensors `(examples, ...)` of all workers. They are sent as bytes, all in one message."""
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


def start(distiller, data, arguments):
    """Prepare a `fit` with several workers. All workers must call this function.

    Args:
        distiller: the `Distiller` to train.
        data: the training data.
        arguments: all arguments of `keras.Model.fit` by name, including the data.

    Returns:
        `(arguments, workers)`: the arguments for `keras.Model.fit`, and `Workers`.
    """
    if distiller.jit_compile:
        raise ValueError("Several workers train without `torch.compile`: leave `jit_compile=True` out of `compile`.")
    if has_own_label_loss(type(distiller)):
        raise ValueError(
            "Several torch workers train without your own `compute_label_loss`, which would see the inputs of one "
            "worker, and the labels of all. Pass the `loss` to `compile`, or train in one process."
        )
    length = data.number_of_batches() if data.yields_batches else len(data)
    if length in (None, math.inf) and arguments.get("steps_per_epoch") is None:
        raise ValueError(
            f"The dataset {data.dataset!r} has no known length, so a worker with fewer batches would leave the others "
            "waiting: pass `steps_per_epoch`, or a dataset that has a length."
        )
    sampler = data.sampler
    if type(sampler) in (torch.utils.data.RandomSampler, torch.utils.data.SequentialSampler):
        raise ValueError(
            "Each worker must read its own part: pass `sampler=torch.utils.data.DistributedSampler(dataset)` to the "
            f"`DataLoader`. Received a `DataLoader` with a {type(sampler).__name__}."
        )
    if hasattr(sampler, "set_epoch"):
        # A `DistributedSampler` shuffles by the epoch.
        set_epoch = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: sampler.set_epoch(epoch))
        arguments = with_callbacks([set_epoch], arguments)
    names = ("batch_size", "epochs", "initial_epoch", "steps_per_epoch", "shuffle", "validation_freq")
    own = {"length": length, **{name: arguments.get(name) for name in names}}
    of_all = gather_objects(own)
    if any(other != own for other in of_all):
        raise ValueError(
            "The workers were given different data or arguments, and would wait for each other forever: call `fit` "
            f"with the same arguments in all of them. Received from the workers: {of_all}."
        )
    return arguments, Workers(whole=data.is_whole)


def gather_objects(own):
    """Return a list of the workers' objects, in their order."""
    objects = [None] * process_group.count()
    _together(dist.all_gather_object, objects, own)
    return objects


def _together(collective, *args):
    """Call a function of `torch.distributed` that all workers call. Explain its error if another worker is lost."""
    try:
        collective(*args)
    except RuntimeError as error:
        # Keras hides the cause of an error, so the message includes torch's own.
        raise RuntimeError(
            f"Worker {process_group.index()} of {process_group.count()} (counted from 0) waited for another in vain: "
            "one has ended, or exceeded the `timeout` of `init_process_group`. See its own message, then start all "
            f"workers again: a run with a `directory` resumes. torch says: {error}"
        ) from error


def _sum_of(gradients, variables, moved):
    """Return the sums of gradients and changes over the workers. A gradient that no worker has stays `None`."""
    missing = [gradient is None for gradient in gradients]
    full = [torch.zeros_like(v.value) if g is None else g for g, v in zip(gradients, variables, strict=True)]
    present = torch.tensor(missing, device=full[0].device).logical_not().float()
    *sums, present = _all_reduce([*full, *moved, present])
    gradients, moved = sums[: len(full)], sums[len(full) :]
    if any(missing):
        gradients = [total if count > 0 else None for total, count in zip(gradients, present.tolist(), strict=True)]
    return gradients, moved


def _all_reduce(tensors):
    """Return the sums of tensors over the workers. Tensors of the same dtype are sent in one message."""
    sums = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        message = torch.cat([tensors[i].detach().reshape(-1) for i in places])
        _together(dist.all_reduce, message)
        for i, part in zip(places, message.split([tensors[i].numel() for i in places]), strict=True):
            sums[i] = part.reshape(tensors[i].shape)
    return sums


def _moving(student):
    """Return variables that change without gradients, such as statistics of a BatchNorm. Frozen weights do not."""
    frozen = {id(v) for layer in backend.flat_layers(student) if not layer.trainable for v in layer.variables}
    return [v for v in student.non_trainable_variables if id(v) not in frozen and v.value.is_floating_point()]


def _shift(states, by):
    """Change the states of random generators, so that each worker has its own dropout and augmentation."""
    # The product modulo 2**32, as a signed number of 32 bits.
    shift = np.array([by * 0x9E3779B1 & 0xFFFFFFFF, 0], "uint32").astype("int32")
    for state in states:
        state.assign(state.value + torch.as_tensor(shift, dtype=state.value.dtype, device=state.value.device))


def _layout(data):
    """Return shapes and dtypes of a batch, without the axis of examples."""
    return map_leaves(lambda leaf: (tuple(leaf.shape[1:]), leaf.dtype), data)


def _checksum(nest):
    total = 0
    for leaf in leaves_of(nest):
        total = zlib.crc32(_octets(leaf).cpu().numpy(), total)
    return total


def _octets(tensor):
    """Return a tensor's bytes, uint8 `(number,)`."""
    return _flat(tensor.detach()).view(torch.uint8)


def _flat(tensor):
    """Return a flat copy that is contiguous in memory, so that torch can view its bytes."""
    return tensor.clone(memory_format=torch.contiguous_format).reshape(-1)
