"""Checks of what the models of a sequence give, made once, before generation 0 is trained."""

import warnings

from keras_ban._src.losses.knowledge_distillation import KnowledgeDistillation
from keras_ban._src.losses.outputs import Outputs
from keras_ban._src.sequence.per_generation import use_teachers
from keras_ban._src.targets import top_k_rows


def check_outputs(training):
    """Raise `ValueError` if losses and last layers contradict each other. Warn of what is assumed."""
    sequence, starts = training.sequence, training.starts
    meanings, doubts, seen = {}, [], set()
    for place in range(1, training.last + 1):
        student, teacher = (starts.get(each, training.example) for each in (place, place - 1))
        if training.label_weight(place) == 1 or (id(student), id(teacher)) in seen:
            continue
        seen.add((id(student), id(teacher)))
        outputs = outputs_of(sequence, training.compile_arguments, student, teacher)
        outputs.check_contradictions()
        doubts += outputs.doubts
        _check_same_outputs(outputs, place, teacher)
        meanings[place] = outputs.meanings
        if sequence.top_k is not None:
            for each in outputs.resolved:
                top_k_rows.check_loss(each.loss, each.axis)
    for text in dict.fromkeys(doubts):
        warnings.warn(text, stacklevel=4)
    places = [place for place in meanings if meanings[place] != meanings[min(meanings)]]
    if places:
        raise ValueError(
            f"Generation {places[0]} gives other outputs than generation {min(meanings)}: {meanings[places[0]]}, not "
            f"{meanings[min(meanings)]}. All generations are measured by one `loss`, so `build` must return models "
            "that end alike."
        )


def _check_same_outputs(outputs, place, teacher):
    """Raise `ValueError` if the teacher gives another form of outputs than the student, as one given to `fit` may."""
    for each in outputs.resolved:
        student, given = each.output.meaning.from_logits, each.output.teacher.meaning.from_logits
        if each.loss is not None and None not in (student, given) and student != given:
            kinds = ["logits" if form else "probabilities" for form in (given, student)]
            raise ValueError(
                f"The teacher of generation {place}, {teacher.name!r}, gives {kinds[0]}, and the student {kinds[1]}. "
                "All generations are measured and averaged by one `loss`: add a `keras.layers.Softmax` to a model that "
                "gives logits, take it away from the other, or use a `Distiller`, which converts the teacher's outputs."
            )


def outputs_of(sequence, compile_arguments, model, teacher=None):
    """Return the `Outputs` of a model of a sequence. Without a `teacher`, the model is its own."""
    label_loss = None if compile_arguments is None else compile_arguments.loss
    return Outputs(sequence.distillation_loss, label_loss, model, teacher or model)


def meaning_of(sequence, compile_arguments, model):
    """Return the `Meaning` of the outputs of a sequence's models: that of the distillation loss.

    If no student uses a teacher, it is that of the label loss, if there is one. `model` is one of the models.
    """
    outputs = outputs_of(sequence, compile_arguments, model)
    by_teacher = compile_arguments is None or use_teachers(sequence.label_weight)
    return outputs.meaning if by_teacher else outputs.meaning_of_labels


def gives_logits(sequence, compile_arguments, model):
    """Return whether a model of a sequence gives logits, according to the distillation loss, or `None`."""
    resolved = outputs_of(sequence, compile_arguments, model).resolved
    return resolved[0].outputs.from_logits if len(resolved) == 1 else None


def resolved_loss(sequence, compile_arguments, model):
    """Return the distillation loss as a run directory describes it: with what was read from losses and models.

    It is the loss as it was passed if the classes are not on the last axis, which no loss of this package says.
    """
    if not use_teachers(sequence.label_weight):
        return Outputs(sequence.distillation_loss or KnowledgeDistillation()).losses
    outputs = outputs_of(sequence, compile_arguments, model)
    return sequence.distillation_loss if any(each.axis is not None for each in outputs.resolved) else outputs.losses
