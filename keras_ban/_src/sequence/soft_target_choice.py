"""The choice between soft targets that are computed once before training, and a teacher that runs at each step."""

import keras
import numpy as np

from keras_ban._src.backend import process_group
from keras_ban._src.data.model_inputs import is_fingerprint_of
from keras_ban._src.data.preprocessing import inputs_in_steps, is_random
from keras_ban._src.data.trial import output_spec
from keras_ban._src.targets import top_k_rows
from keras_ban._src.targets.computation import UnequalRows
from keras_ban._src.targets.soft_targets import SoftTargets

# Larger soft targets are not kept in memory, except with `soft_targets="cached"`.
_MOST_BYTES = 2**30


def soft_targets_for_training(sequence, teacher, runs, data, options, path=None, from_logits=None):
    """Return the `SoftTargets` of the training data, or `None` if the teacher runs at each step.

    `runs` is the model to run: the teacher, or one with the same values. `options` are the other arguments of
    `keras.Model.fit`. With a `path`, soft targets are stored in this file, otherwise in memory. `from_logits` is as in
    `SoftTargets.from_teacher`.
    """
    if sequence.soft_targets == "online" or sequence.feature_matching is not None:
        return None
    if (
        sequence.soft_targets == "auto"
        and sequence.views is None
        and not _worth_keeping(sequence, teacher, data, options, path)
    ):
        return None
    if path is not None and process_group.chiefs(path.exists(), "look for soft targets"):
        soft_targets = _read_again(path, sequence, teacher, data)
        # If they are damaged for one worker, all workers compute them again.
        if process_group.gather(soft_targets is not None, "look at soft targets").all():
            return soft_targets
        with process_group.together("remove soft targets"):
            if process_group.is_chief():
                path.unlink()
    settings = {"top_k": sequence.top_k, "augmentation": sequence.augmentation, "views": sequence.views}
    settings |= {"from_logits": from_logits, "path": path, "verbose": options["verbose"] in ("auto", 1)}
    try:
        soft_targets = SoftTargets.from_teacher(runs, data, data.batch_size or 32, **settings)
    except UnequalRows:
        if sequence.soft_targets == "auto":
            return None
        raise
    return soft_targets if path is None else _open(path)


def _read_again(path, sequence, teacher, data):
    """Return the soft targets of an interrupted run, or `None` if they are damaged or of another teacher or data.

    Those of datasets are computed again, because a comparison of all examples would read them, too.
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
    return soft_targets if own and is_fingerprint_of(soft_targets.teacher_fingerprint, teacher) else None


def _worth_keeping(sequence, teacher, data, options, path):
    """Whether the data are fixed, and the soft targets are of one output and not too large."""
    if sequence.augmentation is not None or not data.fixed:
        return False
    if data.yields_batches and options.get("class_weight") is not None:
        return False  # Keras weighs the classes of a dataset only if it is trained on as it is.
    if data.yields_batches and process_group.divides_in_step():
        return False  # Each worker's dataset brings its own part, and no worker knows the order of all examples.
    if is_random(teacher, data):
        return False
    first_x = data.first_batch()[0]
    outputs = output_spec(teacher, inputs_in_steps(teacher, first_x))
    if keras.tree.is_nested(outputs) or keras.tree.is_nested(sequence.distillation_loss):
        return False
    count = data.number_of_batches() * outputs.shape[0] if data.yields_batches else len(data)
    bytes_of_x = count * sum(getattr(leaf[:1], "nbytes", 0) for leaf in keras.tree.flatten(first_x) if leaf is not None)
    most = _MOST_BYTES if path is None else max(_MOST_BYTES, bytes_of_x)
    classes, top_k = outputs.shape[-1], sequence.top_k
    bytes_of_row = 4 * classes if top_k is None else top_k_rows.row_dtype(classes, top_k, from_logits=True).itemsize
    return count * np.prod(outputs.shape[1:-1], dtype="int64") * bytes_of_row <= most


def _open(path):
    """Load soft targets from disk, into memory if they are not too large."""
    soft_targets = SoftTargets.load(path)
    return SoftTargets.load(path, mmap=False) if soft_targets.nbytes <= _MOST_BYTES else soft_targets
