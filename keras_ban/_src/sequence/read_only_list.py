"""A list that cannot be changed."""


class ReadOnlyList(list):
    """Refuses changes. It is equal to a list of the same elements, and `+` and slices give lists."""

    def _refuse(self, *args, **kwargs):
        raise TypeError(
            "This list cannot be changed: what is compiled would go on with the old one. Make another model."
        )

    append = extend = insert = remove = pop = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
