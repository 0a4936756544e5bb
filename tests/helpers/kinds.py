"""The kinds of data that Keras is given: the same rows as arrays, tables, tensors and datasets; and what they teach.

A `Kind` says how rows are handed over, and which model takes them. All of them hold the same numbers, so that every
kind must train the very same model. Libraries are imported by the kind that needs them, which skips where they are not
installed.
"""

import collections
import dataclasses
import tempfile
from collections.abc import Callable

import keras
import numpy as np
import oracles
import pytest

SIZE = 8
PARTS = ("wide", "deep")  # The names of a model's two inputs, not in the order of the alphabet.


@dataclasses.dataclass(frozen=True)
class Kind:
    """How rows are handed over.

    Attributes:
        name: what pytest calls it.
        inputs: what the model takes: one array, a dict of two, or a list of two.
        form: makes the inputs, of a float32 array `(n, 4)`.
        other: makes labels and weights, of an array; `form`, if it is not given.
        batches: makes a dataset of `(x, y, w)`, each `None` or an array; `None` where Keras makes the batches.
        once: whether the dataset can be read once only.
    """

    name: str
    inputs: str = "one"
    form: Callable = np.array
    other: Callable | None = None
    batches: Callable | None = None
    once: bool = False

    def __repr__(self):
        return self.name

    @property
    def batch_size(self):
        return SIZE if self.batches is None else None

    def arrays(self, x, y=None, w=None):
        """`(x, y, sample_weight)` as they are passed; of a dataset `(dataset, None, None)`."""
        if self.batches is not None:
            return self.batches(x, y, w), None, None
        other = self.other or self.form
        return self.form(x), *(None if part is None else other(part) for part in (y, w))

    def numpy(self, x):
        """The inputs as plain arrays that the model takes."""
        return {"one": np.array, "dict": by_name, "list": in_list}[self.inputs](x)

    def model(self, kernel, bias):
        """A linear map of the rows, the same one whatever it takes."""
        dense = keras.layers.Dense(kernel.shape[1])
        if self.inputs == "one":
            model = keras.Sequential([keras.Input((len(kernel),)), dense])
        else:
            half = len(kernel) // 2
            inputs = {name: keras.Input((half,), name=name) for name in PARTS}
            outputs = dense(keras.layers.Concatenate()(list(inputs.values())))
            model = keras.Model(inputs if self.inputs == "dict" else list(inputs.values()), outputs)
        model.set_weights([kernel, bias])
        return model


def in_list(x):
    return [np.array(part) for part in np.split(x, 2, axis=1)]


def by_name(x):
    return dict(zip(PARTS, in_list(x), strict=True))


def with_another(x):
    """A third array, which no model takes: other numbers of the same shape, the first by name."""
    return {"about": np.array(10 - x[:, 2:]), **by_name(x)}


def as_floats(dtype):
    return lambda array: array.astype(dtype) if array.dtype.kind == "f" else array


def bfloat16(array):
    return as_floats(pytest.importorskip("ml_dtypes").bfloat16)(array)


def memmap(array):
    with tempfile.TemporaryFile() as file:
        mapped = np.memmap(file, array.dtype, shape=array.shape)
    mapped[:] = array
    return mapped


def tf_tensor(array):
    return pytest.importorskip("tensorflow").constant(array)


def jax_array(array):
    pytest.importorskip("jax")
    import jax.numpy as jnp

    return jnp.asarray(array)


def torch_tensor(array):
    return pytest.importorskip("torch").from_numpy(np.array(array))


def table(array):
    """A table, or a column, whose index is in disorder, and another one for each: it is the position that counts."""
    pandas = pytest.importorskip("pandas")
    index = np.random.default_rng(int(np.abs(array).sum())).permutation(len(array))
    return (pandas.DataFrame if array.ndim > 1 else pandas.Series)(np.array(array), index=index)


def mixed_table(array):
    """Columns of two dtypes: the first holds whole numbers."""
    return table(array).rename(columns=str).astype({"0": "int64"})


def sparse(kind):
    return lambda array: getattr(pytest.importorskip("scipy.sparse"), kind)(array)


def tf_sparse(array):
    return pytest.importorskip("tensorflow").sparse.from_dense(array)


def hugging_face(x):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({name: datasets.List(datasets.Value("float32")) for name in PARTS})
    return datasets.Dataset.from_dict({name: part.tolist() for name, part in by_name(x).items()}, features)


def parts_of(x, y, w):
    """A batch as short as it may be: `(x,)`, `(x, y)` or `(x, y, w)`."""
    return (x,) if y is None and w is None else (x, y) if w is None else (x, y, w)


class Rows(keras.utils.PyDataset):
    """Batches in their order; it declares itself fixed."""

    fixed = True

    def __init__(self, x, y, w):
        super().__init__()
        self.parts = parts_of(x, y, w)

    def __len__(self):
        return -(-len(self.parts[0]) // SIZE)

    def __getitem__(self, index):
        rows = slice(index * SIZE, (index + 1) * SIZE)
        return tuple(None if part is None else part[rows] for part in self.parts)


class OrderedLater(Rows):
    """Has no order, and cannot be read, before an epoch begins."""

    fixed = False

    def on_epoch_begin(self):
        self.order = np.arange(len(self.parts[0]))

    def __getitem__(self, index):
        rows = self.order[index * SIZE : (index + 1) * SIZE]
        return tuple(None if part is None else part[rows] for part in self.parts)


class Examples:
    """Single examples by index."""

    def __init__(self, x, y, w):
        self.parts = parts_of(x, y, w)

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, index):
        return tuple(None if part is None else part[index] for part in self.parts)


def tf_data(x, y, w):
    data = pytest.importorskip("tensorflow").data.Dataset
    return data.from_tensor_slices(parts_of(x, y, w)).batch(SIZE)


def data_loader(x, y, w):
    torch = pytest.importorskip("torch")

    def collate(examples):
        columns = zip(*examples, strict=True)
        return tuple(None if column[0] is None else torch.from_numpy(np.stack(column)) for column in columns)

    return torch.utils.data.DataLoader(Examples(x, y, w), batch_size=SIZE, collate_fn=collate)


def grain_map(x, y, w):
    return pytest.importorskip("grain").MapDataset.source(Examples(x, y, w)).batch(SIZE)


def grain_iter(x, y, w):
    return grain_map(x, y, w).to_iter_dataset()


def generator(x, y, w):
    dataset = Rows(x, y, w)
    return (dataset[index] for index in range(len(dataset)))


KINDS = {
    kind.name: kind
    for kind in [
        Kind("float32"),
        Kind("float64", form=as_floats("float64")),
        Kind("dict", inputs="dict", form=by_name, other=np.array),
        Kind("list", inputs="list", form=in_list, other=np.array),
        Kind("dict_with_another_for_dict", inputs="dict", form=with_another, other=np.array),
        Kind("dict_with_another_for_list", inputs="list", form=with_another, other=np.array),
        Kind("memmap", form=memmap),
        Kind("bfloat16", form=bfloat16),
        Kind("tf_tensor", form=tf_tensor),
        Kind("jax_array", form=jax_array),
        Kind("torch_tensor", form=torch_tensor),
        Kind("pandas", form=table),
        Kind("pandas_mixed", form=mixed_table, other=table),
        Kind("scipy_csr", form=sparse("csr_matrix"), other=np.array),
        Kind("scipy_coo", form=sparse("coo_matrix"), other=np.array),
        Kind("tf_sparse", form=tf_sparse, other=np.array),
        Kind("hugging_face", inputs="dict", form=hugging_face, other=np.array),
        Kind("PyDataset", batches=Rows),
        Kind("PyDataset_ordered_later", batches=OrderedLater),
        Kind("tf_data", batches=tf_data),
        Kind("DataLoader", batches=data_loader),
        Kind("grain_map", batches=grain_map),
        Kind("grain_iter", batches=grain_iter),
        Kind("generator", batches=generator, once=True),
    ]
}


# --- The rows, and what a linear softmax classifier learns of them; of another order, label or weight, other numbers.

CLASSES, EPOCHS, RATE = 4, 2, 0.25
rng = np.random.default_rng(1)


def make_rows(n):
    """Eighths, which every dtype holds; half are 0, as is all of row 5; the first column is of whole numbers."""
    x = np.where(rng.random((n, 4)) < 0.6, rng.integers(-16, 17, (n, 4)) / 8, 0.0)
    x[:, 0] = rng.integers(-2, 3, n)
    x[5] = 0
    assert n == len(np.unique(x, axis=0))
    return x.astype("float32"), rng.integers(0, CLASSES, n)


(X, Y), (X_VAL, Y_VAL) = make_rows(24), make_rows(16)
W, W_VAL = (rng.integers(1, 17, len(y)).astype("float32") / 8 for y in (Y, Y_VAL))
STUDENT, TEACHER = (
    [rng.standard_normal(shape).astype("float32") for shape in ((4, CLASSES), (CLASSES,))] for _ in "st"
)
CLASS_WEIGHT = {0: 0.5, 1: 2.0, 3: 1.25}  # Classes that are not named have 1.
BY_CLASS = np.array([0.5, 2.0, 1.0, 1.25])[Y]
SWAPPED = [1, 0, *range(2, 24)]


def one_hot(y):
    return y if y.ndim > 1 else np.eye(CLASSES)[y]


def logits_of(weights, x):
    kernel, bias = (np.asarray(part, "float64") for part in weights)
    return x.astype("float64") @ kernel + bias


def label_losses(weights, x, y):
    return -(one_hot(y) * oracles.log_softmax(logits_of(weights, x))).sum(-1)


Trained = collections.namedtuple("Trained", "weights logs")


def reference(x=X, y=Y, w=None, label_weight=0.5, epochs=EPOCHS, start=STUDENT, teacher=TEACHER, validation=None):
    """SGD in batches, in the order of the rows; with Keras's means over batches as logs."""
    weights, logs = [np.asarray(part, "float64") for part in start], collections.defaultdict(list)
    w = np.ones(len(x)) if w is None else np.asarray(w, "float64")
    for _ in range(epochs):
        sums = np.zeros(2)
        for rows in np.split(np.arange(len(x)), range(SIZE, len(x), SIZE)):
            logits, heard = logits_of(weights, x[rows]), logits_of(teacher, x[rows])
            divergence = oracles.knowledge_distillation(heard, logits)
            sums += w[rows] @ np.stack([label_losses(weights, x[rows], y[rows]), divergence], axis=1)
            by_labels = oracles.softmax(logits) - one_hot(y[rows])
            by_teacher = oracles.knowledge_distillation_gradient(heard, logits)
            gradient = (label_weight * by_labels + (1 - label_weight) * by_teacher) * w[rows, None] / len(rows)
            weights = [weights[0] - RATE * x[rows].T @ gradient, weights[1] - RATE * gradient.sum(axis=0)]
        of_labels, of_teacher = sums / len(x)
        logs["loss"].append(label_weight * of_labels + (1 - label_weight) * of_teacher)
        if label_weight > 0:
            logs["label_loss"].append(of_labels)
        if label_weight < 1:
            logs["distillation_loss"].append(of_teacher)
        if validation is not None:
            x_val, y_val, w_val = validation
            logs["val_loss"].append((w_val * label_losses(weights, x_val, y_val)).mean())
    return Trained(weights, logs)


def assert_close(expected, actual):
    for e, a in zip(expected, actual, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(a), e, rtol=1e-5, atol=3e-6)
