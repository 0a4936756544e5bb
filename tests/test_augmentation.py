"""Augmentation inside the training step: the same view for teacher and student, drawn anew or stored."""

import re
import warnings

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, Batches
from helpers.models import assert_same, crossentropy, values
from helpers.tables import cases
from keras import ops

from keras_ban import BornAgainSequence, Distiller, SoftTargets
from keras_ban._src.targets import augmented_views

BACKEND = keras.config.backend()


@keras.saving.register_keras_serializable(package="test_augmentation")
class Noise(keras.layers.Layer):
    """Adds noise, drawn anew at each call, in training alone; under torch in place, as some of Keras's layers do."""

    def __init__(self, scale=1.0, seed=5, **kwargs):
        super().__init__(**kwargs)
        self.scale, self.seed = scale, seed
        self.generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, x, training=False):
        if training:
            x += self.scale * keras.random.normal(ops.shape(x), seed=self.generator)
        return x

    def get_config(self):
        return {**super().get_config(), "scale": self.scale, "seed": self.seed}


def linear():
    return keras.Sequential([keras.Input((8,)), keras.layers.Dense(CLASSES, use_bias=False)])


def twin_of(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def compiled(distiller, rate=0.1, **options):
    distiller.compile(keras.optimizers.SGD(rate), crossentropy(), metrics=["accuracy"], **options)
    return distiller


def draws(x, count, **options):
    """What the layer makes of `x` in its first calls."""
    layer = Noise(**options)
    return [ops.convert_to_numpy(layer(ops.convert_to_tensor(x.copy()), training=True)) for _ in range(count)]


# Drawn anew in each step


@cases("label_weight", 0.3, on_one_backend=[0.0, 1.0])
def test_steps_are_those_of_a_student_and_a_teacher_that_see_what_the_layer_made(blobs, label_weight):
    x, y = blobs
    teacher, student = linear(), linear()
    (p_kernel,), (kernel,) = (model.get_weights() for model in (teacher, student))
    layer = Noise()
    distiller = Distiller(student=student, teacher=teacher, label_weight=label_weight, augmentation=layer)
    compiled(distiller).fit(x, y, batch_size=96, epochs=2, shuffle=False, verbose=0)

    for seen in draws(x, 2):
        q = oracles.softmax(seen @ kernel.astype("float64"))
        target = label_weight * np.eye(CLASSES)[y] + (1 - label_weight) * oracles.softmax(seen @ p_kernel)
        kernel = kernel - 0.1 * seen.T @ (q - target) / len(x)
    # Float32 sums of 96 products of size 1.
    np.testing.assert_allclose(student.get_weights()[0], kernel, rtol=0, atol=2e-6)


def test_each_step_draws_once(blobs):
    layer = Noise()
    distiller = compiled(Distiller(student=linear(), teacher=linear(), augmentation=layer))
    distiller.fit(*blobs, batch_size=32, epochs=2, validation_data=blobs, verbose=0)

    np.testing.assert_array_equal([5, 6], ops.convert_to_numpy(layer.generator.state.value))


def test_validation_and_prediction_are_not_augmented(blobs):
    x, y = blobs
    distiller = compiled(Distiller(student=linear(), teacher=linear(), augmentation=Noise(scale=50.0)))
    history = distiller.fit(x, y, validation_data=blobs, verbose=0).history
    plain = twin_of(distiller.student)
    plain.compile(loss=crossentropy())

    assert history["val_loss"][0] == pytest.approx(plain.evaluate(x, y, verbose=0), rel=1e-5)
    np.testing.assert_array_equal(plain.predict(x, verbose=0), distiller.predict(x, verbose=0))


@pytest.mark.one_backend
def test_the_users_data_stays_as_it_was(blobs):
    x, y = blobs
    before = x.copy()
    distiller = compiled(Distiller(student=linear(), teacher=linear(), augmentation=Noise()))
    distiller.train_on_batch(ops.convert_to_tensor(x), y)
    SoftTargets.from_teacher(linear(), x, augmentation=Noise(), verbose=0)

    np.testing.assert_array_equal(before, x)


def test_image_layers_that_are_built_by_their_first_batch_train_compiled():
    rng = np.random.default_rng(0)
    x, y = rng.random((32, 6, 6, 1)).astype("float32"), rng.integers(0, CLASSES, 32)
    student = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    teacher = twin_of(student)
    layers = [keras.layers.RandomFlip(), keras.layers.RandomTranslation(0.3, 0.3)]
    distiller = Distiller(student=student, teacher=teacher, augmentation=keras.Sequential(layers), label_weight=0.0)
    history = compiled(distiller).fit(x, y, batch_size=8, epochs=2, verbose=0).history

    # XLA alone would be slow without: Keras's layer says that it is not supported, which is TensorFlow's trouble.
    assert (BACKEND == "jax") is bool(distiller.jit_compile)
    # A student that sees what its equal sees has nothing to learn, to rounding.
    np.testing.assert_allclose(history["distillation_loss"], [0.0, 0.0], atol=1e-6)
    for expected, actual in zip(teacher.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_allclose(expected, actual, atol=1e-6)


def test_a_file_brings_the_augmentation_back(blobs, tmp_path):
    x, y = blobs
    distiller = compiled(Distiller(student=linear(), teacher=linear(), augmentation=Noise(scale=0.3, seed=9)))
    distiller.save(tmp_path / "distiller.keras")
    loaded = keras.saving.load_model(tmp_path / "distiller.keras")

    assert distiller.jit_compile == loaded.jit_compile
    for each in (distiller, loaded):
        each.fit(x, y, shuffle=False, epochs=2, verbose=0)
    assert_same(distiller.student.get_weights(), loaded.student.get_weights())


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("augmentation", "error", "message"),
    [
        (lambda x: x, TypeError, "must be a `keras.layers.Layer` or a `keras.Model`"),
        ([keras.layers.RandomFlip(), "flip"], TypeError, "or a list of them, received"),
        ([], TypeError, "or a list of them, received: []"),
        (linear(), ValueError, "has trainable weights, which no gradient would reach"),
    ],
)
def test_what_cannot_augment_is_refused(augmentation, error, message):
    for make in (
        lambda: Distiller(student=linear(), augmentation=augmentation),
        lambda: BornAgainSequence(linear(), augmentation=augmentation),
        lambda: SoftTargets.from_teacher(linear(), np.zeros((4, 8)), augmentation=augmentation),
    ):
        with pytest.raises(error, match=re.escape(message)):
            make()


@pytest.mark.one_backend
def test_a_layer_of_the_teachers_is_refused():
    norm = keras.layers.BatchNormalization(center=False, scale=False)
    teacher = keras.Sequential([keras.Input((8,)), norm, keras.layers.Dense(CLASSES)])
    with pytest.raises(ValueError, match="share weights, and the teacher must not change"):
        Distiller(student=linear(), teacher=teacher, augmentation=norm)


@pytest.mark.one_backend
def test_lists_of_inputs_are_augmented_too(blobs):
    x, y = blobs
    inputs = [keras.Input((8,)), keras.Input((8,))]
    noisy = keras.Model(inputs, [Noise(0.1, seed=1)(inputs[0]), Noise(0.1, seed=2)(inputs[1])])
    student = keras.Model(inputs, keras.layers.Dense(CLASSES)(keras.layers.Add()(inputs)))
    distiller = compiled(Distiller(student=student, teacher=twin_of(student), augmentation=noisy, label_weight=0.0))
    history = distiller.fit([x, x], y, verbose=0).history

    np.testing.assert_allclose(history["distillation_loss"], [0.0], atol=1e-6)


def test_what_jax_cannot_compile_trains_uncompiled_with_a_warning():
    x = np.random.default_rng(0).random((8, 6, 6, 1)).astype("float32")
    student = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    layers = [keras.layers.ZeroPadding2D(1), keras.layers.RandomCrop(6, 6)]
    distiller = Distiller(student=student, teacher=twin_of(student), augmentation=keras.Sequential(layers))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        history = compiled(distiller).fit(x, np.zeros(8, "int32"), verbose=0).history

    np.testing.assert_allclose(history["distillation_loss"], [0.0], atol=1e-6)
    assert (["JAX cannot"] if BACKEND == "jax" else []) == [str(warning.message)[:10] for warning in caught]
    if BACKEND == "jax":
        with pytest.raises(ValueError, match="cannot make views under JAX"):
            SoftTargets.from_teacher(student, x, augmentation=keras.Sequential(layers), verbose=0)


@pytest.mark.one_backend
def test_other_shapes_are_refused_before_training(blobs):
    class Half(keras.layers.Layer):
        def call(self, x, training=False):
            return x[:, ::2]

    distiller = compiled(Distiller(student=linear(), teacher=linear(), augmentation=Half()))
    before = values(distiller.student)
    with pytest.raises(ValueError, match="must keep the shapes of its inputs"):
        distiller.fit(*blobs, verbose=0)
    assert_same(before, values(distiller.student))


# Views


def test_a_view_depends_on_the_example_and_its_number_alone(blobs):
    x, layer = blobs[0], Noise()
    keys = np.arange(96, dtype="uint64") ** 7
    order = np.random.default_rng(0).permutation(96)[:40]

    def view(x, keys, number):
        seeds = augmented_views.view_seeds(keys, number, 1)
        return ops.convert_to_numpy(augmented_views.views(layer, *map(ops.convert_to_tensor, (x, seeds))))

    first, second = view(x, keys, 0), view(x, keys, 1)
    np.testing.assert_array_equal(first[order], view(x[order], keys[order], 0))
    noise = np.stack([first - x, second - x])
    assert 0.9 < noise.std() < 1.1
    # Each example, and each view, draws its own noise: correlations of 8 numbers with 8 others average out.
    correlations = np.corrcoef(noise.reshape(192, 8))[np.triu_indices(192, 1)]
    assert abs(correlations.mean()) < 0.02
    assert correlations.max() < 0.999
    np.testing.assert_array_equal([5, 0], ops.convert_to_numpy(layer.generator.state.value))


@pytest.mark.one_backend
def test_seeds_are_like_random_numbers():
    seeds = augmented_views.view_seeds(np.arange(1000, dtype="uint64"), 2, 3)

    assert ((1000, 3, 2), np.int32) == (seeds.shape, seeds.dtype)
    assert 3000 == len(np.unique(seeds.reshape(-1, 2), axis=0))
    assert seeds.min() >= 0
    np.testing.assert_allclose((seeds / 2**31).mean(axis=(0, 1)), 0.5, atol=0.02)


@cases("way", "memory", on_one_backend=["PyDataset", "file", "top-k", "workers"])
def test_training_makes_the_views_again_that_the_teacher_saw(blobs, tmp_path, way):
    x, y = blobs
    teacher = linear()
    options = {"path": tmp_path / "targets.npy"} if way == "file" else {}
    if way == "top-k":
        options |= {"top_k": CLASSES, "dtype": "float32"}
    targets = SoftTargets.from_teacher(teacher, x, augmentation=Noise(), views=3, verbose=0, **options)
    distiller = compiled(Distiller(student=twin_of(teacher), augmentation=Noise(), label_weight=0.0))
    data = (x, y)
    if way in ("PyDataset", "workers"):
        data = (Batches(x, y, workers=2 if way == "workers" else 1),)
    history = distiller.fit(*data, soft_targets=targets, epochs=4, verbose=0).history

    # A student that sees what its equal saw has nothing to learn, to rounding; other views cost 0.1 and more.
    np.testing.assert_allclose(history["distillation_loss"], np.zeros(4), atol=1e-6)
    assert (96, 3, CLASSES) == targets.shape
    assert float(np.abs(np.diff(targets.to_dense(), axis=1)).mean()) > 0.1
    assert targets.verify(teacher, x, augmentation=Noise()) < 1e-5
    assert targets.verify(teacher, x[::-1].copy(), augmentation=Noise()) > 0.1


@pytest.mark.one_backend
@pytest.mark.parametrize("dataset", [False, True])
def test_epoch_e_trains_on_view_e_mod_views(blobs, monkeypatch, dataset):
    x, y = blobs
    taken, original = [], SoftTargets.batch
    monkeypatch.setattr(SoftTargets, "batch", lambda self, rows, view: taken.append(view) or original(self, rows, view))
    targets = SoftTargets.from_teacher(linear(), x, augmentation=Noise(), views=3, verbose=0)
    distiller = compiled(Distiller(student=linear(), augmentation=Noise()), run_eagerly=True)
    marks = []
    callback = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: marks.append(len(taken)))
    if dataset:  # paired by the user
        distiller.fit(targets.pair(Batches(x, y)), epochs=6, initial_epoch=1, verbose=0, callbacks=callback)
    else:
        distiller.fit(x, y, soft_targets=targets, epochs=6, initial_epoch=1, verbose=0, callbacks=[callback])

    epochs = [set(taken[start:end]) for start, end in zip(marks, [*marks[1:], len(taken)], strict=True)]
    assert [{1}, {2}, {0}, {1}, {2}] == epochs


@pytest.mark.one_backend
def test_a_file_of_views_comes_back(blobs, tmp_path):
    targets = SoftTargets.from_teacher(linear(), blobs[0], augmentation=Noise(), views=2, verbose=0)
    targets.save(tmp_path / "targets.npy")
    loaded = SoftTargets.load(tmp_path / "targets.npy")

    assert 2 == loaded.views
    np.testing.assert_array_equal(targets.to_dense(), loaded.to_dense())
    loaded.check_augmentation(Noise(name="by_another_name", seed=77))
    with pytest.raises(ValueError, match="views that another `augmentation` made"):
        loaded.check_augmentation(Noise(scale=2.0))


@pytest.mark.one_backend
def test_an_augmentation_is_known_again_whatever_its_names_and_seeds():
    def make(factor, functional):
        layers = [keras.layers.RandomFlip(seed=3), keras.layers.RandomTranslation(factor, 0.1)]
        if not functional:
            return keras.Sequential(layers)
        inputs = keras.Input((6, 6, 1))
        return keras.Model(inputs, layers[1](layers[0](inputs)))

    weights = keras.layers.Normalization()
    weights.adapt(np.arange(48, dtype="float32").reshape(6, 8))
    other_weights = keras.layers.Normalization()
    other_weights.adapt(np.ones((6, 8), "float32") * np.arange(6, dtype="float32")[:, None])
    of_weights = SoftTargets.from_teacher(
        linear(), np.zeros((4, 8), "float32"), augmentation=keras.Sequential([weights, Noise()]), verbose=0
    )
    of_weights.check_augmentation(keras.Sequential([weights, Noise()]))
    with pytest.raises(ValueError, match="another `augmentation` made"):
        of_weights.check_augmentation(keras.Sequential([other_weights, Noise()]))

    x = np.random.default_rng(0).random((6, 6, 6, 1)).astype("float32")
    teacher = keras.Sequential([keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(CLASSES)])
    for functional in (False, True):
        targets = SoftTargets.from_teacher(teacher, x, augmentation=make(0.1, functional), verbose=0)
        targets.check_augmentation(make(0.1, functional))
        with pytest.raises(ValueError, match="another `augmentation` made"):
            targets.check_augmentation(make(0.2, functional))


@pytest.mark.one_backend
def test_soft_targets_of_other_views_than_the_students_are_refused(blobs):
    x, y = blobs
    plain = SoftTargets.from_teacher(linear(), x, verbose=0)
    of_views = SoftTargets.from_teacher(linear(), x, augmentation=Noise(), verbose=0)
    augmenting, other, not_augmenting = (
        compiled(Distiller(student=linear(), augmentation=augmentation)) for augmentation in (Noise(), Noise(2.0), None)
    )
    before = values(augmenting.student)
    for distiller, targets, message in [
        (augmenting, plain, "are of the examples as they are, but `augmentation` makes other views"),
        (other, of_views, "another `augmentation` made"),
        (not_augmenting, of_views, "pass the `augmentation` that made them"),
    ]:
        with pytest.raises(ValueError, match=message):
            distiller.fit(x, y, soft_targets=targets, verbose=0)
    with pytest.raises(ValueError, match="of the examples as they are, but the Distiller augments them"):
        augmenting.fit(x, {"labels": y, "soft_targets": plain.to_dense()}, verbose=0)
    assert_same(before, values(augmenting.student))


@pytest.mark.one_backend
def test_datasets_that_know_no_epoch_are_refused(blobs):
    tf = pytest.importorskip("tensorflow")
    targets = SoftTargets.from_teacher(linear(), blobs[0], augmentation=Noise(), verbose=0)
    with pytest.raises(ValueError, match=r"go with arrays or a `keras.utils.PyDataset`"):
        targets.pair(tf.data.Dataset.from_tensor_slices(blobs).batch(32))


def test_a_layer_whose_seeds_do_not_determine_what_it_makes_makes_no_views(blobs):
    class Numpy(keras.layers.Layer):
        def call(self, x, training=False):
            return x + ops.convert_to_tensor(np.random.standard_normal(8).astype("float32")) if training else x

    class Global(keras.layers.Layer):
        def call(self, x, training=False):
            return x + keras.random.normal(ops.shape(x)) if training else x

    for layer, views, message in [
        (Numpy(), 1, "gives another view each time, from the same seeds"),
        (Global(), 1, "cannot make views under JAX" if BACKEND == "jax" else "gives another view each time"),
        (keras.layers.Identity(), 2, "holds no `keras.random.SeedGenerator`"),
    ]:
        with pytest.raises(ValueError, match=message):
            SoftTargets.from_teacher(linear(), blobs[0], augmentation=layer, views=views, verbose=0)


@pytest.mark.one_backend
def test_views_and_augmentation_belong_together(blobs):
    with pytest.raises(ValueError, match="pass the layer that makes them"):
        SoftTargets.from_teacher(linear(), blobs[0], views=2)
    with pytest.raises(ValueError, match="`views` must be a whole number of at least 1, received: 0"):
        SoftTargets.from_teacher(linear(), blobs[0], augmentation=Noise(), views=0)
    for options in ({"views": 2}, {"views": 2, "augmentation": Noise(), "soft_targets": "online"}):
        with pytest.raises(ValueError, match="are what `augmentation` makes"):
            BornAgainSequence(linear(), **options)
    sequence = BornAgainSequence(linear(), augmentation=Noise(), views=2)
    sequence.compile("sgd", crossentropy())
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(ValueError, match="`views` are for arrays or a `keras.utils.PyDataset`"):
        sequence.fit(tf.data.Dataset.from_tensor_slices(blobs).batch(32))
    with pytest.raises(ValueError, match="say how many of each example"):
        BornAgainSequence(linear(), augmentation=Noise(), soft_targets="cached")


# Generations


@pytest.fixture
def computed(monkeypatch):
    """For how many views soft targets were computed."""
    calls, original = [], SoftTargets.from_teacher.__func__

    def noting(cls, *args, **kwargs):
        calls.append(kwargs["views"])
        return original(cls, *args, **kwargs)

    monkeypatch.setattr(SoftTargets, "from_teacher", classmethod(noting))
    return calls


@cases("views, generations", (2, 1), on_one_backend=[(2, 2), (None, 2)])
def test_generations_are_augmented_and_reproducible(blobs, computed, views, generations):
    def train(generations, augmentation):
        views_here = None if augmentation is None else views
        sequence = BornAgainSequence(linear(), generations, seed=4, augmentation=augmentation, views=views_here)
        sequence.compile(keras.optimizers.Adam(0.02), crossentropy())
        sequence.fit(*blobs, epochs=2, verbose=0)
        return sequence

    first = train(generations, Noise())
    assert ([] if views is None else [2] * generations) == computed
    # The layer has drawn before, and its generators start anew all the same.
    again = train(1, first.augmentation)
    for generation in (0, 1):
        assert_same(values(first.models[generation]), values(again.models[generation]))
    plain = train(1, None)
    assert not np.array_equal(values(plain.models[0])[0], values(first.models[0])[0])
    assert {"label_loss", "loss"} <= set(first.history.records[0].logs)
    assert "distillation_loss" in first.history.records[1].logs
