"""The packages that options need, beside those of keras_ban."""

import importlib.util

from keras_ban._src.images.choices import BACKBONES, PRESET

# What pip calls the modules of other names.
_OF_PIP = {"PIL": "Pillow", "keras_cv": "keras-cv", "keras_hub": "keras-hub", "sklearn": "scikit-learn"}
_OF_PIP |= {"tensorflow_datasets": "tensorflow-datasets"}


def check(options):
    """Raise `ImportError` if packages are missing that the options need. All of them are named, with the command."""
    missing = [name for name in needed(options) if importlib.util.find_spec(name) is None]
    if not missing:
        return
    names = " ".join(_OF_PIP.get(name, name) for name in missing)
    message = f"`keras-ban train` needs packages that are not installed: pip install {names}"
    if "keras_cv" in missing and importlib.util.find_spec("keras_hub") is not None:
        message += " (or choose --library keras_hub, which is installed)"
    raise ImportError(message)


def needed(options):
    """Return the names of modules."""
    # Images, and the table, plots and tests of the report.
    modules = ["PIL", "rich", "matplotlib", "scipy"]
    names = {options.backbone, options.teacher_backbone or options.backbone}
    of_library = [name in BACKBONES[options.library] or name.startswith(PRESET) for name in names]
    if any(of_library):
        modules.append(options.library)
    kind = options.data.partition(":")[0]
    if kind == "digits":
        modules.append("sklearn")
    if kind == "tfds":
        # TFDS imports `importlib_resources` without requiring it.
        modules += ["tensorflow_datasets", "importlib_resources"]
    if options.tensorboard:
        modules.append("tensorboard")
    if kind == "tfds" or options.tensorboard or options.export != "none" or "keras_cv" in modules:
        modules.append("tensorflow")
    return list(dict.fromkeys(modules))
