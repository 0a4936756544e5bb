"""The teacher's distribution, with what it says of the wrong classes destroyed."""

import keras
from keras import ops

from keras_ban._src import checks
from keras_ban._src.losses.base import SoftTargetLoss, kl_divergence


@keras.saving.register_keras_serializable(package="keras_ban")
class PermutedDarkKnowledge(SoftTargetLoss):
    """Distillation from a teacher whose dark knowledge is permuted (DKPP, BAN eq. 11 and 12).

    The teacher's largest output stays in place (the first of several equal ones). All others are permuted at random,
    for each example and token on its own, anew at each step. So the student learns how sure the teacher is, and not
    which wrong class is like which; the loss is that of `KnowledgeDistillation` otherwise, and `temperature=1` is the
    paper's. The paper trains on it alone, `Distiller(label_weight=0)`: what it gains, dark knowledge does not explain.

    The random numbers come from `seed_generator`, which moves on at each call. A `Distiller` works with a copy of the
    loss whose generator is part of the Distiller's state: it moves on in compiled steps too, and a `.keras` file or
    weights file continues it. On its own the loss works where it runs eagerly; in a compiled step of a model that does
    not hold the generator, JAX would draw the same permutation each time.

    Args:
        temperature: `T > 0`, dimensionless; or a callable of the training step, see `Distiller`.
        from_logits: whether outputs are logits; else probabilities, which count as at least 1e-30 each.
        seed: a whole number: the same seed gives the same permutations, in each `Distiller` anew. `None`: drawn when
            the loss is made, and again for each `Distiller`, as `keras.utils.set_random_seed` determines.
        reduction: as in `keras.losses.Loss`.
        name: as in `keras.losses.Loss`.

    Call args:
        y_true: soft targets, `(batch, ..., classes)`, or a dict with `"soft_targets"`.
        y_pred: the student's outputs, same shape.
        sample_weight: as in `keras.losses.Loss`.

    Raises:
        ValueError: `temperature` is not a positive, finite number, `seed` is no whole number, or the soft targets'
            shape is not the outputs'.
    """

    def __init__(
        self,
        temperature=1.0,
        from_logits=True,
        seed=None,
        reduction="sum_over_batch_size",
        name="permuted_dark_knowledge",
    ):
        super().__init__(temperature, from_logits, "softmax", reduction, name)
        self._seed = checks.check_seed(seed, below=2**31)
        self.seed_generator = keras.random.SeedGenerator(self._seed)

    @property
    def seed(self):
        return self._seed

    def compare(self, y_true, soft_targets, y_pred, temperature):
        teacher = permute_all_but_largest(self.logits(soft_targets, temperature), self.seed_generator)
        return temperature**2 * kl_divergence(teacher, self.logits(y_pred, temperature))

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


def permute_all_but_largest(values, seed):
    """Permute `values` over the last axis at random, each row on its own, with its largest value left in place.

    Args:
        values: tensor `(..., classes)`.
        seed: a `keras.random.SeedGenerator`.

    Returns:
        Tensor `(..., classes)`.
    """
    classes = values.shape[-1]
    places = ops.arange(classes, dtype="int32")
    largest = ops.expand_dims(ops.cast(ops.argmax(values, axis=-1), "int32"), -1)
    # Sorted by random numbers, the others are in random order, and the largest comes last.
    random = keras.random.uniform(ops.shape(values), seed=seed, dtype="float32")
    shuffled = ops.argsort(ops.where(places == largest, 2.0, random), axis=-1)
    # The place of each in a row that has all but the largest in their own order, and the largest last.
    rank = ops.where(places == largest, classes - 1, ops.where(places > largest, places - 1, places))
    source = ops.take_along_axis(ops.cast(shuffled, "int32"), rank, axis=-1)
    return ops.take_along_axis(values, source, axis=-1)
