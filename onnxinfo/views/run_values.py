"""One run's numbers of one metric, as plots, tables and comparisons use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.format import LayerRow, Metric
from ..archive.means import unproven


@dataclass(frozen=True)
class RunValues:
    """One run's numbers of one metric, read.

    Attributes
    ----------
    name, model
        The run and its model.
    layers
        The layers, by depth, then position.
    metric
        What was measured.
    values
        ``value``, ``stderr``, ``converged``, ``done`` and the metric's fields, each of shape (layer, sample).
    recipe, provenance
        The run's.
    """

    name: str
    model: str
    layers: tuple[LayerRow, ...]
    metric: Metric
    values: dict[str, npt.NDArray[Any]]
    recipe: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def present(self) -> npt.NDArray[np.bool_]:
        """Cells that are finished and have a value, (layer, sample)."""
        present: npt.NDArray[np.bool_] = self.values["done"] & np.isfinite(self.values["value"])
        return present

    @property
    def unproven(self) -> npt.NDArray[np.bool_]:
        """Cells that have a value that is not proven, (layer, sample)."""
        return unproven(self.values)
