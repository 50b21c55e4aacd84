"""An archive's numbers as tidy tables: one row per layer, or per layer and sample."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from ..errors import UsageError
from ..inputs.parts import InputPart, places
from .format import LayerRow, Metric
from .means import layer_summary, mark_names, mean_and_stderr
from .unit_means import Mapped, UnitMeans, unit_count, unit_means

Per = Literal["layer", "sample", "input", "unit"]

_LAYER = ("run", "layer", "layer_index", "op", "depth")
_VALUE = ("metric", "value", "stderr", "gap", "mark", "converged")
_COUNTS = ("n", "n_converged", "n_missing")
COLUMNS: dict[str, tuple[str, ...]] = {
    "layer": (*_LAYER, *_VALUE, *_COUNTS),
    "sample": (*_LAYER, "sample", "sample_name", "label", *_VALUE),
    "input": (*_LAYER, "input", "metric", "value", "stderr", "converged", *_COUNTS),
    "unit": (*_LAYER, "input", "unit", "unit_name", "metric", "value", "stderr", "converged", *_COUNTS),
}


class Tabular(Mapped, Protocol):
    """Source of a table: a run, or a part of one."""

    @property
    def layers(self) -> Sequence[LayerRow]:
        """The layers."""

    @property
    def sample_names(self) -> Sequence[str]:
        """One name per sample."""

    @property
    def labels(self) -> Any:
        """One label per sample, or None."""

    @property
    def metrics(self) -> Sequence[Metric]:
        """The metrics."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of layers and samples."""

    @property
    def parts(self) -> tuple[InputPart, ...]:
        """Name, axes and shape of every perturbed input."""

    @property
    def unit_names(self) -> list[str] | None:
        """Names of the units along the only axis, or None."""

    def values(self, metric: str) -> dict[str, npt.NDArray[Any]]:
        """Return the numbers of a metric."""


def check_per(per: str) -> None:
    """Refuse a word that names no table.

    Raises
    ------
    UsageError
        It is none of the keys of ``COLUMNS``.
    """
    if per not in COLUMNS:
        raise UsageError(f"per={per!r}: 'layer', 'sample', 'input' or 'unit' expected")


def run_table(run: Tabular, per: Per) -> dict[str, list[Any]]:
    """Return a run's finished numbers as columns, in layer, then sample, then metric order.

    Parameters
    ----------
    run
        A run of an open archive.
    per
        ``layer``, ``sample``, ``input`` or ``unit``; see :meth:`onnxinfo.archive.Archive.to_dataframe`.
    """
    check_per(per)
    tabulate = {"layer": _by_layer, "sample": _by_sample, "input": _by_input, "unit": _by_unit}[per]
    if not run.metrics:
        return {name: [] for name in COLUMNS[per]}
    layer, order, rest = tabulate(run, [(metric.name, run.values(metric.name)) for metric in run.metrics])
    columns: dict[str, Any] = {
        "run": np.full(len(layer), run.name, dtype=object),
        "layer": np.array([row.name for row in run.layers], dtype=object)[layer],
        "layer_index": np.array([row.index for row in run.layers])[layer],
        "op": np.array([row.op for row in run.layers], dtype=object)[layer],
        "depth": np.array([row.depth for row in run.layers])[layer],
        **rest,
    }
    return {name: columns[name][order].tolist() for name in COLUMNS[per]}


def stack(tables: Sequence[Mapping[str, list[Any]]], per: Per) -> dict[str, list[Any]]:
    """Return the rows of several tables, concatenated."""
    check_per(per)
    return {name: [value for table in tables for value in table[name]] for name in COLUMNS[per]}


Rows = tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], dict[str, npt.NDArray[Any]]]


def _by_sample(run: Tabular, metrics: Sequence[tuple[str, dict[str, npt.NDArray[Any]]]]) -> Rows:
    cells = [np.nonzero(values["done"]) for _, values in metrics]
    layer = np.concatenate([layer for layer, _ in cells])
    sample = np.concatenate([sample for _, sample in cells])
    labels = [None] * run.shape[1] if run.labels is None else run.labels
    rest = {
        "sample": sample,
        "sample_name": np.array(run.sample_names, dtype=object)[sample],
        "label": np.array(labels, dtype=object)[sample],
        "metric": np.repeat(np.array([name for name, _ in metrics], dtype=object), [len(found[0]) for found in cells]),
    }
    for key in ("value", "stderr", "converged"):
        rest[key] = np.concatenate([values[key][at] for (_, values), at in zip(metrics, cells, strict=True)])
    unknown = np.full(run.shape, np.nan)
    found = list(zip((values for _, values in metrics), cells, strict=True))
    rest["gap"] = np.concatenate([values.get("gap", unknown)[at] for values, at in found])
    rest["mark"] = np.concatenate([mark_names(values)[at] for values, at in found])
    return layer, np.lexsort((sample, layer)), rest


def _by_layer(run: Tabular, metrics: Sequence[tuple[str, dict[str, npt.NDArray[Any]]]]) -> Rows:
    summaries = [layer_summary(values) for _, values in metrics]
    layers = [np.nonzero(summary["n"])[0] for summary in summaries]
    layer = np.concatenate(layers)
    rest = {"metric": np.repeat(np.array([name for name, _ in metrics], dtype=object), [len(at) for at in layers])}
    for key in (*_VALUE[1:], *_COUNTS):
        rest[key] = np.concatenate([summary[key][at] for summary, at in zip(summaries, layers, strict=True)])
    return layer, np.argsort(layer, kind="stable"), rest


def _by_input(run: Tabular, metrics: Sequence[tuple[str, dict[str, npt.NDArray[Any]]]]) -> Rows:
    mapped = {metric.name for metric in run.metrics if metric.has_map}
    rows: list[dict[str, Any]] = []
    for name, values in metrics:
        for layer in range(run.shape[0]):
            samples = np.nonzero(values["done"][layer])[0].tolist()
            if name not in mapped or not samples:
                continue
            proven = int(values["converged"][layer, samples].sum())
            whole = run.maps(name, layer, samples).reshape(len(samples), -1)
            for position, (part, place) in enumerate(zip(run.parts, places(run.parts), strict=True)):
                mean, stderr, n = mean_and_stderr(mean_and_stderr(whole[:, place])[0])
                rows.append({
                    **{"layer": layer, "at": position, "input": part.name, "metric": name, "value": float(mean)},
                    **{"stderr": float(stderr), "n": len(samples), "n_converged": proven},
                    **{"n_missing": len(samples) - int(n), "converged": proven == len(samples)},
                })  # fmt: skip
    found = {
        key: np.array([row[key] for row in rows], dtype=_TYPES.get(key, np.intp)) for key in ("layer", "at", *_TYPES)
    }
    at = found.pop("layer").astype(np.intp)
    return at, np.lexsort((found.pop("at"), at)), found


# Types of the columns per input.
_TYPES: dict[str, Any] = {
    **{"input": object, "metric": object, "value": np.float64, "stderr": np.float64, "converged": bool},
    **dict.fromkeys(_COUNTS, np.int64),
}


def _by_unit(run: Tabular, metrics: Sequence[tuple[str, dict[str, npt.NDArray[Any]]]]) -> Rows:
    means = {
        name: [unit_means(run, name, values, layer) for layer in range(run.shape[0])]
        for name, values in metrics
        if any(metric.name == name and metric.has_map for metric in run.metrics)
    }
    count = unit_count(run)
    found = [(layer, name, each[layer]) for name, each in means.items() for layer in range(run.shape[0])]
    found = [one for one in found if one[2].samples]
    names = run.unit_names or [str(unit) for unit in range(count)]
    layer = np.repeat(np.array([one[0] for one in found], dtype=np.intp), count)
    unit = np.tile(np.arange(count), len(found))
    rest: dict[str, npt.NDArray[Any]] = {
        "input": np.array([part.name for part in run.parts for _ in range(part.size)], dtype=object)[unit],
        "unit": unit,
        "unit_name": np.array(names, dtype=object)[unit],
        "metric": np.repeat(np.array([one[1] for one in found], dtype=object), count),
        "value": _joined(found, lambda means: means.value),
        "stderr": _joined(found, lambda means: means.stderr),
        "n": np.repeat(np.array([one[2].samples for one in found], dtype=np.int64), count),
        "n_converged": np.repeat(np.array([one[2].proven for one in found], dtype=np.int64), count),
        "n_missing": _joined(found, lambda means: means.missing).astype(np.int64),
    }
    rest["converged"] = rest["n_converged"] == rest["n"]
    return layer, np.lexsort((unit, layer)), rest


def _joined(
    found: Sequence[tuple[int, str, UnitMeans]], part: Callable[[UnitMeans], npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    return np.concatenate([part(one[2]) for one in found]) if found else np.zeros(0)
