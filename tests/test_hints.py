"""Type hints: `nox -s lint` checks that they are right, these tests that there are all of them."""

import inspect

import keras
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


@pytest.mark.parametrize("kind", [keras_ban.Distiller, keras_ban.EnsembleModel, keras_ban.BornAgainSequence])
def test_signatures_show_the_arguments_of_keras_by_name(kind):
    """As notebooks show and complete them. What they show binds as the call does."""
    for name in ("compile", "fit", "evaluate", "predict", "train_on_batch", "test_on_batch"):
        method, of_keras = getattr(kind, name, None), inspect.signature(getattr(keras.Model, name)).parameters
        if method is None or (kind is keras_ban.BornAgainSequence and name == "evaluate"):
            continue
        shown = inspect.signature(method).parameters
        expected = [each for each in of_keras.values() if each.kind is not each.VAR_KEYWORD]

        assert not any(each.kind in (each.VAR_KEYWORD, each.VAR_POSITIONAL) for each in shown.values())
        assert {each.name: each.default for each in expected} == {
            each.name: shown[each.name].default for each in expected
        }
        positional = [each.name for each in shown.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert [each.name for each in expected][: len(positional)] == positional


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda: keras_ban.losses.KnowledgeDistillation(temperature=4),
            "<KnowledgeDistillation temperature=4.0, from_logits='auto', activation='softmax', standardize=False>",
        ),
        (
            lambda: keras_ban.BornAgainSequence(lambda generation: None, generations=2, directory="run"),
            "<BornAgainSequence generations=2, trained models=0, directory='run'>",
        ),
    ],
)
def test_the_last_expression_of_a_cell_says_what_it_is(make, expected):
    assert expected == repr(make())
