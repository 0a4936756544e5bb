"""Soft targets of a teacher that is a function of a batch: a model of another framework, a forest, a service."""

import types
import warnings

import keras
import numpy as np
import oracles
import pytest
from helpers.data import CLASSES, Batches
from helpers.keys import TEXTS, assert_paired, keyed
from helpers.models import classifier, crossentropy
from helpers.soft_targets import DATASETS, logits_of, make

from keras_ban import Distiller, SoftTargets

WEIGHTS = 2.0 * np.random.default_rng(5).standard_normal((8, CLASSES))


def logits(x):
    return x.astype("float64") @ WEIGHTS


def probabilities(x):
    return oracles.softmax(logits(x))


def as_tensor(x):
    return keras.ops.convert_to_tensor(logits(x).astype("float32"))


def with_gradient(x):
    torch = pytest.importorskip("torch")
    return torch.from_numpy(x) @ torch.from_numpy(WEIGHTS.astype("float32")).requires_grad_()


def as_tensorflow(x):
    return pytest.importorskip("tensorflow").constant(logits(x))


def as_jax(x):
    return pytest.importorskip("jax").numpy.asarray(logits(x))


def in_bfloat16(x):
    return pytest.importorskip("jax").numpy.asarray(probabilities(x), "bfloat16")


def as_table(x):
    return pytest.importorskip("pandas").DataFrame(logits(x))


@pytest.mark.parametrize("function", [logits, as_tensor, with_gradient, as_tensorflow, as_jax, as_table])
def test_outputs_of_any_framework_become_rows(blobs, function):
    targets = make(function, blobs[0])

    np.testing.assert_allclose(logits(blobs[0]), targets.to_dense(), rtol=1e-5, atol=1e-5)
    assert targets.from_logits and "float32" == targets.dtype
    assert (function.__name__, None) == (targets.teacher_name, targets.teacher_fingerprint)


@pytest.mark.parametrize("kind", ["arrays", *DATASETS])
def test_a_function_gets_each_batch_once_and_in_order_as_numpy_arrays_of_its_own(blobs, kind):
    x, y = blobs
    kept, seen = x.copy(), []

    def spoils(batch):
        assert type(batch) is np.ndarray and batch.flags.writeable and batch.flags.c_contiguous
        seen.append(batch.copy())
        outputs = logits(batch)
        batch[:] = 0
        return outputs

    targets = make(spoils, x if kind == "arrays" else DATASETS[kind](x, y), batch_size=10)

    assert [10] * 9 + [6] == [len(batch) for batch in seen]
    np.testing.assert_array_equal(kept, np.concatenate(seen))
    np.testing.assert_array_equal(kept, x)
    np.testing.assert_allclose(logits(kept), targets.to_dense(), rtol=1e-6)
    targets.check(x)


def test_inputs_are_nested_as_in_the_data(blobs):
    x, _ = blobs
    targets = make(lambda batch: logits(batch["a"]) - logits(batch["b"]), {"a": x, "b": 2 * x})

    np.testing.assert_allclose(-logits(x), targets.to_dense(), rtol=1e-5, atol=1e-5)


def test_texts_are_python_texts(blobs):
    texts = np.array([["é", "long"], ["", "b"], ["cc", "ö"]])
    seen = []

    def lengths(batch):
        seen.extend(batch.tolist())
        return np.array([[len(text) for text in row] for row in batch]) + 5

    targets = make(lengths, texts, batch_size=2)

    assert texts.tolist() == seen
    np.testing.assert_array_equal([[6, 9], [5, 6], [7, 6]], targets.to_dense())


def test_a_student_learns_what_the_function_says(blobs):
    x, _ = blobs
    targets = make(logits, x)
    student = keras.Sequential([keras.Input((8,)), keras.layers.Dense(CLASSES)])
    kernel, bias = (keras.ops.convert_to_numpy(weight).astype("float64") for weight in student.weights)
    distiller = Distiller(student=student, label_weight=0.0)
    distiller.compile(keras.optimizers.SGD(0.5), crossentropy())
    distiller.fit(x, soft_targets=targets, batch_size=96, shuffle=False, verbose=0)

    difference = oracles.softmax(x @ kernel + bias) - oracles.softmax(logits(x))
    trained = keras.ops.convert_to_numpy(student.weights[0])
    np.testing.assert_allclose(kernel - 0.5 * x.T @ difference / 96, trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("in_file", [False, True])
def test_top_k_of_probabilities_keeps_the_largest(blobs, tmp_path, in_file):
    path = tmp_path / "targets.npy" if in_file else None
    targets = make(probabilities, blobs[0], top_k=2, path=path)

    assert not targets.from_logits
    # float16 keeps log-probabilities to 1 part in 2,000. Of three classes, the third is the rest.
    np.testing.assert_allclose(probabilities(blobs[0]), targets.to_dense(), rtol=0, atol=4e-4)


def test_rows_are_found_by_key(tmp_path):
    teacher = classifier()
    path = tmp_path / "targets.npy"
    targets = make(lambda x: logits_of(teacher, x), keyed(TEXTS), path=path)

    assert targets.by_key and SoftTargets.load(path).teacher_fingerprint is None
    order = np.random.default_rng(0).permutation(96)
    assert_paired(targets.pair(keyed(TEXTS, order)), teacher)


def test_a_function_sees_the_views_that_a_student_will_see():
    rng = np.random.default_rng(0)
    x = rng.random((6, 4, 4, 1)).astype("float32")
    inputs = keras.Input((4, 4, 1))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(inputs)))
    flip = keras.layers.RandomFlip(seed=3, data_format="channels_last")
    options = {"augmentation": flip, "views": 3, "batch_size": 4}

    expected = make(model, x, **options).to_dense()
    targets = make(lambda batch: logits_of(model, batch), x, **options)

    assert np.ptp(expected, axis=1).max() > 0.01
    np.testing.assert_allclose(expected, targets.to_dense(), rtol=0, atol=1e-5)
    assert targets.verify(lambda batch: logits_of(model, batch), x, augmentation=flip) < 1e-5


@pytest.mark.one_backend
def test_verify_tells_whether_the_function_is_the_same(blobs):
    targets = make(logits, blobs[0])

    assert targets.verify(logits, blobs[0], batch_size=7) < 1e-5
    assert targets.verify(lambda x: logits(x) + (x[:, :1] > 0), blobs[0]) > 0.9


@pytest.mark.one_backend
@pytest.mark.parametrize(
    "function, told, is_logits",
    [
        (logits, None, True),
        (probabilities, None, False),
        (in_bfloat16, None, False),
        (lambda x: oracles.softmax(logits(x)).astype("float16"), None, False),
        (lambda x: np.eye(3, dtype="int64")[logits(x).argmax(-1)], None, False),
        (lambda x: np.log(oracles.softmax(logits(x))), None, True),
        (lambda x: 1 / (1 + np.exp(-logits(x))), False, False),
        (lambda x: 1 / (1 + np.exp(-logits(x))), True, True),
    ],
)
def test_logits_and_probabilities_are_told_apart_by_their_values(blobs, function, told, is_logits):
    assert is_logits is make(function, blobs[0], from_logits=told).from_logits


@pytest.mark.one_backend
def test_values_that_may_be_either_are_warned_of(blobs):
    with pytest.warns(UserWarning, match="do not sum to 1.*Pass `from_logits=False`"):
        assert not make(lambda x: 1 / (1 + np.exp(-logits(x))), blobs[0]).from_logits


def first_probabilities():
    batches = iter([probabilities, logits])
    return lambda x: next(batches)(x)


BAD = {
    "several rows": (lambda x: logits(x)[1:], ValueError, r"a row for each example. Received .*\(9, 3\) for .* 10 ex"),
    "a vector": (lambda x: logits(x)[:, 0], ValueError, r"must return an array `\(batch, ..., classes\)`"),
    "a number": (lambda x: np.float32(1), ValueError, r"of shape \(\) for a batch"),
    "no classes": (lambda x: logits(x)[:, :0], ValueError, r"of shape \(10, 0\)"),
    "NaN": (lambda x: logits(x) * np.where(x[:, :1] > 0, np.nan, 1), ValueError, "gives NaN or inf"),
    "infinity": (lambda x: logits(x) + np.inf, ValueError, "gives NaN or inf"),
    "nothing": (lambda x: None, TypeError, "must return one array .*received: NoneType"),
    "a dict": (lambda x: {"logits": logits(x)}, TypeError, r"received: dict with \['logits'\]. .*of one output"),
    "a list": (lambda x: [logits(x), logits(x)], TypeError, "received: list"),
    "texts": (lambda x: logits(x).astype(str), TypeError, "must return numbers, received an array of <U"),
    "complex numbers": (lambda x: logits(x) * 1j, TypeError, "received an array of complex128"),
    "other probabilities": (first_probabilities(), ValueError, r"must give probabilities in \[0, 1\]"),
    "an error": (lambda x: {}["own"], KeyError, "own"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", BAD)
def test_a_function_that_returns_something_else_is_refused_and_nothing_is_written(blobs, tmp_path, name):
    function, error, message = BAD[name]
    with pytest.raises(error, match=message):
        make(function, blobs[0], batch_size=10, path=tmp_path / "targets.npy")
    assert [] == list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_shapes_that_change_and_contradictions_are_refused(blobs, tmp_path):
    sizes = iter([3, 2, 2])
    with pytest.raises(ValueError, match="outputs of one shape"):
        make(lambda x: logits(x)[:, : next(sizes)], blobs[0], path=tmp_path / "targets.npy")
    with pytest.raises(ValueError, match="as `from_logits=False` says"):
        make(logits, blobs[0], from_logits=False, path=tmp_path / "targets.npy")
    with pytest.raises(ValueError, match="at most the number of classes"):
        make(logits, blobs[0], top_k=4)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_what_is_no_function_of_numpy_batches_is_refused(blobs):
    torch = pytest.importorskip("torch")
    for teacher, message in [
        (None, "or a function that takes a batch"),
        (keras.Sequential, "or a function that takes a batch"),
        (keras.layers.Dense(3), "or a function that takes a batch"),
        (torch.nn.Linear(8, 3), "takes tensors. Call `module.eval"),
    ]:
        with pytest.raises(TypeError, match=message):
            make(teacher, blobs[0])


@pytest.mark.one_backend
def test_rows_of_a_function_do_not_go_with_another_teacher(blobs):
    targets = make(types.SimpleNamespace(f=logits).f, blobs[0])
    distiller = Distiller(student=classifier(), teacher=classifier())
    distiller.compile("sgd", crossentropy())
    with pytest.raises(ValueError, match="made by a function, 'logits', .*Leave `teacher` out"):
        distiller.fit(*blobs, soft_targets=targets, verbose=0)


@pytest.mark.one_backend
def test_scikit_learn_teaches(blobs):
    forest = pytest.importorskip("sklearn.ensemble").RandomForestClassifier(5, random_state=0).fit(*blobs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        targets = make(forest.predict_proba, Batches(*blobs, 10))

    np.testing.assert_allclose(forest.predict_proba(blobs[0]), targets.to_dense(), rtol=1e-6)
    assert "predict_proba" == targets.teacher_name and not targets.from_logits
