"""Analysis, plots and report of one model in one call."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from ..analysis.settings import Progress, Result
from ..archive.claim import claim_archive
from ..config import Config, Options, configure
from ..errors import UnprovenError
from ..kinds import HTML
from ..outputs import claim, claim_folder, made_folder
from ..views.figure import claim_figure
from ..views.plotting import plot_curve, plot_maps
from ..views.report import report
from .analyze import run_analysis
from .idle import refuse_idle_keywords


@dataclass(frozen=True)
class OneshotResult:
    """Result of :func:`oneshot`.

    Attributes
    ----------
    result
        The analysis.
    plots
        The curve by depth and the maps, PNG files.
    report
        The HTML file.

    Examples
    --------
    >>> result = onnxinfo.Result(Path("result.h5"), "digits-cnn")
    >>> made = onnxinfo.OneshotResult(result, plots=(Path("curve.png"), Path("maps.png")), report=Path("report.html"))
    >>> [file.suffix for file in (made.result.archive, *made.plots, made.report)]
    ['.h5', '.png', '.png', '.html']
    """

    result: Result
    plots: tuple[Path, ...]
    report: Path


def oneshot(
    model: str | os.PathLike[str],
    inputs: Any,
    folder: str | os.PathLike[str],
    *,
    progress: Callable[[Progress], None] | None = None,
    force: bool = False,
    **options: Unpack[Options],
) -> OneshotResult:
    """Analyze a model, plot its curve and maps, and write a report.

    For the model ``NAME.onnx``, the files ``NAME.h5``, ``NAME-curve.png``, ``NAME-maps.png`` and ``NAME.html`` are
    written, so one folder can hold many models. If the call is interrupted, repeat it to resume.

    Parameters
    ----------
    model
        The ONNX file.
    inputs
        Samples, as for :func:`onnxinfo.analyze`.
    folder
        Output folder; created if missing.
    progress
        As for :func:`onnxinfo.analyze`.
    force
        Replace existing files with the names of plots or report, whatever they contain, but never an input.
    **options
        All settings of :func:`onnxinfo.analyze`: configuration objects, and flat names such as ``preset``.

    Returns
    -------
    OneshotResult
        The analysis and the files written.

    Raises
    ------
    ArchiveError
        The folder cannot be written.
    UsageError
        An existing file is an input, or of another kind than the one to be written.
    OnnxinfoError
        Raised by :func:`onnxinfo.analyze` or :func:`onnxinfo.report`.

    Examples
    --------
    >>> made = onnxinfo.oneshot("digits-cnn.onnx", "digits.npz:images", "results", layers=["-1"], limit=1)
    >>> made.result.archive.name, [plot.name for plot in made.plots], made.report.name
    ('digits-cnn.h5', ['digits-cnn-curve.png', 'digits-cnn-maps.png'], 'digits-cnn.html')
    """
    target = claim_folder(folder)
    name = Path(model).stem
    archive, curve, maps, page = (target / f"{name}{end}" for end in (".h5", "-curve.png", "-maps.png", ".html"))
    config = configure(Config(), options)
    refuse_idle_keywords("oneshot", options, config, inputs=inputs, output=folder, model=model)
    read = [model, inputs, *config.sources()]
    if target.is_dir():
        claim_archive(archive, read)
        for figure in (curve, maps):
            claim_figure(figure, *read, force=force)
        claim(page, HTML, inputs=read, force=force)
    unproven: UnprovenError | None = None
    with made_folder(target):
        try:
            result = run_analysis(model, inputs, archive, config, progress)
        except UnprovenError as error:
            result, unproven = error.result, error
    metrics = config.selection.metrics
    plot_curve(archive, curve, run=result.run, metric=metrics, force=force)
    plot_maps(archive, maps, run=result.run, metric=metrics[0], force=force)
    page = report(archive, page, run=result.run, model=model, title=name, force=force)
    made = OneshotResult(result, (curve, maps), page)
    if unproven is not None:
        raise UnprovenError(str(unproven), made)
    return made
