"""The command line of examples/kerascv_cli.py: options, and runs of a small model with their files and reports."""

import errno
import json
import pathlib
import re
import time
import tomllib

import keras
import kerascv_cli
import numpy as np
import pytest
from helpers.processes import Process, run_script
from helpers.training import interrupted_after
from kerascv import options, training

from keras_ban import BornAgainHistory, BornAgainSequence
from keras_ban._src.runs.epochs import KeepEpochs

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


@pytest.mark.one_backend
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
    student = history.records[1].scores
    assert [str(student.negative_flips), str(student.positive_flips)] == rows["generation 1"][6:8]
    assert f"{history.ensemble.accuracy:.2%}" == rows["ensemble of 2"][0]
    # Its pictures: plots, and images that the student mended.
    assert [str(student.positive_flips)] == re.findall("Generation 1, for the better: ([0-9]+) images", page)
    assert 4 == page.count("<svg")
    assert 1 <= page.count("data:image/png;base64,")


@pytest.mark.one_backend
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
        (["--config", "nowhere.toml"], "--config nowhere.toml must be .*No such file"),
        (["--out", __file__], "is a file"),
        (["--epoch", "3"], "unrecognized arguments: --epoch"),
    ],
)
def test_wrong_use_is_told_with_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        kerascv_cli.main(arguments)

    assert 2 == stopped.value.code
    assert re.search(message, capsys.readouterr().err)


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_ctrl_c_and_a_full_disk_end_with_a_message_and_a_code(monkeypatch, tmp_path, capsys):
    def end_by(error):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(training, "make_sequence", fail)
        return kerascv_cli.main([*SHORT, "--out", tmp_path / "run"])

    assert 130 == end_by(KeyboardInterrupt())
    assert "Stopped. Nothing was trained yet." in capsys.readouterr().err
    # Python prints what is no number, and ends with 1.
    with pytest.raises(SystemExit, match="^model.keras: No space left on device"):
        end_by(OSError(errno.ENOSPC, "No space left on device", "model.keras"))


@pytest.mark.one_backend
def test_a_directory_with_other_files_is_refused_in_words(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(SystemExit, match="holds files but no run"):
        kerascv_cli.main([*SHORT, "--out", tmp_path])


def as_process(*arguments, cwd):
    (cwd / "own.py").write_text(TINY)
    options = ["--backend", keras.config.backend(), "--backbone", "own:tiny", *arguments]
    return run_script("examples/kerascv_cli.py", *options, directory=cwd)


@pytest.mark.one_backend
@pytest.mark.new_process
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

    result = as_process(*arguments, "--augment", "flip,crop", cwd=tmp_path)

    assert 0 == result.returncode, result.stderr
    told = ["1 files could not be read", "day/broken.jpg: cannot identify", "ensemble of 2", "runs/photos/ holds"]
    for words in [*told, f"on {keras.config.backend()}"]:
        assert words in result.stdout
    assert "broken.jpg" in (tmp_path / "runs" / "photos" / "report.html").read_text()


def train_until_killed(arguments):
    """Train one epoch of generation 1, and wait."""

    def wait(self, epoch, logs=None):
        if (self.generation, epoch) == (1, 1):
            pathlib.Path("waiting").touch()
            time.sleep(600)

    KeepEpochs.on_epoch_begin = wait
    kerascv_cli.main(arguments)


@pytest.mark.slow
@pytest.mark.new_process
def test_a_killed_process_is_continued_by_resume(tmp_path):
    pytest.importorskip("sklearn")
    with Process(train_until_killed, [*SHORT, "--out", "run"], directory=tmp_path) as process:
        while not (tmp_path / "waiting").exists():
            assert process.poll() is None, process.result_so_far()
            time.sleep(0.01)
        process.kill()
        process.result()

    result = as_process("--resume", "--out", "run", cwd=tmp_path)

    assert 0 == result.returncode, result.stderr
    assert "Generation 0 of 1, already in run" in result.stdout
    assert (tmp_path / "run" / "report.html").exists()


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
