"""The number of epochs of each generation.

`epochs` is a number for all generations, or a list. The list has a number for each model that is trained, in order:
generation 0 (unless a `teacher` is given), the students, and the student distilled from the ensemble.
"""

from keras_ban._src import checks


def check_epochs(epochs, generations, first, distill_ensemble):
    """Return `epochs` as above, from the argument of `BornAgainSequence.fit`. Equal numbers become one.

    `first` is the first generation that is trained: 0, or 1 with a `teacher`.

    Raises:
        ValueError: `epochs` is not a whole number of at least 1, a list of them, or a callable that returns them.
    """
    if callable(epochs):
        last = generations + distill_ensemble
        try:
            epochs = [epochs(generation) for generation in range(first, last + 1)]
        except Exception as error:
            if checks.is_raised_by_user(error):
                raise
            raise ValueError(
                f"`epochs` is callable, but epochs({first}), ..., epochs({last}) failed: {error!r}."
            ) from error
    elif isinstance(epochs, (list, tuple)):
        count = generations + 1 - first
        if len(epochs) != count:
            begin = "0 first" if first == 0 else "1 first, because the `teacher` is generation 0 and is not trained"
            raise ValueError(
                f"`epochs` must hold one number for each generation, generation {begin}: with generations="
                f"{generations} that are {count}, received {len(epochs)}: {epochs!r}."
            )
        epochs = [*epochs, *epochs[-1:] * distill_ensemble]
    else:
        return checks.check_count("epochs", epochs)
    checked = []
    for generation, each in enumerate(epochs, start=first):
        try:
            checked.append(checks.check_count("epochs", each))
        except ValueError as error:
            raise ValueError(f"Generation {generation}: {error}") from None
    return checked[0] if len(set(checked)) == 1 else checked


def longest(epochs):
    return max(epochs) if isinstance(epochs, list) else epochs


def epochs_at(epochs, place, first):
    """Return the number of epochs of the model at a place. `first` is as in `check_epochs`."""
    return epochs[place - first] if isinstance(epochs, list) else epochs
