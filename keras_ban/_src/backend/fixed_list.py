"""A list of models or layers that cannot be changed."""

import functools
from typing import Any


class FixedList:
    """Refuses changes. `+` and slices give lists that can be changed."""

    def _refuse(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(
            "This list cannot be changed: what is compiled would go on with the old one. Create a new model of the "
            "list that you want, for instance of `[*model.members, another]`."
        )

    append = extend = insert = remove = pop = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse


def fixed(tracked: Any) -> Any:
    """Return a list that a Keras layer has as an attribute, as one that cannot be changed.

    It is of a subclass of Keras's own class, which TensorFlow asks for when it tracks what is in the list, such as
    vocabularies.
    """
    own: Any = type(tracked)
    return _kind(own)(tracked)


@functools.cache
def _kind(of_keras):
    return type(FixedList.__name__, (FixedList, of_keras), {})
