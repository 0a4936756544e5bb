"""Soft targets found by key: any order, any number of workers, and errors that name the key."""

import concurrent.futures
import re

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.keys import NUMBERS, ORDER, TEXTS, arrays, assert_paired, keyed, make
from helpers.models import classifier, crossentropy, values

import keras_ban
from keras_ban import SoftTargets
from keras_ban._src.targets import key_index

KINDS = [pytest.param(TEXTS, id="texts"), pytest.param(NUMBERS, id="numbers", marks=pytest.mark.one_backend)]


@pytest.fixture(scope="module")
def teacher():
    return classifier()


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


@pytest.mark.parametrize("keys", KINDS)
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


@pytest.mark.parametrize("keys", KINDS)
def test_rows_are_found_in_any_order_by_tf_data(teacher, keys, tmp_path):
    pytest.importorskip("tensorflow")
    targets = make(teacher, tf_data(keys, slice(None)), path=tmp_path / "targets.npy")

    assert_paired(targets.pair(tf_data(keys, ORDER, size=10)), teacher)


@pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning")  # JAX, of each process that is forked
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=[pytest.mark.one_backend, pytest.mark.new_process])])
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


@pytest.mark.one_backend
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


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_the_index_is_made_once_before_any_thread_or_process_asks(teacher, monkeypatch):
    made, init = [], key_index.KeyIndex.__init__
    targets = make(teacher, keyed(NUMBERS))
    monkeypatch.setattr(key_index.KeyIndex, "__init__", lambda self, *parts: made.append(self) or init(self, *parts))

    paired = targets.pair(keyed(NUMBERS, ORDER, size=4))
    assert 1 == len(made)
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        assert_paired(list(threads.map(paired.__getitem__, range(24))), teacher)
    assert 1 == len(made)


@pytest.mark.one_backend
def test_files_are_found_whatever_the_working_directory_becomes(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(teacher, keyed(TEXTS), path="targets.npy")
    targets = SoftTargets.load("targets.npy")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(keras_ban._src.targets.shards, "_MOST_ROWS_MAPPED", 20)

    assert_paired(targets.pair(keyed(TEXTS)), teacher)


@pytest.mark.one_backend
def test_names_that_are_no_utf8_are_keys(teacher):
    names = np.array([f"caf{i}\udce9.jpg" for i in range(96)], "object")
    assert_paired(make(teacher, keyed(names)).pair(keyed(names, ORDER)), teacher)


# Errors


@pytest.mark.one_backend
@pytest.mark.parametrize("in_file", [False, True])
@pytest.mark.parametrize("keys", KINDS)
def test_a_key_that_comes_twice_is_named(teacher, keys, in_file, tmp_path):
    keys = keys.copy()
    keys[71] = keys[20]
    path = {"path": tmp_path / "targets.npy"} if in_file else {}

    with pytest.raises(ValueError, match=re.escape(f"{keys[20].item()!r} is there twice, in row 20 and in row 71")):
        make(teacher, keyed(keys), **path)
    assert [] == list(tmp_path.iterdir())


DATASETS = {"PyDataset": lambda keys: keyed(keys), "tf.data": lambda keys: tf_data(keys, ORDER), "DataLoader": loader}


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.parametrize("keys", KINDS)
def test_fit_names_a_key_that_is_missing(teacher, kind, keys):
    part = make(teacher, keyed(np.delete(keys, 40), slice(0, 95)))
    missing = re.escape(f"hold no row of the key {keys[40].item()!r}, nor of 0 others")

    with pytest.raises(ValueError, match=missing):
        distiller(teacher, 1).fit(DATASETS[kind](keys), soft_targets=part, shuffle=False, verbose=0)


@pytest.mark.one_backend
@pytest.mark.parametrize("kind", DATASETS)
def test_keys_of_another_kind_are_refused(teacher, kind):
    with pytest.raises(ValueError, match="keys that are texts, but the data brings whole numbers"):
        targets = make(teacher, keyed(TEXTS))
        distiller(teacher, 1).fit(DATASETS[kind](NUMBERS), soft_targets=targets, shuffle=False, verbose=0)


@pytest.mark.one_backend
def test_keys_that_are_no_keys_are_refused(teacher):
    with pytest.raises(TypeError, match="whole number or a text, received: 0.5"):
        make(teacher, keyed(np.full(96, 0.5)))
    with pytest.raises(TypeError, match="whole number or a text, received: None"):
        make(teacher, keyed(np.array([*TEXTS[:95], None], "object")))
    with pytest.raises(ValueError, match="one an example, received shape"):
        make(teacher, keyed(NUMBERS[:, None]))
    with pytest.raises(ValueError, match="16 examples and 2 keys"):
        make(teacher, keyed(NUMBERS[:2]))


@pytest.mark.one_backend
def test_a_part_without_rows_is_kept_and_opened(teacher, tmp_path):
    make(teacher, keyed(NUMBERS))[:0].save(tmp_path / "targets.npy")
    targets = SoftTargets.load(tmp_path / "targets.npy")
    assert (0, 3) == targets.shape
    with pytest.raises(ValueError, match="no row of the key 6, nor of 0 others"):
        targets.rows_of([6])


@pytest.mark.one_backend
def test_rows_that_repeat_are_not_saved(teacher, tmp_path):
    targets = make(teacher, keyed(NUMBERS))
    with pytest.raises(ValueError, match="The key -43 .* is there twice, in row 1 and in row 2"):
        targets[np.array([0, 1, 1])].save(tmp_path / "targets.npy")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_great_keys_are_named_in_both_ways(teacher):
    targets = make(teacher, keyed(NUMBERS))
    with pytest.raises(ValueError, match=r"no row of the key -9223372036854775808 \(9223372036854775808 as uint64\)"):
        targets.rows_of(np.array([2**63], "uint64"))


@pytest.mark.one_backend
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
