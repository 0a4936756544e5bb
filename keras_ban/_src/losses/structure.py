"""What belongs to which output: nested outputs, and values for them, are paired by their names and places."""

import collections

import keras


def for_each_output(values, outputs, names=None):
    """`values`, one for all outputs or nested as `compile` allows, as a list in the order of the flat outputs.

    Args:
        values: a single value, which stands for all outputs; or dicts, lists and tuples of values. One value in a dict
            or list stands for all outputs that are nested in its place, and `None` for an output that a dict leaves
            out. A list also takes all outputs in their flat order.
        outputs: the model's outputs, tensors in dicts, lists and tuples.
        names: of the flat outputs, where the outputs themselves are no dict.

    Raises:
        ValueError: the values are for other outputs.
    """
    count = len(keras.tree.flatten(outputs))
    if not keras.tree.is_nested(values):
        return [values] * count
    if isinstance(values, dict):
        known = in_order(outputs) if isinstance(outputs, dict) else list(names or [None] * count)
        unknown = set(values) - set(known)
        if unknown:
            raise ValueError(f"There are no outputs of the names {sorted(unknown)}: the model's outputs are {known}.")
        if not isinstance(outputs, dict):
            return [values.get(name) for name in known]
        return [value for key in known for value in for_each_output(values.get(key), outputs[key])]
    if isinstance(outputs, (list, tuple)) and len(values) == len(outputs):
        return [value for pair in zip(values, outputs, strict=True) for value in for_each_output(*pair)]
    flat = keras.tree.flatten(values)
    if len(flat) != count:
        raise ValueError(f"The model has {count} outputs, but {len(flat)} values came: {values}.")
    return flat


def targets_of(soft_targets, outputs):
    """The soft targets of those outputs, as a list in the order of the flat outputs.

    Dicts are paired by their keys, in whatever order they come, and the teacher's may hold more. `None` stands for what
    the teacher lacks.

    Raises:
        ValueError: the two are nested in other ways.
    """
    count = len(keras.tree.flatten(outputs))
    if soft_targets is None:
        return [None] * count
    if isinstance(outputs, dict) and isinstance(soft_targets, dict):
        return [target for key in in_order(outputs) for target in targets_of(soft_targets.get(key), outputs[key])]
    if isinstance(outputs, dict) or isinstance(soft_targets, dict):
        raise ValueError(
            "Student and teacher must both give dicts of outputs, or neither, so that it is clear which belong "
            f"together. The student gives: {_shapes(outputs)}, the teacher: {_shapes(soft_targets)}."
        )
    both = (soft_targets, outputs)
    if all(isinstance(each, (list, tuple)) for each in both) and len(soft_targets) == len(outputs):
        return [target for pair in zip(*both, strict=True) for target in targets_of(*pair)]
    flat = keras.tree.flatten(soft_targets)
    if len(flat) != count:
        raise ValueError(
            f"The student gives {count} outputs, the teacher {len(flat)}: they must be the same. Where outputs are a "
            "dict, the teacher's may hold more than the student's."
        )
    return flat


def in_order(values):
    """The keys of a dict in the order in which Keras flattens it: sorted, but of an `OrderedDict` as they come."""
    return list(values) if isinstance(values, collections.OrderedDict) else sorted(values)


def weights_of_losses(loss_weights, loss):
    """`loss_weights` in the structure of the losses, where Keras pairs the two by their order.

    So it does with weights that are a list beside losses in a dict; and one weight in a dict, under whatever name, is
    the weight of the only loss.
    """
    if loss is None or not keras.tree.is_nested(loss_weights):
        return loss_weights
    flat, count = keras.tree.flatten(loss_weights), len(keras.tree.flatten(loss))
    if len(flat) == count == 1:
        return flat[0]
    by_order = isinstance(loss, dict) and not isinstance(loss_weights, dict) and len(flat) == count
    return keras.tree.pack_sequence_as(loss, flat) if by_order else loss_weights


def _shapes(outputs):
    return keras.tree.map_structure(lambda output: tuple(getattr(output, "shape", ())), outputs)
