"""A teacher run over data: over all of it to compute soft targets, or over a sample to verify them."""

import contextlib

import keras
import numpy as np

from keras_ban._src import backend
from keras_ban._src.backend import process_group
from keras_ban._src.data import trial
from keras_ban._src.data.bad_batches import with_examples
from keras_ban._src.data.fingerprints import example_form, example_keys
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.leaves import size_of, take
from keras_ban._src.data.preprocessing import check_repeatable, inputs_in_steps
from keras_ban._src.files import row_file
from keras_ban._src.targets import augmented_views, key_index, teacher_rows
from keras_ban._src.targets.stored_rows import COMPUTE_AGAIN

# After this many batches the workers wait for each other, so that none waits longer than the engine allows.
_BATCHES_APART = 64


class UnequalRows(ValueError):
    """The teacher's outputs differ in shape from batch to batch."""


class RowsInMemory(contextlib.nullcontext):
    """Collects rows as `row_file.RowWriter` writes them."""

    def __init__(self):
        super().__init__(self)
        self._rows, self._texts = [], []

    def append(self, rows, texts=None):
        self._rows.append(rows)
        self._texts.extend(texts or [])

    def texts(self):
        return self._texts

    def commit(self, keys, description):
        return np.concatenate(self._rows), keys, description, self._texts


def compute(teacher, data, batch_size, path, verbose, augmentation, views, **options):
    """Compute the rows of `SoftTargets.from_teacher`, whose arguments are checked.

    Returns:
        The arguments of `SoftTargets`; or `None` if there is a `path`, where they are written.
    """
    check_repeatable(teacher, data)
    batches, count = with_examples(data.batches(batch_size)), data.check_finite()
    if verbose:
        print("Computing soft targets", flush=True)  # As Keras prints "Epoch 1/3" above its bar.
    progress = keras.utils.Progbar(count, verbose=int(verbose), unit_name="batch")
    # If all workers write one file, each runs the teacher on its own batches.
    workers, this = (1, 0) if path is None else (process_group.count(), process_group.index())
    shared, keys = workers > 1, []
    with contextlib.ExitStack() as stack:
        if isinstance(teacher, keras.Model):
            stack.enter_context(backend.keeping_values(teacher))
        for number, (x_batch, key) in enumerate(batches):
            new_keys, texts, new_kind = teacher_rows.keys_of_batch(x_batch, key)
            is_own = number % workers == this
            if number == 0:
                kind = new_kind
                outputs_of = _prepare(teacher, augmentation, views, x_batch, new_keys, kind)
                # All workers start together, or none; see `row_file.RowWriter`.
                with process_group.together("run the teacher") if shared else contextlib.nullcontext():
                    outputs = _outputs(outputs_of, teacher, x_batch, new_keys)
                shape, form = outputs.shape[1:], example_form(x_batch)
                description = teacher_rows.describe(
                    teacher, outputs, form=form, augmentation=augmentation, views=views, kind=kind, **options
                )
                rows = stack.enter_context(_destination(path, description, shape))
            elif new_kind != kind:
                raise ValueError(f"Keys must be of one kind, but after {kind} the data brings {new_kind}.")
            elif is_own:
                outputs = _outputs(outputs_of, teacher, x_batch, new_keys)
                _check_shape(outputs, shape)
            if is_own:
                rows.append(teacher_rows.as_rows(outputs, description), texts)
            else:
                rows.skip(len(new_keys), texts)
            keys.append(new_keys)
            if shared and len(keys) % _BATCHES_APART == 0:
                process_group.wait_for_all("compute soft targets")
            progress.update(len(keys))
        if count is None:
            progress.update(len(keys), finalize=True)
        keys = np.concatenate(keys)
        if kind is not None:
            index = key_index.KeyIndex(lambda: [keys], len(keys))
            index.check_unique(rows.texts() if kind == "texts" else None, "row {}".format)
        return rows.commit(keys, description)


def _prepare(teacher, augmentation, views, x, keys, kind):
    """A function of a batch and its keys that gives the teacher's outputs."""
    if augmentation is not None:
        if kind is not None:
            raise ValueError("Soft targets of views are kept by position: leave 'key' out of `y`.")
        teacher_rows.build_augmentation(augmentation, views, inputs_in_steps(teacher, x), keys)
    return teacher_rows.look(teacher, augmentation, views)


def _destination(path, description, shape):
    if path is None:
        return RowsInMemory()
    row_shape = shape if description["top_k"] is None else shape[:-1]
    return row_file.RowWriter(path, teacher_rows.row_dtype(description), row_shape)


def _check_shape(outputs, shape):
    if outputs.shape[1:] != shape:
        raise UnequalRows(
            f"Soft targets need outputs of one shape, but the teacher's outputs on the data have the shapes {shape} "
            f"and {outputs.shape[1:]} for an example. Pad all batches to one length, or let the teacher run at each "
            "step, without soft targets."
        )


def _outputs(outputs_of, teacher, x_batch, keys):
    try:
        return outputs_of(x_batch, keys)
    except Exception:
        if isinstance(teacher, keras.Model):
            trial.check_fits(teacher, inputs_in_steps(teacher, x_batch))
        raise


def compute_again(teacher, x, wanted, stored, batch_size, augmentation):
    """The teacher's outputs on some of the examples, and the rows in which the soft targets hold them.

    Args:
        wanted: which examples, by their place in `x`, int64 `(sample,)`.
        stored: the `SoftTargets` of `x`.

    Returns:
        `(outputs (sample, ..., classes), rows (sample,))`.

    Raises:
        ValueError: `x` holds another number of examples.
    """
    found, rows, start = [], [], 0
    for x_batch, key in with_examples(as_data(x, batch_size=batch_size).batches(batch_size)):
        if stored.by_key and key is None:
            stored.check(x_batch)
        size = size_of(x_batch)
        here = wanted[(wanted >= start) & (wanted < start + size)] - start
        if len(here):
            found.append(take(x_batch, here))
            rows.append(stored.rows_of(key)[here] if stored.by_key else here + start)
        start += size
    if start != len(stored):
        raise ValueError(
            f"The soft targets hold {len(stored)} examples but `x` holds {start}: they must come from the same data. "
            f"{COMPUTE_AGAIN}"
        )
    x_sample = keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *found)
    if augmentation is not None:
        augmented_views.build(augmentation, inputs_in_steps(teacher, take(x_sample, slice(0, 1))))
    outputs_of, keys = teacher_rows.look(teacher, augmentation, stored.views), example_keys(x_sample, stored.hashes)
    parts = [slice(i, i + batch_size) for i in range(0, len(wanted), batch_size)]
    again = np.concatenate([outputs_of(take(x_sample, part), keys[part]) for part in parts])
    return again, np.concatenate(rows)
