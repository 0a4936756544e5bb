"""Soft targets found by key: any order, any number of workers, shards, and errors that name the key."""

import concurrent.futures
import errno
import os
import pathlib
import pickle
import re

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import classifier, crossentropy, values

import keras_ban
from keras_ban import SoftTargets, _keys

TEXTS = np.array([f"part-{i % 3}/é{i}" for i in range(96)])
NUMBERS = np.arange(96, dtype="int64") * 7 - 50


@pytest.fixture(scope="module")
def teacher():
    return classifier()


def keyed(keys, rows=slice(None), size=16, **options):
    """A `PyDataset` of those rows."""
    x, y = arrays()
    return Keyed(x[rows], y[rows], keys[rows], size, **options)


def arrays():
    rng = np.random.default_rng(1)
    return rng.standard_normal((96, 8)).astype("float32"), rng.integers(0, 3, 96)


class Keyed(Batches):
    def __init__(self, x, y, keys, size, **options):
        super().__init__(x, y, size, **options)
        self.keys = keys

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x, {"labels": y, "key": self.keys[index * self.size : (index + 1) * self.size]}


def make(teacher, dataset, **options):
    return SoftTargets.from_teacher(teacher, dataset, verbose=0, **options)


def batch_by_batch(dataset):
    if isinstance(dataset, keras.utils.PyDataset):
        dataset = map(dataset.__getitem__, range(dataset.num_batches))
    for x, y in dataset:
        yield np.asarray(x), np.asarray(y["labels"]), np.asarray(y["soft_targets"])


def assert_paired(paired, teacher, count=96):
    """Each example has its own label, and what the teacher says of it."""
    all_x, all_y = arrays()
    label_of = {x.tobytes(): y for x, y in zip(all_x, all_y, strict=True)}
    seen = 0
    for x, y, soft_targets in batch_by_batch(paired):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(teacher(x)), soft_targets, rtol=1e-5, atol=1e-6)
        assert [label_of[row.tobytes()] for row in x] == y.tolist()
        seen += len(x)
    assert count == seen


def tf_data(keys, order, size=16):
    tf = pytest.importorskip("tensorflow")
    x, y = arrays()
    dataset = tf.data.Dataset.from_tensor_slices((x[order], {"labels": y[order], "key": keys[order].tolist()}))
    # Four shards, read at once, in whatever order.
    shards = tf.data.Dataset.range(4).interleave(
        lambda i: dataset.shard(4, i), cycle_length=4, num_parallel_calls=4, deterministic=False
    )
    return shards.batch(size)


class Examples:
    """A map-style dataset of torch."""

    def __init__(self, keys):
        self.x, self.y = arrays()
        self.keys = keys

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        key = self.keys[index]
        return self.x[index], {"labels": self.y[index], "key": str(key) if key.dtype.kind == "U" else key}


def loader(keys, **options):
    torch = pytest.importorskip("torch")
    return torch.utils.data.DataLoader(Examples(keys), 16, shuffle=True, **options)


ORDER = np.random.default_rng(0).permutation(96)


@pytest.mark.parametrize("keys", [TEXTS, NUMBERS], ids=["texts", "numbers"])
@pytest.mark.parametrize("top_k", [None, 2])
def test_rows_are_found_in_any_order_by_a_py_dataset(teacher, keys, top_k, tmp_path):
    targets = make(teacher, keyed(keys), path=tmp_path / "targets.npy", top_k=top_k)
    paired = targets.pair(keyed(keys, ORDER, size=10))

    assert targets.by_key and not targets.in_memory
    if top_k is None:
        assert_paired(paired, teacher)
    else:
        soft_targets = np.concatenate([paired[i][1]["soft_targets"]["indices"] for i in range(10)])
        logits = keras.ops.convert_to_numpy(teacher(arrays()[0]))
        np.testing.assert_array_equal(np.argsort(-logits)[ORDER, :2], soft_targets)


@pytest.mark.parametrize("keys", [TEXTS, NUMBERS], ids=["texts", "numbers"])
def test_rows_are_found_in_any_order_by_tf_data(teacher, keys, tmp_path):
    pytest.importorskip("tensorflow")
    targets = make(teacher, tf_data(keys, slice(None)), path=tmp_path / "targets.npy")

    assert_paired(targets.pair(tf_data(keys, ORDER, size=10)), teacher)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX, of each process that is forked
@pytest.mark.parametrize("workers", [0, 2])
def test_rows_are_found_in_any_order_by_a_data_loader(teacher, workers, tmp_path):
    targets = make(teacher, loader(TEXTS), path=tmp_path / "targets.npy")

    assert_paired(targets.pair(loader(TEXTS, num_workers=workers)), teacher)


@pytest.mark.parametrize("kind", ["MapDataset", "IterDataset"])
def test_rows_are_found_in_any_order_by_grain(teacher, kind):
    grain = pytest.importorskip("grain")
    examples = Examples(TEXTS)
    dataset = grain.MapDataset.source([(x, y) for x, y in map(examples.__getitem__, range(96))]).shuffle(seed=0)
    dataset = (dataset if kind == "MapDataset" else dataset.to_iter_dataset()).batch(16)
    paired = make(teacher, keyed(TEXTS)).pair(dataset)

    assert_paired(paired, teacher)
    distiller(teacher, student_of=1).fit(paired, shuffle=False, steps_per_epoch=6, verbose=0)


def test_rows_are_found_by_a_data_loader_that_only_iterates(teacher):
    torch = pytest.importorskip("torch")
    x, y = arrays()

    class Examples(torch.utils.data.IterableDataset):
        def __iter__(self):
            return ((x[i], {"labels": y[i], "key": TEXTS[i]}) for i in ORDER)

    loader = torch.utils.data.DataLoader(Examples(), batch_size=16)
    targets = make(teacher, loader)

    assert 96 == len(targets)
    assert_paired(targets.pair(loader), teacher)


def test_keys_of_a_part_of_the_data_are_enough(teacher):
    targets = make(teacher, keyed(NUMBERS))

    assert_paired(targets.pair(keyed(NUMBERS, slice(30, 70))), teacher, count=40)
    assert targets.verify(teacher, keyed(NUMBERS, ORDER)) < 1e-5


def distiller(teacher, student_of, learning_rate=0.1):
    keras.utils.set_random_seed(student_of)
    model = keras_ban.Distiller(student=keras_ban.reborn(teacher))
    model.compile(keras.optimizers.SGD(learning_rate), crossentropy())
    return model


def test_training_by_key_is_training_by_position(teacher, tmp_path):
    x, y = arrays()
    x, y = x[ORDER], y[ORDER]
    by_position, by_key = distiller(teacher, 3), distiller(teacher, 3)
    by_position.fit(x, y, soft_targets=make(teacher, x), batch_size=16, shuffle=False, verbose=0)
    targets = make(teacher, keyed(TEXTS), path=tmp_path / "targets.npy")
    by_key.fit(keyed(TEXTS, ORDER), soft_targets=targets, shuffle=False, verbose=0)

    for e, a in zip(values(by_position.student), values(by_key.student), strict=True):
        np.testing.assert_allclose(e, a, rtol=1e-5, atol=1e-6)  # The teacher saw other batches: float32 rounding.


def test_threads_that_ask_at_once_are_each_given_their_rows(teacher, tmp_path, monkeypatch):
    write_shards(teacher, tmp_path)
    monkeypatch.setattr(keras_ban._shards, "_MOST_ROWS_MAPPED", 20)
    paired = SoftTargets.load(tmp_path).pair(keyed(TEXTS, ORDER, size=4))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(paired.__getitem__, range(24)))

    assert_paired(batches, teacher)


def test_the_index_is_made_once_before_any_thread_or_process_asks(teacher, monkeypatch):
    made, init = [], _keys.KeyIndex.__init__
    targets = make(teacher, keyed(NUMBERS))
    monkeypatch.setattr(_keys.KeyIndex, "__init__", lambda self, *parts: made.append(self) or init(self, *parts))

    paired = targets.pair(keyed(NUMBERS, ORDER, size=4))
    assert 1 == len(made)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert_paired(list(threads.map(paired.__getitem__, range(24))), teacher)
    assert 1 == len(made)


def test_files_are_found_whatever_the_working_directory_becomes(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(teacher, keyed(TEXTS), path="targets.npy")
    targets = SoftTargets.load("targets.npy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(keras_ban._shards, "_MOST_ROWS_MAPPED", 20)

    assert_paired(targets.pair(keyed(TEXTS)), teacher)


def test_names_that_are_no_utf8_are_keys(teacher):
    names = np.array([f"caf{i}\udce9.jpg" for i in range(96)], "object")
    assert_paired(make(teacher, keyed(names)).pair(keyed(names, ORDER)), teacher)


# Shards


def shard_path(folder, shard, count=3):
    return pathlib.Path(folder, f"targets-{shard:05d}-of-{count:05d}.npy")


def write_shards(teacher, folder, shards=(0, 1, 2), keys=TEXTS):
    for shard in shards:
        if not shard_path(folder, shard).exists():
            make(teacher, keyed(keys, slice(shard * 32, shard * 32 + 32)), path=shard_path(folder, shard))


@pytest.mark.parametrize("mmap", [True, False])
def test_shards_open_as_one(teacher, mmap, tmp_path):
    write_shards(teacher, tmp_path, (2, 0, 1))
    targets = SoftTargets.load(tmp_path, mmap=mmap)
    alone = make(teacher, keyed(TEXTS))

    assert (96, 3) == targets.shape and (not mmap) == targets.in_memory
    np.testing.assert_array_equal(alone.keys, targets.keys)
    # Shards are batches of other sizes: float32 rounding.
    np.testing.assert_allclose(alone.to_dense(), targets.to_dense(), rtol=1e-5, atol=1e-6)
    assert_paired(targets.pair(keyed(TEXTS, ORDER)), teacher)
    assert_paired(pickle.loads(pickle.dumps(targets)).pair(keyed(TEXTS, ORDER)), teacher)


def test_half_of_the_shards_are_gone_on_with(teacher, tmp_path):
    write_shards(teacher, tmp_path, (0, 2))
    kept = shard_path(tmp_path, 2).stat().st_mtime_ns
    with pytest.raises(ValueError, match="2 shards of 3; missing: targets-00001-of-00003.npy"):
        SoftTargets.load(tmp_path)
    write_shards(teacher, tmp_path)

    assert kept == shard_path(tmp_path, 2).stat().st_mtime_ns
    assert 96 == len(SoftTargets.load(tmp_path))


def test_more_shards_and_rows_than_are_kept_open_are_read_all_the_same(teacher, tmp_path, monkeypatch):
    write_shards(teacher, tmp_path)
    monkeypatch.setattr(keras_ban._shards, "_MOST_FILES_OPEN", 2)
    monkeypatch.setattr(keras_ban._shards, "_MOST_ROWS_MAPPED", 20)

    assert_paired(SoftTargets.load(tmp_path).pair(keyed(TEXTS, ORDER)), teacher)


def test_shards_of_another_teacher_are_refused(teacher, tmp_path):
    write_shards(teacher, tmp_path, (0, 1))
    write_shards(keras_ban.reborn(teacher), tmp_path, (2,))

    with pytest.raises(ValueError, match="targets-00002.* differ in .*teacher_fingerprint"):
        SoftTargets.load(tmp_path)


def test_shards_of_one_teacher_by_another_name_are_of_that_teacher(teacher, tmp_path):
    write_shards(keras_ban.EnsembleModel([teacher], name="one"), tmp_path, (0, 1))
    write_shards(keras_ban.EnsembleModel([teacher], name="other"), tmp_path)

    assert 96 == len(SoftTargets.load(tmp_path))


def test_a_shard_that_was_replaced_is_not_read_as_the_one_that_was_opened(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(keras_ban._shards, "_MOST_ROWS_MAPPED", 20)
    write_shards(teacher, tmp_path)
    paired = SoftTargets.load(tmp_path).pair(keyed(TEXTS, ORDER))
    assert_paired(paired, teacher)
    make(classifier(), keyed(TEXTS, slice(31, None, -1)), path=shard_path(tmp_path, 0))

    with pytest.raises(ValueError, match="targets-00000-of-00003.npy was replaced or altered since it was opened"):
        list(batch_by_batch(paired))


def test_a_damaged_shard_is_refused_by_name(teacher, tmp_path):
    write_shards(teacher, tmp_path)
    content = bytearray(shard_path(tmp_path, 1).read_bytes())
    content[content.index(b'"part-')] ^= 1  # A text of a key.
    shard_path(tmp_path, 1).write_bytes(content)

    with pytest.raises(ValueError, match="targets-00001-of-00003.npy does not hold"):
        SoftTargets.load(tmp_path)


def test_a_damaged_key_of_a_large_file_is_not_taken_for_one_that_comes_twice(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(keras_ban._storage, "_SMALL_BYTES", 0)
    path = tmp_path / "targets.npy"
    make(teacher, keyed(NUMBERS), path=path)
    content = bytearray(path.read_bytes())
    first = content.index(NUMBERS.tobytes())
    content[first : first + 8] = content[first + 8 : first + 16]
    path.write_bytes(content)

    with pytest.raises(ValueError, match="targets.npy does not hold"):
        SoftTargets.load(path)


def test_a_folder_without_shards_and_shards_by_position_are_refused(teacher, tmp_path):
    with pytest.raises(ValueError, match="holds no shards"):
        SoftTargets.load(tmp_path)
    make(teacher, arrays()[0], path=shard_path(tmp_path, 0, count=1))
    with pytest.raises(ValueError, match="kept by position"):
        SoftTargets.load(tmp_path)


def test_what_is_saved_is_found_by_the_same_texts(teacher, tmp_path):
    make(teacher, keyed(TEXTS))[:50].save(tmp_path / "part.npy")
    SoftTargets.load(tmp_path / "part.npy").save(tmp_path / "again.npy")
    again = SoftTargets.load(tmp_path / "again.npy")

    assert_paired(again.pair(keyed(TEXTS, slice(0, 50))), teacher, count=50)
    assert TEXTS[:50].tolist() == [text.decode() for text in again._texts_of_rows()]


# The index of many keys, in a file


@pytest.fixture
def index_in_file(monkeypatch):
    monkeypatch.setattr(_keys, "_MOST_IN_MEMORY", 10)
    monkeypatch.setattr(_keys, "_SORTED_AT_ONCE", 32)
    monkeypatch.setattr(_keys, "_BLOCK", 4)


@pytest.mark.parametrize("rows", [11, 31, 96, 1000])
@pytest.mark.parametrize("kind", ["counted", "random", "multiples of 2**40"])
def test_an_index_in_a_file_finds_every_row_and_no_other(index_in_file, kind, rows):
    rng = np.random.default_rng(rows)
    keys = {
        "counted": rng.permutation(rows).astype("uint64"),
        "random": rng.integers(0, 2**64, rows, "uint64"),
        "multiples of 2**40": rng.permutation(rows).astype("uint64") << np.uint64(40),
    }[kind]
    index = _keys.KeyIndex(lambda: np.array_split(keys, 3), rows)
    wanted = rng.permutation(np.concatenate([keys, rng.integers(2**63, 2**64, 50, "uint64"), [np.uint64(2**64 - 1)]]))

    found_rows, found = index.rows_of(wanted)

    row_of = {key: row for row, key in enumerate(keys.tolist())}
    assert [key in row_of for key in wanted.tolist()] == found.tolist()
    assert [row_of[key] for key in wanted[found].tolist()] == found_rows[found].tolist()
    assert index.twice is None
    assert [[], []] == [part.tolist() for part in index.rows_of(keys[:0])]


def test_soft_targets_are_found_by_an_index_in_a_file(teacher, tmp_path, index_in_file):
    write_shards(teacher, tmp_path)
    targets = SoftTargets.load(tmp_path)

    assert_paired(targets.pair(keyed(TEXTS, ORDER)), teacher)
    assert_paired(pickle.loads(pickle.dumps(targets)).pair(keyed(TEXTS)), teacher)


def test_an_index_whose_file_is_read_in_pieces_is_whole(index_in_file, monkeypatch):
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, count, offset: pread(file, min(count, 20), offset))
    keys = np.random.default_rng(0).permutation(500).astype("uint64")

    index = _keys.KeyIndex(lambda: [keys], 500)

    assert keys.argsort().tolist() == index.rows_of(np.arange(500, dtype="uint64"))[0].tolist()
    assert (0, 500) == _keys.KeyIndex(lambda: [keys, keys[:1]], 501).twice[:2]


# Errors


def test_a_full_disk_under_the_index_is_named(teacher, tmp_path, index_in_file, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_shards(teacher, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left.*the index of the keys, in .*TMPDIR"):
            SoftTargets.load(tmp_path)
    assert 96 == len(SoftTargets.load(tmp_path))


def test_of_an_index_in_a_file_a_key_that_comes_twice_is_named(teacher, tmp_path, index_in_file):
    test_a_key_in_two_shards_is_named(teacher, NUMBERS, tmp_path)


@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("keys", [TEXTS, NUMBERS], ids=["texts", "numbers"])
def test_a_key_that_comes_twice_is_named(teacher, keys, in_file, tmp_path):
    keys = keys.copy()
    keys[71] = keys[20]
    path = {"path": tmp_path / "targets.npy"} if in_file else {}

    with pytest.raises(ValueError, match=re.escape(f"{keys[20].item()!r} is there twice, in row 20 and in row 71")):
        make(teacher, keyed(keys), **path)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("keys", [TEXTS, NUMBERS], ids=["texts", "numbers"])
def test_a_key_in_two_shards_is_named(teacher, keys, tmp_path):
    keys = keys.copy()
    keys[71] = keys[20]
    write_shards(teacher, tmp_path, keys=keys)

    named = f"{keys[20].item()!r} is there twice, in row 20 of targets-00000-of-00003.npy and in row 7 of targets-00002"
    with pytest.raises(ValueError, match=re.escape(named)):
        SoftTargets.load(tmp_path)


DATASETS = {"PyDataset": lambda keys: keyed(keys), "tf.data": lambda keys: tf_data(keys, ORDER), "DataLoader": loader}


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.parametrize("keys", [TEXTS, NUMBERS], ids=["texts", "numbers"])
def test_fit_names_a_key_that_is_missing(teacher, kind, keys):
    part = make(teacher, keyed(np.delete(keys, 40), slice(0, 95)))
    missing = re.escape(f"hold no row of the key {keys[40].item()!r}, nor of 0 others")

    with pytest.raises(ValueError, match=missing):
        distiller(teacher, 1).fit(DATASETS[kind](keys), soft_targets=part, shuffle=False, verbose=0)


@pytest.mark.parametrize("kind", DATASETS)
def test_keys_of_another_kind_are_refused(teacher, kind):
    with pytest.raises(ValueError, match="keys that are texts, but the data brings whole numbers"):
        targets = make(teacher, keyed(TEXTS))
        distiller(teacher, 1).fit(DATASETS[kind](NUMBERS), soft_targets=targets, shuffle=False, verbose=0)


def test_keys_that_are_no_keys_are_refused(teacher):
    with pytest.raises(TypeError, match="whole number or a text, received: 0.5"):
        make(teacher, keyed(np.full(96, 0.5)))
    with pytest.raises(TypeError, match="whole number or a text, received: None"):
        make(teacher, keyed(np.array([*TEXTS[:95], None], "object")))
    with pytest.raises(ValueError, match="one an example, received shape"):
        make(teacher, keyed(NUMBERS[:, None]))
    with pytest.raises(ValueError, match="16 examples and 2 keys"):
        make(teacher, keyed(NUMBERS[:2]))


def test_a_part_without_rows_is_kept_and_opened(teacher, tmp_path):
    make(teacher, keyed(NUMBERS))[:0].save(tmp_path / "targets.npy")
    targets = SoftTargets.load(tmp_path / "targets.npy")
    assert (0, 3) == targets.shape
    with pytest.raises(ValueError, match="no row of the key 6, nor of 0 others"):
        targets.rows_of([6])


def test_rows_that_repeat_are_not_saved(teacher, tmp_path):
    targets = make(teacher, keyed(NUMBERS))
    with pytest.raises(ValueError, match="The key -43 .* is there twice, in row 1 and in row 2"):
        targets[np.array([0, 1, 1])].save(tmp_path / "targets.npy")
    assert [] == list(tmp_path.iterdir())


def test_great_keys_are_named_in_both_ways(teacher):
    targets = make(teacher, keyed(NUMBERS))
    with pytest.raises(ValueError, match=r"no row of the key -9223372036854775808 \(9223372036854775808 as uint64\)"):
        targets.rows_of(np.array([2**63], "uint64"))


def test_data_without_keys_and_targets_by_position_are_refused(teacher):
    x, y = arrays()
    by_key, by_position = make(teacher, keyed(NUMBERS)), make(teacher, x)

    with pytest.raises(ValueError, match="kept by key, and arrays have none"):
        distiller(teacher, 1).fit(x, y, soft_targets=by_key)
    with pytest.raises(ValueError, match="it gives no 'key'"):
        by_key.pair(Batches(x, y))[0]
    with pytest.raises(ValueError, match="kept by position"):
        by_position.pair(keyed(NUMBERS))[0]
    with pytest.raises(TypeError, match="by key with a `keras.utils.PyDataset`"):
        by_key.pair(x)
