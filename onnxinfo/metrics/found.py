"""Certified results: of one certificate, and the best of each sample so far."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from .certificate import Certificate

#: Of two unproven results: how much a lower bound is worth, in nats of the value per nat of the bound; and the bound
#: that an unknown one counts as.
GAP_WORTH, UNKNOWN_GAP = 0.1, 5.0


@dataclass(frozen=True)
class Certified:
    """Scales (S, groups) at the met constraint, the error of their logarithm (S,), and the shortfall (S,).

    The scales of another round are those after the change of their logarithm, (S, groups). The entropy, (S,), is the
    mean of ``log sigma`` over the counted units. Samples are torn, (S,) bool, if they are known to have several optima.
    """

    scales: Tensor
    certificate: Certificate
    error: Tensor
    shortfall: Tensor
    change: Tensor
    entropy: Tensor
    torn: Tensor


@dataclass
class Found:
    """Best certified result per sample, and the work spent on each, (S,)."""

    scales: Tensor
    certificate: Certificate
    error: Tensor
    entropy: Tensor
    probes: Tensor
    iterations: Tensor
    torn: Tensor

    @classmethod
    def nothing(cls, scales: Tensor) -> Found:
        """Unknown results for scales of this shape, before any certificate."""
        unknown, none = scales.new_full(scales.shape[:1], torch.nan), torch.zeros(len(scales), dtype=torch.long)
        no = torch.zeros_like(unknown, dtype=torch.bool)
        certificate = Certificate(unknown, unknown, unknown, unknown, unknown, unknown, saturated=no, met=no)
        return cls(scales, certificate, unknown, unknown, none, none, no)

    @classmethod
    def of(cls, certified: Certified, steps: int) -> Found:
        """Certified results of all samples at once; the probes are read from the feature."""
        none = torch.zeros(len(certified.scales), dtype=torch.long)
        known = certified.scales, certified.certificate, certified.error, certified.entropy
        return cls(*known, none, none + steps, certified.torn)

    def tear(self, index: Tensor, torn: Tensor) -> None:
        """Note which samples of the index are known to have several optima, (count,) bool: their gaps are unknown."""
        # Later certificates know of it, and may yet have a bound: near the cap.
        found = torch.zeros_like(self.torn).index_copy(0, index, torn & ~self.torn[index])
        self.torn = self.torn | found
        gap = torch.where(found & ~self.certificate.saturated, torch.nan, self.certificate.gap)
        self.certificate = dataclasses.replace(self.certificate, gap=gap)

    def put(self, index: Tensor, certified: Certified, probes: int, steps: int) -> None:
        """Keep proven results, and of these the higher one, else what is higher or better known; add the work."""
        self.tear(index, certified.torn)
        before, now = self.certificate.at(index), certified.certificate
        gained = certified.entropy - self.entropy[index]
        known = (before.gap.nan_to_num(UNKNOWN_GAP) - now.gap.nan_to_num(UNKNOWN_GAP)) * GAP_WORTH
        better = torch.where(before.converged & now.converged, gained >= 0, gained + known >= 0)
        better = torch.where(before.converged ^ now.converged, now.converged, better)
        better = torch.where(before.met & now.met, better, ~before.met)
        self.take(index, certified, better, probes, steps)

    def take(self, index: Tensor, certified: Certified, better: Tensor, probes: int, steps: int) -> None:
        """Keep those results that are better, a mask over the index, and add the work."""
        now, taken = certified.certificate, index[better]
        self.scales = self.scales.index_copy(0, taken, certified.scales[better])
        self.error = self.error.index_copy(0, taken, certified.error[better])
        self.entropy = self.entropy.index_copy(0, taken, certified.entropy[better])
        self.certificate = self.certificate.replaced(taken, now.at(better))
        self.probes, self.iterations = self.probes.clone(), self.iterations.clone()
        self.probes[index.cpu()] += probes
        self.iterations[index.cpu()] += steps
