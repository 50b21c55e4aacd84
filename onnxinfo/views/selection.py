"""Selection of a part of archives: the query object shared by tables, plots, comparisons and reports."""

from __future__ import annotations

import fnmatch
import logging
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ..analysis.settings import Result
from ..archive.prepare import BACKUP
from ..archive.reading import Run
from ..archive.reading import open as open_archive
from ..arguments import Names, names_of, values_of
from ..errors import UnknownRunError, UsageError
from ..text import no_such, printable
from .run_view import RunView, choose_layers, choose_samples

logger = logging.getLogger(__name__)

#: Archives: paths, results of an analysis, opened archives or runs.
Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


class Selected(TypedDict, total=False):
    """Arguments of :meth:`Selection.of`."""

    run: Names
    layers: Names
    exclude: Names
    ops: Names
    metrics: Names
    samples: Sequence[str | int]
    labels: Sequence[str | int]
    input: Names
    tag: Names


@dataclass(frozen=True)
class Selection:
    """Part of one or several archives; empty fields select everything.

    Attributes
    ----------
    paths
        The archives.
    runs
        Names of runs, or globs.
    tags
        Tags that runs must have, ``KEY=VALUE`` or ``KEY``.
    layers, exclude
        Patterns of :func:`onnxinfo.select_layers`.
    ops
        Operators, such as ``Conv``.
    metrics
        Names of metrics.
    samples
        Positions, ranges of positions such as ``0-9``, or globs over the samples' names. A run that lacks one of the
        positions is left out.
    labels
        Labels of samples.
    inputs
        Names of perturbed inputs, if a run has several.
    """

    paths: tuple[Path, ...]
    runs: tuple[str, ...] = ()
    layers: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    samples: tuple[str | int, ...] = ()
    labels: tuple[str | int, ...] = ()
    inputs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, path: Paths, **selected: Unpack[Selected]) -> Selection:
        """Make a selection; a single archive or name need not be in a list.

        Results of an analysis and runs select themselves, unless runs are named.
        """
        paths = values_of(path, "archive")
        names: dict[str, Any] = {_FIELDS.get(key, key): value for key, value in selected.items()}
        found: dict[str, Any] = {
            key: tuple(values_of(value, key) if key in _VALUES else names_of(value, key))
            for key, value in names.items()
        }
        if not found.get("runs") and paths and all(isinstance(each, Result | Run) for each in paths):
            found["runs"] = tuple(dict.fromkeys(map(run_of, paths)))
        try:
            return cls(tuple(dict.fromkeys(map(Path, paths))), **found)
        except TypeError:
            raise UsageError(f"archive {path!r} is not usable; give a path, a result, an archive or a run") from None

    def open_runs(self) -> Generator[tuple[Run, Path], None, None]:
        """Open the archives one by one and yield the runs, each with its archive's path.

        A run is readable until the next one is requested. The copy ``NAME~`` of a run that grows is one if it is named.

        Raises
        ------
        UsageError
            No archive is given, or no archive has a run of one of the names.
        """
        if not self.paths:
            raise UsageError("no archive given; name at least one")
        self._check_runs()
        for path in self.paths:
            with open_archive(path) as archive:
                for name in archive.runs:
                    chosen = _matches(name, self.runs or ["*"], name.removesuffix(BACKUP) in archive.runs)
                    if chosen and _has_tags(run := archive[name], self.tags):
                        yield run, path

    def titles(self) -> dict[tuple[Path, str], str]:
        """Return a distinct title for each run, by archive and name: its name, with the archive if several have it."""
        found = [(source, run.name) for run, source in self.open_runs()]
        often = Counter(name for _, name in found)
        files = Counter(path.name for path in self.paths)
        titles: dict[tuple[Path, str], str] = {}
        for source, name in found:
            archive = source.name if files[source.name] == 1 else source
            titles[source, name] = printable(f"{name} ({archive})" if often[name] > 1 else name)
        return titles

    def views(self, least: int = 1) -> Generator[tuple[RunView, Path], None, None]:
        """Open the runs one by one and yield the selected part of each, with its archive's path.

        A view is readable until the next one is requested. Runs that lack part of the selection are left out.

        Parameters
        ----------
        least
            Number of runs that are needed.

        Raises
        ------
        UsageError
            Part of the selection is lacking in so many runs that fewer than needed are left.
        """
        failures: list[UsageError] = []
        found = 0
        for run, source in self.open_runs():
            try:
                view = self._view(run)
            except UsageError as error:
                failures.append(error)
                continue
            found += 1
            layers, samples = view.shape
            logger.info("read run %s of %s: %d layers, %d samples", view.name, source, layers, samples)
            yield view, source
        if failures and found < least:
            raise failures[0]

    @contextmanager
    def only_view(self, what: str) -> Iterator[RunView]:
        """Open the one selected run.

        Parameters
        ----------
        what
            Start of the error message if there are several, such as ``maps show one run``.

        Raises
        ------
        UsageError
            Several runs are selected, or none.
        """
        count = sum(1 for _ in self.views())
        if count > 1:
            raise UsageError(f"{what}, and there are several; name one with run=...")
        if not count:
            raise UsageError(f"{what}, and there is none in {', '.join(map(str, self.paths))}; analyze a model first")
        with closing(self.views()) as views:
            yield next(views)[0]

    def _check_runs(self) -> None:
        if not self.runs and not self.tags:
            return
        known: list[str] = []
        tagged = False
        for path in self.paths:
            with open_archive(path) as archive:
                known += archive.runs
                tagged |= any(_has_tags(archive[name], self.tags) for name in archive.runs)
        where = ", ".join(map(str, self.paths))
        for name in self.runs:
            if not any(_matches(each, [name]) for each in known):
                raise UnknownRunError(no_such("run", name, known, where))
        if not tagged:
            raise UnknownRunError(printable(f"no run in {where} has the tag {', '.join(self.tags)}"))

    def _view(self, run: Run) -> RunView:
        known = [metric.name for metric in run.metrics]
        for name in self.metrics:
            if name not in known:
                raise UsageError(no_such("metric", name, known, f"run '{run.name}'"))
        layers = choose_layers(run, self.layers, self.exclude)
        if self.ops:
            ops = {op.lower(): op for op in (row.op for row in run.layers)}
            for op in self.ops:
                if op.lower() not in ops:
                    raise UsageError(no_such("operator", op, sorted(ops.values()), f"run '{run.name}'"))
            lower = [op.lower() for op in self.ops]
            layers = [i for i in layers if run.layers[i].op.lower() in lower]
        samples = choose_samples(run, self.samples, self.labels)
        view = RunView(run, layers, samples, self.metrics, self.inputs)
        if missing := [name for name in self.metrics if name not in [metric.name for metric in view.metrics]]:
            raise UsageError(f"metric '{missing[0]}' has no values of single inputs; leave out input=...")
        return view


# Fields of a selection whose argument has another name, and those that hold values of any type.
_FIELDS = {"run": "runs", "input": "inputs", "tag": "tags"}
_VALUES = ("samples", "labels")


def run_of(source: Result | Run) -> str:
    """Return the name of the run that a result of an analysis, or a run, is about."""
    return source.run if isinstance(source, Result) else source.name


def _has_tags(run: Run, tags: Sequence[str]) -> bool:
    """Whether a run has all of some tags, ``KEY=VALUE`` or ``KEY``; values may be globs."""
    own = run.tags
    for tag in tags:
        key, equals, value = tag.partition("=")
        if key not in own or (equals and not fnmatch.fnmatchcase(own[key], value)):
            return False
    return True


def _matches(name: str, patterns: Sequence[str], has_original: bool = False) -> bool:
    """Whether a run has one of some names, or matches a glob, which a copy of a run does if the glob ends like it."""
    hidden = name.endswith(BACKUP) and has_original
    globs = [pattern for pattern in patterns if not hidden or pattern.endswith(BACKUP)]
    return name in patterns or any(fnmatch.fnmatchcase(name, glob) for glob in globs)
