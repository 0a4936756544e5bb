"""Soft targets and orders of examples inside a `tf.data` pipeline.

Imports TensorFlow, which need not be installed: a function imports this file when it has a `tf.data.Dataset`.
"""

import keras
import numpy as np
import tensorflow as tf


def map_tf_dataset(dataset, key, rows_of, like, put):
    """Put rows that NumPy finds into a dataset of batches.

    TensorFlow has no operation that reads scattered rows of a file, so Python finds them, once a batch.

    Args:
        key: a function of a batch that returns its keys.
        rows_of: a function of keys, as arrays, that returns nested arrays.
        like: nested arrays of their dtypes and, but for the first axis, shapes.
        put: puts a batch and its rows together.
    """
    like_flat = keras.tree.flatten(like)

    def paired(*batch):
        keys = key(batch)
        found = tf.numpy_function(
            lambda values: keras.tree.flatten(rows_of(values)), [keys], [leaf.dtype for leaf in like_flat]
        )
        for leaf, array in zip(found, like_flat, strict=True):
            leaf.set_shape((keys.shape[0], *array.shape[1:]))
        return put(batch, keras.tree.pack_sequence_as(like, found))

    return dataset.map(paired, num_parallel_calls=tf.data.AUTOTUNE)


def pair_tf_dataset(dataset, columns, records, batch_size, join):
    """Zip a dataset of batches with rows in the same order.

    Args:
        columns: a function from rows (an array, or for a structured dtype a dict of its fields) to what a batch brings.
        records: the rows, as an array; or `(path, offset, footer, dtype, row_shape)` of a file to read them from.
        join: puts a batch and its soft targets together.
    """
    if isinstance(records, tuple):
        path, offset, footer, dtype, row_shape = records
        count = int(np.prod(row_shape, dtype="int64"))
        files = tf.data.FixedLengthRecordDataset(str(path), dtype.itemsize * count, offset, footer)
        rows = files.batch(batch_size).map(lambda texts: _decode(texts, dtype, row_shape), tf.data.AUTOTUNE)
    else:
        fields = records if records.dtype.names is None else {name: records[name] for name in records.dtype.names}
        rows = tf.data.Dataset.from_tensor_slices(fields).batch(batch_size)
    # A dataset that goes on where the rows end would be cut off without a word: it meets an empty batch.
    rows = rows.concatenate(rows.take(1).map(lambda batch: tf.nest.map_structure(lambda field: field[:0], batch)))

    def join_checked(batch, soft_targets):
        first = next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None)
        second = keras.tree.flatten(soft_targets)[0]
        message = "A batch of the dataset and its soft targets differ in size: they are not of the same data."
        with tf.control_dependencies([tf.debugging.assert_equal(tf.shape(first)[0], tf.shape(second)[0], message)]):
            soft_targets = tf.nest.map_structure(tf.identity, soft_targets)
        return join(batch, columns(soft_targets))

    options = tf.data.Options()
    # By files, workers would be given rows of other examples than theirs.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return (
        tf.data.Dataset.zip(dataset, rows)
        .map(lambda *parts: join_checked(parts[0], parts[1]), num_parallel_calls=tf.data.AUTOTUNE)
        .with_options(options)
    )


def _decode(texts, dtype, row_shape):
    """Rows of a NumPy dtype from their bytes, `(batch,)` strings."""
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
    """Arrays as a `tf.data.Dataset` of batches, in an order that is asked for each time that it is iterated.

    Args:
        data: arrays `(n, ...)` in lists, tuples and dicts.
        order: a function that returns indices `(n,)`; it is called in another thread.
    """

    def tensors(nest):
        if isinstance(nest, dict):
            return {name: tensors(each) for name, each in nest.items()}
        if isinstance(nest, (list, tuple)):
            return tuple(tensors(each) for each in nest)  # A list would be taken for a tensor.
        if nest is None:
            return None
        return tf.convert_to_tensor(nest, keras.config.floatx() if nest.dtype.kind == "f" else None)

    data = tensors(data)
    size = len(tf.nest.flatten(data)[0])
    orders = tf.data.Dataset.from_generator(lambda: [order()], output_signature=tf.TensorSpec((size,), "int64"))
    starts = tf.data.Dataset.range(0, size, batch_size)
    rows = orders.flat_map(lambda whole: starts.map(lambda start: whole[start : start + batch_size]))
    batches = rows.map(
        lambda some: tf.nest.map_structure(lambda leaf: leaf if leaf is None else tf.gather(leaf, some), data),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    options = tf.data.Options()
    # As Keras: the batches are small, and to rewrite the pipeline each epoch would take longer than it saves.
    options.experimental_optimization.apply_default_optimizations = False
    # Several workers divide each batch; from a generator TensorFlow would infer files to divide.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return (
        batches.with_options(options)
        .apply(tf.data.experimental.assert_cardinality(-(-size // batch_size)))
        .prefetch(tf.data.AUTOTUNE)
    )


def cast_tf(tensor, dtype):
    """Cast within a `tf.data` pipeline, whatever the backend."""
    return tf.cast(tensor, dtype)
