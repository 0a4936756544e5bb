"""Soft targets and orders of examples inside a `tf.data` pipeline.

Imports TensorFlow, which may not be installed. Functions import this file when they have a `tf.data.Dataset`.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_ban._src.data.batch import join_rows
from keras_ban._src.data.leaves import leaves_of


def map_tf_dataset(dataset, join_by_key, like):
    """Add rows to a dataset of batches. Python finds them, because TensorFlow cannot read scattered rows of a file.

    `like` is rows as `join_by_key` finds them, from which dtypes and shapes are read.
    """
    like_flat = keras.tree.flatten(like)

    def paired(*batch):
        keys = join_by_key.key(batch)
        dtypes = [leaf.dtype for leaf in like_flat]
        found = tf.numpy_function(lambda values: keras.tree.flatten(join_by_key.rows(values)), [keys], dtypes)
        for leaf, array in zip(found, like_flat, strict=True):
            leaf.set_shape((keys.shape[0], *array.shape[1:]))
        return join_by_key.put(batch, keras.tree.pack_sequence_as(like, found))

    return dataset.map(paired, num_parallel_calls=tf.data.AUTOTUNE)


def pair_tf_dataset(dataset, soft_targets, batch_size):
    """Zip a dataset of batches with the rows of soft targets, in the same order."""
    records = soft_targets.records()
    if isinstance(records, tuple):
        path, offset, footer, dtype, row_shape = records
        count = int(np.prod(row_shape, dtype="int64"))
        files = tf.data.FixedLengthRecordDataset(str(path), dtype.itemsize * count, offset, footer)
        rows = files.batch(batch_size).map(lambda texts: _decode(texts, dtype, row_shape), tf.data.AUTOTUNE)
    else:
        fields = records if records.dtype.names is None else {name: records[name] for name in records.dtype.names}
        rows = tf.data.Dataset.from_tensor_slices(fields).batch(batch_size)
    # Without the empty batch at the end, a dataset with more batches than rows would be cut off silently.
    rows = rows.concatenate(rows.take(1).map(lambda batch: tf.nest.map_structure(lambda field: field[:0], batch)))

    def join_checked(batch, of_batch):
        first, second = leaves_of(batch)[0], leaves_of(of_batch)[0]
        message = "A batch of the dataset and its soft targets differ in size: they are not of the same data."
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(first)[0], tf.shape(second)[0], message)]):
            # No framework supports all unsigned types, which the classes of top-k rows have.
            of_batch = tf.nest.map_structure(
                lambda field: tf.cast(field, "int32") if field.dtype.is_integer else tf.identity(field), of_batch
            )
        return join_rows(batch, of_batch)

    paired = tf.data.Dataset.zip(dataset, rows).map(join_checked, num_parallel_calls=tf.data.AUTOTUNE)
    return paired.with_options(_divided_by_rows())


def _divided_by_rows():
    """Return options by which workers divide each batch. TensorFlow may otherwise divide files."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return options


def _decode(texts, dtype, row_shape):
    """Decode rows of a NumPy dtype from their bytes, `(batch,)` strings."""
    if dtype.names is None:
        return tf.reshape(tf.io.decode_raw(texts, dtype), (-1, *row_shape))
    count = int(np.prod(row_shape, dtype="int64"))
    octets = tf.reshape(tf.io.decode_raw(texts, tf.uint8), (-1, count, dtype.itemsize))
    fields = {}
    for name in dtype.names:
        field, start = dtype.fields[name][:2]
        base = field.base
        part = tf.reshape(octets[:, :, start : start + field.itemsize], (-1, count, *field.shape, base.itemsize))
        part = tf.bitcast(part if base.itemsize > 1 else part[..., 0], tf.as_dtype(base))
        fields[name] = tf.reshape(part, (-1, *row_shape, *field.shape))
    return fields


def tf_batches(data, order, batch_size):
    """Return arrays `(n, ...)`, in lists, tuples and dicts, as a `tf.data.Dataset` of batches.

    Each iteration calls `order`, in another thread, which returns indices `(n,)`.
    """

    def tensor(leaf):
        if leaf is None:
            return None
        return tf.convert_to_tensor(leaf, keras.config.floatx() if leaf.dtype.kind == "f" else None)

    # TensorFlow converts lists to tensors.
    data = keras.tree.map_structure(tensor, keras.tree.lists_to_tuples(data))
    size = len(tf.nest.flatten(data)[0])
    orders = tf.data.Dataset.from_generator(lambda: [order()], output_signature=tf.TensorSpec((size,), "int64"))
    starts = tf.data.Dataset.range(0, size, batch_size)
    rows = orders.flat_map(lambda whole: starts.map(lambda start: whole[start : start + batch_size]))
    batches = rows.map(
        lambda some: tf.nest.map_structure(lambda leaf: leaf if leaf is None else tf.gather(leaf, some), data),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    options = _divided_by_rows()
    # As in Keras. Rewriting the pipeline in each epoch would take longer than it saves.
    options.experimental_optimization.apply_default_optimizations = False
    return (
        batches.with_options(options)
        .apply(tf.data.experimental.assert_cardinality(-(-size // batch_size)))
        .prefetch(tf.data.AUTOTUNE)
    )
