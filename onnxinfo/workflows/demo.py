"""The demo: analysis and plots of a small bundled network on real images."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..analysis.settings import Progress, Result
from ..archive.claim import claim_archive
from ..models import path
from ..outputs import claim_folder, made_folder
from ..views.figure import claim_figure
from ..views.plotting import plot, plot_curve, plot_maps
from .analyze import analyze

MODEL = "digits-cnn.onnx"
SAMPLES = 50


@dataclass(frozen=True)
class DemoResult:
    """Result of :func:`demo`: the analysis and the plots.

    Examples
    --------
    >>> made = onnxinfo.DemoResult(onnxinfo.Result(Path("demo.h5"), "digits"), plots=(Path("curve.png"),))
    >>> made.result.run, [file.name for file in made.plots]
    ('digits', ['curve.png'])
    """

    result: Result
    plots: tuple[Path, ...]


def demo(
    folder: str | os.PathLike[str], *, progress: Callable[[Progress], None] | None = None, force: bool = False
) -> DemoResult:
    """Analyze the bundled digits network on bundled images.

    Parameters
    ----------
    folder
        Output folder for archive and plots; created if missing.
    progress
        As for :func:`onnxinfo.analyze`.
    force
        Replace existing files with the plots' names, whatever they contain.

    Returns
    -------
    DemoResult
        The analysis and the files written.

    Raises
    ------
    ArchiveError
        The folder cannot be written.
    UsageError
        An existing file is of another kind than the one to be written.

    Examples
    --------
    >>> shown = onnxinfo.demo("demo")
    >>> shown.result.archive.name, [plot.name for plot in shown.plots]
    ('digits.h5', ['overview.png', 'curve.png', 'maps.png'])
    """
    target = claim_folder(folder)
    model, images = path(MODEL), path("digits.npz")
    archive, overview, curve, maps = (target / name for name in ("digits.h5", "overview.png", "curve.png", "maps.png"))
    if target.is_dir():
        claim_archive(archive, [model, images])
        for figure in (overview, curve, maps):
            claim_figure(figure, model, images, force=force)
    with made_folder(target):
        result = analyze(
            model,
            f"{images}:images",
            archive,
            run="digits-cnn",
            labels=f"{images}:labels",
            limit=SAMPLES,
            overwrite=True,
            progress=progress,
        )
    plot(archive, "overview", overview, force=force)
    plot_curve(archive, curve, force=force)
    plot_maps(archive, maps, force=force)
    return DemoResult(result, (overview, curve, maps))
