"""The documentation site. `nox -s docs` builds it into `build/docs`."""

import os
import pathlib
import re

# Keras reads it as it is imported.
os.environ.setdefault("KERAS_BACKEND", "torch")
# They keep the messages of TensorFlow, which Keras imports under each backend, off the pages.
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "2", "TF_ENABLE_ONEDNN_OPTS": "0"}

import keras_ban

project = "keras_ban"
author = copyright = "the keras_ban authors"
release = version = keras_ban.__version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx-mathjax-offline"]
source_suffix = {".md": "myst-nb"}
exclude_patterns = ["conf.py"]

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
# Pages show what their code prints. The tests run the same blocks, for one epoch.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "furo"
html_title = f"keras_ban {version}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False
napoleon_custom_sections = [("Call args", "params_style")]

_HEADER = """\
---
file_format: mystnb
kernelspec:
  display_name: Python 3
  language: python
  name: python3
---
"""


def as_notebook(app, name, source):
    """Make a page with Python blocks a notebook, whose outputs the site shows. On GitHub it is plain Markdown."""
    source[0] = source[0].replace("FIRST_STEPS\n", _first_steps())
    # A link with a file's name gets the title of the page.
    source[0] = re.sub(r"\[\w+\.md\]\((?=\w+\.md\))", "[](", source[0])
    if "```python\n" in source[0]:
        source[0] = _HEADER + source[0].replace("```python\n", "```{code-cell} python\n")


def _first_steps():
    """Return the part of the README that the first page of the site shows. Its links are to pages beside this file."""
    readme = pathlib.Path(__file__).parent.parent.joinpath("README.md").read_text()
    part = readme[readme.index("Born-Again Neural Networks") : readme.index("## Two commands")]
    return part.replace("](docs/", "](").replace("](benchmarks/", "](../benchmarks/")


def from_markdown(app, what, name, thing, options, lines):
    """Make reStructuredText of a docstring's Markdown: code in backticks, blocks of code, pages."""
    text = "\n".join(lines)
    text = re.sub(r"( *)```python\n(.*?)\n *```", _literal_block, text, flags=re.DOTALL)
    # Code in backticks may end on the next line.
    text = re.sub(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", r"``\1``", text)
    text = re.sub(r"``docs/(\w+)\.md``", r":doc:`\1`", text)
    # A plural "s" after code.
    lines[:] = re.sub(r"``(?=s\b)", r"``\\ ", text).split("\n")


def _literal_block(match):
    indent, code = match.groups()
    return f"{indent}.. code-block:: python\n\n" + "\n".join(f"    {line}" if line else "" for line in code.split("\n"))


def setup(app):
    # It only copies files at the end, but does not say so. Without this, pages are not read in parallel.
    app.extensions["sphinx-mathjax-offline"].parallel_read_safe = True
    app.connect("source-read", as_notebook)
    app.connect("autodoc-process-docstring", from_markdown, priority=400)
    return {"parallel_read_safe": True}
