"""Compressed soft targets: the k largest logits of each example, and the probability of all other classes."""

import keras
import numpy as np
from keras import ops

from keras_ban._src.losses.meaning import of_distillation_loss

# float16 reaches to -65504. A probability of exp(-65504) is 0 in every floating-point type.
_SMALLEST = -65504.0


def check_loss(loss, axis=None):
    """Raise `ValueError` if it is not known that a distillation loss compares softmaxes over the last axis.

    `axis` is that of the classes, unless it is the last.
    """
    if axis is not None:
        raise ValueError(f"`top_k` keeps the largest of the last axis, but the classes are along axis={axis}.")
    if of_distillation_loss(loss)[0].activation != "softmax":
        raise ValueError(
            "`top_k` keeps the largest of one softmax, and the distillation loss is not known to compare those of one: "
            f"{loss!r}. Leave `top_k` out, or use a loss with an attribute `activation='softmax'`."
        )


def row_dtype(classes, k, from_logits, dtype="float16"):
    """The dtype of one compressed row."""
    index = np.min_scalar_type(classes - 1)
    values = "logits" if from_logits else "log_probabilities"
    return np.dtype([("indices", index, (k,)), (values, dtype, (k,)), ("log_rest", dtype)])


def compress(logits, dtype):
    """Keep the `k` largest of `logits`, `(..., classes)`, as a structured array `(...)` of `row_dtype` `dtype`.

    The stored values are `logit - logsumexp(logits)`, the largest first. They are logits, too, because a softmax
    ignores a shift, and at most 0, where float16 is most precise. `log_rest` is the log-probability of all other
    classes together.
    """
    values, k = dtype.names[1], dtype["indices"].shape[0]
    logits = np.asarray(logits, "float64" if logits.dtype == "float64" else "float32")
    largest = np.argpartition(-logits, k - 1, axis=-1)[..., :k]
    kept = np.take_along_axis(logits, largest, axis=-1)
    order = np.argsort(-kept, axis=-1, kind="stable")
    largest, kept = np.take_along_axis(largest, order, axis=-1), np.take_along_axis(kept, order, axis=-1)
    top = kept[..., :1]
    exponentials = np.exp(logits - top)
    log_sum = np.log(exponentials.sum(axis=-1, keepdims=True))
    # Summed separately: 1 minus the probability of the kept classes would lose the digits of a small rest.
    np.put_along_axis(exponentials, largest, 0.0, axis=-1)
    with np.errstate(divide="ignore"):
        log_rest = np.log(exponentials.sum(axis=-1, keepdims=True)) - log_sum
    rows = np.zeros(logits.shape[:-1], dtype)
    rows["indices"] = largest
    rows[values] = np.maximum(kept - top - log_sum, _SMALLEST)
    rows["log_rest"] = np.maximum(log_rest[..., 0], _SMALLEST)
    return rows


def is_top_k(soft_targets):
    """Whether a batch's soft targets are `columns` of compressed rows."""
    return isinstance(soft_targets, dict) and {"indices", "log_rest"} < set(soft_targets)


def columns(rows):
    """The fields of compressed rows, as a dict for a batch."""
    # No framework supports all unsigned types.
    return {name: rows[name].astype("int32") if name == "indices" else rows[name] for name in rows.dtype.names}


def expand(soft_targets, classes):
    """Dense soft targets `(..., classes)` from the `columns` of compressed rows, as tensors.

    They are logits, or probabilities if the teacher gave probabilities. Each class that was left out gets `log_rest -
    log(classes - k)`: their probability, spread evenly.
    """
    (values,) = set(soft_targets) - {"indices", "log_rest"}
    kept = ops.cast(soft_targets[values], keras.config.floatx())
    rest = ops.cast(soft_targets["log_rest"], kept.dtype)
    indices = ops.cast(soft_targets["indices"], "int32")
    k = indices.shape[-1]
    leading = ops.shape(rest)
    count = ops.size(rest)
    even = ops.reshape(rest, (-1, 1)) - float(np.log(max(classes - k, 1)))
    dense = ops.broadcast_to(even, (count, classes))
    rows = ops.broadcast_to(ops.expand_dims(ops.arange(count, dtype="int32"), -1), (count, k))
    places = ops.stack([ops.reshape(rows, (-1,)), ops.reshape(indices, (-1,))], axis=-1)
    dense = ops.scatter_update(dense, places, ops.reshape(kept, (-1,)))
    dense = ops.reshape(dense, (*leading, classes))
    return ops.exp(dense) if values == "log_probabilities" else dense
