"""Subset of a run's layers, samples and metrics, with the interface of a run."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..archive.format import TOGETHER, LayerRow, Metric
from ..archive.means import mean_and_stderr
from ..archive.reading import Run
from ..errors import UsageError
from ..inputs.parts import InputPart, places
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
    parts
        Name, axes and shape of the chosen inputs. If these are not all that noise was added to, axes and shapes are
        theirs, and values are means over their units.

    Raises
    ------
    UsageError
        The run has no input of one of the names.
    """

    def __init__(
        self,
        run: Run,
        layers: Sequence[int] | None = None,
        samples: Sequence[int] | None = None,
        metrics: Sequence[str] = (),
        inputs: Sequence[str] = (),
    ) -> None:
        self.run, self.name = run, run.name
        known = [part.name for part in run.parts]
        for name in inputs:
            if name not in known:
                raise UsageError(no_such("input", name, known, f"run '{run.name}'"))
        chosen = [at for at, name in enumerate(known) if not inputs or name in inputs]
        self.parts = tuple(run.parts[at] for at in chosen)
        self._places = None if len(chosen) == len(known) else [places(run.parts)[at] for at in chosen]
        self.axes, self.sample_shape = _axes_of(run, self.parts)
        self.layer_positions = [*range(run.shape[0])] if layers is None else [*layers]
        self.sample_positions = [*range(run.shape[1])] if samples is None else [*samples]
        self.metrics: tuple[Metric, ...] = tuple(
            m for m in run.metrics if (not metrics or m.name in metrics) and (m.has_map or self._places is None)
        )
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
        names = self.run.unit_names
        if names is None or self._places is None:
            return names
        return [name for place in self._places for name in names[place]] if len(self.axes) < 2 else None

    @property
    def thumbnails(self) -> npt.NDArray[np.uint8] | None:
        """Pictures of the samples, uint8 of shape (sample, y, x, 3), or None."""
        images = [part for part in self.run.parts if {"y", "x"} <= set(part.axes)]
        if self._places is not None and self.parts != tuple(images[:1]):
            return None  # they are pictures of the first image
        found = self.run.thumbnails
        return None if found is None else found[self.sample_positions]

    def values(self, metric: str) -> dict[str, npt.NDArray[Any]]:
        """Return the numbers of a metric; see :meth:`onnxinfo.Run.values`.

        Those of a metric of all samples together are proven only if none is lacking.
        """
        first = min(self.layer_positions, default=0)
        read = range(first, max(self.layer_positions, default=first - 1) + 1)
        layers, samples = [position - first for position in self.layer_positions], [*self.sample_positions]
        values = self.run.values(metric, read)
        # Indexing copies all numbers.
        if layers != [*range(len(read))] or samples != [*range(self.run.shape[1])]:
            values = {name: data[np.ix_(layers, samples)] for name, data in values.items()}
        if metric in TOGETHER:
            whole = self._lacking(values["done"]) == 0
            values = {**values, "converged": values["converged"] & whole[:, None]}
        if self._places is not None:
            means = [mean_and_stderr(self._flat(metric, layer, None))[0] for layer in range(self.shape[0])]
            unknown = np.full(self.shape, np.nan)
            values |= {"value": np.array(means).reshape(self.shape), "stderr": unknown}
            # The bound holds for the mean over all inputs.
            values |= {"gap": unknown} if "gap" in values else {}
        return values

    def lacking(self, metric: str) -> npt.NDArray[np.intp]:
        """Return for each layer how many of the run's samples are not finished, or not chosen.

        It is 0 for metrics that single samples have.
        """
        return self._lacking(self.values(metric)["done"]) if metric in TOGETHER else np.zeros(len(self.layers), np.intp)

    def _lacking(self, done: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
        return np.asarray(self.run.shape[1] - done.sum(axis=1))

    def pieces(self, cells: int) -> Iterator[RunView]:
        """Yield the view in pieces of some layers each, that have about the given number of cells."""
        step = max(1, cells // max(1, self.shape[1]))
        metrics = [metric.name for metric in self.metrics]
        inputs = () if self._places is None else [part.name for part in self.parts]
        for start in range(0, self.shape[0], step):
            layers = self.layer_positions[start : start + step]
            yield RunView(self.run, layers, self.sample_positions, metrics, inputs)

    def maps(self, metric: str, layer: int, samples: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """Return the maps of one layer and several samples of the view; see :meth:`onnxinfo.Run.maps`."""
        chosen = self._flat(metric, layer, samples)
        return chosen.reshape(len(chosen), *self.sample_shape)

    def map(self, metric: str, layer: int, sample: int) -> npt.NDArray[np.float32]:
        """Return the map of one layer and sample, by their positions in the view; see :meth:`onnxinfo.Run.map`."""
        one: npt.NDArray[np.float32] = self.maps(metric, layer, [sample])[0]
        return one

    def panels(self) -> list[RunView]:
        """Return the parts of the view that are drawn each by itself: inputs with several axes; all others together."""
        grids = [part.name for part in self.parts if len(part.axes) > 1]
        rows = [part.name for part in self.parts if len(part.axes) < 2]
        if not grids or len(self.parts) == 1:
            return [self]
        groups = [*([name] for name in grids), *([rows] if rows else [])]
        return [self._of(group) for group in groups]

    def rows(self) -> RunView:
        """Return the view of the inputs with at most one axis, such as columns of a table; without any, the view."""
        rows = [part.name for part in self.parts if len(part.axes) < 2]
        return self if not rows or len(rows) == len(self.parts) else self._of(rows)

    def only_panel(self, what: str) -> RunView:
        """Return the view if it is drawn as a whole.

        Parameters
        ----------
        what
            Start of the error message, such as ``units are of one input``.

        Raises
        ------
        UsageError
            Several inputs have shapes that cannot be drawn together.
        """
        if len(self.panels()) > 1:
            names = ", ".join(printable(part.name) for part in self.parts)
            raise UsageError(f"{what}, and noise was added to {names}; name one with input=...")
        return self

    def _of(self, inputs: Sequence[str]) -> RunView:
        metrics = [metric.name for metric in self.metrics]
        return RunView(self.run, self.layer_positions, self.sample_positions, metrics, inputs)

    def _flat(self, metric: str, layer: int, samples: Sequence[int] | None) -> npt.NDArray[np.float32]:
        """Maps of one layer and several samples, (samples, units of the chosen inputs)."""
        chosen = self.sample_positions if samples is None else [self.sample_positions[sample] for sample in samples]
        whole = self.run.maps(metric, self.layer_positions[layer], chosen)
        flat = whole.reshape(len(whole), math.prod(self.run.sample_shape))
        return flat if self._places is None else np.concatenate([flat[:, place] for place in self._places], axis=1)


def _axes_of(run: Run, parts: Sequence[InputPart]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Axes and shape of some of a run's inputs: those of a single one; several lie side by side."""
    if len(parts) == len(run.parts):
        return run.axes, run.sample_shape
    if len(parts) == 1 and parts[0].axes:
        return parts[0].axes, parts[0].shape
    return run.axes, (sum(part.size for part in parts),)


def choose_layers(run: Run, patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[int]:
    """Return the positions of the layers that match the patterns of :func:`onnxinfo.select_layers`; by default all.

    Raises
    ------
    UsageError
        A pattern matches no layer.
    """
    return match_layers(run.layers, patterns, exclude)


def match_layers(layers: Sequence[LayerRow], patterns: Sequence[str], exclude: Sequence[str] = ()) -> list[int]:
    """Return the positions of those of some layers that match patterns; see :func:`choose_layers`."""
    if not patterns and not exclude:
        return [*range(len(layers))]
    # Imported here because it imports onnx, which reading an archive does not need.
    from ..graph.layers import Layer, select_layers

    rows = [
        Layer(row.index, row.name, row.op, row.node, None, row.parameters, row.depth, default=True) for row in layers
    ]
    positions = {(row.index, row.name): position for position, row in enumerate(layers)}
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
        No sample matches a pattern or label, or a range ends beyond the last sample.
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
            raise _beyond(run, pattern)
        return [position]
    span = re.fullmatch(r"(\d+)-(\d+)", pattern)
    if span and pattern not in run.sample_names:
        if int(span[2]) >= count:
            raise _beyond(run, span[2])
        found = [*range(int(span[1]), int(span[2]) + 1)]
    else:
        found = [i for i, name in enumerate(run.sample_names) if fnmatch.fnmatchcase(name, pattern) or name == pattern]
    if not found:
        raise UsageError(no_such("sample", pattern, run.sample_names, f"run '{run.name}'"))
    return found


def _beyond(run: Run, position: str) -> UsageError:
    return UsageError(
        f"run '{printable(run.name)}' has no sample {position}; it has {run.shape[1]}, 0 to {run.shape[1] - 1}"
    )
