"""Progress and result of an analysis."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .. import markup
from ..archive.cards import run_card
from ..archive.reading import open as open_archive
from ..errors import OnnxinfoError


@dataclass(frozen=True)
class Progress:
    """Progress of an analysis: stage, finished and total steps, last layer and its mean value, remaining time.

    Attributes
    ----------
    stage
        ``normalizer`` (samples), a metric's name (cells) or another task.
    done, total
        Finished and total steps.
    layer, value
        Last layer, and the metric's mean over the samples just computed; empty and NaN at first.
    remaining
        Estimated time in seconds until all steps are finished; NaN if nothing is known. It is rough until the first
        step is finished.
    provisional
        Whether the layer is only begun: the value is then that of the linearized layer, a first estimate.
    memory_bytes, disk_bytes
        Rough peak of the memory of each process, and size that the open cells add to the archive. Only the first report
        about cells states them; they are 0 in all others, and the memory is 0 if it is unknown (Windows).

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
    remaining: float = math.nan
    provisional: bool = False
    memory_bytes: int = 0
    disk_bytes: int = 0


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Result:
    """Location of an analysis's results. No file is kept open; read the archive with :func:`onnxinfo.open`.

    Attributes
    ----------
    archive
        The HDF5 file.
    run
        Name of the run in the archive.
    unchanged
        Whether the run had all cells already, so that nothing was computed or written.

    Examples
    --------
    >>> result = onnxinfo.Result(Path("result.h5"), "digits-cnn")
    >>> with onnxinfo.open(result.archive) as archive:
    ...     archive[result.run].status
    'complete'
    """

    archive: Path
    run: str
    unchanged: bool = field(default=False, repr=False, compare=False)

    def __fspath__(self) -> str:
        """Return the archive's path, so that a result can be given where an archive is expected."""
        return os.fspath(self.archive)

    def _repr_html_(self) -> str:
        try:
            with open_archive(self.archive) as archive:
                return run_card(archive[self.run])
        except (OnnxinfoError, OSError):
            rows = [("archive", self.archive), ("state", "cannot be read")]
            return markup.card("Run", self.run, markup.facts(rows))
