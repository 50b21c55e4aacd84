"""What the training scripts share: the data sets, and how a trained network becomes a bundled file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx

HERE = Path(__file__).resolve().parent
SEED = 0
#: Held-out samples of a data set that are bundled.
BUNDLED = 50

Array = npt.NDArray[Any]


class Split(NamedTuple):
    """A data set cut in two, samples first."""

    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array


def split(x: Array, y: Array) -> Split:
    """Hold out 30 % of the samples, every class in proportion, the same ones in each script."""
    from sklearn.model_selection import train_test_split

    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.3, stratify=y, random_state=SEED)
    return Split(x_train, y_train, x_test, y_test)


def digits() -> Split:
    """Return scikit-learn's handwritten digits as (N, 8, 8) uint8 from 0 (paper) to 255 (ink), labels int64."""
    from sklearn.datasets import load_digits

    data = load_digits()
    return split(np.rint(data.images * (255 / 16)).astype(np.uint8), data.target.astype(np.int64))


def save_samples(name: str, **arrays: Array) -> None:
    """Bundle the first held-out samples of a data set, arrays having samples first."""
    bundled: dict[str, Any] = {key: array[:BUNDLED] for key, array in arrays.items()}
    np.savez_compressed(HERE / name, **bundled)


def save_model(model: onnx.ModelProto, name: str) -> Path:
    """Bundle a model without what its exporter noted about the machine, once the checker accepts it.

    Parameters
    ----------
    model
        Changed in place.
    name
        File name.

    Returns
    -------
    Path
        The file written.
    """
    model.doc_string = ""
    del model.metadata_props[:]
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
        del message.metadata_props[:]


def report(path: Path, feeds: dict[str, Array], labels: Array) -> None:
    """Print a classifier's accuracy under ONNX Runtime, on all held-out samples and on those bundled."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    hits = session.run(None, feeds)[0].argmax(axis=-1) == labels
    bundled = hits[:BUNDLED]
    print(f"{path.name}: {hits.mean():.4f} of {len(hits)} held-out samples, {bundled.sum()} of {len(bundled)} bundled")
