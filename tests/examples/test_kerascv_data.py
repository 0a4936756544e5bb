"""Where the command line's images come from: arrays, folders, TFDS; without Keras, but for the sets of TFDS."""

import argparse
import pathlib

import numpy as np
import pytest
from kerascv import data, folder, pictures, tfds_data

pytestmark = pytest.mark.one_backend

RNG = np.random.default_rng(2)


def load(place, **chosen):
    return data.load(argparse.Namespace(**{"data": place, "data_dir": None, "image_size": None, "seed": 0, **chosen}))


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
    actual = pictures.from_arrays(x, size, pictures.Notes(), "test")

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
    with pytest.raises(SystemExit, match=message):
        pictures.from_arrays(x, 9, pictures.Notes(), "test")


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
    with pytest.raises(SystemExit, match=message):
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
    loaded = load(f"folder:{photos}", image_size=16)

    assert ["cat", "dog"] == loaded.classes
    assert ["cat/03.png", "dog/00.png", "dog/01.png"] == [path for path, _ in loaded.skipped]
    assert "3 files could not be read" in "\n".join(data.describe(loaded))
    assert [20, 18] == sum(np.bincount(y) for _, y in (loaded.train, loaded.validation, loaded.test)).tolist()
    for x, y in (loaded.train, loaded.validation, loaded.test):
        # A JPEG, and scaling, may be off by one.
        np.testing.assert_allclose(np.array([200, 60])[y][:, None, None, None] + 0 * x.astype(int), x, atol=1)
    assert {"2 grey images were given three equal channels.", "1 images with transparency were laid on white."} <= set(
        loaded.notes
    )


@pytest.mark.parametrize(
    "sizes, expected",
    [
        ([(32, 32)], 32),
        ([(96, 96)], 96),
        ([(128, 128)], 64),
        ([(32, 24)], 64),
        ([(32, 32), (40, 40)], 64),
    ],
)
def test_pictures_of_one_size_keep_it(tmp_path, sizes, expected):
    image = pytest.importorskip("PIL.Image")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(20):
                # The last picture of the last folder is of the last size.
                size = sizes[-1] if (split, name, i) == ("test", "dog", 19) else sizes[0]
                image.fromarray(np.full((*size, 3), 100, "uint8")).save(tmp_path / split / name / f"{i:02d}.png")
    (tmp_path / "train" / "cat" / "broken.png").write_bytes(b"no image")

    loaded = load(f"folder:{tmp_path}")

    assert (expected, expected, 3) == loaded.train[0].shape[1:] == loaded.test[0].shape[1:]
    assert any("were scaled" in note for note in loaded.notes) == (expected == 64)


def test_splits_of_a_folder_are_kept(photos, tmp_path_factory):
    root = tmp_path_factory.mktemp("splits")
    for split in ("train", "val", "test"):
        (root / split).symlink_to(photos, target_is_directory=True)
    loaded = load(f"folder:{root}", image_size=8)

    assert [38, 38, 38] == [len(y) for _, y in (loaded.train, loaded.validation, loaded.test)]
    assert 9 == len(loaded.skipped)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda root: root.rmdir(), "must be a folder, there is none"),
        (lambda root: (root / "a.png").write_bytes(b""), "must hold a folder of images for each class"),
        (lambda root: (root / "cat").mkdir(), r"has one class alone \(\['cat'\]\)"),
        (lambda root: [(root / name).mkdir() for name in ("cat", "dog")], "image of 2 of its 2 classes: cat, dog"),
        (
            lambda root: [(root / name).mkdir(parents=True) for name in ("train/cat", "train/dog", "test/cow")],
            "test has folders that .*train has not: cow",
        ),
    ],
)
def test_folders_that_cannot_be_used_are_refused(make, message, tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    with pytest.raises(SystemExit, match=message):
        load(f"folder:{root}")


def test_more_images_than_memory_holds_are_refused():
    if not pathlib.Path("/proc/meminfo").exists():
        pytest.skip("Linux alone says how much memory there is")
    with pytest.raises(SystemExit, match="images of 1000x1000 take .* Choose a smaller --image-size"):
        pictures.check_memory(10**9, 1000, "test")


def test_damage_is_told_by_the_name_of_the_file(tmp_path):
    pytest.importorskip("PIL")
    path = tmp_path / "image.png"
    path.write_bytes(b"none")
    assert "cannot identify image file 'image.png'" == folder.read_one(path, 8, pictures.Notes())


@pytest.fixture
def tfds():
    reason = "tensorflow-datasets, or importlib_resources, which it does not require but imports, is not installed"
    pytest.importorskip("importlib_resources", reason=reason)
    pytest.importorskip("tensorflow", reason=reason)
    return pytest.importorskip("tensorflow_datasets", reason=reason)


@pytest.mark.parametrize("file_format", ["tfrecord", "array_record"])
def test_a_set_of_tfds_made_on_the_spot_is_read(tfds, tmp_path, file_format):
    if file_format == "array_record":
        pytest.importorskip("array_record", reason="its package is not installed")

    def examples(n):
        for i in range(n):
            yield str(i), {"picture": np.full((20, 20 + i % 2, 1), 10 * i, "uint8"), "kind": i % 3}

    features = {"picture": tfds.features.Image(shape=(None, None, 1)), "kind": tfds.features.ClassLabel(names="abc")}
    tfds.dataset_builders.store_as_tfds_dataset(
        name="spots",
        version="1.0.0",
        features=tfds.features.FeaturesDict(features),
        split_datasets={"train": examples(24), "test": examples(6)},
        data_dir=tmp_path,
        file_format=file_format,
    )
    loaded = load("tfds:spots", data_dir=tmp_path, image_size=16)

    assert (["a", "b", "c"], 21, 3) == (loaded.classes, len(loaded.train[1]), len(loaded.validation[1]))
    # All pixels of an image are alike.
    assert {(10 * i, i % 3) for i in range(6)} == {
        (int(x.min()), int(y)) for x, y in zip(*loaded.test, strict=True) if x.min() == x.max()
    }
    with pytest.raises(SystemExit, match="TFDS knows no set of this name"):
        load("tfds:spotz", data_dir=tmp_path)


def test_a_set_that_cannot_be_fetched_is_told_and_leaves_nothing(tfds, tmp_path, monkeypatch):
    there = tmp_path / "sets"
    monkeypatch.setattr(tfds_data, "unreachable", lambda url: "no connection")
    with pytest.raises(SystemExit, match=r"tfds:mnist is not in .*sets, and could not be fetched: no answer from"):
        load("tfds:mnist", data_dir=there)
    assert not there.exists()

    def fail(builder, *, download_dir, **_):
        (pathlib.Path(download_dir) / "half.gz").write_bytes(b"half")
        (there / builder.name / "incomplete.XY_3.0.1").mkdir(parents=True)
        raise ConnectionError("it broke off")

    monkeypatch.setattr(tfds_data, "unreachable", lambda url: None)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(SystemExit, match="could not be fetched: ConnectionError: it broke off"):
        load("tfds:mnist", data_dir=there)
    assert not there.exists()
    there.mkdir()
    (there / "others").touch()
    with pytest.raises(SystemExit, match="it broke off"):
        load("tfds:mnist", data_dir=there)
    assert ["others"] == [path.name for path in there.iterdir()]
