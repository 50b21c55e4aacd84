"""Quantized versions of a float network, by ONNX Runtime's quantization tools."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from .common import Array

#: First opset in which DequantizeLinear supports 4-bit integers, and the corresponding file format version.
_OPSET, _IR_VERSION = 21, 10
_LARGEST_INT4 = 7
#: Operators with weights, and the position of that input.
_WEIGHT = {"Conv": 1, "Gemm": 1, "MatMul": 1}


class _Images(CalibrationDataReader):
    """Calibration data reader over preprocessed images."""

    def __init__(self, name: str, x: Array) -> None:
        self._feeds: Iterator[dict[str, Array]] = iter([{name: x[i : i + 1]} for i in range(len(x))])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def quantized(model: onnx.ModelProto, x: Array) -> dict[str, onnx.ModelProto]:
    """Return a float model in each quantization format, and with the effect of saturation alone, by name.

    Parameters
    ----------
    model
        A float model.
    x
        Preprocessed images (N, ...) that determine the ranges of activations.

    Returns
    -------
    dict
        ``float, input clipped``: the float model, its input clipped to the range of the int8 versions;
        ``int8 QDQ`` and ``int8 QOperator``: weights (per channel) and activations, with static ranges;
        ``int8 dynamic``: activations with their actual range; ``int4 weights``: only weights, per channel.
    """
    found = {}
    name = model.graph.input[0].name
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "quantised.onnx"
        onnx.save(without_types(model), source)
        for format in (QuantFormat.QDQ, QuantFormat.QOperator):
            options = {"quant_format": format, "per_channel": True, "weight_type": QuantType.QInt8}
            quantize_static(source, target, _Images(name, x), **options)
            found[f"int8 {format.name}"] = onnx.load(target)
        # ConvInteger of ONNX Runtime supports only uint8 weights.
        quantize_dynamic(source, target, weight_type=QuantType.QUInt8)
        found["int8 dynamic"] = onnx.load(target)
    found["int4 weights"] = with_int4_weights(model)
    return {"float, input clipped": with_clipped_input(model, found["int8 QDQ"]), **found}


def with_clipped_input(model: onnx.ModelProto, version: onnx.ModelProto) -> onnx.ModelProto:
    """Return a float model whose input is clipped to the range of a QDQ version of it."""
    name = model.graph.input[0].name
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in version.graph.initializer}
    first = next(node for node in version.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name)
    scale, zero_point = (constants[each] for each in first.input[1:3])
    limits = np.iinfo(zero_point.dtype)
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    clipped, ends = f"{name}_clipped", (f"{name}_low", f"{name}_high")
    for node in changed.graph.node:
        node.input[:] = [clipped if each == name else each for each in node.input]
    for end, limit in zip(ends, (limits.min, limits.max), strict=True):
        value = np.array((limit - int(zero_point)) * scale, dtype=np.float32)
        changed.graph.initializer.append(numpy_helper.from_array(value, end))
    changed.graph.node.insert(0, helper.make_node("Clip", [name, *ends], [clipped], name=clipped))
    return changed


def without_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without the shapes of its inner tensors: the tools transpose weights, and fail on these shapes."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.value_info[:]
    return changed


def with_int4_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose weights are 4-bit integers, with one scale per output channel."""
    version = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    proto = version_converter.convert_version(model, _OPSET) if version < _OPSET else model
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    changed.ir_version = max(changed.ir_version, _IR_VERSION)
    graph = changed.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    added = []
    for node in graph.node:
        name = node.input[_WEIGHT[node.op_type]] if node.op_type in _WEIGHT else ""
        if name not in weights:
            continue
        transposed = any(each.name == "transB" and each.i for each in node.attribute)
        axis = 0 if node.op_type == "Conv" or transposed else 1
        added.append(_in_int4(graph, weights.pop(name), axis))
    # Nodes that depend only on constants precede those that use them.
    nodes = [*added, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return changed


def _in_int4(graph: onnx.GraphProto, weight: onnx.TensorProto, axis: int) -> onnx.NodeProto:
    """Replace an initializer by integers and scales; return the node that dequantizes them."""
    values = numpy_helper.to_array(weight)
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.maximum(abs(values).max(others, keepdims=True) / _LARGEST_INT4, np.finfo(np.float32).tiny)
    integers = np.rint(values / scale).astype(np.int8).astype(ml_dtypes.int4)
    graph.initializer.remove(weight)
    names = f"{weight.name}_int4", f"{weight.name}_scale"
    graph.initializer.append(numpy_helper.from_array(integers, names[0]))
    graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32).ravel(), names[1]))
    return helper.make_node("DequantizeLinear", names, [weight.name], name=f"dequantise_{weight.name}", axis=axis)
