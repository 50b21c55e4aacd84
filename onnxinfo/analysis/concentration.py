"""Concentration: whether a layer discards the background rather than the object."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..archive.format import Field, Metric
from ..errors import UsageError
from ..inputs.parts import InputPart, places
from ..metrics.joint import joined_samples
from .blocks import Cells, Measure, SampleBatch
from .job import Job


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
        parts = self.job.provider.described_parts()
        place, image = next(
            (at, part) for at, part in zip(places(parts), parts, strict=True) if part.name == self._image
        )
        entropy = sid.map.double().flatten(1)[:, place]
        counted = torch.ones_like(entropy, dtype=torch.bool) if batch.units is None else batch.units[:, place]
        # Excluded units have no entropy.
        entropy = torch.where(counted, entropy, 0.0)
        foreground = self._inside(batch, image).expand(-1, *image.shape).flatten(1)
        inside, outside = foreground & counted, ~foreground & counted
        count, rest = inside.sum(1), outside.sum(1)
        known = (count > 0) & (rest > 0)
        difference = (entropy * outside).sum(1) / rest - (entropy * inside).sum(1) / count
        # The scale that the constraint fixes is common to all units and cancels. What remains is the error of an
        # entropy from K probes, sqrt(1 / 2K), in the two means, as if units were independent. In layers with large
        # receptive fields they are not quite: the spread over seeds is up to twice this.
        error = ((1 / count + 1 / rest) / (2 * sid.values["probes"].to(entropy))).sqrt()
        missing = torch.full_like(difference, torch.nan)
        values = {
            "value": torch.where(known, difference, missing),
            "stderr": torch.where(known, error, missing),
            "converged": sid.values["converged"].bool() & known,
            "foreground": count.double() / (count + rest),
        }
        return Cells(values)

    def _inside(self, batch: SampleBatch, image: InputPart) -> Tensor:
        """Foreground of the batch's samples, with a channel axis of size one if the samples have channels."""
        assert self.job.foreground is not None
        masks = torch.from_numpy(self.job.foreground[batch.indices]).bool().to(self.job.device)
        return masks.unsqueeze(1 + image.axes.index("channel"))
