"""Checks of the arguments of a `Distiller`."""

import warnings

import keras

from keras_ban._src import backend
from keras_ban._src.data.labels import is_sparse_crossentropy
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.data.model_outputs import known_names, names_with_loss, outputs_of
from keras_ban._src.distillation.feature_matching import FeatureMatching
from keras_ban._src.distillation.step import NO_EVALUATION, NO_FEATURES, has_own_label_loss
from keras_ban._src.losses.structure import weights_of_losses
from keras_ban._src.targets import augmented_views, label_mix


def check_independent(student, teacher):
    if student is teacher:
        raise ValueError("`student` and `teacher` are the same model. For a new student use `keras_ban.reborn`.")
    trained = {id(v) for v in student.trainable_variables}
    shared = [v.path for v in teacher.variables if id(v) in trained]
    # A layer that is trained may also change variables without gradients, as BatchNorm does. `Normalization` and others
    # with an `adapt` do so only there.
    teacher_layers = {id(layer) for layer in backend.flat_layers(teacher)}
    layers = [layer for layer in backend.flat_layers(student) if id(layer) in teacher_layers]
    shared += [f"{layer.name} (layer)" for layer in layers if _is_changed_in_training(layer)]
    if shared:
        raise ValueError(
            f"`student` and `teacher` share weights that would be trained, and the teacher must not change: {shared}. "
            "Freeze the shared layers, or use `keras_ban.reborn(teacher)`."
        )


def _is_changed_in_training(layer):
    return layer.trainable and layer.variables and not hasattr(layer, "adapt")


def check_augmentation(augmentation, teacher, distillation_loss):
    """Return the augmentation, several layers as one. Raise an error if it is not supported.

    `distillation_loss` is `None` if there is none.
    """
    augmentation = augmented_views.check_augmentation(augmentation)
    teacher_variables = {id(v) for v in getattr(teacher, "variables", [])}
    if any(id(weight) in teacher_variables for weight in augmentation.weights):
        raise ValueError("`augmentation` and `teacher` share weights, and the teacher must not change.")
    losses = keras.tree.flatten(distillation_loss)
    for loss in losses if label_mix.mixes(augmentation) else []:
        if getattr(loss, "labels_as", None) == "class":
            raise ValueError(
                f"`{type(loss).__name__}` is about the one true class of an example, and `augmentation` mixes examples "
                "of several. Use `keras_ban.losses.KnowledgeDistillation`, or layers that do not mix."
            )
    return augmentation


def check_label_loss(loss, label_weight, augmentation):
    """Raise `ValueError` if there is no label loss although labels have a weight, or it cannot take mixed labels.

    With `label_weight=1`, a student may train by `add_loss` alone. See `check_own_loss`.
    """
    if loss is None and (callable(label_weight) or label_weight not in (0, 1)):
        raise ValueError(
            f"`compile` needs a `loss` for the labels, whose weight is label_weight={label_weight}. Pass one, or train "
            "on the teacher and the student's own `add_loss` terms, with `Distiller(..., label_weight=0)`."
        )
    sparse = label_weight != 0 and any(is_sparse_crossentropy(each) for each in keras.tree.flatten(loss))
    if sparse and label_mix.mixes(augmentation):
        raise ValueError(
            "A sparse categorical crossentropy takes one class for each example, and `augmentation` mixes labels. Use "
            "`CategoricalCrossentropy`, and one-hot labels: `keras.utils.to_categorical(y, classes)`."
        )


def check_loss_weights(loss_weights, loss, student):
    """Raise `ValueError` if a dict of loss weights does not name the student's outputs, as far as they are known."""
    weights, outputs = weights_of_losses(loss_weights, loss), outputs_of(student)
    names = known_names(student, outputs)
    if outputs is None or not names or not isinstance(weights, dict):
        return
    if set(weights) - set(names) or set(names_with_loss(loss, names)) - set(weights):
        raise ValueError(
            f"`loss_weights` is a dict with the keys {list(weights)}, but the student's outputs are named {names}. Use "
            "the names of the outputs that have a loss."
        )


def check_own_loss(model, data):
    """Raise `ValueError` if a model that has no compiled loss does not call `add_loss` on the first batch either.

    Without any loss, Keras trains nothing on JAX, and raises an error in the first step on the other backends.
    """
    # A penalty alone is no aim: it was rather the loss that was forgotten.
    if len(_own_losses(model, data, True)) <= sum(each.regularizer is not None for each in model.trainable_variables):
        raise ValueError(
            f"There is nothing to train on: `compile` got no `loss`, and {model.name!r} (of type "
            f"{type(model).__name__}) does not call `add_loss`. Pass a `loss`."
        )


def check_validation_loss(model, validation_data):
    """Raise `ValueError` if validation has no loss: it would be 0 in all epochs, and callbacks would act on that."""
    if not _own_losses(model, validation_data, False):
        raise ValueError(NO_EVALUATION)


def _own_losses(model, data, training):
    """Return the `add_loss` terms and penalties of a model on the first batch."""
    x = keras.tree.map_structure(backend.as_tensor, inputs_for(model, data.first_batch()[0]))
    with backend.without_gradients():
        if not model.built:
            model(x, training=False)
        values = [(variable, variable.value) for variable in model.variables]
        with keras.StatelessScope(state_mapping=values, collect_losses=True):
            model(x, training=training)
            return model.losses


def check_feature_matching(feature_matching, teacher):
    if not isinstance(feature_matching, FeatureMatching):
        raise TypeError(
            "`feature_matching` must be `keras_ban.FeatureMatching({'student layer': 'teacher layer'})`, received: "
            f"{feature_matching!r} (of type {type(feature_matching).__name__})."
        )
    if teacher is None:
        raise ValueError(NO_FEATURES)


# The methods by which a model trains, measures and predicts a batch.
_STEPS = ("train_step", "test_step", "predict_step", "compute_loss", "compute_metrics", "get_metrics_result")


def own_steps(model):
    """Return the names of the steps that the class of a model defines for itself."""
    return [name for name in _STEPS if getattr(type(model), name) is not getattr(keras.Model, name)]


def metrics_of_call(model):
    """Return the metrics of a model itself. Its `call` may update them, if it has no steps of its own that do."""
    # Private, because `model.metrics` adds those of its own `compile`.
    return [] if own_steps(model) else list(getattr(model, "_metrics", []))


# The methods whose place `Distiller.compute_label_loss` takes.
_LOSS_STEPS = ("train_step", "test_step", "compute_loss")


# What to do about a student's own loss, with a Distiller and in a sequence.
HOOK = "For a loss of its own, override `Distiller.compute_label_loss` in a subclass."
NO_HOOK = (
    "A sequence has no hook for a loss of its own. Train the generations one by one instead, each with "
    "`keras_ban.reborn(model)`, `SoftTargets.from_teacher` and a subclass of `Distiller` that overrides "
    "`compute_label_loss`."
)


def warn_of_own_steps(student, distiller_class, hook=HOOK):
    """Warn of methods and metrics of a student that a Distiller of a class does not use. `hook` says what to do."""
    replaced = _LOSS_STEPS if has_own_label_loss(distiller_class) else ()
    names = [f"`{name}`" for name in own_steps(student) if name not in replaced]
    if names:
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        warnings.warn(
            f"The student, a {type(student).__name__}, has {listed} of its own, which no Distiller calls. Use the "
            f"compiled loss and metrics, or `add_loss`.{'' if replaced else f' {hook}'} After training, the student "
            "can use its own methods.",
            stacklevel=5,
        )
    dropped = [] if backend.CALLS_UPDATE_METRICS else [metric.name for metric in metrics_of_call(student)]
    if dropped:
        warnings.warn(
            f"The student, a {type(student).__name__}, has the metrics {dropped}. Keras on JAX cannot update metrics "
            "in `call`, so they are not reported.",
            stacklevel=5,
        )
