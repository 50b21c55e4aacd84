"""Export a Keras model through tf2onnx."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from ..errors import UsageError
from . import protos
from .exported import Array, Exported, failure, needed

OPSET = 17
#: Samples of the example, and size of axes that a model leaves open, where none is given.
_BATCH, _SIZE = 2, 32


def export_keras(model: Any, example: Any) -> Exported:
    """Export a Keras model in inference mode.

    Parameters
    ----------
    model
        The model.
    example
        Its input, an array or a list of arrays with the samples along the first axis; necessary only for a model that
        is not built. None: generated.

    Raises
    ------
    UsageError
        The model is not built and there is no example, its backend is not TensorFlow, or tf2onnx is not installed.
    ModelError
        The model does not accept the example, or cannot be exported.
    """
    name = type(model).__name__ if model.name is None else str(model.name)
    tensorflow = needed("tensorflow", "Keras models")
    converter = needed("tf2onnx", "Keras models")
    given = None if example is None else [np.asarray(each) for each in _several(example)]
    if given is not None:
        with _one_line(f"{name} does not accept the example", "give an example of the shape that it takes"):
            model(_fed(given))
    tensors = _inputs(model, name)
    signature = [
        tensorflow.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=_identifier(tensor.name))
        for tensor in tensors
    ]

    def compute(*inputs: Any) -> dict[str, Any]:
        return _named(tensorflow, model(_fed(inputs), training=False))

    outputs = tensorflow.function(compute, input_signature=signature)

    kinds = [np.dtype(spec.dtype.as_numpy_dtype) for spec in signature]
    values = given or [_generated(tensor.shape, kind) for tensor, kind in zip(tensors, kinds, strict=True)]
    feeds = {spec.name: each.astype(kind) for spec, each, kind in zip(signature, values, kinds, strict=True)}
    with _quietly(), _one_line(f"tf2onnx cannot export {name}", "export it yourself and give the ONNX file"):
        found = outputs(*map(tensorflow.convert_to_tensor, feeds.values()))
        proto, _ = converter.convert.from_function(outputs, input_signature=signature, opset=OPSET)
    expected = {key: np.asarray(value) for key, value in found.items()}
    how = f"keras {_version()}, tensorflow {tensorflow.__version__}, tf2onnx {converter.__version__}, opset {OPSET}"
    return Exported(
        _anonymous(proto),
        name,
        how,
        {value.name: feeds[value.name] for value in proto.graph.input},
        [expected.get(value.name) for value in proto.graph.output],
    )


#: A number that tf2onnx appends to names, counting over all exports of the process.
_NUMBER = re.compile(r"__\d+(?=(:\d+)?$)")


def _anonymous(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Number names anew, as they differ from export to export and would change the model's digest."""
    graph = proto.graph
    graph.doc_string = ""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param.startswith("unk__"):
                size.ClearField("dim_param")
    if any(next(protos.bodies(node), None) is not None for node in graph.node):
        return proto  # the bodies of loops see outer names
    constants = {tensor.name for tensor in graph.initializer}
    kept = {value.name for value in (*graph.input, *graph.output)}
    names: dict[str, str] = {}
    for node in graph.node:
        for name in (node.name, *node.input, *node.output):
            if _NUMBER.search(name) and name not in kept and name not in names:
                # Equal constants are merged under the name of any of them.
                start = "const" if name in constants else _NUMBER.sub("", name)
                names[name] = f"{start}__{len(names) + 1}"
    for node in graph.node:
        node.name = names.get(node.name, node.name)
        for field in (node.input, node.output):
            field[:] = [names.get(name, name) for name in field]
    for each in (*graph.initializer, *graph.value_info):
        each.name = names.get(each.name, each.name)
    for stored in (graph.initializer, graph.value_info):
        stored.sort(key=lambda each: each.name)
    return proto


def _several(example: Any) -> list[Any]:
    if isinstance(example, Mapping):
        return list(example.values())
    return list(example) if isinstance(example, tuple | list) and hasattr(example[0], "shape") else [example]


def _fed(inputs: Any) -> Any:
    return inputs[0] if len(inputs) == 1 else list(inputs)


def _inputs(model: Any, name: str) -> list[Any]:
    """Return the symbolic inputs of a model."""
    try:
        found = list(model.inputs or [])
    except (AttributeError, ValueError):
        found = []
    if not found:
        raise UsageError(
            f"the Keras model {name} has no input shape yet: give the argument 'example', an array with the samples "
            "along the first axis, or begin the model with keras.Input"
        )
    if not hasattr(found[0], "shape"):
        raise UsageError(f"the Keras model {name} has inputs of an unknown kind; export it and give the ONNX file")
    return found


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() or c == "_" else "_" for c in name.split(":")[0])


def _named(tensorflow: Any, found: Any) -> dict[str, Any]:
    """Return outputs by name; a single one is ``output``."""
    if isinstance(found, Mapping):
        return {_identifier(str(key)): value for key, value in found.items()}
    flat = tensorflow.nest.flatten(found)
    return {"output": flat[0]} if len(flat) == 1 else {f"output_{at}": each for at, each in enumerate(flat)}


def _generated(shape: Sequence[int | None], kind: np.dtype[Any]) -> Array:
    sizes = [_BATCH, *(size or _SIZE for size in shape[1:])]
    found: Array = np.zeros(sizes, kind)
    return np.random.default_rng(0).standard_normal(sizes).astype(kind) if kind.kind == "f" else found


def _version() -> str:
    return str(needed("keras", "Keras models").__version__)


@contextlib.contextmanager
def _one_line(what: str, remedy: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise failure(what, error, remedy) from None


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
