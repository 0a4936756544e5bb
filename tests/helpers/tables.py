"""Tables of cases."""

import pytest


def cases(names, *everywhere, on_one_backend):
    """`pytest.mark.parametrize`: cases that run on every backend, and those that `nox` runs on one alone."""
    values = [case if "," in names else (case,) for case in on_one_backend]
    return pytest.mark.parametrize(
        names, [*everywhere, *[pytest.param(*value, marks=pytest.mark.one_backend) for value in values]]
    )
