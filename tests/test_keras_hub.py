"""Tasks of KerasHub with a `preprocessor`.

The oracle is the same task without one, on data that were preprocessed by hand.
"""

import keras
import numpy as np
import pytest
from helpers.models import assert_same, crossentropy

from keras_ban import BornAgainSequence, Distiller, SoftTargets, reborn
from keras_ban._src.backend import flat_layers

keras_hub = pytest.importorskip("keras_hub")
# A masked language model has no use for the pooler of its backbone.
pytestmark = pytest.mark.filterwarnings("ignore:Gradients do not exist for variables .*pooled_dense:UserWarning")

SMALL = {"num_layers": 1, "num_heads": 1, "hidden_dim": 4, "intermediate_dim": 4, "max_sequence_length": 6}
SMALL |= {"dropout": 0}
FIT = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "quick", "brown", "fox", "over", "lazy", "dog"]
TEXTS = np.array(["the quick fox", "the lazy dog", "fox over dog", "the brown the fox"] * 2)


def image_classifier(preprocess=True, size=8):
    backbone = keras_hub.models.ViTBackbone((size, size, 3), 4, num_layers=1, num_heads=1, hidden_dim=4, mlp_dim=4)
    converter = keras_hub.layers.ViTImageConverter(image_size=(size, size), scale=1 / 127.5, offset=-1.0)
    preprocessor = keras_hub.models.ViTImageClassifierPreprocessor(image_converter=converter) if preprocess else None
    return keras_hub.models.ViTImageClassifier(backbone=backbone, num_classes=3, preprocessor=preprocessor)


def bert(words):
    return keras_hub.models.BertBackbone(vocabulary_size=len(words), **SMALL)


def text_classifier(preprocess=True, words=WORDS):
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=words)
    preprocessor = keras_hub.models.BertTextClassifierPreprocessor(tokenizer, sequence_length=6)
    preprocessor = preprocessor if preprocess else None
    return keras_hub.models.BertTextClassifier(bert(words), 3, preprocessor, dropout=0)


def masked_lm(preprocess=True):
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=WORDS)
    options = {"sequence_length": 6, "mask_selection_length": 2, "mask_selection_rate": 0.4}
    preprocessor = keras_hub.models.BertMaskedLMPreprocessor(tokenizer, **options) if preprocess else None
    return keras_hub.models.BertMaskedLM(backbone=bert(WORDS), preprocessor=preprocessor)


def causal_lm(preprocess=True):
    vocabulary = {token: i for i, token in enumerate(["<|endoftext|>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = keras_hub.models.GPT2Tokenizer(vocabulary=vocabulary, merges=[])
    preprocessor = keras_hub.models.GPT2CausalLMPreprocessor(tokenizer, sequence_length=6) if preprocess else None
    backbone = keras_hub.models.GPT2Backbone(vocabulary_size=len(vocabulary), **SMALL)
    return keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=preprocessor)


def segmenter(preprocess=True):
    encoder = keras_hub.models.MiTBackbone(
        image_shape=(16, 16, 3),
        num_layers=4,
        hidden_dims=[2, 4, 6, 8],
        layerwise_depths=[1, 1, 1, 1],
        layerwise_num_heads=[1, 1, 1, 1],
        layerwise_sr_ratios=[1, 1, 1, 1],
        layerwise_patch_sizes=[3, 3, 3, 3],
        layerwise_strides=[2, 2, 1, 1],
        max_drop_path_rate=0.0,
    )
    backbone = keras_hub.models.SegFormerBackbone(image_encoder=encoder, projection_filters=4)
    converter = keras_hub.layers.SegFormerImageConverter(image_size=(16, 16), scale=1 / 255)
    make = keras_hub.models.SegFormerImageSegmenterPreprocessor
    preprocessor = make(image_converter=converter, resize_output_mask=True) if preprocess else None
    model = keras_hub.models.SegFormerImageSegmenter(backbone=backbone, num_classes=3, preprocessor=preprocessor)
    for layer in flat_layers(model):
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0.0  # No argument sets it.
    return model


def images(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (8, size, size, 3)).astype("uint8")


LABELS = np.arange(8) % 3
MASKS = np.random.default_rng(1).integers(0, 3, (8, 20, 20, 1))
TASKS = {
    "image classifier": (image_classifier, images(10), LABELS),
    "text classifier": (text_classifier, TEXTS, LABELS),
    "causal language model": (causal_lm, TEXTS, None),
    "segmenter": (segmenter, images(20), MASKS),
}


def compiled(student, teacher=None, **options):
    distiller = Distiller(student=student, teacher=teacher, **options)
    distiller.compile(keras.optimizers.SGD(0.1), crossentropy())
    return distiller


def by_hand(task, x, y):
    """The data as the task preprocesses them."""
    x = x.tolist() if x.dtype.kind == "U" else x
    parts = keras.utils.unpack_x_y_sample_weight(task.preprocessor(x, y=y))
    return keras.tree.map_structure(lambda part: None if part is None else keras.ops.convert_to_numpy(part), parts)


ON_EACH_BACKEND = ("text classifier", "causal language model")


def batches(parts):
    """A dataset whose batches have no fixed size, as those of a preprocessor. TensorFlow rounds alike then."""
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices(parts).batch(4)


@pytest.mark.parametrize(
    "name", [name if name in ON_EACH_BACKEND else pytest.param(name, marks=pytest.mark.one_backend) for name in TASKS]
)
def test_a_distiller_trains_a_task_as_on_data_preprocessed_by_hand(name):
    build, x, y = TASKS[name]
    student, teacher = build(), build()
    others = [build(preprocess=False) for _ in range(2)]
    for task, other in zip((student, teacher), others, strict=True):
        other.set_weights(task.get_weights())
    inputs, labels, weights = by_hand(teacher, x, y)
    data = batches((inputs, labels) if weights is None else (inputs, labels, weights))
    expected, distiller = compiled(*others), compiled(student, teacher)
    logs = expected.fit(data, epochs=2, shuffle=False, verbose=0).history
    assert logs == distiller.fit(x, y, **FIT).history
    assert_same(others[0].get_weights(), student.get_weights())
    # Stored soft targets belong to the rows of `x`.
    targets = SoftTargets.from_teacher(teacher, x, batch_size=4, verbose=0)
    expected_targets = SoftTargets.from_teacher(others[1], batches(inputs), verbose=0)
    np.testing.assert_array_equal(expected_targets.to_dense(), targets.to_dense())
    scores = expected.evaluate(data, verbose=0)
    assert scores == distiller.evaluate(x, y, batch_size=4, verbose=0)
    assert distiller.fit(x, y, soft_targets=targets, **FIT).history["loss"][0] < logs["loss"][0]
    assert reborn(student).preprocessor is student.preprocessor


@pytest.mark.one_backend
def test_a_task_takes_pairs_of_texts():
    student, x = text_classifier(), (TEXTS, TEXTS[::-1])
    other = text_classifier(preprocess=False)
    other.set_weights(student.get_weights())
    inputs, _ = student.preprocessor(tuple(map(list, x)), y=LABELS)
    inputs = keras.tree.map_structure(keras.ops.convert_to_numpy, inputs)
    expected = compiled(other, label_weight=1.0).fit(inputs, LABELS, **FIT).history
    assert expected == compiled(student, label_weight=1.0).fit(x, LABELS, **FIT).history


@pytest.mark.one_backend
def test_masks_drawn_at_random_are_the_same_for_student_and_teacher():
    student = masked_lm()
    # A student that equals its teacher has no distillation loss, if both see the same masks.
    teacher = masked_lm()
    teacher.set_weights(student.get_weights())
    logs = compiled(student, teacher, label_weight=0.0).fit(TEXTS, **FIT).history
    np.testing.assert_allclose(0.0, logs["loss"], atol=1e-6)
    with pytest.raises(ValueError, match="makes other inputs of the same data each time"):
        SoftTargets.from_teacher(teacher, TEXTS, verbose=0)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("student", "teacher", "x"),
    [
        (image_classifier, lambda: image_classifier(size=16), images(10)),
        (text_classifier, lambda: text_classifier(words=[*WORDS[:5], *WORDS[:4:-1], "cat"]), TEXTS),
    ],
    ids=["image size", "vocabulary"],
)
def test_a_teacher_of_another_image_size_or_vocabulary_gets_its_own_inputs(student, teacher, x):
    student, teacher = student(), teacher()
    distiller, again = compiled(student, teacher), compiled(reborn(student))
    again.student.set_weights(student.get_weights())
    targets = SoftTargets.from_teacher(teacher, x, batch_size=4, verbose=0)
    expected = again.fit(x, LABELS, soft_targets=targets, **FIT).history
    actual = distiller.fit(x, LABELS, **FIT).history
    np.testing.assert_allclose(expected["loss"], actual["loss"], rtol=1e-5)


@pytest.mark.one_backend
def test_a_sequence_of_texts_is_stored_and_loaded(tmp_path):
    sequence = BornAgainSequence(text_classifier(), 1, directory=tmp_path, seed=0)
    sequence.compile(keras.optimizers.SGD(0.1), crossentropy(), metrics=["accuracy"])
    history = sequence.fit(TEXTS, LABELS, validation_data=(TEXTS, LABELS), **FIT)
    loaded = BornAgainSequence.load(tmp_path)
    assert history.ensemble == loaded.evaluate(TEXTS, LABELS).ensemble
    assert_same([sequence.ensemble().predict(TEXTS, verbose=0)], [loaded.ensemble().predict(TEXTS, verbose=0)])
    assert sequence.fit(TEXTS, LABELS, validation_data=(TEXTS, LABELS), **FIT).records == history.records


@pytest.mark.parametrize("form", ["arrays", "a dataset"])
@pytest.mark.parametrize(
    "name", [name if name in ON_EACH_BACKEND else pytest.param(name, marks=pytest.mark.one_backend) for name in TASKS]
)
def test_a_sequence_of_a_task_is_evaluated_as_on_data_preprocessed_by_hand(name, form):
    build, x, y = TASKS[name]
    sequence = BornAgainSequence(build(), 1, seed=0)
    sequence.compile(keras.optimizers.SGD(0.1), crossentropy(), metrics=["accuracy"])
    sequence.fit(x, y, **{**FIT, "epochs": 1})

    if form == "arrays":
        history = sequence.evaluate(x, y, batch_size=4)
    else:
        pytest.importorskip("tensorflow")
        import tensorflow as tf

        history = sequence.evaluate(tf.data.Dataset.from_tensor_slices(x if y is None else (x, y)).batch(4))

    inputs, labels, weights = by_hand(sequence.models[0], x, y)
    for record, model in zip(history.records, sequence.models, strict=True):
        other = build(preprocess=False)
        other.set_weights(model.get_weights())
        other.compile(loss=crossentropy(), metrics=["accuracy"])
        expected = other.evaluate(inputs, labels, sample_weight=weights, batch_size=4, verbose=0, return_dict=True)
        # The language model compiles a metric of its own, too.
        assert {"loss", "accuracy"} == set(record.evaluation)
        for metric, value in record.evaluation.items():
            np.testing.assert_allclose(expected[metric], value, rtol=1e-4, err_msg=metric)
        assert record.scores is not None
    assert history.ensemble is not None and [] == history.notes


@pytest.mark.one_backend
def test_a_sequence_of_a_task_that_draws_masks_is_evaluated_without_a_paired_test():
    sequence = BornAgainSequence(masked_lm(), 1, seed=0)
    sequence.compile(keras.optimizers.SGD(0.1), crossentropy(), metrics=["accuracy"])
    sequence.fit(TEXTS, **{**FIT, "epochs": 1})
    history = sequence.evaluate(TEXTS, batch_size=4)
    assert np.isfinite([record.evaluation["loss"] for record in history.records]).all()
    assert [None, None] == [record.scores.p_value for record in history.records]


@pytest.mark.one_backend
@pytest.mark.parametrize("use", ["Distiller", "BornAgainSequence", "SoftTargets"])
def test_a_dict_that_a_preprocessor_does_not_take_is_told_how_to_be_passed(use):
    tf = pytest.importorskip("tensorflow")
    columns = {"text": TEXTS, "label": np.arange(8) % 3}
    sequence = BornAgainSequence(text_classifier(), generations=1)
    sequence.compile("sgd", crossentropy())
    uses = {
        "Distiller": lambda data: compiled(text_classifier(), text_classifier()).fit(data, verbose=0),
        "BornAgainSequence": lambda data: sequence.fit(data, verbose=0),
        "SoftTargets": lambda data: SoftTargets.from_teacher(text_classifier(), data, verbose=0),
    }
    for data in (columns, tf.data.Dataset.from_tensor_slices(columns).batch(4)):
        with pytest.raises(
            ValueError, match=r"entries \['text', 'label'\]\. .* `\(batch\['text'\], batch\['label'\]\)`"
        ):
            uses[use](data)
