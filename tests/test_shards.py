"""Soft targets by key in many files: shards, and the index of their keys."""

import concurrent.futures
import errno
import os
import pathlib
import pickle
import re

import numpy as np
import pytest
from helpers.keys import NUMBERS, ORDER, TEXTS, arrays, assert_paired, batch_by_batch, keyed, make
from helpers.models import classifier

import keras_ban
from keras_ban import SoftTargets
from keras_ban._src.targets import key_index

pytestmark = pytest.mark.one_backend


@pytest.fixture(scope="module")
def teacher():
    return classifier()


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
    monkeypatch.setattr(keras_ban._src.targets.shards, "_MOST_FILES_OPEN", 2)
    monkeypatch.setattr(keras_ban._src.targets.shards, "_MOST_ROWS_MAPPED", 20)

    assert_paired(SoftTargets.load(tmp_path).pair(keyed(TEXTS, ORDER)), teacher)


def test_threads_that_ask_at_once_are_each_given_their_rows(teacher, tmp_path, monkeypatch):
    write_shards(teacher, tmp_path)
    monkeypatch.setattr(keras_ban._src.targets.shards, "_MOST_ROWS_MAPPED", 20)
    paired = SoftTargets.load(tmp_path).pair(keyed(TEXTS, ORDER, size=4))

    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        batches = list(threads.map(paired.__getitem__, range(24)))

    assert_paired(batches, teacher)


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
    monkeypatch.setattr(keras_ban._src.targets.shards, "_MOST_ROWS_MAPPED", 20)
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
    monkeypatch.setattr(keras_ban._src.files.row_file, "_SMALL_BYTES", 0)
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
    assert TEXTS[:50].tolist() == [text.decode() for text in again._texts_of_keys()]


@pytest.mark.parametrize(
    ("keys", "index"),
    [(TEXTS, "memory"), (NUMBERS, "memory"), (NUMBERS, "file")],
    ids=["texts", "numbers", "numbers, index in a file"],
)
def test_a_key_in_two_shards_is_named(teacher, keys, index, tmp_path, request):
    if index == "file":
        request.getfixturevalue("index_in_file")
    keys = keys.copy()
    keys[71] = keys[20]
    write_shards(teacher, tmp_path, keys=keys)

    named = f"{keys[20].item()!r} is there twice, in row 20 of targets-00000-of-00003.npy and in row 7 of targets-00002"
    with pytest.raises(ValueError, match=re.escape(named)):
        SoftTargets.load(tmp_path)


# The index of many keys, in a file


@pytest.fixture
def index_in_file(monkeypatch):
    monkeypatch.setattr(key_index, "_MOST_IN_MEMORY", 10)
    monkeypatch.setattr(key_index, "_SORTED_AT_ONCE", 32)
    monkeypatch.setattr(key_index, "_BLOCK", 4)


@pytest.mark.parametrize("rows", [11, 31, 96, 1000])
@pytest.mark.parametrize("kind", ["counted", "random", "multiples of 2**40"])
def test_an_index_in_a_file_finds_every_row_and_no_other(index_in_file, kind, rows):
    rng = np.random.default_rng(rows)
    keys = {
        "counted": rng.permutation(rows).astype("uint64"),
        "random": rng.integers(0, 2**64, rows, "uint64"),
        "multiples of 2**40": rng.permutation(rows).astype("uint64") << np.uint64(40),
    }[kind]
    index = key_index.KeyIndex(lambda: np.array_split(keys, 3), rows)
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

    index = key_index.KeyIndex(lambda: [keys], 500)

    assert keys.argsort().tolist() == index.rows_of(np.arange(500, dtype="uint64"))[0].tolist()
    assert (0, 500) == key_index.KeyIndex(lambda: [keys, keys[:1]], 501).twice[:2]


def test_a_full_disk_under_the_index_is_named(teacher, tmp_path, index_in_file, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    write_shards(teacher, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left.*the index of the keys, in .*TMPDIR"):
            SoftTargets.load(tmp_path)
    assert 96 == len(SoftTargets.load(tmp_path))
