"""What README and docstrings show is run as it stands."""

import doctest
import functools
import pathlib
import re

import keras
import numpy as np
import pytest
from helpers.interpreters import fork_interpreters
from helpers.models import classifier, crossentropy

import keras_ban

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"^ *```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def python_blocks(text):
    return [
        re.sub(r"^    ", "", block, flags=re.MULTILINE) if block.startswith("    ") else block
        for block in BLOCK.findall(text)
    ]


def in_a_hurry(monkeypatch):
    """Every `fit` trains one epoch, and an export forks its interpreters."""
    for owner in (keras.Model, keras_ban.Distiller, keras_ban.BornAgainSequence):
        monkeypatch.setattr(owner, "fit", of_one_epoch(owner.fit))
    fork_interpreters(monkeypatch)


def of_one_epoch(fit):
    @functools.wraps(fit)
    def fit_one_epoch(self, *args, **options):
        return fit(self, *args, **options | ({"epochs": 1} if "epochs" in options else {}))

    return fit_one_epoch


@pytest.mark.one_backend
@pytest.mark.new_process
@pytest.mark.parametrize("hurry", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_the_readmes_python_blocks_run_one_after_the_other(tmp_path, monkeypatch, hurry):
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    if hurry:
        in_a_hurry(monkeypatch)
    namespace = {}
    blocks = python_blocks((ROOT / "README.md").read_text())

    for block in blocks:
        exec(compile(block, "README.md", "exec"), namespace)

    assert blocks
    assert (tmp_path / "generations.png").exists()
    assert (tmp_path / "best.keras").exists()


LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")


@pytest.mark.one_backend
def test_the_readme_is_short_and_links_lead_to_files():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

    links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
    assert [] == [f"{page.name}: {link}" for page, link in links if not (page.parent / link).exists()]
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200
    # The map of the README names each page. These two are for the site.
    named = {link.removeprefix("docs/") for link in LINK.findall((ROOT / "README.md").read_text())}
    assert {page.name for page in pages[1:]} - {"index.md", "api.md"} <= named


# The pages whose blocks start processes.
STARTING = ("images", "serving", "several_processes")
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if python_blocks(page.read_text())]


@pytest.mark.one_backend
# Keras's MixUp asks JAX for int64.
@pytest.mark.filterwarnings("ignore:.*Explicitly requested dtype:UserWarning")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.new_process] * (page.stem in STARTING)) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    pytest.importorskip("sklearn")
    needed = {"keras_hub": "keras_hub", "images": "keras_cv", "several_processes": "torch", "serving": "tensorflow"}
    pytest.importorskip(needed.get(page.stem, "keras"))
    # A command of a page imports this checkout, too.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    in_a_hurry(monkeypatch)
    namespace = {}

    for block in python_blocks(page.read_text()):
        exec(compile(block, page.name, "exec"), namespace)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("BornAgainSequence", marks=pytest.mark.one_backend),
        *("Distiller", "EnsembleModel", "gradient_decomposition", "share_layers"),
        pytest.param("export", marks=[pytest.mark.slow, pytest.mark.new_process]),
    ],
)
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch, blobs):
    monkeypatch.chdir(tmp_path)
    x, y = blobs
    namespace = {"keras": keras, "keras_ban": keras_ban, "x": x, "y": y}
    namespace |= {"x_val": x, "y_val": y, "x_test": x, "y_test": y}
    namespace |= {part: classifier() for part in ("model", "student", "teacher", "first", "second", "third")}
    (block,) = python_blocks(getattr(keras_ban, name).__doc__)

    exec(compile(block, name, "exec"), namespace)


@pytest.mark.one_backend
def test_interactive_examples_in_docstrings_print_what_they_say():
    finder = doctest.DocTestFinder()
    losses = [getattr(keras_ban.losses, name) for name in keras_ban.losses.__all__]
    examples = [test for loss in losses for test in finder.find(loss, globs={"keras_ban": keras_ban, "np": np})]
    runner = doctest.DocTestRunner()

    for example in examples:
        runner.run(example)

    assert (0, True) == (runner.failures, runner.tries > 0)


@pytest.mark.one_backend
def test_the_tutorial_form_of_compile_is_that_of_keras():
    model = keras_ban.Distiller(student=classifier(), teacher=classifier())
    model.compile(optimizer="adam", loss=crossentropy(), metrics=["accuracy"])

    assert model.compiled
