"""The readers of files that users bring, which benchmarks share with the examples."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
from user_files import read, read_arrays, read_images, read_json, read_json_lines, read_text  # noqa: F401
