"""A model with attributes that cannot be replaced."""

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
