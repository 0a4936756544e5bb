"""What differs between TensorFlow, JAX and torch; nothing else in the package asks which backend runs."""

import contextlib
import random
import re

import keras
import numpy as np

BACKEND = keras.config.backend()


def without_gradients():
    """A context in which no gradients are recorded.

    TensorFlow and JAX record only inside the tape and the transformation that Keras opens later; torch records always.
    """
    if BACKEND != "torch":
        return contextlib.nullcontext()
    import torch

    return torch.no_grad()


def differentiates_gradients():
    """Whether a gradient given in closed form is being differentiated itself: torch alone does not see through it."""
    if BACKEND != "torch":
        return False
    import torch

    return torch.is_grad_enabled()


def replica_count():
    """How many replicas share a batch: Keras scales each replica's loss by 1 / count (`tf.distribute` only)."""
    if BACKEND != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


def sum_over_replicas(value):
    """The sum of a value over the replicas that share a batch (`tf.distribute` only)."""
    if replica_count() == 1:
        return value
    import tensorflow as tf

    if tf.distribute.in_cross_replica_context():
        return value  # Called beside the replicas, with the whole batch.
    return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, value)


def as_if_alone():
    """A context in which a replica appears to be the only one: nothing in it is scaled by their number."""
    if replica_count() == 1:
        return contextlib.nullcontext()
    import tensorflow as tf

    # A new graph knows no strategy; its context may be entered here.
    with tf.Graph().as_default():
        return tf.distribute.get_replica_context()


def step_of(optimizer, variables=None):
    """How many steps an optimizer has made, as a tensor `()`; `variables` are its variables' values in JAX's step."""
    if variables is None:
        return keras.ops.convert_to_tensor(optimizer.iterations, dtype="int32")
    with keras.StatelessScope(state_mapping=list(zip(optimizer.variables, variables, strict=True))):
        return keras.ops.convert_to_tensor(optimizer.iterations, dtype="int32")


def steps_see_values(model):
    """Whether `train_step` runs on values; else it is traced once and compiled, and sees placeholders alone."""
    return BACKEND == "torch" or model.run_eagerly


def for_each_example(function, examples):
    """`function` of each example of nested tensors `(examples, ...)`, the results stacked.

    At once under JAX; one after the other under TensorFlow, in its graph, and under torch, whose random numbers and
    many of whose operations cannot be vectorized.
    """
    if BACKEND == "jax":
        return keras.ops.vectorized_map(function, examples)
    return keras.ops.map(function, examples)


def compiles_image_layers():
    """Whether image layers of Keras compile though they say that they do not support it.

    Many say so because of an operation that TensorFlow cannot compile. JAX has no trouble with most of them, and would
    be slow beyond use without.
    """
    return BACKEND == "jax"


def error_of_tracing(function, x):
    """The error that JAX meets when it traces `function` of `x`; `None` where there is none, and on other backends."""
    if BACKEND != "jax":
        return None
    import jax

    try:
        jax.eval_shape(function, x)
    except Exception as error:
        return error
    return None


def value_of(variable):
    """A variable's value as a NumPy array; that of this process, of one that `tf.distribute` mirrors.

    (NumPy itself cannot read a single number that is mirrored.)
    """
    return keras.ops.convert_to_numpy(keras.ops.convert_to_tensor(variable))


def as_tensor(array):
    """A NumPy array as the backend's tensor; anything else, strings for instance, as it is."""
    return keras.ops.convert_to_tensor(array) if isinstance(array, np.ndarray) else array


def values_before_training(model):
    """What a model's variables hold before its first step, for `restore`.

    Under JAX, Keras takes the values out of the model before the first step and puts them back after it. Where labels
    do not fit the loss, say, or the data raise, there may be no "after", and the model would be left without any.
    """
    if BACKEND != "jax":
        return []
    variables = model.variables + model.optimizer.variables + model.metrics_variables
    return [(v, v.value) for v in variables]


def restore(values):
    """Give variables that were left without a value the one that they had."""
    for variable, value in values:
        if variable._value is None and not value.is_deleted():
            variable.assign(value)


@contextlib.contextmanager
def keeping_values(model):
    """A context for `predict` and `evaluate`, which on an error would leave a model without values as training does."""
    variables = model.variables + model.metrics_variables if BACKEND == "jax" else []
    values = [(v, v.value) for v in variables]
    try:
        yield
    except BaseException:
        if BACKEND == "jax":
            model.jax_state_sync()
        restore(values)
        raise


def separate(variables, others):
    """Give those variables that hold the same buffer as one of the others a copy: JAX gives away what it trains."""
    if BACKEND != "jax":
        return
    buffers = {id(v.value) for v in others}
    for variable in variables:
        if id(variable.value) in buffers:
            variable.assign(keras.ops.copy(variable.value))


def reading(state, non_trainable_variables):
    """A context in which a training step reads, and writes, JAX's state in place of the variables themselves."""
    if not state:
        return contextlib.nullcontext()
    return keras.StatelessScope(state_mapping=list(zip(non_trainable_variables, state[0][1], strict=True)))


def after(state, scope, non_trainable_variables):
    """JAX's state after what was written in `reading`'s context."""
    if not state:
        return state
    (trainable, _, *others), *rest = state
    return [(trainable, [scope.get_current_value(v) for v in non_trainable_variables], *others), *rest]


def random_states():
    """The states of the global random generators that move while Keras trains, as arrays by name."""
    _, internal, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": np.array(internal, "uint64"),
        "python_gauss": np.array([] if gauss is None else [gauss]),
        "numpy_keys": keys,
        "numpy_rest": np.array([position, has_gauss, cached]),
    }
    if BACKEND == "torch":
        import torch

        states["torch"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available():
            states |= {f"cuda_{i}": state.cpu().numpy() for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states):
    """The reverse of `random_states`."""
    gauss = states["python_gauss"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), gauss[0] if gauss else None))
    position, has_gauss, cached = states["numpy_rest"].tolist()
    np.random.set_state(("MT19937", states["numpy_keys"], int(position), int(has_gauss), cached))
    if BACKEND == "torch":
        import torch

        torch.set_rng_state(torch.from_numpy(states["torch"]))
        cuda = [torch.from_numpy(state) for name, state in states.items() if name.startswith("cuda_")]
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


class StepConstants:
    """Variables that a training step reads and never changes, handed to it the way the backend wants.

    TensorFlow and torch read variables where they are used. Under JAX, what is not part of the step's state is compiled
    in as a constant, and the state's buffers are given away at each step: a run that stops halfway leaves them deleted.
    So under JAX copies travel in the state, and the variables themselves are never at risk.
    """

    def __init__(self, variables):
        self._originals = list(variables)
        self._values = [v.value for v in self._originals]
        self._copies = []
        if BACKEND == "jax":
            self._copies = [
                keras.Variable(keras.ops.copy(v.value), trainable=False, dtype=v.dtype, name=v.name)
                for v in self._originals
            ]

    def are_current(self):
        """Whether the variables still hold what they held."""
        return not self._copies or all(v.value is value for v, value in zip(self._originals, self._values, strict=True))

    @property
    def in_state(self):
        """The variables to append to the model's non-trainable ones."""
        return self._copies

    def in_step(self, non_trainable_state=None):
        """`(variable, value)` of those whose value within a step is another; JAX's state ends with `in_state`."""
        if not self._copies:
            return []
        return list(zip(self._originals, non_trainable_state[-len(self._copies) :], strict=True))


def is_tf_dataset(data):
    return any(c.__name__ == "DatasetV2" and c.__module__.startswith("tensorflow.") for c in type(data).__mro__)


def is_data_loader(data):
    return any(c.__name__ == "DataLoader" and c.__module__.startswith("torch.") for c in type(data).__mro__)


def is_grain_dataset(data):
    """Whether it is a `MapDataset` or an `IterDataset` of Grain, which have `map`."""
    names = ("MapDataset", "IterDataset")
    return any(c.__name__ in names and c.__module__.split(".")[0] == "grain" for c in type(data).__mro__)


def map_tf_dataset(dataset, key, rows_of, like, put):
    """Put rows that NumPy finds into a dataset of batches.

    TensorFlow has no operation that reads scattered rows of a file, so Python finds them, once a batch.

    Args:
        key: a function of a batch that returns its keys.
        rows_of: a function of keys, as arrays, that returns nested arrays.
        like: nested arrays of their dtypes and, but for the first axis, shapes.
        put: puts a batch and its rows together.
    """
    import tensorflow as tf

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


def error_in_pipeline(error):
    """The `ValueError` that Python raised within `tf.data`, or `None`: TensorFlow makes it an error of its own."""
    if not any(c.__module__.startswith("tensorflow.") for c in type(error).__mro__):
        return None
    message = re.search(r"ValueError: (The soft targets .*)", str(error))
    return None if message is None else ValueError(message[1])


def pair_tf_dataset(dataset, columns, records, batch_size, join):
    """Zip a dataset of batches with rows in the same order.

    Args:
        columns: a function from rows (an array, or for a structured dtype a dict of its fields) to what a batch brings.
        records: the rows, as an array; or `(path, offset, footer, dtype, row_shape)` of a file to read them from.
        join: puts a batch and its soft targets together.
    """
    import tensorflow as tf

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


def shuffles_each_epoch_anew():
    """Whether Keras shuffles arrays by random numbers that go on from epoch to epoch; see `_shuffling`."""
    return BACKEND != "tensorflow" or replica_count() > 1


def tf_batches(data, order, batch_size):
    """Arrays as a `tf.data.Dataset` of batches, in an order that is asked for each time that it is iterated.

    Args:
        data: arrays `(n, ...)` in lists, tuples and dicts.
        order: a function that returns indices `(n,)`; it is called in another thread.
    """
    import tensorflow as tf

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
    import tensorflow as tf

    return tf.cast(tensor, dtype)


def _decode(texts, dtype, row_shape):
    """Rows of a NumPy dtype from their bytes, `(batch,)` strings."""
    import tensorflow as tf

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


def pair_data_loader(loader, rows_of, join):
    """A torch `DataLoader` that also brings the soft targets of its examples.

    Args:
        rows_of: a function of a batch and the indices of its examples that returns their soft targets.
        join: puts a batch and its soft targets together.
    """
    import torch

    options = _workers_of(loader)
    collate = _CollatePaired(loader.collate_fn, rows_of, join)
    dataset = _WithIndex(loader.dataset)
    return torch.utils.data.DataLoader(dataset, batch_sampler=loader.batch_sampler, collate_fn=collate, **options)


def map_data_loader(loader, function):
    """A torch `DataLoader` whose workers apply `function` to each batch, with NumPy arrays put in place of tensors."""
    import torch

    options = _workers_of(loader)
    if loader.batch_sampler is not None and not isinstance(loader.dataset, torch.utils.data.IterableDataset):
        options["batch_sampler"] = loader.batch_sampler
    else:
        options |= {"batch_size": loader.batch_size, "drop_last": loader.drop_last}
        if not isinstance(loader.dataset, torch.utils.data.IterableDataset):
            options["sampler"] = loader.sampler
    return torch.utils.data.DataLoader(
        loader.dataset, collate_fn=_CollateMapped(loader.collate_fn, function), generator=loader.generator, **options
    )


def _workers_of(loader):
    """A `DataLoader`'s options, but for those that say which examples make a batch."""
    names = ("num_workers", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context")
    return {name: getattr(loader, name) for name in (*names, "prefetch_factor", "persistent_workers")}


class _CollateMapped:
    def __init__(self, collate, function):
        self._collate, self._function = collate, function

    def __call__(self, examples):
        import torch

        return keras.tree.map_structure(
            lambda leaf: torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf,
            tuple(self._function(self._collate(examples))),
        )


class _WithIndex:
    """A map-style dataset whose examples come with their index."""

    def __init__(self, dataset):
        self._dataset = dataset

    def __len__(self):
        return len(self._dataset)

    def __getitem__(self, index):
        return index, self._dataset[index]


class _CollatePaired:
    def __init__(self, collate, rows_of, join):
        self._collate, self._rows_of, self._join = collate, rows_of, join

    def __call__(self, examples):
        batch = self._collate([example for _, example in examples])
        rows = self._rows_of(batch, np.array([index for index, _ in examples]))
        import torch

        return self._join(batch, keras.tree.map_structure(torch.from_numpy, rows))


def litert_from(saved_model, representative=None):
    """A LiteRT file's bytes, from a SavedModel; under any backend, where TensorFlow is installed.

    Args:
        saved_model: its path; the signature `serving_default` is converted.
        representative: inputs by their names, `(examples, ...)`. Weights and activations are then quantised to int8, by
            the ranges that these inputs take; inputs and outputs keep their dtype.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
    if representative is not None:
        count = len(next(iter(representative.values())))
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: (
            {name: rows[i : i + 1] for name, rows in representative.items()} for i in range(count)
        )
    return converter.convert()
