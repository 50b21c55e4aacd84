"""Subset of a run's layers, samples and metrics, with the interface of a run."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.format import LayerRow, Metric
from ..archive.reading import Run
from ..errors import UsageError
from ..text import no_such, printable


class RunView:
    """Subset of a run's layers, samples and metrics.

    Attributes
    ----------
    run
        The run.
    name, axes, sample_shape
        As in :class:`onnxinfo.Run`.
    layers, sample_names, labels, metrics
        The chosen ones, in the run's order.
    layer_positions, sample_positions
        Their positions in the run.
    """

    def __init__(
        self,
        run: Run,
        layers: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
        metrics: Sequence[str] = (),
    ) -> None:
        self.run, self.name, self.axes, self.sample_shape = run, run.name, run.axes, run.sample_shape
        self.layer_positions = [*range(run.shape[0])] if layers is None else [*layers]
        self.sample_positions = [*range(run.shape[1])] if samples is None else [*samples]
        self.metrics: tuple[Metric, ...] = tuple(m for m in run.metrics if not metrics or m.name in metrics)
        self.layers: tuple[LayerRow, ...] = tuple(run.layers[i] for i in self.layer_positions)
        self.sample_names = [run.sample_names[i] for i in self.sample_positions]
        self.labels: Sequence[Any] | None = (
            None if run.labels is None else np.asarray(run.labels, dtype=object)[self.sample_positions].tolist()
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of layers and samples."""
        return len(self.layers), len(self.sample_names)

    @property
    def unit_names(self) -> list[str] | None:
        """Names of the input's units along its only axis, such as a table's columns, or None."""
        return self.run.unit_names

    @property
    def thumbnails(self) -> npt.NDArray[np.uint8] | None:
        """Pictures of the samples, uint8 of shape (sample, y, x, 3), or None."""
        found = self.run.thumbnails
        return None if found is None else found[self.sample_positions]

    def values(self, metric: str) -> dict[str, npt.NDArray[Any]]:
        """Return the numbers of a metric; see :meth:`onnxinfo.Run.values`."""
        first = min(self.layer_positions, default=0)
        read = range(first, max(self.layer_positions, default=first - 1) + 1)
        cells = np.ix_([position - first for position in self.layer_positions], self.sample_positions)
        return {name: data[cells] for name, data in self.run.values(metric, read).items()}

    def parts(self, cells: int) -> Iterator[RunView]:
        """Yield the view in parts of some layers each, that have about the given number of cells."""
        step = max(1, cells // max(1, self.shape[1]))
        metrics = [metric.name for metric in self.metrics]
        for start in range(0, self.shape[0], step):
            yield RunView(self.run, self.layer_positions[start : start + step], self.sample_positions, metrics)

    def maps(self, metric: str, layer: int, samples: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return the maps of one layer and several samples of the view; see :meth:`onnxinfo.Run.maps`."""
        chosen = self.sample_positions if samples is None else [self.sample_positions[sample] for sample in samples]
        return self.run.maps(metric, self.layer_positions[layer], chosen)

    def map(self, metric: str, layer: int, sample: int) -> npt.NDArray[np.float32]:
        """Return the map of one layer and sample, by their positions in the view; see :meth:`onnxinfo.Run.map`."""
        return self.run.map(metric, self.layer_positions[layer], self.sample_positions[sample])


def choose_layers(run: Run, patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[int]:
    """Return the positions of the layers that match the patterns of :func:`onnxinfo.select_layers`; by default all.

    Raises
    ------
    UsageError
        A pattern matches no layer.
    """
    if not patterns and not exclude:
        return [*range(run.shape[0])]
    # Imported here because it imports onnx, which reading an archive does not need.
    from ..graph.layers import Layer, select_layers

    rows = [
        Layer(row.index, row.name, row.op, row.node, None, row.parameters, row.depth, default=True)
        for row in run.layers
    ]
    positions = {(row.index, row.name): position for position, row in enumerate(run.layers)}
    return sorted(positions[layer.index, layer.name] for layer in select_layers(rows, patterns, exclude))


def choose_samples(run: Run, patterns: Sequence[str | int] = (), labels: Sequence[str | int] = ()) -> list[int]:
    """Return the positions of samples, in the run's order; by default all.

    Parameters
    ----------
    run
        The run.
    patterns
        A position (``3``; ``-1`` is the last), a range of positions, inclusive (``0-9``), or a glob on the samples'
        names.
    labels
        Labels; a sample must have one of them.

    Raises
    ------
    UsageError
        No sample matches a pattern or label.
    """
    chosen = set(range(run.shape[1]))
    if patterns:
        chosen = {position for pattern in patterns for position in _samples_named(run, str(pattern))}
    if labels:
        given = ["" if run.labels is None else str(label) for label in (run.labels if run.labels is not None else [])]
        for label in labels:
            if str(label) not in given:
                raise UsageError(no_such("label", str(label), sorted(set(given)), f"run '{run.name}'"))
        wanted = {str(label) for label in labels}
        chosen &= {position for position, label in enumerate(given) if label in wanted}
    return sorted(chosen)


def _samples_named(run: Run, pattern: str) -> list[int]:
    count = run.shape[1]
    if re.fullmatch(r"-?\d+", pattern) and pattern not in run.sample_names:
        position = int(pattern) + (count if pattern.startswith("-") else 0)
        if not 0 <= position < count:
            raise UsageError(f"run '{printable(run.name)}' has no sample {pattern}; it has {count}, from 0 on")
        return [position]
    span = re.fullmatch(r"(\d+)-(\d+)", pattern)
    if span and pattern not in run.sample_names:
        found = [*range(int(span[1]), min(int(span[2]) + 1, count))]
    else:
        found = [i for i, name in enumerate(run.sample_names) if fnmatch.fnmatchcase(name, pattern) or name == pattern]
    if not found:
        raise UsageError(no_such("sample", pattern, run.sample_names, f"run '{run.name}'"))
    return found
