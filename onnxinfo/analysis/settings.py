"""What a user asks an analysis for, and what it tells while it works."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import UsageError


@dataclass(frozen=True)
class Settings:
    """What determines the numbers, besides model and samples; see :func:`onnxinfo.analyze`."""

    alpha: float = 1.5e-4
    normalizer: str = "dataset"
    tie: str = "unit"
    cap: float = 1.0
    solver: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UsageError(f"alpha {self.alpha} is not usable: give a positive number, such as 1.5e-4")
        if self.normalizer not in ("dataset", "image"):
            raise UsageError(f"normalizer '{self.normalizer}' is unknown: use dataset or image")
        if not (math.isfinite(self.cap) and self.cap > 0):
            raise UsageError(f"cap {self.cap} is not usable: give a positive number of standard deviations, such as 1")
        if self.solver not in ("auto", "reference"):
            raise UsageError(f"solver '{self.solver}' is unknown: use auto or reference")


@dataclass(frozen=True)
class Progress:
    """How far an analysis is: stage, steps done of all, the layer just finished and its mean value.

    Attributes
    ----------
    stage
        ``normalizer`` (samples), a metric's name (cells) or what else is being done.
    done, total
        Steps.
    layer, value
        The last layer and the metric's mean over the samples just computed; empty and NaN before.
    """

    stage: str
    done: int
    total: int
    layer: str = ""
    value: float = math.nan


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Result:
    """Where an analysis went. It keeps no file open: read it with :func:`onnxinfo.open`.

    Attributes
    ----------
    archive
        The HDF5 file.
    run
        Name of the run in it.
    """

    archive: Path
    run: str
