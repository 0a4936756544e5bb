"""What benchmarks tell alike: means with their errors, and what they ran on."""

import importlib
import pathlib

import numpy as np


def mean(values, form, error_form=".2f"):
    """The mean and, in brackets, its standard error."""
    error = np.std(values, ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return f"{np.mean(values):{form}} ({error:{error_form}})"


def versions(backend):
    """The versions of what a benchmark on that backend depends on, by name."""
    modules = [importlib.import_module(name) for name in ("keras_ban", "keras", backend, "numpy")]
    return {module.__name__: module.__version__ for module in modules}


def peak_megabytes():
    """The most memory that this process held, as Linux counts its resident set."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
