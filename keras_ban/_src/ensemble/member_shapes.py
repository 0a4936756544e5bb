"""What the members of an ensemble have in common: the shapes of their inputs and outputs."""

import keras
import numpy as np

from keras_ban._src.data import trial


def check_same_inputs(members):
    """Raise `ValueError` if members cannot take the same inputs, as far as that is known before they are called.

    Inputs of functional and Sequential models are known. A size of `None` goes with any. The members may take different
    entries of a dict.
    """
    known = [member for member in members if getattr(member, "inputs", None)]
    for other in known[1:]:
        first = known[0]
        shapes, others = _shapes(first), _shapes(other)
        if not (_fit(shapes, others) or _takes(first, other) or _takes(other, first)):
            raise ValueError(
                f"Members of an ensemble get the same inputs, but {first.name!r} takes inputs of the shape {shapes}, "
                f"and {other.name!r} of the shape {others}."
            )


def check_same_outputs(shapes):
    """Raise `ValueError` unless the nested shapes of the members' outputs are equal, except for unknown sizes."""
    for other in shapes[1:]:
        if not _could_be_equal(shapes[0], other):
            found = f"one gives {shapes[0]} and another {other}"
            raise ValueError(f"Members of an ensemble must give outputs of equal shapes, but {found}.")


def _could_be_equal(shapes, others):
    """Whether nested shapes are equal, except for unknown sizes (`None`)."""
    try:
        keras.tree.assert_same_structure(shapes, others)
    except (ValueError, TypeError):
        return False
    pairs = zip(keras.tree.flatten(shapes), keras.tree.flatten(others), strict=True)
    return all(None in pair or pair[0] == pair[1] for pair in pairs)


def _structure(model):
    """The symbolic inputs of a model: one tensor, or several in a list or dict."""
    inputs = model.inputs if isinstance(model, keras.Sequential) else model.input
    return inputs[0] if isinstance(inputs, (list, tuple)) and len(inputs) == 1 else inputs


def _shapes(model):
    # The batch size does not count: a model that was built by a batch has the size of that batch.
    return keras.tree.map_structure(lambda tensor: (None, *tensor.shape[1:]), _structure(model))


def _fit(shapes, others):
    """Whether inputs of both shapes can be the same."""
    if isinstance(shapes, dict) and isinstance(others, dict):
        return all(_fit(shapes[name], others[name]) for name in shapes if name in others)
    if isinstance(shapes, list) and isinstance(others, list):
        return len(shapes) == len(others) and all(map(_fit, shapes, others))
    if not (isinstance(shapes, tuple) and isinstance(others, tuple)):
        return True  # Keras pairs lists, dicts and tensors by name and place.
    longest = max(len(shapes), len(others))
    # Keras adds and removes a last axis of size 1.
    shapes, others = (each + (1,) * (len(each) == longest - 1) for each in (shapes, others))
    return len(shapes) == len(others) and all(
        None in pair or pair[0] == pair[1] for pair in zip(shapes, others, strict=True)
    )


def _takes(model, other):
    """Whether a Sequential model takes the inputs of another one. Its layers may take those of other sizes."""
    shapes, others = _shapes(model), _shapes(other)
    if not (isinstance(model, keras.Sequential) and isinstance(others, tuple) and len(shapes) == len(others)):
        return False
    sizes = [size or own or 1 for own, size in zip(shapes[1:], others[1:], strict=True)]
    try:
        trial.check_fits(model, np.zeros((1, *sizes), "float32" if "float" in model.inputs[0].dtype else "int32"))
    except ValueError:
        return False
    return True
