"""Hugging Face's `datasets.Dataset`: a table of columns."""

import numpy as np

from keras_ban._src.data.arrays import Arrays
from keras_ban._src.data.batch import input_names

_LABELS = ("label", "labels")


class HuggingFaceDataset(Arrays):
    """A `datasets.Dataset`, whose columns are loaded into memory.

    The inputs are the columns that are named as the model's inputs. A model without named inputs takes the columns of
    numbers; a single column is passed as an array, not as a dict. The labels are `y`, or the column `label` or
    `labels`.
    """

    @classmethod
    def accepts(cls, data):
        return any(c.__name__ == "Dataset" and c.__module__.split(".")[0] == "datasets" for c in type(data).__mro__)

    def __init__(self, dataset, y=None, sample_weight=None, batch_size=None, shuffle=None, names=None, models=()):
        rows = dataset.with_format("numpy")
        labels = [name for name in _LABELS if name in dataset.column_names]
        if y is None and labels:
            y = rows[labels[0]][:]
        wanted = set().union(*(input_names(model) or set() for model in models))
        lacking = sorted(wanted - set(dataset.column_names))
        if lacking:
            raise ValueError(
                f"The models take the inputs {sorted(wanted)}, but the dataset has the columns {dataset.column_names}: "
                f"{lacking} are missing. Rename columns with `dataset.rename_column`."
            )
        names_of_inputs = sorted(wanted) or [name for name in dataset.column_names if name not in labels]
        x = {name: np.asarray(rows[name][:]) for name in names_of_inputs}
        if not wanted:
            x = {name: column for name, column in x.items() if column.dtype.kind in "biuf"}
            x = next(iter(x.values())) if len(x) == 1 else x
        super().__init__(x, y, sample_weight, batch_size, shuffle, names)
