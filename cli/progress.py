"""Progress on standard error: finished cells, remaining time, the last finished layer."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from .tables import data_size
from .verbosity import quiet

if TYPE_CHECKING:
    from onnxinfo import Progress

#: Seconds between lines of progress if standard error is not a terminal.
INTERVAL = 30.0


@contextmanager
def progress_bar(archive: str | None = None) -> Iterator[Callable[[Progress], None]]:
    """Show progress within the context; if interrupted, print where the results are.

    On a terminal, progress is shown as bars, otherwise as a line every 30 seconds.

    Parameters
    ----------
    archive
        Where finished work is kept until the command is repeated. None: it is not kept.
    """
    try:
        if quiet():
            yield lambda _: None
        else:
            with _bars() if sys.stderr.isatty() else _lines() as report:
                yield report
    except KeyboardInterrupt:
        if archive is None:
            click.echo("interrupted: nothing was written", err=True)
        else:
            kept = f"finished cells are in {archive}" if os.path.exists(archive) else "nothing was written yet"
            click.echo(f"interrupted: {kept}; rerun the same command to resume", err=True)
        raise


class _Stage:
    """State of a stage of the work.

    Parameters
    ----------
    first
        Its first report, which says what was finished before.
    """

    def __init__(self, first: Progress) -> None:
        self._began, self._before, self.last = time.monotonic(), first.done, first

    def line(self) -> str:
        """Return what is done, and when the rest will be."""
        from onnxinfo.text import printable

        last, spent = self.last, time.monotonic() - self._began
        done = last.done - self._before
        text = f"{last.stage}: {last.done} of {last.total} ({last.done / max(last.total, 1):.0%})"
        # Before the first step, the analysis itself estimates the time.
        left = spent / done * (last.total - last.done) if done else last.remaining
        if math.isfinite(left) and last.done < last.total:
            text += f", about {_clock(left)} left"
        text += f", {_clock(spent)} so far"
        if last.layer:
            text += f"; {printable(last.layer)} {last.value:.4f}"
        if needed := _needed(last):
            text += f"; {needed}"
        return text


@contextmanager
def _lines() -> Iterator[Callable[[Progress], None]]:
    """Print a line when a stage begins, every ``INTERVAL`` seconds, and when it is finished."""
    stages: dict[str, _Stage] = {}
    current: list[str] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(INTERVAL):
            if current:
                click.echo(stages[current[-1]].line(), err=True)

    def report(progress: Progress) -> None:
        # A sweep has a stage again for each alpha.
        begins = progress.stage not in stages or progress.done < stages[progress.stage].last.done
        if begins:
            stages[progress.stage] = _Stage(progress)
        stages[progress.stage].last = progress
        current[:] = [progress.stage]
        if progress.done >= progress.total or (begins and progress.total):
            click.echo(stages[progress.stage].line(), err=True)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield report
    finally:
        over.set()
        watcher.join()


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
            if needed := _needed(progress):
                bars.console.print(needed, markup=False, highlight=False)
            if progress.stage not in tasks:
                tasks[progress.stage] = bars.add_task(progress.stage, note="", until=until)
            elif progress.done < bars.tasks[tasks[progress.stage]].completed:
                bars.reset(tasks[progress.stage])
            about = "about " if progress.provisional else ""
            note = f"{printable(progress.layer)}  {about}{progress.value:.4f}" if progress.layer else ""
            done, total = progress.done, progress.total
            bars.update(tasks[progress.stage], completed=done, total=total, note=note, until=until)

        yield report


def _needed(progress: Progress) -> str:
    """Memory and disk that the analysis takes, which its first report states."""
    needs = ("memory", progress.memory_bytes, " in each process"), ("disk", progress.disk_bytes, "")
    return ", ".join(f"{name} about {data_size(size)}{where}" for name, size, where in needs if size)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
