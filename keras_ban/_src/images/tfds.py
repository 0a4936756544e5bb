"""Image classification sets of TensorFlow Datasets: prepared ones at once, others if there is a network."""

import contextlib
import os
import pathlib
import shutil
import tempfile
import urllib.parse

import numpy as np

from keras_ban._src.images.choices import WrongOption

PROBE_SECONDS, RETRIES = 5, 2


def read(name, data_dir):
    """Return `(parts, classes)` of a set of TFDS. Images are as they are stored: one array, or a list if sizes differ.

    Raises:
        ValueError: there is no such set, it cannot be fetched, or it is not one of images with one label.
    """
    # Optional.
    import tensorflow_datasets as tfds

    data_dir = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise WrongOption(
            f"tfds:{name}: TFDS knows no set of this name, and {data_dir} holds none that was made there. "
            f"tensorflow.org/datasets/catalog lists them."
        ) from error
    if not builder.is_prepared():
        prepare(tfds, builder, data_dir)
    image, label = features(tfds, builder.info)
    if "train" not in builder.info.splits:
        raise ValueError(f"tfds:{name} has no split `train`, it has: {', '.join(builder.info.splits)}.")
    parts = {}
    for part in ("train", "validation", "test"):
        if part in builder.info.splits:
            if builder.info.file_format.value == "array_record":  # which `tf.data` cannot read
                examples = list(builder.as_data_source(split=part))
            else:
                examples = list(tfds.as_numpy(builder.as_dataset(split=part, shuffle_files=False)))
            x, y = [example[image] for example in examples], np.array([example[label] for example in examples])
            known = y >= 0  # -1 is how TFDS marks the hidden labels of a test split.
            if known.any():
                x = [each for each, is_known in zip(x, known, strict=True) if is_known]
                same = len({each.shape for each in x}) == 1
                parts[part] = (np.stack(x) if same else x, y[known])
    return parts, list(builder.info.features[label].names)


def features(tfds, info):
    """Return the names of the features for image and label."""
    kinds = {"image": tfds.features.Image, "label": tfds.features.ClassLabel}
    found = {
        kind: [name for name, feature in info.features.items() if type(feature) is cls] for kind, cls in kinds.items()
    }
    if info.supervised_keys and all(info.supervised_keys[i] in found[kind] for i, kind in enumerate(kinds)):
        return info.supervised_keys[0], info.supervised_keys[1]
    for kind, names in found.items():
        if kind not in names and len(names) != 1:
            raise ValueError(
                f"tfds:{info.name} must have one {kind}, to be of use here. It has: {', '.join(info.features)}."
            )
    return tuple(kind if kind in names else names[0] for kind, names in found.items())


def prepare(tfds, builder, data_dir):
    """Download and prepare a set. If that fails, raise `ValueError`, and leave nothing unfinished."""
    # Optional, as TFDS.
    from tensorflow_datasets.core.download import downloader

    message = (
        f"tfds:{builder.name} is not in {data_dir}, and could not be fetched: %s Prepare it where there is a "
        f"network (tfds build {builder.name}) and name the folder by --data-dir, or take folder:PATH or npz:PATH."
    )
    for url in {urllib.parse.urlsplit(url)[:2]: url for url in builder.url_infos or {}}.values():
        error = unreachable(url)
        if error is not None:
            raise ValueError(message % f"no answer from {urllib.parse.urlsplit(url).netloc} ({error}).")
    existed = data_dir.exists()
    data_dir.mkdir(parents=True, exist_ok=True)
    downloads = tempfile.mkdtemp(prefix=".download-", dir=data_dir)
    # By default 10, which take minutes if a host does not answer.
    downloader.MAX_RETRIES = RETRIES
    try:
        builder.download_and_prepare(download_dir=downloads)
    except Exception as error:  # Whatever a set's own script raises.
        raise ValueError(message % f"{type(error).__name__}: {error}") from error
    finally:
        shutil.rmtree(downloads, ignore_errors=True)
        remove_incomplete(builder, data_dir, existed)


def unreachable(url):
    """Return `None` if a host answers within seconds, else a text that says why not."""
    # TFDS needs it.
    import requests

    if not url.startswith("http"):
        return None
    try:
        # By requests as TFDS does it, so that proxies are the same.
        requests.head(url, timeout=PROBE_SECONDS)
    except requests.exceptions.RequestException as error:
        return "timed out" if isinstance(error, requests.exceptions.Timeout) else "no connection"
    return None


def remove_incomplete(builder, data_dir, existed):
    """Remove what TFDS leaves of a set that was not finished, and then empty folders."""
    if builder.is_prepared():
        return
    of_set = data_dir / builder.name
    for path in of_set.glob("**/incomplete.*"):
        shutil.rmtree(path, ignore_errors=True)
    for path in (builder.data_path, *pathlib.Path(os.fspath(builder.data_path)).parents):
        path = pathlib.Path(os.fspath(path))
        if data_dir not in (path, *path.parents) or (path == data_dir and existed):
            break
        with contextlib.suppress(OSError):  # It is not empty, or was never made.
            path.rmdir()
