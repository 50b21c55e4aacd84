"""Write metrics into the model file, where viewers of ONNX models show them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ..analysis.settings import Result
from ..archive.reading import Run
from ..arguments import Names
from ..errors import ModelError, UsageError
from ..kinds import ONNX
from ..outputs import claim
from .query import query
from .selection import Paths, Selection, run_of
from .wording import mean_text

if TYPE_CHECKING:
    import onnx

    from ..graph.model import ModelSource

PREFIX = "onnxinfo."


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

    The computation does not change. Annotations of an earlier call are replaced.

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
        The model cannot be read or written.
    ArchiveError
        The archive cannot be read.

    Examples
    --------
    >>> onnxinfo.annotate("digits-cnn.onnx", "result.h5", "annotated.onnx")
    2
    """
    from ..graph.model import load, save

    if run is None and isinstance(path, Result | Run):
        run = run_of(path)
    claim(output, ONNX, inputs=[model, path], force=force, failure=ModelError)
    loaded = load(model)
    name = _run_of(path, run, loaded.sha256)
    layers: dict[str, list[dict[str, Any]]] = {}
    for row in query(path, run=name, metrics=metrics):
        layers.setdefault(row["layer"], []).append(row)
    proto = type(loaded.proto)()
    proto.CopyFrom(loaded.proto)
    count = 0
    for node in proto.graph.node:
        rows = [row for tensor in node.output for row in layers.get(tensor, ())]
        _write(node, name, rows)
        count += bool(rows)
    save(proto, output, force=force)
    return count


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


def _write(node: onnx.NodeProto, run: str, rows: list[dict[str, Any]]) -> None:
    kept = [(entry.key, entry.value) for entry in node.metadata_props if not entry.key.startswith(PREFIX)]
    lines = [line for line in node.doc_string.splitlines() if not line.startswith(PREFIX)]
    if not rows and len(kept) == len(node.metadata_props):
        return
    added = []
    for row in rows:
        text = f"{mean_text(row)}; mean over {row['n'] - row['n_missing']} samples"
        added.append((f"{PREFIX}{row['metric']}", text))
        lines.append(f"{PREFIX}{row['metric']} of {row['layer']} in run {run}: {text}")
    del node.metadata_props[:]
    for key, value in [*kept, *added, *([(f"{PREFIX}run", run)] if added else [])]:
        node.metadata_props.add(key=key, value=value)
    node.doc_string = "\n".join(lines)
