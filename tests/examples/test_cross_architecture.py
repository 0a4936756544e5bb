"""Teachers and students of different architectures, and the classifiers of KerasCV, which end in a softmax."""

import sys

import cross_architecture
import keras
import numpy as np
import pytest
from helpers.models import assert_same, values
from helpers.processes import run_script
from oracles import knowledge_distillation

import keras_ban

INPUT_SHAPE = (8, 8, 3)
RNG = np.random.default_rng(5)
X = RNG.standard_normal((6, *INPUT_SHAPE)).astype("float32")
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def kerascv():
    """`keras_cv.models`; here, and not above, because importing it takes seconds."""
    reason = "KerasCV, or the TensorFlow that it needs, is not installed"
    return pytest.importorskip("keras_cv", reason=reason).models


OF_BACKBONES = {"include_rescaling": False, "input_shape": INPUT_SHAPE}


def densenet(kerascv):
    of_densenet = {"stackwise_num_repeats": [1, 1], "growth_rate": 4, "compression_ratio": 0.25}
    backbone = kerascv.DenseNetBackbone(**of_densenet, **OF_BACKBONES)
    return kerascv.ImageClassifier(backbone=backbone, num_classes=3, pooling="max")


def resnet(kerascv):
    of_resnet = {"stackwise_filters": [4], "stackwise_blocks": [2], "stackwise_strides": [2]}
    return kerascv.ImageClassifier(backbone=kerascv.ResNetV2Backbone(**of_resnet, **OF_BACKBONES), num_classes=3)


BOTH = pytest.mark.parametrize("build", [pytest.param(densenet, marks=pytest.mark.one_backend), resnet])


def probabilities(model, **options):
    return keras.ops.convert_to_numpy(model(X, **options)).astype("float64")


@pytest.mark.parametrize(
    "teacher, student",
    [
        # One of the two alone as a rule, because compiling these takes long.
        pytest.param(densenet, resnet, marks=pytest.mark.slow),
        pytest.param(resnet, densenet, marks=pytest.mark.one_backend),
    ],
)
def test_kerascv_classifiers_teach_each_other_by_their_probabilities(kerascv, teacher, student, tmp_path):
    teacher, student = teacher(kerascv), student(kerascv)
    # As it is trained: normalized by the batch.
    p, q = probabilities(teacher), probabilities(student, training=True)
    loss = keras_ban.losses.KnowledgeDistillation(temperature=2.0, from_logits=False)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, distillation_loss=loss, label_weight=0.3)
    distiller.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy())
    of_teacher, of_student = values(teacher), values(student)

    logs = distiller.fit(X, Y, batch_size=6, verbose=0).history

    distillation_loss = knowledge_distillation(np.log(p), np.log(q), 2.0).mean()
    label_loss = -np.log(q[np.arange(6), Y]).mean()
    # float32, through some ten layers: 1e-6 at most was seen.
    np.testing.assert_allclose(logs["distillation_loss"], [distillation_loss], rtol=1e-4)
    np.testing.assert_allclose(logs["label_loss"], [label_loss], rtol=1e-4)
    np.testing.assert_allclose(logs["loss"], [0.3 * label_loss + 0.7 * distillation_loss], rtol=1e-4)
    assert_same(of_teacher, values(teacher))
    assert any(np.any(before != after) for before, after in zip(of_student, values(student), strict=True))

    distiller.student.save(tmp_path / "student.keras")
    loaded = keras.saving.load_model(tmp_path / "student.keras")
    assert type(student) is type(loaded)
    assert_same([probabilities(student)], [probabilities(loaded)])


@BOTH
def test_reborn_gives_a_kerascv_classifier_fresh_weights_and_its_configuration(kerascv, build):
    model = build(kerascv)
    new = keras_ban.reborn(model)

    assert (type(model), type(model.backbone)) == (type(new), type(new.backbone))
    assert model.get_config() == new.get_config()
    # Not what begins with ones or zeros.
    pairs = zip(values(model), values(new), strict=True)
    kernels = [(old, fresh) for old, fresh in pairs if old.ndim > 1 or np.ptp(old) > 0]
    assert 6 <= len(kernels)
    assert all(old.shape == fresh.shape and np.all(old != fresh) for old, fresh in kernels)


@BOTH
def test_reborn_keeps_a_frozen_backbone_and_frees_a_frozen_classifier(kerascv, build):
    model = build(kerascv)
    trainable = len(model.trainable_variables)

    model.backbone.trainable = False
    new = keras_ban.reborn(model)
    assert 2 == len(new.trainable_variables)
    assert_same(values(model.backbone), values(new.backbone))

    model.trainable = False
    new = keras_ban.reborn(model)
    assert trainable == len(new.trainable_variables)
    assert np.any(values(model.backbone)[0] != values(new.backbone)[0])


@pytest.mark.one_backend
def test_an_ensemble_of_kerascv_classifiers_averages_their_probabilities(kerascv, tmp_path):
    members = [densenet(kerascv), resnet(kerascv)]
    ensemble = keras_ban.EnsembleModel(members, weights=[1, 3], from_logits=False)

    # float32.
    expected = (probabilities(members[0]) + 3 * probabilities(members[1])) / 4
    np.testing.assert_allclose(expected, probabilities(ensemble), rtol=1e-5)
    ensemble.save(tmp_path / "ensemble.keras")
    loaded = keras.saving.load_model(tmp_path / "ensemble.keras")
    assert [type(member) for member in members] == [type(member) for member in loaded.members]
    assert_same([probabilities(ensemble)], [probabilities(loaded)])


@pytest.mark.one_backend
@pytest.mark.parametrize("name", ["densenet", "resnet"])
def test_without_kerascv_the_example_says_what_to_install(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)

    with pytest.raises(SystemExit, match="densenet and resnet are built with KerasCV, and keras_cv is missing: pip"):
        cross_architecture.ARCHITECTURES[name]((32, 32, 3), 10)


@pytest.mark.one_backend
def test_the_examples_models_are_of_like_capacity_and_give_probabilities(kerascv):
    with keras.StatelessScope(initialize_variables=False):  # which draws no weights
        models = {name: build((32, 32, 3), 10) for name, build in cross_architecture.ARCHITECTURES.items()}

    weights = [model.count_params() for model in models.values()]
    assert (168_922, 176_250) == (min(weights), max(weights))
    for model in models.values():
        last = model.layers[-1]
        assert isinstance(last, keras.layers.Softmax) or keras.activations.softmax is last.activation
        # One softmax alone.
        others = [getattr(layer, "activation", None) for layer in model.layers[:-1]]
        assert keras.activations.softmax not in others


@pytest.mark.one_backend
def test_the_examples_digits_are_scikit_learns_enlarged_and_standardized():
    sklearn = pytest.importorskip("sklearn.datasets")
    parts = cross_architecture.load_digits(seed=3)
    train, validation, test = cross_architecture.standardized(parts)

    assert [(300, 32, 32, 3), (300, 32, 32, 3), (1197, 32, 32, 3)] == [x.shape for x, _ in (train, validation, test)]
    # Mean and deviation were taken in float32, of 300,000 numbers.
    np.testing.assert_allclose(train[0].mean(axis=(0, 1, 2), dtype="float64"), 0, atol=1e-5)
    np.testing.assert_allclose(train[0].std(axis=(0, 1, 2), dtype="float64"), 1, atol=1e-4)
    enlarged = np.concatenate([x for x, _ in parts])
    assert_same([np.sort(sklearn.load_digits().images.ravel())], [np.sort(enlarged[:, ::4, ::4, 0].ravel())])
    assert_same([np.kron(enlarged[0, ::4, ::4, 0], np.ones((4, 4)))], [enlarged[0, :, :, 2]])


@pytest.mark.one_backend
def test_the_example_trains_a_teacher_of_one_kind_and_students_of_another(monkeypatch, capsys, tmp_path):
    def tiny(units):
        def build(input_shape, classes):
            layers = [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(units, activation="relu")]
            return keras.Sequential([*layers, keras.layers.Dense(classes, activation="softmax")])

        return build

    # Those of the example take long to compile.
    monkeypatch.setattr(cross_architecture, "ARCHITECTURES", {"densenet": tiny(3), "wide_resnet": tiny(5)})
    images = RNG.integers(0, 256, (40, 4, 4, 3)).astype("uint8")
    labels = (np.arange(40) % 3).astype("uint8")
    path = tmp_path / "data.npz"
    np.savez(path, x_train=images[:30], y_train=labels[:30, None], x_test=images[30:], y_test=labels[30:, None])
    options = {"teacher": "wide_resnet", "student": "densenet", "data": path, "generations": 1, "epochs": 1}
    command = ["cross_architecture.py", *(f"--{name}={value}" for name, value in options.items())]
    monkeypatch.setattr(sys, "argv", command)

    cross_architecture.main()

    printed = capsys.readouterr().out
    # 48 inputs, 3 outputs.
    assert f"teacher: wide_resnet, {48 * 5 + 5 + 5 * 3 + 3} weights" in printed
    assert f"students: densenet, {48 * 3 + 3 + 3 * 3 + 3} weights" in printed
    assert "Generations on test data (10 examples)" in printed
    for word in ("Generation 1 of 1, taught by generation 0", "0 (teacher)", "ensemble of 2"):
        assert word in printed


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "arrays, message",
    [
        (None, "must be a .npz file of the arrays x_train, y_train: .*No such file"),
        ({"x_train": X}, "must be a .npz file of the arrays x_train, y_train: there is no y_train"),
        (
            {"x_train": X, "y_train": np.arange(6), "x_test": X[:, :4], "y_test": np.arange(6)},
            r"must hold images \(n, height, width, channels\) of one size: x_train is \(6, 8, 8, 3\), x_test \(6, 4",
        ),
        (
            dict.fromkeys(["x_train", "y_train", "x_test", "y_test"], X),
            r"channels\), and a label of each: x_train is \(6, 8, 8, 3\), y_train is \(6, 8, 8, 3\)",
        ),
    ],
)
def test_files_that_the_example_cannot_read_are_refused(arrays, message, tmp_path):
    path = tmp_path / "data.npz"
    if arrays is not None:
        np.savez(path, **arrays)

    with pytest.raises(SystemExit, match=message):
        cross_architecture.read(path, seed=0)


@pytest.mark.slow
@pytest.mark.new_process
@pytest.mark.parametrize(
    "teacher, student", [("densenet", "resnet"), ("resnet", "densenet"), ("wide_resnet", "small_resnet")]
)
def test_born_again_as_another_architecture_prints_its_table(teacher, student, request):
    pytest.importorskip("sklearn")
    if "densenet" in (teacher, student):
        request.getfixturevalue("kerascv")
    options = ["--backend", keras.config.backend(), "--epochs", 1, "--generations", 1]

    result = run_script("examples/cross_architecture.py", "--teacher", teacher, "--student", student, *options)

    assert 0 == result.returncode, result.stderr
    for words in (f"teacher: {teacher}", f"students: {student}", "test data (1197 examples)", "ensemble of 2"):
        assert words in result.stdout
