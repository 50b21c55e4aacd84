"""Kinds of values of settings: how they are parsed from text and validated."""

from __future__ import annotations

import math
import numbers
import operator
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..arguments import names_of
from ..errors import UsageError
from ..moved import warn_renamed

_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMG]?)(?:i?B)?\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """A kind of value.

    Attributes
    ----------
    metavar
        Placeholder for a value in help texts.
    parse
        Converts text to a value.
    check
        Returns the value in canonical form; raises :class:`ValueError` with a message that says what is expected.
    choices
        All values, if there are only a few.
    is_flag
        Whether it is an on/off option.
    is_repeatable
        Whether the option may be repeated.
    former
        Current word for each word of an earlier release. Former words still work with a DeprecationWarning; archives
        keep them.
    """

    metavar: str
    parse: Callable[[str], Any]
    check: Callable[[Any], Any]
    choices: tuple[str, ...] = ()
    is_flag: bool = False
    is_repeatable: bool = False
    former: Mapping[str, str] = field(default_factory=dict, hash=False)

    def recorded(self, value: Any) -> Any:
        """Return the value in the form that archives store."""
        return next((word for word, present in self.former.items() if present == value), value)


def choice(*values: str, former: Mapping[str, str] | None = None) -> Kind:
    """Return the kind of a choice between words; `former` maps renamed words to the current ones."""
    renamed = former or {}

    def check(value: Any) -> str:
        if isinstance(value, str) and value in renamed:
            warn_renamed(f"'{value}'", f"'{renamed[value]}'")
            return renamed[value]
        if not isinstance(value, str) or value not in values:
            raise ValueError(f"{', '.join(values[:-1])} or {values[-1]}")
        return value

    return Kind("|".join(values), str, check, choices=values, former=renamed)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("text")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    try:
        return tuple(names_of(value))
    except UsageError:
        raise ValueError("text, the number of a layer, or a list of these") from None


def _tensors(value: Any) -> tuple[str, ...]:
    names = _texts(() if value is None else value)
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"each tensor once; '{twice[0]}' is given twice")
    return names


def _path(value: Any) -> str | os.PathLike[str]:
    if not isinstance(value, str | os.PathLike):
        raise ValueError("a path")
    return value


def _flag(value: Any) -> bool:
    if type(value).__name__ not in ("bool", "bool_"):
        raise ValueError("true or false")
    return bool(value)


def _integer(value: Any, expected: str = "an integer", least: int | None = None) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(expected) from None
    if isinstance(value, bool) or (least is not None and whole < least):
        raise ValueError(expected)
    return whole


def _count(value: Any) -> int:
    return _integer(value, "an integer of at least 1", 1)


def _seed(value: Any) -> int:
    return _integer(value, "an integer of at least 0", 0)


def _number(value: Any, expected: str = "a finite number") -> float:
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(expected)
    return float(value)


def _positive(value: Any) -> float:
    expected = "a positive number"
    found = _number(value, expected)
    if found <= 0:
        raise ValueError(expected)
    return found


def _fraction(value: Any) -> float:
    expected = "a number from 0 to 1"
    found = _number(value, expected)
    if not 0 <= found <= 1:
        raise ValueError(expected)
    return found


def _budget(value: Any) -> float | str:
    expected = "a positive number, for the sum over the feature's entries, or such as 0.01/unit, for each of them"
    text, slash, unit = value.partition("/") if isinstance(value, str) else (value, "", "")
    try:
        size = _positive(_parse_number(text) if slash else text)
    except ValueError:
        raise ValueError(expected) from None
    if slash and unit.strip() != "unit":
        raise ValueError(expected)
    return f"{size!r}/unit" if slash else size


def _several(value: Any) -> int:
    return _integer(value, "an integer of at least 2", 2)


def _change(value: Any) -> str:
    expected = "relative:X, absolute:X or kl:X with a positive number, such as relative:0.01"
    kind, _, number = value.rpartition(":") if isinstance(value, str) else ("", "", value)
    try:
        amount = _positive(_parse_number(number) if isinstance(number, str) else number)
    except ValueError:
        raise ValueError(expected) from None
    if (kind or "relative") not in ("relative", "absolute", "kl"):
        raise ValueError(expected)
    return f"{kind or 'relative'}:{amount:g}"


def _numbers(value: Any) -> float | tuple[float, ...]:
    expected = "a number, or one per channel such as 0.485,0.456,0.406"
    if isinstance(value, numbers.Real):
        return _number(value, expected)
    if isinstance(value, str):
        raise ValueError(expected)
    try:
        return tuple(_number(each, expected) for each in value)
    except TypeError:
        raise ValueError(expected) from None


def _size(value: Any) -> int | tuple[int, int]:
    expected = "a side in pixels, or height and width such as 224,160"
    try:
        if not isinstance(value, tuple | list):
            return _integer(value, expected, 1)
        height, width = (_integer(each, expected, 1) for each in value)
    except (TypeError, ValueError):
        raise ValueError(expected) from None
    return height, width


def _resize(value: Any) -> str | int:
    expected = "crop, squash, none or the length of the shorter side in pixels"
    if isinstance(value, str):
        if value not in ("crop", "squash", "none"):
            raise ValueError(expected)
        return value
    return _integer(value, expected, 1)


def _sharing(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"unit|pixel|grid:[1-9]\d*", value):
        raise ValueError("unit, pixel or grid:N, such as grid:4")
    return value


def _device(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"auto|(cpu|cuda)(:\d+)?", value):
        raise ValueError("auto, cpu, cuda or cuda:N")
    return value


def _memory(value: Any) -> int:
    expected = "a number of bytes, or such as 512M or 2G"
    if isinstance(value, str):
        found = _SIZE.fullmatch(value)
        if found is None:
            raise ValueError(expected)
        value = int(float(found[1]) * {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}[found[2].upper()])
    return _integer(value, expected, 1)


def _pairs(check: Callable[[Any], Any], expected: str) -> Callable[[Any], tuple[tuple[str, Any], ...]]:
    """Return the check of values by name: a mapping, pairs, or texts ``NAME=VALUE``."""

    def pair(given: Any) -> tuple[str, Any]:
        name, value = given.partition("=")[::2] if isinstance(given, str) else given
        if not isinstance(name, str) or not name.strip() or (isinstance(value, str) and not value.strip()):
            raise ValueError(expected)
        return name.strip(), check(value)

    def checked(value: Any) -> tuple[tuple[str, Any], ...]:
        given = value.items() if isinstance(value, Mapping) else [value] if isinstance(value, str) else value
        try:
            pairs = tuple(map(pair, given))
        except (TypeError, ValueError):
            raise ValueError(expected) from None
        names = [name for name, _ in pairs]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"each name once; '{twice[0]}' is given twice")
        return pairs

    return checked


def _tag(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _axis(value: Any) -> int:
    return _integer(_parse_integer(value) if isinstance(value, str) else value, "an axis", 0)


def _parse_integer(text: str) -> int | str:
    return int(text) if re.fullmatch(r"\s*[+-]?\d+\s*", text) else text


def _parse_number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _parse_list(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        parts = [parse(part) for part in text.split(",")]
        return parts[0] if len(parts) == 1 else parts

    return parsed


TEXT = Kind("TEXT", str, _text)
TEXTS = Kind("P", str, _texts, is_repeatable=True)
TENSORS = Kind("TENSOR", str, _tensors, is_repeatable=True)
PATH = Kind("PATH", str, _path)
#: Samples, labels, boxes or masks: a specification, arrays or a mapping; validated when they are opened.
DATA = Kind("SPEC", str, lambda value: value)
FLAG = Kind("", str, _flag, is_flag=True)
INTEGER = Kind("N", _parse_integer, _integer)
COUNT = Kind("N", _parse_integer, _count)
SEVERAL = Kind("N", _parse_integer, _several)
#: Change of a layer, ``KIND:X``; a number is relative.
CHANGE = Kind("KIND:X", str, _change)
SEED = Kind("N", _parse_integer, _seed)
NUMBER = Kind("X", _parse_number, _number)
POSITIVE = Kind("X", _parse_number, _positive)
FRACTION = Kind("X", _parse_number, _fraction)
BUDGET = Kind("X|X/unit", _parse_number, _budget)
NUMBERS = Kind("X,...", _parse_list(_parse_number), _numbers)
#: Values of graph inputs by name; whoever sets them knows their types.
VALUES = Kind("NAME=VALUE", str, _pairs(lambda value: value, "NAME=VALUE, such as 'sr=16000'"), is_repeatable=True)
AXES = Kind("NAME=AXIS", str, _pairs(_axis, "NAME=AXIS with an axis of at least 0, such as 'h=1'"), is_repeatable=True)
#: Tags of a run by key.
TAGS = Kind("KEY=VALUE", str, _pairs(_tag, "KEY=VALUE, such as 'study=depth'"), is_repeatable=True)
SIZE = Kind("N|H,W", _parse_list(_parse_integer), _size)
RESIZE = Kind("crop|squash|none|N", _parse_integer, _resize)
SHARING = Kind("unit|pixel|grid:N", str, _sharing)
DEVICE = Kind("DEVICE", str, _device)
MEMORY = Kind("SIZE", _parse_integer, _memory)
