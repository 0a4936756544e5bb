"""A crossentropy of labels and a divergence from a teacher, computed together from one softmax."""

import keras
from keras import ops

from keras_ban._src import backend
from keras_ban._src.losses import meaning
from keras_ban._src.losses.base import check_comparable, same_shape
from keras_ban._src.losses.knowledge_distillation import KnowledgeDistillation
from keras_ban._src.losses.masks import mask_of
from keras_ban._src.losses.meaning import Meaning
from keras_ban._src.losses.precision import precision

_MEAN = ("sum_over_batch_size", "mean")


def share_softmax(resolved):
    """Return whether label loss and distillation loss of an output are of one softmax of its logits.

    So it is for `SparseCategoricalCrossentropy(from_logits=True)` and `KnowledgeDistillation` at temperature 1. Then
    `w * label loss + (1 - w) * distillation loss` has the gradient of one crossentropy, whose target is `w` times the
    label and `1 - w` times the teacher's distribution.
    """
    label_loss, loss = resolved.output.label_loss, resolved.loss
    if type(loss) is not KnowledgeDistillation or type(label_loss) is not keras.losses.SparseCategoricalCrossentropy:
        return False
    plain = loss.temperature == 1 and loss.from_logits is not False and not loss.standardize
    plain = plain and resolved.axis is None and resolved.ignore_class is None
    logits = Meaning(True, "softmax", -1)
    alike = loss.dtype == label_loss.dtype == precision() and {loss.reduction, label_loss.reduction} <= set(_MEAN)
    return plain and alike and loss.activation == "softmax" and meaning.of_label_loss(label_loss) == logits


def shared_losses(resolved, labels, target, output, sample_weight):
    """Compute label loss and distillation loss of a batch, as the two losses do one after the other.

    Args:
        resolved: the `Resolved` loss of an output for which `share_softmax` is true.
        labels: whole numbers, `(batch, ...)` or `(batch, ..., 1)`.
        target, output: soft targets as they come, and the student's logits, both `(batch, ..., classes)`.
        sample_weight: `None`, or the weights of the examples, `(batch, ...)` or `(batch, ..., 1)`.

    Returns:
        `(label loss, distillation loss)`, two scalars. `None` if the batch has another form.
    """
    mask, shape = mask_of(output), tuple(output.shape)[:-1]
    labels, sample_weight, mask = (_without_last_axis(each, shape) for each in (labels, sample_weight, mask))
    if any(each is not None and not same_shape(each.shape, shape) for each in (labels, sample_weight, mask)):
        return None
    check_comparable(resolved.loss, target, output)
    _, target, _, _ = resolved.prepared(None, target, output, None)
    target, output = (ops.convert_to_tensor(each, dtype=precision()) for each in (target, output))
    labels = ops.convert_to_tensor(labels, dtype="int32")
    return backend.crossentropy_and_divergence(labels, target, output, _weights(sample_weight, mask))


def _without_last_axis(values, shape):
    """Return values without an axis of size 1 at the end that `shape` lacks."""
    has_more = values is not None and len(values.shape) == len(shape) + 1 and values.shape[-1] == 1
    return ops.squeeze(values, axis=-1) if has_more else values


def _weights(sample_weight, mask):
    """Return the weights of loss values as in Keras: with a mask, the mean is over the values that count."""
    if mask is None:
        return None if sample_weight is None else ops.cast(sample_weight, precision())
    mask = ops.cast(mask, precision())
    mask = mask * ops.divide_no_nan(ops.cast(ops.size(mask), precision()), ops.sum(mask))
    return mask if sample_weight is None else mask * ops.cast(sample_weight, precision())
