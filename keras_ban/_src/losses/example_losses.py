"""The loss of each example of a batch."""

import keras
from keras import ops

from keras_ban._src.losses.base import in_rank
from keras_ban._src.losses.masks import mask_of


class NoExampleLosses(ValueError):
    """A loss gives no number for each example."""


def example_losses(loss, labels, outputs, sample_weight=None):
    """Return `(losses, weights)` of the examples of a batch, both `(batch,)`.

    The loss of an example is the mean over its positions, without those that are masked or have the weight 0. Its
    weight is 0 if no position is left; otherwise its `sample_weight`, or 1 if positions have weights of their own.

    Args:
        loss: as in `keras.Model.compile`, for one output.
        labels, outputs: tensors `(batch, ...)`. `outputs` may have a Keras mask.
        sample_weight: `None`, or a tensor with a number for each example or position.

    Raises:
        NoExampleLosses: the loss gives no number for each example.
    """
    values, masks = _unreduced(loss, labels, outputs)
    shape, wanted = tuple(values.shape), outputs.shape[0]
    if not shape or (None not in (shape[0], wanted) and shape[0] != wanted):
        raise NoExampleLosses(
            f"the loss {name_of(loss)!r} gives values of shape {shape} for outputs of shape "
            f"{tuple(outputs.shape)}, not a number for each example"
        )
    of_positions = ops.ones_like(values)
    of_examples = ops.ones_like(ops.reshape(values, (ops.shape(values)[0], -1))[:, 0])
    for mask in masks:
        of_positions = of_positions * in_rank(ops.cast(mask, values.dtype), len(shape))
    if sample_weight is not None:
        weights = ops.cast(sample_weight, values.dtype)
        if all(size == 1 for size in weights.shape[1:]):
            of_examples = ops.reshape(weights, (-1,))
        else:
            of_positions = of_positions * in_rank(weights, len(shape))
    axes = tuple(range(1, len(shape)))
    # A masked position may hold NaN.
    values = ops.where(of_positions > 0, values, ops.zeros_like(values)) * of_positions
    total, count = (ops.sum(each, axis=axes) if axes else each for each in (values, of_positions))
    return ops.divide_no_nan(total, count), of_examples * ops.cast(count > 0, values.dtype)


def name_of(loss):
    """Return the name of a loss: of a text, a function or an object."""
    return loss if isinstance(loss, str) else getattr(loss, "name", getattr(loss, "__name__", type(loss).__name__))


def _unreduced(loss, labels, outputs):
    """Return the values of a loss before its reduction, and a list of their masks."""
    loss = _resolved(loss, labels, outputs)
    is_function = not isinstance(loss, keras.losses.Loss)
    dtype = keras.config.floatx() if is_function else loss.dtype
    masks = [mask_of(outputs)]
    labels, outputs = (ops.convert_to_tensor(each, dtype=dtype) for each in (labels, outputs))
    if is_function:
        labels, outputs = _of_equal_ranks(labels, outputs)
    values = ops.convert_to_tensor((loss if is_function else loss.call)(labels, outputs))
    masks.append(mask_of(values))  # Of `ignore_class`
    return values, [mask for mask in masks if mask is not None]


def _resolved(loss, labels, outputs):
    """Return a loss object or a function. As Keras, choose one of three crossentropies by the shapes."""
    if not isinstance(loss, str) or loss.lower() not in ("crossentropy", "ce"):
        return keras.losses.get(loss)
    if outputs.shape[-1] == 1:
        return keras.losses.binary_crossentropy
    sparse = len(labels.shape) < len(outputs.shape) or labels.shape[-1] == 1
    return keras.losses.sparse_categorical_crossentropy if sparse else keras.losses.categorical_crossentropy


def _of_equal_ranks(labels, outputs):
    """Return labels and outputs as Keras passes them to a function: an axis of size 1 is added or removed."""
    ranks = len(labels.shape), len(outputs.shape)
    if ranks == (1, 2) and outputs.shape[-1] == 1:
        return ops.expand_dims(labels, -1), outputs
    if ranks == (2, 1) and labels.shape[-1] == 1:
        return labels, ops.expand_dims(outputs, -1)
    if ranks[0] == ranks[1] + 1 and labels.shape[-1] == 1:
        return ops.squeeze(labels, -1), outputs
    if ranks[1] == ranks[0] + 1 and outputs.shape[-1] == 1:
        return labels, ops.squeeze(outputs, -1)
    return labels, outputs
