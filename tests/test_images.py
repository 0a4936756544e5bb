"""The images of `keras-ban train`: arrays, folders, sets of TFDS."""

import argparse
import pathlib

import numpy as np
import pytest

from keras_ban._src.images import data, folder, pictures, tfds

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(2)


def load(place, **chosen):
    models = {"library": "keras_cv", "backbone": "resnet", "teacher_backbone": None}
    others = {"data_dir": None, "image_size": None, "seed": 0, "unlabeled": None}
    return data.load(argparse.Namespace(**{"data": place, "resume": False, **models, **others, **chosen}))


def save(tmp_path, **arrays):
    np.savez(tmp_path / "images.npz", **arrays)
    return f"npz:{tmp_path / 'images.npz'}"


def images(n, *shape):
    return RNG.integers(0, 256, (n, *shape)).astype("uint8")


def test_images_of_the_npz_file_come_as_they_are_and_missing_parts_are_a_tenth_of_each_class(tmp_path):
    x, y = images(60, 12, 12, 3), np.repeat([0, 1, 2], [40, 19, 1])
    loaded = load(save(tmp_path, x_train=x, y_train=y[:, None], x_test=x[:6], y_test=y[:6]))

    np.testing.assert_array_equal(x[:6], loaded.test[0])
    assert [4, 2, 0] == np.bincount(loaded.validation[1], minlength=3).tolist()
    assert [36, 17, 1] == np.bincount(loaded.train[1]).tolist()
    together = np.concatenate([loaded.train[0], loaded.validation[0]])
    assert sorted(image.tobytes() for image in x) == sorted(image.tobytes() for image in together)
    again = load(loaded_from := f"npz:{tmp_path / 'images.npz'}")
    other = load(loaded_from, seed=1)
    np.testing.assert_array_equal(loaded.validation[0], again.validation[0])
    assert not np.array_equal(loaded.validation[0], other.validation[0])


@pytest.mark.parametrize(
    "x, expected",
    [
        (np.full((1, 9, 9), 7, "uint8"), [7, 7, 7]),
        (np.full((1, 9, 9, 1), 0.2, "float32"), [51, 51, 51]),
        (np.full((1, 9, 9, 3), 99.6, "float64"), [100, 100, 100]),
        (np.full((1, 9, 9, 3), 9, "int64"), [9, 9, 9]),
        # A fifth opaque: 0.2 * 10 + 0.8 * 255.
        (np.broadcast_to(np.array([10, 10, 10, 51], "uint8"), (1, 9, 9, 4)), [206, 206, 206]),
        (np.broadcast_to(np.array([10, 51], "uint8"), (1, 9, 9, 2)), [206, 206, 206]),
    ],
)
@pytest.mark.parametrize("size", [9, 16])
def test_arrays_of_any_type_and_channels_become_rgb(x, expected, size):
    actual = pictures.from_arrays(x, (size, size), pictures.Notes(), "test")

    assert ((1, size, size, 3), "uint8") == (actual.shape, actual.dtype)
    np.testing.assert_array_equal(np.broadcast_to(expected, actual.shape), actual)


@pytest.mark.parametrize(
    "x, message",
    [
        (np.zeros((1, 9, 9, 5), "uint8"), r"1 to 4 channels.*\(9, 9, 5\)"),
        (np.full((1, 9, 9, 3), -1.5), "from 0 to 255, or from 0 to 1. These are of float64 from -1.5 to -1.5"),
        (np.full((1, 9, 9, 3), 4000, "uint16"), "These are of uint16 from 4000 to 4000"),
    ],
)
def test_arrays_that_are_no_images_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        pictures.from_arrays(x, (9, 9), pictures.Notes(), "test")


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"x_train": images(4, 9, 9, 3)}, "must be a .npz file of the arrays x_train, y_train"),
        ({"x_train": images(4, 9), "y_train": np.zeros(4, int)}, r"must hold images .* images \(4, 9\)"),
        ({"x_train": images(4, 9, 9), "y_train": np.zeros(4)}, "labels .* of float64"),
        ({"x_train": images(4, 9, 9), "y_train": np.zeros(4, int)}, "has one class alone"),
        ({"x_train": images(4, 9, 9), "y_train": np.array([0, 2, 0, 2])}, "no .* image of 1 of its 3 classes: 1"),
        ({"x_train": images(4, 9, 9), "y_train": np.array([-1, 0, 1, 1])}, "must number its classes from 0"),
        ({"x_train": images(2, 9, 9), "y_train": np.array([0, 1])}, "too few images: none are left for validation"),
    ],
)
def test_npz_files_that_cannot_be_used_are_refused(arrays, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load(save(tmp_path, **arrays))


@pytest.fixture
def photos(tmp_path):
    """20 images of each class, cats bright and dogs dark, some of them unusual, and three broken."""
    image = pytest.importorskip("PIL.Image")
    for name, level in (("cat", 200), ("dog", 60)):
        (tmp_path / name / "more").mkdir(parents=True)
        for i in range(20):
            image.fromarray(np.full((30 + i, 40, 3), level, "uint8")).save(tmp_path / name / f"{i:02d}.png")
    image.fromarray(np.full((30, 40), 200, "uint8")).save(tmp_path / "cat" / "00.png")
    alpha = np.dstack([np.zeros((30, 40, 3), "uint8"), np.full((30, 40), 55, "uint8")])
    image.fromarray(alpha).save(tmp_path / "cat" / "01.png")  # 255 - 55 = 200 on white
    image.fromarray(np.full((30, 40), 200 * 256, "uint16")).save(tmp_path / "cat" / "02.png")
    image.fromarray(np.full((30, 40, 3), 200, "uint8")).save(tmp_path / "cat" / "more" / "20.jpg")
    (tmp_path / "cat" / "03.png").write_bytes(b"no image")
    whole = (tmp_path / "dog" / "00.png").read_bytes()
    (tmp_path / "dog" / "00.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "dog" / "01.png").write_bytes(b"")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_for_each_class_is_read_and_what_cannot_be_is_named(photos):
    loaded = load(f"folder:{photos}", image_size=(16, 16))

    assert ["cat", "dog"] == loaded.classes
    assert ["cat/03.png", "dog/00.png", "dog/01.png"] == [path for path, _ in loaded.skipped]
    assert "3 files could not be read" in "\n".join(data.describe(loaded))
    assert [20, 18] == sum(np.bincount(y) for _, y, _ in (loaded.train, loaded.validation, loaded.test)).tolist()
    for x, y, _ in (loaded.train, loaded.validation, loaded.test):
        # A JPEG, and scaling, may be off by one.
        np.testing.assert_allclose(np.array([200, 60])[y][:, None, None, None] + 0 * x.astype(int), x, atol=1)
    assert {"2 grey images were given three equal channels.", "1 transparent image was laid on white."} <= set(
        loaded.notes
    )


def save_pictures(root, sizes, splits=("train", "test"), mode="RGB"):
    """20 pictures of each class and split. The last of all has the last of the sizes, pairs of height and width."""
    image = pytest.importorskip("PIL.Image")
    for split in splits:
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for i in range(20):
                height, width = sizes[-1] if (split, name, i) == (splits[-1], "dog", 19) else sizes[0]
                image.new(mode, (width, height)).save(root / split / name / f"{i:02d}.png")


@pytest.mark.parametrize(
    "sizes, mode, backbone, expected, note",
    [
        ([(32, 32)], "RGB", "resnet", (32, 32), ""),
        ([(96, 96)], "RGB", "resnet", (96, 96), ""),
        ([(32, 24)], "RGB", "resnet", (32, 24), ""),
        ([(28, 28)], "L", "resnet", (28, 28), "80 grey images were given three equal channels."),
        ([(8, 8)], "RGB", "mobilenetv3", (8, 8), ""),
        ([(8, 8)], "RGB", "densenet", (15, 15), "the model takes no images below 15x15"),
        ([(30, 30)], "RGB", "vit", (32, 32), "the model takes multiples of 4"),
        ([(28, 28)], "RGB", "vit", (28, 28), ""),
        ([(120, 160)], "RGB", "resnet", (64, 64), "larger ones take long to train (--image-size 120x160 keeps them)"),
        ([(32, 32), (40, 40)], "RGB", "resnet", (64, 64), "they are of several sizes (--image-size chooses another)"),
    ],
)
def test_pictures_of_one_size_keep_it_if_the_model_can_take_it_or_a_line_says_why_not(
    tmp_path, sizes, mode, backbone, expected, note
):
    save_pictures(tmp_path, sizes, mode=mode)
    (tmp_path / "train" / "cat" / "broken.png").write_bytes(b"no image")

    loaded = load(f"folder:{tmp_path}", library="keras_hub" if backbone == "vit" else "keras_cv", backbone=backbone)

    assert (*expected, 3) == loaded.train[0].shape[1:] == loaded.test[0].shape[1:]
    # That validation images are a tenth of the others is said, too.
    assert (2 if note else 1) == len(loaded.notes)
    assert note in loaded.notes[0]
    assert ("scaled from" in loaded.notes[0]) == (expected not in sizes)


def test_a_picture_whose_camera_was_held_upright_has_the_height_that_is_seen(tmp_path):
    image = pytest.importorskip("PIL.Image")
    save_pictures(tmp_path, [(24, 32)])
    for path in (tmp_path / "train" / "cat").iterdir():
        exif = image.Exif()
        exif[0x0112] = 6  # Rotated by a quarter.
        image.new("RGB", (24, 32)).save(path.with_suffix(".jpg"), exif=exif)
        path.unlink()

    assert (24, 32) == load(f"folder:{tmp_path}").size


def test_splits_of_a_folder_are_kept(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    for split in ("train", "val", "test"):
        (root / split).symlink_to(photos, target_is_directory=True)
    loaded = load(f"folder:{root}", image_size=(8, 8))

    assert [38, 38, 38] == [len(y) for _, y, _ in (loaded.train, loaded.validation, loaded.test)]
    assert 9 == len(loaded.skipped)


def folders(*names):
    return lambda root: [(root / name).mkdir(parents=True) for name in names]


def files(*names):
    def make(root):
        for name in names:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"none")

    return make


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda root: root.rmdir(), "images must be a folder, but there is none"),
        (lambda root: None, "must hold a folder of images for each class, named as the class is. It is empty."),
        (files("a.png"), "must hold a folder of images for each class, .* It holds 1 entry, and no folder"),
        (folders("cat"), "images holds one folder alone, cat, so there is one class. A classifier needs two or more"),
        (folders("all/cat", "all/dog"), "If the classes are the folders in .*images/all, name that folder."),
        (folders("cat", "dog"), "images/cat holds no images: their files must end in .bmp, .gif, .*, .webp."),
        (files("cat/a.heic", "dog/a.png"), "images/cat holds no images: their files must end in"),
        (files("cat/a.png", "dog/a.png"), r"image of 2 of its 2 classes: cat, dog \(cat/a.png: cannot identify image"),
        (folders("train/cat", "train/dog", "test/cow"), "test has folders that .*train has not: cow. .* Add them, or"),
        (folders("val/cat", "test/cat"), "must hold a folder train/ beside .*images/test, .*images/val"),
        (folders("train/cat", "val/cat", "valid/cat"), "val and .*valid both hold validation images: leave one out"),
    ],
)
def test_folders_that_cannot_be_used_are_refused(make, message, tmp_path):
    pytest.importorskip("PIL")
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    with pytest.raises(ValueError, match=message):
        load(f"folder:{root}")


def test_what_is_not_read_of_a_folder_is_said(tmp_path):
    save_pictures(tmp_path, [(9, 9)], splits=("train",))
    (tmp_path / "train" / "dog" / "00.png").rename(tmp_path / "train" / "loose.png")
    (tmp_path / "more").mkdir()
    for name in ("one.HEIC", "two.heic", "notes.txt", "none", ".hidden.txt"):
        (tmp_path / "train" / "dog" / name).touch()
    notes = load(f"folder:{tmp_path}").notes
    assert f"Beside {tmp_path / 'train'}, these folders were not read: more." in notes
    assert "1 image in no class's folder: not read." in notes
    assert any(note.startswith("4 files of other endings (.heic, .txt, no ending): not read. Images") for note in notes)


def test_a_class_of_one_image_is_trained_and_said_not_to_be_measured(tmp_path):
    save_pictures(tmp_path, [(9, 9)], splits=("",))
    for path in sorted((tmp_path / "dog").iterdir())[1:]:
        path.unlink()
    loaded = load(f"folder:{tmp_path}")
    assert [16, 1] == np.bincount(loaded.train[1]).tolist()
    assert "No test image of dog: how well the models know them is not measured there." in loaded.notes


def test_unlabeled_images_are_read_at_any_depth_and_need_one_at_least(tmp_path):
    save_pictures(tmp_path / "labeled", [(9, 9)], splits=("",))
    save_pictures(tmp_path / "unlabeled", [(12, 9)])
    loaded = load(f"folder:{tmp_path / 'labeled'}", unlabeled=tmp_path / "unlabeled")
    assert (80, 9, 9, 3) == loaded.unlabeled.shape
    assert "80 without labels" in data.describe(loaded)[0]
    (tmp_path / "empty").mkdir()
    for name, make in (("empty", lambda: None), ("broken", lambda: files("a.png")(tmp_path / "broken"))):
        make()
        with pytest.raises(ValueError, match=f"--unlabeled .*{name} holds no images that can be read: "):
            load(f"folder:{tmp_path / 'labeled'}", unlabeled=tmp_path / name)


def test_names_of_test_images_are_those_of_their_files(tmp_path):
    save_pictures(tmp_path, [(9, 9)])
    _, y, names = load(f"folder:{tmp_path}").test
    assert [f"test/{'dog' if label else 'cat'}/{i % 20:02d}.png" for i, label in enumerate(y)] == list(names)


def test_more_images_than_memory_holds_are_refused():
    if not pathlib.Path("/proc/meminfo").exists():
        pytest.skip("Linux alone says how much memory there is")
    with pytest.raises(ValueError, match="images of 1000x1000 take .* Choose a smaller --image-size"):
        pictures.check_memory(10**9, (1000, 1000), "test")


def test_damage_is_told_by_the_name_of_the_file(tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "image.png"
    path.write_bytes(b"none")
    assert "cannot identify image file 'image.png'" == folder.read_one(path, (8, 8), pictures.Notes())


@pytest.fixture
def tensorflow_datasets():
    reason = "tensorflow-datasets, or importlib_resources, which it does not require but imports, is not installed"
    pytest.importorskip("importlib_resources", reason=reason)
    pytest.importorskip("tensorflow", reason=reason)
    return pytest.importorskip("tensorflow_datasets", reason=reason)


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_set_of_tfds_made_on_the_spot_is_read(tensorflow_datasets, tmp_path, file_format):
    if file_format == "array_record":
        pytest.importorskip("array_record", reason="its package is not installed")

    def examples(n):
        for i in range(n):
            yield str(i), {"picture": np.full((20, 20 + i % 2, 1), 10 * i, "uint8"), "kind": i % 3}

    features = {
        "picture": tensorflow_datasets.features.Image(shape=(None, None, 1)),
        "kind": tensorflow_datasets.features.ClassLabel(names="abc"),
    }
    tensorflow_datasets.dataset_builders.store_as_tfds_dataset(
        name="spots",
        version="1.0.0",
        features=tensorflow_datasets.features.FeaturesDict(features),
        split_datasets={"train": examples(24), "test": examples(6)},
        data_dir=tmp_path,
        file_format=file_format,
    )
    loaded = load("tfds:spots", data_dir=tmp_path, image_size=(16, 16))

    assert (["a", "b", "c"], 21, 3) == (loaded.classes, len(loaded.train[1]), len(loaded.validation[1]))
    # All pixels of an image are alike.
    assert {(10 * i, i % 3) for i in range(6)} == {
        (int(x.min()), int(y)) for x, y in zip(*loaded.test[:2], strict=True) if x.min() == x.max()
    }
    with pytest.raises(ValueError, match="TFDS knows no set of this name"):
        load("tfds:spotz", data_dir=tmp_path)


def test_a_set_that_cannot_be_fetched_is_told_and_leaves_nothing(tensorflow_datasets, tmp_path, monkeypatch):
    there = tmp_path / "sets"
    monkeypatch.setattr(tfds, "unreachable", lambda url: "no connection")
    with pytest.raises(ValueError, match=r"tfds:mnist is not in .*sets, and could not be fetched: no answer from"):
        load("tfds:mnist", data_dir=there)
    assert not there.exists()

    def fail(builder, *, download_dir, **_):
        (pathlib.Path(download_dir) / "half.gz").write_bytes(b"half")
        (there / builder.name / "incomplete.XY_3.0.1").mkdir(parents=True)
        raise ConnectionError("it broke off")

    monkeypatch.setattr(tfds, "unreachable", lambda url: None)
    monkeypatch.setattr(tensorflow_datasets.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(ValueError, match="could not be fetched: ConnectionError: it broke off"):
        load("tfds:mnist", data_dir=there)
    assert not there.exists()
    there.mkdir()
    (there / "others").touch()
    with pytest.raises(ValueError, match="it broke off"):
        load("tfds:mnist", data_dir=there)
    assert ["others"] == [path.name for path in there.iterdir()]
