"""Records made of plain data, as JSON holds it, with a check of every value's type."""

import dataclasses
import numbers
import types
import typing

import keras

_MORE_GENERAL = {int: numbers.Integral, float: numbers.Real}


def plain(value):
    """Return what a metric gave: a float, or a list of floats if it has several values, as one for each class."""
    is_array = not isinstance(value, str) and value is not None
    return keras.ops.convert_to_numpy(value).astype("float64").tolist() if is_array else value


def entry(where, data, name, default=dataclasses.MISSING):
    """Return an entry of a dict. Raise `ValueError` if it is no dict, or has no such entry and there is no default."""
    if not isinstance(data, dict):
        raise ValueError(f"{where} must be a dict, received: {data!r}.")
    if name not in data and default is dataclasses.MISSING:
        raise ValueError(f"{where} lacks {name!r}.")
    return data.get(name, default)


def entries(where, data, name):
    """Return an entry that is a list, with a name for each of its values."""
    values = entry(where, data, name)
    if not isinstance(values, list):
        raise ValueError(f"{name!r} of {where} must be a list, received: {values!r}.")
    return [(f"{name}[{place}] of {where}", value) for place, value in enumerate(values)]


def from_plain(where, cls, data):
    """Return an instance of a dataclass. Raise `ValueError` if an entry lacks, is unknown, or is of another type.

    Args:
        where: the name of the data, for the message.
        cls: the dataclass. Annotations say the types. `float` is any number.
        data: a dict of the fields. Those with defaults may be missing.
    """
    fields = dataclasses.fields(cls)
    required = {field.name for field in fields if {field.default, field.default_factory} == {dataclasses.MISSING}}
    check_entries(where, data, typing.get_type_hints(cls), required)
    return cls(**data)


def check_entries(where, data, hints, required, takes_others=False):
    """Raise `ValueError` if an entry of a dict lacks, is of another type or, unless it `takes_others`, is unknown.

    `hints` are the types by name. `required` are the names of the entries that there must be.
    """
    missing = sorted(set(required) - set(data))
    if missing:
        raise ValueError(f"{where} lacks {missing}.")
    for name, hint in hints.items():
        if name in data and not _is_of_type(data[name], hint):
            raise ValueError(f"{where} has a {name!r} of another type: {data[name]!r}.")
    unknown = [name for name in data if name not in hints]
    if unknown and not takes_others:
        raise ValueError(f"{where} has the unknown entries {unknown}.")


def _is_of_type(value, hint):
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return any(_is_of_type(value, each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is dict:
        of_value = typing.get_args(hint)[1]
        is_dict = isinstance(value, dict) and all(isinstance(name, str) for name in value)
        return is_dict and all(_is_of_type(each, of_value) for each in value.values())
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, _MORE_GENERAL.get(hint, typing.get_origin(hint) or hint))
