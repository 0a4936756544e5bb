"""The models of a sequence before training: created, and checked before generation 0 is trained."""

import keras

from keras_ban._src.distillation.weights_trial import check_weights_act
from keras_ban._src.ensemble.ensemble import EnsembleModel, average_of
from keras_ban._src.history.scores import ENSEMBLE
from keras_ban._src.sequence import initial_weights
from keras_ban._src.sequence.clones import pair_layers, reborn
from keras_ban._src.sequence.output_checks import check_outputs, meaning_of
from keras_ban._src.sequence.seeds import seed_at
from keras_ban._src.sequence.students import distiller_for, label_weight_at
from keras_ban._src.sequence.teachers import check_teacher


def create_starts(sequence, compile_arguments, entropy, teacher):
    """Create and check the initial models by place. Copies of one model are created later: there is only the first.

    Args:
        sequence: the `BornAgainSequence` with the settings.
        compile_arguments: its `CompileArguments`.
        entropy: the number from which the seeds are derived.
        teacher: generation 0, if it was passed to `fit`, or `None`.
    """
    starts, first = {}, 0 if teacher is None else 1
    if teacher is not None:
        starts[0] = check_teacher(teacher)
    # The copies of a model are alike: the first one is checked for all.
    last = first if isinstance(sequence.model, keras.Model) else sequence.generations + sequence.distill_ensemble
    for place in range(first, last + 1):
        keras.utils.set_random_seed(seed_at(entropy, place))
        starts[place] = initial_weights.new_model(sequence, place)
    if len({id(model) for model in starts.values()}) < len(starts):
        raise ValueError(
            "`build` gave the same model for two generations, or the teacher itself: the later would train the "
            "weights of the earlier. It must return a new model each time it is called."
        )
    for place in range(1, last + 1):
        distiller_for(sequence, starts[place], starts[place - 1], label_weight_at(sequence, place))
    if last == 0:
        # Raise the errors of a student before generation 0 is trained.
        distiller_for(sequence, reborn(starts[0]), starts[0], label_weight_at(sequence, 1))
    initial_weights.check_starts(sequence, starts, teacher)
    places = range(1, sequence.generations + sequence.distill_ensemble + 1)
    weights = [label_weight_at(sequence, place) for place in places]
    check_outputs(sequence, compile_arguments, starts, weights)
    for output in getattr(starts[last], "outputs", None) or []:
        if sequence.top_k is not None and sequence.top_k > output.shape[-1]:
            raise ValueError(
                f"`top_k` must be at most the number of classes, the last axis of the models' outputs. Received "
                f"top_k={sequence.top_k}; the outputs have shape {tuple(output.shape)}."
            )
    if sequence.teach_from == ENSEMBLE or sequence.distill_ensemble:
        average_of(starts.values(), meaning_of(sequence, compile_arguments, starts[last]))
    if sequence.shared_layers is not None:
        for student in [starts[place] for place in starts if place > 0] or [starts[0]]:
            pair_layers(student, starts[0], sequence.shared_layers)
    return starts


def check_labels_alone_count(sequence, compile_arguments, starts, unlabeled, data):
    """Raise `ValueError` if metrics or losses of students would count the inputs without labels, if there are any."""
    model = starts[max(starts)]
    if unlabeled is not None and model.built:
        weights = [label_weight_at(sequence, place) for place in range(1, sequence.generations + 1)]
        heard = max(weights, key=lambda each: callable(each) or each > 0)
        distiller = distiller_for(sequence, reborn(model), model, heard)
        distiller.compile(**compile_arguments.make())
        check_weights_act(distiller, data)


def wrapped(compile_arguments, model):
    """Return a compiled model around this one, which itself is not compiled."""
    around = EnsembleModel([model], average="outputs")
    around.compile(**compile_arguments.make())
    return around
