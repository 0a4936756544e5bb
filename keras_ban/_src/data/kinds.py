"""The entrance of all data: what a user passes becomes one of the kinds of data, once."""

import inspect
import numbers

import numpy as np

from keras_ban._src import backend
from keras_ban._src.data.arrays import Arrays, short
from keras_ban._src.data.dataset import Data, Dataset, Stream
from keras_ban._src.data.grain_dataset import GrainDataset
from keras_ban._src.data.hugging_face import HuggingFaceDataset, column_as_array
from keras_ban._src.data.py_dataset import PyDatasetData
from keras_ban._src.data.tf_dataset import TensorFlowDataset
from keras_ban._src.data.torch_loader import TorchDataLoader

# The first that accepts what a user passes.
KINDS = (HuggingFaceDataset, Arrays, PyDatasetData, TensorFlowDataset, TorchDataLoader, GrainDataset, Stream, Dataset)


def as_data(x, y=None, sample_weight=None, *, batch_size=None, shuffle=None, names=None, models=()):
    """Data of any kind behind one interface: `Arrays`, or a kind of `Dataset`.

    Args:
        x: nested arrays of NumPy, TensorFlow, JAX, torch, pandas or SciPy; a table of Hugging Face's `datasets`; or a
            dataset that yields batches.
        y, sample_weight: nested arrays, or `None`.
        batch_size, shuffle: as in `keras.Model.fit`.
        names: what messages call `x`, `y` and `sample_weight`.
        models: the models that take the inputs, by whose inputs the columns of a table are chosen.

    Raises:
        TypeError: `x` is not data.
        ValueError: there is no data, arrays differ in length or hold neither numbers nor texts, weights are not finite,
            or a dataset comes with arrays.
    """
    if isinstance(x, Data):
        return x
    x, y, sample_weight = (column_as_array(each) for each in (x, y, sample_weight))
    x, y, sample_weight = _lists_as_arrays(x), _lists_as_rows(y), _lists_as_rows(sample_weight)
    names = names or ("x", "y", "sample_weight")
    if x is None or (isinstance(x, (list, tuple, dict)) and len(x) == 0):
        raise ValueError(f"`{names[0]}` is {x!r}: there is no data to train on.")
    for kind in KINDS:
        if kind.accepts(x):
            return kind.of_user(x, y, sample_weight, batch_size, shuffle, names, models)
    raise TypeError(
        f"`{names[0]}` must be arrays, or a dataset: a `keras.utils.PyDataset`, a `tf.data.Dataset` or a torch "
        f"`DataLoader`. Received: {short(x)} (of type {type(x).__name__}). {_advice(names[0], x)}"
    )


def _advice(name, x):
    """What to do about a value that is no data, as text."""
    if hasattr(x, "__getitem__") and backend.is_of_library(x, "torch"):
        return f"Let it yield batches: `torch.utils.data.DataLoader({name}, batch_size=32)`."
    if inspect.isgeneratorfunction(x):
        return f"Call the function, so that there is a generator: `{name}()`."
    if isinstance(x, (list, tuple)) and any(kind.accepts(each) for each in x for kind in KINDS if kind is not Arrays):
        return "Pass one dataset, for instance the first, and another one as `validation_data`."
    return f"Make an array of a list of numbers: `np.asarray({name})`."


def as_validation_data(validation_data, batch_size=None, models=()):
    """`validation_data` as `keras.Model.fit` takes it, behind the same interface; `None` if there is none."""
    if validation_data is None or isinstance(validation_data, Data):
        return validation_data
    if isinstance(validation_data, (list, tuple)):
        if not 1 <= len(validation_data) <= 3 or validation_data[0] is None:
            raise ValueError(
                "`validation_data` must be `(x_val, y_val)`, `(x_val, y_val, sample_weight)` or a dataset, received "
                f"{len(validation_data)} parts: {short(validation_data)}."
            )
        names = [f"validation_data[{place}]" for place in range(3)]
        return as_data(*validation_data, batch_size=batch_size, names=names, models=models)
    data = as_data(validation_data, batch_size=batch_size, names=("validation_data",) * 3, models=models)
    if type(data) is Arrays:
        raise ValueError(
            "`validation_data` must be `(x_val, y_val)`, `(x_val, y_val, sample_weight)` or a dataset, received: "
            f"{short(validation_data)}."
        )
    return data


def _lists_as_arrays(part):
    """Nested arrays, with lists and tuples of single numbers or texts as arrays. KerasHub takes texts in lists.

    Of a list of lists, those of texts are several inputs. Those of numbers stay, because they may be meant as rows.
    """
    if type(part) is dict:
        return {name: _lists_as_arrays(each) for name, each in part.items()}
    if type(part) not in (list, tuple) or not part:
        return part
    if all(map(_is_single, part)):
        return np.asarray(part)
    return type(part)(_lists_as_arrays(each) if _is_of_texts(each) else each for each in part)


def _lists_as_rows(part):
    """The same for labels and weights, where a list of lists is an array, too."""
    if type(part) is not list or not part or not all(map(_is_row, part)):
        return _lists_as_arrays(part)
    try:
        return np.asarray(part)
    except ValueError as error:
        raise ValueError(f"The rows of a list of labels or weights differ in length. Pad them: {error}") from None


def _is_of_texts(part):
    return type(part) in (list, tuple) and all(isinstance(each, (str, bytes)) for each in part)


def _is_single(value):
    return isinstance(value, (numbers.Number, str, bytes, np.generic))


def _is_row(value):
    return _is_single(value) or (type(value) in (list, tuple) and all(map(_is_row, value)))
