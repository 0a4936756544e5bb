"""A folder that holds a folder of images for each class; or train/, validation/ and test/ with such folders.

Pillow reads the images. `tfds.folder_dataset.ImageFolder` needs a folder for each split. At a damaged file, it stops in
the middle of an epoch, and does not name the file.
"""

import concurrent.futures
import contextlib
import os
import pathlib
import struct

import numpy as np

from keras_ban._src.files.regular_file import open_to_read
from keras_ban._src.images import pictures

ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
ENDINGS_IN_WORDS = ", ".join(sorted(ENDINGS))
SPLITS = {"train": "train", "training": "train", "val": "validation", "valid": "validation"}
SPLITS |= {"validation": "validation", "test": "test"}

# What Pillow raises on damaged files.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error)


class Folder:
    """A folder of labeled images.

    Args:
        path: of the folder.

    Attributes:
        classes: their names.
        files: `{"train": (paths, labels), ...}`, without those of other splits that are not there.
        notes: sentences about what is not read.

    Raises:
        ValueError: the folder holds no folder of images for each class.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        if not self.path.is_dir():
            raise ValueError(
                f"{path} must be a folder, but {'it is a file' if self.path.exists() else 'there is none'}."
            )
        splits = self._splits()
        of_train = splits["train"]
        self.classes = [folder.name for folder in subfolders(of_train)]
        if not self.classes:
            count = len(os.listdir(of_train))
            contents = (
                f"It holds {count:,} {'entry' if count == 1 else 'entries'}, and no folder" if count else "It is empty"
            )
            raise ValueError(
                f"{of_train} must hold a folder of images for each class, named as the class is. {contents}."
            )
        if len(self.classes) == 1:
            inner = of_train / self.classes[0]
            hint = f" If the classes are the folders in {inner}, name that folder." if subfolders(inner) else ""
            raise ValueError(
                f"{of_train} holds one folder alone, {self.classes[0]}, so there is one class. A classifier needs two "
                f"or more, a folder for each.{hint}"
            )
        for folder in splits.values():
            unknown = {each.name for each in subfolders(folder)} - set(self.classes)
            if unknown:
                some = ", ".join(sorted(unknown)[:5])
                raise ValueError(
                    f"{folder} has folders that {of_train} has not: {some}. Each class needs a folder there. Add "
                    "them, or remove the others."
                )
        self.files = {name: self._labeled(name, folder) for name, folder in splits.items()}
        loose = sum(is_image(each) for folder in {self.path, *splits.values()} for each in folder.iterdir())
        if loose:
            self.notes.append(f"{loose:,} {'image' if loose == 1 else 'images'} in no class's folder: not read.")

        others = [each for folder in splits.values() for each in _other_files(folder, self.classes)]
        if others:
            endings = ", ".join(sorted({each.suffix.lower() or "no ending" for each in others})[:5])
            self.notes.append(
                f"{len(others):,} {'file' if len(others) == 1 else 'files'} of other endings ({endings}): not read. "
                f"Images end in {ENDINGS_IN_WORDS}."
            )

    def _splits(self):
        """Return the folders of classes by split, `train` among them."""
        folders = subfolders(self.path)
        splits, others = {}, []
        for folder in folders:
            split = SPLITS.get(folder.name.lower())
            if split is not None and split in splits:
                raise ValueError(f"{splits[split]} and {folder} both hold {split} images: leave one out.")
            if split is None:
                others.append(folder.name)
            else:
                splits[split] = folder
        self.notes = []
        if "train" in splits:
            if others:
                self.notes.append(f"Beside {splits['train']}, these folders were not read: {', '.join(others[:5])}.")
            return splits
        if splits and not others:
            raise ValueError(f"{self.path} must hold a folder train/ beside {', '.join(map(str, splits.values()))}.")
        return {"train": self.path}

    def _labeled(self, name, folder):
        files, labels = [], []
        for label, class_name in enumerate(self.classes):
            found = image_files(folder / class_name)
            files += found
            labels += [label] * len(found)
            if not found and name == "train":
                raise ValueError(
                    f"{folder / class_name} holds no images: their files must end in {ENDINGS_IN_WORDS}. Add "
                    "some, or take the folder away."
                )
        return files, np.array(labels, "int64")

    def sizes(self):
        """Yield the sizes of the images."""
        return own_sizes(file for files, _ in self.files.values() for file in files)

    def read(self, size, notes):
        """Return `({"train": (x, y, names of the files), ...}, [(path, why it was not read), ...])`."""
        parts, skipped = {}, []
        for name, (files, labels) in self.files.items():
            x, readable, broken = read_all(files, size, notes)
            names = np.array([str(file.relative_to(self.path)) for file in files], object)
            parts[name] = (x, labels[readable], names[readable])
            skipped += [(str(file.relative_to(self.path)), reason) for file, reason in broken]
        return parts, skipped


def subfolders(path):
    return sorted(each for each in path.iterdir() if each.is_dir() and not each.name.startswith("."))


def is_image(path):
    """Return whether a file is an image by its name."""
    return path.suffix.lower() in ENDINGS and not path.name.startswith(".") and not path.is_dir()


def _other_files(folder, classes):
    """Return the files in the folders of classes that are no images by their names, without hidden ones."""
    found = (each for name in classes for each in (folder / name).rglob("*"))
    return [each for each in found if each.is_file() and not is_image(each) and not each.name.startswith(".")]


def image_files(path):
    """Return the images in a folder, at any depth."""
    return sorted(file for file in path.rglob("*") if is_image(file))


def own_sizes(files):
    """Yield the sizes of images, which stand at the beginning of their files."""
    # Optional.
    from PIL import Image

    for file in files:
        with contextlib.suppress(*UNREADABLE, Image.DecompressionBombError):
            open_to_read(file).close()  # Pillow would wait for a pipe.
            with Image.open(file) as picture:
                yield pictures.own_size(picture)


def read_all(files, size, notes):
    """Return `(images, readable, broken)`: whether each file could be read, and `(file, reason)` of the others."""
    pictures.check_memory(len(files), size, f"{len(files):,} files")
    x, readable, broken = np.empty((len(files), *size, 3), "uint8"), np.zeros(len(files), bool), []
    # Pillow lets other threads run while it reads and scales.
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())
    try:
        for index, image in enumerate(pool.map(lambda file: read_one(file, size, notes), files)):
            if isinstance(image, str):
                broken.append((files[index], image))
            else:
                x[index], readable[index] = image, True
    finally:
        pool.shutdown(cancel_futures=True)  # After Ctrl-C, the other files are not waited for.
    return (x if not broken else x[readable]), readable, broken


def read_one(file, size, notes):
    """Return the image of a file, or a text that says why it cannot be read."""
    # Optional.
    from PIL import Image

    try:
        open_to_read(file).close()  # Pillow would wait for a pipe.
        with Image.open(file) as picture:
            return pictures.from_picture(picture, size, notes)
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        return (str(error) or type(error).__name__).replace(str(file), file.name)
