"""A Distiller's augmentation in a training step."""

from keras_ban._src import backend
from keras_ban._src.data.batch import split_targets
from keras_ban._src.targets import augmented_views, label_mix


def augment_batch(augmentation, batch, state, variables, hears_teacher, uses_labels):
    """Augment the inputs of a training step, at random or as the views whose seeds the batch brings.

    Args:
        augmentation: the layer, or `None`.
        batch: `(x, y, sample_weight)`.
        state: JAX's state; empty on other backends.
        variables: the non-trainable variables in that state.
        hears_teacher: whether there is a distillation loss.
        uses_labels: whether a loss uses the labels. Labels for metrics alone do not change.

    Returns:
        `(x, labels, state)`: what teacher and student see, the labels of that, and JAX's state after it.
    """
    x, y, sample_weight = batch
    labels, soft_targets = split_targets(y)
    view_seeds = y.get("view_seeds") if isinstance(y, dict) else None
    if augmentation is None:
        if view_seeds is not None:
            raise ValueError(
                "The batch brings soft targets of views, but the Distiller has no `augmentation` to make them."
            )
        return x, labels, state
    if view_seeds is not None:
        with backend.reading(state, variables):
            return augmented_views.views(augmentation, x, view_seeds), labels, state
    if soft_targets is not None and hears_teacher:
        raise ValueError(
            "The batch brings soft targets of the examples as they are, but the Distiller augments them: the "
            "teacher must have seen what the student sees. Store them of views, `SoftTargets.from_teacher(..., "
            "augmentation=..., views=...)`, or let the teacher run at each step, without soft targets."
        )
    if label_mix.mixes(augmentation):
        label_mix.check_batch(labels if uses_labels else None, sample_weight)
    with backend.reading(state, variables) as scope:
        x, mixed = augmented_views.augment(augmentation, x, labels if uses_labels else None)
    return x, mixed if uses_labels else labels, backend.after(state, scope, variables)
