"""Fingerprints of the examples that trained the members of an ensemble, which nothing else may be fitted to."""

import numpy as np

from keras_ban._src.data.fingerprints import HASHES, data_fingerprint, example_form, example_keys
from keras_ban._src.data.leaves import leaves_of

# Held-out data may hold a few examples that are equal to some of training, but no more than this share.
_SHARE_OF_EQUALS = 0.1
# If fewer of the training examples are different, for instance inputs of few categories, equal inputs do not show that
# two examples are the same.
_SHARE_OF_DIFFERENT = 0.99


class TrainingData:
    """The fingerprints of arrays of inputs.

    Args:
        described: the inputs as in the description of `Arrays`: a list with a dict for each array.
        hashes: the version of the fingerprints.
        keys: the keys of the examples in each array, a list of uint64 `(n,)`. `None`: only the arrays as a whole are
            known.
    """

    def __init__(self, described, hashes=HASHES, keys=None):
        self._described, self._hashes = described, hashes
        self._known = None if keys is None else np.unique(_joined(keys))
        # Whether most examples are different from each other.
        self._are_different = keys is not None and len(self._known) >= _SHARE_OF_DIFFERENT * len(keys[0])

    @classmethod
    def of(cls, data):
        """Return the `TrainingData` of `Arrays` in memory. `None` for other data, which it would take long to read."""
        if data.yields_batches or any(type(leaf) is not np.ndarray for leaf in leaves_of(data.x)):
            return None
        return cls(data.description(HASHES)["x"], HASHES, [example_keys(leaf) for leaf in leaves_of(data.x)])

    @classmethod
    def of_run(cls, begun_with):
        """Return the `TrainingData` that a run directory tells, or `None`."""
        described = begun_with["data"]["x"]
        return cls(described, begun_with.get("hashes", 1)) if isinstance(described, list) else None

    def keys_of(self, x):
        """Return `(form, keys)` of inputs, nested arrays, to pass to `check`."""
        form = [example_form(leaf)[0] for leaf in leaves_of(x)]
        return form, [example_keys(leaf, self._hashes) for leaf in leaves_of(x)]

    def check(self, parts):
        """Raise `ValueError` if inputs are those of training, or more than a few are examples of them.

        `parts` is a list with the result of `keys_of` for each batch, or for all inputs at once.
        """
        if any(form != [each["dtype_and_shape"] for each in self._described] for form, _ in parts):
            return
        keys = [np.concatenate(each) for each in zip(*(keys for _, keys in parts), strict=True)]
        if all(map(_begin_with, keys, self._described)):
            raise ValueError(_REFUSED.format("are the training data"))
        equal = int(np.isin(_joined(keys), self._known).sum()) if self._are_different else 0
        if equal > _SHARE_OF_EQUALS * len(keys[0]):
            raise ValueError(_REFUSED.format(f"hold {equal} examples of the training data"))


def _joined(keys):
    """Return one key for each example, of its keys in each array."""
    return keys[0] if len(keys) == 1 else example_keys(np.stack(keys, axis=-1))


def _begin_with(keys, described):
    """Whether the first examples are those that are described. (`validation_split` leaves out the last.)"""
    size, form = described["examples"], [described["dtype_and_shape"]]
    return len(keys) >= size and data_fingerprint(form, keys[:size]) == described["fingerprint"]


_REFUSED = (
    "These examples trained the members: they {}. On them the members seem better than they are, so temperature and "
    "weights would be wrong. Pass validation data, which trained no member."
)
