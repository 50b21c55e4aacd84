"""Write metrics where viewers of ONNX models show them: into the model file, or beside it."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..analysis.settings import Result
from ..archive.reading import Run
from ..arguments import Names
from ..errors import ModelError, UsageError
from ..kinds import JSON, ONNX
from ..outputs import claim
from ..text import listed, printable
from .comparable import tell_unfinished
from .query import query
from .selection import Paths, Selection, run_of

if TYPE_CHECKING:
    import onnx

    from ..graph.model import ModelSource
    from ..graph.own import OwnGraph

logger = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
PREFIX = "onnxinfo."
#: Properties of an annotated model: digests of the models whose runs are also of it, and that of all but annotations.
ORIGINS, CONTENT = f"{PREFIX}model_sha256", f"{PREFIX}content_sha256"
# Maximum number of layers that a message names.
_NAMED = 3
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
    """Write a copy of a model whose nodes carry their layers' metrics as metadata properties.

    All else stays as it is in the file: nodes, names, doc strings, weights, functions, versions. External data are
    copied if the copy is in another folder. Annotations of an earlier call are replaced; a run of the model is one of
    its annotated copies, too, as long as nothing else about them is changed.

    For each metric, such as ``sid``, a node has plain numbers: ``onnxinfo.sid``, the mean over the samples,
    ``onnxinfo.sid.stderr``, its standard error, ``onnxinfo.sid.gap``, how far it is below the optimum at most, and
    ``onnxinfo.sid.samples``, ``.unproven`` and ``.missing``, numbers of samples. Numbers of a node's second and later
    layers also name the tensor: ``onnxinfo.TENSOR.sid``. Those of a part of a layer are at the node that computes the
    whole tensor and name the part: ``onnxinfo.logits[3].sid``. Those of a layer in a branch of an ``If`` are at the
    branch's node. A warning names layers that no node computes, such as tensors that only the analysis added.

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
    run = run if run is not None or not isinstance(path, Result | Run) else run_of(path)
    target = claim(output, ONNX, inputs=[model, path], force=force, failure=ModelError)
    found = _Annotated.of(model)
    name, digest = _run_of(path, run, found)
    placed = _placed(found.own, name, _rows(path, name, metrics))
    # Before the properties are part of the content.
    _set_properties(found.own.proto, found.properties(digest))
    for i, node in enumerate(found.own.nodes()):
        if i in placed:
            _write(node, name, placed[i])
    found.own.write(target)
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
    from .explorer import explorer_ids

    run = run if run is not None or not isinstance(path, Result | Run) else run_of(path)
    target = claim(output, JSON, inputs=[model, path], force=force)
    found = _Annotated.of(model)
    name, _ = _run_of(path, run, found)
    layers = _rows(path, name, () if metric is None else metric)
    chosen = _only_metric(layers)
    shown = _shown(_placed(found.own, name, layers), name)
    makers = found.own.makers()
    parts = ", ".join(row["layer"] for row in shown.values() if row["layer"] not in makers)
    ids = explorer_ids(found.own.proto.graph)
    results = {ids[i]: {"value": float(row["value"])} for i, row in shown.items()}
    data = {
        "name": f"{chosen}{parts and f' ({parts})'}, run {name}",
        "results": results,
        "gradient": [{"stop": stop, "bgColor": color} for stop, color in _GRADIENT],
    }
    text = json.dumps({found.own.proto.graph.name: data}, indent=2, ensure_ascii=False, allow_nan=False)
    with target.writing() as file:
        file.write_text(text + "\n", encoding="utf-8")
    return len(results)


@dataclass(frozen=True)
class _Annotated:
    """A model without annotations of earlier calls, and what these said of its origin.

    Attributes
    ----------
    own
        The model's own graph.
    digests
        Digests by which runs know the model: its own, and those of the files that it is an annotated copy of.
    changed
        Whether it is an annotated copy that was changed since.
    """

    own: OwnGraph
    digests: tuple[str, ...]
    changed: bool

    @classmethod
    def of(cls, model: ModelSource) -> _Annotated:
        """Read a model, and remove its annotations."""
        from ..graph.model import load
        from ..graph.own import own_graph
        from ..graph.protos import nested

        loaded = load(model)
        own = own_graph(model, loaded)
        recorded = {entry.key: entry.value for entry in own.proto.metadata_props}
        _set_properties(own.proto, {})
        for node in nested(own.proto.graph.node):
            _set_properties(node, {})
        origins = recorded.get(ORIGINS, "").split()
        changed = bool(origins) and recorded.get(CONTENT) != own.digest()
        return cls(own, (loaded.sha256, *([] if changed else origins)), changed)

    def properties(self, digest: str) -> dict[str, str]:
        """Properties of an annotated copy by a run of a model with some digest."""
        origins = dict.fromkeys([*self.digests[1:], digest])
        return {ORIGINS: " ".join(origins), CONTENT: self.own.digest()}


def _rows(path: Paths, run: str, metrics: Names) -> dict[str, Rows]:
    """Rows of the table of a run, by layer."""
    selection = Selection.of(path, run=[run], metrics=metrics)
    tell_unfinished(selection)
    found: dict[str, Rows] = {}
    for row in query(path, run=run, metrics=metrics):
        found.setdefault(row["layer"], []).append(row)
    return found


def _placed(own: OwnGraph, run: str, layers: Mapping[str, Rows]) -> dict[int, Rows]:
    """Rows by the position of the node that computes the layer: of whole tensors in the node's order, then of parts.

    Raises
    ------
    ModelError
        No node computes any of the layers.
    """
    from ..graph.parts import parse_part

    makers = own.makers()
    whole = sorted((name for name in layers if name in makers), key=makers.__getitem__)
    parts = [name for name in layers if name not in makers]
    found: dict[int, Rows] = {}
    lost = []
    for name in [*whole, *parts]:
        part = None if name in makers else parse_part(name)
        place = makers.get(name if part is None else part.tensor)
        if place is None:
            lost.append(name)
        else:
            found.setdefault(place[0], []).extend(layers[name])
    shown = listed(lost, _NAMED)
    if not found:
        what = f"computes {shown}" if lost else "has numbers"
        raise ModelError(f"no node of the model {what} of run '{printable(run)}'; there is nothing to annotate")
    if lost:
        logger.warning("no node of the model computes %s; layers left out: %d of %d", shown, len(lost), len(layers))
    return dict(sorted(found.items()))


def _shown(placed: Mapping[int, Rows], run: str) -> dict[int, dict[str, Any]]:
    """Row of each node that is shown; a warning names the others that have a value."""
    known = {i: [row for row in rows if math.isfinite(row["value"])] for i, rows in placed.items()}
    found = {i: rows[0] for i, rows in known.items() if rows}
    if not found:
        raise ModelError(f"no layer of run '{printable(run)}' has a value; there is nothing to annotate")
    others = [printable(row["layer"]) for rows in known.values() for row in rows[1:]]
    if others:
        logger.warning(
            "a node has one value in this format; layers not shown (%d): %s", len(others), listed(others, _NAMED)
        )
    return found


def _only_metric(layers: Mapping[str, Rows]) -> str:
    metrics = dict.fromkeys(row["metric"] for rows in layers.values() for row in rows)
    if len(metrics) != 1:
        listed = ", ".join(metrics) or "no numbers"
        raise UsageError(f"the run has {listed}; a file of node data has one metric: name one with metric=...")
    return str(next(iter(metrics)))


def _run_of(path: Paths, run: str | None, model: _Annotated) -> tuple[str, str]:
    """Return the name of the run of a model, and the digest by which it knows the model."""
    runs = Selection.of(path, run=[run] if run else []).open_runs()
    found = [(each.name, str(each.recipe.get("model_sha256"))) for each, _ in runs]
    own = [(name, recorded) for name, recorded in found if recorded in model.digests]
    if not own:
        listed = ", ".join(f"'{name}'" for name, _ in found) or "none"
        shown = f"{model.digests[0][:12]}…" + (", an annotated copy that was changed since" if model.changed else "")
        raise UsageError(f"no run is of this model (SHA-256 {shown}); the archive has {listed}, of other files")
    if len(own) > 1:
        raise UsageError(f"several runs are of this model: {', '.join(name for name, _ in own)}; name one with run=...")
    return own[0]


def _set_properties(message: Any, properties: Mapping[str, str]) -> None:
    """Replace the properties of a node or model that are annotations."""
    old = [entry for entry in message.metadata_props if entry.key.startswith(PREFIX)]
    for entry in old:
        message.metadata_props.remove(entry)
    for key, value in properties.items():
        message.metadata_props.add(key=key, value=value)


def _write(node: onnx.NodeProto, run: str, rows: Rows) -> None:
    properties = {f"{PREFIX}run": run}
    for row in rows:
        # The first whole tensor has the plain names.
        first = row["layer"] == rows[0]["layer"] and row["layer"] in node.output
        tensor = "" if first else f"{row['layer']}."
        properties |= _numbers(f"{PREFIX}{tensor}{row['metric']}", row)
    _set_properties(node, properties)


def _numbers(key: str, row: Mapping[str, Any]) -> dict[str, str]:
    """Properties of a mean; a number that is not known has none."""
    present = row["n"] - row["n_missing"]
    numbers = {"": row["value"], ".stderr": row["stderr"], ".gap": row["gap"]}
    counts = {".samples": present, ".unproven": present - row["n_converged"], ".missing": row["n_missing"]}
    found = {key + name: repr(float(number)) for name, number in numbers.items() if math.isfinite(number)}
    return found | {key + name: str(int(count)) for name, count in counts.items()}
