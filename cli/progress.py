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
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
    from rich.progress import Progress as Bars

    from onnxinfo.text import printable

    from .time_left import TimeLeft, expected_end

    columns = (
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeLeft(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    tasks = {}
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def report(progress: Progress) -> None:
            until = expected_end(progress.remaining)
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, note="", until=until)
            about = "about " if progress.provisional else ""
            note = f"{printable(progress.layer)}  {about}{progress.value:.4f}" if progress.layer else ""
            done, total = progress.done, progress.total
            bars.update(tasks[progress.stage], completed=done, total=total, note=note, until=until)

        yield report
