"""Batch axis of each graph input, inferred from the names and sizes of its axes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..text import no_such, quoted
from .dataflow import Shape
from .model import Model

#: Value for inputs without a batch axis: each sample is a separate feed.
SEPARATE = -1

_BEFORE = r"(.*[_/. ])?"
_BATCH = re.compile(rf"n|b|bs|bsz|{_BEFORE}(batch|batches|batch[_ ]?size|n[_ ]?batch|num[_ ]?samples|examples)", re.I)
_OF_LENGTH = r"(seq|sequence|max|text|audio|src|tgt|source|target)?[_ ]?(len|length)"
_STEPS = rf"times?|(time[_ ]?)?steps?|seq|sequence|{_OF_LENGTH}|(n[_ ]?)?frames?|tokens?|words?|chars?"
_TIME = re.compile(rf"t|l|s|{_BEFORE}({_STEPS})([_ ]?\d+)?", re.I)


@dataclass(frozen=True)
class BatchAxis:
    """Batch axis of a graph input.

    Attributes
    ----------
    axis
        Index of the axis, from 0; None if the input has no axis that can hold the samples.
    certain
        Whether the axis is given by the user or identified by names and sizes, not merely assumed.
    """

    axis: int | None
    certain: bool


def declared_batch_axes(model: Model, given: Mapping[str, int]) -> dict[str, BatchAxis]:
    """Infer the batch axis of every graph input of known shape that must be fed.

    An axis named ``batch``, ``N`` or similar is the batch axis, and so is an axis of the same name or size in another
    input. Otherwise the first axis is assumed, with ``certain=False``.

    Parameters
    ----------
    model
        A loaded model.
    given
        Batch axes given by the user, by graph input.

    Returns
    -------
    dict
        Batch axis by graph input.

    Raises
    ------
    UsageError
        An input or axis in `given` does not exist, or two such axes differ in size.
    """
    shapes = {name: shape for name in model.flow.inputs if (shape := model.flow.shape(name)) is not None}
    _check(given, shapes, model)
    found = {name: _by_itself(shape, given.get(name)) for name, shape in shapes.items()}
    certain = [name for name, each in found.items() if each.certain]
    possible = [name for name, each in found.items() if each.axis is not None]
    first = next(iter([*certain, *possible]), None)
    if first is None:
        return found
    axis = found[first].axis
    assert axis is not None
    size = shapes[first][axis]
    return {name: _beside(each, shapes[name], size, found[first].certain) for name, each in found.items()}


def is_time(name: object) -> bool:
    """Whether an axis is a time axis according to its name."""
    return isinstance(name, str) and _TIME.fullmatch(name) is not None


def _check(given: Mapping[str, int], shapes: Mapping[str, Shape], model: Model) -> None:
    for name, axis in given.items():
        if name not in shapes:
            raise UsageError(f"batch_axis: {no_such('input', name, list(shapes), 'the model')}")
        if axis >= len(shapes[name]):
            rank = len(shapes[name])
            axes = f"has {rank} axes, 0 to {rank - 1}" if rank else "is a scalar; give its value by set=..."
            raise UsageError(f"batch_axis of {quoted(name)} is {axis}, and the input {axes}")
    sizes = {name: size for name, axis in given.items() if isinstance(size := shapes[name][axis], int)}
    for one, other in zip(sizes, list(sizes)[1:], strict=False):
        if sizes[one] != sizes[other]:
            raise UsageError(
                f"the batch axes contradict each other: axis {given[one]} of {quoted(one)} has size {sizes[one]}, axis "
                f"{given[other]} of {quoted(other)} has size {sizes[other]}; give axes of the same size"
            )


def _by_itself(shape: Shape, given: int | None) -> BatchAxis:
    if given is not None:
        return BatchAxis(given, True)
    named = [axis for axis, size in enumerate(shape) if isinstance(size, str) and _BATCH.fullmatch(size)]
    if named:
        return BatchAxis(named[0], True)
    return BatchAxis(0 if shape else None, False)


def _beside(own: BatchAxis, shape: Shape, size: int | str | None, certain: bool) -> BatchAxis:
    """Batch axis of an input, given the size of another input's batch axis and whether that axis is certain."""
    if own.certain or own.axis is None:
        return own
    same = _matching(shape, size)
    # A fixed size does not reveal whether the open axis of another input is the batch or part of one sample.
    if own.axis in same or not same:
        return BatchAxis(own.axis, certain and isinstance(size, str) and shape[own.axis] == size)
    return BatchAxis(same[0], certain or len(same) == 1)


def _matching(shape: Sequence[int | str | None], size: int | str | None) -> list[int]:
    """Axes whose declared size is compatible with the batch size."""
    if isinstance(size, int):
        return [axis for axis, own in enumerate(shape) if own == size]
    if isinstance(size, str) and size in shape:
        return [axis for axis, own in enumerate(shape) if own == size]
    return [axis for axis, own in enumerate(shape) if not isinstance(own, int)]
