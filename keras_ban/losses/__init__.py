"""Distillation losses, as `keras.losses.Loss`.

A distillation loss compares a student's outputs with what its teacher said of the same examples. Its `y_true` is
`{"labels": ..., "soft_targets": ...}`, or the soft targets alone where labels play no part, so that sample weights,
masks, reductions and serialization are those of Keras.
"""

from keras_ban.losses._confidence_weighted import ConfidenceWeighted
from keras_ban.losses._decoupled import DecoupledKnowledgeDistillation
from keras_ban.losses._dist import DIST
from keras_ban.losses._knowledge_distillation import KnowledgeDistillation
from keras_ban.losses._permuted import PermutedDarkKnowledge

__all__ = [
    "DIST",
    "ConfidenceWeighted",
    "DecoupledKnowledgeDistillation",
    "KnowledgeDistillation",
    "PermutedDarkKnowledge",
]
