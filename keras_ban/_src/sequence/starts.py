"""The models of a sequence before training: created, and checked with each other and with the data."""

import keras

from keras_ban._src import backend, checks
from keras_ban._src.backend import process_group
from keras_ban._src.data import trial
from keras_ban._src.data.batch import split_targets
from keras_ban._src.data.preprocessing import data_in_steps
from keras_ban._src.distillation.requirements import NO_HOOK, check_loss_weights, check_own_loss
from keras_ban._src.distillation.teacher import Teaching
from keras_ban._src.distillation.weights_trial import check_weights_act
from keras_ban._src.ensemble.ensemble import EnsembleModel, average_of
from keras_ban._src.history.scores import ENSEMBLE
from keras_ban._src.sequence import initial_weights
from keras_ban._src.sequence.clones import reborn
from keras_ban._src.sequence.output_checks import check_outputs, meaning_of, outputs_of
from keras_ban._src.sequence.per_generation import use_labels, use_teachers
from keras_ban._src.sequence.shared_layers import pair_layers

_NO_LABELS = (
    "The data brings no labels, which generation 0 and students with a label weight need: pass `y`, or a dataset "
    "that yields `(x, y)`; or a trained `teacher` and `label_weight=0`."
)


def create_starts(training):
    """Create the models before training, and check that they go with each other.

    Copies of one model are created later, because they are alike: there is only the first.
    """
    sequence, teacher, first, starts = training.sequence, training.teacher, training.first, training.starts
    if teacher is not None:
        starts[0] = _check_teacher(teacher)
    last = first if isinstance(sequence.model, keras.Model) else training.last
    for place in range(first, last + 1):
        keras.utils.set_random_seed(training.seed(place))
        starts[place] = initial_weights.new_model(sequence, place)
    if len({id(model) for model in starts.values()}) < len(starts):
        raise ValueError(
            "`build` gave the same model for two generations, or the teacher itself: the later would train the "
            "weights of the earlier. It must return a new model each time it is called."
        )
    for place in range(1, last + 1):
        training.distiller(starts[place], starts[place - 1], training.label_weight(place))
    if last == 0:
        # Raise the errors of a student before generation 0 is trained.
        training.distiller(reborn(starts[0]), starts[0], training.label_weight(1))
    initial_weights.check_starts(sequence, starts, teacher)
    check_outputs(training)
    for output in getattr(training.example, "outputs", None) or []:
        if sequence.top_k is not None and sequence.top_k > output.shape[-1]:
            raise ValueError(
                f"`top_k` must be at most the number of classes, the last axis of the models' outputs. Received "
                f"top_k={sequence.top_k}; the outputs have shape {tuple(output.shape)}."
            )
    if sequence.teach_from == ENSEMBLE or sequence.distill_ensemble:
        average_of(starts.values(), meaning_of(sequence, training.compile_arguments, training.example))
    if sequence.shared_layers is not None:
        for student in [starts[place] for place in starts if place > 0] or [starts[0]]:
            pair_layers(student, starts[0], sequence.shared_layers)


def _check_teacher(teacher):
    """Return the teacher that was passed to `fit`. Raise an error if it is no trained model."""
    if not isinstance(teacher, keras.layers.Layer) and callable(teacher):
        raise TypeError(
            f"`teacher` must be a `keras.Model`, received: {teacher!r} (of type {type(teacher).__name__}), because it "
            "becomes generation 0. To learn from any function of a batch, train one student by "
            "`SoftTargets.from_teacher(function, x)` and `Distiller.fit(x, y, soft_targets=...)`, and pass that "
            "student as `teacher`."
        )
    checks.check_model("teacher", teacher)
    if not teacher.built:
        raise ValueError("`teacher` has no weights yet: it must be a trained model.")
    return teacher


def check_fit_data(training):
    """Raise an error, before training, if the models do not fit the training data or the validation data."""
    starts, validation_data = training.starts, training.options["validation_data"]
    process_group.check_whole(starts.values())
    # Once for each model. A preprocessor may make labels.
    in_steps = {place: data_in_steps(model, training.data) for place, model in starts.items()}
    _check_labels(training, in_steps[0])
    model, batch = starts[training.first], None
    arguments = training.compile_arguments.make()
    check_loss_weights(arguments.get("loss_weights"), training.compile_arguments.loss, model)
    _compile(model, arguments)
    if model.built:  # Otherwise the data build it.
        batch = in_steps[training.first].first_batch()
        if split_targets(batch[1])[1] is not None:
            raise ValueError(
                "`y` brings soft targets, but a sequence computes them itself: pass only the labels, or use a "
                "`Distiller`."
            )
        if batch[1] is None and _needs_labels(training):
            raise ValueError(_NO_LABELS)
        trial.check_fits(model, *batch)
        if training.teacher is not None:
            trial.check_fits(training.teacher, in_steps[0].first_batch()[0])
    trial.check_validation(model, data_in_steps(model, validation_data), batch)
    _check_values(training, in_steps)
    if training.unlabeled is not None and training.example.built:
        _check_labels_alone_count(training, in_steps[max(starts)])


def _compile(model, arguments):
    """Compile a model. Raise `ValueError` if its class has a `compile` that takes other arguments than Keras's."""
    try:
        model.compile(**arguments)
    except TypeError as error:
        if type(model).compile is keras.Model.compile:
            raise
        raise ValueError(
            f"The model {model.name!r} (of type {type(model).__name__}) has its own `compile`, which does not take the "
            f"arguments of `keras.Model.compile` that a sequence passes: {error}. {NO_HOOK}"
        ) from error


def _check_labels(training, data):
    """Raise `ValueError` if arrays lack labels that are needed, or their labels do not fit the loss."""
    compile_arguments, model = training.compile_arguments, training.starts[0]
    if compile_arguments.loss is None and training.teacher is None:
        check_own_loss(model, data)
    if data.lacks_labels and _needs_labels(training):
        raise ValueError(_NO_LABELS)
    if data.lacks_labels and compile_arguments.measures_labels:
        raise ValueError("`compile` got metrics, which are measured on labels, but the data brings none: pass `y`.")
    data.check_labels(compile_arguments.loss, model)


def _needs_labels(training):
    trains_on_labels = training.teacher is None or use_labels(training.sequence.label_weight)
    return training.compile_arguments.loss is not None and trains_on_labels


def _check_values(training, in_steps):
    """Raise `ValueError`, or warn, if models whose last layers are not known give other values than they should."""
    for place, model in training.starts.items() if use_teachers(training.sequence.label_weight) else ():
        outputs = outputs_of(training.sequence, training.compile_arguments, model)
        known = [each.output.student.meaning.from_logits for each in outputs.resolved]
        gives_more = outputs.are_those_of_label_losses
        if (model.built and None in known) or gives_more:
            x = keras.tree.map_structure(backend.as_tensor, in_steps[place].first_batch()[0])
            if not model.built:
                # Another one, because the data build this one when it is trained, with the seed of its generation.
                model = initial_weights.new_model(training.sequence, place)
                model(x, training=False)
            said = Teaching(model).outputs(x)
            outputs.check_soft_targets(said, said)


def _check_labels_alone_count(training, data):
    """Raise `ValueError` if metrics or losses of students would count the inputs without labels."""
    weights = [training.label_weight(place) for place in range(1, training.sequence.generations + 1)]
    label_weight = max(weights, key=lambda each: callable(each) or each > 0)
    distiller = training.distiller(reborn(training.example), training.example, label_weight)
    distiller.compile(**training.compile_arguments.make())
    check_weights_act(distiller, data)


def wrapped(compile_arguments, model):
    """Return a compiled model around this one, which itself is not compiled."""
    around = EnsembleModel([model], average="outputs")
    around.compile(**compile_arguments.make())
    return around
