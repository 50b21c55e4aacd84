"""Write metrics where viewers of ONNX models show them: into the model file, or beside it."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..analysis.settings import Result
from ..archive.reading import Run
from ..arguments import Names
from ..errors import ModelError, UsageError
from ..kinds import JSON, ONNX
from ..outputs import claim
from ..text import printable
from .query import query
from .selection import Paths, Selection, run_of
from .wording import mean_text

if TYPE_CHECKING:
    import onnx

    from ..graph.model import Model, ModelSource

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
PREFIX = "onnxinfo."
#: Colors of nodes from the lowest value to the highest, which the color-blind tell apart; their text is black.
_GRADIENT = ((0.0, "#9ecae1"), (0.5, "#f7f7f7"), (1.0, "#fdae6b"))


def annotate(
    model: ModelSource,
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: str | None = None,
    metrics: Names = (),
    force: bool = False,
) -> int:
    """Write a copy of a model whose nodes carry their layers' metrics, as metadata properties and in the doc string.

    The computation does not change. Annotations of an earlier call are replaced. For each metric, such as ``sid``, a
    node has plain numbers: ``onnxinfo.sid``, the mean over the samples, ``onnxinfo.sid.stderr``, its standard error,
    ``onnxinfo.sid.gap``, how far it is below the optimum at most, and ``onnxinfo.sid.samples``, ``.unproven`` and
    ``.missing``, numbers of samples. Numbers of a node's second and later layers also name the tensor:
    ``onnxinfo.TENSOR.sid``. Those of a part of a layer are at the node that computes the whole tensor and name
    the part: ``onnxinfo.logits[3].sid``. A warning names layers that no node computes.

    Parameters
    ----------
    model
        See :func:`onnxinfo.load`.
    path
        An archive, or several.
    output
        The ONNX file to write. An existing ONNX model is replaced, other files are not.
    run
        Name of the run; optional if only one run is of this model.
    metrics
        Names of metrics; by default all.
    force
        Replace an existing file whatever it contains, but never the model, its external data or an archive.

    Returns
    -------
    int
        Number of annotated nodes.

    Raises
    ------
    UsageError
        No run or several runs are of this model, the run is of another model, or the file may not be written.
    ModelError
        The model cannot be read or written, or none of its nodes computes a layer of the run.
    ArchiveError
        The archive cannot be read.

    Examples
    --------
    >>> onnxinfo.annotate("digits-cnn.onnx", "result.h5", "annotated.onnx")
    2
    """
    from ..graph.model import load, save

    run = run if run is not None or not isinstance(path, Result | Run) else run_of(path)
    claim(output, ONNX, inputs=[model, path], force=force, failure=ModelError)
    loaded = load(model)
    name = _run_of(path, run, loaded.sha256)
    placed = _placed(loaded, name, _rows(path, name, metrics))
    proto = type(loaded.proto)()
    proto.CopyFrom(loaded.proto)
    for i, node in enumerate(proto.graph.node):
        _write(node, name, placed.get(i, []))
    save(proto, output, force=force)
    return len(placed)


def node_data(
    model: ModelSource,
    path: Paths,
    output: str | os.PathLike[str],
    *,
    run: str | None = None,
    metric: str | None = None,
    force: bool = False,
) -> int:
    """Write a metric as node data for Google's Model Explorer, which colors the nodes of the model by it.

    A node has one value. Of a node whose layer was analyzed as a whole, it is that of the layer, otherwise that of its
    first part, which the title of the data then names. A warning names the others.

    Parameters
    ----------
    model, path, run
        As for :func:`annotate`.
    output
        The JSON file to write. An existing JSON file is replaced, other files are not.
    metric
        Name of the metric; optional if the run has only one.
    force
        Replace an existing file whatever it contains, but never the model, its external data or an archive.

    Returns
    -------
    int
        Number of nodes with a value.

    Raises
    ------
    UsageError
        As for :func:`annotate`, or the run has several metrics and none is named.
    ModelError
        The model cannot be read, or none of its nodes computes a layer of the run that has a value.
    ArchiveError
        The archive cannot be read.

    Examples
    --------
    >>> onnxinfo.node_data("digits-cnn.onnx", "result.h5", "sid.json")
    2
    """
    from ..graph.model import load

    run = run if run is not None or not isinstance(path, Result | Run) else run_of(path)
    target = claim(output, JSON, inputs=[model, path], force=force)
    loaded = load(model)
    name = _run_of(path, run, loaded.sha256)
    layers = _rows(path, name, () if metric is None else metric)
    chosen = _only_metric(layers)
    shown = _shown(_placed(loaded, name, layers), name)
    parts = ", ".join(row["layer"] for row in shown.values() if _is_part(loaded, row["layer"]))
    ids = [*_unique([node.name for node in loaded.proto.graph.node])]
    results = {ids[i]: {"value": float(row["value"])} for i, row in shown.items()}
    data = {
        "name": f"{chosen}{parts and f' ({parts})'}, run {name}",
        "results": results,
        "gradient": [{"stop": stop, "bgColor": color} for stop, color in _GRADIENT],
    }
    text = json.dumps({loaded.proto.graph.name: data}, indent=2, ensure_ascii=False, allow_nan=False)
    with target.writing() as file:
        file.write_text(text + "\n", encoding="utf-8")
    return len(results)


def _rows(path: Paths, run: str, metrics: Names) -> dict[str, Rows]:
    """Rows of the table of a run, by layer."""
    found: dict[str, Rows] = {}
    for row in query(path, run=run, metrics=metrics):
        found.setdefault(row["layer"], []).append(row)
    return found


def _placed(model: Model, run: str, layers: Mapping[str, Rows]) -> dict[int, Rows]:
    """Rows by the position of the node that computes the layer: of whole tensors in the node's order, then of parts.

    Raises
    ------
    ModelError
        No node computes any of the layers.
    """
    from ..graph.parts import parse_part

    makers = _makers(model)
    whole = sorted((name for name in layers if name in makers), key=makers.__getitem__)
    parts = [name for name in layers if name not in makers]
    found: dict[int, Rows] = {}
    lost = []
    for name in [*whole, *parts]:
        part = None if name in makers else parse_part(name)
        place = makers.get(name if part is None else part.tensor)
        if place is None:
            lost.append(printable(name))
        else:
            found.setdefault(place[0], []).extend(layers[name])
    if not found:
        what = f"computes {', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}" if lost else "has numbers"
        raise ModelError(f"no node of the model {what} of run '{printable(run)}'; there is nothing to annotate")
    if lost:
        logger.warning("no node of the model computes %s: nothing is written of these layers", ", ".join(lost))
    return dict(sorted(found.items()))


def _makers(model: Model) -> dict[str, tuple[int, int]]:
    """Position of the node that computes a tensor, and of the tensor among the node's outputs."""
    nodes = enumerate(model.proto.graph.node)
    return {tensor: (i, at) for i, node in nodes for at, tensor in enumerate(node.output) if tensor}


def _is_part(model: Model, layer: str) -> bool:
    return layer not in _makers(model)


def _shown(placed: Mapping[int, Rows], run: str) -> dict[int, dict[str, Any]]:
    """Row of each node that is shown; a warning names the others that have a value."""
    known = {i: [row for row in rows if math.isfinite(row["value"])] for i, rows in placed.items()}
    found = {i: rows[0] for i, rows in known.items() if rows}
    if not found:
        raise ModelError(f"no layer of run '{printable(run)}' has a value; there is nothing to annotate")
    others = [printable(row["layer"]) for rows in known.values() for row in rows[1:]]
    if others:
        logger.warning("a node has one value in this format; not shown: %s", ", ".join(others))
    return found


def _only_metric(layers: Mapping[str, Rows]) -> str:
    metrics = dict.fromkeys(row["metric"] for rows in layers.values() for row in rows)
    if len(metrics) != 1:
        listed = ", ".join(metrics) or "no numbers"
        raise UsageError(f"the run has {listed}; a file of node data has one metric: name one with metric=...")
    return str(next(iter(metrics)))


def _unique(names: Sequence[str]) -> Iterator[str]:
    """Names as in Model Explorer, whose adapter for ONNX numbers repetitions and nodes without a name."""
    used = dict[str, int]()
    for name in (name or "node" for name in names):
        found = name
        while found in used:
            used[name] += 1
            found = f"{name}_{used[name]}"
        used[found] = 0
        yield found


def _run_of(path: Paths, run: str | None, digest: str) -> str:
    """Return the name of the run of this model."""
    runs = Selection.of(path, run=[run] if run else []).open_runs()
    found = [(each.name, each.recipe.get("model_sha256")) for each, _ in runs]
    names = [name for name, recorded in found if recorded == digest]
    if not names:
        listed = ", ".join(f"'{name}'" for name, _ in found) or "none"
        raise UsageError(f"no run is of this model (SHA-256 {digest[:12]}…); the archive has {listed}, of other files")
    if len(set(names)) > 1 or len(names) > 1:
        raise UsageError(f"several runs are of this model: {', '.join(names)}; name one with run=...")
    return names[0]


def _write(node: onnx.NodeProto, run: str, rows: Rows) -> None:
    kept = [(entry.key, entry.value) for entry in node.metadata_props if not entry.key.startswith(PREFIX)]
    lines = [line for line in node.doc_string.splitlines() if not line.startswith(PREFIX)]
    if not rows and len(kept) == len(node.metadata_props):
        return
    added = [(f"{PREFIX}run", run)] if rows else []
    for row in rows:
        # The first whole tensor has the plain names.
        first = row["layer"] == rows[0]["layer"] and row["layer"] in node.output
        tensor = "" if first else f"{row['layer']}."
        added += _numbers(f"{PREFIX}{tensor}{row['metric']}", row)
        text = f"{mean_text(row)}; mean over {row['n'] - row['n_missing']} samples"
        lines.append(f"{PREFIX}{row['metric']} of {row['layer']} in run {run}: {text}")
    del node.metadata_props[:]
    for key, value in [*kept, *added]:
        node.metadata_props.add(key=key, value=value)
    node.doc_string = "\n".join(lines)


def _numbers(key: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Properties of a mean; a number that is not known has none."""
    present = row["n"] - row["n_missing"]
    numbers = {"": row["value"], ".stderr": row["stderr"], ".gap": row["gap"]}
    counts = {".samples": present, ".unproven": present - row["n_converged"], ".missing": row["n_missing"]}
    yield from ((key + name, repr(float(number))) for name, number in numbers.items() if math.isfinite(number))
    yield from ((key + name, str(int(count))) for name, count in counts.items())
