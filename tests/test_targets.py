"""`SoftTargets`: made, stored, and refused when they belong to something else."""

import os
import pickle
import re
import signal

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, Batches
from helpers.models import assert_same, classifier, crossentropy, values
from helpers.processes import run
from helpers.soft_targets import DATASETS, loader, logits_of, make, tf_data

import keras_ban
from keras_ban import SoftTargets


@pytest.fixture
def teacher():
    return classifier()


def many_classes(classes=50, spread=3.0):
    """A teacher whose logits over many classes are its input, and an input."""
    inputs = keras.Input((classes,))
    x = spread * np.random.default_rng(3).standard_normal((40, classes)).astype("float32")
    return keras.Model(inputs, keras.layers.Activation("linear")(inputs)), x


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


@pytest.mark.parametrize("k", [7, *(pytest.param(k, marks=pytest.mark.one_backend) for k in (1, 49, 50))])
@pytest.mark.parametrize("gives", ["logits", "probabilities"])
def test_top_k_keeps_the_largest_and_spreads_the_rest_evenly(k, gives):
    teacher, x = many_classes()
    if gives == "probabilities":
        x = oracles.softmax(x).astype("float32")
    dense = make(teacher, x, top_k=k).to_dense()

    expected = top_k_oracle(np.log(x) if gives == "probabilities" else x, k)
    # float16 holds log p to 2**-11 of itself, so p to p * |log p| / 2048, at most 1.8e-4.
    np.testing.assert_allclose(expected, dense if gives == "probabilities" else np.exp(dense), rtol=0, atol=2e-4)


@pytest.mark.one_backend
def test_top_k_survives_logits_beyond_float16_and_masked_classes():
    teacher, x = many_classes()
    x = x * np.float32(1e5)
    x[:, 3] = -np.inf
    targets = make(teacher, x, top_k=5)

    assert np.isfinite(targets.to_dense()).all()
    np.testing.assert_allclose(top_k_oracle(np.maximum(x, -1e30), 5), np.exp(targets.to_dense()), rtol=0, atol=2e-4)
    with pytest.raises(ValueError, match="beyond float16"):
        make(teacher, x, dtype="float16")


@pytest.mark.one_backend
def test_the_token_axis_is_kept():
    logits = np.random.default_rng(0).standard_normal((6, 4, 11)).astype("float32")
    inputs = keras.Input((4, 11))
    teacher = keras.Model(inputs, keras.layers.Activation("linear")(inputs))
    targets = make(teacher, logits, top_k=3)

    assert (6, 4, 11) == targets.shape
    assert (6, 4, 3) == targets.batch(slice(None))["indices"].shape
    np.testing.assert_allclose(top_k_oracle(logits, 3), np.exp(targets.to_dense()), rtol=0, atol=2e-4)


@pytest.mark.one_backend
def test_an_example_of_a_thousand_classes_costs_at_most_100_bytes(tmp_path):
    teacher, x = many_classes(classes=1000)
    targets = make(teacher, x, top_k=20, path=tmp_path / "targets.npy")

    assert 90 == targets.nbytes / len(targets)
    # 1.28 million examples, and what the file holds beside them.
    rest = (tmp_path / "targets.npy").stat().st_size - targets.nbytes
    assert 1_280_000 * 90 + rest < 130e6


@pytest.mark.one_backend
def test_covered_mass_is_reported(capsys):
    teacher, x = many_classes()
    targets = SoftTargets.from_teacher(teacher, x, top_k=5)
    covered = np.sort(oracles.softmax(x), axis=-1)[:, -5:].sum(axis=-1)

    assert covered.mean() == pytest.approx(targets.covered_mass["mean"], abs=1e-3)
    assert np.percentile(covered, 1) == pytest.approx(targets.covered_mass["first_percentile"], abs=1e-3)
    assert f"cover {targets.covered_mass['mean']:.2%}" in capsys.readouterr().out


@pytest.mark.one_backend
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


# Files


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_numpy_alone_reads_the_rows(teacher, blobs, tmp_path):
    targets = make(teacher, blobs[0], path=tmp_path / "targets.npy")

    np.testing.assert_array_equal(targets.to_dense(), np.load(tmp_path / "targets.npy", allow_pickle=False))
    assert (
        0 == keras_ban._src.files.row_file.rows_offset(tmp_path / "targets.npy") % 64
    )  # As NumPy has it, to be mapped.


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_a_large_file_is_opened_without_reading_it_and_checked_before_training(teacher, blobs, tmp_path, monkeypatch):
    path = tmp_path / "targets.npy"
    make(teacher, blobs[0], path=path)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(keras_ban._src.files.row_file, "_SMALL_BYTES", 0)
    targets = SoftTargets.load(path)

    distiller = keras_ban.Distiller(student=classifier())
    distiller.compile("sgd", crossentropy())
    before = values(distiller.student)
    with pytest.raises(ValueError, match="its content is not what was written"):
        distiller.fit(*blobs, soft_targets=targets, verbose=0)
    assert_same(before, values(distiller.student))


@pytest.mark.one_backend
def test_a_file_is_complete_or_absent(teacher, blobs, tmp_path):
    class Breaks(Batches):
        def __getitem__(self, index):
            if index == 3:
                raise OSError("the disk is gone")
            return super().__getitem__(index)

    with pytest.raises(OSError, match="the disk is gone"):
        make(teacher, Breaks(*blobs, size=10), path=tmp_path / "targets.npy")
    assert [] == list(tmp_path.iterdir())


def make_and_be_killed(path):
    """The process is killed just before the file gets its name."""
    os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    make(classifier(), np.zeros((50, 8), "float32"), path=path)


@pytest.mark.one_backend
@pytest.mark.new_process
def test_a_process_that_is_killed_leaves_the_file_that_was_there(teacher, blobs, tmp_path):
    path = tmp_path / "targets.npy"
    for exists in (False, True):
        before = path.read_bytes() if exists else None

        assert -signal.SIGKILL == run(make_and_be_killed, path).returncode

        assert before == (path.read_bytes() if path.exists() else None), exists
        make(teacher, blobs[0], path=path)
        assert len(blobs[0]) == len(SoftTargets.load(path))


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_a_worker_process_is_sent_the_path_and_not_the_rows(teacher, blobs, tmp_path):
    x = np.tile(blobs[0], (50, 1))
    targets = make(teacher, x, path=tmp_path / "targets.npy")
    sent = pickle.dumps(targets)

    assert len(sent) < 2000
    np.testing.assert_array_equal(targets.to_dense(), pickle.loads(sent).to_dense())


# Whose they are


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_verify_reports_a_difference_in_either_direction():
    teacher, x = many_classes()
    targets = make(teacher, x)
    for by in (-0.5, 0.5):
        shifted = keras.Sequential([keras.Input((50,)), keras.layers.Rescaling(1.0, offset=by)])
        assert 0.5 == pytest.approx(targets.verify(shifted, x), rel=1e-5)


@pytest.mark.one_backend
def test_verify_refuses_a_teacher_of_more_or_fewer_classes(teacher, blobs):
    targets = make(teacher, blobs[0])
    for classes in (2, 5):
        other = keras.Sequential([keras.Input((8,)), keras.layers.Dense(classes)])
        with pytest.raises(ValueError, match=rf"gives outputs of shape \({classes},\), the soft targets are of \(3,\)"):
            targets.verify(other, blobs[0])


@pytest.mark.one_backend
def test_verify_looks_at_the_last_example_too():
    teacher, x = many_classes()
    targets = make(teacher, x)
    x[-1] += 1.0

    assert 1.0 == pytest.approx(targets.verify(teacher, x, sample=7), rel=1e-5)


@pytest.mark.one_backend
def test_training_on_other_data_is_refused(teacher, blobs):
    x, y = blobs
    targets = make(teacher, x)
    two_rows, one_value = x.copy(), x.copy()
    two_rows[[3, 90]] = two_rows[[90, 3]]
    one_value[50, 2] = np.nextafter(one_value[50, 2], 1)
    distiller = keras_ban.Distiller(student=classifier())
    distiller.compile("sgd", crossentropy())
    before = values(distiller.student)
    for other, message in [
        (x[np.random.default_rng(0).permutation(len(x))], "the same examples in another order"),
        (two_rows, "2 of 96 examples differ, the first at index 3. `x` holds the same examples in another order"),
        (one_value, "1 of 96 examples differ, the first at index 50. `x` holds other examples"),
        (x[:-1], "`soft_targets` holds 96 examples but `x` holds 95"),
        (x.astype("float64"), "of other data"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            distiller.fit(other, y[: len(other)], soft_targets=targets, verbose=0)
    assert_same(before, values(distiller.student))


@pytest.mark.one_backend
def test_soft_targets_of_another_teacher_are_refused(teacher, blobs):
    distiller = keras_ban.Distiller(student=classifier(), teacher=classifier())
    distiller.compile("sgd", crossentropy())

    with pytest.raises(
        ValueError, match="whose weights, preprocessor or temperature are not those of this Distiller's"
    ):
        distiller.fit(*blobs, soft_targets=make(teacher, blobs[0]), verbose=0)


# What is refused


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_bad_arguments_are_refused(teacher, blobs):
    for options, message in [
        ({"top_k": 4}, "at most the number of classes"),
        ({"top_k": 0}, "`top_k` must be a whole number"),
        ({"dtype": "int8"}, "`dtype` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(teacher, blobs[0], **options)


@pytest.mark.one_backend
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
