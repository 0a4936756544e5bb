"""Distillation without dark knowledge: the teacher's wrong classes are permuted."""

from typing import Any

import keras
from keras import ops

from keras_ban._src import checks, hints
from keras_ban._src.losses.base import SoftTargetLoss, kl_divergence


@keras.saving.register_keras_serializable(package="keras_ban")
class PermutedDarkKnowledge(SoftTargetLoss):
    """Distillation from a teacher whose dark knowledge is permuted (DKPP, BAN eq. 11 and 12).

    The teacher's largest output (the first of equal ones) stays in place. All others are permuted at random, separately
    for each example and token, and anew at each step. So the student learns how confident the teacher is, but not
    which wrong classes are similar. Otherwise the loss is `KnowledgeDistillation`. The paper uses `temperature=1` and
    trains on this loss alone, `Distiller(label_weight=0)`: dark knowledge does not explain what such students gain.

    The random numbers come from `seed_generator`, which advances at each call. A `Distiller` copies the loss, and holds
    the generator of the copy in its own state. So it advances in compiled steps, and `.keras` files and weight files
    continue it. Without a Distiller, use the loss eagerly: in a compiled step of a model that does not hold the
    generator, JAX draws the same permutation each time.

    Args:
        temperature: `T > 0`, dimensionless; or a schedule, see `Distiller`.
        from_logits: whether outputs are logits. Otherwise probabilities, each counted as at least 1e-30. `"auto"`: a
            `Distiller` reads it from the label loss and the last layers of student and teacher, which may differ.
            Without a Distiller, outputs count as logits.
        seed: a whole number. The same seed gives the same permutations in each `Distiller`. `None`: drawn when the
            loss is created, and again for each `Distiller`, from the seed of `keras.utils.set_random_seed`.
        reduction, name: as in `keras.losses.Loss`.

    Call args:
        y_true: soft targets, `(batch, ..., classes)`, or a dict with `"soft_targets"`.
        y_pred: the student's outputs, same shape.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not positive and finite, `seed` is not a whole number, or soft targets and outputs
            differ in shape.
    """

    labels_as = None
    settings = ("temperature", "from_logits", "seed")

    def __init__(
        self,
        temperature: hints.Scheduled = 1.0,
        from_logits: hints.FromLogits = "auto",
        seed: int | None = None,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "permuted_dark_knowledge",
    ) -> None:
        super().__init__(temperature, from_logits, "softmax", reduction, name)
        self.seed: int | None = checks.check_seed(seed, below=2**31)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def compare(self, y_true: dict[str, Any], y_pred: hints.Tensor, temperature: Any) -> hints.Tensor:
        teacher = permute_all_but_largest(self.logits(y_true["soft_targets"], temperature), self.seed_generator)
        return temperature**2 * kl_divergence(teacher, self.logits(y_pred, temperature))


def permute_all_but_largest(values, seed):
    """Permute `values` over the last axis at random, separately for each row. The largest value stays in place.

    Args:
        values: tensor `(..., classes)`.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        Tensor `(..., classes)`.
    """
    classes = values.shape[-1]
    places = ops.arange(classes, dtype="int32")
    largest = ops.expand_dims(ops.cast(ops.argmax(values, axis=-1), "int32"), -1)
    # Sorting by random numbers puts the other classes in random order, and the largest last.
    random = keras.random.uniform(ops.shape(values), seed=seed, dtype="float32")
    shuffled = ops.argsort(ops.where(places == largest, 2.0, random), axis=-1)
    # The position of each class if the largest is moved to the end of the row.
    rank = ops.where(places == largest, classes - 1, ops.where(places > largest, places - 1, places))
    source = ops.take_along_axis(ops.cast(shuffled, "int32"), rank, axis=-1)
    return ops.take_along_axis(values, source, axis=-1)
