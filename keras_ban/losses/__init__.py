"""Distillation losses, as `keras.losses.Loss`.

A distillation loss compares a student's outputs with its teacher's on the same examples. Its `y_true` is
`{"labels": ..., "soft_targets": ...}`, or the soft targets alone if labels play no part. So sample weights, masks,
reductions and serialization are those of Keras.
"""

from keras_ban._src.losses import (
    DIST,
    ConfidenceWeighted,
    DecoupledKnowledgeDistillation,
    KnowledgeDistillation,
    PermutedDarkKnowledge,
)

__all__ = [
    "DIST",
    "ConfidenceWeighted",
    "DecoupledKnowledgeDistillation",
    "KnowledgeDistillation",
    "PermutedDarkKnowledge",
]
