"""What an analysis reports while it works, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


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
