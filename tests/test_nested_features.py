"""Feature matching with layers of models inside the student and the teacher, which are named by their paths."""

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES
from helpers.models import assert_same, crossentropy, values
from helpers.tables import cases
from keras import ops

import keras_ban
from keras_ban import FeatureMatching
from keras_ban._src.distillation.observer import Observer

# The layers of a network with two hidden blocks, written flat and with the blocks in models inside it.
PLACES = {
    "flat": ["block_1", "block_2"],
    "functional": ["backbone/block_1", "backbone/block_2"],
    "sequential": ["backbone/block_1", "backbone/block_2"],
    "deep": ["backbone/stem/block_1", "backbone/block_2"],
    "top level too": ["backbone", "block_2"],
}


def stack(layers, x):
    for layer in layers:
        x = layer(x)
    return x


def nest(layers, kind, shape, name):
    """The layers as one model, which is functional or Sequential."""
    inputs = keras.Input(shape)
    if kind == "sequential":
        return keras.Sequential([inputs, *layers], name=name)
    return keras.Model(inputs, stack(layers, inputs), name=name)


def network(kind, width=4, seed=None):
    """8 numbers in, two blocks with BatchNormalization and Dropout between them, three logits out."""
    first, second = (keras.layers.Dense(width, activation="tanh", name=f"block_{i}") for i in (1, 2))
    norm, drop = keras.layers.BatchNormalization(name="norm"), keras.layers.Dropout(0.3, seed=1, name="drop")
    inputs, out = keras.Input((8,)), keras.layers.Dense(CLASSES, name="out")
    if kind == "flat":
        model = keras.Model(inputs, stack([first, norm, drop, second, out], inputs))
    elif kind == "deep":
        stem = nest([first, norm], "sequential", (8,), "stem")
        model = keras.Model(inputs, out(nest([stem, drop, second], "functional", (8,), "backbone")(inputs)))
    elif kind == "top level too":
        backbone = nest([first], "functional", (8,), "backbone")
        model = keras.Model(inputs, stack([backbone, norm, drop, second, out], inputs))
    else:
        model = keras.Sequential([inputs, nest([first, norm, drop, second], kind, (8,), "backbone"), out])
    if seed is not None:
        set_weights(model, seed)
    return model


def named_weights(model):
    return {v.path.split("/")[-2] + "/" + v.name: v for v in model.weights if "seed_generator" not in v.path}


def set_weights(model, seed):
    """Equal weights for all kinds, whatever the order of their variables."""
    rng = np.random.default_rng(seed)
    variables = named_weights(model)
    for name in sorted(variables):
        if name.endswith("kernel"):
            variables[name].assign(rng.standard_normal(variables[name].shape))


def trained(kind, kind_of_teacher, blobs, width=6, **options):
    """The logs of three steps, and the weights after them, by the names of layers and projections."""
    x, y = blobs
    matching = FeatureMatching(dict(zip(PLACES[kind], PLACES[kind_of_teacher], strict=True)), weight=0.7)
    student, teacher = network(kind, seed=1), network(kind_of_teacher, width, seed=2)
    before = values(teacher)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, feature_matching=matching)
    for i, name in enumerate(PLACES[kind] if distiller.projections else []):
        distiller.projections[name].set_weights([np.eye(4, width) * (i + 1)])
    distiller.compile(keras.optimizers.SGD(0.1), crossentropy(), **options)
    logs = distiller.fit(x, y, batch_size=48, epochs=2, shuffle=False, verbose=0).history
    assert_same(before, values(teacher))
    projections = [layer.get_weights()[0] for layer in distiller.projections.values()]
    return logs, {n: ops.convert_to_numpy(v) for n, v in named_weights(student).items()}, projections


@cases("kind, width", ("deep", 6), on_one_backend=[(k, w) for k in PLACES if k != "flat" for w in (4, 6)])
def test_a_nested_network_trains_as_the_same_network_written_flat(blobs, kind, width):
    expected_logs, expected, expected_projections = trained("flat", "flat", blobs, width)

    logs, weights, projections = trained(kind, kind, blobs, width)

    assert expected_logs.keys() == logs.keys()
    for name in logs:
        np.testing.assert_allclose(expected_logs[name], logs[name], rtol=1e-5)  # float32
    assert expected.keys() == weights.keys()
    for name in weights:
        np.testing.assert_allclose(expected[name], weights[name], atol=2e-6, err_msg=name)
    assert len(projections) == (2 if width == 6 else 0)
    for one, other in zip(expected_projections, projections, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.one_backend
def test_the_student_may_name_a_path_and_the_teacher_a_layer(blobs):
    expected = trained("flat", "flat", blobs)
    for kinds in (("deep", "flat"), ("flat", "sequential")):
        logs, weights, _ = trained(*kinds, blobs)
        np.testing.assert_allclose(expected[0]["feature_loss"], logs["feature_loss"], rtol=1e-5)
        for name in weights:
            np.testing.assert_allclose(expected[1][name], weights[name], atol=2e-6, err_msg=name)


@cases("place", "inside", on_one_backend=["before"])
def test_padding_counts_nothing_among_features_of_a_nested_model(place):
    tokens = np.random.default_rng(0).integers(1, 12, (8, 6))
    tokens[:3, 4:] = 0

    def language_model():
        inputs, embed = keras.Input((6,), dtype="int32"), keras.layers.Embedding(12, 5, mask_zero=True)
        layers = [keras.layers.Dense(4, name="hidden"), keras.layers.Dense(4, name="second")]
        if place == "inside":
            within = keras.Input((6,), dtype="int32")
            backbone = keras.Model(within, stack([embed, *layers], within), name="backbone")
            return keras.Model(inputs, keras.layers.Dense(12)(backbone(inputs)))
        backbone = nest(layers, "functional", (6, 5), "backbone")
        backbone.supports_masking = True  # Else Keras warns that the mask is lost.
        return keras.Model(inputs, keras.layers.Dense(12)(backbone(embed(inputs))))

    student, teacher = language_model(), language_model()
    loss, matching = keras_ban.losses.KnowledgeDistillation(), FeatureMatching(["backbone/hidden"])
    distiller = keras_ban.Distiller(
        student=student, teacher=teacher, distillation_loss=loss, feature_matching=matching, label_weight=0
    )
    distiller.compile(keras.optimizers.SGD(0.0), run_eagerly=True)

    logs = distiller.train_on_batch(tokens, tokens, return_dict=True)

    weights = [model.get_weights() for model in (student, teacher)]
    hidden = [w[0][tokens].astype("float64") @ w[1] + w[2] for w in weights]
    difference = ((hidden[0] - hidden[1]) ** 2).mean(-1)
    np.testing.assert_allclose(difference[tokens > 0].mean(), logs["feature_loss"], rtol=1e-5)
    outputs = [(h @ w[3] + w[4]) @ w[5] + w[6] for h, w in zip(hidden, weights, strict=True)]
    of_student, of_teacher = (oracles.softmax(each) for each in outputs)
    divergence = (of_teacher * np.log(of_teacher / of_student)).sum(-1)
    np.testing.assert_allclose(divergence[tokens > 0].mean(), logs["distillation_loss"], rtol=1e-4)


@cases("policy", "mixed_bfloat16", on_one_backend=["mixed_float16", "float32"])
def test_outputs_are_those_of_the_model_itself(policy):
    """With a Sequential model first, which casts its inputs, a model of several outputs and one of arguments."""
    keras.config.set_dtype_policy(policy)
    try:
        inputs = keras.Input((8,), dtype="float32")
        hidden = keras.layers.Dense(4, name="hidden", dtype="float32")
        first = keras.Sequential([keras.Input((8,), dtype="float32"), hidden], name="first")
        within = keras.Input((4,))
        pair = keras.Model(
            within, {"b": keras.layers.Dense(3, name="b")(within), "a": keras.layers.ReLU()(within)}, name="pair"
        )
        both = pair(first(inputs, training=False))
        model = keras.Model(inputs, [both["b"], keras.layers.Dense(2)(both["a"])])
    finally:
        keras.config.set_dtype_policy("float32")
    x = np.random.default_rng(0).standard_normal((5, 8)).astype("float32")

    observed = Observer("student", model, ["pair/b", "first/hidden", "first"])(x, training=False)

    outputs, features = keras.tree.map_structure(ops.convert_to_numpy, tuple(observed))
    expected = keras.tree.map_structure(ops.convert_to_numpy, [*model(x, training=False), first(x)])
    assert_same(expected[:2], outputs)
    assert_same([expected[0], expected[2], expected[2]], features)


def test_a_saved_distiller_goes_on_with_its_nested_features(blobs, tmp_path):
    x, y = blobs
    matching = FeatureMatching({"backbone/stem/block_1": "backbone/block_1"})
    student, teacher = network("deep"), network("sequential", 6)
    student.get_layer("backbone").get_layer("drop").rate = 0  # Keras saves no state of its random numbers.
    distiller = keras_ban.Distiller(student=student, teacher=teacher, feature_matching=matching)
    distiller.compile(keras.optimizers.Adam(0.01), crossentropy())
    # Both train on batches of one size, for which TensorFlow traces the same graph.
    distiller.fit(x, y, batch_size=48, verbose=0)

    distiller.save(tmp_path / "distiller.keras")
    restored = keras.saving.load_model(tmp_path / "distiller.keras")

    options = {"batch_size": 48, "shuffle": False, "verbose": 0}
    assert distiller.fit(x, y, **options).history == restored.fit(x, y, **options).history
    assert_same(distiller.get_weights(), restored.get_weights())
    assert ["backbone/stem/block_1"] == list(restored.projections)


def test_a_sequence_matches_nested_features(blobs, tmp_path):
    x, y = blobs
    matching = FeatureMatching(["backbone/block_2"], weight=0.3)
    sequence = keras_ban.BornAgainSequence(
        network("functional"), generations=1, feature_matching=matching, directory=tmp_path / "run", seed=0
    )
    sequence.compile("sgd", crossentropy())

    logs = sequence.fit(x, y, batch_size=96, verbose=0).records[1].logs

    expected = 0.5 * logs["label_loss"][0] + 0.5 * logs["distillation_loss"][0] + 0.3 * logs["feature_loss"][0]
    np.testing.assert_allclose(expected, logs["loss"][0], rtol=1e-5)
    assert logs["feature_loss"][0] > 0
    restored = keras_ban.BornAgainSequence.load(tmp_path / "run")
    assert {"backbone/block_2": "backbone/block_2"} == restored.feature_matching.layers


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="backbone")
        self.block = keras.layers.Dense(8, name="block")

    def call(self, inputs):
        return self.block(inputs)


def called_twice():
    inputs = keras.Input((8,))
    backbone = nest([keras.layers.Dense(8, name="block")], "functional", (8,), "backbone")
    return keras.Model(inputs, keras.layers.Dense(CLASSES, name="out")(backbone(backbone(inputs))))


def with_a_subclassed_model():
    return keras.Sequential([keras.Input((8,)), Subclassed(), keras.layers.Dense(CLASSES, name="out")])


def large():
    blocks = [keras.layers.Dense(2, name=f"block_{i}") for i in range(30)]
    return keras.Sequential(
        [keras.Input((8,)), nest(blocks, "sequential", (8,), "backbone"), keras.layers.Dense(CLASSES)]
    )


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "student, path, message",
    [
        (called_twice, "backbone/block", "the model 'backbone' is called 2 times.* Name one of \\['input.*', 'out'\\]"),
        (
            with_a_subclassed_model,
            "backbone/block",
            "is a Subclassed, whose `call` is Python.* one of \\['backbone', 'input",
        ),
        (with_a_subclassed_model, "out/kernel", "'out' is a Dense, whose `call` is Python"),
        (with_a_subclassed_model, "block", "inside 'backbone', which cannot be read: match 'backbone' itself"),
        (
            large,
            "backbone/blok_7",
            "no layer named 'backbone/blok_7', but \\['backbone/block_7'.* and others, 34 in all",
        ),
        (large, "backbon/block_7", "no layer named 'backbon', but \\['backbone/block_7'"),
        (large, "block_7", "inside another model: name it 'backbone/block_7'"),
        (lambda: network("deep"), "backbone/block_1", "name it 'backbone/stem/block_1'"),
        (lambda: network("deep"), "backbone/", "no layer named 'backbone/'"),
    ],
)
def test_a_path_that_cannot_be_followed_is_refused_with_those_that_can(student, path, message):
    teacher = network("flat", 8)
    with pytest.raises(ValueError, match=message):
        keras_ban.Distiller(student=student(), teacher=teacher, feature_matching=FeatureMatching({path: "block_1"}))
