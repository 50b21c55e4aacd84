"""What an analysis reports while it works, and what it returns."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Progress:
    """Progress of an analysis: stage, steps done and in total, the last finished layer and its mean value.

    Attributes
    ----------
    stage
        ``normalizer`` (samples), a metric's name (cells) or another task.
    done, total
        Steps.
    layer, value
        The last layer and the metric's mean over the samples just computed; empty and NaN before.

    Examples
    --------
    >>> def show(progress):
    ...     if progress.stage == "sid" and progress.done:
    ...         print(f"{progress.done} of {progress.total} cells, {progress.layer}")
    >>> run = onnxinfo.analyze("digits-cnn.onnx", "digits.npz:images", "new.h5", layers=["0"], limit=1, progress=show)
    1 of 1 cells, getitem
    """

    stage: str
    done: int
    total: int
    layer: str = ""
    value: float = math.nan


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Result:
    """Location of an analysis's results. It keeps no file open; read the archive with :func:`onnxinfo.open`.

    Attributes
    ----------
    archive
        The HDF5 file.
    run
        Name of the run in it.

    Examples
    --------
    >>> result = onnxinfo.Result(Path("result.h5"), "digits-cnn")
    >>> with onnxinfo.open(result.archive) as archive:
    ...     archive[result.run].status
    'complete'
    """

    archive: Path
    run: str
