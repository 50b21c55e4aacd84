"""Tensors that lose the same channels, so that weights that several nodes share stay shared."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence, Set

from ..errors import UsageError
from ..graph.channel_removal import Removal
from ..graph.model import Model
from ..text import listed, quoted

logger = logging.getLogger(__name__)


def without_copies(
    model: Model, axes: Mapping[str, int], named: Collection[str], bundles: Mapping[str, int]
) -> tuple[dict[str, int], list[list[str]]]:
    """Return the tensors that can lose channels without copies of shared weights, and which of them lose the same.

    If nodes share a weight, and one loses channels of it that another keeps, each needs a copy of its own, and the
    model may become larger.

    Parameters
    ----------
    model
        A loaded model.
    axes
        Axis of the channels by tensor; each tensor can lose them.
    named
        Those of them that must be able to.
    bundles
        Numbers of neighboring channels that can only go together, by tensor.

    Raises
    ------
    UsageError
        None is left, or one that is named is not.
    """
    groups = [*_groups(model, axes, bundles)]
    left = {name: copied for names, copied in groups for name in names if copied}
    refused = [name for name in left if name in named or len(left) == len(axes)]
    if refused:
        name, copied = refused[0], left[refused[0]]
        raise UsageError(
            f"without channels of {quoted(name)}, nodes that share weight {quoted(copied)} would need copies of it; "
            "choose all tensors that these nodes compute or read, or leave it out"
        )
    if left:
        logger.warning("left out, because nodes would need copies of the weights that they share: %s", listed([*left]))
    return (
        {name: axis for name, axis in axes.items() if name not in left},
        [names for names, copied in groups if len(names) > 1 and not copied],
    )


def _groups(model: Model, axes: Mapping[str, int], bundles: Mapping[str, int]) -> Iterator[tuple[list[str], str]]:
    """Groups of tensors that lose the same channels, and a weight that would be copied nevertheless; empty: none."""
    alone = {name: _removal(model, {name: axis}, range(bundles[name])) for name, axis in axes.items()}
    sharing = {name: alone[name].cut for name in axes if alone[name].copied}
    yield from (([name], "") for name in axes if name not in sharing)
    for names in _connected(sharing):
        yield names, _copied(model, {name: axes[name] for name in names}, {bundles[name] for name in names})


def _connected(sharing: Mapping[str, set[tuple[object, int]]]) -> list[list[str]]:
    """Groups of tensors that are connected by axes of weights."""
    groups: list[tuple[list[str], set[tuple[object, int]]]] = []
    for name, cut in sharing.items():
        near = [group for group in groups if group[1] & cut]
        groups = [group for group in groups if not group[1] & cut]
        groups.append(([*(each for names, _ in near for each in names), name], cut.union(*(each for _, each in near))))
    return [names for names, _ in groups]


def _copied(model: Model, axes: Mapping[str, int], bundles: Set[int]) -> str:
    """Return the name of a weight that would be copied although tensors lose the same channels; empty: none."""
    sizes = {(model.flow.shape(name) or ())[axis] for name, axis in axes.items()}
    size, bundle = sizes.pop(), max(bundles)
    if not sizes and len(bundles) == 1 and isinstance(size, int):
        # Each channel, or bundle of channels, has its own pattern of being in these sets: if all agree, they correspond
        # one by one.
        for bit in range(max(1, (size // bundle - 1).bit_length())):
            channels = [channel for channel in range(size) if channel // bundle >> bit & 1]
            try:
                copied = _removal(model, axes, channels).copied
            except UsageError:
                break
            if copied:
                return copied[0]
        else:
            return ""
    name, axis = next(iter(axes.items()))
    return _removal(model, {name: axis}, range(bundle)).copied[0]


def _removal(model: Model, axes: Mapping[str, int], channels: Sequence[int]) -> Removal:
    return Removal(model, {name: {axis: [*channels]} for name, axis in axes.items()})
