"""Type hints: `nox -s lint` checks that they are right, these tests that there are all of them."""

import inspect

import pytest

import keras_ban

pytestmark = pytest.mark.one_backend

# What Python calls for operators and built-in functions of users.
SPECIAL = {"__init__", "__call__", "__getitem__", "__len__"}


def functions_of(cls):
    """`(name, function)` of the functions of a class that are defined in this package, its properties' too."""
    found = []
    for base in cls.__mro__:
        if not base.__module__.startswith("keras_ban"):
            continue
        for name, value in vars(base).items():
            if name.startswith("_") and name not in SPECIAL:
                continue
            parts = [value.fget, value.fset] if isinstance(value, property) else [getattr(value, "__func__", value)]
            found += [(f"{base.__name__}.{name}", part) for part in parts if inspect.isfunction(part)]
    return found


def public_functions():
    found = []
    for module in (keras_ban, keras_ban.losses):
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                found += functions_of(value)
            elif inspect.isfunction(value):
                found.append((name, value))
    return found


def lacking(function):
    """The names of the parameters without a hint, and "return"."""
    signature = inspect.signature(function)
    parameters = [each for each in signature.parameters.values() if each.name not in ("self", "cls")]
    found = [each.name for each in parameters if each.annotation is each.empty]
    return found + ["return"] * (signature.return_annotation is signature.empty)


def test_every_public_signature_has_hints():
    functions = public_functions()

    assert len(functions) > 150
    assert [] == [(name, lacking(function)) for name, function in functions if lacking(function)]


def test_what_lacks_hints_is_found():
    class Incomplete:
        __module__ = "keras_ban.example"

        def method(self, x, y: int = 0): ...

        @property
        def value(self) -> int: ...

        @value.setter
        def value(self, value) -> None: ...

        @classmethod
        def make(cls, *args: int) -> int: ...

    found = [lacking(function) for _, function in functions_of(Incomplete)]

    assert found == [["x", "return"], [], ["value"], []]
