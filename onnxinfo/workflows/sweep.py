"""The same analysis at several alphas, each started from the solution at the one before."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

from ..analysis.linearization_store import SharedLinearizations
from ..analysis.measures import needed
from ..analysis.settings import Report, Result
from ..archive.claim import claim_archive
from ..config import Config, FlatOptions, configure
from ..errors import UnprovenError, UsageError
from ..graph.model import ModelSource, load
from ..registry import METRICS
from ..termination import orderly_termination
from ..text import alpha_name
from ..views.ranking import ranking
from .analyze import check_present, complete, ready
from .computing import computing
from .given_model import given_model
from .idle import refuse_idle_keywords
from .notebook import reporting


@dataclass(frozen=True)
class SweepResult:
    """Result of :func:`sweep`: a run for each alpha, and how the order of the layers changes.

    Attributes
    ----------
    alphas
        The alphas, ascending.
    results
        The runs.
    order
        Rows of :func:`onnxinfo.ranking` for each pair of runs; empty with a single layer.

    Examples
    --------
    >>> runs = [onnxinfo.Result(Path("sweep.h5"), f"alpha={alpha:g}") for alpha in (0.001, 0.01)]
    >>> onnxinfo.SweepResult((0.001, 0.01), tuple(runs)).results[1].run
    'alpha=0.01'
    """

    alphas: tuple[float, ...]
    results: tuple[Result, ...]
    order: list[dict[str, Any]] = field(default_factory=list)


def sweep(
    model: ModelSource,
    inputs: Any,
    output: str | os.PathLike[str],
    alphas: Iterable[float],
    *,
    example: Any = None,
    progress: Report | None = None,
    **options: Unpack[FlatOptions],
) -> SweepResult:
    """Analyze at several alphas, and tell whether the order of the layers survives.

    Each alpha is a run of the archive, called ``alpha=0.001``, or ``NAME alpha=0.001`` with ``run="NAME"``. The search
    for SID begins at the noise scales of the next smaller alpha, scaled like the budget. If a sweep is interrupted, the
    same call resumes it; with further alphas, it grows.

    Parameters
    ----------
    model, inputs, output, example, progress
        As for :func:`onnxinfo.analyze`.
    alphas
        The alphas, at least two.
    **options
        All settings of :func:`onnxinfo.analyze` except ``alpha`` and ``budget``.

    Raises
    ------
    UsageError
        An alpha is not above 0 or given twice, or no metric depends on alpha; nothing is written.
    OnnxinfoError
        As raised by :func:`onnxinfo.analyze`.

    Examples
    --------
    >>> found = onnxinfo.sweep(
    ...     "digits-cnn.onnx", "digits.npz:images", "sweep.h5", [1e-3, 1e-2], layers=["relu", "logits"], limit=2
    ... )
    >>> [result.run for result in found.results], found.order[0]["tau"]
    (['alpha=0.001', 'alpha=0.01'], 1.0)
    """
    ascending = _checked(alphas)
    config = configure(Config(), options)
    refuse_idle_keywords("sweep", options, config, inputs=inputs, output=output)
    _check_settings(config)
    claim_archive(output, [model, inputs, *config.sources()])
    loaded = load(given_model(model, inputs, example))
    report, results = reporting(progress), list[Result]()
    unproven: UnprovenError | None = None
    with computing(config.execution.timeout), orderly_termination(), SharedLinearizations() as shared:
        runs = [_at(config, alpha) for alpha in ascending]
        for chosen in runs[1:]:
            check_present(loaded, inputs, output, chosen)
        for chosen in runs:
            near = results[-1].run if results else ""
            try:
                results.append(complete(ready(loaded, inputs, output, chosen), output, report, shared, near))
            except UnprovenError as error:
                results.append(error.result)
                unproven = unproven or error
    made = SweepResult(tuple(ascending), tuple(results), _order(output, results))
    if unproven is not None:
        raise UnprovenError(str(unproven), made)
    return made


def _at(config: Config, alpha: float) -> Config:
    name = " ".join(part for part in (config.out.run, alpha_name(alpha)) if part)
    return replace(config, sid=replace(config.sid, alpha=alpha), out=replace(config.out, run=name))


def _checked(alphas: Iterable[float]) -> list[float]:
    try:
        found = sorted(float(alpha) for alpha in alphas)
    except (TypeError, ValueError):
        raise UsageError(f"alphas={alphas!r}: a list of numbers above 0 expected, such as [0.001, 0.01]") from None
    if bad := [alpha for alpha in found if not (math.isfinite(alpha) and alpha > 0)]:
        raise UsageError(f"alpha {bad[0]:g}: a number above 0 expected")
    names = [f"{alpha:g}" for alpha in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"alpha {twice[0]} is given twice; give each once")
    if len(found) < 2:
        raise UsageError(f"a sweep is over several alphas, and {len(found)} is given; give at least two")
    return found


def _check_settings(config: Config) -> None:
    if config.sid.alpha is not None or config.sid.budget is not None:
        given = "budget" if config.sid.budget is not None else "alpha"
        raise UsageError(f"a sweep sets alpha itself: leave out {given}=...")
    if not any(METRICS.get(name).uses_normalizer for name in needed(config.selection.metrics)):
        raise UsageError("no metric depends on alpha; add one that does, such as sid")


def _order(output: str | os.PathLike[str], results: Sequence[Result]) -> list[dict[str, Any]]:
    try:
        return ranking(output, run=[result.run for result in results])
    except UsageError:
        # A single layer has no order.
        return []
