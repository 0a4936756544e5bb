"""`--backend` of the examples: Keras reads its backend once, when it is imported, so the option must count before."""

import os
import subprocess
import sys

import pytest
from helpers.processes import ROOT

pytestmark = [pytest.mark.one_backend, pytest.mark.new_process]


@pytest.mark.parametrize("script", ["cross_architecture", "digits", "kerascv_cli", "language_model", "study"])
def test_the_option_is_set_before_keras_is_imported(script, tmp_path):
    # In the place of Keras, which takes seconds: it says what Keras would read.
    (tmp_path / "keras.py").write_text("import os\nprint(os.environ['KERAS_BACKEND'])\nraise SystemExit")
    command = [sys.executable, ROOT / "examples" / f"{script}.py", "--backend", "jax"]
    if script == "language_model":
        (tmp_path / "text").write_text("\n".join(f"Line {i}." for i in range(20)))
        command += ["--text", tmp_path / "text"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "KERAS_BACKEND": "numpy"}

    result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)

    assert (0, "jax\n") == (result.returncode, result.stdout), result.stderr
