"""Live progress on standard error: finished cells, remaining time, the last finished layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from .verbosity import quiet

if TYPE_CHECKING:
    from onnxinfo import Progress


@contextmanager
def progress_bar(output: str) -> Iterator[Callable[[Progress], None]]:
    """Show progress within the context; if interrupted, print where the results are."""
    try:
        if quiet():
            yield lambda _: None
        else:
            with _bars() as report:
                yield report
    except KeyboardInterrupt:
        kept = f"finished cells are in {output}" if os.path.exists(output) else "nothing was written yet"
        click.echo(f"interrupted: {kept}; rerun the same command to resume", err=True)
        raise


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from onnxinfo.text import printable

    columns = (
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    tasks = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(progress: Progress) -> None:
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, note="")
            note = f"{printable(progress.layer)}  {progress.value:.4f}" if progress.layer else ""
            bars.update(tasks[progress.stage], completed=progress.done, total=progress.total, note=note)

        yield report
