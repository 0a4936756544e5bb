"""Check that data fit a model, without training.

In training, Keras raises an error in the first step, which may be a backend's error, or for validation data after an
epoch. A trial calls model, loss and metrics once on a first batch, in inference mode, and keeps none of their changes.
"""

import inspect
import types

import keras
import numpy as np

from keras_ban._src import backend, checks
from keras_ban._src.data.bad_batches import rows_not_finite
from keras_ban._src.data.batch import inputs_of_teacher, split_targets
from keras_ban._src.data.dataset import NoBatchesError
from keras_ban._src.data.labels import check_labels
from keras_ban._src.data.leaves import is_texts, leaves_of, map_leaves
from keras_ban._src.data.model_outputs import check_names


def output_spec(model, x):
    """A model's outputs for arrays `x`, as symbols. It does not run, unless it knows their shape from values alone.

    Keras's layers expect symbols here: `Flatten` asks for an attribute that tensors have not.
    """
    # Keras calls `call` with these arguments alone, and `training` may have no default.
    in_inference = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
    try:
        return model.compute_output_spec(keras.tree.map_structure(_symbol, x), **in_inference)
    except NotImplementedError:  # Of a `TorchModuleWrapper`.
        with backend.without_gradients():
            return model(keras.tree.map_structure(backend.as_tensor, x), **in_inference)


def _symbol(leaf):
    """An array as a symbol of its shape and dtype."""
    tensor = backend.as_tensor(leaf)
    return None if leaf is None else keras.KerasTensor(tensor.shape, keras.backend.standardize_dtype(tensor.dtype))


def check_fits(model, x, y=None, sample_weight=None, names=("x", "y")):
    """Raise `ValueError` if a model cannot be trained or evaluated on data of this form.

    An error that the user's own code raises is raised unchanged.

    The model is built, and compiled if there is a `y`. `x`, `y` and `sample_weight` are a first batch of arrays, or
    `None`. `names` are the names of `x` and `y` in messages. That of `y` is `None` where labels play no part.
    """
    backend.check_values(model)
    labels, trial, student = split_targets(y)[0], _Trial(model), getattr(model, "student", model)
    inputs = getattr(student, "inputs", None)
    if isinstance(x, (list, tuple)) and inputs and len(keras.tree.flatten(x)) != len(inputs):
        raise ValueError(f"`{names[0]}` holds {len(x)} arrays, but the model {model.name!r} takes {len(inputs)}.")
    check_labels(labels, getattr(model, "loss", None), student, names[1])
    on_values = backend.steps_see_values(model)
    parts = zip((*names, "sample_weight"), (x, labels, sample_weight), strict=True)
    batch = [_converted(backend.as_tensor if on_values else _symbol, name, part) for name, part in parts]
    try:
        if on_values:
            # With the values, because Keras reads weights with a penalty from the scope.
            values = [(variable, variable) for variable in model.variables]
            with backend.without_gradients(), keras.StatelessScope(values):
                trial.call(*batch)
        else:
            trial.compute_output_spec(*batch)
    except Exception as error:
        error = trial.found.error or error
        # Keras looks up the names of metrics only now, and its error says which it does not know.
        if checks.is_raised_by_user(error) or str(error).startswith("Could not interpret"):
            raise error from None
        outputs = trial.found.outputs
        # If the model took the inputs, something else is wrong. Symbols have no values.
        was_taken = outputs is not None and not (on_values and any(map(rows_not_finite, leaves_of(outputs))))
        if _advice(x) and not was_taken:
            raise ValueError(f"`{names[0]}`, of which a first batch is {_form(x)}, {_advice(x)}") from error
        if trial.found.outputs is None:
            name, form, target = names[0], _form(x), f"the model {model.name!r}"
            if labels is None and names[1] is not None and isinstance(x, dict):
                target += " (a dataset that yields dicts brings inputs alone; let it yield `(inputs, labels)`)"
        else:
            weights = "" if sample_weight is None else f", with `sample_weight` {_form(sample_weight)}"
            name, form = names[1], f"{_form(labels)}{weights}"
            check_names(labels, sample_weight, model.loss, student, (name, "sample_weight"), trial.found.outputs)
            known = types.SimpleNamespace(outputs=keras.tree.flatten(trial.found.outputs))
            check_labels(labels, model.loss, known, name)
            outputs = keras.tree.map_structure(lambda output: tuple(output.shape), trial.found.outputs)
            target = f"the loss or the metrics for outputs of shape {outputs}"
        raise ValueError(f"`{name}`, of which a first batch is {form}, does not fit {target}: {error}") from error


def check_validation(model, validation_data, batch=None, measure=True, by_name=True):
    """Raise `ValueError` if a compiled model cannot be evaluated on the result of `as_validation_data`.

    Validation data fit if they have the same form as `batch`, `(x, y, sample_weight)` of the training data. With
    `measure`, loss and metrics are called, too. This builds them. Keras then skips a step that draws random numbers,
    and the training differs. For `by_name`, see `Arrays.check_labels`.
    """
    first = _first_batch(validation_data)
    if first is None:
        return
    if first[1] is None and model.loss is not None:
        raise ValueError(
            "`validation_data` has no labels, which the loss needs: pass `(x_val, y_val)` or a dataset. With "
            "`validation_split`, pass `y`."
        )
    names = ("validation_data", "validation_data") if validation_data.yields_batches else validation_data.names[:2]
    validation_data.check_labels(model.loss, getattr(model, "student", model), by_name)
    if model.built and (batch is None or _kind(first) != _kind(batch)):
        check_fits(model, *(first if measure else first[:1]), names=names)


def explain(model, data, validation_data=None):
    """Raise `ValueError` if the form of the data is the reason why a `Distiller` failed to train."""
    batch = _first_batch(data)
    if batch is None:
        return
    _converted(backend.as_tensor, "y['soft_targets']", split_targets(batch[1])[1])
    if model.built:
        check_fits(model, *batch)
        check_validation(model, validation_data, batch)
    if model.teacher is not None and model.teacher.built:
        check_fits(model.teacher, inputs_of_teacher(*batch[:2]))
    outputs = getattr(model.student, "outputs", None) or []
    for leaf in keras.tree.flatten(batch[2]):
        positions = len(np.shape(leaf)) - (np.shape(leaf)[-1:] == (1,))
        if leaf is not None and outputs and positions >= max(len(output.shape) for output in outputs):
            raise ValueError(
                "`sample_weight` must hold a number for each example, or for each position with a loss value, received "
                f"weights of shape {np.shape(leaf)} for outputs of shape {outputs[0].shape}."
            )


def explain_use(model, data, name="x", measure=False):
    """Raise `ValueError` if the form of the data is the reason why a model failed to predict them, or to be evaluated.

    Args:
        model: a model that is not trained.
        data: the data as the model's steps take them.
        name: what messages call the inputs.
        measure: whether the model's loss and metrics saw the labels.
    """
    batch = _first_batch(data)
    if batch is not None and model.built:
        check_fits(model, *(batch if measure else batch[:1]), names=(name, "y" if measure else None))


def _first_batch(data):
    """Return `(x, y, sample_weight)`, or `None` if the data cannot be read."""
    try:
        return None if data is None else data.first_batch()
    except NoBatchesError:
        raise
    except Exception:
        return None  # Training raises the error of the data.


class _Trial(keras.layers.Layer):
    """A call of model, loss and metrics. A layer, because Keras evaluates layers symbolically."""

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
            # Kept, because Keras adds its own text to errors in layers.
            self.found.error = error
            raise
        return outputs


def _takes_training(compute_loss):
    """Whether a user's `compute_loss` has the argument `training`."""
    parameters = inspect.signature(compute_loss).parameters.values()
    return any(each.name == "training" or each.kind is each.VAR_KEYWORD for each in parameters)


def _converted(convert, name, part):
    try:
        return keras.tree.map_structure(convert, part)
    except Exception as error:
        reason = _advice(part) or f"is no tensor: {error}"
        raise ValueError(f"`{name}`, of which a first batch is {_form(part)}, {reason}") from error


def _advice(x):
    """What is wrong with inputs that no layer takes, and what to do, as text. Empty for others."""
    wrong = [row for leaf in leaves_of(x) for row in rows_not_finite(leaf)]
    if wrong:
        return f"holds NaN or infinite numbers, first in example {wrong[0]}. Leave such examples out, or replace them."
    if any(is_texts(leaf) for leaf in leaves_of(x)) and not backend.WRITES_SAVED_MODELS:
        return (
            "holds texts, which layers take under TensorFlow alone. Apply the layers that take them to data, not in "
            "the model: `dataset.map(lambda x, y: (vectorize(x), y))`."
        )
    return ""


def _form(part):
    """The dtypes and shapes of arrays, as text."""
    return map_leaves(lambda leaf: f"{getattr(leaf, 'dtype', type(leaf).__name__)}{tuple(np.shape(leaf))}", part)


def _kind(batch):
    """The dtypes and shapes of single examples. A table of pandas has no single dtype."""
    return map_leaves(lambda leaf: (getattr(leaf, "dtype", None), *np.shape(leaf)[1:]), batch)
