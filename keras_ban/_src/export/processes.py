"""Python in a clean process of its own, which finds the modules that this one finds."""

import os
import subprocess
import sys


def run_python(arguments, purpose, **environment):
    """Run Python with arguments, on the CPU.

    Args:
        arguments: of the command line.
        purpose: "The process that {purpose} failed".
        **environment: variables that differ from this process's.

    Raises:
        RuntimeError: it failed; with the last lines of what it said.
    """
    environment = {
        **os.environ,
        # One GPU for two processes is one too few, where the first has reserved all of its memory.
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
