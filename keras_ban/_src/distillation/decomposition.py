"""The parts of a student's gradient: the ground truth, and the teacher's dark knowledge."""

import dataclasses

import keras
import numpy as np

from keras_ban._src import backend, checks, hints
from keras_ban._src.data import trial
from keras_ban._src.data.arrays import short
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.labels import check_numbers
from keras_ban._src.data.leaves import as_array
from keras_ban._src.data.preprocessing import data_in_steps, predict
from keras_ban._src.losses.base import AUTO, check_from_logits, check_temperature
from keras_ban._src.losses.contradictions import logits_or_probabilities
from keras_ban._src.losses.knowledge_distillation import KnowledgeDistillation
from keras_ban._src.losses.outputs import Outputs
from keras_ban._src.losses.temperature import log_of_probabilities, softmax
from keras_ban._src.targets.soft_targets import SoftTargets


@dataclasses.dataclass(frozen=True)
class GradientDecomposition:
    """The gradient of distillation with respect to the student's logits, in two parts (BAN section 3.2, eq. 7).

    With softened probabilities `q` of the student and `p` of the teacher, an example's gradient is `T * (q - p)`. Its
    parts are the value at the true class, and the values at all other classes. They are orthogonal, so their squared
    norms add up to that of the whole. A share is a share of the squared norm. (Eq. 7 adds the values themselves, over
    examples and classes. `q` and `p` both sum to 1, so its second sum is always minus the first.)

    Attributes:
        ground_truth: `(batch, ...)` float64, the gradient at the true class. Negative if the student is less confident
            in it than the teacher.
        dark_knowledge: `(batch, ..., classes)` float64, the gradient at all other classes. 0 at the true class.
    """

    ground_truth: np.ndarray
    dark_knowledge: np.ndarray

    @property
    def ground_truth_norm(self) -> np.ndarray:
        """Norm of the ground truth part, `(batch, ...)`."""
        return np.abs(self.ground_truth)

    @property
    def dark_knowledge_norm(self) -> np.ndarray:
        """Norm of the dark knowledge part, `(batch, ...)`."""
        return np.linalg.norm(self.dark_knowledge, axis=-1)

    @property
    def dark_knowledge_share(self) -> np.ndarray:
        """Share of dark knowledge in the squared norm, `(batch, ...)`, in [0, 1]. NaN without a gradient."""
        return _share(np.square(self.dark_knowledge_norm), np.square(self.ground_truth))

    @property
    def batch_ground_truth_norm(self) -> float:
        """Norm of the ground truth part of the gradient of the batch's mean loss, with respect to all logits."""
        return float(np.linalg.norm(self.ground_truth) / self.ground_truth.size)

    @property
    def batch_dark_knowledge_norm(self) -> float:
        """Norm of the dark knowledge part of the gradient of the batch's mean loss, with respect to all logits."""
        return float(np.linalg.norm(self.dark_knowledge) / self.ground_truth.size)

    @property
    def batch_dark_knowledge_share(self) -> float:
        """Share of dark knowledge in the squared norm over the batch, in [0, 1]. NaN without a gradient."""
        return float(_share(np.square(self.dark_knowledge).sum(), np.square(self.ground_truth).sum()))


def gradient_decomposition(
    student: keras.Model,
    teacher: keras.Model | SoftTargets | hints.Tensor,
    x: hints.Data,
    y: hints.Data,
    *,
    temperature: float = 1.0,
    from_logits: hints.FromLogits = "auto",
    batch_size: int | None = None,
) -> GradientDecomposition:
    """Split the distillation gradient into the true classes' part and the dark knowledge.

    Example:

    ```python
    parts = keras_ban.gradient_decomposition(student, teacher, x, y)
    print(f"{parts.batch_dark_knowledge_share:.0%} of the squared gradient is dark knowledge")
    confident = parts.dark_knowledge_share < 0.1  # examples with little dark knowledge
    ```

    Args:
        student: a `keras.Model` with one output, `(batch, ..., classes)`.
        teacher: a `keras.Model` with the same output, or its outputs for `x`: `SoftTargets` or an array.
        x: the batch, arrays as in `predict`.
        y: labels, whole numbers `(batch, ...)` or `(batch, ..., 1)`, or one-hot `(batch, ..., classes)`.
        temperature: the temperature of `KnowledgeDistillation`.
        from_logits: whether outputs are logits. Otherwise probabilities. `"auto"`: read from the last layer of each
            model, else from the loss with which it is compiled, else logits; an array is of the student's form. The
            gradient is always that of the logits.
        batch_size: as in `keras.Model.predict`.

    Returns:
        A `GradientDecomposition`.

    Raises:
        TypeError: the student is not a `keras.Model`.
        ValueError: the student has several outputs or one class, the teacher's outputs have another shape, the labels
            do not fit, `SoftTargets` belong to other data or to another `from_logits`, a model ends in a sigmoid or in
            a softmax over another axis, or `from_logits` contradicts the last layer of a model.

    Warns:
        UserWarning: with `"auto"` nothing tells whether the student gives logits.
    """
    checks.check_model("student", student)
    temperature = check_temperature(temperature)
    from_logits = check_from_logits(from_logits)
    if batch_size is not None:
        checks.check_count("batch_size", batch_size, below=2**31)
    models = [model for model in (student, teacher) if isinstance(model, keras.Model)]
    data = as_data(x, batch_size=batch_size, models=models)
    if data.yields_batches:
        raise TypeError(
            f"`x` must be arrays, received a {data.kind}: {short(x)}. Take the arrays out of its batches, and pass `x` "
            "and `y`."
        )
    outputs = _predict(student, data)
    if keras.tree.is_nested(outputs) or outputs.shape[-1] == 1:
        shapes = keras.tree.map_structure(np.shape, outputs)
        raise ValueError(f"This is for one output `(batch, ..., classes)` of a softmax, the student gives: {shapes}.")
    if isinstance(teacher, SoftTargets):
        teacher.check(data.x)
    student_form, teacher_form = _forms(student, teacher, temperature, from_logits)
    if isinstance(teacher, keras.Model):
        soft_targets = _predict(teacher, data)
    elif isinstance(teacher, SoftTargets):
        soft_targets = teacher.to_dense()
    else:
        soft_targets = _array("teacher", teacher)
    if np.shape(soft_targets) != outputs.shape:
        shapes = f"shape {np.shape(soft_targets)}, the student's {outputs.shape}"
        raise ValueError(f"The teacher's outputs have {shapes}: they must be equal.")
    is_target = _one_hot(_array("y", y), outputs.shape)
    q, p = _softened(outputs, temperature, student_form), _softened(soft_targets, temperature, teacher_form)
    gradient = temperature * (q - p)
    return GradientDecomposition(gradient[is_target].reshape(outputs.shape[:-1]), np.where(is_target, 0.0, gradient))


def _forms(student, teacher, temperature, from_logits):
    """Return whether student and teacher give logits, as a Distiller reads them."""
    stored = teacher.from_logits if isinstance(teacher, SoftTargets) else None
    if stored is not None and from_logits not in (AUTO, stored):
        raise ValueError(
            f"The teacher gave {logits_or_probabilities(stored)}, but from_logits={from_logits}: leave `from_logits` "
            "out, and what each of them gives is read."
        )
    # The compiled loss tells what outputs mean, and is not trained.
    label_loss = getattr(student, "loss", None) if from_logits == AUTO else None
    models = student, teacher if isinstance(teacher, keras.Model) else None
    read = Outputs(KnowledgeDistillation(temperature, from_logits), label_loss, *models, False, stored)
    read.check()
    (resolved,), (output,) = read.resolved, read.outputs
    if output.meaning.activation not in (None, "softmax"):
        raise ValueError(
            f"This is for classifiers with a softmax, and the student is compiled with {label_loss!r}. Pass "
            "`from_logits` if that does not tell what it is."
        )
    if resolved.axis is not None:
        raise ValueError(
            f"This is for a softmax over the last axis, the student's is over axis={resolved.axis}. Move the classes "
            "to the last axis (`keras.layers.Permute`)."
        )
    return resolved.outputs.from_logits, resolved.given


def _array(name, value):
    try:
        array = as_array(value)
    except Exception as error:
        raise ValueError(f"`{name}` is no array: {error}") from error
    check_numbers(name, array)
    return array


def _predict(model, data):
    try:
        with backend.keeping_values(model):
            return predict(model, data, data.batch_size)
    except Exception:
        trial.check_fits(model, data_in_steps(model, data).first_batch()[0])
        raise


def _one_hot(labels, shape):
    """Return whether a class is the true one, `(batch, ..., classes)`."""
    classes = shape[-1]
    if labels.size == 0:
        raise ValueError("`y` holds no labels.")
    if labels.shape == shape:
        labels = labels.argmax(axis=-1)
    if labels.shape == (*shape[:-1], 1):
        labels = labels[..., 0]
    if labels.shape != shape[:-1] or not ((labels >= 0) & (labels < classes) & (labels == np.floor(labels))).all():
        raise ValueError(
            f"`y` must hold whole numbers in [0, {classes - 1}] of shape {shape[:-1]} or {(*shape[:-1], 1)}, or be "
            f"one-hot of shape {shape}, received shape {labels.shape} with values from {labels.min()} to "
            f"{labels.max()}."
        )
    return labels[..., None] == np.arange(classes)


def _softened(outputs, temperature, from_logits):
    logits = np.asarray(outputs, "float64") if from_logits else log_of_probabilities(outputs)
    return softmax(logits / temperature)


def _share(part, other):
    with np.errstate(invalid="ignore"):
        return part / np.asarray(part + other)
