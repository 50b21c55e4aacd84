"""One form for arguments that name things: a name, a number, or several of them."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable
from typing import Any

from .errors import UsageError

#: Names of layers, metrics and the like, or patterns for them; numbers are positions of layers.
Names = str | int | Iterable[str | int]


def names_of(given: Names | None, what: str = "names") -> list[str]:
    """Return names as a list, whether one, several or none are given; numbers become text.

    Raises
    ------
    UsageError
        The argument is something else.

    Examples
    --------
    >>> names_of("relu*"), names_of([0, -1]), names_of(-1), names_of(None)
    (['relu*'], ['0', '-1'], ['-1'], [])
    """
    return [_name(each, what) for each in values_of(given, what)]


def values_of(given: Any, what: str = "values") -> list[Any]:
    """Return one or several values as a list; None is none.

    Raises
    ------
    UsageError
        The argument is neither a single value nor several.
    """
    if given is None:
        return []
    if isinstance(given, str | os.PathLike) or _is_number(given):
        return [given]
    try:
        return [*given]
    except TypeError:
        raise UsageError(f"{what}: {given!r} is not usable; give one or a list of them") from None


def _name(given: Any, what: str) -> str:
    if isinstance(given, str):
        return str(given)
    if _is_number(given):
        return str(operator.index(given))
    raise UsageError(f"{what}: {given!r} is not usable; give text, or the number of a layer")


def _is_number(given: Any) -> bool:
    if isinstance(given, bool):
        return False
    try:
        operator.index(given)
    except TypeError:
        return False
    return True
