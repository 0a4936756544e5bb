"""Checks of what the models of a sequence give, made once, before generation 0 is trained."""

import warnings

import keras

from keras_ban._src import backend
from keras_ban._src.data.preprocessing import data_in_steps
from keras_ban._src.distillation.teacher import Teaching
from keras_ban._src.losses.knowledge_distillation import KnowledgeDistillation
from keras_ban._src.losses.outputs import Outputs
from keras_ban._src.targets import top_k_rows


def check_outputs(sequence, compile_arguments, starts, label_weights):
    """Raise `ValueError` if losses and last layers contradict each other. Warn of what is assumed.

    Args:
        sequence: the `BornAgainSequence`.
        compile_arguments: its `CompileArguments`.
        starts: the models before training, by place. If generations are copies of one model, there is only the first.
        label_weights: those of places 1, 2, ... up to the last.
    """
    last = max(starts)
    losses = sequence.distillation_loss, compile_arguments.loss
    Outputs(*losses, starts[last], starts[last]).check_shapes()
    meanings, doubts, seen = {}, [], set()
    for place, label_weight in enumerate(label_weights, start=1):
        student, teacher = starts.get(place, starts[last]), starts.get(place - 1, starts[last])
        if label_weight == 1 or (id(student), id(teacher)) in seen:
            continue
        seen.add((id(student), id(teacher)))
        outputs = Outputs(*losses, student, teacher)
        outputs.check_contradictions()
        doubts += outputs.doubts
        _check_same_outputs(outputs, place, teacher)
        meanings[place] = outputs.meanings
        if sequence.top_k is not None:
            for each in outputs.resolved:
                top_k_rows.check_loss(each.loss, each.axis)
    for text in dict.fromkeys(doubts):
        warnings.warn(text, stacklevel=5)
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


def check_values(sequence, compile_arguments, starts, data):
    """Raise `ValueError`, or warn, if models whose last layers are not known give other values than they should.

    `data` are the training data, of which the models predict the first batch.
    """
    if all(each == 1 for each in keras.tree.flatten(sequence.label_weight)):
        return
    for model in starts.values():
        outputs = Outputs(sequence.distillation_loss, compile_arguments.loss, model, model)
        known = [each.output.student.meaning.from_logits for each in outputs.resolved]
        if model.built and None in known:
            x = keras.tree.map_structure(backend.as_tensor, data_in_steps(model, data).first_batch()[0])
            said = Teaching(model).outputs(x)
            outputs.check_soft_targets(said, said)


def meaning_of(sequence, compile_arguments, model):
    """Return the `Meaning` of the outputs of a sequence's models: that of the distillation loss.

    If no student uses a teacher, it is that of the label loss, if there is one. `model` is one of the models.
    """
    uses_teacher = any(each != 1 for each in keras.tree.flatten(sequence.label_weight))
    label_loss = None if compile_arguments is None else compile_arguments.loss
    outputs = Outputs(sequence.distillation_loss, label_loss, model, model)
    return outputs.meaning if uses_teacher or compile_arguments is None else outputs.meaning_of_labels


def gives_logits(sequence, compile_arguments, model):
    """Return whether a model of a sequence gives logits, according to the distillation loss, or `None`."""
    resolved = Outputs(sequence.distillation_loss, compile_arguments.loss, model, model).resolved
    return resolved[0].outputs.from_logits if len(resolved) == 1 else None


def resolved_loss(sequence, compile_arguments, starts):
    """Return the distillation loss as a run directory describes it: with what was read from losses and models.

    It is the loss as it was passed if the classes are not on the last axis, which no loss of this package says.
    """
    last = max(starts)
    outputs = Outputs(sequence.distillation_loss, compile_arguments.loss, starts[last], starts[last])
    if all(each == 1 for each in keras.tree.flatten(sequence.label_weight)):
        outputs = Outputs(sequence.distillation_loss or KnowledgeDistillation())
    elif any(each.axis is not None for each in outputs.resolved):
        return sequence.distillation_loss
    return outputs.losses
