"""A Distiller's augmentation: made ready before training, applied in each step."""

import warnings

from keras_ban import _augmentation, _backend, _checks
from keras_ban._outputs import split_targets


def prepare_augmentation(distiller, x):
    """Let the augmentation make its variables, and see whether it can be compiled; return `x`."""
    augmentation = distiller.augmentation
    if augmentation is None or distiller._augmentation_is_ready:
        return x
    x, first_x, _ = _checks.first_examples(x)
    error = _augmentation.build(augmentation, first_x)
    if distiller._jit_wanted == "auto" and not distiller.run_eagerly:
        if error is None:
            _augmentation.allow_jit(distiller, augmentation)
        else:
            warnings.warn(
                f"JAX cannot compile `augmentation` ({type(error).__name__}): training runs uncompiled, which is "
                "slow. Keras's `RandomCrop` is such a layer; `RandomTranslation` does the same to padded images.",
                stacklevel=3,
            )
    distiller._augmentation_is_ready = True
    return x


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
        with _backend.reading(state, distiller.non_trainable_variables):
            return _augmentation.views(augmentation, x, view_seeds), state
    if split_targets(y)[1] is not None and distiller._hears_teacher:
        raise ValueError(
            "The batch brings soft targets of the examples as they are, but the Distiller augments them: the "
            "teacher must have seen what the student sees. Store them of views, `SoftTargets.from_teacher(..., "
            "augmentation=..., views=...)`, or let the teacher run at each step, without soft targets."
        )
    with _backend.reading(state, distiller.non_trainable_variables) as scope:
        x = _augmentation.augment(augmentation, x)
    return x, _backend.after(state, scope, distiller.non_trainable_variables)
