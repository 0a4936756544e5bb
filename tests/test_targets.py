"""`SoftTargets`: made, stored, refused when they belong to something else, and trained on."""

import os
import pickle
import re
import signal
import subprocess
import sys
import warnings

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, Batches
from helpers.models import assert_same, classifier, crossentropy, values

import keras_ban
from keras_ban import SoftTargets

BACKEND = keras.config.backend()


@pytest.fixture
def teacher():
    return classifier()


def make(teacher, x, **options):
    return SoftTargets.from_teacher(teacher, x, verbose=0, **options)


def logits_of(teacher, x):
    return keras.ops.convert_to_numpy(teacher(x))


def many_classes(classes=50, spread=3.0):
    """A teacher whose logits over many classes are its input, and an input."""
    inputs = keras.Input((classes,))
    x = spread * np.random.default_rng(3).standard_normal((40, classes)).astype("float32")
    return keras.Model(inputs, keras.layers.Activation("linear")(inputs)), x


def tf_data(x, y, size=10):
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


def loader(x, y, size=10, **options):
    torch = pytest.importorskip("torch")
    pairs = torch.utils.data.TensorDataset(torch.from_numpy(x), torch.from_numpy(y))
    return torch.utils.data.DataLoader(pairs, batch_size=size, **options)


DATASETS = {"PyDataset": lambda x, y: Batches(x, y, 10), "tf.data": tf_data, "DataLoader": loader}


# What they hold


@pytest.mark.parametrize("in_file", [False, True])
def test_dense_targets_are_the_teachers_outputs(teacher, blobs, tmp_path, in_file):
    x, _ = blobs
    targets = make(teacher, x, path=tmp_path / "targets.npy" if in_file else None)

    assert (len(x), CLASSES) == targets.shape == np.asarray(targets).shape
    assert len(x) == len(targets)
    assert targets.from_logits
    assert targets.in_memory is not in_file
    np.testing.assert_allclose(logits_of(teacher, x), targets.to_dense(), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(targets.to_dense()[5], targets[5])
    np.testing.assert_array_equal(targets.to_dense()[-1], targets[-1])
    np.testing.assert_array_equal(targets.to_dense()[4:9], targets[4:9].to_dense())
    np.testing.assert_array_equal(targets.to_dense()[[7, 3]], targets[np.array([7, 3])].to_dense())
    with pytest.raises(IndexError):
        targets[len(x)]


@pytest.mark.parametrize("kind", DATASETS)
def test_datasets_give_what_arrays_give(teacher, blobs, kind):
    x, y = blobs
    from_arrays, from_dataset = make(teacher, x), make(teacher, DATASETS[kind](x, y))

    np.testing.assert_allclose(from_arrays.to_dense(), from_dataset.to_dense(), rtol=0, atol=1e-6)
    assert from_arrays.data_fingerprint == from_dataset.data_fingerprint
    assert from_arrays.teacher_fingerprint == from_dataset.teacher_fingerprint


def test_nested_inputs_are_read_and_told_apart(blobs):
    x, _ = blobs
    first, second = keras.Input((8,), name="first"), keras.Input((8,), name="second")
    teacher = keras.Model({"first": first, "second": second}, keras.layers.Dense(3)(first - second))
    data = {"first": x, "second": 2 * x}
    targets = make(teacher, data)

    np.testing.assert_allclose(logits_of(teacher, data), targets.to_dense(), rtol=0, atol=1e-6)
    targets.check(data)
    with pytest.raises(ValueError, match="other examples"):
        targets.check({"first": data["second"], "second": data["first"]})


def test_the_teacher_runs_in_inference_mode_and_stays_as_it_was(blobs):
    teacher = classifier(dropout=0.5, batch_norm=True)
    before = values(teacher)
    targets = make(teacher, blobs[0])

    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(teacher(blobs[0], training=False)), targets.to_dense(), rtol=0, atol=1e-6
    )
    assert_same(before, values(teacher))


def test_probabilities_are_noticed(blobs):
    assert not make(classifier(activation="softmax"), blobs[0]).from_logits
    assert make(classifier(activation="softmax"), blobs[0], from_logits=True).from_logits


# Top-k


def top_k_oracle(logits, k):
    """The k largest probabilities, and the others at their mean, by sorting in float64."""
    p = oracles.softmax(logits)
    kept = np.argsort(-p, axis=-1, kind="stable")[..., :k]
    mask = np.zeros(p.shape, bool)
    np.put_along_axis(mask, kept, True, axis=-1)
    rest = np.where(mask, 0, p).sum(axis=-1, keepdims=True) / max(p.shape[-1] - k, 1)
    return np.where(mask, p, rest)


@pytest.mark.parametrize("k", [1, 7, 49, 50])
@pytest.mark.parametrize("gives", ["logits", "probabilities"])
def test_top_k_keeps_the_largest_and_spreads_the_rest_evenly(k, gives):
    teacher, x = many_classes()
    if gives == "probabilities":
        x = oracles.softmax(x).astype("float32")
    dense = make(teacher, x, top_k=k).to_dense()

    expected = top_k_oracle(np.log(x) if gives == "probabilities" else x, k)
    # float16 holds log p to 2**-11 of itself, so p to p * |log p| / 2048, at most 1.8e-4.
    np.testing.assert_allclose(expected, dense if gives == "probabilities" else np.exp(dense), rtol=0, atol=2e-4)


def test_top_k_survives_logits_beyond_float16_and_masked_classes():
    teacher, x = many_classes()
    x = x * np.float32(1e5)
    x[:, 3] = -np.inf
    targets = make(teacher, x, top_k=5)

    assert np.isfinite(targets.to_dense()).all()
    np.testing.assert_allclose(top_k_oracle(np.maximum(x, -1e30), 5), np.exp(targets.to_dense()), rtol=0, atol=2e-4)
    with pytest.raises(ValueError, match="beyond float16"):
        make(teacher, x, dtype="float16")


def test_the_token_axis_is_kept():
    logits = np.random.default_rng(0).standard_normal((6, 4, 11)).astype("float32")
    inputs = keras.Input((4, 11))
    teacher = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    targets = make(teacher, logits, top_k=3)

    assert (6, 4, 11) == targets.shape
    assert (6, 4, 3) == targets.batch(slice(None))["indices"].shape
    np.testing.assert_allclose(top_k_oracle(logits, 3), np.exp(targets.to_dense()), rtol=0, atol=2e-4)


def test_an_example_of_a_thousand_classes_costs_at_most_100_bytes(tmp_path):
    teacher, x = many_classes(classes=1000)
    targets = make(teacher, x, top_k=20, path=tmp_path / "targets.npy")

    assert 90 == targets.nbytes / len(targets)
    # 1.28 million examples, and what the file holds beside them.
    rest = (tmp_path / "targets.npy").stat().st_size - targets.nbytes
    assert 1_280_000 * 90 + rest < 130e6


def test_covered_mass_is_reported(capsys):
    teacher, x = many_classes()
    targets = SoftTargets.from_teacher(teacher, x, top_k=5)
    covered = np.sort(oracles.softmax(x), axis=-1)[:, -5:].sum(axis=-1)

    assert covered.mean() == pytest.approx(targets.covered_mass["mean"], abs=1e-3)
    assert np.percentile(covered, 1) == pytest.approx(targets.covered_mass["first_percentile"], abs=1e-3)
    assert f"cover {targets.covered_mass['mean']:.2%}" in capsys.readouterr().out


def test_the_loss_of_top_k_converges_to_the_dense_one():
    teacher, x = many_classes()
    student = np.random.default_rng(4).standard_normal(x.shape).astype("float32")
    dense = float(keras_ban.losses.KnowledgeDistillation()(x, student))
    errors = []
    for k in (1, 5, 20, 50):
        targets = make(teacher, x, top_k=k)
        loss = float(keras_ban.losses.KnowledgeDistillation()(targets.to_dense(), student))
        errors.append(abs(loss - dense))

    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1
    assert errors[-1] < 2e-3  # what float16 costs


# Files


@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("mmap", [True, False])
def test_a_file_gives_back_what_was_saved(teacher, blobs, tmp_path, top_k, mmap):
    targets = make(teacher, blobs[0], top_k=top_k)
    targets.save(tmp_path / "targets.npy")
    loaded = SoftTargets.load(tmp_path / "targets.npy", mmap=mmap)

    np.testing.assert_array_equal(targets.to_dense(), loaded.to_dense())
    loaded.check(blobs[0])
    names = "shape dtype top_k from_logits teacher_name teacher_fingerprint data_fingerprint version covered_mass"
    for name in names.split():
        assert getattr(targets, name) == getattr(loaded, name)
    assert ["targets.npy"] == [path.name for path in tmp_path.iterdir()]


def test_numpy_alone_reads_the_rows(teacher, blobs, tmp_path):
    targets = make(teacher, blobs[0], path=tmp_path / "targets.npy")

    np.testing.assert_array_equal(targets.to_dense(), np.load(tmp_path / "targets.npy", allow_pickle=False))
    assert 0 == keras_ban._storage.rows_offset(tmp_path / "targets.npy") % 64  # As NumPy has it, to be mapped.


def test_every_byte_that_is_flipped_or_cut_off_is_noticed(teacher, blobs, tmp_path):
    path = tmp_path / "targets.npy"
    make(teacher, blobs[0][:8], top_k=2, path=path)
    original = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(original), 150, replace=False):
        path.write_bytes(original[:place] + bytes([original[place] ^ 0x10]) + original[place + 1 :])
        with pytest.raises(ValueError, match="does not hold soft targets"):
            SoftTargets.load(path)
    for length in [0, 1, 5, 40, *rng.integers(0, len(original), 30), len(original) - 1]:
        path.write_bytes(original[:length])
        with pytest.raises(ValueError, match="does not hold soft targets"):
            SoftTargets.load(path)


def test_a_large_file_is_opened_without_reading_it_and_checked_before_training(teacher, blobs, tmp_path, monkeypatch):
    path = tmp_path / "targets.npy"
    make(teacher, blobs[0], path=path)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(keras_ban._storage, "_SMALL_BYTES", 0)
    targets = SoftTargets.load(path)

    distiller = keras_ban.Distiller(student=classifier())
    distiller.compile("sgd", crossentropy())
    before = values(distiller.student)
    with pytest.raises(ValueError, match="its content is not what was written"):
        distiller.fit(*blobs, soft_targets=targets, verbose=0)
    assert_same(before, values(distiller.student))


def test_a_file_is_complete_or_absent(teacher, blobs, tmp_path):
    class Breaks(Batches):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="the disk is gone"):
        make(teacher, Breaks(*blobs, size=10), path=tmp_path / "targets.npy")
    assert [] == list(tmp_path.iterdir())


def run_alone(code, *arguments):
    """Run code in a process of its own, on the same backend."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run([sys.executable, "-c", code, *map(str, arguments)], env=environment, check=False)


@pytest.mark.one_backend
@pytest.mark.parametrize("exists", [False, True])
def test_a_process_killed_just_before_the_file_gets_its_name_leaves_what_was_there(teacher, blobs, tmp_path, exists):
    path = tmp_path / "targets.npy"
    if exists:
        make(teacher, blobs[0], path=path)
    before = path.read_bytes() if exists else None
    code = """
import os, signal, sys
import keras, numpy as np, keras_ban
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
teacher = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
keras_ban.SoftTargets.from_teacher(teacher, np.zeros((50, 8), "float32"), path=sys.argv[1], verbose=0)
"""
    result = run_alone(code, path)

    assert -signal.SIGKILL == result.returncode
    assert before == (path.read_bytes() if exists else None)
    assert exists is path.exists()
    make(teacher, blobs[0], path=path)
    assert len(blobs[0]) == len(SoftTargets.load(path))


def test_no_file_that_holds_something_else_is_overwritten(teacher, blobs, tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, blobs[0])
    with pytest.raises(ValueError, match="it is not overwritten"):
        make(teacher, blobs[0], path=path)
    np.testing.assert_array_equal(blobs[0], np.load(path))
    with pytest.raises(ValueError, match="there is no folder"):
        make(teacher, blobs[0], path=tmp_path / "absent" / "targets.npy")

    first, second = classifier(), classifier()
    make(first, blobs[0], path=tmp_path / "targets.npy")
    assert make(second, blobs[0], path=tmp_path / "targets.npy").verify(second, blobs[0]) < 1e-5


def test_a_worker_process_is_sent_the_path_and_not_the_rows(teacher, blobs, tmp_path):
    x = np.tile(blobs[0], (50, 1))
    targets = make(teacher, x, path=tmp_path / "targets.npy")
    sent = pickle.dumps(targets)

    assert len(sent) < 2000
    np.testing.assert_array_equal(targets.to_dense(), pickle.loads(sent).to_dense())


# Whose they are


def test_verify_reports_how_far_a_sample_is_off(teacher, blobs):
    x, _ = blobs
    for options in ({}, {"dtype": "float16"}, {"top_k": 2}):
        targets = make(teacher, x, **options)
        assert targets.verify(teacher, x) < (1e-5 if not options else 3e-3)
        assert targets.verify(teacher, x[::-1].copy()) > 0.1
        assert targets.verify(classifier(), x) > 0.05


@pytest.mark.parametrize("kind", DATASETS)
def test_verify_reads_datasets(teacher, blobs, kind):
    targets = make(teacher, blobs[0])

    assert targets.verify(teacher, DATASETS[kind](*blobs), sample=7) < 1e-5
    assert targets.verify(teacher, DATASETS[kind](blobs[0][::-1].copy(), blobs[1]), sample=7) > 0.1


@pytest.mark.parametrize("change", ["order", "two rows", "one value", "fewer", "dtype"])
def test_training_on_other_data_is_refused(teacher, blobs, change):
    x, y = blobs
    targets = make(teacher, x)
    other = x.copy()
    if change == "order":
        other = x[np.random.default_rng(0).permutation(len(x))]
    elif change == "two rows":
        other[[3, 90]] = other[[90, 3]]
    elif change == "one value":
        other[50, 2] = np.nextafter(other[50, 2], 1)
    elif change == "fewer":
        other = x[:-1]
    elif change == "dtype":
        other = x.astype("float64")
    message = {
        "order": "the same examples in another order",
        "two rows": "2 of 96 examples differ, the first at index 3. `x` holds the same examples in another order",
        "one value": "1 of 96 examples differ, the first at index 50. `x` holds other examples",
        "fewer": "`soft_targets` holds 96 examples but `x` holds 95",
        "dtype": "of other data",
    }[change]
    distiller = keras_ban.Distiller(student=classifier())
    distiller.compile("sgd", crossentropy())
    before = values(distiller.student)

    with pytest.raises(ValueError, match=re.escape(message)):
        distiller.fit(other, y[: len(other)], soft_targets=targets, verbose=0)
    assert_same(before, values(distiller.student))


def test_soft_targets_of_another_teacher_are_refused(teacher, blobs):
    distiller = keras_ban.Distiller(student=classifier(), teacher=classifier())
    distiller.compile("sgd", crossentropy())

    with pytest.raises(ValueError, match="whose weights are not those of this Distiller's teacher"):
        distiller.fit(*blobs, soft_targets=make(teacher, blobs[0]), verbose=0)


# Training on them


def trained(blobs, teacher=None, fit=None, x=None, loss=None, **options):
    """Weights of a student after two epochs from a fixed start."""
    keras.utils.set_random_seed(7)
    student = classifier(dropout=0.3)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, label_weight=0.3, distillation_loss=loss)
    distiller.compile(keras.optimizers.SGD(0.1), crossentropy(), weighted_metrics=["accuracy"])
    arguments = {"batch_size": 10, "epochs": 2, "verbose": 0, **options}
    data = blobs if x is None else (x,)
    if x is not None:
        del arguments["batch_size"]
    history = distiller.fit(*data, **arguments, **(fit or {}))
    return values(student), history.history


def assert_close(expected, actual):
    """Of weights: a float32 forward pass in batches of another size differs in its last bits."""
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(e, a, rtol=0, atol=2e-6)


@pytest.mark.parametrize("weights", [None, "sample_weight", "class_weight"])
@pytest.mark.parametrize("split", [0.0, 0.25])
def test_cached_training_is_online_training(teacher, blobs, weights, split):
    options = {"validation_split": split}
    if weights == "sample_weight":
        options["sample_weight"] = np.linspace(0, 2, 96).astype("float32")
    elif weights == "class_weight":
        options["class_weight"] = {0: 0.2, 2: 3.0}
    online, online_logs = trained(blobs, teacher, **options)
    cached, cached_logs = trained(blobs, fit={"soft_targets": make(teacher, blobs[0])}, **options)

    assert_close(online, cached)
    assert online_logs.keys() == cached_logs.keys()
    for name, expected in online_logs.items():
        np.testing.assert_allclose(expected, cached_logs[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"sample_weight": np.linspace(0, 2, 96)}, {"class_weight": {1: 3.0}}], ids=len)
def test_a_file_trains_as_memory_does(teacher, blobs, tmp_path, options):
    options = {**options, "shuffle": False, "validation_split": 0.25}
    in_memory = trained(blobs, fit={"soft_targets": make(teacher, blobs[0])}, **options)
    targets = make(teacher, blobs[0], path=tmp_path / "targets.npy")
    in_file = trained(blobs, fit={"soft_targets": targets}, **options)

    assert_close(in_memory[0], in_file[0])
    np.testing.assert_allclose(in_memory[1]["val_loss"], in_file[1]["val_loss"], rtol=1e-4)


def test_each_batch_reads_its_own_rows_of_a_file_alone_and_shuffles(teacher, blobs, tmp_path, monkeypatch):
    targets = make(teacher, blobs[0], path=tmp_path / "targets.npy")
    read, batch = [], SoftTargets.batch
    monkeypatch.setattr(SoftTargets, "batch", lambda self, rows: read.append(rows) or batch(self, rows))
    trained(blobs, fit={"soft_targets": targets}, epochs=1)

    assert max(map(len, read)) == 10
    epoch = np.concatenate(read[-10:])
    np.testing.assert_array_equal(np.arange(96), np.sort(epoch))
    assert not np.array_equal(np.arange(96), epoch)


def test_top_k_of_all_classes_trains_as_dense_targets_do(teacher, blobs):
    dense, _ = trained(blobs, fit={"soft_targets": make(teacher, blobs[0])})
    top_k, _ = trained(blobs, fit={"soft_targets": make(teacher, blobs[0], top_k=3, dtype="float32")})
    worse, _ = trained(blobs, fit={"soft_targets": make(teacher, blobs[0], top_k=1, dtype="float32")})

    assert_close(dense, top_k)
    assert max(np.abs(a - b).max() for a, b in zip(dense, worse, strict=True)) > 1e-4


def test_top_k_of_a_softmax_teacher_trains_as_its_dense_targets_do(blobs):
    keras.utils.set_random_seed(3)
    teacher, x = classifier(activation="softmax"), blobs[0]
    loss = keras_ban.losses.KnowledgeDistillation(from_logits=False)
    results = []
    for options in ({}, {"top_k": 3, "dtype": "float32"}):
        keras.utils.set_random_seed(7)
        student = classifier(activation="softmax")
        distiller = keras_ban.Distiller(student=student, distillation_loss=loss, label_weight=0)
        distiller.compile("sgd")
        distiller.fit(x, soft_targets=make(teacher, x, **options), verbose=0)
        results.append(values(student))

    assert_close(*results)


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.parametrize("top_k", [None, 2])
@pytest.mark.parametrize("in_file", [False, True])
def test_a_dataset_is_paired_row_by_row(teacher, blobs, tmp_path, kind, top_k, in_file):
    x, y = blobs
    targets = make(teacher, x, top_k=top_k, path=tmp_path / "targets.npy" if in_file else None)
    count = 0
    for x_batch, y_batch in targets.pair(DATASETS[kind](x, y)):
        rows = slice(count, count + len(x_batch))
        np.testing.assert_array_equal(x[rows], x_batch)
        np.testing.assert_array_equal(y[rows], y_batch["labels"])
        keras.tree.map_structure(
            lambda expected, actual: np.testing.assert_array_equal(expected, np.asarray(actual)),
            targets.batch(rows),
            dict(y_batch["soft_targets"]) if top_k else y_batch["soft_targets"],
        )
        count += len(x_batch)
    assert len(x) == count


@pytest.mark.parametrize("kind", DATASETS)
@pytest.mark.parametrize("top_k", [None, 2])
def test_a_paired_dataset_trains_as_arrays_do(teacher, blobs, kind, top_k):
    targets = make(teacher, blobs[0], top_k=top_k)
    arrays, _ = trained(blobs, fit={"soft_targets": targets}, shuffle=False)
    dataset, _ = trained(None, x=DATASETS[kind](*blobs), fit={"soft_targets": targets}, shuffle=False)

    assert_close(arrays, dataset)


def test_a_shuffled_pydataset_in_workers_and_a_shuffled_loader_keep_their_rows(teacher, blobs):
    x, y = blobs
    targets = make(teacher, x)
    in_order = dict(zip(map(bytes, x), targets.to_dense(), strict=True))
    datasets = [loader(x, y, shuffle=True), loader(x, y, shuffle=True, num_workers=1, multiprocessing_context="spawn")]
    for dataset in datasets:
        for x_batch, y_batch in targets.pair(dataset):
            for example, row in zip(x_batch.numpy(), y_batch["soft_targets"].numpy(), strict=True):
                np.testing.assert_array_equal(in_order[bytes(example)], row)
    pydataset = Batches(x, y, 10, workers=2)
    trained(None, x=pydataset, fit={"soft_targets": targets})  # each batch is checked against its rows


@pytest.mark.slow
def test_a_pydataset_in_worker_processes_keeps_its_rows(teacher, blobs, tmp_path):
    path, x_path = tmp_path / "targets.npy", tmp_path / "x.npy"
    make(teacher, blobs[0], path=path)
    np.save(x_path, blobs[0])
    script = tmp_path / "script.py"
    # In a file, from which the workers import the dataset's class: they are spawned, since JAX forbids to fork.
    script.write_text(
        """
import multiprocessing, sys
import keras, numpy as np, keras_ban

class Batches(keras.utils.PyDataset):
    def __init__(self, path):
        super().__init__(workers=2, use_multiprocessing=True)
        self.x = np.load(path)
    def __len__(self):
        return 10
    def __getitem__(self, index):
        rows = slice(10 * index, 10 * index + 10)
        return self.x[rows], np.zeros(len(self.x[rows]), "int32")

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn")
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    distiller = keras_ban.Distiller(student=student)
    distiller.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    # Each batch is checked against its rows.
    distiller.fit(Batches(sys.argv[1]), soft_targets=keras_ban.SoftTargets.load(sys.argv[2]), epochs=2, verbose=0)
    print("trained")
"""
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(script), str(x_path), str(path)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert "trained" in result.stdout, result.stderr


@pytest.mark.parametrize("kind", DATASETS)
def test_a_dataset_of_another_order_or_size_is_refused(teacher, blobs, kind):
    x, y = blobs
    targets = make(teacher, x)
    for other in (x[::-1].copy(), x[:-10], np.concatenate([x, x[:10]])):
        with pytest.raises(ValueError, match="must come from the same data|do not belong to `x`"):
            list(targets.pair(DATASETS[kind](other, np.resize(y, len(other)))))


def test_a_tf_dataset_of_unknown_length_that_goes_on_after_the_rows_is_refused(teacher, blobs):
    tf = pytest.importorskip("tensorflow")
    x, y = blobs
    endless = tf_data(np.concatenate([x[:90], x[:20]]), np.resize(y, 110)).filter(lambda *_: True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="differ in size"):
        list(make(teacher, x[:90]).pair(endless))


# What is refused


def test_data_without_a_fixed_order_is_refused(teacher, blobs):
    x, y = blobs
    with pytest.raises(ValueError, match="another order, or augmented"):
        make(teacher, tf_data(x, y).unbatch().shuffle(96).batch(10))
    with pytest.raises(ValueError, match="another order, or augmented"):
        make(teacher, loader(x, y, shuffle=True))
    with pytest.raises(ValueError, match="has no end"):
        make(teacher, tf_data(x, y).repeat())
    with pytest.raises(ValueError, match="can be read once only"):
        make(teacher, ((x, y) for _ in range(3)))
    with pytest.raises(ValueError, match="no examples"):
        make(teacher, x[:0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 4}, "at most the number of classes"),
        ({"top_k": 0}, "`top_k` must be a whole number"),
        ({"dtype": "int8"}, "`dtype` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
    ],
    ids=["k too large", "k of 0", "dtype", "batch size"],
)
def test_bad_arguments_are_refused(teacher, blobs, options, message):
    with pytest.raises(ValueError, match=message):
        make(teacher, blobs[0], **options)


def test_teachers_that_cannot_be_stored_are_refused(blobs):
    x, _ = blobs
    with pytest.raises(TypeError, match="must be a `keras.Model`"):
        make("teacher", x)
    with pytest.raises(ValueError, match="has no weights yet"):
        make(keras.Sequential([keras.layers.Dense(3)]), x)
    inputs = keras.Input((8,))
    with pytest.raises(ValueError, match="several outputs"):
        make(keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(2)(inputs)]), x)
    broken = classifier()
    broken.layers[-1].bias.assign([np.nan, 0.0, 0.0])
    with pytest.raises(ValueError, match="hold NaN"):
        make(broken, x)


def test_soft_targets_that_do_not_suit_the_distiller_are_refused(teacher, blobs):
    x, y = blobs
    targets = make(teacher, x)

    def fit(soft_targets=targets, y=y, x=x, fit=None, **options):
        distiller = keras_ban.Distiller(student=classifier(), **options)
        distiller.compile("sgd", crossentropy())
        distiller.fit(x, y, soft_targets=soft_targets, verbose=0, **(fit or {}))

    with pytest.raises(TypeError, match="must be `keras_ban.SoftTargets`"):
        fit(soft_targets=targets.to_dense())
    with pytest.raises(ValueError, match="play no part with `label_weight=1`"):
        fit(label_weight=1)
    with pytest.raises(ValueError, match="Both `soft_targets` and `y`"):
        fit(y={"labels": y, "soft_targets": targets.to_dense()})
    with pytest.raises(ValueError, match="gave logits, but the distillation loss has from_logits=False"):
        fit(distillation_loss=keras_ban.losses.KnowledgeDistillation(from_logits=False))
    with pytest.raises(ValueError, match="keeps the largest of one softmax"):
        loss = keras_ban.losses.KnowledgeDistillation(activation="sigmoid")
        fit(soft_targets=make(teacher, x, top_k=2), distillation_loss=loss)
    with pytest.raises(ValueError, match="not known to compare those of one"):
        fit(soft_targets=make(teacher, x, top_k=2), distillation_loss=keras.losses.MeanSquaredError())
    with pytest.raises(ValueError, match="let the dataset yield"):
        fit(x=Batches(x, y), y=None, fit={"class_weight": {0: 1.0}})
    with pytest.raises(ValueError, match="`class_weight` and `sample_weight` at the same time"):
        fit(fit={"class_weight": {0: 1.0}, "sample_weight": np.ones(96)})
    with pytest.raises(ValueError, match="the two must be equal"):
        other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(5)])
        fit(soft_targets=make(other, x))


def test_top_k_at_another_temperature_warns_with_the_covered_mass(teacher, blobs):
    loss = keras_ban.losses.KnowledgeDistillation(temperature=4.0)
    targets = make(teacher, blobs[0], top_k=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        trained(blobs, fit={"soft_targets": targets}, loss=loss)

    (message,) = [str(warning.message) for warning in caught]
    assert re.search(r"temperature=4.0.*cover \d+", message)


@pytest.mark.parametrize("weights", ["sample_weight", "class_weight"])
def test_weights_act_on_batches_that_bring_their_soft_targets(teacher, blobs, weights):
    x, y = blobs
    option = {"sample_weight": np.linspace(0, 2, 96)} if weights == "sample_weight" else {"class_weight": {0: 5.0}}
    online, _ = trained(blobs, teacher, **option)
    in_y, _ = trained((x, {"labels": y, "soft_targets": logits_of(teacher, x)}), **option)

    assert_close(online, in_y)


def test_weights_of_each_time_step_act_with_soft_targets():
    x = np.random.default_rng(0).standard_normal((20, 5, 4)).astype("float32")
    y = np.random.default_rng(1).integers(0, 3, (20, 5))
    weights = np.random.default_rng(2).uniform(size=(20, 5)).astype("float32")

    def tagger():
        return keras.Sequential([keras.Input((5, 4)), keras.layers.Dense(3)])

    teacher, results = tagger(), []
    for options in ({}, {"soft_targets": make(teacher, x)}):
        keras.utils.set_random_seed(7)
        student = tagger()
        distiller = keras_ban.Distiller(student=student, teacher=teacher)
        distiller.compile("sgd", crossentropy())
        distiller.fit(x, y, sample_weight=weights, verbose=0, **options)
        results.append(values(student))

    assert_close(*results)


@pytest.mark.parametrize("by", [-0.5, 0.5])
def test_verify_reports_a_difference_in_either_direction(by):
    teacher, x = many_classes()
    targets = make(teacher, x)
    shifted = keras.Sequential([keras.Input((50,)), keras.layers.Rescaling(1.0, offset=by)])

    assert abs(by) == pytest.approx(targets.verify(shifted, x), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 5])
def test_verify_refuses_a_teacher_of_more_or_fewer_classes(teacher, blobs, classes):
    other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(classes)])

    with pytest.raises(ValueError, match=rf"gives outputs of shape \({classes},\), the soft targets are of \(3,\)"):
        make(teacher, blobs[0]).verify(other, blobs[0])


def test_top_k_of_sequences_in_a_file_are_those_in_memory_and_verified(tmp_path):
    teacher = keras.Sequential([keras.Input((5, 8)), keras.layers.Dense(7)])
    x = np.random.default_rng(4).standard_normal((6, 5, 8)).astype("float32")

    stored, held = make(teacher, x, top_k=2, path=tmp_path / "targets.npy"), make(teacher, x, top_k=2)

    assert (6, 5, 7) == stored.shape
    np.testing.assert_array_equal(held.to_dense(), stored.to_dense())
    assert stored.verify(teacher, x) < 3e-3  # float16
    assert stored.verify(keras.Sequential([keras.Input((5, 8)), keras.layers.Dense(7)]), x) > 0.01
    assert "<SoftTargets shape=(6, 5, 7), dtype=float16, top_k=2, teacher=" in repr(stored)
    assert "top_k" not in repr(make(teacher, x))


def test_verify_looks_at_the_last_example_too():
    teacher, x = many_classes()
    targets = make(teacher, x)
    x[-1] += 1.0

    assert 1.0 == pytest.approx(targets.verify(teacher, x, sample=7), rel=1e-5)
