"""Random augmentation inside a training step: one draw for student and teacher, or views that are reproducible."""

import keras
import numpy as np
from keras import ops

from keras_ban._src import backend
from keras_ban._src.data.model_inputs import inputs_for
from keras_ban._src.targets import label_mix


def check_augmentation(augmentation):
    """Return the augmentation, several layers as one. Raise an error if it cannot run inside a training step."""
    layers = list(augmentation) if isinstance(augmentation, (list, tuple)) else [augmentation]
    if not layers or not all(isinstance(layer, keras.layers.Layer) for layer in layers):
        raise TypeError(
            "`augmentation` must be a `keras.layers.Layer` or a `keras.Model`, such as `keras.layers.RandomFlip()`, or "
            f"a list of them, received: {augmentation!r}."
        )
    if isinstance(augmentation, (list, tuple)):
        augmentation = keras.layers.Pipeline(layers)
    if augmentation.trainable_variables:
        paths = [variable.path for variable in augmentation.trainable_variables]
        raise ValueError(f"`augmentation` has trainable weights, which no gradient would reach: {paths}. Freeze them.")
    label_mix.check_layers(augmentation)
    return augmentation


def check_makes_views(augmentation):
    """Raise `ValueError` if an augmentation changes labels: a view is made of one example."""
    if label_mix.mixes(augmentation):
        raise ValueError(
            f"A view is made of one example, and {augmentation!r} mixes several. Let the teacher see each mix: without "
            "`views`, with soft_targets='online' or, for a Distiller, without `SoftTargets`."
        )


def seed_states(augmentation):
    """The states of its random generators: the variables that are not weights."""
    weights = {id(weight) for weight in augmentation.weights}
    return [variable for variable in augmentation.variables if id(variable) not in weights]


def reseed(augmentation, seed):
    """Restart its random generators, each with its own seed."""
    for i, state in enumerate(seed_states(augmentation)):
        state.assign([int(np.random.SeedSequence([seed, i]).generate_state(1)[0] >> 1), 0])


def augment(augmentation, x, labels=None):
    """Return `(x, labels)`, augmented all at once. The generators advance. Labels change if a layer changes them."""
    with backend.without_gradients():
        augmented, labels = label_mix.apply(augmentation, keras.tree.map_structure(ops.copy, x), labels)
    return _in_the_form_of(x, augmented), labels


def views(augmentation, x, seeds):
    """Augment each example with its own seeds, independently of the rest of the batch. The generators do not advance.

    `x` is tensors `(examples, ...)`, or a nest of them. `seeds` are those of `view_seeds`.
    """
    states = seed_states(augmentation)
    values = [(variable, variable.value) for variable in augmentation.variables]

    def view(example):
        x, seeds = example
        seeded = [(state, ops.cast(seeds[i], state.dtype)) for i, state in enumerate(states)]
        with keras.StatelessScope(state_mapping=values + seeded):
            # A copy, because some of Keras's layers add in place under torch.
            batch = keras.tree.map_structure(lambda leaf: ops.copy(leaf[None]), x)
            augmented = augmentation(batch, training=True)
        return keras.tree.map_structure(lambda leaf: leaf[0], augmented)

    with backend.without_gradients():
        augmented = backend.for_each_example(view, (x, seeds))
    return _in_the_form_of(x, augmented)


def view_seeds(keys, view, generators):
    """Return the seeds of each generator for a view, as a function of the examples' keys, uint64 `(examples,)`.

    They are non-negative int32 `(examples, generators, 2)`: 62 bits each, mixed as by SplitMix64 (Steele et al., 2014).
    """
    streams = np.arange(generators, dtype="uint64") + np.uint64(view) * np.uint64(generators) + np.uint64(1)
    words = np.asarray(keys, "uint64")[:, None] + streams * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words = (words ^ (words >> np.uint64(shift))) * np.uint64(factor)
    words ^= words >> np.uint64(31)
    halves = np.stack([words >> np.uint64(33), words & np.uint64(2**31 - 1)], axis=-1)
    return halves.astype("int32")


def build(augmentation, x):
    """Build `augmentation` on the first examples, as arrays. Return the error of compiling it with JAX, or `None`."""
    x = keras.tree.map_structure(backend.as_tensor, x)
    label_mix.check_images(augmentation, x)
    mixes = label_mix.mixes(augmentation)
    if mixes or not augmentation.built:
        # MixUp draws random numbers here too.
        states = [(state, ops.copy(state.value)) for state in seed_states(augmentation) if mixes]
        label_mix.apply(augmentation, x, training=False)
        for state, value in states:
            state.assign(value)
        check_augmentation(augmentation)
    return backend.error_of_tracing(lambda x: _without_effect(augmentation, x)[0], x)


def draws_from_outside(augmentation, x):
    """Whether a call changes a state that it does not hold, for instance Keras's global random generator."""
    _, scope = _without_effect(augmentation, x)
    return bool(set(scope.state_mapping) - {id(variable) for variable in augmentation.variables})


def _without_effect(augmentation, x):
    with keras.StatelessScope() as scope:
        return label_mix.apply(augmentation, keras.tree.map_structure(ops.copy, x))[0], scope


class TeacherOnViews(keras.Model):
    """A teacher's outputs for views: `predict_on_batch((x, seeds))`."""

    def __init__(self, teacher, augmentation):
        super().__init__(autocast=False)
        self._teacher = teacher
        self._augmentation = augmentation
        self.built = True
        if backend.COMPILES_IMAGE_LAYERS:
            # Not by the property, which refuses layers that do not declare support.
            self._jit_compile = compiles(self, augmentation)

    def call(self, inputs):
        x, seeds = inputs
        x = views(self._augmentation, x, seeds)
        return self._teacher(inputs_for(self._teacher, x), training=False)


def compiles(model, augmentation):
    """Whether JAX compiles a model with this augmentation. Its layers declare no support because of TensorFlow."""
    exempt = {id(layer) for layer in backend.flat_layers(augmentation)}
    return all(layer.supports_jit for layer in backend.flat_layers(model) if id(layer) not in exempt)


def _in_the_form_of(x, augmented):
    """`augmented` in the structure of `x`. Keras's datasets convert lists to tuples."""
    shapes, others = ([tuple(leaf.shape) for leaf in keras.tree.flatten(each)] for each in (x, augmented))
    if shapes != others:
        raise ValueError(f"`augmentation` must keep the shapes of its inputs, but made {others} of {shapes}.")
    return keras.tree.pack_sequence_as(x, keras.tree.flatten(augmented))
