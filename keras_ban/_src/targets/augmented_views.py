"""Random augmentation inside a training step: one draw for student and teacher, or views that can be made again."""

import keras
import numpy as np
from keras import ops

from keras_ban._src import backend
from keras_ban._src.data.batch import inputs_for


def check_augmentation(augmentation):
    """Raise where something cannot augment inside a training step."""
    if not isinstance(augmentation, keras.layers.Layer):
        raise TypeError(
            "`augmentation` must be a `keras.layers.Layer` or a `keras.Model`, such as `keras.layers.RandomFlip()` or, "
            f"for several, `keras.Sequential([...])` of them, received: {augmentation!r} (of type "
            f"{type(augmentation).__name__})."
        )
    if augmentation.trainable_variables:
        raise ValueError(
            "`augmentation` has trainable weights, which no gradient would reach: "
            f"{[v.path for v in augmentation.trainable_variables]}. Make them part of the student, or freeze them."
        )


def seed_states(augmentation):
    """The states of its random generators: those variables that are no weights."""
    weights = {id(weight) for weight in augmentation.weights}
    return [variable for variable in augmentation.variables if id(variable) not in weights]


def reseed(augmentation, seed):
    """Start its random generators anew, each from a seed of its own."""
    for i, state in enumerate(seed_states(augmentation)):
        state.assign([int(np.random.SeedSequence([seed, i]).generate_state(1)[0] >> 1), 0])


def augment(augmentation, x):
    """`x` augmented, all in one go; its generators move on."""
    with backend.without_gradients():
        augmented = augmentation(keras.tree.map_structure(ops.copy, x), training=True)
    return _in_the_form_of(x, augmented)


def views(augmentation, x, seeds):
    """Views of examples, each drawn from its own seeds; the generators stay where they are.

    Args:
        x: tensors `(examples, ...)`, or a nest of them.
        seeds: `(examples, generators, 2)`, as `view_seeds` gives.

    Returns:
        As `x`. The view of an example does not depend on what else is in the batch.
    """
    states = seed_states(augmentation)
    of_all = [(variable, variable.value) for variable in augmentation.variables]

    def view(example):
        x, seeds = example
        mapping = {id(variable): (variable, value) for variable, value in of_all}
        mapping |= {id(state): (state, ops.cast(seeds[i], state.dtype)) for i, state in enumerate(states)}
        with keras.StatelessScope(state_mapping=mapping.values()):
            # A copy: under torch some of Keras's layers add in place.
            batch = keras.tree.map_structure(lambda leaf: ops.copy(leaf[None]), x)
            augmented = augmentation(batch, training=True)
        return keras.tree.map_structure(lambda leaf: leaf[0], augmented)

    with backend.without_gradients():
        augmented = backend.for_each_example(view, (x, seeds))
    return _in_the_form_of(x, augmented)


def view_seeds(keys, view, generators):
    """From an example's key and the number of a view alone: the seeds of each generator.

    Args:
        keys: uint64 `(examples,)`.
        view: a whole number.
        generators: how many random generators there are.

    Returns:
        int32 `(examples, generators, 2)`, not negative: 62 bits each, mixed as by SplitMix64 (Steele et al., 2014).
    """
    streams = np.arange(generators, dtype="uint64") + np.uint64(view) * np.uint64(generators) + np.uint64(1)
    words = np.asarray(keys, "uint64")[:, None] + streams * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    words ^= words >> np.uint64(31)
    halves = np.stack([words >> np.uint64(33), words & np.uint64(2**31 - 1)], axis=-1)
    return halves.astype("int32")


def build(augmentation, x):
    """Let it make its variables, on the first examples as arrays.

    Returns:
        `None`; or the error that keeps JAX from compiling it.
    """
    x = keras.tree.map_structure(backend.as_tensor, x)
    if not augmentation.built:
        augmentation(x, training=False)
        check_augmentation(augmentation)
    return backend.error_of_tracing(lambda x: _without_effect(augmentation, x)[0], x)


def draws_from_outside(augmentation, x):
    """Whether a call moves a state that it does not hold, that of Keras's global random generator for instance."""
    _, scope = _without_effect(augmentation, x)
    return bool(set(scope.state_mapping) - {id(variable) for variable in augmentation.variables})


def _without_effect(augmentation, x):
    with keras.StatelessScope() as scope:
        return augmentation(keras.tree.map_structure(ops.copy, x), training=True), scope


class TeacherOnViews(keras.Model):
    """A teacher that looks at views: `predict_on_batch((x, seeds))`."""

    def __init__(self, teacher, augmentation):
        super().__init__(autocast=False)
        self._teacher = teacher
        self._augmentation = augmentation
        self.built = True
        if backend.compiles_image_layers():
            # Not by the property, which refuses what the layers declare.
            self._jit_compile = compiles(self, augmentation)

    def call(self, inputs):
        x, seeds = inputs
        x = views(self._augmentation, x, seeds)
        return self._teacher(inputs_for(self._teacher, x), training=False)


def compiles(model, augmentation):
    """Whether JAX compiles a model with this augmentation, although Keras's layers say that they do not support it."""
    exempt = {id(layer) for layer in backend.flat_layers(augmentation)}
    # Layers declare it because of TensorFlow.
    return all(layer.supports_jit for layer in backend.flat_layers(model) if id(layer) not in exempt)


def _in_the_form_of(x, augmented):
    """`augmented`, nested as `x` is; of lists and tuples, Keras's datasets know one alone."""
    shapes, others = ([tuple(leaf.shape) for leaf in keras.tree.flatten(each)] for each in (x, augmented))
    if shapes != others:
        raise ValueError(
            f"`augmentation` must keep the shapes of its inputs, but made {others} of {shapes}: validation and "
            "prediction, which are not augmented, would find another model. Resize the data before training."
        )
    return keras.tree.pack_sequence_as(x, keras.tree.flatten(augmented))
