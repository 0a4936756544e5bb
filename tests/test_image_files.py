"""Damaged and hostile files given to `keras-ban train`: one line that names the file, and no traceback."""

import os

import numpy as np
import pytest
from helpers.data import npz

from keras_ban._src.command import command_line, options_file
from keras_ban._src.images import arrays, folder, hub

pytestmark = [pytest.mark.one_backend, pytest.mark.skipif(os.name != "posix", reason="makes pipes")]


X, Y = np.zeros((6, 8, 8, 3), "uint8"), np.arange(6) % 2
WHOLE = npz(x_train=X, y_train=Y, x_test=X, y_test=Y)
READERS = {
    "--config": options_file.read,
    "npz": arrays.npz,
    "--weights": lambda path: hub.build("densenet", (16, 16, 3), 2, path),
}
DAMAGES = {
    "missing": None,
    "a folder": os.mkdir,
    "a pipe": os.mkfifo,
    "a device": lambda path: os.symlink("/dev/zero", path),
    "random bytes": np.random.default_rng(0).bytes(1000),
    "UTF-16": "\ufeffepochs = 1".encode("utf-16-le"),
    "a bare word": b"nonsense",
    "nested deeply": b"x = " + b"[" * 100_000,
    "a table": b"[epochs]\n",
    "pickled objects": npz(**dict.fromkeys(("x_train", "y_train"), np.array([{}, {}], object))),
    "an archive of other arrays": npz(x=X),
    "half an archive": WHOLE[: len(WHOLE) // 2],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_refused_in_one_line_that_names_it(reader, damage, tmp_path):
    if reader == "--weights":
        pytest.importorskip("keras_hub")
    path = tmp_path / ("given.weights.h5" if reader == "--weights" else "given")
    if callable(DAMAGES[damage]):
        DAMAGES[damage](path)
    elif DAMAGES[damage] is not None:
        path.write_bytes(DAMAGES[damage])

    with pytest.raises(ValueError) as error:
        READERS[reader](path)

    message = str(error.value)
    assert str(path) in message and "must " in message
    assert 1 == len(message.splitlines()) and len(message) < 1000


def test_a_damaged_file_of_options_is_a_wrong_command_line(tmp_path, capsys):
    (tmp_path / "given").write_bytes(DAMAGES["random bytes"])
    with pytest.raises(SystemExit, match="2"):
        command_line.parse(["train", "--config", tmp_path / "given"])
    assert f"--config {tmp_path / 'given'} must be a TOML file" in capsys.readouterr().err.splitlines()[-1]


def test_an_image_of_a_folder_that_is_a_pipe_is_skipped_and_not_waited_for(tmp_path):
    pytest.importorskip("PIL")
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "pipe.jpg must be a regular file, but it is a pipe." == folder.read_one(tmp_path / "pipe.jpg", (8, 8), None)
