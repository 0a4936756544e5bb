"""A pytest plugin that runs Keras's own tests with a `Distiller` or an `EnsembleModel` in place of each model.

The test files are in the installed Keras. `nox -s keras_suites` runs them; the variable `KERAS_SUITES_MODEL` says what
takes the place of a model. The names by which a test file creates models (`models.Sequential`, `keras.Model`, a class
of its own) are replaced in that file, see `models.py`. In the tests of `keras.distillation`, keras_ban's Distiller
takes the place of Keras's, see `distillation.py`.

A test that cannot hold is in `left_out.py`. It runs, and must fail with the error that is written there.
"""

import functools
import re
import signal

import keras
import pytest

from keras_suites import distillation, models
from keras_suites.left_out import LEFT_OUT

# Of one test, in seconds. The slowest, of torch, trace for 120 and more where others use the cores, too.
LIMIT = 300

ENTRY, UNKNOWN = pytest.StashKey(), pytest.StashKey()


def applies(entry):
    return models.MODEL in entry.models and keras.backend.backend() in entry.backends


def name_of(item):
    return f"{item.path.name}::{item.name}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    for module in {item.module for item in items}:
        distillation.replace(module) if "distillation" in module.__name__ else models.replace(module)
    entries = {test: entry for entry in LEFT_OUT if applies(entry) for test in entry.tests}
    for item in items:
        if name_of(item) in entries:
            item.stash[ENTRY] = entries[name_of(item)]
    # A part of a file may be asked for by hand.
    files = set() if any("::" in argument for argument in config.args) else {item.path.name for item in items}
    unknown = {test for test in entries if test.split("::")[0] in files} - {name_of(item) for item in items}
    if unknown:
        # An error here would be lost: pytest-xdist says no more than that a worker ended.
        items[0].stash[UNKNOWN] = sorted(unknown)


@pytest.fixture(autouse=True)
def compile_less(request, monkeypatch):
    """Trace on torch the tests of compiled steps alone, and compile no C++.

    Every third test of a file compiles, whatever it is about. torch traces a step of a plain model for 10 seconds, too,
    and C++ takes as long again.
    """
    if keras.backend.backend() == "torch":
        # Other backends have no torch.
        import torch

        traced = functools.partial(torch.compile, backend="eager")
        is_traced = re.search("(?<!non)_jit", request.node.name)
        monkeypatch.setattr(torch, "compile", traced if is_traced else lambda function: function)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    def stop(*_):
        pytest.fail(f"The test has not ended after {LIMIT} seconds.")

    if UNKNOWN in item.stash:
        pytest.fail(f"`left_out.py` names tests that do not exist: {item.stash[UNKNOWN]}")
    before, earlier = models.count_made(), signal.signal(signal.SIGALRM, stop)
    signal.alarm(LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, earlier)
        item.user_properties.append(("models", models.count_made() - before))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report, entry = (yield), item.stash.get(ENTRY, None)
    if entry is None or call.when != "call" or report.skipped:
        return report
    if call.excinfo is None:
        report.outcome, report.longrepr = "failed", f"It passes: take it out of `left_out.py`. ({entry.reason})"
    elif re.search(entry.error, str(call.excinfo.value), re.DOTALL):
        report.outcome, report.wasxfail = "skipped", entry.reason
    return report


def pytest_terminal_summary(terminalreporter):
    """Say how many tests had no model to replace. They are Keras's alone."""
    passed = terminalreporter.stats.get("passed", [])
    without = [report.nodeid for report in passed if dict(report.user_properties).get("models") == 0]
    terminalreporter.write_line(f"{len(without)} of {len(passed)} passed tests made no model that could be replaced:")
    for name in sorted(name.split("/")[-1] for name in without):
        terminalreporter.write_line(f"    {name}")
