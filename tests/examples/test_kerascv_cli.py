"""The command line of examples/kerascv_cli.py: runs in this process, with a small model, and one as a process."""

import argparse
import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import tomllib

import keras
import kerascv_cli
import numpy as np
import pytest
from helpers.training import interrupted_after
from kerascv import models, options, training
from oracles import knowledge_distillation

from keras_ban import BornAgainHistory, BornAgainSequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = """
def tiny(input_shape, classes):
    import keras
    layers = [keras.Input(input_shape), keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(classes, activation="softmax")]
    return keras.Sequential(layers)
"""
exec(TINY)
SHORT = ["--backbone", "test_kerascv_cli:tiny", "--generations", "1", "--epochs", "2", "--batch-size", "100"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run on the digits."""
    pytest.importorskip("sklearn")
    out = tmp_path_factory.mktemp("cli") / "run"
    assert 0 == kerascv_cli.main([*SHORT, "--warmup", "1", "--weight-decay", "0.01", "--out", out])
    return out


def scores(directory):
    history = BornAgainHistory.from_json((directory / "test.json").read_text())
    return [record.scores for record in history.records] + [history.ensemble]


def test_a_run_leaves_models_that_score_what_it_says_and_its_options(run):
    sequence, x, y = BornAgainSequence.load(run), *digits_of_test()
    history = sequence.evaluate(x, np.eye(10)[y], batch_size=100)

    assert 1197 == history.ensemble.examples
    assert scores(run) == [record.scores for record in history.records] + [history.ensemble]
    written = tomllib.loads((run / "options.toml").read_text())
    assert (100, 0.01, "kd", 4.0, 0.3, keras.config.backend()) == tuple(
        written[name] for name in ("batch-size", "weight-decay", "objective", "temperature", "label-weight", "backend")
    )


def digits_of_test():
    from sklearn.datasets import load_digits

    digits = load_digits()
    rows = np.random.default_rng(0).permutation(len(digits.images))[600:]
    images = np.kron((digits.images[rows] * 255 / 16).astype("uint8"), np.ones((1, 4, 4), "uint8"))
    return np.repeat(images[..., None], 3, axis=-1), digits.target[rows]


@pytest.mark.one_backend
def test_the_options_of_a_run_repeat_it_and_an_interrupted_one_ends_in_the_same_scores(run, tmp_path):
    out = tmp_path / "again"
    with interrupted_after(generation=1, epoch=0):
        kerascv_cli.main(["--config", run / "options.toml", "--out", out])
    with pytest.raises(SystemExit, match="2"):
        kerascv_cli.main([*SHORT, "--out", out])  # It holds a run.

    assert 0 == kerascv_cli.main(["--out", out, "--resume"])

    assert scores(run) == scores(out)
    assert (run / "options.toml").read_text() == (out / "options.toml").read_text()


def test_the_report_needs_nothing_else_and_its_numbers_are_those_on_disk(run):
    page = (run / "report.html").read_text()

    assert [] == re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) + re.findall(r"url\((?!#)|@import|<link", page)
    history = BornAgainHistory.from_json(re.search(r'id="history">(.*?)</script>', page, re.DOTALL)[1])
    assert history == BornAgainHistory.from_json((run / "test.json").read_text())
    rows = [re.findall("<td>(.*?)</td>", row) for row in re.findall("<tr.*?</tr>", page)]
    rows = {row[0]: row[1:] for row in rows if row}
    manifest = json.loads((run / "run.json").read_text())
    assert 2 == len(manifest["generations"])
    for generation, name in enumerate(["generation 0 (teacher)", "generation 1"]):
        record = json.loads((run / f"generation-{generation:02d}" / "record.json").read_text())
        on_test = history.records[generation].scores
        assert [f"{on_test.accuracy:.2%}", f"{on_test.nll:.4f}", f"{on_test.ece:.2%}"] == rows[name][:3]
        assert [f"{record['metrics']['val_accuracy']:.2%}", f"{record['metrics']['val_loss']:.4f}"] == rows[name][8:10]
    assert [str(history.records[1].scores.negative_flips), str(history.records[1].scores.positive_flips)] == rows[
        "generation 1"
    ][6:8]
    assert f"{history.ensemble.accuracy:.2%}" == rows["ensemble of 2"][0]


def test_the_pictures_of_the_report_are_there(run):
    page = (run / "report.html").read_text()
    (better,) = re.findall("Generation 1, for the better: ([0-9]+) images", page)

    assert scores(run)[1].positive_flips == int(better)
    assert 4 == page.count("<svg")
    assert 1 <= page.count("data:image/png;base64,")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--data", "photos"], "--data must be digits, npz:PATH, folder:PATH or tfds:NAME, received: photos"),
        (["--data", "tfds:"], "--data must be"),
        (["--backbone", "vgg"], "--backbone must be one of resnet, .* or module:function, received: vgg"),
        (["--teacher-backbone", "vgg"], "--teacher-backbone must be"),
        (["--objective", "cwtm", "--temperature", "2"], "the objective cwtm has none"),
        (["--objective", "dkd", "--augment", "flip,mixup"], "mixup gives an image two labels"),
        (["--augment", "flop"], "must be any of flip, .*, received: flop"),
        (["--epochs", "3", "--warmup", "3"], "--warmup 3 leaves none of --epochs 3"),
        (["--epochs", "0"], "at least 1, received: 0"),
        (["--label-weight", "1.5"], "between 0 and 1, received: 1.5"),
        (["--learning-rate", "nan"], "positive number, received: nan"),
        (["--resume"], "--resume needs --out"),
        (["--config", "nowhere.toml"], "nowhere.toml: .*No such file"),
        (["--out", __file__], "is a file"),
        (["--epoch", "3"], "unrecognized arguments: --epoch"),
    ],
)
def test_wrong_use_is_told_with_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        kerascv_cli.main(arguments)

    assert 2 == stopped.value.code
    assert re.search(message, capsys.readouterr().err)


def test_a_file_of_options_is_checked_and_the_command_line_counts_more(tmp_path, capsys):
    path = tmp_path / "options.toml"
    path.write_text(
        'epochs = 7\naugment = ["flip", "crop"]\ntensorboard = true\ndata = "npz:im\\"ages.npz"\nseed = 3\n'
    )

    chosen = options.parse(["--config", path, "--seed", "4", "--out", tmp_path / "run"])

    assert (7, ["flip", "crop"], True, 4) == (chosen.epochs, chosen.augment, chosen.tensorboard, chosen.seed)
    assert f'npz:{pathlib.Path.cwd()}/im"ages.npz' == chosen.data
    path.write_text(options.to_toml(chosen))
    again = options.parse(["--config", path, "--out", tmp_path / "run"])
    assert {**vars(chosen), "config": None} == {**vars(again), "config": None}
    for content in ("epochs = 0", "epoch = 3", "epochs ="):
        path.write_text(content)
        with pytest.raises(SystemExit, match="2"):
            options.parse(["--config", path, "--out", tmp_path / "run"])
    assert "at least 1, received: 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, message",
    [
        (KeyboardInterrupt(), 130, "Stopped. Nothing was trained yet."),
        (OSError(errno.ENOSPC, "No space left on device", "model.keras"), 1, "model.keras: No space left on device"),
    ],
)
def test_ctrl_c_and_a_full_disk_end_with_a_message_and_a_code(error, code, message, monkeypatch, tmp_path, capsys):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(training, "make_sequence", fail)
    try:
        actual = kerascv_cli.main([*SHORT, "--out", tmp_path / "run"])
    except SystemExit as stopped:
        # Python prints what is no number, and ends with 1.
        actual, printed = 1, stopped.code
    else:
        printed = capsys.readouterr().err
    assert code == actual
    assert message in printed


def test_a_directory_with_other_files_is_refused_in_words(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(SystemExit, match="holds files but no run"):
        kerascv_cli.main([*SHORT, "--out", tmp_path])


@pytest.mark.parametrize("objective", list(options.OBJECTIVES))
def test_objectives_take_outputs_as_probabilities(objective):
    rng = np.random.default_rng(1)
    teacher, student = (rng.dirichlet(np.ones(4), 6) for _ in range(2))
    labels = np.eye(4)[rng.integers(0, 4, 6)]
    temperature, _ = options.OBJECTIVES[objective]
    loss = training.distillation_loss(argparse.Namespace(objective=objective, temperature=temperature))

    value = float(loss({"labels": labels, "soft_targets": teacher}, student))

    if objective == "kd":
        expected = knowledge_distillation(np.log(teacher), np.log(student), 4.0).mean()
        np.testing.assert_allclose(expected, value, rtol=1e-5)  # float32
    if objective == "cwtm":
        weights = teacher.max(axis=-1)
        expected = (weights * -np.log(student[labels == 1])).sum() / weights.sum()
        np.testing.assert_allclose(expected, value, rtol=1e-5)  # float32
    # The same distributions as logits, once normalised: what a softmax of a softmax would not give.
    as_logits = type(loss).from_config({**loss.get_config(), "from_logits": True})
    if objective != "dkpp":  # It draws at random.
        of_logits = float(as_logits({"labels": labels, "soft_targets": np.log(teacher)}, np.log(student)))
        np.testing.assert_allclose(of_logits, value, rtol=1e-5)  # float32
    assert loss.from_logits is False


@pytest.mark.parametrize("names", [["mixup"], ["cutmix"], ["mixup", "cutmix"]])
def test_mixed_images_have_labels_in_the_shares_of_what_was_mixed(names):
    pytest.importorskip("keras_cv", reason="KerasCV, or the TensorFlow that it needs, is not installed")
    y = np.arange(40) % 4
    # Channel c of an image is bright if its class is c; of the fourth class none is.
    x = np.zeros((40, 64, 64, 3), "uint8")
    for c in range(3):
        x[y == c, ..., c] = 200
    chosen = argparse.Namespace(augment=["flip", *names], batch_size=8, seed=1)

    dataset, nothing = training.training_data(chosen, x, np.eye(4, dtype="float32")[y])

    assert nothing is None
    mixed, labels = (np.concatenate(part) for part in zip(*dataset.as_numpy_iterator(), strict=True))
    np.testing.assert_allclose(labels.sum(axis=-1), 1, atol=1e-6)  # float32
    # Less than a pixel of each side of the box, of 64x64.
    tolerance = 129 / 64**2 if "cutmix" in names else 1e-5  # float32
    np.testing.assert_allclose(labels[:, :3], mixed.mean(axis=(1, 2), dtype="float64") / 200, atol=tolerance)
    assert 0 < np.mean(labels.max(axis=-1) < 0.999)
    same, _ = training.training_data(argparse.Namespace(augment=["flip"]), x, y)
    assert same is x


def test_the_learning_rate_rises_and_falls_along_a_cosine():
    chosen = argparse.Namespace(optimizer="sgd", learning_rate=0.1, warmup=1, epochs=3, weight_decay=0.0)
    rate = training.optimizer(chosen, steps=10)._learning_rate

    actual = [float(rate(step)) for step in (0, 5, 10, 20, 30)]
    np.testing.assert_allclose([0.0, 0.05, 0.1, 0.05, 0.0], actual, atol=1e-7)  # float32


def test_models_that_give_no_probabilities_are_refused():
    with pytest.raises(SystemExit, match=r"must return probabilities, but on noise its outputs do not sum to 1"):
        models.check_probabilities("own:logits", tiny_logits((8, 8, 3), 3), (8, 8, 3))
    with pytest.raises(SystemExit, match=r"must return feature maps .* its outputs are of shape \(None, 3\)"):
        models.build(
            "test_kerascv_cli:tiny_logits",
            (8, 8, 3),
            4,
        )
    with pytest.raises(SystemExit, match="no attribute 'none'"):
        models.build("test_kerascv_cli:none", (8, 8, 3), 3)


def tiny_logits(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(3)])


# Its sublayers are built when Keras calls it, which is next.
@pytest.mark.filterwarnings("ignore:`build\\(\\)` was called on layer 'squeeze_and_excite2d:UserWarning")
@pytest.mark.parametrize("name", list(models.BACKBONES))
def test_kerascvs_architectures_give_probabilities_and_come_back_from_their_configuration(name):
    pytest.importorskip("keras_cv", reason="KerasCV, or the TensorFlow that it needs, is not installed")
    keras.config.set_dtype_policy("mixed_bfloat16")
    with keras.StatelessScope(initialize_variables=False):  # which draws no weights
        model = models.build(name, (32, 32, 3), 10)
        again = keras.models.model_from_json(model.to_json())

    assert model.count_params() == again.count_params()
    weights = re.search("([0-9,]+) weights", models.BACKBONES[name].__doc__)[1]
    assert int(weights.replace(",", "")) == model.count_params()
    softmaxes = [layer for layer in model.layers if getattr(layer, "activation", None) is keras.activations.softmax]
    assert [model.layers[-1]] == softmaxes
    assert "float32" == model.layers[-1].compute_dtype


def as_process(*arguments, cwd):
    (cwd / "own.py").write_text(TINY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "numpy"}
    command = [sys.executable, str(ROOT / "examples" / "kerascv_cli.py"), "--backend", keras.config.backend()]
    command += ["--backbone", "own:tiny", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=cwd
    )


@pytest.mark.one_backend
def test_as_a_process_it_trains_on_a_folder_with_broken_images(tmp_path):
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for name, level in (("day", 200), ("night", 50)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(level - 40, level + 40, (20, 24, 3)).astype("uint8")
            image.fromarray(pixels).save(tmp_path / "photos" / name / f"{i}.png")
    (tmp_path / "photos" / "day" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    arguments = ["--data", "folder:photos", "--image-size", 16, "--epochs", 1, "--generations", 1, "--seed", 5]

    process = as_process(*arguments, "--augment", "flip,crop", cwd=tmp_path)
    printed, errors = process.communicate(timeout=300)

    assert 0 == process.returncode, errors
    for words in (
        "1 files could not be read",
        "day/broken.jpg: cannot identify",
        "ensemble of 2",
        "runs/photos/ holds",
    ):
        assert words in printed
    assert f"on {keras.config.backend()}" in printed
    assert "broken.jpg" in (tmp_path / "runs" / "photos" / "report.html").read_text()


@pytest.mark.slow
def test_a_killed_process_is_continued_by_resume(tmp_path):
    pytest.importorskip("sklearn")
    process = as_process("--epochs", 100, "--batch-size", 8, "--generations", 1, "--out", "run", cwd=tmp_path)
    while not (tmp_path / "run" / "generation-00").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    process = as_process("--resume", "--out", "run", cwd=tmp_path)
    printed, errors = process.communicate(timeout=600)

    assert 0 == process.returncode, errors
    assert "Generation 0 of 1, already in run" in printed
    assert (tmp_path / "run" / "report.html").exists()


@pytest.mark.one_backend
def test_a_preset_is_the_backbone_that_kerascv_fetches_with_its_weights(monkeypatch):
    keras_cv = pytest.importorskip("keras_cv")
    with monkeypatch.context() as patched:
        patched.setattr(keras.models, "clone_model", lambda model, **_: model)
        fetched = models.mobilenetv3((32, 32, 3))  # As KerasCV makes it.
    assert type(fetched) is keras_cv.models.MobileNetV3Backbone
    images = np.random.default_rng(0).random((2, 32, 32, 3), "float32") * 255
    monkeypatch.setattr(keras_cv.models.MobileNetV3Backbone, "from_preset", lambda name: {name: fetched}[name])
    options_given = options.parse(["--preset", "mobilenet_v3_small_imagenet", "--out", "not-there"])
    model = models.build(options_given.backbone, (32, 32, 3), classes=5)

    features = fetched.predict(images, verbose=0).mean(axis=(1, 2))
    pooled = keras.Model(model.inputs, model.get_layer("avg_pool").output).predict(images, verbose=0)
    # Fresh weights of so many layers give features of 1e-7; the two differ by float32 rounding at most.
    np.testing.assert_allclose(features, pooled, rtol=0, atol=1e-3 * np.abs(features).max())
    assert (None, 5) == model.output_shape


def test_a_preset_that_is_unknown_or_cannot_be_fetched_ends_with_a_message(monkeypatch):
    keras_cv = pytest.importorskip("keras_cv")
    with pytest.raises(SystemExit, match="--preset must be one of .*resnet50_v2_imagenet.*; received: resnet51"):
        models.build("preset:resnet51", (32, 32, 3), classes=5)

    def no_network(name):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(keras_cv.models.ResNetV2Backbone, "from_preset", no_network)
    with pytest.raises(SystemExit, match="--preset resnet50_v2_imagenet: its weights could not be fetched .no route"):
        models.build("preset:resnet50_v2_imagenet", (32, 32, 3), classes=5)


@pytest.mark.one_backend
def test_early_stopping_logs_and_mixed_precision_reach_training(tmp_path):
    pytest.importorskip("sklearn")
    pytest.importorskip("tensorflow")  # Keras's TensorBoard writes with it.
    arguments = ["--early-stopping", "1", "--tensorboard", "--mixed-precision", "bfloat16", "--learning-rate", "1e-9"]
    try:
        assert 0 == kerascv_cli.main([*SHORT, "--epochs", "3", *arguments, "--out", tmp_path / "run"])
        assert "bfloat16" == keras.config.dtype_policy().compute_dtype
    finally:
        keras.config.set_dtype_policy("float32")

    for generation in ("generation-00", "generation-01"):
        # At such a learning rate the validation loss does not change: one epoch sets it, another does not improve it.
        logged = (tmp_path / "run" / generation / "history.csv").read_text().splitlines()
        assert 1 + 2 == len(logged)
        assert [] != list((tmp_path / "run" / "tensorboard" / generation).rglob("events.*"))
