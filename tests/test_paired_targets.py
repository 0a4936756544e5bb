"""Soft targets in training: paired with the data row by row, and trained on as the teacher itself would be."""

import multiprocessing
import re
import warnings

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import classifier, crossentropy, values
from helpers.processes import FORKS
from helpers.soft_targets import DATASETS, assert_close, loader, logits_of, make, tf_data

import keras_ban
from keras_ban import SoftTargets


@pytest.fixture
def teacher():
    return classifier()


def trained(blobs, teacher=None, fit=None, x=None, loss=None, **options):
    """Weights of a student after two epochs from a fixed start."""
    keras.utils.set_random_seed(7)
    student = classifier(dropout=0.3)
    distiller = keras_ban.Distiller(student=student, teacher=teacher, label_weight=0.3, distillation_loss=loss)
    distiller.compile(keras.optimizers.SGD(0.1), crossentropy(), weighted_metrics=["accuracy"])
    arguments = {"batch_size": 12, "epochs": 2, "verbose": 0, **options}
    data = blobs if x is None else (x,)
    if x is not None:
        del arguments["batch_size"]
    history = distiller.fit(*data, **arguments, **(fit or {}))
    return values(student), history.history


@pytest.mark.parametrize(
    ("weights", "split"),
    [
        ("sample_weight", 0.25),
        *(
            pytest.param(weights, split, marks=pytest.mark.one_backend)
            for weights, split in [
                (None, 0),
                (None, 0.25),
                ("sample_weight", 0),
                ("class_weight", 0),
                ("class_weight", 0.25),
            ]
        ),
    ],
)
def test_cached_training_is_online_training(teacher, blobs, weights, split):
    weighting = {
        None: {},
        "sample_weight": {"sample_weight": np.linspace(0, 2, 96).astype("float32")},
        "class_weight": {"class_weight": {0: 0.2, 2: 3.0}},
    }
    options = {"batch_size": 10, "validation_split": split, **weighting[weights]}
    online, online_logs = trained(blobs, teacher, **options)
    cached, cached_logs = trained(blobs, fit={"soft_targets": make(teacher, blobs[0])}, **options)

    assert_close(online, cached)
    assert online_logs.keys() == cached_logs.keys()
    for name, expected in online_logs.items():
        np.testing.assert_allclose(expected, cached_logs[name], rtol=1e-4, err_msg=name)


@pytest.mark.one_backend
@pytest.mark.parametrize("options", [{}, {"sample_weight": np.linspace(0, 2, 96)}, {"class_weight": {1: 3.0}}])
def test_a_file_trains_as_memory_does(teacher, blobs, tmp_path, options):
    options = {**options, "shuffle": False, "validation_split": 0.25}
    in_memory = trained(blobs, fit={"soft_targets": make(teacher, blobs[0])}, **options)
    targets = make(teacher, blobs[0], path=tmp_path / "targets.npy")
    in_file = trained(blobs, fit={"soft_targets": targets}, **options)

    assert_close(in_memory[0], in_file[0])
    np.testing.assert_allclose(in_memory[1]["val_loss"], in_file[1]["val_loss"], rtol=1e-4)


@pytest.mark.one_backend
def test_each_batch_reads_its_own_rows_of_a_file_alone_and_shuffles(teacher, blobs, tmp_path, monkeypatch):
    targets = make(teacher, blobs[0], path=tmp_path / "targets.npy")
    read, batch = [], SoftTargets.batch
    monkeypatch.setattr(SoftTargets, "batch", lambda self, rows: read.append(rows) or batch(self, rows))
    trained(blobs, fit={"soft_targets": targets}, epochs=1, batch_size=10)

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


@pytest.mark.one_backend
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
@pytest.mark.parametrize("top_k", [2, pytest.param(None, marks=pytest.mark.one_backend)])
@pytest.mark.parametrize("in_file", [True, pytest.param(False, marks=pytest.mark.one_backend)])
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


@pytest.mark.parametrize("kind", ["tf.data", "DataLoader", pytest.param("PyDataset", marks=pytest.mark.one_backend)])
@pytest.mark.parametrize("top_k", [2, pytest.param(None, marks=pytest.mark.one_backend)])
def test_a_paired_dataset_trains_as_arrays_do(teacher, blobs, kind, top_k):
    targets = make(teacher, blobs[0], top_k=top_k)
    arrays, _ = trained(blobs, fit={"soft_targets": targets}, shuffle=False, batch_size=10)
    dataset, _ = trained(None, x=DATASETS[kind](*blobs), fit={"soft_targets": targets}, shuffle=False)

    assert_close(arrays, dataset)


IN_PROCESSES = [pytest.mark.one_backend, pytest.mark.new_process]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=IN_PROCESSES)])
def test_a_shuffled_loader_keeps_its_rows(teacher, blobs, workers):
    x, y = blobs
    targets = make(teacher, x)
    in_order = dict(zip(map(bytes, x), targets.to_dense(), strict=True))
    options = {"num_workers": workers, "multiprocessing_context": FORKS if workers else None}
    for x_batch, y_batch in targets.pair(loader(x, y, shuffle=True, **options)):
        for example, row in zip(x_batch.numpy(), y_batch["soft_targets"].numpy(), strict=True):
            np.testing.assert_array_equal(in_order[bytes(example)], row)


@pytest.mark.one_backend
@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.new_process)])
def test_a_shuffled_pydataset_in_workers_keeps_its_rows(teacher, blobs, tmp_path, processes):
    targets = make(teacher, blobs[0], path=tmp_path / "targets.npy" if processes else None)
    dataset = Batches(*blobs, 10, workers=2, use_multiprocessing=processes)
    # Not forked from this process, which JAX forbids.
    multiprocessing.set_start_method(FORKS.get_start_method(), force=True)
    try:
        trained(None, x=dataset, fit={"soft_targets": targets})  # Each batch is checked against its rows.
    finally:
        multiprocessing.set_start_method(None, force=True)


@pytest.mark.one_backend
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


@pytest.mark.parametrize("weights", ["class_weight", pytest.param("sample_weight", marks=pytest.mark.one_backend)])
def test_weights_act_on_batches_that_bring_their_soft_targets(teacher, blobs, weights):
    x, y = blobs
    option = {"sample_weight": np.linspace(0, 2, 96)} if weights == "sample_weight" else {"class_weight": {0: 5.0}}
    online, _ = trained(blobs, teacher, **option)
    in_y, _ = trained((x, {"labels": y, "soft_targets": logits_of(teacher, x)}), **option)

    assert_close(online, in_y)


@pytest.mark.one_backend
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


@pytest.mark.one_backend
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


@pytest.mark.one_backend
def test_top_k_at_another_temperature_warns_with_the_covered_mass(teacher, blobs):
    loss = keras_ban.losses.KnowledgeDistillation(temperature=4.0)
    targets = make(teacher, blobs[0], top_k=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        trained(blobs, fit={"soft_targets": targets}, loss=loss)

    (message,) = [str(warning.message) for warning in caught]
    assert re.search(r"temperature=4.0.*cover \d+", message)
