"""The functions that torch defines again, or in its own way."""

import numpy as np
import torch

from keras_ban._src.backend import common

MASKS_ARE_ATTRIBUTES = DIVIDES_BATCHES_IN_STEP = True


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


def steps_see_values(model):
    """Return `True`: torch runs the step without tracing it."""
    return True


def release_gradients(model):
    """Release the gradients of the last step, which torch keeps as long as the weights."""
    for variable in model.variables:
        variable.value.grad = None


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
