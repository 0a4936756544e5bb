"""Arrays of any library, as NumPy arrays or SciPy sparse matrices, with the examples in rows."""

import keras
import numpy as np

from keras_ban._src import backend


def is_array(value):
    """Whether a value is an array, a tensor or a table of any library."""
    return hasattr(value, "shape") and (hasattr(value, "dtype") or hasattr(value, "iloc"))


def from_user(name, leaf, is_input=True):
    """A user's array in the form in which this package reads it.

    - NumPy arrays, and what is on disk and sliced like them (an HDF5 dataset; labels only of rank 3 and more):
      unchanged.
    - Tensors of TensorFlow, JAX and torch: NumPy arrays.
    - pandas: rows by position, as Keras reads them. A `Series` of inputs gets shape `(examples, 1)`.
    - Sparse matrices and tensors: SciPy CSR for inputs of rank 2, dense arrays for others.
    - Texts: as Keras takes them. A tensor of texts is unchanged.
    - bfloat16 and other floats that NumPy does not have: `keras.config.floatx()`, to which Keras casts them.

    Messages call the argument `name`.

    Raises:
        TypeError: a symbol, which has no values.
        ValueError: a single value, a ragged tensor, or a table with columns that are not numbers.
    """
    if isinstance(leaf, keras.KerasTensor):
        raise TypeError(f"`{name}` must hold values, received a symbol: {leaf!r}.")
    if not hasattr(leaf, "shape") or len(leaf.shape) == 0:
        raise ValueError(f"`{name}` must hold a row for each example, received a single value: {leaf!r}.")
    if hasattr(leaf, "iloc"):
        leaf = _from_pandas(name, leaf)
        leaf = np.expand_dims(leaf, -1) if is_input and leaf.ndim == 1 else leaf
    elif backend.is_of_library(leaf, "pandas", "ExtensionArray"):  # The `values` of a column of texts, for instance.
        leaf = _from_pandas(name, leaf)
    elif hasattr(leaf, "tocsr"):
        leaf = leaf.tocsr() if is_input else leaf.toarray()
    elif _is_ragged(leaf):
        raise ValueError(f"`{name}` is a ragged tensor, whose rows differ in length. Pad them: `{name}.to_tensor()`.")
    elif _is_sparse_tensor(leaf):
        leaf = _from_sparse_tensor(leaf, dense=not is_input)
    elif not _is_sliced_on_disk(leaf, is_input) and not (is_input and _is_text_tensor(leaf)):
        leaf = as_array(leaf)
    if _is_foreign_float(leaf.dtype):
        return leaf.astype(keras.config.floatx())
    is_text = is_input and isinstance(leaf, np.ndarray) and holds_texts(leaf)
    return backend.as_texts(leaf) if is_text else leaf


def as_array(leaf):
    """An array or tensor of any library as a dense NumPy array."""
    if hasattr(leaf, "toarray"):  # SciPy's sparse matrices
        return leaf.toarray()
    if _is_sparse_tensor(leaf):
        return _from_sparse_tensor(leaf, dense=True)
    if _is_ragged(leaf):
        raise ValueError("A batch has rows that differ in length. Pad them: `padded_batch(32)`, or `x.to_tensor()`.")
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        leaf = leaf if str(leaf.layout) == "torch.strided" else leaf.to_dense()
        # NumPy has no bfloat16.
        return (leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf).numpy()
    return np.asarray(leaf)


def map_leaves(function, *arrays):
    """Nested arrays, changed by a function. Leaves that are `None` stay."""
    return keras.tree.map_structure(lambda *leaves: None if leaves[0] is None else function(*leaves), *arrays)


def slice_rows(arrays, rows):
    """Rows of nested arrays."""
    return map_leaves(lambda leaf: leaf[rows], arrays)


def take(arrays, rows):
    """Rows of nested arrays, as dense NumPy arrays; of tensors of texts as tensors."""
    return map_leaves(lambda leaf: _dense_rows(leaf, rows), arrays)


def in_batch(leaf):
    """A leaf of a batch as Keras takes it from a dataset."""
    is_text = isinstance(leaf, np.ndarray) and holds_texts(leaf)
    return backend.as_texts(leaf, in_batch=True) if is_text else leaf


def holds_texts(array):
    """Whether a NumPy array holds texts or bytes."""
    is_text = array.dtype.kind == "O" and all(isinstance(each, (str, bytes)) for each in array.flat)
    return array.size > 0 and (is_text or array.dtype.kind in "SU")


def is_texts(leaf):
    """Whether an array or a tensor holds texts or bytes."""
    return holds_texts(leaf) if isinstance(leaf, np.ndarray) else _is_text_tensor(leaf)


def decoded(texts):
    """An array of texts or bytes as an array of `str`."""
    texts_of_python = [each.decode() if isinstance(each, bytes) else str(each) for each in texts.flat]
    return np.array(texts_of_python, dtype=object).reshape(texts.shape)


def leaves_of(arrays):
    """Nested arrays as a list, without those that are `None`."""
    return [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]


def size_of(arrays):
    """The number of examples in nested arrays."""
    return int(leaves_of(arrays)[0].shape[0])


def numeric(leaf):
    """A leaf of a batch as a NumPy array; unchanged if it holds no numbers."""
    if leaf is None:
        return None
    array = as_array(leaf)
    return array if array.dtype.kind in "biuf" or _is_foreign_float(array.dtype) else leaf


def _from_pandas(name, table):
    is_table = hasattr(table, "columns")
    columns = table.dtypes.items() if is_table else ()
    others = [str(column) for column, dtype in columns if getattr(dtype, "kind", "O") not in "biuf"]
    if others:
        raise ValueError(
            f"`{name}` must hold numbers, but the columns {others} of the table do not. Encode them, or pass a dict of "
            "columns to a model with an input for each. A model with a preprocessor takes one column of texts: "
            f"`{name}[{others[0]!r}]`."
        )
    values = table.to_numpy()
    if values.dtype.kind == "O" and (is_table or getattr(table.dtype, "kind", "O") in "biuf"):  # Nullable numbers
        if np.any(table.isna()):
            raise ValueError(f"`{name}` has missing values (`pd.NA`). Fill or drop those rows.")
        values = values.astype("float64")
    return values


def _is_ragged(leaf):
    return type(leaf).__name__ == "RaggedTensor"


def _is_text_tensor(leaf):
    return getattr(getattr(leaf, "dtype", None), "name", None) == "string" and not isinstance(leaf, np.ndarray)


def _dense_rows(leaf, rows):
    if not _is_text_tensor(leaf):
        return as_array(leaf[rows])
    # TensorFlow's tensors take slices, no arrays of positions.
    return leaf[rows] if isinstance(rows, slice) else backend.as_texts(as_array(leaf)[rows])


def _is_sparse_tensor(leaf):
    return any(backend.is_of_library(leaf, *each) for each in (("tensorflow", "SparseTensor"), ("jax", "JAXSparse")))


def _from_sparse_tensor(leaf, dense=False):
    # The two libraries name the same parts differently.
    places = np.asarray(leaf.indices)
    values = np.asarray(leaf.values if hasattr(leaf, "values") else leaf.data)
    shape = tuple(int(size) for size in leaf.shape)
    if len(shape) == 2 and places.shape[-1] == 2 and not dense:
        import scipy.sparse  # A dependency of JAX, and of libraries with sparse data.

        return scipy.sparse.coo_array((values, tuple(places.T)), shape).tocsr()
    if places.shape[-1] != len(shape):
        return np.asarray(leaf.todense())
    array = np.zeros(shape, values.dtype)
    np.add.at(array, tuple(places.T), values)
    return array


def _is_sliced_on_disk(leaf, is_input):
    """Whether a leaf is not a tensor, so that rows can be read by slicing it. Small labels are read as a whole."""
    is_tensor = any(backend.is_of_library(leaf, library) for library in ("tensorflow", "jax", "jaxlib", "torch"))
    return isinstance(leaf, np.ndarray) or (not is_tensor and (is_input or len(leaf.shape) > 2))


def _is_foreign_float(dtype):
    """Whether a dtype is a float of `ml_dtypes`, such as bfloat16."""
    return getattr(dtype, "kind", None) == "V" and dtype.names is None and "float" in dtype.name
