"""Numbers of one metric in one run, for plots, tables and comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.format import LayerRow, Metric
from ..archive.means import unproven


@dataclass(frozen=True)
class RunValues:
    """Numbers of one metric in one run.

    Attributes
    ----------
    name, model
        Names of the run and its model.
    layers
        The layers, sorted by depth, then position.
    metric
        The metric.
    values
        ``value``, ``stderr``, ``converged``, ``done`` and the metric's fields, each of shape (layer, sample).
    recipe, provenance
        Those of the run.
    deepest
        Depth of the deepest layer of the run, whether it was chosen or not.
    """

    name: str
    model: str
    layers: tuple[LayerRow, ...]
    metric: Metric
    values: dict[str, npt.NDArray[Any]]
    recipe: dict[str, Any]
    provenance: dict[str, Any]
    deepest: int = 0

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Cells that are finished and have a value, (layer, sample)."""
        present: npt.NDArray[np.bool_] = self.values["done"] & np.isfinite(self.values["value"])
        return present

    @property
    def unproven(self) -> npt.NDArray[np.bool_]:
        """Cells whose value is unproven, (layer, sample)."""
        return unproven(self.values)

    @property
    def failed(self) -> npt.NDArray[np.bool_]:
        """Cells that are finished, and unproven or without a value, (layer, sample)."""
        failed: npt.NDArray[np.bool_] = self.values["done"] & ~(self.present & self.values["converged"])
        return failed

    @property
    def reliable(self) -> npt.NDArray[np.bool_]:
        """Layers of whose cells fewer than half are unproven or without a value, (layer,); see docs/unproven.md."""
        reliable: npt.NDArray[np.bool_] = 2 * self.failed.sum(axis=1) < self.values["done"].sum(axis=1)
        return reliable
