"""Specifications of the channels to remove, ``{tensor: {axis: [indices]}}``, from mappings and untrusted JSON files."""

from __future__ import annotations

import json
import operator
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, UsageError
from ..text import no_such, printable, quoted
from .dataflow import Dataflow

#: Maximum size of a specification's file in bytes.
MAX_SPEC_BYTES = 1 << 26
#: Indices of the channels to remove by tensor and axis, sorted and checked.
Channels = dict[str, dict[int, list[int]]]
#: A specification as it is given.
Spec = Mapping[str, Mapping[Any, Sequence[int]]] | str | os.PathLike[str]


def channels_of(spec: Spec, flow: Dataflow) -> Channels:
    """Read and check a specification.

    Parameters
    ----------
    spec
        A mapping, or the path of a JSON file with one. Axes are integers, as numbers or as text, from the end if they
        are negative.
    flow
        The graph that it is for.

    Raises
    ------
    InputError
        The file cannot be read or is not such JSON.
    UsageError
        A tensor, axis or index does not exist or is given twice, or no channel would be removed or left.
    """
    given = read_spec(Path(spec)) if isinstance(spec, str | os.PathLike) else spec
    if not isinstance(given, Mapping):
        raise UsageError(f"channels are {_shown(given)}, expected a mapping {{tensor: {{axis: [indices]}}}}")
    found = {name: _axes(name, axes, flow) for name, axes in given.items()}
    found = {name: axes for name, axes in found.items() if axes}
    if not found:
        raise UsageError("the channels to remove are none; name some as {tensor: {axis: [indices]}}")
    return found


def _axes(name: Any, axes: Any, flow: Dataflow) -> dict[int, list[int]]:
    if not isinstance(name, str):
        raise UsageError(f"channels are of {_shown(name)}, expected the name of a tensor")
    known = [*flow.producer, *flow.inputs]
    if name not in flow.producer and name not in flow.inputs:
        raise UsageError(no_such("tensor", name, known, "the graph"))
    if name not in flow.driven:
        raise UsageError(f"{quoted(name)} is a constant; name a tensor that depends on an input")
    if not isinstance(axes, Mapping):
        raise UsageError(f"channels of {quoted(name)} are {_shown(axes)}, expected a mapping {{axis: [indices]}}")
    shape = flow.shape(name)
    if shape is None or not flow.is_float(name):
        raise UsageError(f"{quoted(name)} is not a float tensor of known rank; name another tensor")
    found: dict[int, list[int]] = {}
    for given, indices in axes.items():
        axis = _axis(name, given, len(shape))
        if axis in found:
            raise UsageError(f"axis {axis} of {quoted(name)} is given twice; give it once")
        found[axis] = _indices(name, axis, shape[axis], indices)
    return {axis: indices for axis, indices in found.items() if indices}


def _axis(name: str, given: Any, rank: int) -> int:
    try:
        axis = int(given) if isinstance(given, str) else operator.index(given)
    except (TypeError, ValueError):
        axis = rank
    if isinstance(given, bool) or not -rank <= axis < rank:
        raise UsageError(f"axis {_shown(given)} of {quoted(name)}: an integer from {-rank} to {rank - 1} expected")
    return axis % rank


def _indices(name: str, axis: int, size: int | str | None, given: Any) -> list[int]:
    where = f"axis {axis} of {quoted(name)}"
    if not isinstance(size, int):
        raise UsageError(f"{where} has no fixed size, and cannot lose channels; name another axis")
    try:
        indices = [] if isinstance(given, str | bytes | Mapping) else [_integer(each) for each in given]
    except TypeError:
        raise UsageError(f"{where}: {_shown(given)} are not usable; give a list of indices") from None
    if isinstance(given, str | bytes | Mapping):
        raise UsageError(f"{where}: {_shown(given)} is not usable; give a list of indices")
    outside = next((each for each in indices if not 0 <= each < size), None)
    if outside is not None:
        raise UsageError(f"{where} has no channel {_shown(outside)}; give indices from 0 to {size - 1}")
    if len(set(indices)) < len(indices):
        twice = Counter(indices).most_common(1)[0][0]
        raise UsageError(f"{where}: channel {twice} is given twice; give it once")
    if len(indices) == size:
        raise UsageError(f"{where}: all {size} channels would be removed; leave some")
    return sorted(indices)


def _integer(given: Any) -> int:
    if isinstance(given, bool):
        raise TypeError
    return operator.index(given)


def _shown(given: Any) -> str:
    shown = printable(repr(given) if len(str(given)) < 60 else str(given))
    return shown if len(shown) < 60 else f"{shown[:57]}..."


def read_spec(path: Path) -> Any:
    """Read a JSON file, whose content is not checked.

    Raises
    ------
    InputError
        The file cannot be read, is too large or is not JSON, or names something twice.
    """
    title = f"channels {quoted(path)}"
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(f"{title} are not a regular file, expected JSON")
            data = file.read(MAX_SPEC_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{title} cannot be read: {reason}; give a JSON file, or a mapping") from None
    if len(data) > MAX_SPEC_BYTES:
        raise InputError(f"{title} have more than {MAX_SPEC_BYTES >> 20} MiB; give a smaller file")
    try:
        return json.loads(data, object_pairs_hook=_without_repetitions)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{title} are not JSON of the form {{tensor: {{axis: [indices]}}}}: {_line(error)}") from None


def _without_repetitions(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"{quoted(twice)} occurs twice")
    return found


def _line(error: Exception) -> str:
    return printable(" ".join(str(error).split()))[:200]
