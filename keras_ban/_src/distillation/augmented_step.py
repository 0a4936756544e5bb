"""A Distiller's augmentation: made ready before training, applied in each step."""

import warnings

from keras_ban._src import backend
from keras_ban._src.data.batch import split_targets
from keras_ban._src.targets import augmented_views


def prepare_augmentation(distiller, data):
    """Let the augmentation make its variables, and see whether it can be compiled."""
    augmentation = distiller.augmentation
    if augmentation is None or distiller._augmentation_is_ready:
        return
    error = augmented_views.build(augmentation, data.first_batch()[0])
    if distiller._jit_wanted == "auto" and not distiller.run_eagerly:
        if error is None:
            augmented_views.allow_jit(distiller, augmentation)
        else:
            warnings.warn(
                f"JAX cannot compile `augmentation` ({type(error).__name__}): training runs uncompiled, which is "
                "slow. Keras's `RandomCrop` is such a layer; `RandomTranslation` does the same to padded images.",
                stacklevel=3,
            )
    distiller._augmentation_is_ready = True


def augment_batch(distiller, x, y, state):
    """What teacher and student are to see of `x` in a training step, and JAX's state after it."""
    augmentation = distiller.augmentation
    view_seeds = y.get("view_seeds") if isinstance(y, dict) else None
    if augmentation is None:
        if view_seeds is not None:
            raise ValueError(
                "The batch brings soft targets of views, but the Distiller has no `augmentation` to make them."
            )
        return x, state
    if view_seeds is not None:
        with backend.reading(state, distiller.non_trainable_variables):
            return augmented_views.views(augmentation, x, view_seeds), state
    if split_targets(y)[1] is not None and distiller._hears_teacher:
        raise ValueError(
            "The batch brings soft targets of the examples as they are, but the Distiller augments them: the "
            "teacher must have seen what the student sees. Store them of views, `SoftTargets.from_teacher(..., "
            "augmentation=..., views=...)`, or let the teacher run at each step, without soft targets."
        )
    with backend.reading(state, distiller.non_trainable_variables) as scope:
        x = augmented_views.augment(augmentation, x)
    return x, backend.after(state, scope, distiller.non_trainable_variables)
