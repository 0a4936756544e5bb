"""The parts of a batch: inputs, labels, soft targets, keys and weights. How soft targets are put into a batch."""

import keras
import numpy as np

# The name under which data without labels bring their sample weights.
WEIGHTS_ALONE = "weights_without_labels"
# The name under which a batch with unlabeled examples says which of them have labels.
IS_LABELED = "is_labeled_example"
# The name of a teacher's inputs, if they are preprocessed otherwise than the student's.
TEACHER_INPUTS = "teacher_inputs"
_MARKS = {"soft_targets", TEACHER_INPUTS, IS_LABELED}
_TARGETS = {"labels", "view_seeds", "teacher_features"} | _MARKS


def unpack(batch):
    """A batch `x`, `(x, y)` or `(x, y, sample_weight)` as `(x, y, sample_weight)`, with lists of texts as arrays."""
    batch = _with_text_arrays(batch)
    return keras.utils.unpack_x_y_sample_weight(tuple(batch) if isinstance(batch, list) else batch)


def _with_text_arrays(part):
    """Nested arrays, with lists of texts as arrays: a torch `DataLoader` collates texts to lists."""
    if isinstance(part, dict):
        return {name: _with_text_arrays(each) for name, each in part.items()}
    if type(part) not in (list, tuple):
        return part
    if part and all(isinstance(each, (str, bytes)) for each in part):
        return np.array(part)
    return type(part)(_with_text_arrays(each) for each in part)


def split_targets(y):
    """`y` as `(labels, soft targets)`, either of which may be `None`."""
    if _holds_targets(y):
        return y.get("labels"), y.get("soft_targets")
    return (None if isinstance(y, dict) and set(y) == {WEIGHTS_ALONE} else y), None


def is_labeled(y):
    """1 for each example of a batch that has a label, else 0, `(batch,)`; `None` if all of them have."""
    return y.get(IS_LABELED) if _holds_targets(y) else None


def _holds_targets(y):
    return isinstance(y, dict) and not _MARKS.isdisjoint(y) and set(y) <= _TARGETS


def with_labels(y, labels, **more):
    """`y` with other labels, and with more beside them."""
    rest = {name: value for name, value in y.items() if name != "labels"} if _holds_targets(y) else {}
    if not rest and not more:
        return labels
    return {**({} if labels is None else {"labels": labels}), **rest, **more}


def inputs_of_teacher(x, y):
    """The inputs of a batch's teacher: those of the student, unless they are preprocessed otherwise."""
    return y[TEACHER_INPUTS] if _holds_targets(y) and TEACHER_INPUTS in y else x


def add_soft_targets(y, soft_targets, view_seeds=None):
    """`y` with soft targets beside its labels."""
    return join_targets(split_targets(y)[0], soft_targets, view_seeds, labeled=is_labeled(y))


def join_targets(labels, soft_targets, view_seeds=None, teacher_features=None, labeled=None):
    """The reverse of `split_targets`, for data with soft targets or unlabeled examples.

    Args:
        labels: or `None`.
        soft_targets: as the teacher gives them.
        view_seeds: the seeds of the views, if they are of views.
        teacher_features: the features of the teacher's layers, if features are matched.
        labeled: 1 for each example with a label, else 0; `None` if all of them have.
    """
    y = {"labels": labels, "soft_targets": soft_targets}
    y |= {"view_seeds": view_seeds, "teacher_features": teacher_features, IS_LABELED: labeled}
    return {name: value for name, value in y.items() if value is not None}


def pack(x, y, sample_weight):
    """The reverse of `unpack`. Keras's own function drops the sample weights of data without labels.

    Those are passed as `y={WEIGHTS_ALONE: ...}`, where `weights_without_labels` finds them.
    """
    if y is None and sample_weight is not None:
        y, sample_weight = {WEIGHTS_ALONE: sample_weight}, None
    return keras.utils.pack_x_y_sample_weight(x, y, sample_weight)


def packed_again(batch):
    """A batch, packed by `pack`: Keras does not take `(x, None, sample_weight)` on TensorFlow."""
    return pack(*unpack(batch))


def weights_without_labels(y, sample_weight):
    """The sample weights of a batch, wherever `pack` put them."""
    return y[WEIGHTS_ALONE] if isinstance(y, dict) and set(y) == {WEIGHTS_ALONE} else sample_weight


def key_of(y):
    """The keys in a batch's `y`; `None` if it has none."""
    return y["key"] if isinstance(y, dict) and "key" in y and set(y) <= {"labels", "key"} else None


def key_of_batch(batch):
    """The keys of a batch; `None` if it has none."""
    is_batch = isinstance(batch, (list, tuple)) and 2 <= len(batch) <= 3
    return key_of(batch[1]) if is_batch else None


def without_key(y):
    """The labels of a batch's `y`."""
    return y if key_of(y) is None else y.get("labels")


def weights_of_labels(sample_weight):
    """The labels' part of sample weights in the structure of `y`."""
    labels, _ = split_targets(sample_weight)
    return keras.tree.flatten(sample_weight)[0] if labels is None else labels


def weights_like(weights, targets):
    """The same weights for each of nested targets."""
    if keras.tree.is_nested(weights):
        return weights if keras.tree.is_nested(targets) else keras.tree.flatten(weights)[0]
    return keras.tree.map_structure(lambda _: weights, targets)


def join_rows(batch, rows, view_seeds=None):
    """A batch `x`, `(x, y)` or `(x, y, sample_weight)` with soft targets beside its labels."""
    x, y, sample_weight = unpack(batch)
    if split_targets(y)[1] is not None:
        raise ValueError("The data bring soft targets already: `y` holds 'soft_targets'. Pair them with one set alone.")
    if key_of(y) is not None:
        raise ValueError(
            "The data bring keys, but the soft targets are kept by position. Compute them on data with keys, "
            "`SoftTargets.from_teacher(teacher, dataset)`, or leave 'key' out of `y`."
        )
    return pack(x, add_soft_targets(y, rows, view_seeds), sample_weight)


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
