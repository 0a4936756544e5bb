"""Keras's own `fit` for a generation, and the check of what came of it."""

import keras
import numpy as np

from keras_ban._src import backend, checks
from keras_ban._src.backend import process_group
from keras_ban._src.data import bad_batches, fit_arguments
from keras_ban._src.data.preprocessing import method_and_data, validation_in_steps
from keras_ban._src.history.controls import ControlRecord


def fit(model, data, options):
    """`keras.Model.fit` of a plain model; a `Distiller` does the same by itself."""
    backend.build_optimizer(model)
    options = {**options, "validation_data": validation_in_steps(options, model)}
    explain = bad_batches.ExplainNaN(options["validation_data"])
    # First, so that the epoch is not kept.
    options = {**options, "callbacks": [explain, *options["callbacks"]]}
    steps = options.get("steps_per_epoch")
    method, data = method_and_data(model, "fit", data, in_order=False, again=True, steps=steps)
    with (
        fit_arguments.given_to_keras(data, options) as (data, arguments),
        process_group.engine_in_force([arguments["x"], arguments.get("validation_data")]),
    ):
        try:
            return method(**arguments)
        except (RuntimeError, TypeError) as error:
            bad_batches.explain_failure(error, data)
            raise


def check_finite(model, record, data):
    """Raise `FloatingPointError` if training ended with a loss or weights that are NaN or infinite.

    `data` are the training data, which are then searched for NaN.
    """
    loss = record.logs.get("loss", [0.0])[-1]
    values = [(w.trainable, keras.ops.convert_to_numpy(w.value)) for w in model.weights]
    # What is not trained may be infinite on purpose: a mask that is added to logits.
    weights_finite = all((np.isfinite(value) if trained else ~np.isnan(value)).all() for trained, value in values)
    if weights_finite and checks.is_finite(loss):
        return
    is_control = isinstance(record, ControlRecord)
    subject = f"The control {record.name!r}" if is_control else f"Generation {record.generation}"
    if is_control:
        kept = "The generations are kept: see `models`, `history` and `ensemble()`"
    elif record.generation == 0:
        kept = "Nothing was trained before it"
    else:
        kept = f"Generations 0 to {record.generation - 1} are kept: see `models`, `history` and `ensemble()`"
    place, advice = bad_batches.first_not_finite(data), "Try a lower learning rate, or `clipnorm` in the optimizer."
    if place is not None:
        advice = (
            f"In the data, {place} of `x` (counted from 0) is the first with inputs that are NaN or infinite: leave "
            "such examples out, or replace the values."
        )
    raise FloatingPointError(
        f"{subject} ended with loss={loss} after epoch {record.epochs}"
        f"{'' if weights_finite else ', and with weights that are NaN or infinite'}. {kept}. {advice}"
    )
