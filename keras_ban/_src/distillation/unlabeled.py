"""Unlabeled inputs beside the labeled examples of a `Distiller`."""

import contextlib
import functools

import keras
from keras import ops

from keras_ban._src.data import fit_arguments
from keras_ban._src.data.batch import split_targets
from keras_ban._src.data.unlabeled import with_unlabeled
from keras_ban._src.distillation.loss_targets import NO_LABELS, own_weights
from keras_ban._src.losses.base import in_rank, in_shape_of
from keras_ban._src.losses.keras_distillation import cannot_act, is_of_keras_distillation
from keras_ban._src.losses.masks import mask_of
from keras_ban._src.targets import label_mix


def add_unlabeled(data, options, unlabeled, stored, needs_labels):
    """Return `(data, options)` of a `fit`: validation data split off, and unlabeled inputs added.

    `unlabeled` is the result of `as_unlabeled`. `stored` is whether there are `SoftTargets`.
    """
    if needs_labels and split_targets(data.first_batch()[1])[0] is None:
        raise ValueError(NO_LABELS)
    if stored and options.get("validation_split") and options["validation_data"] is None:
        raise ValueError(
            "`soft_targets` are of the rows of `x`, followed by those of `unlabeled`. With both, pass "
            "`validation_data` in place of `validation_split`."
        )
    data, options = fit_arguments.split_off(data, options)
    data = with_unlabeled(data, unlabeled, options.get("steps_per_epoch"))
    if data.yields_batches and stored:
        raise ValueError(
            "`unlabeled` goes with `soft_targets` if `x` and `unlabeled` are arrays. With datasets, let the teacher "
            "run at each step."
        )
    return data, options


def check_losses(distillation_loss, label_loss, label_weight, augmentation, own_label_loss=False):
    """Raise `ValueError` if the loss of a batch would not be the mean over labeled and unlabeled examples.

    `own_label_loss` is whether the Distiller has its own `compute_label_loss`.
    """
    if own_label_loss and label_weight != 0:
        raise ValueError(
            "`unlabeled` does not go with your own `compute_label_loss`, which might count examples without labels. "
            "Pass the `loss` to `compile`, or use `label_weight=0`."
        )
    if label_mix.mixes(augmentation) and (callable(label_weight) or label_weight > 0):
        raise ValueError(
            f"{augmentation!r} mixes examples, and a mix of a labeled and an unlabeled one has no label. With "
            "`unlabeled`, use layers that do not mix, or `label_weight=0`."
        )
    if not callable(label_weight) and label_weight == 1:
        raise ValueError(
            "`unlabeled` inputs count by the distillation loss alone, whose weight is 0: `label_weight=1`. Use a "
            "smaller `label_weight`, or leave out `unlabeled`."
        )
    for loss in keras.tree.flatten(distillation_loss):
        if is_of_keras_distillation(loss):
            raise ValueError(cannot_act(loss, "`unlabeled`"))
        if getattr(loss, "labels_as", None) is not None:
            raise ValueError(
                f"`{type(loss).__name__}` needs the label of each example, and `unlabeled` inputs have none. Use a "
                "loss of the soft targets alone, for instance `keras_ban.losses.KnowledgeDistillation()`."
            )
    for loss in keras.tree.flatten([distillation_loss, label_loss]):
        reduction = getattr(loss, "reduction", "mean")
        if reduction not in ("mean", "sum_over_batch_size"):
            raise ValueError(
                f"`{type(loss).__name__}` has reduction={reduction!r}. With `unlabeled`, the loss is a mean over all "
                "examples of the batch: use 'sum_over_batch_size'."
            )


def weights_of_part(part, sample_weight, y_pred):
    """Sample weights of a part of the batch: the other examples get 0.

    Args:
        part: 1 for each example of the part, else 0, `(batch,)`.
        sample_weight: nested weights, or `None`.
        y_pred: nested outputs, `(batch, ..., classes)`.
    """
    if sample_weight is None:
        return keras.tree.map_structure(lambda output: _like_loss_values(part, output), y_pred)
    return keras.tree.map_structure(
        lambda weights: weights * in_rank(ops.cast(part, weights.dtype), len(weights.shape)), sample_weight
    )


def weights_like_labels(sample_weight, labels):
    """Return a copy of sample weights, in the shape of labels `(batch, time)`.

    Keras on torch multiplies the weights in place by the mask of a loss with an `ignore_class`, which has that shape.
    """
    if labels is None or keras.tree.is_nested(labels) or keras.tree.is_nested(sample_weight):
        return own_weights(sample_weight)
    same_rank = len(sample_weight.shape) == len(labels.shape)
    return in_shape_of(sample_weight, labels) if same_rank else own_weights(sample_weight)


def _like_loss_values(part, output):
    """One weight per example, in the rank of the loss values `(batch, ...)`, as Keras broadcasts them."""
    mask = mask_of(output)
    if mask is None:
        return in_rank(part, max(1, len(output.shape) - 1))
    return in_shape_of(part, mask)


@contextlib.contextmanager
def only_labeled(model, labeled):
    """Return a context in which the compiled metrics of a model see the labeled examples of a batch.

    Args:
        model: a compiled model. Among its `metrics` is Keras's container of the compiled ones, with `metrics` itself.
        labeled: 1 for each example with a label, else 0, `(batch,)`; `None`: the metrics see all.
    """

    containers = [] if labeled is None else [each for each in model.metrics if hasattr(each, "metrics")]
    metrics = [metric for container in containers for metric in container.metrics]
    for metric in metrics:
        metric.update_state = functools.partial(_update_labeled, metric, metric.update_state, labeled)
    try:
        yield
    finally:
        for metric in metrics:
            del metric.update_state


def _update_labeled(metric, update_state, labeled, y_true, y_pred, sample_weight=None):
    # Keras gives unweighted metrics no weights, so they are added here.
    weights = weights_of_part(labeled, sample_weight, y_pred)
    if isinstance(metric, keras.metrics.IoU):
        weights = _of_classes(metric, weights, y_true)
        weights = ops.cast(weights, metric.dtype) if sample_weight is None else weights
    return update_state(y_true, y_pred, sample_weight=weights)


def _of_classes(metric, weights, y_true):
    """Weights in the shape of the class numbers, which an `IoU` of Keras flattens together."""
    ones = ops.ones_like(y_true, dtype=weights.dtype)
    if not metric.sparse_y_true:
        ones = ops.take(ones, 0, axis=metric.axis)
    if len(weights.shape) > len(ones.shape):
        return ops.squeeze(weights, axis=-1)
    missing = (1,) * (len(ones.shape) - len(weights.shape))
    return ones * ops.reshape(weights, (-1, *weights.shape[1:], *missing))
