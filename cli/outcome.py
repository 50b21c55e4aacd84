"""What a finished analysis prints: a table for people, or JSON."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .tables import print_run, write_stdout
from .verbosity import quiet

if TYPE_CHECKING:
    from onnxinfo import Result, UnprovenError

Made = TypeVar("Made")

formats = click.option(
    "--format",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="Format of what is printed at the end.",
)


def completed(work: Callable[[], Made]) -> tuple[Made, UnprovenError | None]:
    """Return what the work made, and the error if it is complete but too few of its cells are proven."""
    from onnxinfo import UnprovenError

    try:
        return work(), None
    except UnprovenError as error:
        made: Any = error.result
        return made, error


def present(
    result: Result,
    began: float,
    format: str = "table",
    files: Mapping[str, Any] | None = None,
    error: UnprovenError | None = None,
) -> None:
    """Print the outcome of an analysis; raise its error, if any.

    Parameters
    ----------
    result
        Archive and run.
    began
        Start of the analysis by the monotonic clock.
    format
        ``table``, or ``json``, which is printed also with ``--quiet``.
    files
        Other files that were written, by kind.
    error
        Raised after printing.
    """
    seconds, written = time.monotonic() - began, files or {}
    if format == "json":
        write_stdout(json.dumps(_described(result, seconds, written), indent=2, ensure_ascii=False) + "\n")
    elif not quiet():
        _show(result, seconds)
        for kind, names in written.items():
            for name in names if isinstance(names, list) else [names]:
                click.echo(f"{kind.removesuffix('s')}: {name}")
    if error is not None:
        raise error


def _show(result: Result, seconds: float) -> None:
    from onnxinfo import open as open_archive
    from onnxinfo.text import quoted

    with open_archive(result.archive) as archive:
        run = archive[result.run]
        if result.unchanged:
            layers, samples = run.shape
            size = f"layers: {layers}; samples: {samples}"
            click.echo(f"complete: run {quoted(run.name)} has everything already ({size})")
        print_run(run, str(result.archive), seconds)
        if without := run.recipe.get("without_foreground"):
            click.echo(f"without a foreground: {without} of {run.shape[1]} samples, excluded from concentration")


def _described(result: Result, seconds: float, files: Mapping[str, Any]) -> dict[str, Any]:
    from onnxinfo import open as open_archive

    with open_archive(result.archive) as archive:
        run = archive[result.run]
        columns = run.table("layer")
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        cells = [run.values(metric.name) for metric in run.metrics]
        return {
            "archive": str(result.archive),
            "run": run.name,
            "status": run.status,
            "unchanged": result.unchanged,
            "seconds": round(seconds, 3),
            "samples": run.shape[1],
            "cells": sum(each["done"].size for each in cells),
            "proven": sum(int(each["converged"].sum()) for each in cells),
            "layers": [{key: finite(value) for key, value in row.items()} for row in rows],
            "sanity": None if run.sanity is None else run.sanity.to_dict(),
            **files,
        }


def finite(value: Any) -> Any:
    """Return a value for JSON, which has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
