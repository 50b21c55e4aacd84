"""Several inputs whose values lie side by side in one array: their places, shapes and names of units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class InputPart:
    """One of several perturbed inputs.

    Attributes
    ----------
    name
        Name of the tensor.
    axes, shape
        Names and sizes of the axes of one sample.

    Examples
    --------
    >>> from onnxinfo.inputs.parts import InputPart
    >>> InputPart("image", ("channel", "y", "x"), (3, 32, 32)).size
    3072
    """

    name: str
    axes: tuple[str, ...]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of units."""
        return math.prod(self.shape)

    def unit_names(self, given: Sequence[str] | None = None) -> Iterator[str]:
        """Return a name for every unit: the input's if it has one unit, else with the unit's own name or position."""
        if given is not None:
            yield from (f"{self.name}: {unit}" for unit in given)
        elif self.size == 1:
            yield self.name
        else:
            for place in itertools.product(*map(range, self.shape)):
                yield f"{self.name}[{','.join(map(str, place))}]"


def places(parts: Sequence[InputPart]) -> list[slice]:
    """Return the place of every input among all units."""
    ends = [0, *itertools.accumulate(part.size for part in parts)]
    return [slice(start, end) for start, end in itertools.pairwise(ends)]


def split_parts(values: npt.NDArray[Any], parts: Sequence[InputPart]) -> dict[str, npt.NDArray[Any]]:
    """Split values, (..., units), into those of every input, (..., *shape)."""
    return {
        part.name: values[..., place].reshape((*values.shape[:-1], *part.shape))
        for place, part in zip(places(parts), parts, strict=True)
    }


def join_parts(values: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Lay the values of every input, each (samples, *shape), side by side: (samples, units)."""
    return np.concatenate([each.reshape(len(each), -1) for each in values], axis=1)
