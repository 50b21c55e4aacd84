"""SID of one layer as an optimization problem: what its solver, its certificate and other ascents have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .control import Control
from .couplings import Couplings
from .linearization import Linearization
from .measured import Measured, measure, measure_coupled
from .noise import Tie, clip_sigma
from .probe import LayerProbe
from .shrinkage import wiener

#: A feature with at most this many entries and more than this many noise scales per entry tells little about a single
#: scale; unproven samples are solved again by moments of the whole Jacobian.
FEW_OUTPUTS, MANY_SCALES = 4, 1000
#: Noise samples per pass of the ascent: usually, with couplings (each is then as informative as up to five), and with a
#: linear model (which removes most of the noise where it is used at all).
PASS_NOISES, COUPLED_NOISES, CONTROLLED_NOISES = 16, 8, 32
#: Blocks with fewer units than this, over all samples, get up to eight times as many noise samples: they are cheap
#: there, and errors average out less over few units.
MANY_UNITS = 8192
#: Samples with so many units get by with half of the noise per pass, and of the probes: their maps are smooth over more
#: units, so that the filter removes more of the noise.
PLENTY_OF_UNITS = 2**16


@dataclass(frozen=True)
class Problem:
    """SID of one layer as an optimization problem; ``scales`` are uncapped, per group, (S, groups).

    Attributes
    ----------
    feature
        The layer's feature on S samples.
    start
        The layer's linearization at these samples.
    target
        ``alpha D``, (S,); 1 at samples without a budget.
    tie, cap
        Groups of units that share sigma, and ``sigma_max`` in standardized units.
    shape
        Shape of one sample, for the denoising of maps.
    counted
        Counted units, (S, n) bool. The others get no noise, and their entropy is NaN.
    without_budget
        Samples at which small noise does not change the feature, (S,) bool.
    target_stderr
        Relative standard error of the target, (S,).
    passes
        Factor on the noise samples, and number of times that the last round may be repeated.
    begun
        Noise scales of an earlier solution, (S, n), that the search starts from; infinite at the cap, NaN if unknown.
    couplings
        Removes some noise from gradients where there is no other control variate; None: nothing does.
    """

    feature: LayerProbe
    start: Linearization
    target: Tensor
    tie: Tie
    cap: float
    shape: tuple[int, ...]
    counted: Tensor
    without_budget: Tensor
    target_stderr: Tensor
    passes: int = 1
    begun: Tensor | None = None
    couplings: Couplings | None = None

    @classmethod
    def of(
        cls,
        feature: LayerProbe,
        start: Linearization,
        target: Tensor,
        tie: Tie,
        cap: float,
        shape: Sequence[int],
        units: Tensor | None = None,
        target_stderr: Tensor | None = None,
    ) -> Problem:
        """State the problem.

        ``target`` is the unmodified ``alpha D``, ``units`` the counted units or None for all, and ``target_stderr`` the
        relative error of the target, None for that of each sample's own D.
        """
        if target_stderr is None:
            target_stderr = start.normalizer_stderr / start.normalizer.clamp(min=torch.finfo(target.dtype).tiny)
        counted = torch.ones_like(start.column_norms, dtype=torch.bool) if units is None else units
        none = ~(target > 0)
        target = torch.where(none, 1.0, target)
        return cls(feature, start, target, tie.counting(counted), cap, tuple(shape), counted, none, target_stderr)

    def at(self, index: Tensor) -> Problem:
        """The problem for a subset of the samples."""
        start, target, counted = self.start.at(index), self.target[index], self.counted[index]
        feature, tie, none = self.feature.at(index), self.tie.at(index), self.without_budget[index]
        error, couplings = self.target_stderr[index], None if self.couplings is None else self.couplings.at(index)
        return Problem(
            feature, start, target, tie, self.cap, self.shape, counted, none, error, self.passes, couplings=couplings
        )

    @property
    def effort(self) -> int:
        """Factor on the number of noise samples, also if there are few units."""
        return self.passes * min(8, max(1, MANY_UNITS // (self.tie.units * self.feature.samples)))

    @property
    def thrift(self) -> int:
        """Divisor of the noise of a pass, and of the probes of the Gauss-Newton round: 2 if there are many units."""
        return 2 if self.tie.units >= PLENTY_OF_UNITS else 1

    def draws(self, control: Control | None) -> int:
        """Noise samples of a pass, before :attr:`effort`."""
        if control is not None:
            return CONTROLLED_NOISES
        # Where noise samples are cheap, couplings serve accuracy alone.
        few = self.couplings is not None and self.effort == self.passes
        return COUPLED_NOISES if few else PASS_NOISES // self.thrift

    @property
    def is_thin(self) -> bool:
        """Whether few outputs depend on so many noise scales that a pass tells little about any of them."""
        outputs = self.feature.center.shape[1]
        return outputs <= FEW_OUTPUTS and self.tie.groups > MANY_SCALES * outputs

    def sigma(self, scales: Tensor) -> Tensor:
        """Noise scale of every unit, (S, n); zero at excluded units."""
        return clip_sigma(scales, self.tie, self.cap) * self.counted

    def free(self, scales: Tensor) -> Tensor:
        """Counted units not at the cap, (S, n) bool; units of unknown scale are among them."""
        return ~(self.tie.expand(scales) >= self.cap) & self.counted

    def moved(self, scales: Tensor, change: Tensor) -> Tensor:
        """Noise scales (S, n) after changing the logarithm of all units below the cap by (S, n)."""
        return self.sigma(scales * (self.tie.sum(change) / self.tie.size).exp())

    def uniform(self) -> Tensor:
        """One scale for all groups of a sample, with which a linear layer meets the constraint, (S, groups)."""
        norms = (self.start.column_norms * self.counted).sum(1)
        scale = (self.target / norms).sqrt().clamp(max=self.cap)
        return scale[:, None].expand(-1, self.tie.groups)

    def measured(self, scales: Tensor, control: Control | None) -> Measured:
        """Measure one pass of fresh noise; units that share a scale share their gradient."""
        draws = self.effort * self.draws(control)
        if control is None and self.couplings is not None:
            found = measure_coupled(self.feature, self.sigma(scales), draws, self.couplings)
        else:
            found = measure(self.feature, self.sigma(scales), draws, control)
        if self.tie.groups == self.tie.units:
            return found
        parts = torch.stack([self.tie.expand(self.tie.sum(part) / self.tie.size) for part in found.parts])
        return Measured(parts, found.deviations)

    def denoised(self, first: Tensor, second: Tensor) -> Tensor:
        """Denoised mean of two independent maps (S, n), per group, (S, groups)."""
        return (self.tie.sum(wiener(first, second, self.shape)) / self.tie.size).clamp(-2.0, 2.0)
