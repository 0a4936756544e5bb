"""Copies of members that share layers."""

from keras_ban._src.data.model_inputs import shared_layers
from keras_ban._src.files import model_file


def separated(ensemble):
    """Return an ensemble whose members share no layers, which Keras could not load: itself, or a copy.

    Return any other model as it is.
    """
    if not shared_layers([ensemble]):
        return ensemble
    members = [model_file.copied(member) for member in ensemble.members]
    copy = type(ensemble)(**{**ensemble.get_config(), "members": members})
    config = ensemble.get_compile_config()
    if config:
        copy.compile_from_config(config)
    return copy
