"""Damaged and hostile files given to examples and benchmarks: one line that names the file, and no traceback."""

import itertools
import json
import os
import types

import born_again
import cross_architecture
import digits_seeds
import equal_cost
import language_model
import language_model_seeds
import numpy as np
import pytest
import study
import study_report
import user_files
from equal_cost_tasks import images, report, texts, training
from helpers.data import npz
from helpers.processes import run_script

import keras_ban

pytestmark = [pytest.mark.one_backend, pytest.mark.skipif(os.name != "posix", reason="makes pipes")]

DEEP = b"[" * 100_000


X, Y = np.zeros((6, 8, 8, 3), "uint8"), np.arange(6) % 2
ARRAYS = npz(x_train=X, y_train=Y, x_test=X, y_test=Y)
MEASURED = dict.fromkeys(born_again.MEASURED, 1)
LINES = {
    "born_again": {"method": "teacher", "seed": 0, "models": [MEASURED], "seconds": 1.5, "measured_on": "test"}
    | {"settings": {}, "versions": {}, "machine": "one"},
    "equal_cost": {"task": "toy", "method": "plain", "recipe": "plain", "cost": 1, "seed": 0, "averaged": False}
    | dict.fromkeys(("members", "error", "nll", "nll_calibrated", "validation_nll_calibrated"), 1),
}
HISTORY = keras_ban.BornAgainHistory([keras_ban.GenerationRecord(0)])
PERPLEXITY = {"settings": {}, "best_generation": 0, "validation": [2.0], "test": [2.0], "seconds": [1]}


class Parser:
    """As `argparse`'s: its errors end the process with code 2."""

    def error(self, message):
        raise SystemExit(message)


def members(path):
    trainer = object.__new__(training.Trainer)
    trainer._folder, trainer._model = path.parent, types.SimpleNamespace(weights=[1])
    return trainer.outputs(types.SimpleNamespace(name=path.stem))


def of_seed(module, name, content):
    def use(path, monkeypatch):
        place = path.parent / "out" / ("torch" if module is digits_seeds else "") / "seed-0" / name
        place.parent.mkdir(parents=True)
        if os.path.lexists(path):
            os.rename(path, place)
        monkeypatch.setattr("sys.argv", ["it", "--backend", "torch", "--seeds", "0", "--out", str(path.parent / "out")])
        module.main()

    return use, content


def looks(path, _):
    place = path.with_name("results.json")
    if os.path.lexists(path):
        os.rename(path, place)
    study_report.read_looks(path.parent)


def lines(module):
    def use(path, _):
        if os.path.lexists(path):
            os.rename(path, path.with_name("results.jsonl"))
        arguments = types.SimpleNamespace(out=path.parent, report=True)
        return module.read_lines(arguments)

    return use


def shakespeare(path, _):
    if os.path.lexists(path):
        os.rename(path, path.with_name("tinyshakespeare.txt"))
    texts.shakespeare(0, path.parent)


# What reads a file of a user, and one that is whole.
READERS = {
    "study --data": (lambda path, _: study.check_data(Parser(), path), ARRAYS),
    "study, training": (lambda path, _: study.load(types.SimpleNamespace(data=path)), ARRAYS),
    "study, tests": (lambda path, _: study.load_test(types.SimpleNamespace(data=path)), ARRAYS),
    "study, results": (looks, json.dumps({"test_looks": []}).encode()),
    "cross_architecture --data": (lambda path, _: cross_architecture.read(path, 0), ARRAYS),
    "language_model --text": (
        lambda path, _: language_model.read_paragraphs(path),
        "\n\n".join(f"paragraph {i}" for i in range(30)).encode(),
    ),
    "born_again, results": (lines(born_again), json.dumps(LINES["born_again"]).encode()),
    "digits_seeds, history": of_seed(digits_seeds, "history.json", None),
    "language_model_seeds, results": of_seed(language_model_seeds, "perplexity.json", json.dumps(PERPLEXITY).encode()),
    "equal_cost, results": (lambda path, _: equal_cost.read(path), json.dumps(LINES["equal_cost"]).encode()),
    "equal_cost --report": (lambda path, _: report.write_report(path), None),
    "equal_cost, members": (lambda path, _: members(path), npz(outputs=X, examples=1, seconds=1.0, weight_0=X)),
    "equal_cost, images": (lambda path, _: images._decoded(path), None),
    "equal_cost, texts": (shakespeare, None),
}
TEXTS = ("language_model --text", "equal_cost, texts")
# Without a file they begin anew, or train, which tests of them hold.
NEED_NONE = ("study, results", "born_again, results", "equal_cost, results", "equal_cost --report")
NEED_NONE += ("digits_seeds, history", "language_model_seeds, results", "equal_cost, members")
DAMAGES = {
    "missing": None,
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: os.symlink("/dev/zero", path),
    "random bytes": np.random.default_rng(0).bytes(1000),
    "UTF-16": "\ufeffepochs = 1".encode("utf-16-le"),
    "a bare word": b"nonsense",
    "nested deeply": DEEP,
    "a list": b'["x"]',
    "a number": b"7",
    "null": b"null",
    "NaN": b"NaN",
    "two entries of one name": b'{"a": 1, "a": 2}',
    "no entries": b"{}",
    "a huge number": b'{"cost": 1' + b"0" * 5000 + b"}",
    "pickled objects": npz(**dict.fromkeys(("x_train", "y_train", "x_test", "y_test"), np.array([{}, {}], object))),
    "an archive of other arrays": npz(x=X),
    "half an archive": ARRAYS[: len(ARRAYS) // 2],
}
# Text of any content, but for its encoding, is a text.
NOT_OF_TEXTS = {"nested deeply", "a list", "a number", "null", "NaN", "two entries of one name", "no entries"}
NOT_OF_TEXTS |= {"a huge number", "a bare word"}


# The names of arrays are read without them.
NO_DAMAGE = {("study --data", "pickled objects")} | {(reader, "missing") for reader in NEED_NONE}
NO_DAMAGE |= {(reader, damage) for reader in TEXTS for damage in NOT_OF_TEXTS}


@pytest.mark.parametrize(
    ("reader", "damage"), [pair for pair in itertools.product(READERS, DAMAGES) if pair not in NO_DAMAGE]
)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(reader, damage, tmp_path, monkeypatch):
    path = tmp_path / "given.npz"
    if callable(DAMAGES[damage]):
        DAMAGES[damage](path)
    elif DAMAGES[damage] is not None:
        path.write_bytes(DAMAGES[damage])

    with pytest.raises(SystemExit) as ended:
        READERS[reader][0](path, monkeypatch)

    message = ended.value.code
    assert isinstance(message, str) and str(tmp_path) in message and "must " in message
    assert 1 == len(message.splitlines()) and len(message) < 1000


@pytest.mark.parametrize("reader", [name for name, (_, whole) in READERS.items() if whole is not None])
def test_a_whole_file_is_read(reader, tmp_path, monkeypatch):
    use, whole = READERS[reader]
    (tmp_path / "given.npz").write_bytes(whole)
    use(tmp_path / "given.npz", monkeypatch)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"count": True}, "it['count'] must be a whole number, received: True"),
        ({"count": 1.0}, "it['count'] must be a whole number, received: 1.0"),
        ({"count": 10**30}, "it['count'] must be a whole number"),
        ({"figures": [1, float("nan")]}, "it['figures'][1] must be a finite number, received: nan"),
        ({"figures": [1, float("inf")]}, "it['figures'][1] must be a finite number, received: inf"),
        ({"figures": [1, 10**400]}, "it['figures'][1] must be a finite number, received: 1000"),
        ({"figures": [1, "2"]}, "it['figures'][1] must be a finite number, received: '2'"),
        ({"figures": {}}, "it['figures'] must be a list, received: {}"),
        ({"name": None}, "it['name'] must be a text, received: None"),
    ],
)
def test_values_of_other_types_are_named_by_their_place(changed, message):
    shape, whole = {"name": str, "count": int, "figures": [float]}, {"name": "a", "count": 1, "figures": [1, 2.5]}
    assert whole == user_files.parse_json(json.dumps(whole), shape)
    with pytest.raises(ValueError) as error:
        user_files.parse_json(json.dumps(whole | changed), shape)
    assert message in str(error.value) and len(str(error.value)) < 400


def test_two_entries_of_one_name_are_refused_and_nan_is_read_where_no_number_is_asked_for():
    with pytest.raises(ValueError, match="there are two entries 'seed'"):
        user_files.parse_json('{"a": {"seed": 1, "b": 2, "seed": 2}}', {"a": dict})
    assert np.isnan(user_files.parse_json('{"a": {"loss": NaN}}', {"a": dict})["a"]["loss"])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y[:5]}, "and a label of each: x is (6, 8, 8, 3), y is (5,)"),
        ({"x": X[0, 0], "y": Y[:8]}, "must hold images (n, height, width)"),
        ({"x": X[:0], "y": Y[:0]}, "x is (0, 8, 8, 3)"),
        ({"x": X, "y": Y - 1}, "whole numbers from 0 in y"),
        ({"x": X, "y": Y + 0.5}, "whole numbers from 0 in y"),
        ({"x": np.full(X.shape, np.nan), "y": Y}, "finite numbers in x"),
        ({"x": X.astype(str), "y": Y}, "x must be numbers, received: <U3"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(arrays, message, tmp_path):
    np.savez(tmp_path / "data.npz", **arrays)
    with pytest.raises(SystemExit) as ended:
        user_files.read_images(tmp_path / "data.npz", "x", "y")
    assert message in ended.value.code and str(tmp_path) in ended.value.code


@pytest.mark.new_process
@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("benchmarks/born_again.py", ["--report", "--out"]),
        ("examples/kerascv_cli.py", ["--config"]),
    ],
)
def test_a_process_ends_with_that_line_and_code(script, arguments, tmp_path):
    for name in ("results.jsonl", "given"):
        (tmp_path / name).write_bytes(DEEP)
    path = tmp_path if "--out" in arguments else tmp_path / "given"

    result = run_script(script, *arguments, path)

    assert (2 if "--config" in arguments else 1) == result.returncode, result.stderr
    assert str(tmp_path) in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
