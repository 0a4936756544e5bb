"""The backend functions for torch."""

import contextlib

import keras
import numpy as np
import torch

from keras_ban._src.backend import common


def without_gradients():
    """Return `torch.no_grad()`: torch records gradients everywhere else."""
    return torch.no_grad()


def differentiates_gradients():
    """Return whether torch records gradients. It treats values of the forward pass as constants."""
    return torch.is_grad_enabled()


class _CrossentropyAndDivergence(torch.autograd.Function):
    """The gradient is of one softmax: `q - label` for the first value, `q - p` for the second."""

    @staticmethod
    def forward(ctx, labels, teacher, student):
        log_q = torch.log_softmax(student, -1)
        labels = labels.long().unsqueeze(-1)
        crossentropy = -log_q.gather(-1, labels).squeeze(-1)
        log_p = torch.log_softmax(teacher, -1).clamp_(min=-1e30)
        p, q = log_p.exp(), log_q.exp()
        # `q - p` adds up to 0. It cancels the rounding errors of the sums.
        divergence = log_p.sub_(log_q.clamp_(min=-1e30)).mul_(p).add_(q).sub_(p).sum(-1)
        ctx.save_for_backward(labels, p, q)
        return crossentropy, divergence

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, of_crossentropy, of_divergence):
        labels, p, q = ctx.saved_tensors
        of_crossentropy, of_divergence = of_crossentropy.unsqueeze(-1), of_divergence.unsqueeze(-1)
        gradient = (q * (of_crossentropy + of_divergence)).addcmul_(p, of_divergence, value=-1)
        return None, None, gradient.scatter_add_(-1, labels, -of_crossentropy)


def crossentropy_and_divergence(labels, teacher, student, weights=None):
    """Compute both of logits `(..., classes)` with torch's own functions: each of `keras.ops` takes time of its own."""
    values = _CrossentropyAndDivergence.apply(labels, teacher, student)
    return tuple((value if weights is None else value * weights).mean() for value in values)


def masks_are_attributes():
    return True


@torch.no_grad()
def update_mean(metric, value, weight):
    """Add to the values in place, with torch's own functions. `weight` is a number or a scalar."""
    total, count = metric.total.value, metric.count.value
    total.add_((value.detach() if isinstance(value, torch.Tensor) else value) * weight)
    count.add_(weight)


def result_of_mean(metric):
    """Return the mean. It is 0 before the first update."""
    count = metric.count.value
    return metric.total.value / torch.where(count == 0, 1.0, count)


def replica_count():
    """Return 1: each process computes the loss of its own batch."""
    return 1


def sum_over_replicas(value):
    """Return the value: there is one replica."""
    return value


def as_if_alone():
    """Do nothing: there is one replica."""
    return contextlib.nullcontext()


def steps_see_values(model):
    """Return `True`: torch runs the step without tracing it."""
    return True


def build_optimizer(model):
    """Do nothing: Keras builds it on values."""


def calls_update_metrics():
    """Return `True`: variables change where they are assigned."""
    return True


def trains_on_no_examples():
    return False


def for_each_example(function, examples):
    """Loop over the examples: torch cannot vectorize random numbers and many operations."""
    return keras.ops.map(function, examples)


def compiles_image_layers():
    """Return `False`: torch need not compile them."""
    return False


def as_texts(array, in_batch=False):
    """Return the array: torch has no texts."""
    return array


def error_of_tracing(function, x):
    """Return `None`: only JAX traces the function."""
    return None


def call_once(function, x, variables):
    """Call the function, operation by operation."""
    return function(x)


def shuffles_each_epoch_anew(workers=1):
    """Return `True`: the random numbers continue from epoch to epoch, and are common to the workers."""
    return True


def check_values(model):
    """Do nothing: variables never lose their values."""


def keeping_values(model):
    """Do nothing: variables never lose their values."""
    return contextlib.nullcontext()


def release_gradients(model):
    """Release the gradients of the last step, which torch keeps as long as the weights."""
    for variable in model.variables:
        variable.value.grad = None


def separate(variables, others):
    """Do nothing: torch does not delete the buffers of trained variables."""


class StepConstants:
    """Variables that a training step reads and never changes. Torch reads them where they are used."""

    def __init__(self, variables):
        self.in_state = []

    def are_current(self):
        """Return `True`: there are no copies that could be outdated."""
        return True

    def in_step(self, non_trainable_state=None):
        """Return no pairs: no variable has another value in a step."""
        return []


def with_current_constants(train_function, constants):
    """Return the training function. It reads variables when a step begins."""
    return train_function


def random_states():
    """Return the states of Python, NumPy, torch and torch's GPUs."""
    states = common.random_states()
    states["torch"] = torch.get_rng_state().numpy()
    if torch.cuda.is_available():
        states |= {f"cuda_{i}": state.cpu().numpy() for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states):
    """Set the states of Python, NumPy, torch and those GPUs of which there are states."""
    common.set_random_states(states)
    torch.set_rng_state(torch.from_numpy(states["torch"]))
    cuda = [torch.from_numpy(state) for name, state in states.items() if name.startswith("cuda_")]
    if cuda:
        torch.cuda.set_rng_state_all(cuda)


def divides_batches_in_step():
    """Return `True`: a step takes its part of each batch."""
    return True


def writes_saved_models():
    """Return `False`: a separate process with TensorFlow writes them."""
    return False


def seed_shuffling(seed):
    """Do nothing: Keras shuffles by torch's generator, of which `random_states` returns the state."""


def worker_count_and_index():
    """Return count and rank in `torch.distributed`, if it is initialized."""
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return 1, 0
    return torch.distributed.get_world_size(), torch.distributed.get_rank()


def byte_gatherer():
    """Return a function that gathers with `torch.distributed`."""
    workers, _ = worker_count_and_index()
    device = torch.device("cpu")
    if torch.distributed.get_backend() == "nccl":
        device = torch.device("cuda", torch.cuda.current_device())

    def gather(data):
        found = [torch.empty(len(data), dtype=torch.uint8, device=device) for _ in range(workers)]
        torch.distributed.all_gather(found, torch.tensor(data, device=device))
        return np.stack([each.cpu().numpy() for each in found])

    return gather


def batch_parts():
    """Return `(1, 0)`: `keras_ban._src.distillation.torch_workers` divides a batch within the training step."""
    return 1, 0


def device_shares():
    """Return 1: shares need not be equal."""
    return 1


def check_engine(model):
    """Do nothing: `torch.distributed` is in force once it is initialized."""


def check_whole(models):
    """Do nothing: each worker has a copy of the whole model."""


def engine_repairs(data):
    """Do nothing: Keras does not know of other workers."""
    return contextlib.nullcontext()


def run_outside_engine(function):
    """Call the function: `torch.distributed` has no effect on a model that is not wrapped."""
    return function()


def double_precision():
    """Do nothing: torch computes in float64."""
    return contextlib.nullcontext()
