"""Augmentation that mixes examples: labels are mixed as the images are, and the teacher sees the same mix."""

import inspect
import re

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, Batches
from helpers.models import assert_same, crossentropy, values
from helpers.runs import assert_same_run
from helpers.tables import cases
from helpers.training import interrupted_after
from keras import layers, ops

from keras_ban import BornAgainSequence, Distiller, SoftTargets, losses, reborn
from keras_ban._src.targets import augmented_views, label_mix

# Keras's MixUp asks JAX for int64.
pytestmark = pytest.mark.filterwarnings("ignore:Explicitly requested dtype:UserWarning")
SIZE = 32
RATE = 0.3


@keras.saving.register_keras_serializable(package="test_mixing")
class Turned(layers.MixUp.__base__):
    """A user's layer: each image and label is averaged with the one before it; it draws nothing."""

    _USE_BASE_FACTOR = False

    def get_random_transformation(self, data, training=True, seed=None):
        return 0.5

    def transform_images(self, images, transformation, training=True):
        images = ops.cast(images, self.compute_dtype)
        return transformation * (images + ops.roll(images, 1, axis=0)) if training else images

    def transform_labels(self, labels, transformation, training=True):
        return transformation * (labels + ops.roll(labels, 1, axis=0))


class OneBatch(Batches):
    """Keras casts arrays, but not what a dataset yields."""

    def __getitem__(self, index):
        return self.x, self.y


LAYERS = {
    "MixUp": lambda: layers.MixUp(alpha=0.8, seed=3),
    "CutMix": lambda: layers.CutMix(seed=3),
    "of a user": Turned,
}


@pytest.fixture
def images():
    """`(x, one-hot labels)`."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, SIZE)
    return rng.standard_normal((SIZE, 4, 5, 1)).astype("float32"), np.eye(CLASSES, dtype="float32")[y]


def linear(shape=(4, 5, 1)):
    return keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(CLASSES, use_bias=False)])


def dense():
    return keras.losses.CategoricalCrossentropy(from_logits=True)


def compiled(distiller, loss=None, **options):
    distiller.compile(keras.optimizers.SGD(RATE), loss or dense(), **options)
    return distiller


def mixed_outside(make, x, y, steps):
    """What the same layer makes outside, by Keras's own interface, in float64."""
    layer = make()
    for _ in range(steps):
        made = layer({"images": ops.convert_to_tensor(x), "labels": ops.convert_to_tensor(y)}, training=True)
        yield [ops.convert_to_numpy(made[name]).astype("float64") for name in ("images", "labels")]


def step(kernel, seen, target):
    """One step of gradient descent on a linear softmax model."""
    flat = seen.reshape(len(seen), -1)
    return kernel - RATE * flat.T @ (oracles.softmax(flat @ kernel) - target) / len(seen)


def cross_entropy(target, logits):
    return -(target * np.log(oracles.softmax(logits))).sum(-1).mean()


@pytest.mark.parametrize("name", LAYERS)
def test_steps_are_those_of_labels_and_a_teacher_that_see_the_mix(images, name):
    (x, y), make = images, LAYERS[name]
    teacher, student = linear(), linear()
    (of_teacher,), (kernel,) = ([w.astype("float64") for w in model.get_weights()] for model in (teacher, student))
    distiller = Distiller(student=student, teacher=teacher, label_weight=0.3, augmentation=make())
    logs = compiled(distiller).fit(x, y, batch_size=SIZE, epochs=2, shuffle=False, verbose=0).history

    for epoch, (seen, labels) in enumerate(mixed_outside(make, x, y, 2)):
        flat = seen.reshape(SIZE, -1)
        p, q = oracles.softmax(flat @ of_teacher), oracles.softmax(flat @ kernel)
        assert np.abs(labels - y).max() > 0.1
        label_loss, distillation_loss = cross_entropy(labels, flat @ kernel), (p * np.log(p / q)).sum(-1).mean()
        # Sums in float32, of 32 numbers of size 1.
        np.testing.assert_allclose(logs["label_loss"][epoch], label_loss, rtol=2e-6)
        np.testing.assert_allclose(logs["distillation_loss"][epoch], distillation_loss, rtol=1e-5)
        kernel = step(kernel, seen, 0.3 * labels + 0.7 * p)
    np.testing.assert_allclose(student.get_weights()[0], kernel, rtol=0, atol=2e-6)


@cases("form", "list", on_one_backend=["Sequential", "Pipeline"])
def test_layers_of_a_list_act_in_their_order(images, form, tmp_path):
    x, y = images

    def make():
        chain = [layers.RandomFlip(seed=1), layers.MixUp(0.8, seed=2), layers.Rescaling(2.0)]
        return {"list": list, "Sequential": keras.Sequential, "Pipeline": layers.Pipeline}[form](chain)

    student = linear()
    (kernel,) = student.get_weights()
    distiller = compiled(Distiller(student=student, label_weight=1, augmentation=make()))
    distiller.save(tmp_path / "distiller.keras")
    distiller.fit(x, y, batch_size=SIZE, shuffle=False, verbose=0)

    flip, mix, scale = make() if form == "list" else make().layers
    turned = flip(ops.convert_to_tensor(x), training=True)
    made = mix({"images": turned, "labels": ops.convert_to_tensor(y)}, training=True)
    seen, labels = (ops.convert_to_numpy(each) for each in (scale(made["images"]), made["labels"]))
    np.testing.assert_allclose(student.get_weights()[0], step(kernel, seen, labels), rtol=0, atol=2e-6)

    loaded = keras.saving.load_model(tmp_path / "distiller.keras")
    loaded.fit(x, y, batch_size=SIZE, shuffle=False, verbose=0)
    assert_same(student.get_weights(), loaded.student.get_weights())


@pytest.mark.one_backend
def test_weights_of_a_distiller_with_one_layer_keep_their_paths(images, tmp_path):
    distiller = compiled(Distiller(student=linear(), label_weight=1, augmentation=layers.MixUp()))
    distiller.fit(*images, verbose=0)

    assert isinstance(distiller.augmentation, layers.MixUp)
    assert ["sequential/dense/kernel"] == [re.sub(r"_\d+", "", weight.path) for weight in distiller.weights]


@pytest.mark.one_backend
def test_which_layers_change_labels_is_found_out_from_the_layers():
    of_images = [each for each in map(layers.__dict__.get, dir(layers)) if hasattr(each, "transform_labels")]
    needed = {"height": 4, "width": 4, "factor": (1, 1), "max_number": 3, "height_factor": 0.1, "width_factor": 0.1}

    def make(kind):
        parameters = list(inspect.signature(kind).parameters.values())
        return kind(**{p.name: needed[p.name] for p in parameters if p.default is p.empty and p.name in needed})

    assert len(of_images) > 25
    assert {"MixUp", "CutMix"} == {kind.__name__ for kind in of_images if label_mix.changes_labels(make(kind))}
    assert label_mix.changes_labels(Turned())
    assert label_mix.mixes(keras.Sequential([layers.RandomFlip(), layers.Pipeline([layers.CutMix()])]))
    assert not label_mix.mixes(keras.Sequential([layers.RandomFlip(), layers.GaussianNoise(1.0)]))


@cases("generations", 1, on_one_backend=[2])
def test_generation_0_learns_the_mix_as_well(images, generations):
    x, y = images
    model = linear()
    sequence = BornAgainSequence(model, generations, seed=4, augmentation=[layers.MixUp(0.8)])
    sequence.compile(keras.optimizers.SGD(RATE), dense(), metrics=["accuracy"])
    sequence.fit(x, y, batch_size=SIZE, shuffle=False, validation_data=(x, y), verbose=0)

    (of_teacher,) = sequence.models[0].get_weights()
    for record, trained in zip(sequence.history.records, sequence.models, strict=True):
        keras.utils.set_random_seed(record.seed)
        (kernel,), layer = reborn(model).get_weights(), layers.MixUp(0.8)
        augmented_views.reseed(layer, record.seed)
        ((seen, labels),) = mixed_outside(lambda layer=layer: layer, x, y, 1)
        if record.generation > 0:
            labels = 0.5 * labels + 0.5 * oracles.softmax(seen.reshape(SIZE, -1) @ of_teacher)
        np.testing.assert_allclose(trained.get_weights()[0], step(kernel, seen, labels), rtol=0, atol=2e-6)
        (of_teacher,) = trained.get_weights()


@pytest.mark.one_backend
def test_an_interrupted_run_ends_with_the_same_mixes(images, tmp_path):
    def run(directory):
        sequence = BornAgainSequence(linear(), 1, seed=4, directory=directory, augmentation=layers.MixUp(0.8))
        sequence.compile("adam", dense())
        sequence.fit(*images, batch_size=8, epochs=3, verbose=0, validation_data=images)
        return sequence

    whole = run(tmp_path / "whole")
    for generation in (0, 1):
        with interrupted_after(generation, 0):
            run(tmp_path / "cut")
    assert_same_run(whole, run(tmp_path / "cut"))


def test_labels_of_every_output_and_form_are_mixed_in_single_precision(images):
    y = images[1]
    inputs = keras.Input((4, 5, 1))
    outputs = [layers.Dense(width, use_bias=False)(layers.Flatten()(inputs)) for width in (CLASSES, 1)]
    student = keras.Model(inputs, outputs)
    kernels = student.get_weights()
    numbers = np.linspace(2000, 3000, SIZE)  # float64, and more digits than bfloat16 has
    distiller = Distiller(student=student, label_weight=1, augmentation=Turned())
    whole = np.arange(SIZE * 20, dtype="uint8").reshape(SIZE, 4, 5, 1)
    loss = [dense(), keras.losses.MeanAbsoluteError()]
    compiled(distiller, loss).fit(OneBatch(whole, (y, numbers), SIZE), verbose=0)

    seen = ((whole.astype("float64") + np.roll(whole, 1, 0)) / 2).reshape(SIZE, -1)
    mixed, number = (y + np.roll(y, 1, 0)) / 2, (numbers + np.roll(numbers, 1, 0)) / 2
    sign = np.sign(seen @ kernels[1] - number[:, None])
    expected = [step(kernels[0], seen, mixed), kernels[1] - RATE * seen.T @ sign / SIZE]
    for e, a in zip(expected, student.get_weights(), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)  # inputs up to 255


@cases("loss", "confidence", on_one_backend=["divergence"])
def test_without_a_label_weight_labels_are_mixed_where_the_loss_uses_them(images, loss):
    x, y = images
    teacher, student = linear(), linear()
    of_loss = {"confidence": losses.ConfidenceWeighted(), "divergence": losses.KnowledgeDistillation()}[loss]
    distiller = Distiller(
        student=student, teacher=teacher, label_weight=0, distillation_loss=of_loss, augmentation=Turned()
    )
    # For metrics alone, labels stay those of the first image.
    whole = y if loss == "confidence" else y.argmax(-1)
    (kernel,), (of_teacher,) = student.get_weights(), teacher.get_weights()
    metric = "accuracy" if loss == "divergence" else None
    distiller.compile(keras.optimizers.SGD(RATE), metrics=metric and [metric])
    logs = distiller.fit(x, whole, batch_size=SIZE, shuffle=False, verbose=0).history

    seen, mixed = ((each + np.roll(each, 1, 0)).reshape(SIZE, -1) / 2 for each in (x, y))
    p, q = oracles.softmax(seen @ of_teacher), oracles.softmax(seen @ kernel)
    if loss == "divergence":
        assert logs["accuracy"][0] == pytest.approx((q.argmax(-1) == whole).mean())
        np.testing.assert_allclose(student.get_weights()[0], step(kernel, seen, p), rtol=0, atol=2e-6)
    else:
        weight = p.max(-1) / p.max(-1).sum()
        expected = kernel - RATE * seen.T @ (weight[:, None] * (q - mixed))
        np.testing.assert_allclose(student.get_weights()[0], expected, rtol=0, atol=2e-6)


def test_only_images_are_mixed_where_there_are_no_labels(images):
    teacher = linear()
    student = keras.models.clone_model(teacher)
    student.set_weights(teacher.get_weights())
    options = {"distillation_loss": losses.KnowledgeDistillation()}
    distiller = Distiller(student=student, teacher=teacher, label_weight=0, augmentation=layers.CutMix(), **options)
    distiller.compile("sgd")
    logs = distiller.fit(images[0], epochs=2, verbose=0).history

    np.testing.assert_allclose(logs["distillation_loss"], 0, atol=1e-6)  # A student that sees what its equal sees.


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_models_in_half_precision_take_mixes_in_single_precision(images, policy):
    keras.config.set_dtype_policy(policy)
    with pytest.raises(ValueError, match=re.escape("Use `CutMix(..., dtype='float32')`")):
        Distiller(student=linear(), augmentation=[layers.CutMix()])
    augmentation = layers.CutMix(dtype="float32")
    distiller = compiled(Distiller(student=linear(), teacher=linear(), augmentation=augmentation))
    logs = distiller.fit(*images, verbose=0).history

    assert np.isfinite(logs["label_loss"] + logs["distillation_loss"]).all()


# Refused before training


def refusals(x, y):
    whole = y.argmax(-1)
    sparse = crossentropy()
    one_hot = re.escape("`keras.utils.to_categorical(y, classes)`")
    return {
        "whole numbers": ({"loss": sparse}, (x, whole), {}, one_hot),
        "a loss by its name": ({"loss": "sparse_categorical_crossentropy"}, (x, whole), {}, one_hot),
        "whole numbers for another loss": ({}, (x, whole), {}, rf"received int64 of shape \(32,\).*{one_hot}"),
        "one-hot whole numbers": ({}, (x, y.astype("int32")), {}, "must be floats"),
        "labels of pixels": ({}, (x, np.stack([y, y], 1)), {}, r"must be floats of shape \(batch, classes\)"),
        "sample weights": ({}, (x, y), {"sample_weight": np.ones(SIZE)}, "`sample_weight` and `class_weight` do not"),
        "class weights": ({}, (x, y), {"class_weight": {0: 2.0}}, "`sample_weight` and `class_weight` do not"),
        "no images": ({"student": linear((20,))}, (x.reshape(SIZE, 20), y), {}, r"takes images.*\(32, 20\)"),
        "no channels": ({"student": linear((4, 5))}, (x[..., 0], y), {}, r"received `x` of shape \(32, 4, 5\)"),
    }


@pytest.mark.parametrize("name", refusals(np.zeros((SIZE, 4, 5, 1)), np.eye(SIZE, CLASSES)))
def test_what_cannot_be_mixed_is_refused_before_training(images, name):
    own, data, options, message = refusals(*images)[name]
    student = own.get("student") or linear()
    before = values(student)
    augmentation = [layers.RandomFlip(), layers.MixUp()]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        distiller = Distiller(student=student, label_weight=1, augmentation=augmentation)
        compiled(distiller, own.get("loss")).fit(*data, verbose=0, **options)
    assert_same(before, values(student))


@pytest.mark.one_backend
def test_layers_whose_labels_cannot_follow_are_refused(images):
    class Called(Turned):
        def call(self, data, training=True):
            return super().call(data, training)

    def holding(kind):
        class Holding(kind):
            def __init__(self):
                super().__init__()
                self.mix = layers.MixUp()

            def call(self, x, training=False):
                return self.mix(x, training=training)

        return Holding()

    for augmentation, message in [
        (Called(), "has its own `call`"),
        (holding(layers.Layer), "A layer within"),
        (holding(keras.Model), "A layer within"),
        ([layers.RandomFlip(), holding(layers.Layer)], "A layer within"),
    ]:
        with pytest.raises(ValueError, match=message):
            Distiller(student=linear(), augmentation=augmentation)
    with pytest.raises(ValueError, match="about the one true class of an example"):
        loss = losses.DecoupledKnowledgeDistillation()
        Distiller(student=linear(), distillation_loss=loss, augmentation=layers.MixUp())
    inputs = [keras.Input((4, 5, 1)), keras.Input((4, 5, 1))]
    two = keras.Model(inputs, layers.Dense(CLASSES)(layers.Flatten()(layers.Add()(inputs))))
    distiller = compiled(Distiller(student=two, label_weight=1, augmentation=layers.MixUp()))
    with pytest.raises(ValueError, match="mixes images: one array of shape"):
        distiller.fit([images[0], images[0]], images[1], verbose=0)


@pytest.mark.one_backend
def test_views_are_not_mixed(images):
    x = images[0]
    for make in (
        lambda: SoftTargets.from_teacher(linear(), x, augmentation=[layers.MixUp()]),
        lambda: BornAgainSequence(linear(), augmentation=layers.CutMix(), views=2),
        lambda: BornAgainSequence(linear(), augmentation=layers.CutMix(), soft_targets="cached"),
    ):
        with pytest.raises(ValueError, match="soft_targets='online'"):
            make()


@pytest.mark.one_backend
def test_views_take_a_list_of_layers(images):
    def make(factor):
        return [layers.RandomFlip(), layers.RandomBrightness(factor)]

    targets = SoftTargets.from_teacher(linear(), images[0], augmentation=make(0.2), views=2, verbose=0)
    distiller = compiled(Distiller(student=linear(), augmentation=make(0.2)))
    logs = distiller.fit(*images, soft_targets=targets, verbose=0).history

    assert np.isfinite(logs["distillation_loss"]).all()
    with pytest.raises(ValueError, match="another `augmentation` made"):
        targets.verify(linear(), images[0], augmentation=make(0.3))


@pytest.mark.one_backend
def test_a_run_knows_the_layers_of_a_list_again(images, tmp_path):
    def run(*augmentation):
        sequence = BornAgainSequence(linear(), 1, directory=tmp_path / "run", seed=1, augmentation=list(augmentation))
        sequence.compile("sgd", dense())
        sequence.fit(*images, verbose=0, validation_data=images)

    run(layers.RandomFlip(), layers.MixUp(0.3))
    run(layers.RandomFlip(), layers.MixUp(0.3))
    with pytest.raises(ValueError, match="alpha"):
        run(layers.RandomFlip(), layers.MixUp(0.4))
