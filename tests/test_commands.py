"""`keras-ban check`, `compare`, `summary` and `report`; the backend, errors and Ctrl-C of all commands."""

import dataclasses
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.data import make_blobs
from helpers.runs import Interruption, change_manifest, fit, sequence
from helpers.runs import run as train

import keras_ban
from keras_ban import BornAgainHistory, GenerationRecord
from keras_ban._src.command import command_line, compare
from keras_ban._src.history.loss_scores import LossScores
from keras_ban._src.history.scores import Scores
from keras_ban._src.runs import manifest_file

pytestmark = pytest.mark.one_backend

ROOT = pathlib.Path(keras_ban.__file__).parent.parent
READERS = ("check", "compare", "summary", "report")


@pytest.fixture(scope="module")
def data():
    return make_blobs()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("finished") / "run"
    keras.utils.set_random_seed(0)
    train(folder, data, generations=1, controls=("longer",))
    return folder


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


class Stop(Interruption):
    """Its state need not be stored, so that finished epochs are."""

    stateless = True


def called(capsys, *arguments):
    """Return the exit code, the lines of the output, and those of the errors."""
    code = command_line.main([str(argument) for argument in arguments])
    shown = capsys.readouterr()
    return code, shown.out.splitlines(), shown.err.splitlines()


# check


def test_an_intact_run_has_a_line_for_each_model_and_one_that_says_so(run, capsys):
    code, lines, errors = called(capsys, "check", run)

    folders = ("generation-00", "generation-01", "control-longer")
    sizes = [f"{(run / folder / 'model.keras').stat().st_size:,} bytes" for folder in folders]
    expected = [f"{folder}/model.keras {size} ok" for folder, size in zip(folders, sizes, strict=True)]
    assert (0, []) == (code, errors)
    assert [*expected, f"{run}: intact, finished: 2 models"] == [" ".join(line.split()) for line in lines]


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def in_place_of_a_file(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


DAMAGE = [
    ("generation-00/model.keras", flip_a_bit, "model.keras was altered: its checksum differs"),
    ("generation-01/model.keras", lambda path: path.write_bytes(b"PK"), "model.keras has 2 bytes instead of"),
    ("generation-01/record.json", pathlib.Path.unlink, "record.json is not there any more"),
    ("generation-01/history.csv", flip_a_bit, "history.csv was altered"),
    ("control-longer/model.keras", in_place_of_a_file(os.mkfifo), "model.keras is not there any more"),
    ("control-longer/model.keras", in_place_of_a_file(os.mkdir), "model.keras is not there any more"),
]


@pytest.mark.parametrize("file, damage, message", DAMAGE)
def test_a_damaged_file_is_named_in_the_line_of_its_model(file, damage, message, run, capsys):
    damage(run / file)

    code, lines, errors = called(capsys, "check", run)

    (wrong,) = [line for line in lines[:-1] if not line.endswith("  ok")]
    assert (1, [], 4) == (code, errors, len(lines))
    assert wrong.startswith(f"{pathlib.Path(file).parent}/model.keras") and message in wrong
    assert f"{run}: not intact, generations are damaged, which `fit` refuses" == lines[-1]


def test_all_damaged_files_are_named(run, capsys):
    flip_a_bit(run / "generation-00" / "model.keras")
    (run / "generation-00" / "record.json").unlink()
    flip_a_bit(run / "generation-01" / "model.keras")

    _, lines, _ = called(capsys, "check", run)

    assert "model.keras was altered" in lines[0] and "record.json is not there" in lines[0]
    assert "model.keras was altered" in lines[1]


def test_a_file_that_is_no_model_is_found_though_its_checksum_is_right(run, capsys):
    file = run / "generation-01" / "model.keras"
    file.write_bytes(b"no model")
    noted = manifest_file.described_file(file)
    change_manifest(run, lambda manifest: manifest["generations"][1]["files"].update({"model.keras": noted}))

    code, lines, _ = called(capsys, "check", run)

    assert 1 == code
    assert "model.keras is not a model as Keras writes it" in lines[1]


def test_check_changes_nothing_and_reads_a_folder_that_run_json_does_not_name(run, capsys):
    (run / "generation-02").mkdir()
    before = sorted(run.rglob("*"))

    code, lines, _ = called(capsys, "check", run)

    assert (0, before) == (code, sorted(run.rglob("*")))
    assert "note: run.json does not name generation-02. `fit` renames it, and does not use it" in lines


def test_what_fit_continues_with_is_what_it_then_does(tmp_path, data, capsys):
    folder, epochs = tmp_path / "run", {"epochs": 3}
    with pytest.raises(InterruptedError):
        train(folder, data, lambda generation: [Stop(1)] if generation == 1 else [], epochs, generations=1)
    # The epoch in which it stopped is not stored.
    code, lines, _ = called(capsys, "check", folder)
    assert 0 == code
    assert lines[1].startswith("epoch.npz") and lines[1].endswith("ok")
    state = "intact, not finished: generation 0 is finished, `fit` continues with generation 1 after its epoch 1"
    assert f"{folder}: {state}" == lines[-1]

    shutil.copytree(folder, tmp_path / "damaged")
    fit(sequence(folder, generations=1), data, callbacks=lambda generation: [Stop(3)], epochs=3, verbose=2)
    shown = capsys.readouterr().out
    assert "Generation 1 of 1" in shown and "Resuming at epoch 2/3" in shown
    assert "intact, finished: 2 models" in called(capsys, "check", folder)[1][-1]

    flip_a_bit(tmp_path / "damaged" / "epoch.npz")
    code, lines, _ = called(capsys, "check", tmp_path / "damaged")
    assert 1 == code
    assert "epoch.npz" in lines[1] and "is damaged" in lines[1] and "starts the generation again" in lines[1]
    assert lines[-1].endswith("not intact, not finished: generation 0 is finished, `fit` continues with generation 1")


NEXT = [
    ({"generations": 3}, False, "generations 0 to 1 are finished, `fit` continues with generation 2"),
    ({"controls": []}, False, "`fit` continues with the scores of the ensemble"),
    ({"distill_ensemble": True}, False, "`fit` continues with the student distilled from the ensemble"),
    ({"controls": ["longer"]}, False, "`fit` continues with the control longer"),
    ({"controls": ["longer", "independent"]}, True, "`fit` continues with the control independent-02"),
    ({"controls": ["longer"]}, True, "`fit` continues with the scores of the ensemble"),
]


@pytest.mark.parametrize("settings, has_control, expected", NEXT)
def test_what_fit_continues_with_follows_its_order(settings, has_control, expected, run, capsys):
    def change(manifest):
        manifest.update(finished=False, controls=manifest["controls"] if has_control else [])
        manifest["begun_with"].update(settings)

    change_manifest(run, change)

    code, lines, _ = called(capsys, "check", run)

    assert 0 == code
    assert lines[-1].endswith(expected), lines[-1]


# summary


def test_summary_is_that_of_the_history_as_wide_as_the_terminal(run, capsys, monkeypatch):
    history = keras_ban.BornAgainSequence.load(run).history
    for columns, width in ((None, 80), ("120", 120), ("20", 40)):
        monkeypatch.delenv("COLUMNS", raising=False)
        if columns is not None:
            monkeypatch.setenv("COLUMNS", columns)

        code, lines, _ = called(capsys, "summary", run)

        assert (0, history.summary(width=width).splitlines()) == (code, lines)


# report


def test_the_report_of_a_run_has_its_scores_and_loads_its_models(run, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(path.name for path in run.iterdir())

    for arguments, name in ([[], "report.html"], [["--out", tmp_path / "other.html"], "other.html"]):
        code, _, errors = called(capsys, "report", run, *arguments)
        page = (tmp_path / name).read_text()
        assert (0, []) == (code, errors)
        assert f"BornAgainSequence.load(&#x27;{run}&#x27;)" in page and "<h1>run</h1>" in page
        assert f"{keras_ban.BornAgainSequence.load(run).history.records[1].scores.accuracy:.2%}" in page
    assert before == sorted(path.name for path in run.iterdir())
    code, _, errors = called(capsys, "report", run, "--out", tmp_path / "nowhere" / "report.html")
    assert (1, 1) == (code, len(errors)) and "No such file" in errors[0]


# compare


def history_of(losses, accuracies=None, monitor="val_loss", mode="min"):
    """A history of generations with these losses, and accuracies."""
    scores = [LossScores(9, loss) for loss in losses]
    if accuracies is not None:
        pairs = zip(losses, accuracies, strict=True)
        scores = [Scores(examples=9, accuracy=accuracy, nll=loss, ece=0.1) for loss, accuracy in pairs]
    records = [
        GenerationRecord(number, epochs=2, seconds=1.5, metrics={"val_loss": loss, "val_score": -loss}, scores=score)
        for number, (loss, score) in enumerate(zip(losses, scores, strict=True))
    ]
    return BornAgainHistory(records, monitor, mode, ensemble=dataclasses.replace(scores[-1]) if scores else None)


def row_of(lines, label):
    """Return the words of all rows of a run, in the tables one below the other."""
    return [word for line in lines if line.split()[:1] == [label] for word in line.split()[1:]]


def order_of(lines, labels):
    return [line.split()[0] for line in lines if line.split()[:1] and line.split()[0] in labels][: len(labels)]


def test_runs_are_sorted_by_the_monitor_with_their_scores_and_costs():
    runs = [
        compare.Run("middle", history_of([0.7, 0.5, 0.6], [0.5, 0.75, 0.7]), 3, True, "x"),
        compare.Run("empty", history_of([]), 3, False, "x"),
        compare.Run("best", history_of([0.4], [0.8]), 4, False, "x"),
        compare.Run("last", history_of([0.9, 0.8], [0.1, 0.2]), 2, True, "x"),
    ]

    lines = compare.draw(runs, 200)

    assert ["best", "middle", "last", "empty"] == order_of(lines, ["best", "middle", "last", "empty"])
    scores = ["1", "0.5", "75.00%", "0.5000", "70.00%", "0.6000"]
    assert [*scores, "yes", "3", "of", "3", "6", "4.5"] == row_of(lines, "middle")
    assert ["no", "0", "of", "3", "0", "0.0"] == row_of(lines, "empty")
    assert "data" not in lines[1].split()
    narrow = compare.draw(runs, 80)
    assert max(map(len, narrow)) <= 80
    # The columns that do not fit are in a second table.
    assert sorted(row_of(lines, "middle")) == sorted(row_of(narrow, "middle"))
    # The largest value is the best with `mode="max"`.
    runs = [dataclasses.replace(each, history=history_of([2, 1], None, "val_score", "max")) for each in runs[:1]]
    runs += [compare.Run("better", history_of([0.5], None, "val_score", "max"), 1, True, "x")]
    assert ["better", "middle"] == order_of(compare.draw(runs, 80), ["better", "middle"])


def test_runs_on_different_data_are_in_sections_of_their_own_and_marked():
    known = [
        compare.Run(name, history_of([loss]), 1, True, name[0]) for name, loss in (("a1", 2), ("b1", 1), ("a2", 3))
    ]
    unknown = compare.Run("c", history_of([0.1]), 1, True, None)

    lines = compare.draw([*known, unknown], 80)

    assert ["a1", "a2", "b1", "c"] == order_of(lines, ["a1", "a2", "b1", "c"])
    assert ["A", "A", "B", "?"] == [row_of(lines, label)[0] for label in ("a1", "a2", "b1", "c")]
    text = " ".join(lines)
    assert "different validation data, which cannot be compared" in text
    assert "data ?: run.json does not say" in text
    assert "which cannot be compared" not in " ".join(compare.draw([known[0], known[2]], 80))


def test_runs_of_several_monitors_keep_their_order_and_have_all_of_them():
    runs = [compare.Run("one", history_of([2]), 1, True, "x")]
    runs += [compare.Run("two", history_of([1], None, "val_score", "max"), 1, True, "x")]

    lines = compare.draw(runs, 80)

    assert ["one", "two"] == order_of(lines, ["one", "two"])
    assert [["0", "2", "-2"], ["0", "1", "-1"]] == [row_of(lines, label)[:3] for label in ("one", "two")]
    assert "not sorted: the runs have several monitors, val_loss (min), val_score (max)" in " ".join(lines)


def test_the_validation_data_of_runs_are_told_by_their_fingerprints(run, tmp_path, data, capsys):
    x, y = data
    first, settings = run.rename(tmp_path / "first"), {"generations": 1, "seed": 5}
    train(tmp_path / "same", data, **settings)
    train(tmp_path / "other", (x, y), fitting={"validation_data": (x, np.roll(y, 1))}, **settings)
    train(tmp_path / "none", (x, y), fitting={"validation_data": None, "monitor": "loss"}, **settings)

    code, lines, errors = called(capsys, "compare", first, *(tmp_path / name for name in ("same", "other", "none")))

    assert (0, []) == (code, errors)
    assert ["A", "A", "B", "?"] == [row_of(lines, label)[0] for label in ("first", "same", "other", "none")]
    # Those of another version differ for the same data.
    begun_with = {"hashes": 2, "data": {"validation_data": [{"fingerprint": "0"}]}}
    assert compare.data_of(begun_with, 2) is not None
    assert compare.data_of({**begun_with, "hashes": 1}, 2) is None


def test_labels_are_short_and_tell_runs_apart():
    paths = [pathlib.Path("/runs/a/run"), pathlib.Path("/runs/b/run"), pathlib.Path("/runs/b") / ("long" * 9)]

    labels = compare.labels_of(paths)

    assert ["a/run", "b/run"] == labels[:2]
    assert labels[2].endswith("longlong") and len(labels[2]) == 24


# errors


def test_what_is_no_run_ends_in_one_line_with_exit_code_1(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    shutil.copytree(run, tmp_path / "runs" / "wide")
    damaged = [shutil.copytree(run, tmp_path / f"damaged-{number}") for number in range(4)]
    flip_a_bit(damaged[0] / "run.json")
    (damaged[1] / "run.json").write_text('{"format": 99, "versions": {"keras_ban": "9"}}')
    (damaged[2] / "run.json").unlink()
    (damaged[3] / "run.json").write_text("[" * 100_000)
    wrong = [
        ("missing", "missing does not exist"),
        ("file", "file is not a directory"),
        ("empty", "empty holds no run: it does not contain run.json."),
        ("runs", "runs holds no run: it does not contain run.json. Name a run in it: wide."),
        ("damaged-0", "damaged"),
        ("damaged-1", "is of format 99"),
        ("damaged-2", "holds no run"),
        ("damaged-3", "damaged"),
    ]

    for command in READERS:
        for name, message in wrong:
            code, lines, errors = called(capsys, command, tmp_path / name)
            assert (1, [], 1) == (code, lines, len(errors)), (command, name)
            assert errors[0].startswith("error: ") and message in errors[0]


def test_a_damaged_record_ends_what_shows_it_in_one_line(run, capsys):
    flip_a_bit(run / "generation-00" / "record.json")

    for command in ("summary", "compare", "report"):
        code, lines, errors = called(capsys, command, run)
        assert (1, [], 1) == (code, lines, len(errors))
        assert "record.json was altered" in errors[0]


def test_a_run_without_a_generation_has_no_summary_and_no_report_but_is_intact(tmp_path, data, capsys):
    with pytest.raises(InterruptedError):
        train(tmp_path / "run", data, [Stop(0)], generations=1)

    for command in ("summary", "report"):
        assert "no generation is finished yet" in called(capsys, command, tmp_path / "run")[2][0]
    code, lines, _ = called(capsys, "check", tmp_path / "run")
    assert 0 == code
    assert lines[-1].endswith("no generation is finished, `fit` continues with generation 0")


def test_a_table_without_rich_says_how_to_install_it(run, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)

    for command in ("summary", "compare"):
        assert (1, [], ['error: The table needs rich: pip install "keras-ban[plot]"']) == called(capsys, command, run)


def test_ctrl_c_ends_with_one_line_and_exit_code_130(run, capsys, monkeypatch):
    def interrupt(path):
        raise KeyboardInterrupt

    for command in READERS:
        monkeypatch.setattr(f"keras_ban._src.command.{command}.read", interrupt)
        assert (130, [], ["", "Stopped."]) == called(capsys, command, run)


def test_a_backend_other_than_that_of_the_process_is_refused(run, capsys):
    here = keras.config.backend()
    other = next(name for name in command_line.BACKENDS if name != here)

    assert 0 == called(capsys, "check", run, "--backend", here)[0]
    code, _, errors = called(capsys, "check", run, "--backend", other)
    assert (1, [f"error: --backend {other}: Keras is imported already, with {here}."]) == (code, errors)


WRONG = [
    ([], "the following arguments are required: command"),
    (
        ["chek", "run"],
        "invalid choice: 'chek' (choose from 'train', 'export', 'check', 'compare', 'summary', 'report'). Did you mean "
        "check?",
    ),
    (["check", "run", "--widht"], "[--backend {tensorflow,jax,torch}]"),
    (["check", "run", "--widht"], "unrecognized arguments: --widht. The options are --help, --backend"),
    (["check", "run", "another"], "unrecognized arguments: another\n"),
    (["EXPORT", "a", "b"], "Did you mean export?"),
    (["export", "a", "b", "--lables=c"], "unrecognized arguments: --lables=c. Did you mean --labels?"),
    (["export", "a", "b", "-int8", "--form-at", "onnx"], "--form-at onnx. Did you mean --int8 and --format?"),
    (["summary", "run", "--backend", "jaxx"], "Did you mean jax?"),
    (["compare"], "the following arguments are required: RUN"),
    (["summary", "run", "--backend", "torh"], "invalid choice: 'torh' (choose from 'tensorflow', 'jax', 'torch')"),
    (["export", "a", "b", "--format", "pb"], "invalid choice: 'pb' (choose from 'tf_saved_model', 'onnx', 'litert')"),
]


@pytest.mark.parametrize("arguments, message", WRONG)
def test_a_wrong_command_line_names_what_would_be_right(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main(arguments)

    assert 2 == end.value.code
    assert message in capsys.readouterr().err


# Without Keras

# What pip installs as `keras-ban`.
SCRIPT = """
import sys
sys.argv[0] = "keras-ban"
from keras_ban._src.command.command_line import main
sys.exit(main())
"""
FORMS = {
    "keras-ban": ["-c", SCRIPT],
    "python -m keras_ban": ["-m", "keras_ban"],
}


def in_new_process(form, arguments, imported, tmp_path, **environment):
    """Run the command line where Keras is a file with this text."""
    (tmp_path / "keras.py").write_text(imported)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    kept = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    command = [sys.executable, *FORMS[form], *arguments]
    environment = {**kept, "PYTHONPATH": paths, **environment}
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)


@pytest.mark.new_process
@pytest.mark.parametrize("form", FORMS)
def test_help_and_wrong_options_need_no_keras(form, tmp_path):
    broken = "raise ImportError('Keras is imported')"
    for arguments in ([], *([command] for command in ("export", *READERS))):
        result = in_new_process(form, [*arguments, "--help"], broken, tmp_path)
        assert (0, "") == (result.returncode, result.stderr)
        assert result.stdout.startswith(" ".join(["usage: keras-ban", *arguments, "[-h]"]))
    result = in_new_process(form, ["chek"], broken, tmp_path)
    assert 2 == result.returncode
    assert "invalid choice: 'chek'" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.new_process
@pytest.mark.parametrize("form", FORMS)
def test_keras_is_imported_with_the_backend_of_the_option(form, tmp_path):
    imported = "import os; print(os.environ['KERAS_BACKEND']); raise KeyboardInterrupt"

    result = in_new_process(form, ["check", "run", "--backend", "jax"], imported, tmp_path, KERAS_BACKEND="torch")

    assert (130, "jax\n", "\nStopped.\n") == (result.returncode, result.stdout, result.stderr)


NO_BACKEND = "raise ModuleNotFoundError('No module named x', name='tensorflow')"
NO_KERAS = "raise ModuleNotFoundError('No module named x', name='keras')"
MISSING = [
    (NO_BACKEND, {}, "error: Keras's backend tensorflow is not installed: pip install tensorflow"),
    (NO_KERAS, {}, 'error: Keras is not installed: pip install "keras>=3.12.1"'),
    ("raise ImportError('of a kind')", {}, "error: Keras cannot be imported: of a kind"),
    ("", {"KERAS_BACKEND": "torh"}, "error: KERAS_BACKEND must be one of tensorflow, jax, torch, but it is 'torh'"),
    (
        "class config: backend = lambda: 'openvino'",
        {},
        "error: Keras's backend must be one of tensorflow, jax, torch, but it is 'openvino'",
    ),
]


@pytest.mark.new_process
@pytest.mark.parametrize("form", FORMS)
def test_a_missing_backend_is_named_in_one_line(form, tmp_path):
    for imported, environment, message in MISSING:
        result = in_new_process(form, ["check", "run"], imported, tmp_path, **environment)
        assert (1, "", 1) == (result.returncode, result.stdout, len(result.stderr.splitlines())), result.stderr
        assert result.stderr.startswith(message)


@pytest.mark.new_process
def test_what_is_installed_is_named_if_a_backend_is_missing(tmp_path):
    for name in ("jax", "torch"):
        (tmp_path / f"{name}.py").touch()

    result = in_new_process("keras-ban", ["check", "run"], NO_BACKEND, tmp_path)

    assert "or choose with --backend or KERAS_BACKEND what is installed: jax, torch." in result.stderr
