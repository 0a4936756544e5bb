"""Whether a generation's soft targets are computed once, before it is trained, or its teacher runs at each step."""

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data.batch import inputs_for
from keras_ban._src.data.fingerprints import model_fingerprint
from keras_ban._src.data.symbols import output_spec
from keras_ban._src.targets import top_k_rows
from keras_ban._src.targets.computation import UnequalRows
from keras_ban._src.targets.soft_targets import SoftTargets

# Soft targets that would be larger than this are not kept in memory unless asked for.
_MOST_BYTES = 2**30


def soft_targets_for_training(sequence, teacher, runs, data, options, path=None):
    """What the teacher says of the training data; `None` where the teacher is to run at each step.

    Args:
        sequence: the `BornAgainSequence`, whose settings count.
        teacher: the model that teaches.
        runs: one of the same values that is run in its place; the teacher itself, for instance.
        data: the training data.
        options: the other arguments of `keras.Model.fit`, by name.
        path: of the file that the soft targets lie in; `None`: all is in memory.
    """
    if sequence.soft_targets == "online" or sequence.feature_matching is not None:
        return None
    if sequence.soft_targets == "auto" and sequence.views is None and not _worth_keeping(sequence, teacher, data, path):
        return None
    if path is not None and process_group.chiefs(path.exists(), "look for soft targets"):
        soft_targets = _read_again(path, sequence, teacher, data)
        # Where a worker finds them damaged, all of them compute them again.
        if process_group.gather(soft_targets is not None, "look at soft targets").all():
            return soft_targets
        with process_group.together("remove soft targets"):
            if process_group.is_chief():
                path.unlink()
    try:
        soft_targets = _compute(sequence, runs, data, options, path)
    except UnequalRows:
        if sequence.soft_targets == "auto":
            return None
        raise
    return soft_targets if path is None else _open(path)


def _compute(sequence, runs, data, options, path):
    return SoftTargets.from_teacher(
        runs,
        data,
        data.batch_size or 32,
        top_k=sequence.top_k,
        path=path,
        verbose=options["verbose"] in ("auto", 1),
        from_logits=getattr(sequence.distillation_loss, "from_logits", None),
        augmentation=sequence.augmentation,
        views=sequence.views,
    )


def _read_again(path, sequence, teacher, data):
    """Soft targets that an interrupted run left; `None` if they are not whole, or not this teacher's of these data.

    Those of datasets are computed again: to compare each example would be to read all of them.
    """
    if data.yields_batches:
        return None
    try:
        soft_targets = _open(path)
        soft_targets.check_content()
        soft_targets.check(data.x)
        soft_targets.check_augmentation(sequence.augmentation)
    except ValueError:
        return None
    own = (soft_targets.views, soft_targets.top_k) == (sequence.views, sequence.top_k)
    return soft_targets if own and soft_targets.teacher_fingerprint == model_fingerprint(teacher) else None


def _worth_keeping(sequence, teacher, data, path):
    """Whether the data are fixed, and what a teacher says of them is of one output and not too large."""
    if sequence.augmentation is not None:
        return False
    if not data.fixed:
        return False
    if data.yields_batches and backend.BACKEND == "torch" and process_group.count() > 1:
        return False  # There each worker's dataset brings a part of its own, and none knows the order of all.
    first_x = data.first_batch()[0]
    outputs = output_spec(teacher, inputs_for(teacher, first_x))
    # A teacher with one output: who has several is heard at each step.
    if keras.tree.is_nested(outputs) or keras.tree.is_nested(sequence.distillation_loss):
        return False
    count = data.number_of_batches() * outputs.shape[0] if data.yields_batches else len(data)
    bytes_of_x = count * sum(getattr(leaf[:1], "nbytes", 0) for leaf in keras.tree.flatten(first_x) if leaf is not None)
    most = _MOST_BYTES if path is None else max(_MOST_BYTES, bytes_of_x)
    classes, top_k = outputs.shape[-1], sequence.top_k
    bytes_of_row = 4 * classes if top_k is None else top_k_rows.row_dtype(classes, top_k, from_logits=True).itemsize
    return count * np.prod(outputs.shape[1:-1], dtype="int64") * bytes_of_row <= most


def _open(path):
    """Soft targets that lie on disk: read into memory, as without a directory, where they are not too large for it."""
    soft_targets = SoftTargets.load(path)
    return SoftTargets.load(path, mmap=False) if soft_targets.nbytes <= _MOST_BYTES else soft_targets
