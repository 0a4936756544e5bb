"""Hugging Face's `datasets.Dataset`: a table of columns."""

import numpy as np

from keras_ban._src import backend
from keras_ban._src.data.arrays import Arrays
from keras_ban._src.data.model_inputs import innermost_models, input_names, names_of_inputs, task_within

_LABELS = ("label", "labels")


class HuggingFaceDataset(Arrays):
    """A `datasets.Dataset`, whose columns are loaded into memory, through the dataset's own transform.

    The inputs are the columns that are named as the models' inputs. If there are none, they are the one column of texts
    for a model with a preprocessor, else all columns of numbers. A single column is passed as an array, not as a dict.
    The labels are `y`, or the column `label` or `labels`.
    """

    @classmethod
    def accepts(cls, data):
        return backend.is_of_library(data, "datasets", "Dataset", "DatasetDict", "IterableDataset")

    @classmethod
    def of_user(cls, dataset, y, sample_weight, batch_size, shuffle, names, models):
        """A user's table. The arguments are those of `as_data`."""
        if not backend.is_of_library(dataset, "datasets", "Dataset"):
            splits = isinstance(dataset, dict)
            advice = f"Choose a split, one of {list(dataset)}." if splits else "Load it without `streaming=True`."
            raise TypeError(f"`{names[0]}` must be a `datasets.Dataset`, received: {type(dataset).__name__}. {advice}")
        columns = _columns(dataset)
        labels = [name for name in _LABELS if name in columns]
        if y is None and labels:
            y = _array(columns, labels[0])
        x = {name: _array(columns, name) for name in _chosen(columns, labels, models)}
        if len(x) == 1 and not any(input_names(model) for model in models):
            x = next(iter(x.values()))
        return cls(x, y, sample_weight, batch_size, shuffle, names)


def column_as_array(value):
    """A column of a `datasets.Dataset` as an array; anything else as it is."""
    return np.asarray(value[:]) if backend.is_of_library(value, "datasets", "Column") else value


def _columns(dataset):
    """All columns, as arrays or lists by name."""
    if dataset.format["type"] == "custom":
        return dataset[:]
    chosen = dataset.format["columns"]
    table = dataset.with_format("arrow", columns=chosen)[:]
    missing = [name for name in chosen if table.column(name).null_count]
    if missing:
        raise ValueError(f"The columns {missing} of the dataset have missing values. Fill or drop those rows.")
    return dataset.with_format("numpy", columns=chosen)[:]


def _takes_one_array(model):
    return task_within(model) is None and len(getattr(model, "inputs", None) or ()) == 1 and not input_names(model)


def _array(columns, name):
    try:
        array = np.asarray(columns[name])
    except ValueError:
        array = np.array(None)
    if array.ndim == 0 or (array.dtype == object and not isinstance(array.flat[0], str)):
        raise ValueError(f"The rows of the column {name!r} differ in length. Pad them to one length.")
    return array


def _chosen(columns, labels, models):
    """The names of the columns that are inputs."""
    wanted = set(columns).intersection(name for model in models for name in names_of_inputs(model))
    needed = {name for model in models for name in input_names(model) or ()}
    if needed - set(columns):
        raise ValueError(
            f"The models take the inputs {sorted(needed)}, but the dataset has the columns {sorted(columns)}. Rename "
            "columns with `dataset.rename_column`."
        )
    inputs = [name for name in columns if name not in labels]
    texts = [name for name in inputs if len(columns[name]) > 0 and isinstance(columns[name][0], str)]
    if texts and not wanted and any(task_within(model) is not None for model in models):
        if len(texts) > 1:
            raise ValueError(
                f"The columns {texts} of the dataset hold texts. Pass those that the preprocessor takes: "
                f"`x=np.asarray(dataset[{texts[0]!r}])`, or a tuple of such arrays."
            )
        return texts
    numbers = [name for name in inputs if np.asarray(columns[name]).dtype.kind in "biuf"]
    chosen = sorted(wanted) or numbers
    takers = [each for model in models for each in innermost_models(model)]
    if len(chosen) > 1 and not wanted and any(map(_takes_one_array, takers)):
        raise ValueError(
            f"The columns {chosen} of the dataset hold numbers, but the model takes one input. Choose a column with "
            f"`dataset.select_columns([{chosen[0]!r}, 'label'])`, or join columns to one array."
        )
    if not chosen:
        raise ValueError(
            f"The dataset has the columns {sorted(columns)}: none is named as an input of the models, and none holds "
            "numbers in rows of one length. Give images one size with `dataset.with_transform`."
        )
    return chosen
