"""Arrays of any library, as NumPy arrays or SciPy sparse matrices, with the examples in rows."""

import keras
import numpy as np


def is_leaf(value):
    """Whether a value is an array or a tensor of any library, or a single number."""
    return hasattr(value, "shape") or isinstance(value, (int, float))


def from_user(name, leaf):
    """A user's array in the form in which this package reads it.

    - NumPy arrays and what is sliced like them on disk (a memory map, an HDF5 dataset): as they are.
    - Tensors of TensorFlow, JAX and torch: NumPy arrays.
    - pandas: rows by position, as Keras reads them. A `Series` gets shape `(examples, 1)`.
    - Sparse matrices and tensors: SciPy CSR, of rank 2; of a higher rank dense arrays.
    - bfloat16 and other floats that NumPy does not have: `keras.config.floatx()`, to which Keras casts them.

    Args:
        name: the argument that messages name.
        leaf: an array or a tensor.

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
    elif hasattr(leaf, "tocsr"):
        leaf = leaf.tocsr()
    elif type(leaf).__name__ == "RaggedTensor":
        raise ValueError(
            f"`{name}` is a `tf.RaggedTensor`, whose rows differ in length. Pad them: `{name}.to_tensor()`."
        )
    elif _is_sparse_tensor(leaf):
        leaf = _from_sparse_tensor(leaf)
    elif not _is_sliced_on_disk(leaf):
        leaf = as_array(leaf)
    return leaf.astype(keras.config.floatx()) if _is_foreign_float(leaf.dtype) else leaf


def as_array(leaf):
    """An array or tensor of any library as a dense NumPy array."""
    if hasattr(leaf, "toarray"):  # SciPy's sparse matrices
        return leaf.toarray()
    if _is_sparse_tensor(leaf):
        return _from_sparse_tensor(leaf, dense=True)
    if hasattr(leaf, "detach"):
        leaf = leaf.detach().cpu()
        # NumPy has no bfloat16.
        return (leaf.float() if str(leaf.dtype) == "torch.bfloat16" else leaf).numpy()
    return np.asarray(leaf)


def take(arrays, rows):
    """Those rows of nested arrays, dense."""
    return keras.tree.map_structure(lambda leaf: None if leaf is None else as_array(leaf[rows]), arrays)


def leaves_of(arrays):
    """Nested arrays as a list, without those that are `None`."""
    return [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]


def size_of(arrays):
    """The number of examples in nested arrays."""
    return int(leaves_of(arrays)[0].shape[0])


def numeric(leaf):
    """A leaf of a batch as a NumPy array; if it holds no numbers, as it is."""
    if leaf is None:
        return None
    array = as_array(leaf)
    return array if array.dtype.kind in "biuf" or _is_foreign_float(array.dtype) else leaf


def _from_pandas(name, table):
    if not hasattr(table, "columns"):
        values = table.to_numpy()
        # Nullable numbers come as objects.
        values = values.astype("float64") if values.dtype.kind == "O" and table.dtype.kind in "biuf" else values
        return np.expand_dims(values, -1)
    others = [str(column) for column, dtype in table.dtypes.items() if getattr(dtype, "kind", "O") not in "biuf"]
    if others:
        raise ValueError(
            f"`{name}` must hold numbers, but the columns {others} of the table do not. Encode them, or pass a dict of "
            "columns to a model with an input for each."
        )
    values = table.to_numpy()
    return values.astype("float64") if values.dtype.kind == "O" else values


def _is_sparse_tensor(leaf):
    kinds = {(base.__module__.split(".")[0], base.__name__) for base in type(leaf).__mro__}
    return not kinds.isdisjoint({("tensorflow", "SparseTensor"), ("jax", "JAXSparse")})


def _from_sparse_tensor(leaf, dense=False):
    # The two libraries name the same parts differently.
    places = np.asarray(leaf.indices)
    values = np.asarray(leaf.values if hasattr(leaf, "values") else leaf.data)
    shape = tuple(int(size) for size in leaf.shape)
    if len(shape) == 2 and places.shape[-1] == 2 and not dense:
        import scipy.sparse  # Installed by whoever has sparse data, and by JAX.

        return scipy.sparse.coo_array((values, tuple(places.T)), shape).tocsr()
    if places.shape[-1] != len(shape):
        return np.asarray(leaf.todense())
    array = np.zeros(shape, values.dtype)
    np.add.at(array, tuple(places.T), values)
    return array


def _is_sliced_on_disk(leaf):
    """Whether a leaf is no tensor, so that rows are read by slicing it alone."""
    libraries = {base.__module__.split(".")[0] for base in type(leaf).__mro__}
    return isinstance(leaf, np.ndarray) or libraries.isdisjoint({"tensorflow", "jax", "jaxlib", "torch"})


def _is_foreign_float(dtype):
    """Whether a dtype is a float of `ml_dtypes`, such as bfloat16."""
    return getattr(dtype, "kind", None) == "V" and dtype.names is None and "float" in dtype.name
