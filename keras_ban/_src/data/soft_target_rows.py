"""Soft targets put into the batches of a dataset: by position, or by the key of each example."""

from keras_ban._src.data.batch import (
    add_soft_targets,
    join_targets,
    key_of,
    key_of_batch,
    split_targets,
    unpack,
    without_key,
)


def join(batch, rows, view_seeds=None):
    """A batch `x`, `(x, y)` or `(x, y, sample_weight)` with soft targets beside its labels."""
    x, y, sample_weight = unpack(batch)
    if split_targets(y)[1] is not None:
        raise ValueError("The data bring soft targets already: `y` holds 'soft_targets'. Pair them with one set alone.")
    if key_of(y) is not None:
        raise ValueError(
            "The data bring keys, but the soft targets are kept by position. Compute them on data with keys, "
            "`SoftTargets.from_teacher(teacher, dataset)`, or leave 'key' out of `y`."
        )
    y = add_soft_targets(y, rows, view_seeds)
    return (x, y) if sample_weight is None else (x, y, sample_weight)


class JoinByKey:
    """Puts the soft targets of its keys into a batch. A class, so that worker processes can receive it."""

    def __init__(self, soft_targets):
        # Made here, and not in each thread or forked process that asks for rows first.
        soft_targets.index_keys()
        self._soft_targets = soft_targets

    def __call__(self, batch):
        return self.put(batch, self.rows(self.key(batch)))

    def key(self, batch):
        key = key_of_batch(batch)
        if key is None:
            raise ValueError(
                "The soft targets are kept by key, so the dataset must give `y` as `{'labels': y, 'key': key}`: it "
                "gives no 'key'."
            )
        return key

    def rows(self, keys):
        return self._soft_targets.batch(self._soft_targets.rows_of(keys))

    def put(self, batch, rows):
        x, y, *weights = batch
        return (x, join_targets(without_key(y), rows), *weights)

    def check_spec(self, spec):
        """Raise before anything is read if a dataset's `element_spec` has no keys, or keys of another kind."""
        dtype = self.key(spec).dtype
        if not (dtype.is_integer or dtype.name == "string"):
            raise TypeError(f"A key must be a whole number or a text, received keys of dtype {dtype.name}.")
        self._soft_targets.check_kind("texts" if dtype.name == "string" else "whole numbers")
