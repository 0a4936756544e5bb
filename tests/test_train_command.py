"""`keras-ban train`: its options, runs of a small model with their files and reports, and mistakes of newcomers."""

import errno
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib

import keras
import numpy as np
import pytest
from helpers.processes import Process, run_script

from keras_ban import BornAgainHistory, BornAgainSequence
from keras_ban._src.command import command_line, options_file
from keras_ban._src.history.report import page
from keras_ban._src.images import data, folder, models, packages, recipe
from keras_ban._src.runs import manifest_file
from keras_ban._src.runs.epochs import KeepEpochs

TINY = """
def tiny(input_shape, classes):
    import keras
    layers = [keras.Input(input_shape), keras.layers.Rescaling(1 / 255), keras.layers.AveragePooling2D(8)]
    layers += [keras.layers.Flatten(), keras.layers.Dense(classes, activation="softmax")]
    return keras.Sequential(layers)
"""
exec(TINY)
SHORT = ["--backbone", "test_train_command:tiny", "--generations", "1", "--epochs", "2", "--batch-size", "100"]


def train(*arguments):
    return command_line.main(["train", *arguments])


def parse(*arguments):
    return command_line.parse(["train", *arguments])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """20 images of 16x16 of each class: days are bright, nights are dark."""
    image = pytest.importorskip("PIL.Image")
    folder, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for name, level in (("day", 140), ("night", 110)):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            pixels = rng.integers(level - 90, level + 90, (16, 16, 3)).astype("uint8")
            image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """The directory of a run on the photos."""
    out = tmp_path_factory.mktemp("command") / "run"
    assert 0 == train(photos, *SHORT, "--warmup", "1", "--weight-decay", "0.01", "--out", out)
    return out


def scores(directory):
    history = BornAgainHistory.from_json((directory / "test.json").read_text())
    return [record.scores for record in history.records] + [history.ensemble]


def test_a_run_leaves_models_that_score_what_it_says_and_its_options(run, photos):
    chosen = parse("--config", run / "options.toml", "--out", "not-there")
    sequence, (x, y, _) = BornAgainSequence.load(run), data.load(chosen).test
    history = sequence.evaluate(x, np.eye(2)[y], batch_size=100)

    assert 4 == history.ensemble.examples
    assert scores(run) == [record.scores for record in history.records] + [history.ensemble]
    written = tomllib.loads((run / "options.toml").read_text())
    names = ("batch-size", "weight-decay", "distillation-loss", "temperature", "label-weight", "image-size", "backend")
    expected = (100, 0.01, "KnowledgeDistillation", 4.0, 0.3, "16x16", keras.config.backend())
    assert expected == tuple(written[name] for name in names)
    assert f"folder:{photos}" == written["data"]


NOTHING = "Nothing was trained yet. Start again with the same command."
NO_EPOCH = "No epoch is finished yet. Start again with the same command and --resume."
CONTINUE = "Continue with: .* train --resume --out .*"
STAGES = {
    # The part of the program that Ctrl-C meets: what is called there, the arguments of the call, and what is said.
    "the check of the model": (models, "check_names", lambda *_: True, NOTHING),
    "the 7th image": (folder, "read_one", lambda file, *_: file.name == "06.png", NOTHING),
    "the models": (models, "build", lambda *_: True, NOTHING),
    "the start of the run": (recipe, "callbacks", lambda generation, *_: generation == 0, NO_EPOCH),
    "generation 0, before an epoch": (KeepEpochs, "on_epoch_begin", lambda self, epoch, *_: epoch == 0, CONTINUE),
    "generation 0, after an epoch": (KeepEpochs, "on_epoch_begin", lambda self, epoch, *_: epoch == 1, CONTINUE),
    "between generations": (recipe, "callbacks", lambda generation, *_: generation == 1, CONTINUE),
    "generation 1": (KeepEpochs, "on_epoch_begin", lambda s, epoch, *_: (s.generation, epoch) == (1, 1), CONTINUE),
    "the test": (BornAgainSequence, "evaluate", lambda *_: True, CONTINUE),
    "the report": (page, "write", lambda *_: True, CONTINUE),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c_ends_with_how_to_continue_and_that_ends_in_the_same_models(stage, run, tmp_path, capsys, monkeypatch):
    (place, name, is_meant, expected), out = STAGES[stage], tmp_path / "again"
    original = getattr(place, name)

    def interrupted(*arguments, **options):
        if is_meant(*arguments):
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **options)

    begin = ["--config", str(run / "options.toml"), "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(place, name, interrupted)
        assert 130 == train(*begin)
    first, last = capsys.readouterr().err.splitlines()[-2:]
    assert "" == first
    assert re.fullmatch(f"Stopped. {expected}", last)
    if expected == CONTINUE:
        assert_refused(capsys, "again holds a run already. Continue it with .* train --resume --out .*again", *begin)
        begin = shlex.split(last)[shlex.split(last).index("train") + 1 :]
        assert ["--resume", "--out", str(out)] == begin
    elif expected == NO_EPOCH:
        begin.append("--resume")

    assert 0 == train(*begin)

    assert scores(run) == scores(out)
    assert (run / "options.toml").read_text() == (out / "options.toml").read_text()
    weights = [BornAgainSequence.load(each).models[1].get_weights() for each in (run, out)]
    for one, other in zip(*weights, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    "augmentation", ["flip,randaugment", pytest.param("mixup,cutmix,crop", marks=pytest.mark.one_backend)]
)
def test_after_ctrl_c_images_are_changed_as_without_it(augmentation, photos, tmp_path, monkeypatch):
    begin = [photos, *SHORT, "--batch-size", "8", "--epochs", "3", "--augmentation", augmentation]
    begin += ["--controls", "longer", *(["--unlabeled", photos / "day"] if "mixup" in augmentation else [])]
    original = KeepEpochs.on_epoch_begin
    stops = iter([(0, 1), (1, 0), (1, 2), ("longer", 4)])
    stop = next(stops)

    def interrupted(self, epoch, logs=None):
        nonlocal stop
        original(self, epoch, logs)
        if (self.generation, epoch) == stop:
            stop = next(stops, None)
            raise KeyboardInterrupt

    assert 0 == train(*begin, "--out", tmp_path / "whole")
    monkeypatch.setattr(KeepEpochs, "on_epoch_begin", interrupted)
    assert 130 == train(*begin, "--out", tmp_path / "parts")
    codes = [train("--resume", "--out", tmp_path / "parts") for _ in range(4)]

    assert ([130, 130, 130, 0], None) == (codes, stop)
    one, other = (BornAgainSequence.load(tmp_path / name) for name in ("whole", "parts"))
    for pair in zip(one.models, other.models, strict=True):
        for weights in zip(*(model.get_weights() for model in pair), strict=True):
            np.testing.assert_array_equal(*weights)
    loss, again = (each.history.controls.records[0].metrics["val_loss"] for each in (one, other))
    assert loss == again


def all_nights_alike(photos):
    return [shutil.copy(photos / "day" / "03.png", each) for each in sorted(photos.glob("night/*"))]


NOT_THE_SAME = [
    "images to train on: 32 as in the run, but not the same ones",
    "images to validate: 4 as in the run, but not the same ones",
]
CHANGES = {
    # What is done to the folder, what is said of it, and options of the run.
    "one image less": (
        lambda photos: (photos / "day" / "03.png").unlink(),
        ["images to train on: 32 in the run, 31 now"],
        [],
    ),
    "one image more": (
        lambda photos: shutil.copy(photos / "day" / "03.png", photos / "day" / "99.png"),
        ["images to train on: 32 in the run, 33 now"],
        [],
    ),
    "other images": (all_nights_alike, NOT_THE_SAME, []),
    "other images, mixed": (all_nights_alike, NOT_THE_SAME, ["--augmentation", "mixup"]),
    "another class, mixed": (
        lambda photos: shutil.copytree(photos / "day", photos / "dusk"),
        ["images to train on: 32 in the run, 48 now", "classes: 2 in the .*3"],
        ["--augmentation", "cutmix"],
    ),
    "other images without labels": (
        lambda photos: shutil.copy(photos / "day" / "03.png", photos.parent / "unlabeled" / "04.png"),
        ["images without labels: 20 as in the run, but not the same ones"],
        ["--unlabeled", "{unlabeled}"],
    ),
    "another class": (
        lambda photos: shutil.copytree(photos / "day", photos / "dusk"),
        [
            "images to train on: 32 in the run, 48 now",
            "images to validate: 4 in the run, 6 now",
            "classes: 2 in the .*3",
        ],
        [],
    ),
}


@pytest.mark.one_backend
def test_resume_without_a_run_says_that_a_new_one_begins(photos, tmp_path, capsys):
    assert 0 == train(photos, *SHORT, "--resume", "--out", tmp_path / "run")

    said = "".join(capsys.readouterr().out.split())  # A long path is broken.
    assert f"{tmp_path / 'run'} holds no run to continue: a new one begins there.".replace(" ", "") in said


@pytest.mark.one_backend
@pytest.mark.parametrize("change", CHANGES)
def test_resume_with_other_images_says_which_and_what_to_do(change, photos, tmp_path, capsys):
    folder, out = shutil.copytree(photos, tmp_path / "photos"), tmp_path / "run"
    unlabeled = shutil.copytree(photos / "day", tmp_path / "unlabeled")
    spoil, lines, options = CHANGES[change]
    options = [each.format(unlabeled=unlabeled) for each in options]
    assert 0 == train(folder, *SHORT, *options, "--epochs", "1", "--image-size", "16", "--out", out)
    spoil(folder)
    capsys.readouterr()

    assert 1 == train("--resume", "--out", out)

    said = capsys.readouterr()
    assert f"error: {out} holds a run that was begun with other images:\n" in said.err
    for line in lines:
        assert re.search(f"^- {line}", said.err, re.M)
    advice = f"restore the images in {folder}. To begin another run .* train --config {out}/options.toml --out {out}-2$"
    assert re.search(advice, said.err.strip())
    assert "fingerprint" not in said.err
    assert "--resume" not in said.err
    assert "--image-size says" not in said.out
    other = shutil.copytree(folder, tmp_path / "other")
    assert 1 == train(other, "--resume", "--out", out)
    assert f"To continue it, name {folder}, with which it was begun. To begin" in capsys.readouterr().err
    assert 0 == train("--config", out / "options.toml", "--out", f"{out}-2")


@pytest.mark.one_backend
def test_a_run_of_an_older_version_that_does_not_say_which_images_it_mixed_is_continued(photos, tmp_path):
    options = [*SHORT, "--epochs", "1", "--augmentation", "mixup", "--unlabeled", photos / "day", "--out", tmp_path]
    assert 0 == train(photos, *options)
    manifest = json.loads((tmp_path / "run.json").read_text())
    for name in ("x", "unlabeled"):
        assert "fingerprint" in manifest["begun_with"]["data"][name].pop("made_of")[0]
    manifest_file.write(tmp_path, manifest)

    assert 0 == train("--resume", "--out", tmp_path)


@pytest.mark.one_backend
def test_images_of_another_size_are_scaled_as_in_the_run_that_is_continued(photos, tmp_path, capsys):
    out = tmp_path / "run"
    begin = [photos, *SHORT, "--epochs", "1", "--image-size", "24"]
    assert 0 == train(*begin, "--out", out)
    assert "as --image-size says" in " ".join(capsys.readouterr().out.split())
    assert 0 == train("--resume", "--out", out)
    assert "as in the run that is continued" in " ".join(capsys.readouterr().out.split())


def train_and_wait(arguments):
    """Train one epoch of generation 1, and wait."""

    def wait(self, epoch, logs=None):
        if (self.generation, epoch) == (1, 1):
            pathlib.Path("waiting").touch()
            time.sleep(600)

    KeepEpochs.on_epoch_begin = wait
    sys.exit(train(*arguments))


OF_RUN = "{out} holds a run that was begun with other options:\n{lines}\nLeave {them} out to continue the run, "
OF_RUN += "or begin another one: .* train --config {out}/options.toml {new} --out {out}-2\n"
# What `--resume` is given, what is said of it, and with what another run would begin.
DIFFERENT = {
    "one": ("--epochs 9", "- --epochs: 2 in the run, 9 now", "--epochs=9"),
    "a default": ("--optimizer sgd", "- --optimizer: adamw in the run, sgd now", "--optimizer=sgd"),
    "none before": ("--early-stopping 3", "- --early-stopping: none in the run, 3 now", "--early-stopping=3"),
    "a list": ("--augmentation flip,crop", "- --augmentation: none in the run, flip,crop now", "--aug.*=flip,crop"),
    "a size": ("--image-size 24", "- --image-size: 16x16 in the run, 24x24 now", "--image-size=24x24"),
    "fewer generations": ("--generations 1", "- --generations: 2 in the run, 1 now", "--generations=1"),
    "a switch": ("--distill-ensemble", "- --distill-ensemble: no in the run, yes now", "--distill-ensemble"),
    "a function": ("--backbone a:b", "- --backbone: test_train_command:tiny in the run, a:b now", "--backbone=a:b"),
    "two": ("--epochs 3 --seed 1", "- --seed: 0 in .*\n- --epochs: 2 in the run, 3 now", "--seed=1 --epochs=3"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", DIFFERENT)
def test_resume_with_another_option_names_it_both_values_and_what_to_do(case, photos, tmp_path, capsys):
    given, lines, new = DIFFERENT[case]
    out = tmp_path / "run"
    out.mkdir()
    begun = parse(photos, *SHORT, "--generations", "2", "--image-size", "16", "--out", out)
    (out / "options.toml").write_text(options_file.to_toml(begun))
    (out / "run.json").touch()

    them = " and ".join(re.findall("--[a-z-]+", new.replace("--aug.*", "--augmentation")))
    expected = OF_RUN.format(out=out, lines=lines, them=them, new=new)
    assert_refused(capsys, expected, "--resume", "--out", out, *given.split())

    # Data that moved are compared when they are read. More generations, logs and exports change nothing that is done.
    others = ["--seed", "0", "--generations", "3", "--tensorboard", "--export", "best", "--data", "digits"]
    assert 3 == parse("--resume", "--out", out, *others).generations


@pytest.mark.one_backend
@pytest.mark.new_process
def test_a_process_that_gets_sigint_in_training_or_while_keras_is_imported_ends_in_one_line(photos, tmp_path):
    with Process(train_and_wait, [photos, *SHORT, "--out", "run"], directory=tmp_path) as process:
        wait_for(tmp_path / "waiting", process)
        os.kill(process.pid, signal.SIGINT)
        ended = process.result()
    assert (130, "Stopped. Continue with: ") == (ended.returncode, ended.stderr.splitlines()[-1][:24])
    assert "Traceback" not in ended.stderr

    folder = tmp_path / "importing"
    folder.mkdir()
    (folder / "keras.py").write_text("import pathlib, time\npathlib.Path('waiting').touch()\ntime.sleep(600)\n")
    command = [sys.executable, "-m", "keras_ban", "train", photos]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{pathlib.Path(__file__).parent.parent}"}
    options = {"cwd": folder, "env": environment, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **options) as process:
        wait_for(folder / "waiting", process)
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate()
    expected = (-signal.SIGINT, ["", "Stopped. Nothing was trained yet. Start again with the same command."])
    assert expected == (process.returncode, shown.splitlines())


@pytest.mark.one_backend
@pytest.mark.new_process
def test_ctrl_c_in_a_function_that_python_calls_itself_is_not_lost(photos, tmp_path):
    # JAX has such a function, which Python calls in each garbage collection. An exception there is only printed.
    text = "import gc, os, signal\ngc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGINT))\ngc.collect()\n"
    (tmp_path / "keras.py").write_text(text + "open('went-on', 'w')\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{pathlib.Path(__file__).parent.parent}"}
    command = [sys.executable, "-m", "keras_ban", "train", photos]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert -signal.SIGINT == result.returncode
    assert ["", "Stopped. Nothing was trained yet. Start again with the same command."] == result.stderr.splitlines()
    assert not (tmp_path / "went-on").exists()


INTERRUPT_AN_IMPORT = """
import os, signal, sys
class Interrupting:
    def find_spec(name, path=None, target=None):
        if name == "keras_ban._src.export.export":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting)
"""


@pytest.mark.slow
@pytest.mark.one_backend
@pytest.mark.new_process
def test_ctrl_c_while_keras_ban_is_imported_ends_in_one_line(photos, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(INTERRUPT_AN_IMPORT)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{pathlib.Path(__file__).parent.parent}"}
    command = [sys.executable, "-m", "keras_ban", "train", photos]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert "Stopped. Nothing was trained yet. Start again with the same command." == result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert -signal.SIGINT == result.returncode  # As shells show it: 130.


def wait_for(path, process):
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.01)


@pytest.mark.one_backend
def test_the_report_needs_nothing_else_and_shows_the_images_by_their_names(run):
    page = (run / "report.html").read_text()

    assert [] == re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', page) + re.findall(r"url\((?!#)|@import|<link", page)
    history = BornAgainHistory.from_json(re.search(r'id="history">(.*?)</script>', page, re.DOTALL)[1])
    assert history == BornAgainHistory.from_json((run / "test.json").read_text())
    for words in ("photos", "a tenth of the training images", "label-weight = 0.3"):
        assert words in page


@pytest.mark.one_backend
def test_the_arguments_of_a_sequence_reach_it_by_their_names(photos, monkeypatch, tmp_path):
    asked = {}

    class Sequence:
        def __init__(self, model, **arguments):
            asked.update(arguments)

        def compile(self, **arguments):
            asked.update(arguments)

        def fit(self, x, y, **arguments):
            asked.update(arguments)
            raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "BornAgainSequence", Sequence)
    arguments = ["--teach-from", "ensemble", "--distill-ensemble", "--controls", "independent,longer"]
    arguments += ["--patience", "2", "--monitor", "val_accuracy", "--initial-weights", "previous", "--seed", "7"]
    arguments += ["--label-weight", "0.4", "--distillation-loss", "DIST", "--temperature", "3"]

    assert 130 == train(photos, *SHORT, *arguments, "--out", tmp_path / "run")

    loss = asked.pop("distillation_loss")
    assert ("DIST", 3.0, False) == (type(loss).__name__, loss.get_config()["temperature"], loss.from_logits)
    expected = {"teach_from": "ensemble", "distill_ensemble": True, "controls": ["independent", "longer"]}
    expected |= {"patience": 2, "monitor": "val_accuracy", "initial_weights": "previous", "seed": 7}
    expected |= {"label_weight": 0.4, "generations": 1, "epochs": 2, "batch_size": 100, "soft_targets": "cached"}
    assert expected == {name: asked[name] for name in expected}


@pytest.mark.filterwarnings("ignore:There is no best temperature")  # Of four validation images.
def test_one_student_of_two_softened_teachers_is_trained(photos, tmp_path, capsys):
    arguments = ["--generations", "2", "--label-weight", "1,0.5", "--epochs", "2,2,3", "--augmentation", "flip"]
    arguments += ["--teach-from", "ensemble", "--soften-teachers", "--distillation-loss", "kd"]

    assert 0 == train(photos, *SHORT, *arguments, "--out", tmp_path / "run")

    sequence = BornAgainSequence.load(tmp_path / "run")
    records = sequence.history.records
    assert [2, 2, 3] == [record.epochs for record in records]
    assert [None, None] == [record.teacher_temperature for record in records[:2]]
    assert records[2].teacher_temperature >= 1
    assert sequence.soften_teachers
    assert ([1, 0.5], 1.0) == (sequence.label_weight, sequence.distillation_loss.temperature)
    assert "val_accuracy" == sequence.history.monitor
    written = tomllib.loads((tmp_path / "run" / options_file.OPTIONS_FILE).read_text())
    assert ([2, 2, 3], [1.0, 0.5]) == (written["epochs"], written["label-weight"])
    capsys.readouterr()
    assert 0 == train("--resume", "--out", tmp_path / "run")
    assert "already in" in capsys.readouterr().out


@pytest.mark.parametrize("augmentation", ["", pytest.param("randaugment,mixup", marks=pytest.mark.one_backend)])
def test_unlabeled_images_controls_and_a_distilled_student_are_trained(photos, tmp_path, augmentation, capsys):
    arguments = ["--unlabeled", photos / "day", "--controls", "longer", "--distill-ensemble", "--epochs", "1"]

    assert 0 == train(photos, *SHORT, *arguments, "--augmentation", augmentation, "--out", tmp_path / "run")

    sequence = BornAgainSequence.load(tmp_path / "run")
    assert (3, 1) == (len(sequence.models), len(sequence.history.controls.records))
    shown = capsys.readouterr().out
    assert "longer" in shown
    assert "Generations and controls on validation images" in (tmp_path / "run" / "report.html").read_text()


def assert_refused(capsys, message, *arguments):
    with pytest.raises(SystemExit) as stopped:
        parse(*arguments)
    assert 2 == stopped.value.code
    assert re.search(message, capsys.readouterr().err)


WRONG = [
    ([], "FOLDER is missing: a folder of images; or digits, npz:PATH or tfds:NAME"),
    (["not/there"], "FOLDER must be a folder, but .*/not/there does not exist"),
    ([__file__], "FOLDER must be a folder, but .* is a file"),
    (["npz:"], "--data must be digits, npz:PATH, folder:PATH or tfds:NAME, received: npz:"),
    (["npz:not.there"], "FOLDER must be a file, but .*not.there does not exist"),
    (["digits", "--data", "digits"], "FOLDER and --data both name the data"),
    (["--data", "photos"], "--data must be digits, npz:PATH, folder:PATH or tfds:NAME, received: photos"),
    (["--unlabeled", "not-there"], "--unlabeled must be a folder, but .*not-there does not exist"),
    (["--unlabeled", __file__], "--unlabeled must be a folder, but .* is a file"),
    (["--image-size", "0"], "a number of pixels, or HEIGHTxWIDTH as 32x48, received: 0"),
    (["--image-size", "3x3x3"], "a number of pixels, or HEIGHTxWIDTH"),
    (["--image-size", "3"], "--image-size must be at least 4 for resnet"),
    (["--image-size", "30", "--library", "keras_hub", "--backbone", "vit"], "at least 4, and a multiple of 4 for vit"),
    (["--augmentation", "flop"], "any of flip, crop, randaugment, mixup, cutmix, received: flop"),
    (["--library", "keras"], "choose from '?keras_cv'?, '?keras_hub'?"),
    (["--backbone", "vgg"], "--backbone must be one of resnet, densenet, .* or module:function, received: vgg"),
    (["--backbone", "vit"], "--backbone must be one of resnet"),
    (["--teacher-backbone", "vgg"], "--teacher-backbone must be one of resnet"),
    (["--preset", ""], "--preset must be one of"),
    (["--weights", __file__], "--weights are of a --backbone of --library keras_hub: densenet, vit"),
    (["--library", "keras_hub", "--weights", "not-there"], "--weights must be a file, but .*not-there does not exist"),
    (["--generations", "0"], "whole number, at least 1, received: 0"),
    (["--generations", "two"], "whole number, at least 1, received: two"),
    (["--distillation-loss", "kl"], "choose from '?KnowledgeDistillation'?, .*'?DIST'?"),
    (["--temperature", "0"], "positive number, received: 0"),
    (["--temperature", "warm"], "must be a number, received: warm"),
    (["--distillation-loss", "ConfidenceWeighted", "--temperature", "2"], "--temperature: ConfidenceWeighted has none"),
    (["--label-weight", "1.5"], "between 0 and 1, received: 1.5"),
    (["--label-weight", "1", "--distill-ensemble"], "--distill-ensemble: with --label-weight 1 students learn"),
    (
        ["--label-weight", "0.5,0.3,1"],
        "one number, or one for each student: 2 with --generations 2",
    ),
    (["--label-weight", "0.5,much"], "must be a number, received: much"),
    (["--label-weight", "0.5,1", "--distill-ensemble"], "--distill-ensemble: with --label-weight 1 students learn"),
    (["--label-weight", "1,1", "--soften-teachers"], "--soften-teachers: with --label-weight 1 students learn"),
    (["--soften-teachers", "--augmentation", "flip,cutmix"], "--augmentation cutmix changes batches before the step"),
    (["--soften-teachers", "--unlabeled", str(pathlib.Path(__file__).parent)], "leave out it or --unlabeled"),
    (["--teach-from", "all"], "choose from '?last'?, '?ensemble'?"),
    (["--initial-weights", "zero"], "choose from '?fresh'?, '?model'?, '?previous'?"),
    (["--initial-weights", "previous", "--teacher-backbone", "densenet"], "leave out --teacher-backbone"),
    (["--controls", "longer,shorter"], "any of longer, independent, received: shorter"),
    (["--monitor", "loss"], "choose from '?val_loss'?, '?val_accuracy'?"),
    (["--patience", "0"], "whole number, at least 1, received: 0"),
    (["--seed", "-1"], "whole number, at least 0, received: -1|expected one argument"),
    (["--epochs", "0"], "whole number, at least 1, received: 0"),
    (["--epochs", "3", "--warmup", "3"], "--warmup 3 leaves none of --epochs 3"),
    (["--epochs", "4,3,5", "--warmup", "3"], "--warmup 3 leaves none of --epochs 3"),
    (["--epochs", "4,3"], "--epochs 4,3 must be one number, or one for each generation, the teacher first: 3 with"),
    (["--batch-size", "1.5"], "whole number, at least 1, received: 1.5"),
    (["--optimizer", "lion"], "choose from '?adam'?, '?adamw'?, '?sgd'?"),
    (["--learning-rate", "nan"], "positive number, received: nan"),
    (["--weight-decay", "-1"], "positive number, received: -1|expected one argument"),
    (["--label-smoothing", "1"], "--label-smoothing must be less than 1"),
    (["--mixed-precision", "half"], "choose from '?none'?, '?float16'?, '?bfloat16'?"),
    (["--early-stopping", "0"], "whole number, at least 1, received: 0"),
    (["--backend", "mxnet"], "choose from '?tensorflow'?, '?jax'?, '?torch'?"),
    (["--export", "all"], "choose from '?none'?, '?best'?, '?ensemble'?"),
    (["--resume"], "--resume needs --out"),
    (["--config", "nowhere.toml"], "--config nowhere.toml must be .*No such file"),
    (["--out", __file__], "is a file: it must be a folder that is empty, or not there yet"),
    (["--out", str(pathlib.Path(__file__).parent)], "holds files but no run"),
    (["--epoch", "3"], r"unrecognized arguments: --epoch 3. Did you mean --epochs\?\n"),
    (["--temprature=2", "--epoch", "3"], r"Did you mean --temperature and --epochs\?\n"),
    (
        ["--lr", "3"],
        "unrecognized arguments: --lr 3. The options are .*--unlabeled, .*--preset, .*--epochs, .*--export",
    ),
    (["--optimizer", "adm"], r"Did you mean adam\?"),
    (["--augment", "flip,mixup", "--objective", "dkd"], "mixup gives an image two labels"),
    (["--unlabeled", ".", "--objective", "dkd"], "DecoupledKnowledgeDistillation needs a label of each image"),
]


@pytest.mark.one_backend
@pytest.mark.parametrize("arguments, message", WRONG)
def test_a_wrong_value_is_refused_with_the_right_ones_before_anything_is_read(arguments, message, capsys):
    names_data = not arguments or not arguments[0].startswith("--") or {"--data", "--resume"} & set(arguments)
    assert_refused(capsys, message, *([] if names_data else ["digits"]), *arguments)


@pytest.mark.one_backend
def test_every_option_has_a_wrong_value_in_that_table(capsys):
    with pytest.raises(SystemExit, match="0"):
        command_line.main(["train", "--help"])
    options = set(re.findall(r"^  (--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    tried = {name for arguments, _ in WRONG for name in arguments}
    # Any text is right for these: TFDS makes the folder.
    assert options - tried == {"--data-dir", "--distill-ensemble", "--tensorboard"} - tried


@pytest.mark.one_backend
def test_a_wrong_preset_or_function_is_refused_with_code_2_before_anything_is_read(monkeypatch, photos, capsys):
    monkeypatch.setattr(data, "load", None)
    assert 2 == train(photos, "--backbone", "test_train_command:nothing", "--out", "not-there")
    assert "has no attribute 'nothing'" in capsys.readouterr().err
    pytest.importorskip("keras_hub")
    assert 2 == train(photos, "--library", "keras_hub", "--preset", "resnet51", "--out", "not-there")
    assert re.search("--preset must be the folder of a preset, or one of .*resnet_50", capsys.readouterr().err)


@pytest.mark.one_backend
def test_all_missing_packages_are_named_in_one_command_before_anything_is_read(monkeypatch, photos, capsys):
    monkeypatch.setattr(data, "load", None)
    missing = {"PIL", "rich", "keras_cv", "tensorflow"}
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None if name in missing else name)
    assert 1 == train(photos, "--out", "not-there")
    shown = capsys.readouterr().err
    assert "not installed: pip install Pillow rich keras-cv tensorflow (or choose --library keras_hub" in shown
    wanted = {
        ("digits",): "sklearn",
        ("tfds:mnist",): "tensorflow_datasets",
        ("digits", "--export", "best"): "tensorflow",
        ("digits", "--tensorboard"): "tensorboard",
    }
    for arguments, name in wanted.items():
        assert name in packages.needed(parse(*arguments, "--out", "not-there"))
    assert "keras_cv" not in packages.needed(parse("digits", "--backbone", "own:model", "--out", "not-there"))


@pytest.mark.one_backend
def test_a_file_of_options_is_checked_and_the_command_line_counts_more(tmp_path, capsys):
    path = tmp_path / "options.toml"
    (tmp_path / 'im"ages.npz').touch()
    place = json.dumps(f'npz:{tmp_path}/im"ages.npz')
    # As `examples/kerascv_cli.py` wrote it before `keras-ban train`.
    old = f'epochs = 7\naugment = ["flip", "crop"]\ntensorboard = true\ndata = {place}\nseed = 3\nobjective = "dkpp"\n'
    path.write_text(old + "image-size = 32\n")

    chosen = parse("--config", path, "--seed", "4", "--out", tmp_path / "run")

    assert (7, ["flip", "crop"], True, 4) == (chosen.epochs, chosen.augmentation, chosen.tensorboard, chosen.seed)
    assert ("PermutedDarkKnowledge", (32, 32)) == (chosen.distillation_loss, chosen.image_size)
    assert f'npz:{tmp_path}/im"ages.npz' == chosen.data
    path.write_text(options_file.to_toml(chosen))
    again = parse("--config", path, "--out", tmp_path / "run")
    assert {**vars(chosen), "config": None} == {**vars(again), "config": None}
    for content, message in (
        ("epochs = 0", "at least 1, received: 0"),
        ("epoch = 3", "unrecognized"),
        ("epochs =", ""),
    ):
        path.write_text(content)
        assert_refused(capsys, message, "--config", path, "--out", tmp_path / "run")


@pytest.mark.one_backend
def test_a_folder_of_that_name_counts_more_than_the_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "digits" == parse("digits").data
    (tmp_path / "digits").mkdir()
    assert f"folder:{tmp_path / 'digits'}" == parse("digits").data
    assert "digits" == parse("--data", "digits").data
    assert pathlib.Path("runs/digits") == parse("digits").out


@pytest.mark.one_backend
def test_a_full_disk_or_wrong_data_end_with_what_to_do(monkeypatch, photos, tmp_path, capsys):
    def end_by(error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(recipe, "make_sequence", fail)
        code = train(photos, *SHORT, "--out", tmp_path / "run")
        return code, capsys.readouterr().err.splitlines()

    full = OSError(errno.ENOSPC, "No space left on device", "model.keras")
    assert (1, ["error: [Errno 28] No space left on device: 'model.keras'"]) == end_by(full)
    assert (130, ["", "Stopped. Nothing was trained yet. Start again with the same command."]) == end_by(
        KeyboardInterrupt()
    )


@pytest.mark.one_backend
@pytest.mark.new_process
def test_help_needs_no_backend(tmp_path):
    (tmp_path / "keras.py").write_text("raise SystemExit('imported')")
    command = [sys.executable, "-m", "keras_ban", "train", "--help"]
    environment = {"PYTHONPATH": f"{tmp_path}:{pathlib.Path(__file__).parent.parent}", "COLUMNS": "80"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert 0 == result.returncode, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    for name in ("FOLDER", "--unlabeled", "--teach-from", "--library", "--preset", "--backend", "--label-weight"):
        assert name in result.stdout


@pytest.mark.one_backend
def test_early_stopping_logs_and_mixed_precision_reach_training(photos, tmp_path, capsys):
    pytest.importorskip("tensorflow")  # Keras's TensorBoard writes with it.
    arguments = [
        "--controls",
        "longer",
        "--early-stopping",
        "1",
        "--tensorboard",
        "--mixed-precision",
        "bfloat16",
        "--learning-rate",
        "1e-9",
    ]
    try:
        assert 0 == train(photos, *SHORT, "--epochs", "3", *arguments, "--out", tmp_path / "run")
        assert "bfloat16" == keras.config.dtype_policy().compute_dtype
    finally:
        keras.config.set_dtype_policy("float32")

    assert [] != list((tmp_path / "run" / "tensorboard" / "control-longer").rglob("events.*"))
    # The time left is that of all, said once.
    assert 1 == capsys.readouterr().out.count("left for all generations")
    for generation in ("generation-00", "generation-01"):
        # At such a learning rate the validation loss does not change: one epoch sets it, another does not improve it.
        logged = (tmp_path / "run" / generation / "history.csv").read_text().splitlines()
        assert 1 + 2 == len(logged)
        assert [] != list((tmp_path / "run" / "tensorboard" / generation).rglob("events.*"))


@pytest.mark.one_backend
@pytest.mark.new_process
def test_the_example_trains_on_a_folder_with_broken_images_by_its_old_options(photos, tmp_path):
    (tmp_path / "own.py").write_text(TINY)
    shutil.copytree(photos, tmp_path / "photos")
    (tmp_path / "photos" / "day" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    arguments = ["--data", "folder:photos", "--image-size", 16, "--epochs", 1, "--generations", 1, "--seed", 5]
    arguments += ["--backend", keras.config.backend(), "--backbone", "own:tiny", "--augment", "flip,crop"]

    result = run_script("examples/kerascv_cli.py", *arguments, directory=tmp_path)

    assert 0 == result.returncode, result.stderr
    told = ["1 files could not be read", "day/broken.jpg: cannot identify", "ensemble of 2", "runs/photos/ holds"]
    for words in [*told, f"on {keras.config.backend()}"]:
        assert words in result.stdout
    assert "broken.jpg" in (tmp_path / "runs" / "photos" / "report.html").read_text()
