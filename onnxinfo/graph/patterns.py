"""Patterns that select layers: exact names, globs, regular expressions, operators, indices and ranges."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Protocol

from ..errors import UnknownLayerError, UsageError
from ..text import printable, quoted


class Named(Protocol):
    """Interface of what patterns can select: index, name and operator."""

    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def op(self) -> str: ...  # noqa: D102


def matching(pattern: str, layers: Sequence[Named]) -> set[int]:
    """Indices of the layers that match a pattern.

    Raises
    ------
    UnknownLayerError
        The pattern matches no layer.
    UsageError
        The pattern is not a valid regular expression or range.
    """
    chosen = matches(pattern, layers)
    if not chosen:
        raise UnknownLayerError(f"no layer matches {quoted(pattern)}; {_hint(pattern, layers)}")
    return chosen


def part_name(pattern: str) -> str:
    """Return a pattern as the name that a part of a layer would have: without spaces after the bracket."""
    base, bracket, index = pattern.rpartition("[")
    return base.rstrip() + bracket + "".join(index.split()) if bracket and index.rstrip().endswith("]") else pattern


def is_index(pattern: str) -> bool:
    """Whether a pattern is an index or a range of indices."""
    return re.fullmatch(r"-?\d+|\d+-\d*", pattern) is not None


def matches(pattern: str, layers: Sequence[Named]) -> set[int]:
    """Indices of the layers that match a pattern; none if there are none.

    Raises
    ------
    UsageError
        The pattern is not a valid regular expression.
    """
    chosen = {layer.index for layer in layers if layer.name == pattern}
    if not chosen and pattern.endswith("]"):
        chosen = {layer.index for layer in layers if layer.name == part_name(pattern)}
    if chosen:
        return chosen
    if pattern.startswith("re:"):
        expression = _compiled(pattern)
        return {layer.index for layer in layers if expression.search(layer.name)}
    if pattern.startswith("op:"):
        return {layer.index for layer in layers if fnmatchcase(layer.op.lower(), pattern[3:].lower())}
    if number := re.fullmatch(r"-?\d+", pattern):
        return _at(int(number[0]), layers)
    if bounds := re.fullmatch(r"(\d+)-(\d*)", pattern):
        first, last = int(bounds[1]), int(bounds[2] or layers[-1].index if layers else 0)
        return {layer.index for layer in layers if first <= layer.index <= last}
    return {layer.index for layer in layers if fnmatchcase(layer.name, pattern)}


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern[3:])
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(f"{quoted(pattern)} is not a valid regular expression: {error}") from None


def _at(number: int, layers: Sequence[Named]) -> set[int]:
    if number < 0:
        return {layers[number].index} if -number <= len(layers) else set()
    return {layer.index for layer in layers if layer.index == number}


def _hint(pattern: str, layers: Sequence[Named]) -> str:
    """Suggest patterns that would match."""
    if not layers:
        return "the model has none"
    if is_index(pattern):
        return f"indices are {layers[0].index} to {layers[-1].index}"
    if pattern.startswith("op:"):
        names, text, kind = sorted({layer.op for layer in layers}), pattern[3:], "op:"
        close = difflib.get_close_matches(text, names, n=3) or names[:5]
    else:
        names, text, kind = [layer.name for layer in layers], pattern.removeprefix("re:").strip("*"), ""
        close = (
            difflib.get_close_matches(text, names, n=3, cutoff=0.4) or [n for n in names if text in n][:3] or names[-3:]
        )
    return "did you mean " + ", ".join(f"'{kind}{printable(name)}'" for name in close) + "?"
