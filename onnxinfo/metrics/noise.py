"""The optimization variables: noise scales, their sharing, cap and allocation; and the random streams."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from ..inputs.parts import InputPart

#: Entropy of a unit Gaussian in nats: ``H_i = log(sigma_i) + ENTROPY`` (the paper's constant C in Eq. 2).
ENTROPY = 0.5 * math.log(2 * math.pi * math.e)


@dataclass(frozen=True)
class Tie:
    """Assignment of input units to groups that share one noise scale.

    Parameters
    ----------
    group
        Group of each input unit, shape (n,), values 0..groups-1.
    size
        Number of counted units in each group, (groups,), or (S, groups) if it differs between samples.
    """

    group: Tensor
    size: Tensor

    @property
    def groups(self) -> int:
        """Number of groups."""
        return self.size.shape[-1]

    @property
    def units(self) -> int:
        """Number of input units n."""
        return len(self.group)

    def expand(self, values: Tensor) -> Tensor:
        """Expand one value per group (S, groups) to one per unit (S, n)."""
        return values if self.groups == self.units else values[:, self.group]

    def sum(self, values: Tensor) -> Tensor:
        """Sum values (S, n) over the units of each group, (S, groups)."""
        if self.groups == self.units:
            return values
        return values.new_zeros(len(values), self.groups).index_add_(1, self.group, values)

    def counting(self, units: Tensor) -> Tie:
        """Restrict the tie to some units, (S, n) bool; a group without any such unit has size one."""
        return Tie(self.group, self.sum(units.to(self.size)).clamp(min=1))

    def at(self, index: Tensor) -> Tie:
        """Tie of a subset of the samples."""
        return Tie(self.group, self.size if self.size.ndim == 1 else self.size[index])

    def to(self, device: torch.device) -> Tie:
        """Copy of the tie on another device."""
        return Tie(self.group.to(device), self.size.to(device))


def make_tie(kind: str, shape: Sequence[int], axes: Sequence[str]) -> Tie:
    """Group the units of one sample.

    Parameters
    ----------
    kind
        ``unit`` (no sharing), ``pixel`` (one group per position, over all channels) or ``grid:N`` (an N-cell grid over
        the positions, all channels together; the paper's released code uses 16 on 224 pixels).
    shape, axes
        The sample's shape and the names of its axes; ``channel`` and ``embedding`` are the ones tied by ``pixel``.

    Raises
    ------
    UsageError
        Unknown kind, or a grid finer than the input.
    """
    index = torch.arange(math.prod(shape)).reshape(tuple(shape))
    if kind == "unit":
        return _tie(index)
    spatial = [i for i, axis in enumerate(axes) if axis not in ("channel", "embedding")]
    cells = {i: shape[i] for i in spatial}
    if kind.startswith("grid:") and kind[5:].isdecimal() and int(kind[5:]) > 0:
        wanted = int(kind[5:])
        if any(wanted > shape[i] for i in spatial):
            positions = "x".join(str(shape[i]) for i in spatial)
            raise UsageError(f"tie '{kind}': the input has only {positions} positions; use a coarser grid")
        cells = dict.fromkeys(spatial, wanted)
    elif kind != "pixel":
        raise UsageError(f"tie '{kind}' is unknown: use unit, pixel or grid:N (N cells along each axis)")
    group = torch.zeros_like(index)
    for i in spatial:
        position = torch.arange(shape[i]) * cells[i] // shape[i]
        group = group * cells[i] + position.reshape([-1 if j == i else 1 for j in range(len(shape))])
    return _tie(group)


def make_joint_tie(kind: str, parts: Sequence[InputPart]) -> Tie:
    """Group the units of several inputs that lie side by side, each as if it were the only one.

    Units of an input without positions, such as a row of a table, share no noise scale.

    Parameters
    ----------
    kind
        See :func:`make_tie`.
    parts
        The inputs.
    """
    groups: list[Tensor] = []
    count = 0
    for part in parts:
        own = make_tie(kind if len(parts) == 1 or len(part.shape) > 1 else "unit", part.shape, part.axes)
        groups.append(own.group + count)
        count += own.groups
    return _tie(torch.cat(groups))


def _tie(group: Tensor) -> Tie:
    flat = group.flatten()
    return Tie(flat, torch.bincount(flat))


def waterfill(column_norms: Tensor, target: Tensor, tie: Tie, cap: float) -> Tensor:
    """Noise scales that maximize ``sum_i log sigma_i`` for a linear feature, by water-filling.

    ``sigma_g^2 = min(cap^2, nu m_g / C_g)`` with ``C_g`` the sum of the group's squared column norms and ``nu`` such
    that ``sum_g sigma_g^2 C_g = target``; without units at the cap this is the method's closed form
    ``sigma_i^2 = alpha D / (n ||J_i||^2)``.

    Parameters
    ----------
    column_norms
        Squared column norms ``||J_i||^2``, shape (S, n).
    target
        ``alpha D`` per sample, shape (S,).
    tie
        Groups of units.
    cap
        ``sigma_max``.

    Returns
    -------
    Tensor
        *Uncapped* scales per group, shape (S, groups): ``sqrt(nu m_g / C_g)``, infinite where the feature does not
        depend on the group. The noise scale is their minimum with ``cap`` (see :func:`clip_sigma`). All scales are
        infinite if the deviation stays below the target even with all units at the cap.
    """
    cost = tie.sum(column_norms).double()
    size = tie.size.to(cost).expand_as(cost)
    full = cap**2 * cost
    at_cap = torch.zeros_like(cost, dtype=torch.bool)
    while True:
        rest = target.double()[:, None] - torch.where(at_cap, full, 0.0).sum(1, keepdim=True)
        share = torch.where(at_cap, 0.0, size).sum(1, keepdim=True)
        level = torch.where(share > 0, rest / share, math.inf)
        now = at_cap | (level * size >= full)
        if bool((now == at_cap).all()):
            return (level * size / cost.clamp(min=torch.finfo(torch.float64).tiny)).sqrt().to(column_norms.dtype)
        at_cap = now


def clip_sigma(scales: Tensor, tie: Tie, cap: float) -> Tensor:
    """Noise scale of every unit, (S, n), from uncapped scales per group, (S, groups)."""
    return tie.expand(scales.clamp(max=cap))


def generator(device: torch.device, *key: object) -> torch.Generator:
    """Random stream that depends only on the key, not on earlier draws."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
