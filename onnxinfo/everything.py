"""Everything about one model in one call: analysis, plots and report."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .analysis.run import analyze
from .analysis.settings import Progress, Result
from .errors import ArchiveError
from .views.plot_curve import plot_curve
from .views.plot_maps import plot_maps
from .views.report import report


@dataclass(frozen=True)
class Oneshot:
    """What was made.

    Attributes
    ----------
    result
        The analysis.
    plots
        The curve by depth and the maps, PNG files.
    report
        The HTML file.
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
    **options: Any,
) -> Oneshot:
    """Analyze a model, draw its curve and maps, and write its report.

    For the model ``NAME.onnx`` the folder gets ``NAME.h5``, ``NAME-curve.png``, ``NAME-maps.png`` and ``NAME.html``, so
    one folder can hold many models. Cut short, the same call goes on where it stopped.

    Parameters
    ----------
    model
        The ONNX file.
    inputs
        Samples, as for :func:`onnxinfo.analyze`.
    folder
        Where the files go; it is created.
    progress
        As for :func:`onnxinfo.analyze`.
    **options
        Of :func:`onnxinfo.analyze`, such as ``preset`` or ``limit``.

    Returns
    -------
    Oneshot
        The analysis and the files.

    Raises
    ------
    ArchiveError
        The folder cannot be written.
    OnnxinfoError
        Something :func:`onnxinfo.analyze` or :func:`onnxinfo.report` refuses.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArchiveError(f"cannot make folder {target}: {error.strerror}; name another one") from error
    name = Path(model).stem
    archive = target / f"{name}.h5"
    result = analyze(model, inputs, archive, progress=progress, **options)
    metrics = options.get("metrics", ("sid",))
    plots = (
        plot_curve(archive, target / f"{name}-curve.png", run=result.run, metric=metrics),
        plot_maps(archive, target / f"{name}-maps.png", run=result.run, metric=metrics[0]),
    )
    page = report(archive, target / f"{name}.html", run=result.run, model=model, title=name)
    return Oneshot(result, plots, page)
