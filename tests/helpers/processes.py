"""Other processes, which a test starts, asks and kills.

A new interpreter takes seconds to import Keras and a backend. These processes are forked from one that has imported
them already. Nothing has been computed there, so that JAX and TensorFlow can be forked too.
"""

import dataclasses
import importlib.util
import multiprocessing
import os
import pathlib
import runpy
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FORKS = multiprocessing.get_context("forkserver")
# Keras imports TensorFlow on every backend, if it is installed, when a seed is set.
FORKS.set_forkserver_preload(["keras", *(["tensorflow"] if importlib.util.find_spec("tensorflow") else [])])


@dataclasses.dataclass
class Result:
    """As `subprocess.CompletedProcess`: a negative `returncode` is the signal that ended the process."""

    returncode: int
    stdout: str
    stderr: str


class Process:
    """A process that runs `function(*arguments)`. As a context manager, it is killed at the end.

    Args:
        function: A function of a module that the process can import.
        environment: Variables that are added to this process's environment, or removed from it if they are `None`.
            Those that Keras and its backend read when they are imported come too late.
        directory: The working directory.
    """

    def __init__(self, function, *arguments, environment=None, directory=None):
        self._folder = tempfile.TemporaryDirectory()
        self._files = [pathlib.Path(self._folder.name, name) for name in ("stdout", "stderr")]
        for file in self._files:
            file.touch()
        # The server's environment is what this process's was when the server was started.
        variables = {**os.environ, **(environment or {})}
        variables = {name: value for name, value in variables.items() if value is not None}
        arguments = (function, arguments, self._files, variables, directory or os.getcwd())
        self._process = FORKS.Process(target=_run, args=arguments)
        self._process.start()
        self.pid = self._process.pid

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self._process.join()
        self._folder.cleanup()

    def kill(self):
        self._process.kill()

    def terminate(self):
        self._process.terminate()

    def poll(self):
        """The exit code; `None` while the process runs."""
        return self._process.exitcode

    def line(self, number=0, seconds=120):
        """Wait for a line of the standard output."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            lines = self._files[0].read_text().splitlines(keepends=True)
            if len(lines) > number and lines[number].endswith("\n"):
                return lines[number].rstrip("\n")
            if self.poll() is not None:
                break
            time.sleep(0.01)
        raise AssertionError(f"No line {number}. Exit code {self.poll()}. {self.result_so_far()}")

    def result_so_far(self):
        return Result(self.poll(), *(file.read_text() for file in self._files))

    def result(self, seconds=300):
        """Wait for the end."""
        self._process.join(seconds)
        if self.poll() is None:
            self.kill()
            raise AssertionError(f"Still running after {seconds} seconds. {self.result_so_far()}")
        return self.result_so_far()


def run(function, *arguments, **options):
    """Run `function(*arguments)` in a process of its own, to its end."""
    with Process(function, *arguments, **options) as process:
        return process.result()


def start_script(script, *arguments, forks=False, **options):
    """Start a script of the repository, as `python script arguments` does.

    With `forks`, the new interpreters that the script starts are forks of it. It must not have computed anything.
    """
    return Process(_as_script, str(ROOT / script), [str(argument) for argument in arguments], forks, **options)


def run_script(script, *arguments, **options):
    """Run a script of the repository to its end."""
    with start_script(script, *arguments, **options) as process:
        return process.result(900)


class Fork:
    """In the place of `subprocess.Popen`: a fork of this process runs the script, not a new interpreter."""

    def __init__(self, command, env=None):
        interpreter, script, *arguments = command
        assert sys.executable == interpreter
        run = multiprocessing.get_context("fork").Process
        self.args = command
        self._process = run(target=_as_fork, args=(script, arguments, os.environ if env is None else env))
        self._process.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.wait()

    @property
    def returncode(self):
        return self._process.exitcode

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()

    def communicate(self, input=None, timeout=None):
        self.wait()
        return None, None

    def terminate(self):
        self._process.terminate()

    def kill(self):
        self._process.kill()


def _run(function, arguments, files, environment, directory):
    for descriptor, file in enumerate(files, start=1):
        opened = os.open(file, os.O_WRONLY | os.O_APPEND)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    function(*arguments)


def _as_script(script, arguments, forks):
    if forks:
        subprocess.Popen = Fork
    sys.argv = [script, *arguments]
    sys.path.insert(0, os.path.dirname(script))
    runpy.run_path(script, run_name="__main__")


def _as_fork(script, arguments, environment):
    os.environ.clear()
    os.environ.update(environment)
    _as_script(script, arguments, forks=True)
