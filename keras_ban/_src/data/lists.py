"""Python's lists of numbers and texts, as arrays."""

import numbers

import numpy as np


def as_arrays(part):
    """Nested arrays, with lists and tuples of single numbers or texts as arrays. KerasHub takes texts in lists.

    Of a list of lists, those of texts are several inputs. Those of numbers stay, because they may be meant as rows.
    """
    if type(part) is dict:
        return {name: as_arrays(each) for name, each in part.items()}
    if type(part) not in (list, tuple) or not part:
        return part
    if all(map(_is_single, part)):
        return np.asarray(part)
    return type(part)(as_arrays(each) if _is_of_texts(each) else each for each in part)


def as_array_of_rows(part):
    """The same for labels and weights, where a list of lists is an array, too."""
    if type(part) is not list or not part or not all(map(_is_row, part)):
        return as_arrays(part)
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
