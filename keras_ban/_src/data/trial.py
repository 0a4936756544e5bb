"""Whether a model takes data of this form: asked without training.

Keras finds it out in the first step, where all that is said may be a backend's error, and of validation data after a
whole epoch. A trial calls model, loss and metrics once, on a first batch and in inference mode; nothing that they would
write is kept.
"""

import inspect
import types

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.data.batch import split_targets
from keras_ban._src.data.symbols import symbol


def check_fits(model, x, y=None, sample_weight=None, names=("x", "y")):
    """Raise `ValueError` where a model cannot be trained, or measured, on data of this form.

    Args:
        model: a built `keras.Model`, compiled if there is a `y`.
        x, y, sample_weight: a first batch of arrays; `None` where there is none.
        names: what to call `x` and `y`.
    """
    labels, trial = split_targets(y)[0], _Trial(model)
    inputs = getattr(getattr(model, "student", model), "inputs", None)
    if isinstance(x, (list, tuple)) and inputs and len(keras.tree.flatten(x)) != len(inputs):
        raise ValueError(f"`{names[0]}` holds {len(x)} arrays, but the model {model.name!r} takes {len(inputs)}.")
    on_values = backend.steps_see_values(model)
    parts = zip((*names, "sample_weight"), (x, labels, sample_weight), strict=True)
    batch = [_converted(backend.as_tensor if on_values else symbol, name, part) for name, part in parts]
    try:
        if on_values:
            # With the values themselves, which Keras asks the scope for where weights have a penalty.
            values = [(variable, variable) for variable in model.variables]
            with backend.without_gradients(), keras.StatelessScope(values):
                trial.call(*batch)
        else:
            trial.compute_output_spec(*batch)
    except Exception as error:
        error = trial.found.error or error
        if trial.found.outputs is None:
            raise ValueError(
                f"`{names[0]}`, of which a first batch is {_form(x)}, does not fit the model {model.name!r}: {error}"
            ) from error
        weights = "" if sample_weight is None else f" with `sample_weight`, {_form(sample_weight)},"
        outputs = keras.tree.map_structure(lambda output: tuple(output.shape), trial.found.outputs)
        raise ValueError(
            f"`{names[1]}`, of which a first batch is {_form(labels)},{weights} does not fit the loss or the metrics "
            f"for outputs of shape {outputs}: {error}"
        ) from error


def check_validation(model, validation_data, batch=None, measure=True):
    """Raise `ValueError` if a compiled model cannot be measured on these data.

    Args:
        model: a built `keras.Model`.
        validation_data: data, as `as_validation_data` gives them; or `None`.
        batch: `(x, y, sample_weight)`, a first batch of the training data: what is of the same form fits, too.
        measure: whether loss and metrics are called, too. If they are not built yet, that builds them: Keras then skips
            a step for which it draws random numbers, and trains otherwise than it would.
    """
    first = _look(validation_data)
    if first is None:
        return
    if first[1] is None and model.loss is not None:
        raise ValueError(
            "`validation_data` has no labels, on which the loss is measured: pass `(x_val, y_val)`, or a dataset of "
            "such batches."
        )
    names = ("validation_data", "validation_data") if validation_data.yields_batches else validation_data.names[:2]
    validation_data.check_labels(model.loss, getattr(model, "student", model))
    if batch is None or _kind(first) != _kind(batch):
        check_fits(model, *(first if measure else first[:1]), names=names)


def explain(model, data, validation_data=None):
    """After a `Distiller` failed to train: raise `ValueError` if the reason is the data's form, else return."""
    batch = _look(data)
    if batch is None:
        return
    _converted(backend.as_tensor, "y['soft_targets']", split_targets(batch[1])[1])
    if model.built:
        check_fits(model, *batch)
        check_validation(model, validation_data, batch)
    if model.teacher is not None and model.teacher.built:
        check_fits(model.teacher, batch[0])
    outputs = getattr(model.student, "outputs", None) or []
    for leaf in keras.tree.flatten(batch[2]):
        positions = len(np.shape(leaf)) - (np.shape(leaf)[-1:] == (1,))
        if leaf is not None and outputs and positions >= max(len(output.shape) for output in outputs):
            raise ValueError(
                "`sample_weight` must hold a number for each example, or for each position that the loss gives a value "
                f"of, received weights of shape {np.shape(leaf)} for outputs of shape {outputs[0].shape}."
            )


def _look(data):
    """A first batch, `(x, y, sample_weight)`; `None` if the data cannot be read for it."""
    if data is None:
        return None
    try:
        return data.first_batch()
    except Exception:
        return None  # The data themselves fail, and say so where they are read.


class _Trial(keras.layers.Layer):
    """A layer, because those are what Keras evaluates symbolically for whoever asks."""

    def __init__(self, model):
        super().__init__(name="trial", autocast=False)
        self.found = types.SimpleNamespace(model=model, outputs=None, error=None)
        self.built = True

    def call(self, x, y, sample_weight):
        model = self.found.model
        self.found.outputs = None
        try:
            outputs = self.found.outputs = model(x, training=False)
            if y is not None:
                in_training = {"training": False} if _takes_training(model.compute_loss) else {}
                model.compute_loss(x, y, outputs, sample_weight, **in_training)
                model.compute_metrics(x, y, outputs, sample_weight)
        except Exception as error:
            # Kept as it is: Keras would wrap it in what it says of layers.
            self.found.error = error
            raise
        return outputs


def _takes_training(compute_loss):
    """Whether it has that argument; Keras, too, asks those of users, who may leave it out."""
    parameters = inspect.signature(compute_loss).parameters.values()
    return any(each.name == "training" or each.kind is each.VAR_KEYWORD for each in parameters)


def _converted(convert, name, part):
    try:
        return keras.tree.map_structure(convert, part)
    except Exception as error:
        raise ValueError(f"`{name}`, of which a first batch is {_form(part)}, is no tensor: {error}") from error


def _form(part):
    def dtype_and_shape(leaf):
        return None if leaf is None else f"{getattr(leaf, 'dtype', type(leaf).__name__)}{tuple(np.shape(leaf))}"

    return keras.tree.map_structure(dtype_and_shape, part)


def _kind(batch):
    """The dtypes and shapes of single examples."""

    def kind(leaf):
        # A table of pandas has a dtype for each column.
        return None if leaf is None else (getattr(leaf, "dtype", None), *np.shape(leaf)[1:])

    return keras.tree.map_structure(kind, batch)
