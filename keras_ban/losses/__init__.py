"""Distillation losses, as `keras.losses.Loss`.

A distillation loss compares a student's outputs with its teacher's on the same examples. Its `y_true` is
`{"labels": ..., "soft_targets": ...}`, or the soft targets alone if labels play no part. So sample weights, masks,
reductions and serialization are those of Keras.
"""

from keras_ban._src.losses.confidence_weighted import ConfidenceWeighted
from keras_ban._src.losses.decoupled import DecoupledKnowledgeDistillation
from keras_ban._src.losses.dist import DIST
from keras_ban._src.losses.knowledge_distillation import KnowledgeDistillation
from keras_ban._src.losses.permuted import PermutedDarkKnowledge

__all__ = [
    "DIST",
    "ConfidenceWeighted",
    "DecoupledKnowledgeDistillation",
    "KnowledgeDistillation",
    "PermutedDarkKnowledge",
]
