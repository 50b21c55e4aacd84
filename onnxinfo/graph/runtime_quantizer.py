"""What ONNX Runtime's quantizer would round of a model, by asking it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from ..errors import ModelError
from ..text import printable
from . import protos
from .dataflow import Dataflow
from .protos import Node

# Initializers with more elements lose their values: they are weights, of which only type and shape matter.
_MAX_ELEMENTS = 1024
#: First version of ONNX's operators with QuantizeLinear and DequantizeLinear for float16.
HALF_OPSET = 19


class RuntimeQuantizer:
    """ONNX Runtime's ``quantize_static`` in QDQ format, as far as it marks the tensors to be rounded.

    Parameters
    ----------
    proto
        The model that would be quantized, as it is stored. It is not modified.
    """

    def __init__(self, proto: onnx.ModelProto) -> None:
        self._light = onnx.shape_inference.infer_shapes(_without_weights(proto))
        self._flow = Dataflow(self._light.graph)

    def own_grids(self, excluded: Sequence[str] = ()) -> frozenset[str]:
        """Return the graph inputs and computed tensors that are rounded to scales of their own.

        Others stay in float, or have the scale of another tensor: those of a ``Reshape`` or ``MaxPool``, for example,
        have that of its operand.

        Parameters
        ----------
        excluded
            Names of nodes that stay in float, ``nodes_to_exclude``.

        Raises
        ------
        ModelError
            The quantizer refuses the model.
        """
        own = frozenset(name for name, scale in self._scales(excluded).items() if scale is None)
        return own.difference(self._flow.initializers)

    def averages(self, excluded: Sequence[str] = ()) -> dict[str, str]:
        """Return the tensors whose values lie between those of their operand, but are rounded to its scale.

        These are outputs of ``AveragePool`` and of a ``Resize`` that interpolates. Other tensors at the scale of an
        operand, such as those of a ``Reshape`` or ``MaxPool``, have its values, which are rounded already.

        Returns
        -------
        dict of str to str
            By name, the tensor to whose own scale each is rounded.
        """
        scales = self._scales(excluded)
        found = {}
        for name, source in scales.items():
            if source is not None and _interpolates(self._flow.nodes[self._flow.producer[name]]):
                while (further := scales.get(source)) is not None:
                    source = further
                found[name] = source
        return found

    def _scales(self, excluded: Sequence[str]) -> Mapping[str, str | None]:
        """Tensors that are rounded, with those whose scales they have; None: one of their own."""
        try:
            return _marked(self._light, excluded)
        except Exception as error:  # Of any kind: the quantizer is not checked for models that it does not know.
            reason = printable(" ".join(str(error).split())[:200])
            raise ModelError(f"ONNX Runtime's quantizer refuses the model: {reason}") from error

    def half_probabilities(self, excluded: Sequence[str] = ()) -> list[str]:
        """Return the float16 outputs of ``Softmax`` that are rounded to scales of their own, from 0 to 1.

        The quantizer gives them scales in float32, with which ONNX Runtime cannot load the model.
        """
        found = self.own_grids(excluded)
        made = [node.output[0] for node in self._flow.nodes if node.op_type == "Softmax"]
        return [name for name in made if name in found and self.element_type(name) == "float16"]

    def nodes(self, tensor: str) -> list[Node]:
        """Return the nodes that compute or read a tensor."""
        flow = self._flow
        made = [flow.nodes[flow.producer[tensor]]] if tensor in flow.producer else []
        return [*made, *(flow.nodes[i] for i in flow.consumers.get(tensor, ()))]

    def element_type(self, tensor: str) -> str:
        """Return the element type of a tensor's values and scale, ``float32`` or ``float16``."""
        return "float16" if self._flow.element_type(tensor) == TensorProto.FLOAT16 else "float32"

    @property
    def unusable_opset(self) -> int:
        """Version of ONNX's operators, if it has none that round float16 values but the model has such; else 0."""
        version = next((o.version for o in self._light.opset_import if not o.domain), 1)
        halves = any(self._flow.element_type(name) == TensorProto.FLOAT16 for name in self._flow.producer)
        return version if halves and version < HALF_OPSET else 0


def _without_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    light = protos.copy_into(onnx.ModelProto(), proto, ("graph",))
    protos.copy_into(light.graph, proto.graph, ("initializer",))
    for tensor in proto.graph.initializer:
        if math.prod(tensor.dims) > _MAX_ELEMENTS:
            light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            light.graph.initializer.add().CopyFrom(tensor)
    return light


def _interpolates(node: Node) -> bool:
    """Whether a node that is rounded to the scale of its operand computes values between the operand's."""
    if node.op_type == "AveragePool":
        return True
    modes = [each.s for each in node.attribute if each.name == "mode"]
    return node.op_type == "Resize" and modes not in ([], [b"nearest"])


def _marked(model: onnx.ModelProto, excluded: Sequence[str]) -> Mapping[str, str | None]:
    """Names of the tensors that are rounded, weights included, with the tensor whose scale each has; None: its own."""
    # Imported here, because that takes long.
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.calibrate import TensorData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
    from onnxruntime.quantization.quant_utils import add_infer_metadata
    from onnxruntime.quantization.registry import CreateQDQQuantizer, QDQRegistry, QLinearOpsRegistry

    class Marking(QDQQuantizer):  # type: ignore[misc]  # Untyped.
        def _is_tensor_quantizable(self, tensor_name: str) -> bool:
            # As in the quantizer, which adds a line to the log of the process if a type is not known.
            return self._get_tensor_type(tensor_name) in (TensorProto.FLOAT, TensorProto.FLOAT16)

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # It would infer shapes by way of files otherwise.
    add_infer_metadata(copy)
    # Ranges do not matter for marks, but only tensors with ranges can be marked.
    values = (*copy.graph.value_info, *copy.graph.input, *copy.graph.output)
    ranges: dict[str, Any] = {v.name: TensorData(lowest=np.float32(0), highest=np.float32(1)) for v in values}
    types = [*{**QLinearOpsRegistry, **QDQRegistry}]
    unsigned, signed = QuantType.QUInt8, QuantType.QInt8
    quantizer = Marking(copy, False, False, signed, unsigned, ranges, [], [*excluded], types, {})
    for node in quantizer.model.nodes():
        if quantizer.should_quantize_node(node):
            CreateQDQQuantizer(quantizer, node).quantize()
    marks = quantizer.tensors_to_quantize
    return {name: mark.quant_para_provider.input_name if mark.is_shared else None for name, mark in marks.items()}
