"""Born-Again Neural Networks (Furlanello et al., ICML 2018) for Keras 3, on TensorFlow, JAX and torch."""

from keras_ban._src.command import command_line

# Importing Keras chooses its backend, so a command line is read first. `--help` needs no backend.
if command_line.is_running():
    command_line.start()

from keras_ban import losses
from keras_ban._src.distillation.decomposition import GradientDecomposition, gradient_decomposition
from keras_ban._src.distillation.distiller import Distiller
from keras_ban._src.distillation.feature_matching import FeatureMatching
from keras_ban._src.ensemble.ensemble import EnsembleModel
from keras_ban._src.export.export import export
from keras_ban._src.history.controls import ControlRecord, Controls
from keras_ban._src.history.history import BornAgainHistory, GenerationRecord
from keras_ban._src.losses.schedules import OverTraining
from keras_ban._src.sequence.clones import reborn
from keras_ban._src.sequence.sequence import BornAgainSequence
from keras_ban._src.sequence.shared_layers import share_layers
from keras_ban._src.targets.soft_targets import SoftTargets

__version__ = "0.1.0"

__all__ = [
    "BornAgainHistory",
    "BornAgainSequence",
    "ControlRecord",
    "Controls",
    "Distiller",
    "EnsembleModel",
    "FeatureMatching",
    "GenerationRecord",
    "GradientDecomposition",
    "OverTraining",
    "SoftTargets",
    "export",
    "gradient_decomposition",
    "losses",
    "reborn",
    "share_layers",
]
