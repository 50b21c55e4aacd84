"""Manage the runs of an archive: list, rename, delete, merge and recover.

Every change writes a new file that replaces the old one as a whole, so that space is freed and an interruption leaves
the old file unchanged.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ArchiveError, OnnxinfoError, UsageError
from ..replacing import replacing, resolve
from ..text import printable, quoted
from . import guard
from .conventions import line
from .copying import LostCell, copy_run, keep_readable, new_archive
from .format import check_run_name
from .reading import Archive, Run, open_locked
from .reading import open as open_archive
from .storage import WriterLock, open_damaged
from .unfinished import remove_unfinished, rename_unfinished


@dataclass(frozen=True)
class RunSummary:
    """Summary of a run.

    Attributes
    ----------
    run, status, created
        Name; complete, running, interrupted, failed, incomplete or damaged; date and time of the start.
    model
        Name of the model; empty if not recorded.
    metrics
        Names of the metrics.
    layers, samples
        Numbers of layers and samples.
    finished, cells
        Numbers of finished cells (metric, layer, sample) and of all cells.
    elapsed
        Time spent, in seconds.
    size
        Size in the file, in bytes.
    tags
        Tags of the run, by key.
    """

    run: str
    status: str
    created: str
    model: str
    metrics: tuple[str, ...]
    layers: int
    samples: int
    finished: int
    cells: int
    elapsed: float
    size: int
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Recovery:
    """Result of :func:`recover`.

    Attributes
    ----------
    output
        The repaired archive.
    runs
        The runs that it contains.
    lost
        Cells that were marked finished but are damaged; the next analysis recomputes them.
    unreadable
        Runs that are lost, with the reasons.
    original
        Where the damaged file is kept; None if nothing was lost.
    metrics
        Metrics that are lost from runs that are kept: run, metric and reason.
    """

    output: Path
    runs: tuple[str, ...]
    lost: tuple[LostCell, ...]
    unreadable: tuple[tuple[str, str], ...]
    original: Path | None
    metrics: tuple[tuple[str, str, str], ...] = ()


def list_runs(path: str | os.PathLike[str]) -> list[RunSummary]:
    """Return a summary of each run of an archive, oldest first.

    Raises
    ------
    ArchiveError
        The archive cannot be read.

    Examples
    --------
    >>> [(run.run, run.status, run.layers, run.samples) for run in onnxinfo.list_runs("result.h5")]
    [('digits-cnn', 'complete', 2, 2)]
    """
    with open_archive(path) as archive:
        return [_summary(archive, name) for name in archive.runs]


def _summary(archive: Archive, name: str) -> RunSummary:
    try:
        return _summary_of(archive[name])
    except ArchiveError:
        return RunSummary(name, "damaged", "", "", (), 0, 0, 0, 0, 0.0, 0)


def _summary_of(run: Run) -> RunSummary:
    finished = [run.finished(metric.name) for metric in run.metrics]
    return RunSummary(
        run=run.name,
        status=run.status,
        created=run.created,
        model=str({**run.recipe, **run.provenance}.get("model_name", "")),
        metrics=tuple(metric.name for metric in run.metrics),
        layers=run.shape[0],
        samples=run.shape[1],
        finished=sum(int(done.sum()) for done in finished),
        cells=sum(done.size for done in finished),
        elapsed=run.elapsed,
        size=run.size,
        tags=run.tags,
    )


def rename_run(path: str | os.PathLike[str], run: str, name: str) -> None:
    """Rename a run, with what an interruption left of it beside the archive.

    Raises
    ------
    UsageError
        The run does not exist, or the new name is taken or invalid.
    ArchiveError
        The archive cannot be read or written.

    Examples
    --------
    >>> onnxinfo.rename_run("result.h5", "digits-cnn", "baseline")
    >>> [run.run for run in onnxinfo.list_runs("result.h5")]
    ['baseline']
    """
    check_run_name(name)

    def renamed(runs: Sequence[str]) -> dict[str, str]:
        if name in runs:
            raise UsageError(f"{path} has a run '{printable(name)}' already; choose another name or delete it first")
        return {each: name if each == run else each for each in runs}

    change = f"renamed run {quoted(run)} to {quoted(name)}"
    _rewrite(path, run, change, renamed, lambda archive: rename_unfinished(archive, run, name))


def delete_run(path: str | os.PathLike[str], run: str) -> None:
    """Delete a run and free its space, also that of what an interruption left of it beside the archive.

    Raises
    ------
    UsageError
        The run does not exist.
    ArchiveError
        The archive cannot be read or written.

    Examples
    --------
    >>> onnxinfo.delete_run("result.h5", "digits-cnn")
    >>> onnxinfo.list_runs("result.h5")
    []
    """

    def others(runs: Sequence[str]) -> dict[str, str]:
        return {each: each for each in runs if each != run}

    _rewrite(path, run, f"deleted run {quoted(run)}", others, lambda archive: remove_unfinished(archive, run))


def _rewrite(
    path: str | os.PathLike[str],
    run: str,
    change: str,
    plan: Callable[[Sequence[str]], dict[str, str]],
    afterwards: Callable[[Path], None],
) -> None:
    """Write the archive anew, with its runs renamed or left out, then do the same to their unfinished work."""
    resolved = resolve(path)
    with WriterLock(resolved):
        with open_locked(resolved) as archive:
            names = archive.runs
            archive[run]
            history = [*archive.history, line(change)]
        _assemble(resolved, [(resolved, plan(names))], history)
        afterwards(resolved)


def _assemble(output: Path, parts: Sequence[tuple[Path, dict[str, str]]], history: Sequence[str]) -> None:
    with replacing(output) as part, new_archive(part, history) as file:
        for source, names in parts:
            with open_locked(source) if source == output else open_archive(source) as archive:
                for old, new in names.items():
                    if copy_run(archive[old], file, new):
                        title = f"run '{printable(old)}' of {source}"
                        raise ArchiveError(f"{title} has damaged cells; repair it with onnxinfo.recover(...) first")


def merge(sources: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> dict[str, str]:
    """Copy all runs of several archives into a new one.

    A run whose name already occurs in an earlier archive gets its own archive's name appended in parentheses.

    Parameters
    ----------
    sources
        The archives.
    output
        The new archive, which must not exist yet.

    Returns
    -------
    dict
        New name of each run, by ``<archive>:<run>``.

    Raises
    ------
    UsageError
        `output` exists, or names still clash.
    ArchiveError
        An archive cannot be read or written.

    Examples
    --------
    >>> onnxinfo.merge(["result.h5", "pruned.h5"], "both.h5")
    {'result.h5:digits-cnn': 'digits-cnn', 'pruned.h5:pruned': 'pruned'}
    """
    resolved = resolve(output)
    if resolved.exists():
        raise UsageError(f"{output} exists; name a new file")
    parts: list[tuple[Path, dict[str, str]]] = []
    history = set[str]()
    taken: set[str] = set()
    for source in map(Path, sources):
        with open_archive(source) as archive:
            names = {run: run if run not in taken else f"{run} ({source.stem})" for run in archive.runs}
            history.update(archive.history)
        for new in names.values():
            if new in taken:
                raise UsageError(f"two runs would be named '{printable(new)}'; rename one of them first")
            check_run_name(new)
            taken.add(new)
        parts.append((source, names))
    with WriterLock(resolved):
        _assemble(resolved, parts, [*sorted(history), line(f"merged {len(parts)} archives")])
    return {f"{source}:{old}": new for source, names in parts for old, new in names.items()}


def recover(path: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> Recovery:
    """Repair an archive that was left open or damaged, by copying its intact parts to a new file.

    Parameters
    ----------
    path
        The archive.
    output
        The repaired archive; by default it replaces the old one once it is complete. If data are lost, the old one is
        kept as ``<path>.damaged``.

    Returns
    -------
    Recovery
        The recovered runs and the lost data.

    Raises
    ------
    ArchiveError
        Nothing can be read, the file cannot be written, or a live process is writing to it.

    Examples
    --------
    >>> recovery = onnxinfo.recover("result.h5", "recovered.h5")
    >>> recovery.runs, recovery.lost
    (('digits-cnn',), ())
    """
    source = resolve(path)
    target = source if output is None else resolve(output)
    if target != source and target.exists():
        raise UsageError(f"{output} exists; name a new file")
    lost: list[LostCell] = []
    unreadable: list[tuple[str, str]] = []
    metrics: list[tuple[str, str, str]] = []
    saved: list[str] = []
    with contextlib.ExitStack() as stack:
        for written in dict.fromkeys((source, target)):
            stack.enter_context(WriterLock(written))
        part = stack.enter_context(replacing(target))
        archive = stack.enter_context(Archive(open_damaged(source), source))
        history = [*archive.history, line("recovered what could be read")]
        file = stack.enter_context(new_archive(part, history))
        for name in archive.runs:
            try:
                run, without = archive.rescued(name)
                keep_readable(run, without)
                lost += copy_run(run, file, name)
                metrics += [(name, metric, reason.removesuffix(guard.ADVICE)) for metric, reason in without.items()]
                saved.append(name)
            except OnnxinfoError as error:
                unreadable.append((name, str(error)))
                if name in file:
                    del file[name]
        if unreadable and not saved:
            reason = unreadable[0][1].removesuffix(guard.ADVICE)
            raise ArchiveError(f"no run of {path} can be recovered: {reason}; restore a copy, or analyze again")
        kept = _keep(source) if target == source and (lost or unreadable or metrics) else None
    return Recovery(target, tuple(saved), tuple(lost), tuple(unreadable), kept, tuple(metrics))


def _keep(path: Path) -> Path:
    """Give a file a second name under which it outlives its replacement."""
    kept = path.with_name(f"{path.name}.damaged")
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}.damaged{number}")
    try:
        os.link(path, kept)
    except OSError as error:
        raise ArchiveError(f"cannot keep {path} as {kept} ({error.strerror}); give output=...") from error
    return kept
