"""Attributes and lists of a model that cannot be changed."""

import functools
from typing import Any


class FixedAttributes:
    """Refuses new values for some attributes of a complete model. Put it before `keras.Model` among the bases.

    Compiled steps, projections and files would go on with the old value, without a word. The class attribute
    `FIXED` has their names. The constructor ends with `self._is_complete = True`.
    """

    _is_complete = False

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.FIXED and self._is_complete:
            if getattr(self, name) is value:
                return
            raise AttributeError(
                f"`{name}` cannot be replaced in `{type(self).__name__}`: what is compiled would go on with the old "
                f"one. Create a new `{type(self).__name__}`, or change the weights of the model in place with "
                "`set_weights`."
            )
        super().__setattr__(name, value)


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
