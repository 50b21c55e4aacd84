"""Cells of a run with another budget, from whose maps the search for the new ones begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..analysis.job import Job
from ..archive.format import RunSchema, plain_text
from ..archive.growth import BEGINNING_ANEW, can_start_from_maps, is_part_of
from ..archive.reading import Run
from ..metrics.noise import ENTROPY

logger = logging.getLogger(__name__)

#: The metric whose maps are noise scales.
METRIC = "sid"
#: Relative distance from the cap below which a stored noise scale counts as capped: maps are rounded.
AT_CAP = 1e-3


@dataclass(frozen=True)
class Former:
    """A run with other budgets: one that a larger one replaces, or one with another alpha.

    Attributes
    ----------
    run
        The former run.
    layers, samples
        Its positions of layers and samples, by those in the larger run.
    scale
        Its unit of sigma in that of the larger run, broadcastable to a sample.
    normalizers
        Its normalizers by layer.
    done
        Its finished cells, (layer, sample).
    strength
        The alpha of the run that is computed, over its own.
    """

    run: Run
    layers: dict[int, int]
    samples: dict[int, int]
    scale: npt.NDArray[np.float64]
    normalizers: npt.NDArray[np.float64]
    done: npt.NDArray[np.bool_]
    strength: float = 1.0

    @classmethod
    def of(cls, run: Run | None, schema: RunSchema, job: Job) -> Former | None:
        """Return the former run, unless its maps do not help the larger one."""
        if run is None or not can_start_from_maps(schema.recipe):
            return None
        samples = is_part_of(run, schema)
        if samples is None or METRIC not in [metric.name for metric in run.metrics]:
            return None
        names = {row.name: position for position, row in enumerate(run.layers)}
        found = {at: names[name] for at, layer in enumerate(job.layers) if (name := plain_text(layer.name)) in names}
        shape = job.shape
        scale = np.broadcast_to(run.unit, shape) / np.broadcast_to(job.unit.cpu().numpy(), shape)
        places = {now: before for before, now in enumerate(samples)}
        return cls(run, found, places, scale, run.normalizer(METRIC), run.finished(METRIC))

    @classmethod
    def at_other_alpha(cls, run: Run, schema: RunSchema, job: Job) -> Former | None:
        """Return a run of the same layers and samples with another alpha, unless its maps do not help."""
        if METRIC not in [metric.name for metric in run.metrics] or schema.recipe.get("solver") in BEGINNING_ANEW:
            return None
        before, now = run.recipe.get("alpha"), schema.recipe.get("alpha")
        if not (isinstance(before, float) and isinstance(now, float) and before > 0):
            return None
        names = {row.name: position for position, row in enumerate(run.layers)}
        layers = {at: names[name] for at, layer in enumerate(job.layers) if (name := plain_text(layer.name)) in names}
        samples = {at: at for at in range(len(job.provider))}
        scale = np.ones(job.shape)
        return cls(run, layers, samples, scale, run.normalizer(METRIC), run.finished(METRIC), now / before)

    def places(self, layer: int, normalizer: float | None, block: Sequence[int]) -> list[int]:
        """Return the places in a block of samples whose cells existed, with another budget."""
        if layer not in self.layers or self._growth(layer, normalizer) in (1.0, None):
            return []
        before, samples = self.layers[layer], [self.samples.get(sample) for sample in block]
        return [place for place, at in enumerate(samples) if at is not None and self.done[before, at]]

    def _growth(self, layer: int, normalizer: float | None) -> float | None:
        """Return a layer's budget over its former one; None if it is unknown."""
        before = self.normalizers[self.layers[layer]]
        if normalizer is None:
            # Each sample's own D, which stays.
            return self.strength
        return float(self.strength * normalizer / before) if before > 0 and normalizer > 0 else None

    def scales(self, layer: int, normalizer: float | None, samples: Sequence[int], cap: float) -> Tensor:
        """Return noise scales to begin at, (S, n): scaled like the budget, infinite at the cap, NaN where unknown."""
        before, growth = self.layers[layer], self._growth(layer, normalizer)
        assert growth is not None
        maps = self.run.maps(METRIC, before, [self.samples[sample] for sample in samples])
        sigma = np.exp(maps.astype(np.float64) - ENTROPY)
        grown = sigma * self.scale * np.sqrt(growth)
        found = np.where(sigma >= cap * (1 - AT_CAP), np.inf, grown).reshape(len(samples), -1)
        return torch.from_numpy(found.astype(np.float32))
