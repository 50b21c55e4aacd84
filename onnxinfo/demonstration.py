"""The demo: a small trained network, real images, and everything onnxinfo makes of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .analysis.run import analyze
from .analysis.settings import Progress, Result
from .errors import ArchiveError
from .models import path
from .views.plot_curve import plot_curve
from .views.plot_maps import plot_maps

MODEL = "digits-cnn.onnx"
SAMPLES = 50


@dataclass(frozen=True)
class Demo:
    """What the demo made: the analysis, and the plots."""

    result: Result
    plots: tuple[Path, ...]


def demo(folder: str | os.PathLike[str], *, progress: Callable[[Progress], None] | None = None) -> Demo:
    """Analyze the bundled digits network on bundled images.

    Parameters
    ----------
    folder
        Where archive and plots go; it is created.
    progress
        As for :func:`onnxinfo.analyze`.

    Returns
    -------
    Demo
        The analysis and the files.

    Raises
    ------
    ArchiveError
        The folder cannot be written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"cannot make folder {target}: {error.strerror}; name another one") from error
    images = path("digits.npz")
    archive = target / "digits.h5"
    result = analyze(
        path(MODEL),
        f"{images}:images",
        archive,
        run="digits-cnn",
        labels=f"{images}:labels",
        limit=SAMPLES,
        overwrite=True,
        progress=progress,
    )
    plots = (plot_curve(archive, target / "curve.png"), plot_maps(archive, target / "maps.png"))
    return Demo(result, plots)
