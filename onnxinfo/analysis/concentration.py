"""Concentration: whether a layer discards the background rather than the object."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..archive.format import Field, Metric
from ..errors import UsageError
from ..inputs.parts import InputPart, places
from ..metrics.contrast import sum_stderr
from ..metrics.joint import joined_samples
from ..metrics.noise import ENTROPY
from .blocks import Cells, Measure, SampleBatch
from .job import Job

#: Relative distance from the cap below which a unit counts as being there: its scale is read from its entropy.
AT_CAP = 1e-4


class Concentration(Measure):
    """Mean pixel-level SID over the background minus its mean over the foreground, all channels weighted equally.

    If noise is added to several inputs, it is that of the only image among them.
    A sample without foreground or without background has no value and is not converged.
    """

    metric: ClassVar[Metric] = Metric(
        "concentration",
        "mean SID of the background minus that of the foreground",
        fields=(Field("foreground", "<f8", "1", "share of the input units in the foreground"),),
        has_map=False,
    )
    needs: ClassVar[tuple[str, ...]] = ("sid",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if self.job.foreground is None:
            raise UsageError("concentration needs to know where the objects are; give foreground=...")
        joined = joined_samples(job.provider)
        self._image = job.provider.input_tensor if joined is None else joined.images[0]

    def cells(self, batch: SampleBatch) -> Cells:
        """Average the maps of SID over foreground and background."""
        sid = batch.cells("sid")
        assert sid.map is not None
        entropy = sid.map.flatten(1)
        counted = torch.ones_like(entropy, dtype=torch.bool) if batch.units is None else batch.units
        weights, share = self._weights(batch, counted)
        known = weights.any(1)
        # Excluded units have no entropy.
        difference = (torch.where(counted, entropy, 0.0).double() * weights).sum(1)
        value = torch.where(known, difference, torch.nan)
        error = self._stderr(batch, torch.where(counted, entropy, -torch.inf), weights, sid.values["probes"])
        values = {
            "value": value,
            "stderr": torch.where(value.isnan(), value, error.to(value)),
            "converged": sid.values["converged"].bool() & known,
            "foreground": share,
        }
        return Cells(values)

    def _stderr(self, batch: SampleBatch, entropy: Tensor, weights: Tensor, products: Tensor) -> Tensor:
        """Error of the difference, (S,); the scale that the constraint fixes is common to all units and cancels."""
        sigma = (entropy - ENTROPY).exp().nan_to_num(0.0)
        free = (sigma > 0) & (sigma < batch.settings.sigma_max * (1 - AT_CAP))
        tie = self.job.tie.counting(entropy > -torch.inf)
        feature = batch.feature()
        feature.noise = self.job.stream("concentration", batch.indices[0])
        return sum_stderr(feature, sigma, free, tie, weights.to(sigma), products.to(sigma.device))

    def _weights(self, batch: SampleBatch, counted: Tensor) -> tuple[Tensor, Tensor]:
        """Weights whose sum over the map is the difference, and the foreground's share of the counted units, (S,).

        Samples without foreground or without background have weights of zero.
        """
        parts = self.job.provider.described_parts()
        place, image = next(
            (at, part) for at, part in zip(places(parts), parts, strict=True) if part.name == self._image
        )
        foreground = self._inside(batch, image).expand(-1, *image.shape).flatten(1)
        inside, outside = foreground & counted[:, place], ~foreground & counted[:, place]
        count, rest = inside.sum(1, keepdim=True), outside.sum(1, keepdim=True)
        difference = outside.double() / rest - inside.double() / count
        weights = torch.zeros_like(counted, dtype=torch.float64)
        weights[:, place] = torch.where((count > 0) & (rest > 0), difference, 0.0)
        return weights, (count.double() / (count + rest))[:, 0]

    def _inside(self, batch: SampleBatch, image: InputPart) -> Tensor:
        """Foreground of the batch's samples, with a channel axis of size one if the samples have channels."""
        assert self.job.foreground is not None
        masks = torch.from_numpy(self.job.foreground[batch.indices]).bool().to(self.job.device)
        return masks.unsqueeze(1 + image.axes.index("channel"))
