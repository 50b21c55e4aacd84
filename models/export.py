"""Common part of the training scripts: turn a trained network into a bundled file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

Array = npt.NDArray[Any]

HERE = Path(__file__).resolve().parent
#: Number of held-out samples of a data set that are bundled.
BUNDLED = 50


def save_model(model: onnx.ModelProto, name: str) -> Path:
    """Bundle a model, checked and stripped of what its exporter recorded about the machine.

    Parameters
    ----------
    model
        The model; modified in place.
    name
        File name.

    Returns
    -------
    Path
        The file written.
    """
    _forget_origin([model])
    for function in model.functions:
        _forget_origin([function, *function.value_info])
        _clean_nodes(function.node)
    _clean_graph(model.graph)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, HERE / name)
    return HERE / name


def _clean_graph(graph: onnx.GraphProto) -> None:
    _forget_origin([graph, *graph.initializer, *graph.value_info, *graph.input, *graph.output])
    _clean_nodes(graph.node)


def _clean_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        _forget_origin([node])
        for attribute in node.attribute:
            attribute.doc_string = ""
            for body in [attribute.g, *attribute.graphs] if attribute.HasField("g") else attribute.graphs:
                _clean_graph(body)


def _forget_origin(messages: Iterable[Any]) -> None:
    for message in messages:
        message.doc_string = ""
        if hasattr(message, "metadata_props"):  # newer than some of the onnx packages that exporters require
            del message.metadata_props[:]


def report_accuracy(path: Path, feeds: Mapping[str, Array], labels: Array, output: str) -> None:
    """Print a classifier's accuracy under ONNX Runtime, on all held-out samples and on the bundled ones."""
    hits = _run(path, feeds, output).argmax(axis=-1) == labels
    _print(path, "accuracy", hits.mean(), len(hits), hits[:BUNDLED].mean())


def report_r2(path: Path, feeds: Mapping[str, Array], targets: Array, output: str) -> None:
    """Print a regression's coefficient of determination under ONNX Runtime, in the same way."""
    predicted = _run(path, feeds, output).reshape(-1)

    def r2(count: int) -> float:
        y = targets[:count]
        return float(1 - np.square(y - predicted[:count]).sum() / np.square(y - y.mean()).sum())

    _print(path, "R2", r2(len(targets)), len(targets), r2(BUNDLED))


def _print(path: Path, score: str, held_out: float, count: int, bundled: float) -> None:
    print(
        f"{path.name}: {score} {held_out:.4f} on the {count} samples held out, {bundled:.4f} on the {BUNDLED} bundled"
    )


def _run(path: Path, feeds: Mapping[str, Array], output: str) -> Array:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run([output], dict(feeds))[0])
