"""Run Python in a separate process, which finds the same modules as this one."""

import os
import subprocess
import sys


def run_python(arguments, purpose, **environment):
    """Run Python on the CPU, with variables added to the environment.

    Raise `RuntimeError` if it fails: "The process that {purpose} failed", with the last lines of its output.
    """
    environment = {
        **os.environ,
        # This process may have reserved all of the GPU's memory.
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        **environment,
    }
    command = [sys.executable, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        last = "\n".join((result.stdout + result.stderr).strip().splitlines()[-20:])
        raise RuntimeError(f"The process that {purpose} failed (exit code {result.returncode}):\n{last}")
