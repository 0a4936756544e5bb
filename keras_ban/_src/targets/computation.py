"""Runs a teacher over the data: all of it, for soft targets, or a sample again, to hold soft targets against it."""

import contextlib

import keras
import numpy as np

from keras_ban._src import checks
from keras_ban._src.backend import process_group
from keras_ban._src.data import pairing, trial
from keras_ban._src.data.fingerprints import example_form, example_keys
from keras_ban._src.files import row_file
from keras_ban._src.targets import augmented_views, key_index, teacher_rows

COMPUTE_AGAIN = "Compute them again with `SoftTargets.from_teacher(teacher, x)`."

# After so many batches workers wait for each other, lest one be so far ahead that it does not believe in the others.
_BATCHES_APART = 64


def compute(teacher, x, batch_size, path, verbose, augmentation, views, top_k, dtype, from_logits):
    """What `SoftTargets.from_teacher` computes, of arguments that it has checked.

    Returns:
        Without a path `(rows, keys, description, path, texts)`; else nothing: it is in the file.
    """
    batches, count = pairing.batches_of(x, batch_size)
    progress = keras.utils.Progbar(count, verbose=int(verbose), unit_name="batch")
    done, keys, parts, texts, kind = 0, [], [], [], None
    # Of several workers each runs the teacher on its own batches, if there is one file for the rows of all.
    workers, this = (1, 0) if path is None else (process_group.count(), process_group.index())
    shared = workers > 1
    with contextlib.ExitStack() as stack:
        for x_batch, key in batches:
            new_keys, new_texts, new_kind = teacher_rows.keys_of_batch(x_batch, key)
            if done > 0 and new_kind != kind:
                raise ValueError(f"Keys must be of one kind, but after {kind} the data brings {new_kind}.")
            keys.append(new_keys)
            kind = new_kind
            if done == 0:
                if kind is not None and augmentation is not None:
                    raise ValueError("Soft targets of views are kept by position: leave 'key' out of `y`.")
                if augmentation is not None:
                    teacher_rows.build_augmentation(augmentation, views, x_batch, keys[0])
                outputs_of = teacher_rows.look(teacher, augmentation, views)
            if done == 0 or done % workers == this:
                # All of them begin together, or none; see `_storage.RowWriter`.
                with process_group.together("run the teacher") if shared and done == 0 else contextlib.nullcontext():
                    outputs = _outputs(outputs_of, teacher, x_batch, keys[-1])
            if done == 0:
                form = example_form(x_batch)
                description = teacher_rows.describe(
                    teacher, outputs, top_k, dtype, from_logits, form, augmentation, views
                )
                description["keyed"] = kind
                if path is not None:
                    row_shape = outputs.shape[1:] if top_k is None else outputs.shape[1:-1]
                    dtype_of_rows = teacher_rows.row_dtype(description)
                    writer = stack.enter_context(row_file.RowWriter(path, dtype_of_rows, row_shape))
            if done % workers != this:
                writer.skip(len(keys[-1]), new_texts)
            else:
                rows = teacher_rows.as_rows(outputs, description)
                if path is None:
                    parts.append(rows)
                    texts.extend(new_texts or [])
                else:
                    writer.append(rows, new_texts)
            done += 1
            if shared and done % _BATCHES_APART == 0:
                process_group.wait_for_all("compute soft targets")
            progress.update(done)
        if count is None:
            progress.update(done, finalize=True)
        keys = np.concatenate(keys)
        if kind is not None:
            of_rows = None if kind != "texts" else writer.texts() if path is not None else texts
            key_index.KeyIndex(lambda: [keys], len(keys)).check_unique(of_rows, "row {}".format)
        if path is not None:
            writer.commit(keys, description)
    if path is None:
        return np.concatenate(parts), keys, description, None, texts


def _outputs(outputs_of, teacher, x_batch, keys):
    try:
        return outputs_of(x_batch, keys)
    except Exception:
        trial.check_fits(teacher, x_batch)
        raise


def compute_again(teacher, x, wanted, targets, batch_size, augmentation):
    """The teacher's outputs on some of the examples, and the rows in which the soft targets hold them.

    Args:
        wanted: which examples, by their place in `x`, int64 `(sample,)`.
        targets: `SoftTargets` of `x`.

    Returns:
        `(outputs (sample, ..., classes), rows (sample,))`.

    Raises:
        ValueError: `x` holds another number of examples.
    """
    found, rows, start = [], [], 0
    for x_batch, key in pairing.batches_of(x, batch_size)[0]:
        if targets.by_key and key is None:
            targets.check(x_batch)
        size = pairing.size_of(x_batch)
        here = wanted[(wanted >= start) & (wanted < start + size)] - start
        if len(here):
            found.append(pairing.take(keras.tree.map_structure(checks.as_array, x_batch), here))
            rows.append(targets.rows_of(key)[here] if targets.by_key else here + start)
        start += size
    if start != len(targets):
        raise ValueError(
            f"The soft targets hold {len(targets)} examples but `x` holds {start}: they must come from the same data. "
            f"{COMPUTE_AGAIN}"
        )
    x_sample = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *found)
    if augmentation is not None:
        augmented_views.build(augmentation, pairing.take(x_sample, slice(0, 1)))
    outputs_of, keys = teacher_rows.look(teacher, augmentation, targets.views), example_keys(x_sample)
    parts = [slice(i, i + batch_size) for i in range(0, len(wanted), batch_size)]
    again = np.concatenate([outputs_of(pairing.take(x_sample, part), keys[part]) for part in parts])
    return again, np.concatenate(rows)
