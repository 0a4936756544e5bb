"""What the members of an ensemble give: logits or probabilities, of a softmax or of sigmoids."""

import warnings

import keras

from keras_ban._src.losses.base import AUTO, check_activation, check_from_logits
from keras_ban._src.losses.meaning import LINEAR, of_model
from keras_ban._src.losses.outputs import Outputs


def members_give(members, average, from_logits, activation):
    """Return `(from_logits, activation)` of an `EnsembleModel`, without "auto".

    Raises:
        ValueError: an argument is wrong, or "auto" finds members that differ, or cannot be averaged in this way.
    """
    from_logits = check_from_logits(from_logits)
    if activation != AUTO:
        check_activation(activation)
    if average != "outputs" and AUTO in (from_logits, activation):
        # By their last layers and their compiled losses.
        read = [Outputs(None, getattr(member, "loss", None), member) for member in members]
        found = [output.meaning for each in read for output in each.outputs]
        if from_logits == AUTO:
            from_logits = _form(found, average, activation)
        if activation == AUTO:
            activation = _activation(found, members, average, from_logits)
    from_logits = True if from_logits == AUTO else from_logits
    activation = "softmax" if activation == AUTO else activation
    _warn_of_other_outputs(members, average, from_logits, activation)
    return from_logits, activation


def _form(found, average, activation):
    """Return whether members give logits."""
    if activation == AUTO and LINEAR in {each.activation for each in found}:
        raise ValueError(
            f"A member is compiled with a loss of a regression, and `average={average!r}` is for classifiers. Use "
            "`average='outputs'`."
        )
    forms = {each.from_logits for each in found} - {None}
    if len(forms) > 1:
        raise ValueError(
            "Some members, or outputs, give logits and others probabilities, and they cannot be averaged with each "
            "other. Add a `keras.layers.Softmax` to those that give logits, take it away from the others, or use "
            "`average='outputs'` if each output is of one kind."
        )
    if not forms:
        warnings.warn(
            "`from_logits='auto'`: neither the last layer nor the compiled loss of a member tells what it gives. It is "
            "assumed to give logits. Pass `from_logits=True` if that is so, or else `from_logits=False`.",
            stacklevel=5,
        )
    return not forms or forms.pop()


def _activation(found, members, average, from_logits):
    """Return the activation from logits to probabilities."""
    activations = {each.activation for each in found} - {None, LINEAR}
    needs_activation = (average, from_logits) in (("probabilities", True), ("logits", False))
    if len(activations) > 1 and needs_activation:
        raise ValueError(
            "Some members, or outputs, are of a softmax and others of sigmoids. Pass `activation`, or use "
            "`average='outputs'`."
        )
    sizes = {
        output.shape[-1] for member in members for output in getattr(member, "outputs", None) or [] if output.shape
    }
    if not activations and 1 in sizes and needs_activation:
        raise ValueError(
            "Members give one number, and neither their last layers nor their compiled losses tell what it is. Use "
            "`activation='sigmoid'` for binary classifiers, or `average='outputs'` for regressions."
        )
    return sorted(activations)[0] if len(activations) == 1 else "softmax"


def _warn_of_other_outputs(members, average, from_logits, activation):
    """Warn if a member's last layer contradicts the arguments. No error, so that saved ensembles can be loaded."""
    if (average, from_logits) not in (("probabilities", True), ("logits", False)):
        return  # A weighted sum of any outputs.
    for layer in keras.tree.flatten([of_model(member) for member in members]):
        given = layer.meaning
        of_other_kind = (activation, given.activation) == ("softmax", "sigmoid")
        if given.from_logits is False and (from_logits or of_other_kind):
            warnings.warn(
                f"The ensemble takes {'logits' if from_logits else 'probabilities'} of a {activation}, but the last "
                f"layer of a member, {layer.name!r}, gives probabilities of a {given.activation}. Pass "
                f"`from_logits=False, activation={given.activation!r}`.",
                stacklevel=5,
            )
            return
