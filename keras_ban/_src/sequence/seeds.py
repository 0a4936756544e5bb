"""The seeds of a run, all derived from one number."""

import numpy as np

from keras_ban._src.backend import process_group


def entropy_of(run, seed, resume):
    """The number from which the seeds of the generations are derived: `seed`, that of the run, or a new one."""
    if run is None or run.manifest is None or (not resume and run.holds_nothing):
        drawn = process_group.chiefs(np.random.SeedSequence().entropy % 2**32, "agree on a seed")
        return int(drawn) if seed is None else seed
    if not resume:
        raise ValueError(
            f"{run.path} holds a run, and `resume=False` begins another, which would have to be written over it: "
            "choose a new directory."
        )
    return run.manifest["seed"] if seed is None else seed


def seed_at(entropy, *place):
    """Return the seed of a place: whole numbers, of which the last is not 0 if there are several.

    (`SeedSequence` does not tell `[entropy, 1]` from `[entropy, 1, 0]`.)
    """
    return int(np.random.SeedSequence([entropy, *place]).generate_state(1)[0])
