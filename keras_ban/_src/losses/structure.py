"""Pairs nested outputs with values for them, by name or by position."""

import collections

import keras


def for_each_output(values, outputs, names=None):
    """Return values for outputs as a list in the order of the flat outputs.

    Args:
        values: one value for all outputs, or dicts, lists and tuples of values, as in `compile`. A value in a dict or
            list is for all outputs that are nested in its place. A missing value in a dict is `None`. A list may also
            hold the values in the order of the flat outputs.
        outputs: the model's outputs, tensors in dicts, lists and tuples.
        names: the names of the flat outputs, if `outputs` is not a dict.
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
    flat = _flat(values, outputs, for_each_output)
    if len(flat) != count:
        raise ValueError(f"The model has {count} outputs, but {len(flat)} values came: {values}.")
    return flat


def targets_of(soft_targets, outputs):
    """Return the soft targets of outputs as a list in the order of the flat outputs.

    Dicts are paired by their keys, in any order. The teacher's dict may hold more. The soft targets of an output that
    the teacher lacks are `None`.
    """
    count = len(keras.tree.flatten(outputs))
    if soft_targets is None:
        return [None] * count
    if isinstance(outputs, dict) != isinstance(soft_targets, dict):
        raise ValueError(
            "Student and teacher must both give dicts of outputs, or neither. The student gives: "
            f"{_shapes(outputs)}, the teacher: {_shapes(soft_targets)}."
        )
    flat = _flat(soft_targets, outputs, targets_of)
    if len(flat) != count:
        raise ValueError(
            f"The student gives {count} outputs, the teacher {len(flat)}: they must give equally many. Only a dict of "
            "the teacher's outputs may hold more."
        )
    return flat


def _flat(values, outputs, function):
    """Flatten values by `function(value, output)` for each output in a dict or list. A dict needs a dict of outputs."""
    if isinstance(values, dict):
        pairs = [(values.get(key), outputs[key]) for key in in_order(outputs)]
    elif all(isinstance(each, (list, tuple)) for each in (values, outputs)) and len(values) == len(outputs):
        pairs = zip(values, outputs, strict=True)
    else:
        return keras.tree.flatten(values)
    return [value for pair in pairs for value in function(*pair)]


def in_order(values):
    """Return the keys of a dict in the order in which Keras flattens it: sorted, or that of an `OrderedDict`."""
    return list(values) if isinstance(values, collections.OrderedDict) else sorted(values)


def weights_of_losses(loss_weights, loss):
    """Return `loss_weights` in the structure of the losses, if Keras pairs the two by their order.

    It does so for a list of weights and a dict of losses. One weight in a dict, under any name, is the weight of the
    only loss.
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
