"""A folder of images for each class, alone or once for each of train/, validation/ and test/.

Read with Pillow and not with `tfds.folder_dataset.ImageFolder`: that wants the splits as folders, and stops in the
midst of an epoch at the first file that is damaged, without its name.
"""

import concurrent.futures
import contextlib
import os
import struct
import sys

import numpy as np
import user_files

from kerascv import pictures

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
SPLITS |= {"validation": "validation", "test": "test"}

# What Pillow raises on damaged files.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


def read(path, size, notes):
    """`(parts, classes, skipped)`: `{"train": (x, y), ...}`, the classes' names, and what could not be read.

    A `size` of `None` is the pictures' own.
    """
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError:
        sys.exit('Images are read with Pillow, which is missing: pip install ".[kerascv]"')
    if not path.is_dir():
        sys.exit(f"folder:{path} must be a folder, {'it is a file' if path.exists() else 'there is none'}.")
    folders = subfolders(path)
    splits = {SPLITS[folder.name.lower()]: folder for folder in folders if folder.name.lower() in SPLITS}
    if "train" not in splits:
        splits = {"train": path}
    classes = [folder.name for folder in subfolders(splits["train"])]
    if not classes:
        sys.exit(
            f"{splits['train']} must hold a folder of images for each class, named as the class is. It holds "
            f"{len(os.listdir(splits['train']))} entries, and no folder."
        )
    if size is None:
        size = pictures.own_size(own_sizes(file for folder in splits.values() for file in image_files(folder)))
    parts, skipped = {}, []
    for name, folder in splits.items():
        unknown = {each.name for each in subfolders(folder)} - set(classes)
        if unknown:
            sys.exit(f"{folder} has folders that {splits['train']} has not: {', '.join(sorted(unknown)[:5])}.")
        files, labels = [], []
        for label, class_name in enumerate(classes):
            found = image_files(folder / class_name)
            files += found
            labels += [label] * len(found)
        pictures.check_memory(len(files), size, folder)
        x, readable, broken = read_all(files, size, notes)
        parts[name] = (x, np.array(labels, "int64")[readable])
        skipped += [(str(file.relative_to(path)), reason) for file, reason in broken]
    return parts, classes, skipped


def subfolders(path):
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def image_files(path):
    """All that its name calls an image, at any depth."""
    return sorted(file for file in path.rglob("*") if file.suffix.lower() in ENDINGS and not file.name.startswith("."))


def own_sizes(files):
    """The sizes of pictures, by what their files say at their beginnings."""
    from PIL import Image

    for file in files:
        with contextlib.suppress(*UNREADABLE, Image.DecompressionBombError):
            user_files.open_regular(file).close()  # Pillow would wait for a pipe.
            with Image.open(file) as picture:
                yield picture.size


def read_all(files, size, notes):
    """`(images, readable, broken)`: whether each file could be read, and why it could not."""
    x, readable, broken = np.empty((len(files), size, size, 3), "uint8"), np.zeros(len(files), bool), []
    # Pillow lets other threads run while it reads and scales.
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for index, image in enumerate(pool.map(lambda file: read_one(file, size, notes), files)):
            if isinstance(image, str):
                broken.append((files[index], image))
            else:
                x[index], readable[index] = image, True
    return (x if not broken else x[readable]), readable, broken


def read_one(file, size, notes):
    """The image; or in words, why there is none."""
    from PIL import Image

    try:
        user_files.open_regular(file).close()  # Pillow would wait for a pipe.
        with Image.open(file) as picture:
            return pictures.from_picture(picture, size, notes)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        return (str(error) or type(error).__name__).replace(str(file), file.name)
