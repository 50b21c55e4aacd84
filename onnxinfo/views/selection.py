"""Selection of a part of archives: the query object shared by tables, plots, comparisons and reports."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

from ..archive.reading import Run
from ..archive.reading import open as open_archive
from ..errors import UnknownRunError, UsageError
from ..text import no_such
from .run_view import RunView, choose_layers, choose_samples

logger = logging.getLogger(__name__)

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
Names = str | Sequence[str]


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


@dataclass(frozen=True)
class Selection:
    """Part of one or several archives; empty fields select everything.

    Attributes
    ----------
    paths
        The archives.
    runs
        Names of runs.
    layers, exclude
        Patterns of :func:`onnxinfo.select_layers`.
    ops
        Operators, such as ``Conv``.
    metrics
        Names of metrics.
    samples
        Positions, ranges of positions such as ``0-9``, or globs over the samples' names.
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

    @classmethod
    def of(cls, path: Paths, **selected: Unpack[Selected]) -> Selection:
        """Make a selection; a single archive or name need not be in a list."""
        paths = [path] if isinstance(path, str | os.PathLike) else [*path]
        names: dict[str, Any] = {_FIELDS.get(key, key): value for key, value in selected.items()}
        return cls(tuple(map(Path, paths)), **{key: tuple(names_of(value)) for key, value in names.items()})

    def open_runs(self) -> Generator[tuple[Run, Path], None, None]:
        """Open the archives one by one and yield the runs, each with its archive's path.

        A run is readable until the next one is requested.

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
                    if not self.runs or name in self.runs:
                        yield archive[name], path

    def views(self) -> Generator[tuple[RunView, Path], None, None]:
        """Open the runs one by one and yield the selected part of each, with its archive's path.

        A view is readable until the next one is requested. Runs that lack part of the selection show the rest.

        Raises
        ------
        UsageError
            Part of the selection exists in no run.
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
        if failures and not found:
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
        if not self.runs:
            return
        known: list[str] = []
        for path in self.paths:
            with open_archive(path) as archive:
                known += archive.runs
        for name in self.runs:
            if name not in known:
                raise UnknownRunError(no_such("run", name, known, ", ".join(map(str, self.paths))))

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


# Fields of a selection whose argument has another name.
_FIELDS = {"run": "runs", "input": "inputs"}


def names_of(given: Names | Sequence[str | int]) -> list[Any]:
    """Return names as a list, whether one or several are given."""
    return [given] if isinstance(given, str) else [*given]
