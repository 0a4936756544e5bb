"""Check, without training, that metrics and losses leave out examples of weight 0.

Unlabeled examples are part of a batch, and have the weight 0 for metrics and label losses. A metric that does not use
its weights would count them, and so would a loss that returns one number for a batch.
"""

import keras
import numpy as np
from keras import ops

from keras_ban._src import backend, checks
from keras_ban._src.backend import process_group
from keras_ban._src.data.batch import is_labeled, split_targets
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.unlabeled import join
from keras_ban._src.distillation.loss_targets import loss_target
from keras_ban._src.distillation.unlabeled import weights_like_labels, weights_of_part
from keras_ban._src.losses.base import SoftTargetLoss
from keras_ban._src.losses.structure import for_each_output


def check_weights_act(distiller, data):
    """Raise `ValueError` if a metric or a loss does not leave out examples of weight 0.

    The first batch is compared with the same batch and more examples, which have the weight 0: its last outputs with
    its first labels.

    Args:
        distiller: a compiled `Distiller`.
        data: the labeled data.
    """
    if process_group.shared():
        return  # The values of this process are a part.
    x, y, sample_weight = data.first_batch()
    with backend.without_gradients():
        y_pred = _outputs(distiller.student, x)
        part = (y_pred, y, sample_weight)
        whole = join(part, keras.tree.map_structure(lambda leaf: np.repeat(leaf[-1:], len(leaf), 0), y_pred))
        part, whole = (keras.tree.map_structure(backend.as_tensor, each) for each in (part, whole))
        _check_losses(distiller, part, whole)
        if split_targets(y)[0] is not None:
            _check_metrics(distiller, part, whole)
    # Loss and metrics are built now. To build a new model, Keras draws a batch, which changes the random numbers for
    # shuffling. It must do so after this check, too.
    distiller.built = False


def _outputs(student, x):
    """The outputs of a first batch, as NumPy arrays. The state of the student does not change."""
    x = inputs_for(student, keras.tree.map_structure(backend.as_tensor, x))
    if not student.built:
        student(x, training=False)
    with keras.StatelessScope([(variable, variable) for variable in student.variables]):
        return keras.tree.map_structure(ops.convert_to_numpy, student(x, training=False))


def _check_metrics(distiller, part, whole):
    results = []
    for y_pred, y, sample_weight in (part, whole):
        _reset(distiller)
        try:
            logs = distiller.compute_metrics(None, y, y_pred, sample_weight)
        except Exception as error:
            if y is part[1]:
                return  # Training raises the error.
            if checks.is_raised_by_user(error):
                raise
            raise ValueError(
                f"A metric cannot leave out examples by their weights, as those without labels must be: {error!r}. Let "
                "it return a value for each example."
            ) from error
        results.append({name: np.asarray(ops.convert_to_numpy(value), "float64") for name, value in logs.items()})
    _reset(distiller)
    for name, value in results[0].items():
        if not np.allclose(value, results[1][name], rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ValueError(
                f"The metric {name!r} counts examples of weight 0. `unlabeled` inputs have no labels, so metrics must "
                "leave them out: let its `update_state` use `sample_weight`, or measure it on `validation_data`."
            )


def _reset(distiller):
    for metric in distiller.metrics:
        metric.reset_state()


def _check_losses(distiller, part, whole):
    y_pred, labels, weights = part[0], split_targets(part[1])[0], part[2]
    all_pred, all_labels = whole[0], split_targets(whole[1])[0]
    all_weights = weights_like_labels(weights_of_part(is_labeled(whole[1]), whole[2], all_pred), all_labels)
    if labels is not None and (callable(distiller.label_weight) or distiller.label_weight > 0):
        of_model = sum(float(ops.convert_to_numpy(loss)) for loss in distiller.losses)
        sums = [
            float(ops.convert_to_numpy(distiller.compute_loss(None, *batch, training=False))) - of_model
            for batch in ((labels, y_pred, weights), (all_labels, all_pred, all_weights))
        ]
        if not np.isclose(sums[0], 2 * sums[1], rtol=1e-4, atol=1e-5, equal_nan=True):
            raise ValueError(NO_MEAN.format(name="loss", loss=distiller.loss))
    names = getattr(distiller.student, "output_names", None)
    losses = for_each_output(distiller.distillation_loss, y_pred, names)
    all_weights = weights_of_part(is_labeled(whole[1]), None, all_pred)
    outputs = (keras.tree.flatten(each) for each in (y_pred, all_pred, all_weights))
    for loss, output, all_output, weight in zip(losses, *outputs, strict=True):
        if loss is not None and not isinstance(loss, SoftTargetLoss):
            _check_distillation(loss, output, all_output, weight)


def _check_distillation(loss, output, all_output, weight):
    # Soft targets that differ from the outputs, as those of a teacher would.
    order = np.arange(len(output))[::-1].copy()
    order = np.concatenate([order, np.zeros(len(output), "int64")])  # Of the last outputs, the first.
    targets = [ops.take(output, rows, axis=0) for rows in (order[: len(output)], order)]
    try:
        values = [
            float(ops.convert_to_numpy(loss(loss_target(loss, None, each), predicted, given)))
            for each, predicted, given in zip(targets, (output, all_output), (None, weight), strict=True)
        ]
    except Exception:
        return  # Training raises the error.
    if not np.isclose(values[0], 2 * values[1], rtol=1e-4, atol=1e-5, equal_nan=True):
        raise ValueError(NO_MEAN.format(name="distillation_loss", loss=loss))


NO_MEAN = (
    "`{name}` is not a mean over examples that leaves out those of weight 0, which `unlabeled` inputs need: {loss!r}. "
    "It must return a value for each example, or position, and use `sample_weight`."
)
