"""The parts of a batch's `y`: labels, soft targets, keys."""

import keras

_TARGETS = {"labels", "soft_targets", "view_seeds", "teacher_features"}


def split_targets(y):
    """`y` as `(labels, soft targets)`, either of which may be `None`."""
    if isinstance(y, dict) and "soft_targets" in y and set(y) <= _TARGETS:
        return y.get("labels"), y["soft_targets"]
    return y, None


def join_targets(labels, soft_targets, view_seeds=None, teacher_features=None):
    """The reverse of `split_targets`, where there are soft targets.

    With the seeds of the views that they are of, or with the features of the teacher's layers that are matched.
    """
    y = {"labels": labels, "soft_targets": soft_targets}
    y |= {"view_seeds": view_seeds, "teacher_features": teacher_features}
    return {name: value for name, value in y.items() if value is not None}


def key_of(y):
    """The keys in a batch's `y`, `None` where there are none."""
    return y["key"] if isinstance(y, dict) and "key" in y and set(y) <= {"labels", "key"} else None


def without_key(y):
    """The labels of a batch's `y`."""
    return y if key_of(y) is None else y.get("labels")


def weights_like(weights, targets):
    """The same weights for each of nested targets."""
    if keras.tree.is_nested(weights):
        return weights if keras.tree.is_nested(targets) else keras.tree.flatten(weights)[0]
    return keras.tree.map_structure(lambda _: weights, targets)
