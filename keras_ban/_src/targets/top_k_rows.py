"""The k largest logits of each example, and the mass of all others: soft targets of many classes in few bytes."""

import keras
import numpy as np
from keras import ops

from keras_ban._src.losses.meaning import of_distillation_loss

# float16 reaches to -65504. A probability of exp(-65504) is 0 in every floating-point type.
_SMALLEST = -65504.0


def check_loss(loss):
    """Raise `ValueError` where a distillation loss is not known to compare what is kept."""
    if of_distillation_loss(loss)[0].activation != "softmax":
        raise ValueError(
            "`top_k` keeps the largest of one softmax, and the distillation loss is not known to compare those of one: "
            f"{loss!r}. Leave `top_k` out, so that all are kept; or use a loss of `keras_ban.losses` with "
            "activation='softmax' (one of your own says so by an attribute `activation`)."
        )


def row_dtype(classes, k, from_logits, dtype="float16"):
    """The dtype of one compressed row."""
    index = np.min_scalar_type(classes - 1)
    values = "logits" if from_logits else "log_probabilities"
    return np.dtype([("indices", index, (k,)), (values, dtype, (k,)), ("log_rest", dtype)])


def compress(logits, dtype):
    """Keep the `k` largest of `logits`, as log-probabilities.

    What is kept is `logit - logsumexp(logits)`: logits too, since a softmax does not see a shift, never above 0, where
    float16 is finest. `log_rest` is the logarithm of the probability that the classes left out have together.

    Args:
        logits: float array `(..., classes)`.
        dtype: a `row_dtype`, which holds `k`.

    Returns:
        Structured array `(...)`; the kept classes in the order of their logits, the largest first.
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
    # Summed on its own: 1 minus the mass that was kept would lose the digits of a small rest.
    np.put_along_axis(exponentials, largest, 0.0, axis=-1)
    with np.errstate(divide="ignore"):
        log_rest = np.log(exponentials.sum(axis=-1, keepdims=True)) - log_sum
    rows = np.zeros(logits.shape[:-1], dtype)
    rows["indices"] = largest
    rows[values] = np.maximum(kept - top - log_sum, _SMALLEST)
    rows["log_rest"] = np.maximum(log_rest[..., 0], _SMALLEST)
    return rows


def is_top_k(soft_targets):
    """Whether a batch's soft targets are compressed rows, as `columns` gives them."""
    return isinstance(soft_targets, dict) and {"indices", "log_rest"} < set(soft_targets)


def columns(rows):
    """Compressed rows, structured or a dict of tensors, as a dict fit for a batch: `(..., k)`, `(..., k)`, `(...)`."""
    names = rows if isinstance(rows, dict) else rows.dtype.names
    return {name: rows[name] if name != "indices" else _signed(rows[name]) for name in names}


def _signed(indices):
    # No framework takes all of the unsigned types.
    if isinstance(indices, np.ndarray):
        return indices.astype("int32")
    # Imports TensorFlow, which is imported already: these are rows in a `tf.data` pipeline.
    from keras_ban._src.data.tf_pipeline import cast_tf

    return cast_tf(indices, "int32")


def expand(soft_targets, classes):
    """Dense soft targets from the columns of compressed rows.

    Each class that was left out is given `log_rest - log(classes - k)`: the mass left out, spread evenly.

    Args:
        soft_targets: what `columns` gives, as tensors.
        classes: how many classes there are.

    Returns:
        Tensor `(..., classes)`: logits, or probabilities where the teacher gave probabilities.
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
