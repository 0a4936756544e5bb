"""Born-Again Neural Networks (Furlanello et al., ICML 2018) for Keras 3, on TensorFlow, JAX and torch."""

from keras_ban import losses
from keras_ban.cloning import reborn, share_layers
from keras_ban.decomposition import GradientDecomposition, gradient_decomposition
from keras_ban.distiller import Distiller
from keras_ban.ensemble import EnsembleModel
from keras_ban.exporting import export
from keras_ban.features import FeatureMatching
from keras_ban.history import BornAgainHistory, GenerationRecord
from keras_ban.sequence import BornAgainSequence
from keras_ban.targets import SoftTargets

__version__ = "0.1.0"

__all__ = [
    "BornAgainHistory",
    "BornAgainSequence",
    "Distiller",
    "EnsembleModel",
    "FeatureMatching",
    "GenerationRecord",
    "GradientDecomposition",
    "SoftTargets",
    "export",
    "gradient_decomposition",
    "losses",
    "reborn",
    "share_layers",
]
