"""What each generation has of its own: a number of epochs, a label weight, a teacher."""

import keras

from keras_ban._src import checks
from keras_ban._src.history.scores import ENSEMBLE
from keras_ban._src.losses.schedules import check_schedule, is_schedule


def check_epochs(epochs, generations, first, distill_ensemble):
    """Return the number of epochs of all generations, or a list, from the argument of `BornAgainSequence.fit`.

    The list has a number for each model that is trained, in order: generation 0 (unless a `teacher` is given), the
    students, and the student distilled from the ensemble. Equal numbers become one.

    `first` is the first generation that is trained: 0, or 1 with a `teacher`.

    Raises:
        ValueError: `epochs` is not a whole number of at least 1, a list of them, or a callable that returns them.
    """
    if callable(epochs):
        epochs = _called("epochs", epochs, first, generations + distill_ensemble)
    elif isinstance(epochs, (list, tuple)):
        count = generations + 1 - first
        if len(epochs) != count:
            numbering = "0 first" if first == 0 else "1 first, because the `teacher` is generation 0 and is not trained"
            raise ValueError(
                f"`epochs` must hold one number for each generation, generation {numbering}: with generations="
                f"{generations} that are {count}, received {len(epochs)}: {epochs!r}."
            )
        epochs = [*epochs, *epochs[-1:] * distill_ensemble]
    else:
        return checks.check_count("epochs", epochs)
    checked = _checked(epochs, first, lambda each: checks.check_count("epochs", each))
    return checked[0] if len(set(checked)) == 1 else checked


def longest(epochs):
    return max(epochs) if isinstance(epochs, list) else epochs


def check_label_weights(label_weight, generations):
    """Return a float or a schedule for all students, or a list with one for each."""
    if callable(label_weight) and not is_schedule(label_weight):
        label_weight = _called("label_weight", label_weight, 1, generations)
    if not isinstance(label_weight, (list, tuple)):
        return _check_label_weight(label_weight)
    if len(label_weight) != generations:
        raise ValueError(
            "`label_weight` must hold one number, or schedule, for each student, generation 1 first: with generations="
            f"{generations} that are {generations}, received {len(label_weight)}: {label_weight!r}."
        )
    return _checked(label_weight, 1, _check_label_weight)


def label_weight_at(label_weight, place):
    """Return the label weight of a student. The student distilled from the ensemble has that of the last generation."""
    return label_weight[min(place, len(label_weight)) - 1] if isinstance(label_weight, list) else label_weight


def use_teachers(label_weight):
    """Whether a student uses its teacher."""
    return any(each != 1 for each in keras.tree.flatten(label_weight))


def use_labels(label_weight):
    """Whether a student uses labels."""
    return any(each != 0 for each in keras.tree.flatten(label_weight))


def taught_by(teach_from, record):
    """The teacher of a generation: the number of the one before, `"ensemble"` for all before, or `None`.

    The ensemble of generation 0 alone is generation 0.
    """
    if record.generation == 0:
        return None
    of_all = (teach_from == ENSEMBLE or record.distilled) and record.generation > 1
    return ENSEMBLE if of_all else record.generation - 1


def compared_with(sequence, record):
    """The teacher that a generation is compared with, as `taught_by` gives it; `None` if it does not use one."""
    # After `patience`, the ensemble's student has a lower number than its place.
    place = sequence.generations + 1 if record.distilled else record.generation
    alone = label_weight_at(sequence.label_weight, place) == 1
    return None if alone else taught_by(sequence.teach_from, record)


def _check_label_weight(label_weight):
    if is_schedule(label_weight):
        return check_schedule("label_weight", checks.check_label_weight, label_weight)
    return checks.check_label_weight(label_weight)


def _called(name, function, first, last):
    """Return the values of a user's function for generations `first` to `last`."""
    try:
        return [function(generation) for generation in range(first, last + 1)]
    except Exception as error:
        if checks.is_raised_by_user(error):
            raise
        raise ValueError(
            f"`{name}` is callable, but {name}({first}), ..., {name}({last}) failed: {error!r}."
        ) from error


def _checked(values, first, check):
    """Return the values as `check` returns them. Its errors name the generation."""
    checked = []
    for generation, each in enumerate(values, start=first):
        try:
            checked.append(check(each))
        except ValueError as error:
            raise ValueError(f"Generation {generation}: {error}") from None
    return checked
