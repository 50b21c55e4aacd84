"""Lower a model's versions to those that ONNX Runtime supports, if that does not change its meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache

import onnx
from onnx import TensorProto, helper

from . import protos
from .engine import Engine

# Versions of the file format that only added element types, with those types: a model without them is equivalent in
# the previous version.
_TYPES_ONLY = {14: {TensorProto.FLOAT6E2M3, TensorProto.FLOAT6E3M2}}


@cache
def newest_format() -> int:
    """Newest version of the file format that ONNX Runtime reads."""
    return _newest(onnx.IR_VERSION, lambda version: _identity(8, version))


@cache
def newest_opset() -> int:
    """Newest version of ONNX's standard operators that ONNX Runtime supports."""
    return _newest(onnx.defs.onnx_opset_version(), lambda version: _identity(version, 8))


def lower(model: onnx.ModelProto) -> None:
    """Lower the versions of a model that is too new for ONNX Runtime, if it uses no newer feature.

    An opset contains the operators of the previous one, except for those that it changes; so a model whose operators
    are all defined in an older opset is equivalent under the older number.

    Parameters
    ----------
    model
        The model; modified in place.
    """
    if model.ir_version > newest_format() and not _needs(model, range(newest_format() + 1, model.ir_version + 1)):
        model.ir_version = newest_format()
    newest = newest_opset()
    for owner in (model, *model.functions):
        opset = next((opset for opset in owner.opset_import if not opset.domain), None)
        if opset is not None and opset.version > newest and _since(owner, opset.version) <= newest:
            opset.version = newest


def is_too_new(model: onnx.ModelProto) -> bool:
    """Whether a model has versions that ONNX Runtime does not support."""
    imports = (opset for owner in (model, *model.functions) for opset in owner.opset_import)
    return model.ir_version > newest_format() or any(o.version > newest_opset() for o in imports if not o.domain)


def nodes_with_opset(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, dict[str, int]]]:
    """Nodes of the graph, of bodies and of functions, each with the applicable operator versions by domain."""
    for owner in (model, *model.functions):
        opsets = {opset.domain: opset.version for opset in owner.opset_import}
        nodes = owner.graph.node if isinstance(owner, onnx.ModelProto) else owner.node
        yield from ((node, opsets) for node in protos.nested(nodes))


def _needs(model: onnx.ModelProto, versions: range) -> bool:
    """Whether a model may need features that some versions of the format added."""
    if not all(version in _TYPES_ONLY for version in versions):
        return True
    added = set().union(*(_TYPES_ONLY[version] for version in versions))
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info)
    types = {t.elem_type for value in values for t in protos.tensor_types(value.type)}
    attributes = {a.i for node, _ in nodes_with_opset(model) for a in node.attribute if a.name in ("to", "dtype")}
    return not added.isdisjoint(types | attributes | {tensor.data_type for tensor in protos.tensors(model)})


def _since(owner: onnx.ModelProto | onnx.FunctionProto, opset: int) -> int:
    """Oldest opset in which all standard operators of a model or function are defined as in the given one."""
    nodes = owner.graph.node if isinstance(owner, onnx.ModelProto) else owner.node
    used = {node.op_type for node in protos.nested(nodes) if not node.domain}
    return max((onnx.defs.get_schema(name, opset, "").since_version for name in used), default=1)


def _newest(last: int, build: Callable[[int], onnx.ModelProto]) -> int:
    """Newest version up to ``last`` of which ONNX Runtime loads a model; it offers no way to query this."""
    for version in range(last, 8, -1):
        try:
            Engine(build(version), threads=1)
        except Exception:
            continue
        return version
    return 8


def _identity(opset: int, ir_version: int) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", ends[:1], ends[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
