"""The interpreters that an export starts. They are forked from a process that has imported TensorFlow already."""

import os
import runpy
import sys
import types

from helpers import processes


def fork_interpreters(monkeypatch):
    """Let `keras_ban.export` fork its interpreters. Each saves about ten seconds of imports.

    A fork imports Keras and keras_ban anew, so it can use another backend than this process does.
    """
    monkeypatch.setattr("keras_ban._src.export.processes.subprocess", types.SimpleNamespace(run=_fork))


def _fork(command, *, env, **_):
    assert sys.executable == command[0]
    return processes.run(_as_python, command[1:], environment=env)


def _as_python(arguments):
    for name in list(sys.modules):
        if name.split(".")[0] in ("keras", "keras_ban"):
            del sys.modules[name]
    sys.path[:] = os.environ["PYTHONPATH"].split(os.pathsep)
    option, program, *_ = sys.argv = arguments
    del sys.argv[0]
    if option == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        assert "-P" == option
        runpy.run_path(program, run_name="__main__")
