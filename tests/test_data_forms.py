"""Data in forms that users bring: the right result, or an error that says what to do."""

import keras
import numpy as np
import pytest
from helpers.data import Batches
from helpers.models import assert_same, classifier, crossentropy

from keras_ban import BornAgainSequence, Distiller, EnsembleModel, SoftTargets
from keras_ban._src.data import leaves
from keras_ban._src.data.kinds import as_data
from keras_ban._src.data.py_dataset import PyDatasetData
from keras_ban._src.data.reading import watched

FIT = {"batch_size": 32, "shuffle": False, "verbose": 0}


def trained(*data, **options):
    """The weights of a student after a fit on data."""
    keras.utils.set_random_seed(1)
    distiller = Distiller(student=classifier(), teacher=classifier())
    distiller.compile("sgd", crossentropy())
    distiller.fit(*data, **{**FIT, **options})
    return distiller.student.get_weights()


def table(x, y, **more):
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"x": [row.tolist() for row in x], "label": y.tolist(), **more})


@pytest.mark.one_backend
@pytest.mark.parametrize("form", ["plain", "transform", "renamed", "columns", "labels of a column"])
def test_a_hugging_face_table_is_read_through_its_own_format(blobs, form):
    x, y = blobs
    name = "z" if form == "renamed" else "x"
    rows = table(x, y, index=list(range(96)))
    if form in ("transform", "renamed"):
        rows = rows.with_transform(lambda batch: {name: 2 * np.asarray(batch["x"], "float32"), "label": batch["label"]})
        x = 2 * x
    else:
        rows = rows.with_format("numpy", columns=["x", "label"])
    given = (rows.select_columns("x"), rows["label"]) if form == "labels of a column" else (rows,)

    assert_same(trained(x, y), trained(*given))


@pytest.mark.one_backend
def test_a_hugging_face_table_with_labels_is_predicted_and_evaluated(blobs):
    x, y = blobs
    rows = table(x, y)
    distiller = Distiller(student=classifier(), teacher=classifier())
    ensemble = EnsembleModel([classifier(), classifier()])
    for model in (distiller, ensemble):
        model.compile("sgd", crossentropy())
        assert_same([model.predict(x, verbose=0)], [model.predict(rows, verbose=0)])
        assert model.evaluate(x, y, verbose=0) == model.evaluate(rows, verbose=0)


REFUSED_TABLES = {
    "split": (lambda x, y: __import__("datasets").DatasetDict({"train": table(x, y)}), r"split, one of \['train'\]"),
    "missing": (lambda x, y: table(x, y, n=[None, *range(95)]), r"columns \['n'\] .* missing values"),
    "ragged": (lambda x, y: table([each[: 1 + i % 2] for i, each in enumerate(x)], y), "none holds"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", REFUSED_TABLES)
def test_a_hugging_face_table_that_cannot_be_read_is_refused(blobs, case):
    pytest.importorskip("datasets")
    make, message = REFUSED_TABLES[case]
    with pytest.raises((TypeError, ValueError), match=message):
        as_data(make(*blobs))


def test_texts_of_every_form_reach_a_text_model(tmp_path):
    """Only TensorFlow's layers take texts. The other backends refuse them in plain Keras, too."""
    if keras.config.backend() != "tensorflow":
        pytest.skip("Keras's models take texts on TensorFlow alone.")
    import tensorflow as tf

    texts, y = ["a b", "b c", "c", "a"] * 8, np.arange(32) % 3
    forms = [np.array(texts), np.array(texts, object), tf.constant(texts), tf.constant(texts)[:, None]]
    if pandas := pytest.importorskip("pandas"):
        column = pandas.Series(texts, dtype="string")
        forms += [column, column.array, pandas.Categorical(texts)]

    def model():
        vectorize = keras.layers.TextVectorization(vocabulary=["a", "b", "c"], output_sequence_length=2)
        layers = [vectorize, keras.layers.Embedding(5, 2), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
        return keras.Sequential([keras.Input((1,), dtype="string"), *layers])

    weights = []
    for x in forms:
        keras.utils.set_random_seed(1)
        distiller = Distiller(student=model(), teacher=model())
        distiller.compile("sgd", crossentropy())
        distiller.fit(x, y, **FIT)
        targets = SoftTargets.from_teacher(distiller.teacher, x, verbose=0, path=tmp_path / "targets.npy")
        distiller.fit(x, y, soft_targets=targets, **FIT)
        weights.append(distiller.student.trainable_variables[0].numpy())
    for each in weights[1:]:
        assert_same(weights[:1], [each])


@pytest.mark.one_backend
def test_a_run_knows_labels_of_a_series_and_of_an_array_as_the_same(blobs, tmp_path):
    pandas = pytest.importorskip("pandas")
    x, y = blobs

    def run(generations, labels):
        made = BornAgainSequence(classifier(), generations=generations, directory=tmp_path, seed=0)
        made.compile("sgd", crossentropy())
        made.fit(x, labels, validation_data=(x, labels), **FIT)

    run(1, y)
    run(2, pandas.Series(y, index=np.arange(96)[::-1]))


@pytest.mark.one_backend
@pytest.mark.parametrize("is_input", [True, False])
@pytest.mark.parametrize("dtype", ["Int64", "Float32", "boolean", "int64", "string", "category", "object"])
def test_the_values_of_a_pandas_column_are_those_of_an_array(dtype, is_input):
    pandas = pytest.importorskip("pandas")
    values = np.array(["a b", "c"] if dtype in ("string", "category", "object") else [1, 0])
    found = leaves.from_user("x", pandas.array(values, dtype=dtype), is_input)
    assert isinstance(found, np.ndarray) or leaves.is_texts(found)
    assert values.tolist() == np.asarray(found).astype(values.dtype).tolist()


def missing_in_a_table(x):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(x).astype("Float64")
    frame.iloc[3, 2] = pandas.NA
    return frame


class Shaped:
    shape = (96, 8)


REFUSED_ARRAYS = {
    "missing values": (missing_in_a_table, "`x` has missing values"),
    "no dtype": (lambda x: Shaped(), "`x` must be arrays, or a dataset"),
    "a text column": (lambda x: pytest.importorskip("pandas").DataFrame({"a": ["b"] * 96}), r"columns \['a'\]"),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("case", REFUSED_ARRAYS)
def test_arrays_that_cannot_be_read_are_refused_by_name(blobs, case):
    make, message = REFUSED_ARRAYS[case]
    with pytest.raises((TypeError, ValueError), match=message):
        as_data(make(blobs[0]))


def test_sparse_tensors_of_torch_and_sparse_labels_train(blobs):
    scipy, torch = pytest.importorskip("scipy.sparse"), pytest.importorskip("torch")
    x, y = blobs
    one_hot = np.eye(3, dtype="float32")[y]
    options = {"loss": keras.losses.CategoricalCrossentropy(from_logits=True)}
    weights = []
    for inputs, labels in ((x, one_hot), (torch.tensor(x).to_sparse(), scipy.csr_array(one_hot))):
        keras.utils.set_random_seed(1)
        distiller = Distiller(student=classifier(), teacher=classifier())
        distiller.compile("sgd", **options)
        distiller.fit(inputs, labels, **FIT)
        weights.append(distiller.student.get_weights())
    assert_same(*weights)


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")  # Keras, of any unknown length.
def test_iterators_of_every_form_are_read_once(blobs):
    x, y = blobs
    batches = [(x[i : i + 32], y[i : i + 32]) for i in range(0, 96, 32)]
    expected = trained(x, y)
    for iterator in (iter(batches), (list(batch) for batch in batches), zip(*zip(*batches, strict=True), strict=True)):
        assert_same(expected, trained(iterator, batch_size=None))
    distiller = Distiller(student=classifier())
    distiller.compile("sgd", crossentropy())
    expected = distiller.evaluate(x, y, verbose=0)
    np.testing.assert_allclose(expected, distiller.evaluate(iter(batches), verbose=0), rtol=1e-6)
    outputs = distiller.predict((batch[0] for batch in batches), verbose=0)
    np.testing.assert_allclose(outputs, distiller.predict(x, verbose=0), rtol=1e-6)


@pytest.mark.one_backend
def test_a_dataset_that_processes_read_trains_on_the_view_of_the_epoch(blobs):
    """Each wrapper passes the view on to the dataset that has the soft targets."""
    augmentation = keras.layers.GaussianNoise(0.1, seed=0)
    dataset = Batches(*blobs, workers=2, use_multiprocessing=True)
    targets = SoftTargets.from_teacher(classifier(), dataset, augmentation=augmentation, views=2, verbose=0)
    paired = PyDatasetData(dataset).with_soft_targets(targets)

    with watched(paired) as (read,):
        (callback,) = read.callbacks()
        callback.on_epoch_begin(1)

    assert 1 == paired.dataset.epoch


@pytest.mark.one_backend
def test_class_weights_of_a_dataset_go_with_a_teacher_at_each_step_or_are_refused_before_training(blobs):
    def run(soft_targets):
        made = BornAgainSequence(classifier(), generations=1, seed=0, soft_targets=soft_targets)
        made.compile("sgd", crossentropy())
        made.fit(Batches(*blobs, fixed=True), class_weight={0: 3.0}, verbose=0, shuffle=False)
        return [weight for model in made.models for weight in model.get_weights()]

    assert_same(run("online"), run("auto"))
    with pytest.raises(ValueError, match="let the dataset yield `sample_weight`"):
        run("cached")


class Members(keras.Model):
    """A model with an attribute of the name that an `EnsembleModel` has."""

    def __init__(self):
        super().__init__()
        self.members = 4
        self.dense = keras.layers.Dense(3)

    def call(self, x):
        return self.dense(x)


@pytest.mark.one_backend
def test_a_model_with_members_is_no_ensemble(blobs):
    student, teacher = Members(), Members()
    for model in (student, teacher):
        model(blobs[0])
    distiller = Distiller(student=student, teacher=teacher)
    distiller.compile("sgd", crossentropy())

    distiller.fit(*blobs, **FIT)
